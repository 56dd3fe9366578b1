"""Whole builds: the invariants of builder/engine.py, acted out by a fake executor."""

import io
import os
import random
import tarfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder import BuildRequest, build, record
from builder.context import ContextTree
from builder.errors import (
    BuilderError,
    CheckFailedError,
    ChecksumError,
    ContextError,
    FetchError,
    LoweringError,
    PlanError,
    SecretLeakError,
    SourceNotFoundError,
    StageOrderError,
    StepFailedError,
    UnknownStageError,
    UnknownTargetError,
    UnsupportedFeatureError,
)
from builder.events import (
    CheckWarning,
    Event,
    ImageSealed,
    VertexCached,
    VertexDone,
    VertexOutput,
    VertexStarted,
)
from builder.platforms import name_of
from builder.sandbox import ForkServer, ProgramNotFoundError
from builder.tartree import TarTree
from grammar import DockerfileError, parse
from layerstore import (
    Descriptor,
    Digest,
    Index,
    NotFoundError,
    Platform,
    Reference,
    Store,
    StoreError,
    host_platform,
)
from tests.support.executors import FakeExecutor, no_executor
from tests.support.images import EPOCH, dockerfile, make_image, rebuilt, run_build
from tests.support.rootfs import BUSYBOX, GROUP, PASSWD, no_busybox
from tests.support.servers import Page, Repository, make_tar, serve, serve_git
from tests.support.sources import DictTree, Dir, Fifo, File, Hard, Items, Link, Socket, write_files
from tests.support.stores import findings, flip
from tests.support.traces import open_descriptors


@pytest.fixture
def context(tmp_path: Path) -> Path:
    root = write_files(
        tmp_path / "context",
        {"a.txt": b"a", "d/f": b"f", "d/g": File(content=b"g", mode=0o755), "other": b"o"},
    )
    time.sleep(0.03)  # old enough for their digests to be remembered
    return root


@pytest.fixture
def fake() -> FakeExecutor:
    return FakeExecutor()


# What comes out.


def test_a_build_makes_an_image_with_layers_config_and_history(
    store: Store, fake: FakeExecutor
) -> None:
    text = 'FROM scratch\nENV A=1\nRUN echo hi > /a\nWORKDIR /w\nUSER me\nCMD ["/a"]\n'
    built = run_build(store, text.replace("USER me\n", ""), executor=fake, tag="hello:1")
    assert built.read("a") == b"hi\n"
    assert sorted(built.tree) == ["a", "w"]
    assert built.config.env[-1] == "A=1"
    assert (built.config.working_dir, built.config.cmd) == ("/w", ("/a",))
    assert [(h.created_by, h.empty_layer) for h in built.image.config.history] == [
        ("ENV A=1", True),
        ("RUN /bin/sh -c echo hi > /a", False),
        ("WORKDIR /w", False),
        ('CMD ["/a"]', True),
    ]
    assert len(built.image.layers) == 2
    assert store.images.resolve("hello:1").descriptor == built.image.descriptor


def test_from_scratch_alone_is_an_image_without_layers(store: Store) -> None:
    built = run_build(store, "FROM scratch\nLABEL a=1\n", executor=no_executor)
    assert built.image.layers == ()
    assert built.config.labels == (("a", "1"),)
    assert built.config.env == (
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    )
    assert built.config.working_dir == "/"


def test_files_of_the_context_are_copied(store: Store, context: Path) -> None:
    built = run_build(store, "FROM scratch\nCOPY . /app/\n", context=context, executor=no_executor)
    assert sorted(built.tree) == ["app", "app/a.txt", "app/d", "app/d/f", "app/d/g", "app/other"]
    assert built.read("app/d/g") == b"g"
    assert built.tree["app/d/g"].meta.mode == 0o755
    assert {(entry.meta.uid, entry.meta.gid) for entry in built.tree.values()} == {(0, 0)}


def test_every_step_sees_what_the_steps_above_did(store: Store, context: Path) -> None:
    text = "FROM scratch\nCOPY a.txt /a\nRUN echo b >> /a\nRUN cat /a > /c; rm /a\n"
    built = run_build(store, text, context=context, executor=FakeExecutor())
    assert built.read("c") == b"ab\n"
    assert "a" not in built.tree


def test_names_labels_and_the_untagged(store: Store) -> None:
    text = "FROM scratch\nLABEL a=1 b=1\n"
    built = run_build(store, text, executor=no_executor, labels={"b": "2", "c": "3"})
    assert built.config.labels == (("a", "1"), ("b", "2"), ("c", "3"))
    assert [each.names for each in store.images.list()] == [()]
    run_build(store, text, executor=no_executor, tag="x:1", labels={"b": "2", "c": "3"})
    assert [each.names for each in store.images.list()] == [("x:1",)]


def test_a_base_without_a_history_gets_an_entry_for_each_layer(
    store: Store, fake: FakeExecutor
) -> None:
    image = make_image(store, "base", {"a": b"1"}, {"b": b"2"})
    bare = store.images.seal(replace(image.config, history=()), image.layers)
    store.images.tag(bare, Reference.parse("base"))
    built = run_build(store, "FROM base\nRUN touch /c\n", executor=fake)
    made = [(entry.created_by, entry.empty_layer) for entry in built.image.config.history]
    assert made == [("", False), ("", False), ("RUN /bin/sh -c touch /c", False)]


def test_an_image_is_durable_when_the_build_returns(tmp_path: Path, fake: FakeExecutor) -> None:
    store = Store.open(tmp_path / "store")
    built = run_build(store, "FROM scratch\nRUN touch /a\n", executor=fake, tag="x:1")
    store.close()  # without a flush
    with Store.open(tmp_path / "store") as again:
        assert again.images.resolve("x:1").id == built.image.id
        assert findings(again) == []


# Invariant 1: the same again executes nothing and gives the same image.


FULL = """FROM scratch AS build
ARG VERSION=1
RUN echo $VERSION > /version
COPY d /src/
WORKDIR /src
RUN cat /version > /out
FROM scratch
COPY --from=build /out /src/ /app/
ADD a.txt /app/
COPY <<EOF /app/doc
here
EOF
ENTRYPOINT ["/app/out"]
"""


def test_second_build_is_all_hits(store: Store, context: Path, fake: FakeExecutor) -> None:
    first = run_build(store, FULL, context=context, executor=fake)
    second = run_build(store, FULL, context=context, executor=no_executor)
    assert set(first.outcomes) == {"executed"}
    assert set(second.outcomes) == {"cached"}
    assert second.digest == first.digest
    assert second.image.id == first.image.id


