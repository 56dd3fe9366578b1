"""What a container is given of networks; in a network of the test's own."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from builder import network
from builder.errors import NetworkUnavailableError, NoSuchContainerError, WrongStateError
from builder.network import bridges
from builder.runner.connect import Connection, connect
from builder.runner.lookup import start_time
from builder.runner.networking import Attached, Endpoint, Networking
from builder.runner.store import ContainerStore
from builder.sandbox import FileMount
from tests.support.containers import record_with

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_networks]


class Way:
    """Ways into networks for containers of one store, open until the test ends."""

    def __init__(self, containers: ContainerStore, cleanup: ExitStack) -> None:
        self.containers = containers
        self.cleanup = cleanup
        self.warnings: list[str] = []

    def __call__(self, network: str, **options: Any) -> Connection:
        record = record_with(network=network, hostname="me", networking=Networking(**options))
        return connect(record, self.containers, self.cleanup, self.warnings.append)


@pytest.fixture
def way(tmp_path: Path, own_network: Path) -> Iterator[Way]:
    containers = ContainerStore(tmp_path)
    containers.prepare()
    with ExitStack() as cleanup:
        yield Way(containers, cleanup)


def files(connection: Connection) -> dict[str, str]:
    assert all(isinstance(each, FileMount) for each in connection.files)
    return {
        each.target: each.content.decode()
        for each in connection.files
        if isinstance(each, FileMount)
    }


def test_the_default_is_a_bridge_of_ours(way: Way) -> None:
    connection = way("default")
    (attached,) = connection.attached
    assert attached.network == "bridge"
    assert isinstance(connection.network, tuple)
    (link,) = connection.network
    assert link.addresses[0] == f"{attached.address}/{attached.prefix}"
    assert link.gateways == (attached.gateway,)
    assert f"{attached.address}\tme\n" in files(connection)["/etc/hosts"]
    assert f"{attached.address6}\tme\n" in files(connection)["/etc/hosts"]
    assert files(connection)["/etc/hostname"] == "me\n"
    assert "nameserver" in files(connection)["/etc/resolv.conf"]
    assert way.warnings == []
    assert way("bridge").attached[0].address != attached.address


def test_the_hardware_address_may_be_chosen(way: Way) -> None:
    wish = Endpoint(network="default", mac="02:00:00:00:00:77")
    assert way("default", endpoints=(wish,)).attached[0].mac == "02:00:00:00:00:77"


def test_an_address_is_free_again_at_the_end(way: Way) -> None:
    (attached,) = way("default").attached
    lease = bridges.state_directory() / "lamina0" / attached.address
    import fcntl

    with lease.open() as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        way.cleanup.close()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_host_s_network_has_the_host_s_files(way: Way) -> None:
    connection = way("host")
    assert connection.network == "host"
    assert connection.attached == ()
    assert files(connection)["/etc/hosts"] == Path("/etc/hosts").read_text()
    assert files(connection)["/etc/resolv.conf"] == Path("/etc/resolv.conf").read_text()


def test_without_a_network_nothing_is_resolved(way: Way) -> None:
    connection = way("none")
    assert connection.network == "none"
    assert files(connection)["/etc/resolv.conf"] == ""
    assert "127.0.1.1\tme\n" in files(connection)["/etc/hosts"]


def test_what_is_asked_for_is_in_the_files(way: Way) -> None:
    asked = {"extra_hosts": (("db", "192.0.2.9"), ("us", "host-gateway"))}
    connection = way("default", servers=("192.0.2.53",), domainname="example", **asked)
    gateway, address = connection.attached[0].gateway, connection.attached[0].address
    lines = files(connection)["/etc/hosts"].splitlines()
    assert lines[-2:] == ["192.0.2.9\tdb", f"{gateway}\tus"]
    assert f"{address}\tme.example me" in lines
    assert "nameserver 192.0.2.53\n" in files(connection)["/etc/resolv.conf"]
    assert files(way("host", **asked))["/etc/hosts"].endswith("192.0.2.9\tdb\n127.0.0.1\tus\n")


def test_what_nobody_asked_for_is_a_warning_where_it_cannot_be(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NetworkUnavailableError("not here", hint="somewhere else")

    monkeypatch.setattr(network, "attach", refuse)
    assert way("default").network == "none"
    assert way.warnings == ["no network: not here (somewhere else)"]
    with pytest.raises(NetworkUnavailableError):
        way("bridge")
    assert len(way.warnings) == 1


class TestAnother:
    def running(self, way: Way, **changes: Any) -> str:
        """A record of a container that runs: this process stands for its PID 1."""
        other = record_with(
            id="b" * 64,
            name="other",
            hostname="other",
            network="bridge",
            state="running",
            pid=os.getpid(),
            pid_started=start_time(os.getpid()),
            attached=(Attached("bridge", "10.0.0.9", 24, "10.0.0.1", "", 0, "", "02::1", "eth0"),),
            **changes,
        )
        way.containers.make(other)
        return f"container:{other.id}"

    def test_its_network_is_shared_and_named(self, way: Way) -> None:
        connection = way(self.running(way))
        assert isinstance(connection.network, Path)
        assert connection.network.samefile("/proc/self/ns/net")
        assert "10.0.0.9\tother\n" in files(connection)["/etc/hosts"]

    def test_it_has_to_be_there_and_to_run(self, way: Way) -> None:
        with pytest.raises(NoSuchContainerError):
            way("container:nobody")
        name = self.running(way)
        record = way.containers.find("b" * 64)
        way.containers.write(record._replace(pid_started=1))  # the number is another's by now
        with pytest.raises(WrongStateError):
            way(name)
        way.containers.write(record._replace(pid=0, attached=(), state="exited"))
        with pytest.raises(WrongStateError):
            way(name)
