"""Symbolic modes, with chmod(1) as the second opinion."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import LoweringError
from builder.modes import parse_mode


def file_mode(text: str, mode: int = 0o644) -> str:
    return f"{parse_mode(text).apply(mode, is_dir=False):04o}"


def dir_mode(text: str, mode: int = 0o755) -> str:
    return f"{parse_mode(text).apply(mode, is_dir=True):04o}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", "0000"),
        ("7", "0007"),
        ("644", "0644"),
        ("0755", "0755"),
        ("4755", "4755"),
        ("7777", "7777"),
        ("000755", "0755"),  # any number of leading zeros, as strconv.ParseUint has it
    ],
)
def test_an_octal_mode_replaces_all_twelve_bits(text: str, expected: str) -> None:
    assert file_mode(text, 0o6611) == expected
    assert dir_mode(text, 0o1777) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8",
        "0888",
        "10000",
        "07777777",
        "0o755",
        "-1",
        "rwx",
        "u",
        "u=rwz",
        "u=rw,",
        ",u=rw",
        "u=rw;g=r",
        "u = r",
        "q+x",
        "+gu",
        "u+x\n",
        "755\n",
        "٧٥٥",
        "u=gx",
    ],
)
def test_nonsense_is_refused_with_the_two_forms_as_the_hint(text: str) -> None:
    with pytest.raises(LoweringError, match="invalid chmod parameter") as caught:
        parse_mode(text)
    assert "0755" in caught.value.hint
    assert "u=rwX,go=rX" in caught.value.hint


def test_the_documented_example_keeps_directories_and_programs_usable() -> None:
    assert file_mode("u=rwX,go=rX", 0o600) == "0644"
    assert file_mode("u=rwX,go=rX", 0o700) == "0755"
    assert dir_mode("u=rwX,go=rX", 0o700) == "0755"


def test_capital_x_asks_the_mode_before_all_changes() -> None:
    assert file_mode("a-x,u+X", 0o755) == "0744"
    assert file_mode("a-x,u+X", 0o644) == "0644"
    assert file_mode("u=rw,go=rX", 0o744) == "0655"


def test_clauses_apply_from_left_to_right() -> None:
    assert file_mode("u=rwx,g=u,o=g-wx") == "0774"
    assert file_mode("a=,u+rw") == "0600"
    assert file_mode("u+x,u-x", 0o600) == "0600"


def test_equals_copies_a_class_to_another() -> None:
    assert file_mode("go=u", 0o640) == "0666"
    assert file_mode("o=g", 0o640) == "0644"
    assert file_mode("g-o", 0o664) == "0624"


def test_who_may_be_left_out_and_means_all() -> None:
    assert file_mode("+x", 0o600) == "0711"
    assert file_mode("=r", 0o777) == "0444"
    assert file_mode("-w", 0o666) == "0444"


def test_set_id_bits_belong_to_user_and_group_and_the_sticky_bit_to_all_but_others() -> None:
    assert file_mode("u+s", 0o755) == "4755"
    assert file_mode("g+s", 0o755) == "2755"
    assert file_mode("o+s", 0o755) == "0755"
    assert file_mode("+s", 0o755) == "6755"
    assert file_mode("+t", 0o755) == "1755"
    assert file_mode("u+t", 0o755) == "1755"
    assert file_mode("o+t", 0o755) == "0755"
    assert file_mode("ug-s", 0o6755) == "0755"
    assert file_mode("-t", 0o1777) == "0777"


def test_assignment_clears_the_set_id_bits_of_its_classes_alone() -> None:
    assert file_mode("u=rwx", 0o6755) == "2755"
    assert file_mode("g=rx", 0o6755) == "4755"
    assert file_mode("o=rx", 0o6755) == "6755"
    assert file_mode("a=rx", 0o7755) == "1555"


def test_several_operators_may_follow_one_who() -> None:
    assert file_mode("u=r+x-r", 0o777) == "0177"
    assert file_mode("go=u-w", 0o751) == "0755"


def test_applying_does_not_change_what_was_parsed() -> None:
    change = parse_mode("+X")
    assert change.apply(0o644, is_dir=True) == 0o755
    assert change.apply(0o644, is_dir=False) == 0o644
    assert change == parse_mode("+X")


CLAUSES = st.lists(
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["u", "g", "o", "a", "ug", "go", "uo"]),
        st.sampled_from(["+", "-", "="]),
        st.sampled_from(["r", "w", "x", "rw", "rwx", "", "u", "g", "o", "X"]),
    ),
    min_size=1,
    max_size=3,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(clauses=CLAUSES, mode=st.integers(0, 0o777))
def test_chmod_does_the_same(tmp_path: Path, clauses: list[str], mode: int) -> None:
    if any("X" in clause for clause in clauses[1:]):
        clauses = clauses[:1]  # GNU's X asks the mode as it is by then, POSIX the unmodified one
    text = ",".join(clauses)
    subject = tmp_path / "subject"
    subject.touch()
    subject.chmod(mode)
    subprocess.run(["chmod", "--", text, subject], check=True)
    assert file_mode(text, mode) == f"{subject.stat().st_mode & 0o7777:04o}"
    subject.chmod(0o600)
