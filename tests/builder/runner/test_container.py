import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.runner.container import FOLLOWS, ContainerRecord, MountPoint, State, dump, load
from tests.support.containers import record_with

ALLOWED: set[tuple[State, State]] = {
    ("created", "running"),
    ("created", "created"),
    ("created", "dead"),
    ("running", "exited"),
    ("running", "created"),
    ("exited", "running"),
    ("exited", "created"),
    ("exited", "dead"),
}


@pytest.mark.parametrize("before", FOLLOWS)
@pytest.mark.parametrize("after", FOLLOWS)
def test_states_follow_as_drawn(before: State, after: State) -> None:
    record = record_with(state=before)
    if (before, after) in ALLOWED:
        assert record.turned(after).state == after
    else:
        with pytest.raises(AssertionError):
            record.turned(after)


def test_turning_changes_what_is_said_and_nothing_else() -> None:
    record = record_with(state="running")
    assert record.turned("exited", exit_code=3) == record._replace(state="exited", exit_code=3)


def test_argv_is_entrypoint_and_command() -> None:
    record = record_with(argv=("/entry", "-x", "a", "b"), entrypoint_length=2)
    assert record.entrypoint == ("/entry", "-x")
    assert record.command == ("a", "b")


def test_a_record_comes_back_from_its_file() -> None:
    mounts = (
        MountPoint(kind="bind", target="/a", source="/host", read_only=True),
        MountPoint(kind="volume", target="/b", source="data", anonymous=True, copy_up=False),
        MountPoint(kind="tmpfs", target="/c", size_bytes=5, mode=0o700),
    )
    record = record_with(mounts=mounts, labels=(("a", "1"), ("b", "")))
    assert load(dump(record)) == record


words = st.lists(st.text(max_size=8), max_size=4).map(tuple)


@settings(deadline=None)
@given(argv=words, env=words, name=st.text(max_size=8), code=st.integers(0, 255))
def test_any_words_survive(
    argv: tuple[str, ...], env: tuple[str, ...], name: str, code: int
) -> None:
    record = record_with(argv=argv, env=env, name=name, exit_code=code)
    assert load(dump(record)) == record


def test_words_that_are_not_utf8_survive() -> None:
    record = record_with(argv=("ls", "\udcff"))
    assert load(dump(record)) == record


def test_prune_finds_what_a_container_needs_in_its_file() -> None:
    fields = json.loads(dump(record_with()))
    assert fields["manifest_digest"].startswith("sha256:")
    assert all(layer.startswith("sha256:") for layer in fields["layers"])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"mounts": 3}',
        dump(record_with())[:-5],
        dump(record_with()).replace(b'"created"', b'"flying"'),
        dump(record_with()).replace(b'"argv"', b'"argw"'),
    ],
    ids=range(10),
)
def test_a_damaged_record_is_none(data: bytes) -> None:
    assert load(data) is None


@pytest.mark.parametrize("at", range(0, 600, 17))
def test_a_flipped_byte_anywhere_is_damage(at: int) -> None:
    data = bytearray(dump(record_with()))
    data[at % len(data)] ^= 0x40
    assert load(bytes(data)) is None


def test_a_record_is_constant() -> None:
    record = record_with()
    with pytest.raises(AttributeError):
        record.name = "x"  # type: ignore[misc]
    assert isinstance(record, ContainerRecord)
