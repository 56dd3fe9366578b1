"""A private network for ordinary users: slirp4netns or pasta, which speak for it to the world.

    the minder                                 the helper                    slirp4netns | pasta
      posix_spawn ---- a socket, a pipe --->     makes the namespace
                                                 starts it -------------------> configures eth0
      <---- a descriptor of the namespace ----   when that is ready
      ends, or is killed: the pipe is closed --> ends it, and itself

What they offer beside the world's addresses is turned off: nothing of the host's loopback is
reached through the gateway.

Source: slirp4netns(1), passt(1).
"""

import array
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Never

from builder.errors import NetworkUnavailableError
from builder.interpreter import Companion

ADDRESS, PREFIX, GATEWAY = "10.0.2.100", 24, "10.0.2.2"
_SLIRP_RESOLVER = "10.0.2.3"
_PROGRAMS = ("pasta", "slirp4netns")
_ANSWER_BYTES_MAX = 4096
_TUN = "/dev/net/tun"


class UserNetwork:
    """A namespace that is connected to the world until `close`, or until this process ends."""

    def __init__(self, namespace_fd: int, program: str, helper: Companion) -> None:
        self.namespace_fd = namespace_fd
        self.resolvers = (_SLIRP_RESOLVER,) if program == "slirp4netns" else ()
        self._helper = helper

    address, prefix, gateway = ADDRESS, PREFIX, GATEWAY

    @property
    def path(self) -> Path:
        """The namespace, as this process may name it."""
        return Path(f"/proc/self/fd/{self.namespace_fd}")

    def close(self) -> None:
        """End the program and what it gives."""
        self._helper.close()
        if self.namespace_fd >= 0:
            os.close(self.namespace_fd)
            self.namespace_fd = -1


def connect() -> UserNetwork:
    """Make a namespace and connect it.

    Raises:
        NetworkUnavailableError: neither program is installed, or it fails.
    """
    path = _find_program()
    if not os.access(_TUN, os.R_OK | os.W_OK):
        raise NetworkUnavailableError(
            f"{Path(path).name} needs {_TUN}, which this user cannot open",
            hint=f"chmod 0666 {_TUN}, or use --network host or --network none",
        )
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with mine:
        with theirs:
            helper = Companion(
                "builder.network.usermode",
                {"program": path, "answer": theirs.fileno()},
                inherited=[theirs.fileno()],
                environment={"PATH": os.environ.get("PATH", os.defpath)},
            )
        try:
            data, descriptors, _, _ = socket.recv_fds(mine, _ANSWER_BYTES_MAX, 1)
        except BaseException:
            helper.let_go()
            raise
    name = Path(path).name
    if not descriptors:
        helper.close()
        raise NetworkUnavailableError(
            f"{name} gives no network: {data.decode(errors='replace').strip() or 'it ended'}",
            hint="--network host and --network none need no program",
        )
    os.set_inheritable(descriptors[0], False)
    return UserNetwork(descriptors[0], name, helper)


def _find_program() -> str:
    for name in _PROGRAMS:
        for directory in os.environ.get("PATH", os.defpath).split(":"):
            path = f"{directory}/{name}"
            if directory.startswith("/") and os.access(path, os.X_OK):
                return path
    raise NetworkUnavailableError(
        "an ordinary user needs pasta (package passt) or slirp4netns for a private network",
        hint="install one of them, or use --network host or --network none",
    )


# The helper's side.


def main() -> Never:
    """What the new process does; never returns."""
    words = json.loads(sys.argv[1])
    answer = socket.socket(fileno=words["answer"])
    answer.set_inheritable(False)
    os.set_inheritable(words["lifeline"], False)
    os.chdir("/")
    try:
        _help(words["program"], answer, words["lifeline"])
    except BaseException as error:  # noqa: BLE001 - the last line of this process
        with suppress(OSError):  # nobody listens any more
            answer.send(str(error).encode()[:_ANSWER_BYTES_MAX])
    os._exit(0)


def _help(program: str, answer: socket.socket, lifeline: int) -> None:
    from builder.sandbox import make_network

    namespace_fd = make_network()
    ready_reader, ready = os.pipe2(os.O_CLOEXEC)
    said_reader, said = os.pipe2(os.O_CLOEXEC)
    exit_reader, exit_writer = os.pipe2(os.O_CLOEXEC)
    for fd in (namespace_fd, ready, exit_reader):
        os.set_inheritable(fd, True)
    arguments = _slirp(namespace_fd, ready, exit_reader)
    if Path(program).name == "pasta":
        arguments = _pasta(namespace_fd, ready)
    pid = os.posix_spawn(
        program,
        [program, *arguments],
        dict(os.environ),
        file_actions=[(os.POSIX_SPAWN_DUP2, said, fd) for fd in (1, 2)],
        setsigdef=(signal.SIGPIPE,),  # we ignore it, and pasta takes that for a failure of its own
    )
    for fd in (ready, said, exit_reader):
        os.close(fd)
    if not os.read(ready_reader, 16):  # it ended instead
        os.waitpid(pid, 0)
        lines = os.read(said_reader, _ANSWER_BYTES_MAX).decode(errors="replace").splitlines()
        raise OSError("; ".join(lines[-2:]) or "it ended")
    os.close(said_reader)
    descriptors = array.array("i", [namespace_fd])
    answer.sendmsg([b"ready"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    answer.close()
    os.close(namespace_fd)
    os.read(lifeline, 1)  # until the other end is closed
    os.close(exit_writer)
    os.kill(pid, 9)
    os.waitpid(pid, 0)


def _slirp(namespace_fd: int, ready: int, exit_reader: int) -> list[str]:
    return [
        *("--configure", "--mtu=65520", "--disable-host-loopback"),
        *(f"--ready-fd={ready}", f"--exit-fd={exit_reader}"),
        *("--netns-type=path", f"/proc/self/fd/{namespace_fd}", "eth0"),
    ]


def _pasta(namespace_fd: int, ready: int) -> list[str]:
    """It writes its process id into a file when it is ready."""
    return [
        *("--config-net", "--foreground", "--no-map-gw", "--ns-ifname", "eth0"),
        *("-4", "-a", ADDRESS, "-n", str(PREFIX), "-g", GATEWAY),
        *("-t", "none", "-u", "none", "-T", "none", "-U", "none"),
        *("--pid", f"/proc/self/fd/{ready}", "--netns", f"/proc/self/fd/{namespace_fd}"),
    ]
