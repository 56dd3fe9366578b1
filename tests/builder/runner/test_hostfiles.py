from pathlib import Path
from typing import Any

import pytest

from builder.runner import hostfiles
from builder.runner.container import ContainerRecord
from builder.runner.networking import Attached, Endpoint, Networking
from builder.runner.store import ContainerStore
from tests.support.containers import record_with


@pytest.fixture
def containers(tmp_path: Path) -> ContainerStore:
    containers = ContainerStore(tmp_path)
    containers.prepare()
    return containers


def on(network: str, address: str, address6: str = "") -> Attached:
    return Attached(network, address, 24, "10.0.0.1", address6, 64, "", "02::1", "eth0")


def make(
    containers: ContainerStore, name: str, *attached: Attached, **changes: Any
) -> ContainerRecord:
    record = record_with(
        id=(name * 64)[:64], name=name, hostname=f"{name}-host", attached=attached, state="running"
    )._replace(**changes)
    containers.make(record)
    return record


def lines(containers: ContainerStore, record: ContainerRecord) -> list[str]:
    text = (containers.directory(record.id) / "hosts").read_text()
    return [line for line in text.splitlines() if line.startswith(("10.", "fd"))]


def test_those_on_a_network_name_each_other(containers: ContainerStore) -> None:
    networking = Networking(endpoints=(Endpoint(network="back", aliases=("db", "sql")),))
    one = make(containers, "one", on("back", "10.0.0.2", "fd::2"))
    two = make(containers, "two", on("back", "10.0.0.3"), networking=networking)
    hostfiles.refresh(containers, {"back"})
    assert lines(containers, one) == [
        "10.0.0.2\tone-host",
        "fd::2\tone-host",
        f"10.0.0.3\ttwo {two.id[:12]} db sql",
    ]
    assert lines(containers, two) == [
        "10.0.0.3\ttwo-host",
        f"10.0.0.2\tone {one.id[:12]}",
        f"fd::2\tone {one.id[:12]}",
    ]


def test_those_on_other_networks_are_not_named(containers: ContainerStore) -> None:
    one = make(containers, "one", on("back", "10.0.0.2"))
    make(containers, "two", on("front", "10.1.0.2"))
    make(containers, "both", on("front", "10.1.0.3"), on("back", "10.0.0.3"))
    hostfiles.refresh(containers, {"back", "front"})
    assert [line.split()[1] for line in lines(containers, one)] == ["one-host", "both"]


def test_who_has_ended_is_named_no_more(containers: ContainerStore) -> None:
    one = make(containers, "one", on("back", "10.0.0.2"))
    two = make(containers, "two", on("back", "10.0.0.3"))
    hostfiles.refresh(containers, {"back"})
    containers.write(two.turned("exited", attached=()))
    hostfiles.refresh_others(containers, two.attached)
    assert lines(containers, one) == ["10.0.0.2\tone-host"]


def test_the_file_stays_the_same_one(containers: ContainerStore) -> None:
    """It is mounted: another file of its name would not be seen."""
    one = make(containers, "one", on("back", "10.0.0.2"))
    hostfiles.refresh(containers, {"back"})
    path = containers.directory(one.id) / "hosts"
    before = path.stat().st_ino
    path.write_text("junk" * 5000)
    hostfiles.refresh(containers, {"back"})
    assert path.stat().st_ino == before
    assert "junk" not in path.read_text()


def test_it_is_not_written_through_a_link(containers: ContainerStore, tmp_path: Path) -> None:
    one = make(containers, "one", on("back", "10.0.0.2"))
    (tmp_path / "victim").write_text("kept")
    (containers.directory(one.id) / "hosts").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        hostfiles.write(containers, one, one.attached)
    assert (tmp_path / "victim").read_text() == "kept"


def test_on_the_default_network_there_is_nothing_to_keep(containers: ContainerStore) -> None:
    one = make(containers, "one", on("bridge", "10.0.0.2"))
    hostfiles.refresh_others(containers, one.attached)
    assert not (containers.directory(one.id) / "hosts").exists()
    assert hostfiles.named_networks((on("bridge", "10.0.0.2"), on("b", "10.1.0.2"))) == {"b"}


HOSTS = (("us", "host-gateway"), ("a", "10.9.9.9"))


def test_a_domain_and_hosts_of_the_caller_are_named(containers: ContainerStore) -> None:
    asked = Networking(
        domainname="example", extra_hosts=(("us", "host-gateway"), ("a", "10.9.9.9"))
    )
    one = make(containers, "one", on("back", "10.0.0.2"), networking=asked)
    hostfiles.write(containers, one, one.attached)
    assert lines(containers, one) == [
        "10.0.0.2\tone-host.example one-host",
        "10.0.0.1\tus",
        "10.9.9.9\ta",
    ]