def test_a_cached_build_reads_no_file_of_the_context(
    store: Store, context: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees: list[ContextTree] = []

    class Counted(ContextTree):
        def close(self) -> None:
            trees.append(self)
            super().close()

    monkeypatch.setattr("builder.provide.ContextTree", Counted)
    text = "FROM scratch\nCOPY . /app/\n"
    run_build(store, text, context=context, executor=no_executor)
    run_build(store, text, context=context, executor=no_executor)
    run_build(store, text + "COPY d /d\n", context=context, executor=no_executor)
    assert [tree.files_read for tree in trees] == [4, 0, 0]


def test_a_cached_build_hits_in_another_process_too(
    tmp_path: Path, context: Path, fake: FakeExecutor
) -> None:
    digests = []
    for executor in (fake, no_executor):
        with Store.open(tmp_path / "store") as store:
            digests.append(run_build(store, FULL, context=context, executor=executor).digest)
    assert digests[0] == digests[1]


def test_a_cached_build_needs_no_snapshot_of_its_layers(
    store: Store, context: Path, fake: FakeExecutor
) -> None:
    run_build(store, FULL, context=context, executor=fake)
    for layer in store.layers.all():
        snapshot = store.layers.snapshot_path(layer.diff_id)
        if snapshot.exists():
            snapshot.rename(snapshot.with_name("gone-" + snapshot.name))
    run_build(store, FULL, context=context, executor=no_executor)
    left = {path.name.split("-")[0] for path in (store.private / "snapshots").iterdir()}
    assert left <= {"gone", "empty"}


def test_comments_spaces_and_unrelated_stages_do_not_miss(
    store: Store, context: Path, fake: FakeExecutor
) -> None:
    first = run_build(store, FULL, context=context, executor=fake)
    text = FULL.replace("FROM scratch AS build", "FROM scratch AS unrelated\nFROM scratch AS build")
    text = "# comment\n" + text.replace("RUN cat", "\nRUN    cat")
    again = run_build(store, text, context=context, executor=no_executor)
    assert again.digest == first.digest


# Reproducible builds.


def test_the_same_epoch_gives_the_same_image_in_fresh_stores(
    tmp_path: Path, context: Path, fake: FakeExecutor
) -> None:
    digests = set()
    for number, mask in enumerate((0o022, 0o077, 0)):
        before = os.umask(mask)
        try:
            with Store.open(tmp_path / f"store{number}") as store:
                built = run_build(
                    store, FULL, context=context, executor=fake, no_cache=True, epoch=EPOCH
                )
                digests.add(built.digest)
                assert built.image.config.created == "2023-11-14T22:13:20Z"
        finally:
            os.umask(before)
        time.sleep(1.1 if number == 0 else 0)
    assert len(digests) == 1


def test_an_epoch_of_its_own_is_a_cache_of_its_own(store: Store, fake: FakeExecutor) -> None:
    text = "FROM scratch\nRUN touch /a\n"
    plain, _ = rebuilt(store, text, fake)
    dated, ran = rebuilt(store, text, fake, epoch=EPOCH)
    assert len(ran) == 1
    assert dated.tree["a"].meta.mtime_ns == EPOCH * 10**9
    other, ran = rebuilt(store, text, fake, epoch=EPOCH + 1)
    assert len(ran) == 1
    assert len({plain.digest, dated.digest, other.digest}) == 3
    again, ran = rebuilt(store, text, fake, epoch=EPOCH)
    assert (again.digest, ran) == (dated.digest, [])


@pytest.mark.parametrize(
    ("text", "build_args", "expected"),
    [
        ("ARG SOURCE_DATE_EPOCH=5\n", {}, 5),
        ("ARG SOURCE_DATE_EPOCH=5\n", {"SOURCE_DATE_EPOCH": "7"}, 7),
        ("", {"SOURCE_DATE_EPOCH": "7"}, 7),
        ("ARG SOURCE_DATE_EPOCH\n", {}, None),
        ("", {"SOURCE_DATE_EPOCH": "context"}, None),
    ],
)
def test_the_epoch_may_be_an_argument(
    store: Store, text: str, build_args: dict[str, str], expected: int | None
) -> None:
    text += "FROM scratch\nRUN touch /a\n"
    built = run_build(store, text, executor=FakeExecutor(), build_args=build_args)
    mtime_s = built.tree["a"].meta.mtime_ns // 10**9
    assert mtime_s == expected if expected is not None else mtime_s > EPOCH
    caller = run_build(store, text, executor=FakeExecutor(), build_args=build_args, epoch=9)
    assert caller.tree["a"].meta.mtime_ns == 9 * 10**9


@pytest.mark.parametrize("value", ["not-a-timestamp", "-1", "1.5", "9" * 30, "\u0661"])
def test_an_epoch_that_is_no_time_is_an_error(store: Store, value: str) -> None:
    with pytest.raises(PlanError, match=f"invalid SOURCE_DATE_EPOCH: {value}"):
        run_build(
            store,
            "FROM scratch\n",
            executor=no_executor,
            build_args={"SOURCE_DATE_EPOCH": value},
        )


def test_the_order_of_the_directory_does_not_matter(tmp_path: Path) -> None:
    names = [f"f{number}" for number in range(20)]
    digests = set()
    for seed in range(3):
        random.Random(seed).shuffle(names)
        root = tmp_path / f"context{seed}"
        write_files(root, {"d": Dir(), **{f"d/{name}": name.encode() for name in names}})
        os.utime(root / "d", (1, 1))
        with Store.open(tmp_path / f"store{seed}") as store:
            text = "FROM scratch\nCOPY . /\n"
            built = run_build(store, text, context=root, executor=no_executor, epoch=EPOCH)
            digests.add(built.digest)
    assert len(digests) == 1


# Invariant 3: failures.


def test_a_failed_build_leaves_its_good_steps_and_no_name(
    tmp_path: Path, fake: FakeExecutor
) -> None:
    text = "FROM scratch\nRUN touch /a\nRUN touch /b\nRUN fail no way\nRUN touch /c\n"
    with (
        pytest.raises(StepFailedError) as caught,
        Store.open(tmp_path / "store") as store,
    ):
        run_build(store, text, executor=fake, tag="x:1")
    assert caught.value.tail == b"no way\n"
    with Store.open(tmp_path / "store") as store:
        with pytest.raises(NotFoundError):
            store.images.resolve("x:1")
        assert store.images.list() == []
        assert findings(store) == []
        _, ran = rebuilt(store, text.replace("RUN fail no way\n", ""), fake)
        assert ran == ["touch /c"]


def test_a_failed_build_keeps_the_old_image_under_its_name(
    store: Store, fake: FakeExecutor
) -> None:
    old = run_build(store, "FROM scratch\nRUN touch /a\n", executor=fake, tag="x:1")
    with pytest.raises(StepFailedError):
        run_build(store, "FROM scratch\nRUN false\n", executor=fake, tag="x:1")
    assert store.images.resolve("x:1").id == old.image.id


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        ("FROM scratch\n\nRUN exit 3\n", StepFailedError, 3),
        ("FROM scratch\nRUN true && \\\n  false\nRUN true\n", StepFailedError, 2),
        ('FROM scratch\nRUN ["nosuch"]\n', ProgramNotFoundError, 2),
        ("FROM scratch\nCOPY absent /\n", SourceNotFoundError, 2),
        ("FROM scratch\nEXPOSE http\n", LoweringError, 2),
        ("FROM nosuch\nRUN true\n", NotFoundError, 1),
        ("FROM scratch\nRUN --device=vendor.com/gpu true\n", UnsupportedFeatureError, 2),
        ("FROM scratch\nCOPY a.txt /x\nWORKDIR /x/y\n", StoreError, 3),
        ("FROM scratch\nCOPY --chown=nobody a.txt /x\n", LoweringError, 2),
        ("FROM --platform=plan9/vax scratch\n", PlanError, 1),
        ("FROM scratch\nFROM --platform=windows/amd64 x\n", UnsupportedFeatureError, 2),
    ],
)
def test_an_error_shows_the_lines_it_happened_in(
    store: Store, context: Path, text: str, kind: type[Exception], line: int
) -> None:
    with pytest.raises(kind) as caught:
        run_build(store, text, context=context, executor=FakeExecutor())
    error = caught.value
    excerpt = error.excerpt if isinstance(error, BuilderError) else error.__notes__[0]
    assert excerpt.splitlines()[0] == f"Dockerfile:{line}"
    marked = [row for row in excerpt.splitlines() if ">>>" in row]
    assert text.splitlines()[line - 1] in marked[0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('FROM scratch\nENV A="${B:?needed}"\n', 'ENV A="${B:?needed}"'),
        ('ARG A="${B:?needed}"\nFROM scratch\n', 'ARG A="${B:?needed}"'),
        ("# comment\n\nFROM trigger\n", "FROM trigger"),
    ],
)
def test_an_expansion_error_comes_with_its_place(store: Store, text: str, shown: str) -> None:
    trigger = 'FROM scratch\nONBUILD ENV A="${B:?needed}"\n'
    run_build(store, trigger, executor=no_executor, tag="trigger")
    with pytest.raises(DockerfileError, match=r"Dockerfile:\d.*B: needed") as caught:
        run_build(store, text, executor=no_executor)
    assert [line for line in caught.value.render().splitlines() if "|" in line and shown in line]


# What makes a step miss.


def copied(store: Store, context: Path, text: str = "FROM scratch\nCOPY d /d\n") -> str:
    (outcome,) = run_build(store, text, context=context, executor=no_executor).outcomes
    return outcome


def test_times_owners_and_inodes_of_the_context_do_not_miss(store: Store, context: Path) -> None:
    copied(store, context)
    os.utime(context / "d" / "f", (1, 1))
    assert copied(store, context) == "cached"
    (context / "d" / "f").write_bytes(b"f")
    assert copied(store, context) == "cached"
    (context / "new").write_bytes(b"f")
    (context / "new").rename(context / "d" / "f")
    assert copied(store, context) == "cached"
    if os.geteuid() == 0:
        os.chown(context / "d" / "f", 1000, 1000)
        assert copied(store, context) == "cached"


@pytest.mark.parametrize("change", ["content", "name", "mode", "new", "gone", "link", "directory"])
def test_contents_names_and_modes_of_the_context_miss(
    store: Store, context: Path, change: str
) -> None:
    copied(store, context)
    file = context / "d" / "f"
    before = file.stat()
    if change == "content":
        file.write_bytes(b"F")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "name":
        file.rename(context / "d" / "k")
    elif change == "mode":
        file.chmod(0o600)
    elif change == "new":
        (context / "d" / "new").touch()
    elif change == "gone":
        file.unlink()
    elif change == "link":
        file.unlink()
        file.symlink_to("g")
    else:
        (context / "d" / "sub").mkdir()
    assert copied(store, context) == "executed"
    assert copied(store, context) == "cached"


def test_what_is_beside_the_copied_files_does_not_miss(store: Store, context: Path) -> None:
    copied(store, context)
    (context / "other").write_bytes(b"changed")
    (context / "d2").mkdir()
    assert copied(store, context) == "cached"


def test_a_renamed_file_that_a_wildcard_matches_misses(store: Store, context: Path) -> None:
    text = "FROM scratch\nCOPY d/* /files/\n"
    copied(store, context, text)
    (context / "d" / "f").rename(context / "d" / "f2")
    assert copied(store, context, text) == "executed"


