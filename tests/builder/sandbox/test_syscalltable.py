import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.sandbox import syscalls, syscalltable
from builder.sandbox.syscalltable import AARCH64, ARM, I386, X86_64, parse

TABLES = {"x86_64": X86_64, "i386": I386, "aarch64": AARCH64, "arm": ARM}
HEADERS = {
    "x86_64": (
        Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        Path("/usr/include/asm/unistd_64.h"),
    ),
    "i386": (
        Path("/usr/include/x86_64-linux-gnu/asm/unistd_32.h"),
        Path("/usr/include/asm/unistd_32.h"),
    ),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"),),
}
# Of the generic header: calls of single machines, and those with 64 bit times for 32 bit machines.
OTHERS = {"x86_64": (), "i386": (), "aarch64": (244, *range(403, 424))}


def test_names_are_numbered_in_order() -> None:
    assert parse("read write open") == {"read": 0, "write": 1, "open": 2}


def test_a_number_in_between_goes_for_the_next_name() -> None:
    assert parse("a @10 b c\n@20 d") == {"a": 0, "b": 10, "c": 11, "d": 20}


def test_an_empty_table_is_empty() -> None:
    assert parse(" \n") == {}


names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)


@given(
    st.dictionaries(names, st.integers(0, 1000), max_size=20).filter(
        lambda table: len(set(table.values())) == len(table)
    )
)
def test_every_table_can_be_written_this_way(table: dict[str, int]) -> None:
    text = " ".join(f"@{number} {name}" for name, number in table.items())
    assert parse(text) == table


@pytest.mark.parametrize("machine", TABLES)
def test_no_name_and_no_number_stands_twice(machine: str) -> None:
    words = [word for word in TABLES[machine].split() if not word.startswith("@")]
    table = parse(TABLES[machine])
    assert len(words) == len(table)
    assert len(set(table.values())) == len(table)
    assert list(table.values()) == sorted(table.values())


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_the_kernels(machine: str) -> None:
    """Whatever both know has the same number; headers are of another version."""
    header = next((path for path in HEADERS[machine] if path.exists()), None)
    if header is None:
        pytest.skip(f"no kernel headers for {machine} (Debian package linux-libc-dev)")
    known = {
        name: int(number)
        for name, number in re.findall(
            r"^#define __NR(?:3264)?_(\w+) (\d+)$", header.read_text(), re.MULTILINE
        )
    }
    table = parse(TABLES[machine])
    both = known.keys() & table.keys()
    assert {name: table[name] for name in both} == {name: known[name] for name in both}
    assert len(both) > 250
    missing = {
        name: number
        for name, number in known.items()
        if number <= max(table.values()) and number not in {*table.values(), *OTHERS[machine]}
    }
    assert missing == {}


@pytest.mark.parametrize("machine", TABLES)
def test_from_424_on_all_machines_agree(machine: str) -> None:
    def young(text: str) -> dict[str, int]:
        return {name: number for name, number in parse(text).items() if 424 <= number < 983040}

    mine, reference = young(TABLES[machine]), young(X86_64)
    assert {name: number for name, number in mine.items() if name in reference} == {
        name: number for name, number in reference.items() if name in mine
    }
    assert mine.keys() - reference.keys() == set()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_calls_that_are_made_here_have_the_numbers_of_the_table(machine: str) -> None:
    table = parse(TABLES[machine])
    assert {name: table[name] for name in syscalls._NUMBERS[machine]} == syscalls._NUMBERS[machine]
    common = {
        name.removeprefix("_SYS_").lower(): number
        for name, number in vars(syscalls).items()
        if name.startswith("_SYS_")
    }
    assert len(common) > 5
    assert {name: table[name] for name in common} == common


def test_the_tables_are_data_alone() -> None:
    assert {name for name in vars(syscalltable) if not name.startswith("__")} == {
        *("parse", "X86_64", "I386", "AARCH64", "ARM"),
    }
