"""Moments of images: what they are called, what they hold, what is unknown of foreign ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import NoSuchMomentError, SquashedMomentError
from builder.squash import Squash
from builder.timetravel import at, base_count, is_address, moments, resolve
from layerstore import Image, NotFoundError, Reference, Store, prune, remove_tree
from tests.support.executors import FakeExecutor
from tests.support.images import make_image, run_build
from tests.support.layers import bytes_of
from tests.support.stores import findings

TEXT = """\
# comment
FROM base AS early
RUN echo early > /early
FROM base
ENV A=1
RUN echo one > /f

WORKDIR /w
RUN echo two > /f \\
 && true
ENV A=2
RUN echo three > /f
CMD ["cat", "/f"]
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        make_image(store, "base", {"b": b"base"}, {"c": b"more"}, cmd=("sh",), env=("A=0",))
        yield store


@pytest.fixture
def app(store: Store) -> Image:
    return run_build(store, TEXT, executor=FakeExecutor(), tag="app:latest").image


def content(store: Store, image: Image, path: str = "f") -> str | None:
    node = store.layers.tree(image.layers).get(path)
    return None if node is None else bytes_of(store.layers.read_file(image.layers, node)).decode()


def variable(image: Image) -> str:
    return dict(pair.split("=", 1) for pair in image.config.config.env)["A"]


@pytest.mark.parametrize(
    ("name", "file", "env", "workdir"),
    [
        ("app@0", None, "0", ""),
        ("app@1", None, "1", ""),
        ("app@2", "one\n", "1", ""),
        ("app@3", "one\n", "1", "/w"),
        ("app@4", "two\n", "1", "/w"),
        ("app@5", "two\n", "2", "/w"),
        ("app@6", "three\n", "2", "/w"),
        ("app@7", "three\n", "2", "/w"),
        ("app:latest@4", "two\n", "1", "/w"),
        ("app~0", "three\n", "2", "/w"),
        ("app~", "three\n", "2", "/w"),
        ("app~1", "three\n", "2", "/w"),
        ("app~3", "two\n", "1", "/w"),
        ("app~7", None, "0", ""),
    ],
)
@pytest.mark.usefixtures("app")
def test_a_number_names_what_was_then(
    store: Store, name: str, file: str | None, env: str, workdir: str
) -> None:
    moment = resolve(store, name)
    assert (content(store, moment), variable(moment)) == (file, env)
    assert moment.config.config.working_dir == workdir
    assert content(store, moment, "b") == "base"


@pytest.mark.parametrize(
    ("line", "number"),
    [(1, 0), (3, 0), (4, 0), (5, 1), (6, 2), (7, 2), (8, 3), (9, 4), (10, 4), (11, 5), (99, 7)],
)
def test_a_line_names_the_last_instruction_that_begins_there_or_above(
    store: Store, app: Image, line: int, number: int
) -> None:
    assert resolve(store, f"app@L{line}").id == at(store, app, moments(store.cache, app), number).id


def test_the_last_moment_is_the_image(store: Store, app: Image) -> None:
    assert resolve(store, "app@7") == app == resolve(store, "app")


def test_a_moment_has_the_command_that_was_in_force(store: Store, app: Image) -> None:
    assert resolve(store, "app@6").config.config.cmd == ("sh",)
    assert app.config.config.cmd == ("cat", "/f")


@pytest.mark.parametrize("name", ["app@8", "app~8", "app@999999999"])
@pytest.mark.usefixtures("app")
def test_more_instructions_than_there_are(store: Store, name: str) -> None:
    with pytest.raises(NoSuchMomentError, match=f"no such moment: {name}") as caught:
        resolve(store, name)
    assert "app has 7 instructions" in caught.value.hint


def test_the_image_must_be_there(store: Store) -> None:
    with pytest.raises(NotFoundError):
        resolve(store, "nothing@1")


@pytest.mark.parametrize(
    "name",
    [
        "app",
        "app:1",
        "a/b@sha256:" + "0" * 64,
        "app@x",
        "app@",
        "@1",
        "~1",
        "app@L",
        "app@1234567890",
    ],
)
def test_other_names_are_no_addresses(name: str) -> None:
    assert not is_address(name)


def test_the_base_is_not_counted(store: Store, app: Image) -> None:
    assert base_count(store.cache, app) == 2
    assert [moment.number for moment in moments(store.cache, app)] == list(range(8))
    assert moments(store.cache, app)[2].instruction == "RUN /bin/sh -c echo one > /f"


def test_a_moment_has_moments_of_its_own(store: Store, app: Image) -> None:
    """So that `layers app@3` counts as `layers app` does."""
    moment = resolve(store, "app@3")
    assert base_count(store.cache, moment) == 2
    assert [m.line for m in moments(store.cache, moment)] == [4, 5, 6, 8]
    store.images.tag(moment, Reference.parse("third"))
    assert content(store, resolve(store, "third@2")) == "one\n"


def test_a_moment_is_a_sound_image(store: Store, app: Image) -> None:
    for number in range(8):
        store.images.tag(resolve(store, f"app@{number}"), Reference.parse(f"m:{number}"))
    store.flush()
    assert findings(store) == []


def test_looking_leaves_nothing(tmp_path: Path, store: Store, app: Image) -> None:
    store.flush()
    before = sorted(path.name for path in (tmp_path / "store/blobs/sha256").iterdir())
    other = Store.open(tmp_path / "store")
    resolve(other, "app@3")
    other.close()
    assert sorted(path.name for path in (tmp_path / "store/blobs/sha256").iterdir()) == before


