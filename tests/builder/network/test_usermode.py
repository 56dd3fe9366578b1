"""Networks of ordinary users: `.ci/as-user` is one, and may open /dev/net/tun."""

import subprocess
from pathlib import Path

import pytest

from builder.errors import NetworkUnavailableError
from builder.network import usermode
from tests.support.cli import REPOSITORY
from tests.support.waiting import wait_until

PRELUDE = """
import os, sys
from builder.sandbox import enter_user_namespace
from builder.sandbox.network import enter_network
enter_user_namespace()
from builder.network import usermode
usermode._PROGRAMS = (sys.argv[1],)
"""
SHOW = """
network = usermode.connect()
pid = os.fork()
if pid == 0:
    enter_network(network.namespace_fd)
    os.system("cat /proc/net/route; grep -c eth0 /proc/net/dev")
    os._exit(0)
os.waitpid(pid, 0)
print("closing", flush=True)
network.close()
network.close()
print("children", open(f"/proc/self/task/{os.getpid()}/children").read())
"""
LOOPBACK = """
import socket
server = socket.create_server(("127.0.0.1", 0))
network = usermode.connect()
enter_network(network.namespace_fd)
for address in ("127.0.0.1", network.gateway, "10.0.2.3"):
    try:
        socket.create_connection((address, server.getsockname()[1]), timeout=1)
        print("reached", address)
    except OSError:
        print("refused")
network.close()
"""
FORWARD = """
import socket
from builder.network.ports import Publication
from builder.network.proxy import forward
network = usermode.connect()
forwarding = forward(
    [Publication(8099, "tcp", "127.0.0.1")], network.address, namespace_fd=network.namespace_fd
)
reader, writer = os.pipe()
pid = os.fork()
if pid == 0:
    enter_network(network.namespace_fd)
    server = socket.create_server(("0.0.0.0", 8099))
    os.write(writer, b"x")
    server.accept()[0].sendall(b"from inside")
    os._exit(0)
os.read(reader, 1)
port = forwarding.published[0].host_port
print(socket.create_connection(("127.0.0.1", port), timeout=10).recv(100).decode())
os.waitpid(pid, 0)
forwarding.close()
network.close()
"""
KILLED = """
network = usermode.connect()
print(network._helper.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def as_user(script: str, program: str) -> str:
    """Run a script as an ordinary user; gives what it wrote."""
    python = str(REPOSITORY / ".venv/bin/python")
    done = subprocess.run(
        [str(REPOSITORY / ".ci/as-user"), "single", python, "-c", PRELUDE + script, program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode in (0, 137, -9), done.stderr
    return done.stdout


@pytest.mark.needs_root
@pytest.mark.needs_userns
@pytest.mark.needs_peers("/dev/net/tun")
@pytest.mark.parametrize(
    "program",
    [pytest.param(name, marks=pytest.mark.needs_peers(name)) for name in ("slirp4netns", "pasta")],
)
class TestPrograms:
    def test_there_is_a_device_with_a_way_out(self, program: str) -> None:
        lines = as_user(SHOW, program).splitlines()
        assert [line.split()[:2] for line in lines if line.startswith("eth0")] == [
            ["eth0", "00000000"],
            ["eth0", "0002000A"],
        ]
        assert lines[-3:] == ["1", "closing", "children "]

    def test_the_host_s_loopback_is_out_of_reach(self, program: str) -> None:
        assert as_user(LOOPBACK, program).split() == ["refused"] * 3

    def test_ports_are_passed_on_into_it(self, program: str) -> None:
        assert as_user(FORWARD, program) == "from inside\n"

    def test_nothing_outlives_a_killed_minder(self, program: str) -> None:
        pid = int(as_user(KILLED, program).split()[0])
        wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_without_a_program_there_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NetworkUnavailableError, match=r"pasta .* or slirp4netns") as caught:
        usermode.connect()
    assert "--network host" in caught.value.hint


def test_without_the_device_there_is_one_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "pasta"
    program.write_text("#!/bin/false\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(usermode, "_TUN", str(tmp_path / "tun"))
    with pytest.raises(NetworkUnavailableError, match=r"pasta needs .*/tun") as caught:
        usermode.connect()
    assert "chmod 0666" in caught.value.hint


@pytest.mark.needs_root
@pytest.mark.parametrize("program", ["pasta", "slirp4netns"])
def test_a_program_that_fails_is_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str
) -> None:
    fake = tmp_path / program
    fake.write_text("#!/bin/sh\necho it is broken >&2\nexit 1\n")
    fake.chmod(0o755)
    (tmp_path / "tun").touch()
    monkeypatch.setattr(usermode, "_PROGRAMS", (program,))
    monkeypatch.setattr(usermode, "_TUN", str(tmp_path / "tun"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(NetworkUnavailableError, match=f"{program} gives no network: it is broken"):
        usermode.connect()
