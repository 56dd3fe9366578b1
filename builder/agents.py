"""A socket that leads to the caller's SSH agent, for as long as a program runs.

The socket is one of our own, so that its mode and owner can be what the Dockerfile asks for and the
agent's directory stays out of the sandbox. It passes on what a build may do with keys: list them,
and sign. Everything else (adding, removing, locking) is answered with a failure, as BuildKit does.

    client --messages--> relay --list and sign--> agent --answers--> relay --> client

Nothing here waits for input: whoever polls the program's output polls `descriptors` too, and calls
`serve` with what is ready. Who does not read the answers to what it asks is dropped.

Source: draft-ietf-sshm-ssh-agent, "Message numbers": a message is four bytes of length, its number,
its content.
"""

import os
import socket
import struct
from pathlib import Path
from typing import Self

_REQUEST_IDENTITIES = 11
_SIGN_REQUEST = 13
_FAILURE = b"\0\0\0\1\5"  # SSH_AGENT_FAILURE
_MESSAGE_MAX_BYTES = 256 << 10  # as OpenSSH's agent
_READ_BYTES = 16 << 10
_CLIENTS_MAX = 64
_SEND_TIMEOUT = struct.pack("ll", 2, 0)  # struct timeval: seconds, microseconds


class AgentRelay:
    """`path` is the socket. A context manager: left, it ends all connections."""

    def __init__(self, agent: Path, directory: Path) -> None:
        self.path = directory / "agent"
        self._agent = agent
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._pairs: dict[int, _Pair] = {}  # by either descriptor
        directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # a socket's own path may have 107 bytes only
            self._listener.bind(f"/proc/self/fd/{directory_fd}/agent")
            self._listener.listen(_CLIENTS_MAX)
        except BaseException:
            self._listener.close()
            raise
        finally:
            os.close(directory_fd)
        self._listener.setblocking(False)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What to poll for input; they change with every `serve`."""
        return (self._listener.fileno(), *self._pairs)

    def serve(self, fd: int) -> None:
        """Do what can be done now that `fd` is ready."""
        if fd == self._listener.fileno():
            self._accept()
            return
        pair = self._pairs.get(fd)
        if pair is not None and not pair.pass_on(fd):
            self._drop(pair)

    def close(self) -> None:
        for pair in set(self._pairs.values()):
            self._drop(pair)
        self._listener.close()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:  # it has gone again
            return
        if len(self._pairs) >= 2 * _CLIENTS_MAX:
            client.close()
            return
        agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            agent.connect(os.fspath(self._agent))
        except OSError:  # the client sees its connection end, as without an agent
            client.close()
            agent.close()
            return
        pair = _Pair(client, agent)
        self._pairs[client.fileno()] = self._pairs[agent.fileno()] = pair

    def _drop(self, pair: "_Pair") -> None:
        for sock in (pair.client, pair.agent):
            del self._pairs[sock.fileno()]
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Pair:
    """One connection of a program, and ours to the agent."""

    def __init__(self, client: socket.socket, agent: socket.socket) -> None:
        self.client = client
        self.agent = agent
        self._pending = b""
        for sock in (client, agent):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)

    def pass_on(self, fd: int) -> bool:
        """Read from one side and write to the other; False when the connection is over."""
        is_answer = fd == self.agent.fileno()
        source = self.agent if is_answer else self.client
        try:
            data = source.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:  # the descriptor was another connection's when it was polled
            return True
        except OSError:
            return False
        try:
            if is_answer:
                self.client.sendall(data)
                return bool(data)
            self._pending += data
            return bool(data) and self._take_messages()
        except OSError:  # gone, or it does not read what it asked for
            return False

    def _take_messages(self) -> bool:
        while len(self._pending) > 4:
            length = int.from_bytes(self._pending[:4], "big")
            if not 0 < length <= _MESSAGE_MAX_BYTES:
                return False
            if len(self._pending) < 4 + length:
                return True
            message, self._pending = self._pending[: 4 + length], self._pending[4 + length :]
            if message[4] in (_REQUEST_IDENTITIES, _SIGN_REQUEST):
                self.agent.sendall(message)
            else:
                self.client.sendall(_FAILURE)
        return True
