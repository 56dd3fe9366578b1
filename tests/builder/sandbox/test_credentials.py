"""Changes of ids, compared with what the kernel does to a process of ours."""

import contextlib
import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.sandbox import namespaces, syscalls
from builder.sandbox.credentials import (
    KEEP,
    Credentials,
    Ids,
    set_file,
    set_one,
    set_three,
    set_two,
)

SMALL = st.integers(0, 3)
WANTED = SMALL | st.just(KEEP)
IDS = st.builds(lambda r, e, s: Ids(r, e, s, e), SMALL, SMALL, SMALL)


def by_the_kernel(
    ids: Ids, change: Callable[[], None], *, privileged: bool
) -> tuple[int, int, int] | None:
    """What the kernel makes of real, effective and saved uid; None where it refuses."""
    reader, writer = os.pipe()

    def play() -> None:
        everything = syscalls.permitted_capabilities()
        syscalls.prctl(8, 1)  # PR_SET_KEEPCAPS
        os.setresuid(*ids.three)
        rights = everything & 1 << 7 if privileged else 0  # CAP_SETUID
        syscalls.capset(rights, rights, 0)
        try:
            change()
        except PermissionError:
            return
        os.write(writer, " ".join(map(str, os.getresuid())).encode())

    try:
        assert namespaces.attempt(play) == 0
        os.close(writer)
        found = os.read(reader, 100)
    finally:
        os.close(reader)
    if not found:
        return None
    real, effective, saved = map(int, found.split())
    return real, effective, saved


def ours(change: Callable[[], Ids]) -> tuple[int, int, int] | None:
    try:
        return change().three
    except PermissionError:
        return None


def signed(number: int) -> int:
    return -1 if number == KEEP else number


@pytest.mark.needs_root
class TestAsTheKernel:
    """Every combination that a few ids give, one process each: a sample of them."""

    @pytest.mark.parametrize("privileged", [True, False])
    @pytest.mark.parametrize("ids", [Ids(0, 0, 0, 0), Ids(1, 2, 3, 2), Ids(1, 2, 2, 2)])
    @pytest.mark.parametrize("wanted", range(4))
    def test_setuid(self, ids: Ids, wanted: int, privileged: bool) -> None:
        expected = by_the_kernel(ids, lambda: os.setuid(wanted), privileged=privileged)
        assert ours(lambda: set_one(ids, wanted, privileged=privileged)) == expected

    @pytest.mark.parametrize("privileged", [True, False])
    @pytest.mark.parametrize("ids", [Ids(1, 2, 3, 2), Ids(1, 1, 3, 1)])
    @pytest.mark.parametrize("real", [0, 1, 2, 3, KEEP])
    @pytest.mark.parametrize("effective", [1, 3, KEEP])
    def test_setreuid(self, ids: Ids, real: int, effective: int, privileged: bool) -> None:
        words = (signed(real), signed(effective))
        expected = by_the_kernel(ids, lambda: os.setreuid(*words), privileged=privileged)
        assert ours(lambda: set_two(ids, real, effective, privileged=privileged)) == expected

    @pytest.mark.parametrize("privileged", [True, False])
    @pytest.mark.parametrize(
        "wanted", [(1, 1, 1), (3, 2, 1), (KEEP, 3, KEEP), (0, KEEP, KEEP), (1, 2, 5), (KEEP,) * 3]
    )
    def test_setresuid(self, wanted: tuple[int, int, int], privileged: bool) -> None:
        ids = Ids(1, 2, 3, 2)
        words = [signed(number) for number in wanted]
        expected = by_the_kernel(ids, lambda: os.setresuid(*words), privileged=privileged)
        assert ours(lambda: set_three(ids, *wanted, privileged=privileged)) == expected


@given(IDS, WANTED, WANTED, WANTED)
def test_without_rights_one_becomes_nobody_new(ids: Ids, a: int, b: int, c: int) -> None:
    changes: tuple[Callable[[], Ids], ...] = (
        lambda: set_one(ids, a & 3, privileged=False),
        lambda: set_two(ids, a, b, privileged=False),
        lambda: set_three(ids, a, b, c, privileged=False),
        lambda: set_file(ids, a & 3, privileged=False),
    )
    for change in changes:
        with contextlib.suppress(PermissionError):
            assert {*change()} <= {*ids}


@given(IDS, WANTED, WANTED, WANTED)
def test_files_belong_to_whom_one_acts_as(ids: Ids, a: int, b: int, c: int) -> None:
    for new in (
        set_two(ids, a, b, privileged=True),
        set_three(ids, a, b, c, privileged=True),
        set_one(ids, a & 3, privileged=True),
    ):
        assert new.file == new.effective


def test_the_file_id_changes_alone_and_never_fails() -> None:
    ids = Ids(1, 2, 3, 2)
    assert set_file(ids, 3, privileged=False) == Ids(1, 2, 3, 3)
    assert set_file(ids, 9, privileged=False) == ids
    assert set_file(ids, 9, privileged=True) == Ids(1, 2, 3, 9)
    assert set_file(ids, 2**31, privileged=True) == ids


@pytest.mark.parametrize("number", [2**31, KEEP - 1])
def test_a_number_that_is_no_id_is_refused(number: int) -> None:
    ids = Ids.of(0)
    with pytest.raises(ValueError, match="no id"):
        set_one(ids, number, privileged=True)
    with pytest.raises(ValueError, match="no id"):
        set_three(ids, KEEP, number, KEEP, privileged=True)


def test_the_owner_of_new_files() -> None:
    who = Credentials.of(33, 34, (50,))
    assert who.owner == (33, 34)
    assert who._replace(users=who.users._replace(file=5)).owner == (5, 34)


def test_an_owner_may_give_a_file_to_groups_of_his_only() -> None:
    who = Credentials.of(33, 34, (50,))
    assert who.may_chown((33, 1), (33, 34))
    assert who.may_chown((33, 1), (33, 50))
    assert who.may_chown((33, 1), (33, 1))
    assert not who.may_chown((33, 1), (33, 2))
    assert not who.may_chown((33, 34), (0, 34))
    assert not who.may_chown((0, 34), (0, 34))
