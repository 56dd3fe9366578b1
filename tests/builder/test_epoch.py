"""What SOURCE_DATE_EPOCH may be."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from builder import BuildRequest
from builder.epoch import NAME, written_epoch
from builder.errors import BuilderError, PlanError
from builder.plan import plan
from builder.provide import Provider
from builder.sources import SourceTree
from builder.state import StageState
from layerstore import Store, host_platform
from tests.support.commands import Commands
from tests.support.images import dockerfile
from tests.support.servers import Page, Repository, make_tar, serve, serve_git
from tests.support.sources import DictTree, File, write_files

ARG = "ARG SOURCE_DATE_EPOCH="


def epoch_of(
    store: Store,
    text: str,
    build_args: Mapping[str, str] | None = None,
    *,
    context: Path | SourceTree | None = None,
    contexts: Mapping[str, str] | None = None,
) -> int | None:
    parsed = dockerfile(text)
    request = BuildRequest(dockerfile=parsed, context=context, contexts=contexts or {})
    with ExitStack() as cleanup:
        provider = Provider(request, store, cleanup, lambda _: StageState())
        made = plan(
            parsed,
            target="",
            build_args=build_args or {},
            platform=host_platform(),
            contexts=provider.context_names,
        )
        return written_epoch(
            made, build_args or {}, escape="\\", context=context, provider=provider
        )


@pytest.mark.parametrize(
    ("text", "build_args", "expected"),
    [
        ("FROM scratch\n", {}, None),
        ("ARG SOURCE_DATE_EPOCH\nFROM scratch\n", {}, None),
        (f"{ARG}5\nFROM scratch\n", {}, 5),
        (f"{ARG}5\nFROM scratch\n", {"SOURCE_DATE_EPOCH": "7"}, 7),
        ("FROM scratch\n", {"SOURCE_DATE_EPOCH": "7"}, 7),
        (f"{ARG}\nFROM scratch\n", {"SOURCE_DATE_EPOCH": ""}, None),
    ],
)
def test_a_number_is_seconds(
    store: Store, text: str, build_args: dict[str, str], expected: int | None
) -> None:
    assert epoch_of(store, text, build_args) == expected


@pytest.mark.parametrize("value", ["-1", "1.5", "now", "٣", "9" * 13])
def test_what_is_neither_a_number_nor_a_source_is_an_error(store: Store, value: str) -> None:
    with pytest.raises(PlanError, match=f"invalid SOURCE_DATE_EPOCH: {value}"):
        epoch_of(store, "FROM scratch\n", {"SOURCE_DATE_EPOCH": value})


def test_the_context_has_the_time_of_its_newest_file_unless_it_is_a_directory(
    store: Store, tmp_path: Path
) -> None:
    tree = DictTree({"a": File(mtime_s=5), "d/b": File(mtime_s=9), "c": File(mtime_s=7)})
    text = f"{ARG}context\nFROM scratch\n"
    assert epoch_of(store, text, context=tree) == 9
    assert epoch_of(store, text, context=DictTree({})) is None
    assert epoch_of(store, text, context=tmp_path) is None
    assert epoch_of(store, text) is None


def test_a_stage_that_adds_one_file_has_its_time(store: Store) -> None:
    stage = "FROM scratch AS Source\nARG NAME=a.tar\nADD {}/$NAME /\nFROM scratch\n"
    pages = {"/a.tar": Page(make_tar({"f": b""}, mtime_s=11)), "/b": Page(b"")}
    with serve(pages) as server:
        text = f"{ARG}source\n" + stage.format(server.url)
        assert epoch_of(store, text) == 11
        assert epoch_of(store, text, {"NAME": "b"}) is None
        assert epoch_of(store, text, {"SOURCE_DATE_EPOCH": "3"}) == 3


@pytest.mark.needs_git
def test_a_stage_or_context_of_a_repository_has_the_commit_s_time(
    store: Store, tmp_path: Path
) -> None:
    repository = Repository.make(tmp_path / "served/x.git")
    repository.commit(write_files(tmp_path / "work", {"a": b""}))
    with serve_git(tmp_path / "served") as address:
        text = f"{ARG}s\nFROM scratch AS s\nADD {address}/x.git#main /\nFROM scratch\n"
        assert epoch_of(store, text) == 1_600_000_000
        text = f"{ARG}named\nFROM scratch\n"
        contexts = {"named": f"{address}/x.git"}
        assert epoch_of(store, text, contexts=contexts) == 1_600_000_000
        assert epoch_of(store, text, contexts={"named": str(tmp_path)}) is None


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("FROM busybox AS s\nADD http://h/f /\n", "must use FROM scratch"),
        ("FROM scratch AS s\n", "exactly one remote ADD"),
        ("FROM scratch AS s\nADD http://h/a /\nADD http://h/b /\n", "exactly one remote ADD"),
        ("FROM scratch AS s\nADD a /\n", "a single HTTP"),
        ("FROM scratch AS s\nADD http://h/a http://h/b /\n", "a single HTTP"),
        ("FROM scratch AS s\nADD http://h/a /\nRUN x\n", "unsupported RUN instruction"),
    ],
)
def test_other_stages_have_no_time_and_the_error_shows_where(
    store: Store, stage: str, said: str
) -> None:
    with pytest.raises(BuilderError, match=said) as caught:
        epoch_of(store, f"{ARG}s\n{stage}FROM scratch\n")
    assert caught.value.span is not None
    assert caught.value.span.start_line == 2


# The environment of the command: as good as a build argument, and one that is given stands over it.


def created(bare: Commands, context: Path, *options: str) -> str:
    bare("build", "-q", "-t", "it", *options, context)
    return bare("inspect", "it", "--format", "{{.Created}}").out.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path / "folder", {"Dockerfile": b"FROM scratch\nCOPY Dockerfile /\n"})


def test_a_build_argument_stands_over_the_environment(
    bare: Commands, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "5")
    assert created(bare, folder) == "1970-01-01T00:00:05Z"
    assert created(bare, folder, "--build-arg", f"{NAME}=9") == "1970-01-01T00:00:09Z"


def test_the_environment_may_say_context(
    bare: Commands, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "context")
    assert not created(bare, folder).startswith("1970")  # a directory has no time of its own
    assert created(bare, folder, "--build-arg", f"{NAME}=9") == "1970-01-01T00:00:09Z"


@pytest.mark.parametrize("value", ["never", "-1", "1.5", " 5", "²", "9" * 14])
def test_what_the_environment_says_is_checked(
    bare: Commands, folder: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    failed = bare("build", "-q", folder, code=1)
    assert failed.err == f"lamina: invalid SOURCE_DATE_EPOCH: {value} (seconds since 1970)\n"
