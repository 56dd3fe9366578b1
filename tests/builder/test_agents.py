"""The relay to an SSH agent: what gets through, what does not, and what becomes of it."""

import os
import select
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.agents import AgentRelay

LIST, SIGN, ADD, REMOVE_ALL, LOCK, EXTENSION = 11, 13, 17, 19, 22, 27
FAILURE = b"\0\0\0\1\5"


def message(number: int, content: bytes = b"") -> bytes:
    return (1 + len(content)).to_bytes(4, "big") + bytes([number]) + content


class Agent:
    """An agent that answers every message with the same bytes, twice as long."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received: list[bytes] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(os.fspath(path))
        self.listener.listen()
        self.connections: dict[int, socket.socket] = {}

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self.listener.fileno(), *self.connections)

    def serve(self, fd: int) -> None:
        if fd == self.listener.fileno():
            connection, _ = self.listener.accept()
            self.connections[connection.fileno()] = connection
            return
        try:
            data = self.connections[fd].recv(1 << 20)
            self.connections[fd].sendall(data * 2)
        except ConnectionError:
            data = b""
        if data:
            self.received.append(data)
        else:
            self.connections.pop(fd).close()

    def close(self) -> None:
        for connection in self.connections.values():
            connection.close()
        self.listener.close()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "real")
    yield agent
    agent.close()


@pytest.fixture
def relay(agent: Agent, tmp_path: Path) -> Iterator[AgentRelay]:
    directory = tmp_path / ("long" * 30)  # more than a socket's name may have
    directory.mkdir()
    with AgentRelay(agent.path, directory) as relay:
        yield relay


def connect(relay: AgentRelay) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fd = os.open(relay.path.parent, os.O_PATH)
    client.connect(f"/proc/self/fd/{fd}/{relay.path.name}")
    os.close(fd)
    client.settimeout(10)
    return client


def turn(*served: AgentRelay | Agent) -> None:
    """Serve until nothing is ready any more."""
    while True:
        poller = select.poll()
        owners = {fd: each for each in served for fd in each.descriptors}
        for fd in owners:
            poller.register(fd, select.POLLIN)
        ready = poller.poll(5)
        if not ready:
            return
        for fd, _ in ready:
            owners[fd].serve(fd)


@pytest.mark.parametrize("request_", [message(LIST), message(SIGN, b"key and data")])
def test_listing_and_signing_reach_the_agent_and_its_answer_the_program(
    agent: Agent, relay: AgentRelay, request_: bytes
) -> None:
    with connect(relay) as client:
        client.sendall(request_)
        turn(relay, agent)
        assert agent.received == [request_]
        assert client.recv(1000) == request_ * 2


@pytest.mark.parametrize("number", [ADD, REMOVE_ALL, LOCK, EXTENSION, 0, 255])
def test_nothing_else_does(agent: Agent, relay: AgentRelay, number: int) -> None:
    with connect(relay) as client:
        client.sendall(message(number, b"x" * 100))
        turn(relay, agent)
        assert client.recv(1000) == FAILURE
    assert agent.received == []


def test_messages_may_come_in_pieces_and_together(agent: Agent, relay: AgentRelay) -> None:
    first, second = message(SIGN, b"a" * 10), message(ADD)
    with connect(relay) as client:
        for at in range(len(first) - 1):
            client.sendall(first[at : at + 1])
            turn(relay, agent)
        assert agent.received == []
        client.sendall(first[-1:] + second + message(LIST))
        turn(relay, agent)
        assert b"".join(agent.received) == first + message(LIST)
        assert FAILURE in client.recv(1000)


@pytest.mark.parametrize("length", [0, 1 << 20, 0xFFFFFFFF])
def test_a_message_of_an_impossible_size_ends_the_connection(
    agent: Agent, relay: AgentRelay, length: int
) -> None:
    with connect(relay) as client:
        client.sendall(length.to_bytes(4, "big") + b"\x0b")
        turn(relay, agent)
        assert client.recv(1000) == b""
    assert len(relay.descriptors) == 1


def test_several_programs_are_kept_apart(agent: Agent, relay: AgentRelay) -> None:
    with connect(relay) as one, connect(relay) as two:
        one.sendall(message(SIGN, b"one"))
        two.sendall(message(SIGN, b"two"))
        turn(relay, agent)
        assert one.recv(1000) == message(SIGN, b"one") * 2
        assert two.recv(1000) == message(SIGN, b"two") * 2
    turn(relay, agent)
    assert len(relay.descriptors) == 1
    assert agent.connections == {}


def test_too_many_at_a_time_are_turned_away(agent: Agent, relay: AgentRelay) -> None:
    clients = []
    for _ in range(70):
        clients.append(connect(relay))
        turn(relay)
    assert len(relay.descriptors) == 1 + 2 * 64
    assert clients[-1].recv(10) == b""
    for client in clients:
        client.close()


def test_who_asks_and_never_reads_is_dropped(agent: Agent, relay: AgentRelay) -> None:
    with connect(relay) as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        request_ = message(SIGN, b"x" * 10_000)
        for _ in range(100):
            try:
                client.sendall(request_)
            except OSError:
                break
            turn(relay, agent)
        assert len(relay.descriptors) == 1


def test_an_agent_that_is_gone_is_a_closed_connection(agent: Agent, relay: AgentRelay) -> None:
    agent.close()
    with connect(relay) as client:
        turn(relay)
        assert client.recv(10) == b""


def test_the_socket_is_one_of_its_own(agent: Agent, relay: AgentRelay) -> None:
    assert stat.S_ISSOCK(relay.path.stat().st_mode)
    assert not relay.path.samefile(agent.path)


def test_leaving_ends_all_connections(agent: Agent, tmp_path: Path) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    with AgentRelay(agent.path, directory) as relay:
        client = connect(relay)
        turn(relay)
    assert client.recv(10) == b""
    client.close()
