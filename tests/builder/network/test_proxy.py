"""Passing on of ports, on loopback: a socket of the test stands for the container's."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from builder.errors import NetworkError
from builder.network.ports import Publication
from builder.network.proxy import forward
from tests.support.holders import holder, is_gone
from tests.support.waiting import wait_until

HOST = "127.0.0.1"


@contextmanager
def tcp_server() -> Iterator[int]:
    """Answers everything, in capitals, once the other side has said all."""
    server = socket.create_server((HOST, 0))

    def answer(connection: socket.socket) -> None:
        with connection:
            said = b""
            while part := connection.recv(1 << 16):
                said += part
            connection.sendall(said.upper())

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,)).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def ask(port: int, text: bytes, host: str = HOST) -> bytes:
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
        return answer


def free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
        return port


class TestTcp:
    def test_both_ways_are_passed_on_until_both_have_ended(self) -> None:
        with tcp_server() as port:
            forwarding = forward([Publication(port, "tcp", HOST)], HOST)
            (made,) = forwarding.published
            assert ask(made.host_port, b"hello") == b"HELLO"
            large = b"x" * (3 << 20)
            assert ask(made.host_port, large) == large.upper()
            forwarding.close()

    def test_without_an_address_it_is_reached_on_both_loopbacks(self) -> None:
        with tcp_server() as port:
            forwarding = forward([Publication(port)], HOST)
            assert [each.host_ip for each in forwarding.published] == ["0.0.0.0", "::"]
            assert len({each.host_port for each in forwarding.published}) == 1
            for host in (HOST, "::1"):
                assert ask(forwarding.published[0].host_port, b"hi", host) == b"HI"
            forwarding.close()

    def test_many_at_once(self) -> None:
        with tcp_server() as port:
            forwarding = forward([Publication(port, "tcp", HOST)], HOST)
            host_port = forwarding.published[0].host_port
            with socket.create_connection((HOST, host_port)):  # says nothing, and holds nobody up
                assert [ask(host_port, b"%d" % n) for n in range(20)] == [
                    b"%d" % n for n in range(20)
                ]
            forwarding.close()

    def test_where_nobody_listens_the_connection_ends(self) -> None:
        forwarding = forward([Publication(free_port(), "tcp", HOST)], HOST)
        with pytest.raises(ConnectionResetError):
            ask(forwarding.published[0].host_port, b"hello")
        forwarding.close()


def test_datagrams_find_back_to_each_sender() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((HOST, 0))
        server.settimeout(10)
        forwarding = forward([Publication(server.getsockname()[1], "udp", HOST)], HOST)
        host_port = forwarding.published[0].host_port
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
        ):
            for client, text in ((one, b"one"), (two, b"two"), (one, b"again")):
                client.settimeout(10)
                client.sendto(text, (HOST, host_port))
                data, sender = server.recvfrom(100)
                assert data == text
                server.sendto(data.upper(), sender)
                assert client.recv(100) == text.upper()
        forwarding.close()


def test_a_port_that_is_taken_is_an_error_before_anything_runs() -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(NetworkError, match="Address already in use") as caught:
            forward([Publication(80, "tcp", HOST, port)], HOST)
        assert f"{HOST}:{port}/tcp" in caught.value.message
        forwarding = forward([Publication(80, "tcp", HOST, port, port + 50)], HOST)
        assert port < forwarding.published[0].host_port <= port + 50
        forwarding.close()


def test_an_address_that_is_not_ours_is_an_error() -> None:
    with pytest.raises(NetworkError, match="Cannot assign"):
        forward([Publication(80, "tcp", "192.0.2.99", free_port())], HOST)


def test_ports_are_free_when_it_is_closed() -> None:
    port = free_port()
    for _ in range(2):
        forwarding = forward([Publication(80, "tcp", HOST, port)], HOST)
        forwarding.close()
        forwarding.close()


def test_it_ends_with_a_minder_that_is_killed() -> None:
    port = free_port()
    program = (
        "from builder.network.ports import Publication\n"
        "from builder.network.proxy import forward\n"
        f"forwarding = forward([Publication(80, 'tcp', '{HOST}', {port})], '{HOST}')\n"
        "print(forwarding._proxy.pid, flush=True)"
    )
    with holder(program) as said:
        pid = int(said)
        os.kill(pid, 0)
    wait_until(lambda: is_gone(pid))
    socket.create_server((HOST, port)).close()
