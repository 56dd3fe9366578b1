import os
from pathlib import Path

import pytest

from builder.errors import NetworkError
from builder.network.leases import take, take_this
from builder.network.subnets import parse_subnet
from tests.support.holders import holder

SUBNET = parse_subnet("10.9.8.0/29")  # .1 to .6
GATEWAY = "10.9.8.1"


def test_addresses_are_given_in_turn_and_never_the_gateway_s(tmp_path: Path) -> None:
    leases = [take(tmp_path, SUBNET, gateway=GATEWAY) for _ in range(5)]
    assert [lease.address for lease in leases] == [f"10.9.8.{n}" for n in range(2, 7)]
    with pytest.raises(NetworkError, match=r"every address of 10.9.8.0/29 is taken"):
        take(tmp_path, SUBNET, gateway=GATEWAY)
    leases[2].release()
    assert take(tmp_path, SUBNET, gateway=GATEWAY).address == "10.9.8.4"


def test_one_that_was_just_freed_is_not_the_next(tmp_path: Path) -> None:
    seen = []
    for _ in range(6):
        lease = take(tmp_path, SUBNET, gateway=GATEWAY)
        seen.append(lease.address)
        lease.release()
    assert seen == [*(f"10.9.8.{n}" for n in range(2, 7)), "10.9.8.2"]


def test_one_that_is_asked_for_is_given_once(tmp_path: Path) -> None:
    lease = take_this(tmp_path, SUBNET, gateway=GATEWAY, address="10.9.8.3")
    with pytest.raises(NetworkError, match=r"10.9.8.3 is in use"):
        take_this(tmp_path, SUBNET, gateway=GATEWAY, address="10.9.8.3")
    lease.release()
    lease.release()
    take_this(tmp_path, SUBNET, gateway=GATEWAY, address="10.9.8.3").release()


@pytest.mark.parametrize("address", ["10.9.8.0", "10.9.8.7", "10.9.9.2", "fd00::2"])
def test_one_of_another_subnet_cannot_be_had(tmp_path: Path, address: str) -> None:
    with pytest.raises(NetworkError, match="none of the subnet"):
        take_this(tmp_path, SUBNET, gateway=GATEWAY, address=address)


def test_the_gateway_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="in use"):
        take_this(tmp_path, SUBNET, gateway=GATEWAY, address=GATEWAY)


def test_a_killed_holder_frees_its_address(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\n"
        "from builder.network.leases import take\n"
        "from builder.network.subnets import parse_subnet\n"
        f"lease = take(Path({str(tmp_path)!r}), parse_subnet('{SUBNET}'), gateway='{GATEWAY}')\n"
        "print(lease.address, flush=True)"
    )
    with holder(program) as said:
        assert said == "10.9.8.2"
        with pytest.raises(NetworkError, match="in use"):
            take_this(tmp_path, SUBNET, gateway=GATEWAY, address="10.9.8.2")
    take_this(tmp_path, SUBNET, gateway=GATEWAY, address="10.9.8.2").release()


@pytest.mark.parametrize("damage", ["", "x", "99999"])
def test_a_damaged_note_of_the_last_one_does_no_harm(tmp_path: Path, damage: str) -> None:
    (tmp_path / "last").write_text(damage)
    lease = take(tmp_path, SUBNET, gateway=GATEWAY)
    assert SUBNET.contains(lease.address)
    lease.release()


def test_nobody_else_inherits_a_lease(tmp_path: Path) -> None:
    lease = take(tmp_path, SUBNET, gateway=GATEWAY)
    assert os.get_inheritable(lease._fd) is False
    lease.release()
