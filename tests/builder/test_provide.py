"""Where bases and sources come from."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from builder import BuildRequest
from builder.context import ContextTree
from builder.errors import ContextError, UnknownStageError
from builder.plan import plan
from builder.provide import Provider
from builder.sources import SourceTree
from builder.state import StageState
from layerstore import NotFoundError, Store, TreePath, host_platform
from tests.support.images import dockerfile, make_image
from tests.support.sources import File, write_files

TWO_STAGES = "FROM scratch AS first\nFROM scratch AS second\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


class Asked:
    """A provider, asked as the last stage of `text` asks it."""

    def __init__(self, store: Store, cleanup: ExitStack, text: str, **request: object) -> None:
        parsed = dockerfile(text)
        self.stage = plan(parsed, target="", build_args={}, platform=host_platform()).stages[-1]
        self.finished: list[int] = []
        self.provider = Provider(
            BuildRequest(dockerfile=parsed, **{"context": None, **request}),  # type: ignore[arg-type]
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