def test_the_same_files_from_another_place_hit(store: Store, tmp_path: Path) -> None:
    """The key is what is copied; where it lies is only a locator."""
    one = write_files(tmp_path / "one", {"x/f": b"same", "x": Dir()})
    two = write_files(tmp_path / "two", {"y/z/f": b"same", "y/z": Dir()})
    assert copied(store, one, "FROM scratch\nCOPY x /d\n") == "executed"
    assert copied(store, two, "FROM scratch\nCOPY y/z /d\n") == "cached"


def test_args_miss_where_they_are_declared_and_not_above(store: Store, fake: FakeExecutor) -> None:
    text = "FROM scratch\nRUN touch /above\nARG A=1\nRUN touch /below\n"
    rebuilt(store, text, fake)
    _, ran = rebuilt(store, text, fake, build_args={"A": "2"})
    assert ran == ["touch /below"]
    _, ran = rebuilt(store, text, fake, build_args={"A": "2", "UNDECLARED": "x"})
    assert ran == []


def test_env_user_workdir_and_shell_are_part_of_what_runs(store: Store, fake: FakeExecutor) -> None:
    rebuilt(store, "FROM scratch\nRUN touch /a\n", fake)
    for line in ("ENV A=1", "USER 5", 'SHELL ["/bin/sh", "-c", "echo"]', "WORKDIR /x"):
        _, ran = rebuilt(store, f"FROM scratch\n{line}\nRUN touch /a\n", fake)
        assert len(ran) == 1, line
    for line in ("LABEL a=1", "EXPOSE 80", "CMD x", "VOLUME /v", "HEALTHCHECK NONE"):
        _, ran = rebuilt(store, f"FROM scratch\n{line}\nRUN touch /a\n", fake)
        assert ran == [], line


def test_an_echo_of_a_changed_here_document_is_not_stale(store: Store, fake: FakeExecutor) -> None:
    text = "FROM scratch\nRUN <<EOF\necho 1 > /a\nEOF\nCOPY <<EOF /b\none\nEOF\n"
    first, _ = rebuilt(store, text, fake)
    second, ran = rebuilt(store, text.replace("echo 1", "echo 2").replace("one", "two"), fake)
    assert len(ran) == 1
    assert (first.read("a"), second.read("a")) == (b"1\n", b"2\n")
    assert (first.read("b"), second.read("b")) == (b"one\n", b"two\n")


