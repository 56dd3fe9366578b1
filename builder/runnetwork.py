"""Networks for the RUNs of a build.

A RUN has a private network unless it, or who builds, says otherwise. Making one takes some
milliseconds, so what one RUN has had the next one gets: nothing of it is left in a network
namespace, because all its processes are dead, and it had no right to change the namespace itself.
A RUN that had all rights (`--security=insecure`) takes its namespace along.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from builder.errors import NetworkUnavailableError
from builder.network import (
    HOST_GATEWAY,
    Resolvers,
    attach,
    host_hosts,
    host_resolv_conf,
    hosts,
    resolv_conf,
    without_network,
)
from builder.sandbox import FileMount, Link, Network, Running, SandboxSpec, in_user_namespace
from builder.steps import ExecStep

Tell = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class _Place:
    """A private network. `namespace_fd` is its namespace once a program has run in it."""

    link: Link | None  # of a namespace that is still to be made
    gateway: str
    release: Callable[[], None]
    resolvers: tuple[str, ...] = ()
    namespace_fd: int = -1

    @property
    def network(self) -> Network:
        if self.namespace_fd < 0:
            assert self.link is not None, "there is a link or a namespace"
            return (self.link,)
        return Path(f"/proc/self/fd/{self.namespace_fd}")

    def close(self) -> None:
        if self.namespace_fd >= 0:
            os.close(self.namespace_fd)
        self.release()


@dataclass(slots=True, kw_only=True)
class StepNetwork:
    """What one step is given. `gateway` is what `host-gateway` stands for."""

    network: Network
    gateway: str = "127.0.0.1"
    place: _Place | None = None

    def started(self, spec: SandboxSpec, running: Running) -> SandboxSpec:
        """Keep the namespace that was made; returns how to start the same in it again."""
        if self.place is not None and running.network_fd is not None:
            self.place.namespace_fd = os.dup(running.network_fd)
            self.network = self.place.network
        return replace(spec, network=self.network)


@dataclass(slots=True)
class RunNetworks:
    """The networks of one build, which nobody uses at the moment."""

    _idle: list[_Place] = field(default_factory=list)
    _unavailable: str = ""

    @contextmanager
    def lend(self, step: ExecStep, tell: Tell) -> Iterator[StepNetwork]:
        """A network for a step, until it has ended.

        Where there can be no private network the step has loopback alone, and `tell` is told.
        """
        if step.network != "default":
            yield StepNetwork(network=step.network)
            return
        place = self._take(tell)
        if place is None:
            yield StepNetwork(network="none")
            return
        is_clean = False
        try:
            yield StepNetwork(network=place.network, gateway=place.gateway, place=place)
            is_clean = step.security == "sandbox" and place.namespace_fd >= 0
        finally:
            if is_clean:
                self._idle.append(place)
            else:
                place.close()

    def close(self) -> None:
        """The kernel takes the devices away with their namespaces."""
        for place in self._idle:
            place.close()
        self._idle.clear()

    def _take(self, tell: Tell) -> _Place | None:
        if self._idle:
            return self._idle.pop()
        try:
            return _user_place() if in_user_namespace() else _bridge_place()
        except NetworkUnavailableError as error:
            if not self._unavailable:
                tell(without_network(error))
            self._unavailable = str(error)
            return None


def _bridge_place() -> _Place:
    attachment = attach()
    return _Place(
        link=attachment.link,
        gateway=attachment.bridge.gateway,
        release=attachment.lease.release,
    )


def _user_place() -> _Place:
    from builder.network import connect_user

    network = connect_user()
    return _Place(
        link=None,
        gateway=network.gateway,
        release=network.close,
        resolvers=network.resolvers,
        namespace_fd=os.dup(network.namespace_fd),
    )


def network_files(step: ExecStep, hostname: str, network: StepNetwork) -> tuple[FileMount, ...]:
    """/etc/hosts, /etc/resolv.conf and /etc/hostname, never part of a layer.

    Addresses of our own are not in them: the next build would have others.
    """
    extra = [
        (name, network.gateway if address == HOST_GATEWAY else address)
        for name, address in step.settings.extra_hosts
    ]
    names = () if step.network == "host" else (("127.0.1.1", hostname),)
    start = host_hosts() if step.network == "host" else ""
    resolv = b""
    if step.network == "host":
        resolv = host_resolv_conf()
    elif network.network != "none":
        servers = () if network.place is None else network.place.resolvers
        resolv = resolv_conf(Resolvers(servers=servers)).encode()
    text = hosts(names, extra, start=start)
    return (
        FileMount(target="/etc/hosts", content=text.encode("utf-8", "surrogateescape")),
        FileMount(target="/etc/resolv.conf", content=resolv),
        FileMount(target="/etc/hostname", content=f"{hostname}\n".encode()),
    )
