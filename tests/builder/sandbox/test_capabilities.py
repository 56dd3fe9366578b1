import re
from pathlib import Path

import pytest

from builder.sandbox import SandboxError, capabilities


def test_the_default_set_is_dockers() -> None:
    assert capabilities.mask(None) == 0xA80425FB
    assert len(capabilities.DEFAULT) == 14


def test_numbers_are_those_of_the_kernel() -> None:
    header = Path("/usr/include/linux/capability.h")
    if not header.exists():
        pytest.skip(f"{header} is missing: the numbers have no oracle")
    found = re.findall(r"^#define\s+(CAP_[A-Z_]+)\s+(\d+)$", header.read_text(), re.MULTILINE)
    assert tuple(name for name, _ in found) == capabilities.NAMES
    assert [int(number) for _, number in found] == list(range(len(found)))


def test_a_set_is_the_sum_of_its_bits() -> None:
    assert capabilities.mask(frozenset()) == 0
    assert capabilities.mask(frozenset({"CAP_CHOWN"})) == 1
    assert capabilities.mask(frozenset({"CAP_CHOWN", "CAP_SYS_ADMIN"})) == 1 | 1 << 21
    assert capabilities.mask(frozenset(capabilities.NAMES)) == (1 << 41) - 1


@pytest.mark.parametrize("name", ["", "CHOWN", "cap_chown", "CAP_NONESUCH", "ALL"])
def test_what_is_no_capability_is_an_error(name: str) -> None:
    with pytest.raises(SandboxError, match="no capability"):
        capabilities.mask(frozenset({name}))


def test_names_of_a_mask() -> None:
    assert capabilities.names(0) == ()
    assert capabilities.names(1 | 1 << 21) == ("CAP_CHOWN", "CAP_SYS_ADMIN")
    assert set(capabilities.names(capabilities.mask(None))) == capabilities.DEFAULT