COMMANDS = st.lists(
    st.sampled_from(["touch /a", "echo 1 > /a", "rm /a", "echo 2 > /b", "mkdir /d", "true"]),
    min_size=1,
    max_size=4,
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(left=COMMANDS, right=COMMANDS)
def test_a_build_with_a_warm_cache_is_the_same_as_with_a_cold_one(
    tmp_path_factory: pytest.TempPathFactory, left: list[str], right: list[str]
) -> None:
    def text(commands: list[str]) -> str:
        guarded = [c if not c.startswith("rm") else "touch /a && rm /a" for c in commands]
        lines = [f"RUN {command}\n" for command in guarded if guarded.count("mkdir /d") < 2]
        return "FROM scratch\n" + "".join(lines)

    fake = FakeExecutor()
    root = tmp_path_factory.mktemp("stores")
    with Store.open(root / "warm") as warm, Store.open(root / "cold") as cold:
        run_build(warm, text(left), executor=fake, epoch=EPOCH)
        mixed = run_build(warm, text(right), executor=fake, epoch=EPOCH)
        clean = run_build(cold, text(right), executor=fake, epoch=EPOCH)
        assert mixed.tree == clean.tree
        assert [layer.content_digest for layer in mixed.image.layers] == [
            layer.content_digest for layer in clean.image.layers
        ]


# Damage and loss: a cache is never wrong.


@pytest.mark.parametrize("damage", ["gone", "flipped"])
@pytest.mark.parametrize("checkout_is_good", [True, False])
def test_a_step_whose_blob_is_lost_is_mended_or_else_done_again(
    tmp_path: Path, fake: FakeExecutor, damage: str, checkout_is_good: bool
) -> None:
    text = "FROM scratch\nRUN echo hi > /a\nRUN touch /b\n"
    with Store.open(tmp_path / "store") as store:
        built = run_build(store, text, executor=fake, epoch=EPOCH)
        layer = built.image.layers[0]
        blob = store.blob_path(layer.descriptor.digest)
        if not checkout_is_good:
            (store.layers.snapshot_path(layer.diff_id) / "a").write_text("ho\n")
    if damage == "gone":
        blob.unlink()
    else:
        flip(blob)
    with Store.open(tmp_path / "store") as store:
        again, ran = rebuilt(store, text, fake, epoch=EPOCH)
        assert ran == ([] if checkout_is_good else ["echo hi > /a"])
        assert again.digest == built.digest
        assert findings(store) == []


# The context.


def test_the_ignore_file_hides_files_from_every_copy(store: Store, context: Path) -> None:
    text = "FROM scratch\nCOPY . /app/\n"
    built = run_build(
        store, text, context=context, executor=no_executor, ignore="*.txt\nd/*\n!d/g\n"
    )
    assert sorted(built.tree) == ["app", "app/d", "app/d/g", "app/other"]
    with pytest.raises(SourceNotFoundError) as caught:
        run_build(
            store,
            "FROM scratch\nCOPY a.txt /\n",
            context=context,
            executor=no_executor,
            ignore="a*",
        )
    assert "dockerignore excludes it" in caught.value.hint


def test_a_change_of_an_ignored_file_does_not_miss(store: Store, context: Path) -> None:
    text = "FROM scratch\nCOPY . /app/\n"
    for expected in ("executed", "cached"):
        built = run_build(store, text, context=context, executor=no_executor, ignore="d/f\nother\n")
        assert built.outcomes == [expected]
        (context / "d" / "f").write_bytes(b"changed")
        (context / "other").unlink(missing_ok=True)


def test_the_ignore_file_does_not_apply_to_stages(
    store: Store, context: Path, fake: FakeExecutor
) -> None:
    text = "FROM scratch AS s\nRUN touch /a.txt\nFROM scratch\nCOPY --from=s /a.txt /\n"
    built = run_build(store, text, context=context, executor=fake, ignore="*.txt\n")
    assert list(built.tree) == ["a.txt"]


def test_a_malformed_ignore_file_is_an_error(store: Store, context: Path) -> None:
    with pytest.raises(ContextError, match=r"\.dockerignore: syntax error in pattern"):
        run_build(
            store, "FROM scratch\nCOPY . /\n", context=context, executor=no_executor, ignore="[\n"
        )


def test_links_of_the_context_that_lead_outside_are_links_and_nothing_more(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    root = write_files(
        tmp_path / "context",
        {"up": Link("../secret"), "abs": Link(str(tmp_path / "secret")), "d/dir": Link("/etc")},
    )
    built = run_build(store, "FROM scratch\nCOPY . /\n", context=root, executor=no_executor)
    assert built.tree["up"].target == "../secret"
    assert built.tree["d/dir"].kind == "symlink"
    for source in ("up", "abs", "d/dir/passwd", "../secret"):
        with pytest.raises(ContextError):
            run_build(
                store, f"FROM scratch\nCOPY {source} /x\n", context=root, executor=no_executor
            )


def test_every_kind_of_file_comes_through(store: Store, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff" + b"n" * 254)
    root = write_files(
        tmp_path / "context",
        {
            "a": b"linked",
            "d/b": Hard("a"),
            "pipe": Fifo(),
            "socket": Socket(),
            "empty": Dir(mode=0o1777),
            name: b"odd name",
            "setuid": File(mode=0o4755),
            "line\nbreak": b"",
        },
    )
    built = run_build(store, "FROM scratch\nCOPY . /\n", context=root, executor=no_executor)
    assert sorted(built.tree) == sorted(
        ["a", "d", "d/b", "pipe", "socket", "empty", name, "setuid", "line\nbreak"]
    )
    assert built.tree["d/b"].target == "a"  # one inode, two names
    assert built.tree["empty"].meta.mode == 0o1777
    assert built.tree["setuid"].meta.mode == 0o4755
    again = "FROM scratch AS s\nCOPY . /\nFROM scratch\nCOPY --from=s / /x\n"
    moved = run_build(store, again, context=root, executor=no_executor)
    assert moved.tree["x/d/b"].target == "x/a"
    assert moved.read("x/" + name) == b"odd name"


def test_a_file_that_is_named_like_a_removal_is_an_error(store: Store, tmp_path: Path) -> None:
    for name in (".wh.passwd", "d/.wh..wh..opq", ".wh."):
        root = write_files(tmp_path / name.replace("/", "-"), {name: b""})
        with pytest.raises(StoreError, match=r"\.wh\.") as caught:
            run_build(store, "FROM scratch\nCOPY . /\n", context=root, executor=no_executor)
        assert "Dockerfile:2" in caught.value.__notes__[0]


@pytest.mark.parametrize("size", [10, 2 << 20])
def test_a_file_that_changes_after_its_digest_was_taken_is_an_error(
    store: Store, tmp_path: Path, size: int
) -> None:
    """Between the key and the layer: what is remembered must be what was copied."""
    root = write_files(tmp_path / "context", {"f": b"x" * size})
    time.sleep(0.03)
    text = "FROM scratch\nCOPY f /f\n"
    run_build(store, text, context=root, executor=no_executor)  # now the digest is remembered
    changing = text.replace("/f\n", "/g\n")
    events: list[Event] = []

    class Changing(list[Event]):
        def append(self, event: Event) -> None:
            if isinstance(event, VertexStarted):
                (root / "f").write_bytes(b"y" * size)
            events.append(event)

    with pytest.raises(ContextError, match="'f' changed while it was being read"):
        run_build(store, changing, context=root, executor=no_executor, events=Changing())
    built = run_build(store, changing, context=root, executor=no_executor)
    assert built.read("g") == b"y" * size


def test_a_file_that_is_deleted_after_its_digest_was_taken_is_an_error(
    store: Store, tmp_path: Path
) -> None:
    root = write_files(tmp_path / "context", {"d/f": b"x" * (2 << 20)})

    class Deleting(list[Event]):
        def append(self, event: Event) -> None:
            if isinstance(event, VertexStarted):
                (root / "d" / "f").unlink()

    with pytest.raises(ContextError, match="'d/f'"):
        run_build(
            store, "FROM scratch\nCOPY . /\n", context=root, executor=no_executor, events=Deleting()
        )
    assert store.images.list() == []


def test_without_a_context_there_is_nothing_to_copy_from(store: Store, fake: FakeExecutor) -> None:
    text = "FROM scratch\nRUN touch /a\nCOPY <<EOF /b\nx\nEOF\nADD <<EOF /c\nx\nEOF\n"
    assert sorted(run_build(store, text, executor=fake).tree) == ["a", "b", "c"]
    with pytest.raises(ContextError, match="there is no build context"):
        run_build(store, "FROM scratch\nCOPY a /a\n", executor=no_executor)


def test_archives_are_unpacked_by_add(store: Store, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo("bin/tool")
        member.mode, member.uid, member.size = 0o755, 5, 3
        archive.addfile(member, io.BytesIO(b"abc"))
    root = write_files(tmp_path / "context", {"a.tgz": stream.getvalue()})
    text = "FROM scratch\nADD a.tgz /opt/\nADD --chown=7:8 a.tgz /owned/\nCOPY a.tgz /\n"
    built = run_build(store, text, context=root, executor=no_executor)
    assert built.read("opt/bin/tool") == b"abc"
    assert (built.tree["opt/bin/tool"].meta.mode, built.tree["opt/bin/tool"].meta.uid) == (0o755, 5)
    assert (built.tree["owned/bin/tool"].meta.uid, built.tree["owned"].meta.uid) == (7, 7)
    assert built.read("a.tgz") == stream.getvalue()


# Invariant 4, and stages in general.


def test_stages_that_the_target_does_not_need_are_not_opened(
    store: Store, fake: FakeExecutor
) -> None:
    text = (
        "FROM nosuch AS unneeded\nRUN touch /a\n"
        "FROM scratch AS needed\nRUN touch /b\n"
        "FROM needed AS last\nONBUILD COPY --from=unneeded /a /\nRUN touch /c\n"
        "FROM scratch\nRUN touch /d\n"
    )
    run_build(store, text, executor=fake)
    assert fake.scripts == ["touch /d"]
    run_build(store, text, executor=fake, target="last")
    assert fake.scripts[1:] == ["touch /b", "touch /c"]
    with pytest.raises(NotFoundError):
        run_build(store, text, executor=fake, target="unneeded")


def test_a_stage_is_built_once_however_often_it_is_used(store: Store, fake: FakeExecutor) -> None:
    text = (
        "FROM scratch AS s\nRUN touch /a\nFROM s AS t\nFROM s\n"
        "COPY --from=s /a /b\nCOPY --from=0 /a /c\nCOPY --from=t /a /d\n"
    )
    built = run_build(store, text, executor=fake)
    assert fake.scripts == ["touch /a"]
    assert sorted(built.tree) == ["a", "b", "c", "d"]


def test_a_stage_takes_over_config_and_args_of_the_one_it_stands_on(
    store: Store, fake: FakeExecutor
) -> None:
    text = (
        'FROM scratch AS s\nARG A=1\nENV E=2\nUSER me\nWORKDIR /w\nCMD ["c"]\nLABEL l=1\n'
        'FROM s\nENV F=$A$E\nENTRYPOINT ["e"]\n'
    )
    built = run_build(store, text.replace("WORKDIR /w\n", ""), executor=fake)
    assert built.config.env[-2:] == ("E=2", "F=12")
    assert (built.config.user, built.config.labels) == ("me", (("l", "1"),))
    assert (built.config.entrypoint, built.config.cmd) == (("e",), None)


def test_copy_from_an_image_of_the_store(store: Store) -> None:
    make_image(store, "tools:1", {"bin/x": b"1", "gone": b""}, {"bin/y": b"2"})
    text = "FROM scratch\nCOPY --from=tools:1 /bin /bin\n"
    built = run_build(store, text, executor=no_executor)
    assert [built.read(f"bin/{name}") for name in "xy"] == [b"1", b"2"]
    assert run_build(store, text, executor=no_executor).outcomes == ["cached"]


def test_a_copied_stage_is_keyed_by_what_is_copied(store: Store, fake: FakeExecutor) -> None:
    text = "FROM scratch AS s\nRUN echo 1 > /a; touch /x\nFROM scratch\nCOPY --from=s /a /\n"
    first, _ = rebuilt(store, text, fake)
    second, ran = rebuilt(store, text.replace("touch /x", "touch /y"), fake)
    assert len(ran) == 1
    assert second.outcomes == ["executed", "cached"]
    assert second.digest == first.digest


def test_a_linked_copy_survives_another_base(
    store: Store, context: Path, fake: FakeExecutor
) -> None:
    """--link: one layer, whatever it lies on; the steps around it run as always."""
    text = "FROM scratch\nRUN echo {} > /base\n{} a.txt /d/x\nRUN cat /d/x > /y\n"
    for keyword in ("COPY --link", "ADD --link"):
        first, _ = rebuilt(store, text.format(f"{keyword} 1", keyword), fake, context=context)
        second, ran = rebuilt(store, text.format(f"{keyword} 2", keyword), fake, context=context)
        assert first.image.layers[1] == second.image.layers[1]
        assert first.image.layers[0] != second.image.layers[0]
        assert second.outcomes[1] == "cached"
        assert ran == [f"echo {keyword} 2 > /base", "cat /d/x > /y"]
        assert second.read("y") == b"a"
    plain, _ = rebuilt(store, text.format(3, "COPY --link=false"), fake, context=context)
    assert plain.outcomes[1] == "executed"


def test_a_linked_copy_is_that_of_scratch(store: Store, context: Path) -> None:
    alone = run_build(store, "FROM scratch\nCOPY d /d/\n", context=context, executor=no_executor)
    text = "FROM scratch\nWORKDIR /w\nCOPY --link d /d/\n"
    linked = run_build(store, text, context=context, executor=no_executor)
    assert linked.outcomes == ["executed", "cached"]
    assert linked.image.layers[1] == alone.image.layers[0]


def test_a_linked_copy_sees_nothing_of_the_image(store: Store, context: Path) -> None:
    """Links are replaced by directories of its own, made anew as on scratch."""
    base: Items = {
        "lib": Link("usr/lib"),
        "usr/lib/x": b"x",
        "tmp": Dir(mode=0o1777),
        "etc/passwd": b"root:x:7:7::/:/bin/sh\n",
    }
    make_image(store, "base", base)
    text = "FROM base\nCOPY {} a.txt /lib/a\nCOPY {} --chown=root a.txt /tmp/a\n"
    followed = run_build(store, text.format("", ""), context=context, executor=no_executor)
    assert followed.tree["lib"].kind == "symlink"
    assert "usr/lib/a" in followed.tree
    assert followed.tree["tmp"].meta.mode == 0o1777
    linked = run_build(
        store, text.format("--link", "--link"), context=context, executor=no_executor
    )
    assert linked.tree["lib"].kind == "dir"
    assert sorted(path for path in linked.tree if path.endswith("/a")) == ["lib/a", "tmp/a"]
    assert linked.tree["tmp"].meta.mode == 0o755
    assert linked.tree["tmp/a"].meta.uid == 0
    moded = run_build(
        store,
        "FROM base\nCOPY --link --chmod=700 a.txt /lib/a\n",
        context=context,
        executor=no_executor,
    )
    assert "usr/lib/a" in moded.tree, "as in Docker, --chmod turns --link off"


def test_what_is_excluded_or_not_selected_does_not_miss(store: Store, context: Path) -> None:
    for text in (
        "FROM scratch\nCOPY --exclude=oth* . /x/\n",
        "FROM scratch\nCOPY --parents d/* /x/\n",
        "FROM scratch\nADD --exclude=other . /x/\n",
    ):
        first = run_build(store, text, context=context, executor=no_executor)
        (context / "other").write_bytes(os.urandom(5))
        second = run_build(store, text, context=context, executor=no_executor)
        assert second.outcomes == ["cached"], text
        assert second.image.id == first.image.id
        assert "x/other" not in second.tree


def test_another_pattern_with_the_same_result_hits(store: Store, context: Path) -> None:
    for flags in ("--exclude=d --exclude=a.txt", "--exclude=[ad]*", "--exclude=* --exclude=!other"):
        text = f"FROM scratch\nCOPY {flags} . /x/\n"
        built = run_build(store, text, context=context, executor=no_executor)
        assert sorted(built.tree) == ["x", "x/other"], flags
    assert built.outcomes == ["cached"]


def test_parents_keep_the_attributes_of_the_directories_they_name(
    store: Store, context: Path
) -> None:
    (context / "d").chmod(0o711)
    built = run_build(
        store,
        "FROM scratch AS made\nCOPY --parents --chown=3:4 d/f /x/\n"
        "FROM scratch\nCOPY --from=made --parents /x/./d /y/\n",
        context=context,
        executor=no_executor,
    )
    assert sorted(built.tree) == ["y", "y/d", "y/d/f"]
    meta = built.tree["y/d"].meta
    assert (meta.mode, meta.uid, meta.gid) == (0o711, 3, 4)


def test_copying_from_a_stage_that_was_only_copied_unpacks_nothing(
    store: Store, context: Path
) -> None:
    text = "FROM scratch AS made\nCOPY . /x/\nFROM scratch\nCOPY --from=made /x/d /y/\n"
    built = run_build(store, text, context=context, executor=no_executor)
    assert built.read("y/g") == b"g"
    assert list((store.private / "snapshots").iterdir()) == []


def test_more_stages_than_python_can_recurse(store: Store) -> None:
    text = "FROM scratch AS s0\n" + "".join(
        f"FROM s{number} AS s{number + 1}\n" for number in range(1500)
    )
    assert run_build(store, text, executor=no_executor).image.layers == ()


@pytest.mark.parametrize(
    ("text", "kind", "hint"),
    [
        ("FROM scratch AS build\nFROM biuld\n", UnknownStageError, "'build'"),
        ("FROM scratch AS build\nFROM Biuld\n", UnknownStageError, "'build'"),
        (
            "FROM scratch AS build\nFROM scratch\nCOPY --from=bild / /\n",
            UnknownStageError,
            "'build'",
        ),
        ("FROM scratch\nCOPY --from=7 / /\n", UnknownStageError, ""),
        ("FROM scratch\nCOPY --from=0 / /\n", StageOrderError, "above it"),
        ("FROM nosuch\n", NotFoundError, "bootstrap"),
        ("FROM scratch\nCOPY --from=nosuch / /\n", NotFoundError, "bootstrap"),
    ],
)
def test_unknown_stages_and_images_are_errors_that_help(
    store: Store, text: str, kind: type[Exception], hint: str
) -> None:
    with pytest.raises(kind) as caught:
        run_build(store, text, executor=no_executor)
    assert hint in getattr(caught.value, "hint", "")


def test_an_unknown_target_is_an_error(store: Store) -> None:
    with pytest.raises(UnknownTargetError):
        run_build(store, "FROM scratch AS build\n", executor=no_executor, target="biuld")


# Bases.


def test_an_image_is_a_base_with_its_config_layers_and_history(
    store: Store, fake: FakeExecutor
) -> None:
    base = make_image(
        store,
        "base:1",
        {"etc/passwd": b"me:x:5:6::/:/bin/sh\n"},
        {"b": b"2"},
        env=("PATH=/own", "A=1"),
        cmd=("sh",),
        entrypoint=("e",),
        user="me",
        working_dir="/w",
        labels=(("from", "base"),),
    )
    built = run_build(store, "FROM base:1\nRUN touch /c\nENV B=$A\nLABEL x=1\n", executor=fake)
    assert built.image.layers[:2] == base.layers
    assert [h.created_by for h in built.image.config.history][:2] == ["layer 0", "layer 1"]
    assert built.config.env == ("PATH=/own", "A=1", "B=1")
    assert (built.config.cmd, built.config.entrypoint) == (("sh",), ("e",))
    assert built.config.labels == (("from", "base"), ("x", "1"))
    (spec,) = fake.specs
    assert (spec.program.user, spec.program.cwd) == ("me", "/w")


def test_a_base_without_a_path_gets_the_usual_one(store: Store) -> None:
    make_image(store, "base", {"a": b""}, env=("A=1",))
    built = run_build(store, "FROM base\nENV P=$PATH:/x\n", executor=no_executor)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert built.config.env == ("A=1", f"PATH={path}", f"P={path}:/x")


def test_a_base_that_changed_runs_everything_and_one_that_only_got_labels_nothing(
    store: Store, fake: FakeExecutor
) -> None:
    text = "FROM base\nRUN touch /x\n"
    make_image(store, "base", {"a": b"1"})
    rebuilt(store, text, fake)
    make_image(store, "base", {"a": b"1"}, labels=(("new", "label"),))
    _, ran = rebuilt(store, text, fake)
    assert ran == []
    make_image(store, "base", {"a": b"2"})
    _, ran = rebuilt(store, text, fake)
    assert ran == ["touch /x"]


def test_triggers_run_first_in_the_build_that_stands_on_the_image(
    store: Store, context: Path, fake: FakeExecutor
) -> None:
    text = "FROM scratch\nONBUILD COPY a.txt /a\nONBUILD RUN echo more >> /a\nONBUILD ENV T=1\n"
    base = run_build(store, text, executor=fake, tag="base:1")
    assert base.config.on_build == ("COPY a.txt /a", "RUN echo more >> /a", "ENV T=1")
    assert fake.scripts == []
    built = run_build(store, "FROM base:1\nRUN touch /b\n", context=context, executor=fake)
    assert fake.scripts == ["echo more >> /a", "touch /b"]
    assert built.read("a") == b"amore\n"
    assert built.config.env[-1] == "T=1"
    assert built.config.on_build == ()
    run_build(
        store, "FROM base:1\nRUN touch /b\n", context=context, executor=no_executor, tag="c:1"
    )
    grandchild = run_build(store, "FROM c:1\n", executor=no_executor)
    assert grandchild.tree == built.tree


def test_triggers_of_a_stage_fire_in_the_stage_that_stands_on_it(
    store: Store, fake: FakeExecutor
) -> None:
    text = (
        "FROM scratch AS tools\nRUN touch /tool\n"
        "FROM scratch AS base\nONBUILD COPY --from=tools /tool /from-trigger\n"
        "FROM base\nRUN touch /own\n"
    )
    built = run_build(store, text, executor=fake)
    assert sorted(built.tree) == ["from-trigger", "own"]


def test_a_trigger_that_fails_points_at_from(store: Store, fake: FakeExecutor) -> None:
    run_build(store, "FROM scratch\nONBUILD RUN false\n", executor=fake, tag="base:1")
    with pytest.raises(StepFailedError) as caught:
        run_build(store, "# one\n\nFROM base:1\n", executor=fake)
    assert caught.value.excerpt.startswith("Dockerfile:3\n")


# Build checks.


def test_warnings_come_before_everything_else_and_every_time(
    store: Store, fake: FakeExecutor
) -> None:
    make_image(store, "base", {"f": b""}, env=("KNOWN=1",))
    text = "FROM base as b\nENV A=$KNOWN B=$UNKNOWN\nRUN touch /b\n"
    for _ in range(2):
        built = run_build(store, text, executor=fake)
        warnings = [each for each in built.events if isinstance(each, CheckWarning)]
        assert [(each.rule, each.line) for each in warnings] == [
            ("FromAsCasing", 1),
            ("UndefinedVar", 2),
        ]
        assert built.events[:2] == warnings


def test_warnings_that_are_errors_leave_everything_undone(store: Store, context: Path) -> None:
    events: list[Event] = []
    with pytest.raises(CheckFailedError) as caught:
        run_build(
            store,
            "# check=error=true\nFROM scratch\nCOPY a.txt /\nRUN x\nCMD y\n",
            context=context,
            executor=no_executor,
            events=events,
        )
    assert "5 | >>> CMD y" in caught.value.excerpt
    assert [type(each) for each in events] == [CheckWarning]


def test_sources_that_the_ignore_file_leaves_out_are_told(store: Store, context: Path) -> None:
    events: list[Event] = []
    with pytest.raises(SourceNotFoundError):
        run_build(
            store, "FROM scratch\nCOPY a.txt /\n", context=context, ignore="a.txt", events=events
        )
    assert [each.detail for each in events if isinstance(each, CheckWarning)] == [
        'Attempting to Copy file "a.txt" that is excluded by .dockerignore'
    ]


def test_an_image_that_is_not_there_fails_where_it_is_needed(store: Store) -> None:
    events: list[Event] = []
    with pytest.raises(NotFoundError):
        run_build(store, "FROM nowhere as a\n", events=events)
    assert [type(each) for each in events] == [CheckWarning]


# Secrets.


def test_proxies_reach_programs_and_leave_no_trace(store: Store, fake: FakeExecutor) -> None:
    secret = "http://user:pa55word@proxy:3128"
    events: list[Event] = []
    built = run_build(
        store,
        "FROM scratch\nARG A\nRUN echo $A > /a\n",
        executor=fake,
        events=events,
        build_args={"HTTP_PROXY": secret, "https_proxy": secret, "A": "1"},
    )
    assert f"HTTP_PROXY={secret}" in fake.specs[0].program.env
    assert "pa55word" not in str(events) + str(built.image) + str(built.result.record)
    for path in store.root.rglob("*"):
        if path.is_file():
            assert b"pa55word" not in path.read_bytes(), path
    _, ran = rebuilt(store, "FROM scratch\nARG A\nRUN echo $A > /a\n", fake, build_args={"A": "1"})
    assert ran == []


@pytest.mark.parametrize(
    "text",
    [
        "RUN env HTTP_PROXY > /environment",
        "RUN echo ada:pa55word > /config",
        "RUN echo YWRhOnBhNTV3b3Jk > /header",
        "RUN ln -s http://ada:pa55word@proxy:3128 /link",
        "RUN touch /ada:pa55word",
        "COPY file /file",
    ],
)
def test_credentials_of_proxies_get_into_no_layer(
    store: Store, fake: FakeExecutor, context: Path, text: str
) -> None:
    (context / "file").write_text("proxy=http://ada:pa55word@proxy:3128")
    with pytest.raises(SecretLeakError, match="HTTP_PROXY") as caught:
        run_build(
            store,
            f"FROM scratch\n{text}\n",
            executor=fake,
            context=context,
            build_args={"HTTP_PROXY": "http://ada:pa55word@proxy:3128"},
        )
    assert "pa55word" not in f"{caught.value} {caught.value.hint}"
    if "env" in text:
        assert not [
            path
            for path in store.root.rglob("*")
            if path.is_file() and b"pa55word" in path.read_bytes()
        ]


# Executors, events, records.


def test_events_tell_the_story_in_order(store: Store, context: Path, fake: FakeExecutor) -> None:
    text = "FROM scratch AS s\nCOPY a.txt /a\nRUN echo said\nENV A=1\n"
    built = run_build(store, text, context=context, executor=fake, tag="x:1")
    copy, run = built.image.layers
    assert [(type(event).__name__, getattr(event, "vertex", 0)) for event in built.events] == [
        ("VertexStarted", 1),
        ("VertexDone", 1),
        ("VertexStarted", 2),
        ("VertexOutput", 2),
        ("VertexDone", 2),
        ("ImageSealed", 0),
    ]
    started = [event for event in built.events if isinstance(event, VertexStarted)]
    assert [(event.title, event.stage, event.line) for event in started] == [
        ("[s 2/3] COPY a.txt /a", "s", 2),
        ("[s 3/3] RUN echo said", "s", 3),
    ]
    assert [event.layer for event in built.events if isinstance(event, VertexDone)] == [
        copy.diff_id,
        run.diff_id,
    ]
    assert [event.data for event in built.events if isinstance(event, VertexOutput)] == [b"said\n"]
    assert built.events[-1] == ImageSealed(
        image_id=built.image.id, manifest_digest=built.digest, names=("x:1",)
    )
    again = run_build(store, text, context=context, executor=no_executor, tag="x:1")
    cached = [event for event in again.events if isinstance(event, VertexCached)]
    assert [event.layer for event in cached] == [copy.diff_id, run.diff_id]


def test_notices_reach_the_user(store: Store, context: Path) -> None:
    text = "FROM scratch\nCOPY ../a.txt nothing* /x/\n"
    built = run_build(store, text, context=context, executor=no_executor)
    assert built.notices == [
        "'../a.txt' leads outside of the build context: 'a.txt' is taken",
        "nothing in the build context matches 'nothing*'",
    ]


def test_every_build_leaves_a_record(store: Store, context: Path, fake: FakeExecutor) -> None:
    text = "FROM scratch AS s\nENV A=1\nCOPY a.txt /a\nRUN touch /b\n"
    built = run_build(store, text, context=context, executor=fake, tag="x:1")
    found = record.of_image(built.image.id, store.private / "builds")
    assert found == built.result.record
    assert found is not None
    assert (found.names, found.dockerfile, found.error) == (("x:1",), "Dockerfile", "")
    assert found.manifest_digest == built.digest
    assert [(step.instruction, step.line, step.stage, step.outcome) for step in found.steps] == [
        ("ENV A=1", 2, "s", "metadata"),
        ("COPY a.txt /a", 3, "s", "executed"),
        ("RUN touch /b", 4, "s", "executed"),
    ]
    assert [step.layer for step in found.steps[1:]] == [
        layer.diff_id for layer in built.image.layers
    ]
    assert all(step.key.startswith("sha256:") for step in found.steps[1:])


def test_a_failed_build_leaves_a_record_of_how_far_it_came(
    store: Store, fake: FakeExecutor
) -> None:
    with pytest.raises(StepFailedError):
        run_build(store, "FROM scratch\nRUN touch /a\nRUN exit 9\n", executor=fake)
    (found,) = record.read_all(store.private / "builds")
    assert found.image_id == ""
    assert found.error.endswith("exit code: 9")
    assert [(step.instruction, step.outcome) for step in found.steps] == [
        ("RUN touch /a", "executed"),
        ("RUN exit 9", "failed"),
    ]


def test_a_record_says_what_each_step_took(store: Store, context: Path, fake: FakeExecutor) -> None:
    text = "FROM scratch\nCOPY a.txt /a\nRUN echo told; echo b > /b\n"
    built = run_build(store, text, context=context, executor=fake)
    (found,) = record.read_all(store.private / "builds")
    assert found == built.result.record
    copy, run = found.steps
    assert 0 < copy.started < run.started < found.seconds
    assert run.seconds > 0
    assert (copy.size_bytes, run.size_bytes) == (1, 2)
    assert (copy.vertex, run.vertex) == (1, 2)
    assert record.log_of(found, run, store.private / "builds") == b"told\n"
    assert record.log_of(found, copy, store.private / "builds") == b""
    assert run.reason == "never built before"
    assert found.bases == (record.BaseRecord("stage-0", 1, "scratch", ""),)
    again = run_build(store, text, context=context, executor=no_executor).result.record
    assert [step.reason for step in again.steps] == ["", ""]
    assert [step.size_bytes for step in again.steps] == [1, 2]
    assert not (store.private / "builds" / f"{again.id}.log").exists()


@pytest.mark.parametrize(
    ("name", "local", "place"),
    [
        ("Dockerfile", True, "/Dockerfile"),
        ("-", True, "-"),
        ("http://h/Dockerfile", True, "-"),
        ("Dockerfile", False, "-"),
    ],
)
def test_a_record_knows_which_dockerfile_it_is_of(
    store: Store, context: Path, name: str, local: bool, place: str
) -> None:
    request = BuildRequest(
        dockerfile=parse("FROM scratch\n", name=name),
        context=context if local else DictTree({}),
    )
    found = build(request, store, lambda event: None, start_executor=no_executor).record
    assert found.place == (os.path.realpath(name) if place.startswith("/") else place)
    assert found.context == (str(context) if local else "")


def test_no_secret_and_no_proxy_setting_gets_into_a_record(
    store: Store, fake: FakeExecutor
) -> None:
    text = "FROM scratch\nRUN touch /a\n"
    for number in "12":
        args = {"http_proxy": f"http://user:hunter{number}@proxy/"}
        run_build(store, text.replace("/a", f"/{number}"), executor=fake, build_args=args)
    for path in (store.private / "builds").iterdir():
        assert b"hunter" not in path.read_bytes()


def test_nothing_is_left_in_the_store_but_what_it_is_made_of(
    store: Store, context: Path, fake: FakeExecutor
) -> None:
    run_build(store, FULL, context=context, executor=fake)
    with pytest.raises(StepFailedError):
        run_build(store, "FROM scratch\nRUN false\n", executor=fake)
    assert not [path for path in store.tmp.rglob("*") if path.name in ("upper", "work")]
    assert findings(store) == []


def test_no_descriptor_is_left_open(store: Store, context: Path, fake: FakeExecutor) -> None:
    run_build(store, FULL, context=context, executor=fake)
    before = open_descriptors()
    run_build(store, FULL, context=context, executor=fake, no_cache=True)
    with pytest.raises(SourceNotFoundError):
        run_build(store, "FROM scratch\nCOPY nope /\n", context=context, executor=fake)
    assert open_descriptors() <= before


def test_a_request_names_nothing_that_the_build_could_change(store: Store) -> None:
    parsed = dockerfile("FROM scratch\nENV A=1\n")
    copy = dockerfile("FROM scratch\nENV A=1\n")
    run_build(store, "FROM scratch\nENV A=1\n", executor=no_executor)
    assert parsed == copy
    assert Reference.parse("x").familiar == "x:latest"


# The same with the real sandbox.


@pytest.fixture
def box(store: Store) -> Store:
    """A store with the image `box`: a static busybox and users."""
    reason = no_busybox()
    if reason:
        pytest.skip(reason)
    applets = "sh cat chmod echo head id ln ls mkdir mkfifo printf pwd rm sleep stat touch true"
    files: Items = {
        "bin/busybox": File(content=BUSYBOX.read_bytes(), mode=0o755),
        **{f"bin/{name}": Link("busybox") for name in applets.split()},
        "etc/passwd": PASSWD.encode(),
        "etc/group": GROUP.encode(),
        "etc/hosts": b"the image's own\n",
        "tmp": Dir(mode=0o1777),
        "data/old": b"old",
        "data/dir/f": b"f",
    }
    make_image(store, "box", files, env=("PATH=/bin",), cmd=("sh",))
    return store


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestRealSandbox:
    """What only the kernel can show."""

    def test_programs_of_the_image_run_and_leave_what_they_did(self, box: Store) -> None:
        text = """FROM box
RUN echo hi > /a && rm /data/old && rm -r /data/dir && mkdir /data/dir && touch /data/dir/new
RUN ln /a /b && ln -s a /c && mkfifo /p && mkdir -p /new/deep && chmod 2755 /new
RUN ["/bin/printf", "%s", "exec $HOME"]
"""
        built = run_build(box, text)
        assert built.output == b"exec $HOME"
        tree = built.tree
        assert "data/old" not in tree
        assert [path for path in tree if path.startswith("data/dir/")] == ["data/dir/new"]
        assert (tree["c"].kind, tree["c"].target, tree["p"].kind) == ("symlink", "a", "fifo")
        assert tree["b"].target == "a"
        assert tree["new"].meta.mode == 0o2755
        assert run_build(box, text, executor=no_executor).digest == built.digest
        assert findings(box) == []

    def test_nothing_of_the_sandbox_gets_into_a_layer(self, box: Store) -> None:
        text = "FROM box\nRUN cat /etc/hosts && ls /dev /proc /sys > /tmp/x; rm /tmp/x\n"
        built = run_build(box, text)
        assert b"the image's own" not in built.output
        assert b"localhost" in built.output
        layer = built.image.layers[-1]
        assert [entry.path for entry in box.layers.toc(layer)] == ["tmp"]
        assert built.read("etc/hosts") == b"the image's own\n"

    def test_user_directory_and_environment_are_those_of_the_stage(self, box: Store) -> None:
        text = """FROM box
ARG V=1
ENV E=two
RUN echo $V $E $PATH
USER ada
WORKDIR /home/ada/src
RUN id -u && id -g && pwd && echo $HOME && touch own
USER 4321:5
RUN id -u; id -g
"""
        built = run_build(box, text, build_args={"V": "given"})
        assert built.output == (b"given two /bin\n1000\n1000\n/home/ada/src\n/home/ada\n4321\n5\n")
        for path in ("home/ada/src", "home/ada/src/own"):
            assert (built.tree[path].meta.uid, built.tree[path].meta.gid) == (1000, 1000)

    def test_here_documents_are_scripts_and_programs(self, box: Store) -> None:
        text = """FROM box
RUN <<EOF
echo one
echo two > /two
EOF
RUN <<TOOL
#!/bin/cat
shown
TOOL
RUN cat <<A > /a && cat <<B >> /a
1
A
2
B
"""
        built = run_build(box, text)
        assert built.output == b"one\n#!/bin/cat\nshown\n"
        assert (built.read("two"), built.read("a")) == (b"two\n", b"1\n2\n")
        assert not [path for path in built.tree if "pipes" in path]

    def test_a_failed_program_shows_its_last_output_and_its_code(self, box: Store) -> None:
        with pytest.raises(StepFailedError) as caught:
            run_build(box, "FROM box\nRUN echo before; echo why >&2; exit 42\n", tag="x:1")
        assert caught.value.code == 42
        assert sorted(caught.value.tail.splitlines()) == [b"before", b"why"]
        with pytest.raises(StepFailedError) as caught:
            run_build(box, "FROM box\nRUN kill -9 $$\n")
        assert (caught.value.code, caught.value.signal) == (137, 9)
        with pytest.raises(ProgramNotFoundError):
            run_build(box, 'FROM box\nRUN ["/nosuch"]\n')

    def test_much_output_on_both_streams_comes_through(self, box: Store) -> None:
        script = "head -c 300000 /dev/zero; head -c 200000 /dev/zero >&2"
        built = run_build(box, f"FROM box\nRUN {script}\n")
        assert len(built.output) == 500_000

    def test_a_rewritten_step_with_an_equal_result_runs_alone(self, box: Store) -> None:
        text = "FROM box\nRUN echo hi > /a\nRUN sleep 0.2; touch /slow\n"
        first = run_build(box, text)
        second = run_build(box, text.replace("echo hi >", "printf 'hi\\n' >"))
        assert second.outcomes == ["reused", "cached"]
        assert second.digest == first.digest

    def test_the_same_epoch_gives_the_same_image(self, box: Store) -> None:
        text = """FROM box
RUN mkdir -p /d/e && echo x > /d/e/f && ln /d/e/f /d/g && rm -r /data
WORKDIR /w
COPY --from=box /bin/busybox /etc /copied/
"""
        digests = {run_build(box, text, no_cache=True, epoch=EPOCH).digest for _ in range(2)}
        assert len(digests) == 1

    def test_the_fake_executor_leaves_what_the_kernel_leaves(self, box: Store) -> None:
        """What all other tests of this file stand on."""
        script = (
            "echo hi > /a; mkdir -p /new/deep; touch /new/deep/f; rm /data/old; rm -r /data/dir; "
            "mkdir /data/dir; touch /data/dir/g; ln -s a /link; ln /a /hard; chmod 700 /data; "
            "echo more >> /etc/group; true"
        )
        contents = []
        for executor in (ForkServer, FakeExecutor()):
            built = run_build(box, f"FROM box\nRUN {script}\n", executor=executor, no_cache=True)
            contents.append(built.image.layers[-1].content_digest)
        assert contents[0] == contents[1]

    def test_names_that_mean_a_removal_are_refused(self, box: Store) -> None:
        with pytest.raises(StoreError, match=r"\.wh\.x") as caught:
            run_build(box, "FROM box\nRUN touch /.wh.x\n", tag="x:1")
        assert "Dockerfile:2" in caught.value.__notes__[0]

    def test_a_root_directory_that_was_changed_stays_so(self, box: Store) -> None:
        text = "FROM box\nRUN chmod 711 /\nWORKDIR /w\nRUN stat -c %a /\nRUN chmod 755 /\n"
        built = run_build(box, text + "RUN stat -c %a /\n")
        assert built.output == b"711\n755\n"

    def test_a_layer_that_lost_its_directory_is_unpacked_again(self, box: Store) -> None:
        text = "FROM box\nRUN rm -r /data && mkdir /data && echo 1 > /data/x\n"
        run_build(box, text)
        for path in (box.private / "snapshots").iterdir():
            path.rename(box.tmp / f"gone-{path.name}")
        built = run_build(box, text + "RUN ls /data; cat /data/x\n")
        assert built.output == b"x\n1\n"
        assert built.outcomes == ["cached", "executed"]

    def test_an_interrupt_ends_the_program(self, box: Store) -> None:
        class Interrupting(list[Event]):
            def append(self, event: Event) -> None:
                if isinstance(event, VertexOutput):
                    raise KeyboardInterrupt

        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            run_build(box, "FROM box\nRUN echo go; sleep 60\n", events=Interrupting())
        assert time.monotonic() - started < 20
        assert findings(box) == []


# Named contexts and remote sources.


def test_a_context_that_is_a_tree_is_a_base(store: Store, context: Path, tmp_path: Path) -> None:
    contexts = {"base": str(context)}
    text = "FROM base\nCOPY --from=base a.txt /copied\n"
    built = run_build(store, text, executor=no_executor, contexts=contexts)
    assert set(built.tree) == {"a.txt", "copied", "d", "d/f", "d/g", "other"}
    assert built.tree["d/g"].meta.mode == 0o755
    assert [entry.created_by for entry in built.image.config.history] == [
        "FROM base",
        "COPY a.txt /copied",
    ]
    again = run_build(store, text, executor=no_executor, contexts=contexts)
    assert again.outcomes == ["cached", "cached"]
    assert again.digest == built.digest


def test_a_context_that_is_an_image_is_a_base_with_its_config(store: Store) -> None:
    make_image(store, "real", {"f": b"1"}, env=("A=b",))
    contexts = {"stand-in": "docker-image://real", "none": "docker-image://scratch"}
    built = run_build(store, "FROM stand-in\n", executor=no_executor, contexts=contexts)
    assert set(built.tree) == {"f"}
    assert "A=b" in built.config.env
    assert run_build(store, "FROM none\n", executor=no_executor, contexts=contexts).tree == {}


def test_a_context_in_a_stage_s_place_keeps_the_stage_from_running(
    store: Store, context: Path
) -> None:
    text = "FROM scratch AS build\nRUN fail\nFROM scratch\nCOPY --from=build a.txt /\n"
    built = run_build(store, text, executor=no_executor, contexts={"build": str(context)})
    assert set(built.tree) == {"a.txt"}
    assert built.outcomes == ["executed"]
    target = run_build(
        store, text, executor=no_executor, contexts={"build": str(context)}, target="build"
    )
    assert "a.txt" in target.tree


def test_a_cached_add_downloads_nothing(store: Store, context: Path) -> None:
    with serve({"/f": Page(b"remote", {"ETag": '"1"'})}) as server:
        text = f"FROM scratch\nADD {server.url}/f a.txt /x/\n"
        first = run_build(store, text, context=context, executor=no_executor)
        assert first.read("x/f") == b"remote"
        assert first.tree["x/f"].meta.mode == 0o600
        second = run_build(store, text, context=context, executor=no_executor)
        assert (second.outcomes, second.digest) == (["cached"], first.digest)
        assert [request.headers.get("if-none-match") for request in server.requests] == [
            None,
            '"1"',
        ]
        server.pages["/f"] = Page(b"other", {"ETag": '"2"'})
        third = run_build(store, text, context=context, executor=no_executor)
        assert third.outcomes == ["executed"]
        assert third.read("x/f") == b"other"


def test_an_add_that_is_pinned_is_cached_without_a_network(store: Store) -> None:
    with serve({"/f": Page(b"remote")}) as server:
        text = f"FROM scratch\nADD --checksum={Digest.of(b'remote')} {server.url}/f /f\n"
        first = run_build(store, text, executor=no_executor)
    assert run_build(store, text, executor=no_executor).digest == first.digest


def test_a_wrong_checksum_leaves_no_image_and_no_layer(store: Store) -> None:
    with serve({"/f": Page(b"remote")}) as server:
        text = f"FROM scratch\nADD --checksum={Digest.of(b'x')} {server.url}/f /f\n"
        for _ in range(2):
            with pytest.raises(ChecksumError) as caught:
                run_build(store, text, executor=no_executor, tag="it")
            assert caught.value.excerpt.startswith("Dockerfile:2")
    assert store.images.list() == []
    assert list(store.layers.all()) == []


def test_what_was_fetched_is_unpacked_where_asked_and_owned_as_asked(store: Store) -> None:
    archive = make_tar({"m": b"1"})
    with serve({"/a.tar": Page(archive)}) as server:
        url = f"{server.url}/a.tar"
        text = f"FROM scratch\nADD {url} /plain/\nADD --unpack=true --chown=5:6 {url} /out/\n"
        text += f"ADD --chmod=640 --chown=7 {url} /named\n"
        built = run_build(store, text, executor=no_executor)
    assert set(built.tree) == {"named", "out", "out/m", "plain", "plain/a.tar"}
    assert built.read("plain/a.tar") == archive
    assert (built.tree["out/m"].meta.uid, built.tree["out/m"].meta.gid) == (5, 6)
    meta = built.tree["named"].meta
    assert (meta.mode, meta.uid, meta.gid) == (0o640, 7, 7)


def test_passwords_of_urls_are_in_no_history_record_event_or_error(
    store: Store, tmp_path: Path
) -> None:
    events: list[Event] = []
    with serve({"/f": Page(b"1")}) as server:
        url = server.url.replace("//", "//me:secret@")
        text = f"FROM scratch\nADD {url}/f /f\nADD {url}/absent /g\n"
        with pytest.raises(FetchError) as caught:
            run_build(store, text, executor=no_executor, events=events)
        built = run_build(store, text.partition("ADD " + url + "/absent")[0], executor=no_executor)
    assert "secret" not in f"{caught.value} {caught.value.hint} {caught.value.excerpt}"
    assert "xxxxx@" in caught.value.excerpt
    assert "secret" not in repr(events)
    assert "secret" not in repr(built.image)
    store.flush()
    kept = [path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert kept
    assert not any(b"secret" in data for data in kept)


@pytest.mark.needs_git
def test_a_repository_is_added_and_cached_by_its_commit(store: Store, tmp_path: Path) -> None:
    repository = Repository.make(tmp_path / "served/x.git")
    work = write_files(tmp_path / "work", {"src/a": b"1", "top": b"2"})
    commit = repository.commit(work)
    with serve_git(tmp_path / "served") as address:
        text = f"FROM scratch\nADD --chown=3 {address}/x.git /all\n"
        text += f"ADD {address}/x.git#{commit}:src /\n"
        built = run_build(store, text, executor=no_executor)
        assert set(built.tree) == {"a", "all", "all/src", "all/src/a", "all/top"}
        assert built.tree["all/top"].meta.uid == 3
        assert built.tree["a"].meta.mtime_ns == EPOCH_OF_COMMITS_NS
        assert run_build(store, text, executor=no_executor).outcomes == ["cached", "cached"]
        # of another size: git may take a file of the same size and second for the same
        repository.commit(write_files(work, {"top": b"three"}))
        changed = run_build(store, text, executor=no_executor)
        assert changed.read("all/top") == b"three"
        assert changed.read("a") == b"1"


EPOCH_OF_COMMITS_NS = 1_600_000_000 * 10**9


def test_an_archive_is_a_context(store: Store, tmp_path: Path) -> None:
    with ExitStack() as cleanup:
        data = make_tar({"a": b"1", ".dockerignore": b"a"}, mtime_s=9)
        tree = TarTree(io.BytesIO(data), cleanup, directory=tmp_path, description="the archive")
        built = run_build(store, "FROM scratch\nCOPY . /\n", context=tree, executor=no_executor)
    assert set(built.tree) == {".dockerignore", "a"}
    assert built.tree["a"].meta.mtime_ns == 9 * 10**9


# Platforms.


ARM = Platform(os="linux", architecture="arm", variant="v7")


def test_the_image_says_for_which_platform_it_was_built(store: Store) -> None:
    text = (
        "FROM scratch\nARG TARGETPLATFORM BUILDPLATFORM\nLABEL t=$TARGETPLATFORM b=$BUILDPLATFORM\n"
    )
    built = run_build(store, text, executor=no_executor, platform=ARM)
    config = built.image.config
    assert (config.os, config.architecture, config.variant) == ("linux", "arm", "v7")
    host = name_of(host_platform())
    assert dict(built.config.labels) == {"t": "linux/arm/v7", "b": host}


def test_of_an_index_the_platform_s_image_is_the_base(store: Store) -> None:
    names = {"linux/arm/v7": ARM, name_of(host_platform()): host_platform()}
    entries = []
    for name, platform in names.items():
        image = make_image(store, "part", {"is": name.encode()}, platform=platform)
        entries.append(replace(image.descriptor, platform=platform))
    index = Index(manifests=tuple(entries))
    with store.blobs.writer() as writer:
        writer.write(index.encode())
        info = writer.commit()
    entry = Descriptor(
        media_type=index.media_type, digest=info.digest, size_bytes=info.size_bytes,
        annotations=(("io.containerd.image.name", "docker.io/library/multi:latest"),),
    )  # fmt: skip
    store.images.rewrite([entry])
    text = "FROM --platform=$BUILDPLATFORM multi AS b\nFROM multi\nCOPY --from=b /is /build\n"
    built = run_build(store, text, executor=no_executor, platform=ARM)
    assert built.read("is") == b"linux/arm/v7"
    assert built.read("build") == name_of(host_platform()).encode()
    assert built.notices == []
    riscv = Platform(os="linux", architecture="riscv64")
    with pytest.raises(NotFoundError, match="linux/riscv64"):
        run_build(store, "FROM multi\n", executor=no_executor, platform=riscv)


def test_a_base_for_another_platform_is_told(store: Store) -> None:
    make_image(store, "base", {"f": b""}, platform=ARM)
    built = run_build(store, "FROM base\n", executor=no_executor)
    assert "InvalidBaseImagePlatform" in repr(built.events)
    assert built.image.config.architecture == "arm"  # nobody said otherwise


def test_steps_of_one_platform_are_no_hits_for_another(store: Store) -> None:
    text = "FROM scratch\nCOPY <<EOF /f\nEOF\n"
    run_build(store, text, executor=no_executor)
    other = run_build(store, text, executor=no_executor, platform=ARM)
    assert other.outcomes != ["cached"]


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("RUN --mount=type=cach,target=/c true", "unsupported mount type 'cach'"),
        ("RUN --network=host true", "network.host is not allowed"),
        ("RUN --security=insecure true", "security.insecure is not allowed"),
        ("RUN --device=vendor.com/gpu true", "RUN --device is not supported"),
    ],
)
def test_mistakes_in_a_late_run_are_found_before_the_first_is_executed(
    store: Store, context: Path, instruction: str, message: str
) -> None:
    text = f"FROM scratch\nRUN true\n{instruction}\n"
    fake = FakeExecutor()
    with pytest.raises((BuilderError, DockerfileError), match=message):
        run_build(store, text, context=context, executor=fake)
    assert fake.scripts == []
    # of a stage that nobody needs, nothing is
    spared = f"FROM scratch AS unneeded\n{instruction}\nFROM scratch\nRUN true\n"
    run_build(store, spared, context=context, executor=fake)
    assert fake.scripts == ["true"]