def test_of_a_foreign_image_all_instructions_are_counted(store: Store) -> None:
    """Its lines are unknown, and its configuration is that of the whole."""
    assert base_count(store.cache, store.images.resolve("base")) == 0
    moment = resolve(store, "base@1")
    assert content(store, moment, "b") == "base"
    assert content(store, moment, "c") is None
    assert variable(moment) == "0"
    assert not moments(store.cache, store.images.resolve("base"))[1].is_exact
    assert resolve(store, "base@0").layers == ()
    with pytest.raises(NoSuchMomentError, match="base@L1") as caught:
        resolve(store, "base@L1")
    assert "not built here" in caught.value.hint


def test_the_same_image_of_other_lines_has_the_newest_lines(store: Store, app: Image) -> None:
    moved = run_build(store, "# one more\n" + TEXT, executor=FakeExecutor(), tag="app:latest")
    assert moved.image.id == app.id
    assert [m.line for m in moments(store.cache, app)] == [5, 6, 7, 9, 10, 12, 13, 14]


def test_a_damaged_note_is_as_good_as_none(store: Store, app: Image) -> None:
    for damage in (b"", b"[1]\n", b"[]\nxxx", b"[4, 5]\n" + b"\0" * 40):
        store.cache.put_memo("moments with one history", app.id, damage)
        assert base_count(store.cache, app) == 0


def test_more_variables_than_can_be_noted_cost_the_lines_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.timetravel._VARIABLES_MAX", 3)
    run_build(store, TEXT, executor=FakeExecutor(), tag="app:latest")
    app = store.images.resolve("app")
    found = moments(store.cache, app)
    assert {moment.line for moment in found} == {0}
    assert [each.instruction for each in found[1:]] == [h.created_by for h in app.config.history]


def test_labels_of_the_command_line_are_on_every_moment(store: Store) -> None:
    run_build(store, TEXT, executor=FakeExecutor(), tag="app:latest", labels={"a": "b"})
    assert resolve(store, "app@1").config.config.labels == (("a", "b"),)


def test_instructions_of_the_stages_below_count_too(store: Store) -> None:
    text = (
        "FROM base AS a\nRUN echo a > /f\nFROM base AS other\nRUN echo o > /f\n"
        "FROM a AS b\nRUN echo b > /f\nFROM b\n"
    )
    run_build(store, text, executor=FakeExecutor(), tag="app:latest")
    assert base_count(store.cache, store.images.resolve("app")) == 2
    assert [content(store, resolve(store, f"app@{number}")) for number in range(3)] == [
        None,
        "a\n",
        "b\n",
    ]
    assert content(store, resolve(store, "app@L3")) == "a\n"


def test_triggers_of_the_base_are_instructions(store: Store) -> None:
    fake = FakeExecutor()
    run_build(store, "FROM base\nONBUILD RUN echo t > /f\n", executor=fake, tag="onbuild:latest")
    run_build(store, "FROM onbuild\nRUN echo own > /f\n", executor=fake, tag="app:latest")
    assert content(store, resolve(store, "app@0")) is None
    assert content(store, resolve(store, "app@1")) == "t\n"
    assert content(store, resolve(store, "app@2")) == "own\n"


@given(kinds=st.lists(st.sampled_from(["run", "env", "label", "workdir"]), max_size=12))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_every_moment_is_what_the_dockerfile_up_to_there_makes(
    store: Store, kinds: list[str]
) -> None:
    """The oracle: build only the first N instructions."""
    texts = {
        "run": "RUN echo {n} > /f",
        "env": "ENV A={n}",
        "label": "LABEL l={n}",
        "workdir": "WORKDIR /w{n}",
    }
    lines = [texts[kind].format(n=number) for number, kind in enumerate(kinds)]
    fake = FakeExecutor()

    def build(count: int) -> Image:
        text = "\n".join(["FROM base", *lines[:count], ""])
        return run_build(store, text, executor=fake, tag=f"n:{count}").image

    image = build(len(lines))
    for number in range(len(lines) + 1):
        assert resolve(store, f"n:{len(lines)}@{number}").id == build(number).id
    assert resolve(store, f"n:{len(lines)}") == image


def test_what_was_squashed_is_there_as_long_as_its_steps_are_cached(store: Store) -> None:
    run_build(store, TEXT, executor=FakeExecutor(), tag="app:latest", squash=Squash())
    assert content(store, resolve(store, "app@2")) == "one\n"
    store.flush()
    store.close()
    with Store.open(store.root) as again:
        prune(again, cache="all")
        with pytest.raises(SquashedMomentError, match="@2 were squashed") as caught:
            resolve(again, "app@2")
        assert caught.value.hint == "build the image again"
        assert content(again, resolve(again, "app")) == "three\n"
        assert content(again, resolve(again, "app@0"), "b") == "base"


def test_a_layer_that_the_image_has_lost_as_well_is_damage(store: Store, app: Image) -> None:
    store.flush()
    lost = store.blob_path(app.layers[2].descriptor.digest)
    store.close()
    lost.chmod(0o600)
    lost.unlink()
    for checkout in (store.private / "snapshots").iterdir():  # it would be made again of that
        remove_tree(checkout)
    with Store.open(store.root) as again, pytest.raises(NotFoundError, match="no such layer"):
        at(again, app, moments(again.cache, app), 2)
