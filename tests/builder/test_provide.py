"""Where bases and sources come from."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from builder import BuildRequest
from builder.context import ContextTree
from builder.errors import ContextError, UnknownStageError
from builder.plan import plan
from builder.provide import Provider
from builder.sources import SourceTree
from builder.state import StageState
from layerstore import (
    Export,
    Image,
    MalformedDocumentError,
    NotFoundError,
    Reference,
    Store,
    TreePath,
    host_platform,
    save_images,
)
from tests.support.images import dockerfile, make_image
from tests.support.servers import Page, Repository, make_tar, serve, serve_git
from tests.support.sources import File, write_files

TWO_STAGES = "FROM scratch AS first\nFROM scratch AS second\n"


class Asked:
    """A provider, asked as the last stage of `text` asks it."""

    def __init__(self, store: Store, cleanup: ExitStack, text: str, **request: Any) -> None:
        parsed = dockerfile(text)
        self.stage = plan(parsed, target="", build_args={}, platform=host_platform()).stages[-1]
        self.finished: list[int] = []
        self.provider = Provider(
            BuildRequest(dockerfile=parsed, **{"context": None, **request}),
            store,
            cleanup,
            self._finish,
        )

    def _finish(self, index: int) -> StageState:
        self.finished.append(index)
        return StageState()

    def tree(self, name: str | None) -> SourceTree:
        return self.provider.tree(name, self.stage)


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def names(tree: SourceTree) -> list[str]:
    return tree.children(TreePath(""))


def test_the_context_is_the_source_without_a_name(
    store: Store, cleanup: ExitStack, tmp_path: Path
) -> None:
    context = write_files(tmp_path / "c", {"a": b"", "b": b""})
    asked = Asked(store, cleanup, TWO_STAGES, context=context, ignore_file=b"b\n")
    assert names(asked.tree(None)) == ["a"]
    assert asked.tree(None) is asked.tree(None)


def test_without_a_context_its_absence_is_an_error_when_it_is_asked_for(
    store: Store, cleanup: ExitStack
) -> None:
    asked = Asked(store, cleanup, TWO_STAGES)
    with pytest.raises(ContextError, match="no build context"):
        asked.tree(None)


def test_a_bad_pattern_is_an_error_of_the_ignore_file(
    store: Store, cleanup: ExitStack, tmp_path: Path
) -> None:
    asked = Asked(store, cleanup, TWO_STAGES, context=tmp_path, ignore_file=b"[\n")
    with pytest.raises(ContextError, match=r"\.dockerignore"):
        asked.tree(None)


@pytest.mark.parametrize("name", ["first", "FIRST", "0"])
def test_a_stage_above_is_found_by_name_and_number(
    store: Store, cleanup: ExitStack, name: str
) -> None:
    asked = Asked(store, cleanup, TWO_STAGES)
    assert asked.tree(name).description == f"the stage {name!r}"
    assert asked.finished == [0]


def test_a_number_is_never_an_image(store: Store, cleanup: ExitStack) -> None:
    make_image(store, "7", {"a": b""})
    with pytest.raises(UnknownStageError, match="'7'"):
        Asked(store, cleanup, TWO_STAGES).tree("7")


def test_another_name_is_an_image(store: Store, cleanup: ExitStack) -> None:
    make_image(store, "base", {"from-image": File(content=b"x")})
    asked = Asked(store, cleanup, TWO_STAGES)
    assert names(asked.tree("base")) == ["from-image"]
    assert asked.provider.image("base", asked.stage).manifest.layers


def test_an_unknown_name_is_an_error_with_the_nearest_stage(
    store: Store, cleanup: ExitStack
) -> None:
    asked = Asked(store, cleanup, TWO_STAGES)
    with pytest.raises(UnknownStageError) as caught:
        asked.tree("frist")
    assert caught.value.nearest == "first"
    with pytest.raises(NotFoundError):
        asked.tree("something-else-entirely")


def test_digests_of_the_context_are_remembered_for_the_next_build(
    store: Store, cleanup: ExitStack, tmp_path: Path
) -> None:
    context = write_files(tmp_path / "c", {"a": File(content=b"x")})
    time.sleep(0.03)  # old enough to be remembered
    read = []
    for _ in range(2):
        asked = Asked(store, cleanup, TWO_STAGES, context=context)
        tree = asked.tree(None)
        assert isinstance(tree, ContextTree)
        entry = tree.get(TreePath("a"))
        assert entry is not None
        tree.digest(entry)
        read.append(tree.files_read)
        asked.provider.remember()
    assert read == [1, 0]


# Named contexts.


def test_a_directory_is_a_context_with_its_own_ignore_file(
    store: Store, cleanup: ExitStack, tmp_path: Path
) -> None:
    named = write_files(tmp_path / "n", {"a": b"", "b": b"", ".dockerignore": b"b\n"})
    asked = Asked(store, cleanup, TWO_STAGES, contexts={"Other": str(named)})
    assert names(asked.tree("other")) == [".dockerignore", "a"]
    assert asked.tree("other").description == "the build context 'other'"


def test_a_context_comes_before_stages_and_images(
    store: Store, cleanup: ExitStack, tmp_path: Path
) -> None:
    make_image(store, "busybox", {"image": b""})
    named = str(write_files(tmp_path / "n", {"named": b""}))
    contexts = {"first": named, "docker.io/library/busybox:latest": named}
    asked = Asked(store, cleanup, TWO_STAGES, contexts=contexts)
    assert names(asked.tree("first")) == names(asked.tree("busybox")) == ["named"]
    assert asked.finished == []


def test_an_image_of_the_store_is_a_context(store: Store, cleanup: ExitStack) -> None:
    image = make_image(store, "base:1", {"from-image": b""})
    asked = Asked(store, cleanup, TWO_STAGES, contexts={"x": "docker-image://base:1"})
    assert names(asked.tree("x")) == ["from-image"]
    found = asked.provider.context("x", host_platform())
    assert isinstance(found, Image)
    assert found.id == image.id


def test_the_layers_of_all_images_that_were_asked_for_are_known(
    store: Store, cleanup: ExitStack
) -> None:
    one = make_image(store, "one", {"a": b"1"})
    two = make_image(store, "two", {"a": b"1"}, {"b": b"2"})
    make_image(store, "three", {"c": b"3"})
    asked = Asked(store, cleanup, "FROM one\n", contexts={"it": "docker-image://two"})
    assert asked.provider.foreign_layers() == ()
    asked.provider.image("one", asked.stage)
    assert asked.provider.foreign_layers() == one.layers
    asked.tree("it")
    assert asked.provider.foreign_layers() == two.layers, "each once"


def test_scratch_is_an_empty_context(store: Store, cleanup: ExitStack) -> None:
    asked = Asked(store, cleanup, TWO_STAGES, contexts={"x": "docker-image://scratch"})
    assert names(asked.tree("x")) == []
    assert asked.provider.context("x", host_platform()) is None


@pytest.mark.parametrize("which", ["", ":1", "@"])
def test_an_oci_layout_is_a_context(
    store: Store, cleanup: ExitStack, tmp_path: Path, which: str
) -> None:
    with Store.open(tmp_path / "other") as other:
        image = make_image(other, "base:1", {"from-layout": b""})
        export = Export(image=image, names=(Reference.parse("base:1"),))
        save_images(other, [export], tmp_path / "layout", format="oci-dir")
    which += image.descriptor.digest if which == "@" else ""
    contexts = {"x": f"oci-layout://{tmp_path / 'layout'}{which}"}
    asked = Asked(store, cleanup, TWO_STAGES, contexts=contexts)
    assert names(asked.tree("x")) == ["from-layout"]
    assert store.images.entries() == []  # nobody asked for a name


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        ("/nowhere", ContextError, "does not exist"),
        ("/etc/passwd", ContextError, "is not a directory"),
        ("target:x", ContextError, "does not exist"),
        ("s3://bucket", ContextError, "unsupported context source s3"),
        ("oci-layout:///nowhere:1", ContextError, "'/nowhere' is not a directory"),
        ("oci-layout:///etc", MalformedDocumentError, "not an OCI image layout"),
        ("docker-image://nosuch", NotFoundError, "nosuch"),
    ],
)
def test_a_context_that_is_not_there_is_an_error(
    store: Store, cleanup: ExitStack, value: str, error: type[Exception], said: str
) -> None:
    asked = Asked(store, cleanup, TWO_STAGES, contexts={"x": value})
    with pytest.raises(error, match=said):
        asked.tree("x")


def test_an_archive_behind_a_url_is_unpacked_and_a_file_is_called_context(
    store: Store, cleanup: ExitStack
) -> None:
    with serve({"/a.tar": Page(make_tar({"member": b"m"})), "/f": Page(b"plain")}) as server:
        contexts = {"tar": f"{server.url}/a.tar", "file": f"{server.url}/f"}
        asked = Asked(store, cleanup, TWO_STAGES, contexts=contexts)
        assert names(asked.tree("tar")) == ["member"]
        assert names(asked.tree("file")) == ["context"]
        assert asked.tree("tar") is asked.tree("tar")


@pytest.mark.needs_git
def test_a_repository_is_a_context(store: Store, cleanup: ExitStack, tmp_path: Path) -> None:
    repository = Repository.make(tmp_path / "served/x.git")
    repository.commit(write_files(tmp_path / "work", {"d/f": b"f"}))
    with serve_git(tmp_path / "served") as address:
        asked = Asked(store, cleanup, TWO_STAGES, contexts={"x": f"{address}/x.git#main:d"})
        assert names(asked.tree("x")) == ["f"]
