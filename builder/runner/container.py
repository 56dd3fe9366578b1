"""ContainerRecord: what a container was asked to be, and what has become of it.

             create                start                     the program ends
    (none) --------> created ---------------> running ---------------------------> exited
                        ^                       |                                   |  |
                        |  the program cannot   |  its minder was killed            |  |
                        +--- be executed -------+------------------> exited (137)   |  |
                                                ^                                   |  |
                                                +------------- start ---------------+  |
                  created | exited ------ rm ------> dead ------> (none)  <---- rm ----+

    created   its directory is there; no program has run since
    running   its minder lives and holds `live/ID` (the CLI in the foreground, else the monitor)
    exited    the program has ended; what it wrote is kept
    dead      removal has begun; the next command ends it

Who holds the lock of `live/ID` owns the record: nobody else writes it.

Pure: values, and their form in `container.json`.
"""

from typing import Any, Literal, NamedTuple

from builder.network import Publication
from builder.runner import networking as networks
from builder.runner.networking import Attached, Networking
from builder.runner.profile import NO_PROFILE, Profile

OWN_RUNTIME = "lamina"  # what the runtime of a record is called that names none

State = Literal["created", "running", "exited", "dead"]

# which state follows which, and no other
FOLLOWS: dict[State, tuple[State, ...]] = {
    "created": ("running", "created", "dead"),
    "running": ("exited", "created"),
    "exited": ("running", "created", "dead"),
    "dead": (),
}


# Named tuples, not dataclasses: defining them is part of the start of `lamina run`, and costs a
# fifth.
class MountPoint(NamedTuple):
    """Something mounted into a container.

    `source` is a host path for a bind, a volume's name for a volume, empty for a tmpfs.
    `anonymous` volumes go with their container.
    """

    kind: Literal["bind", "volume", "tmpfs"]
    target: str
    source: str = ""
    read_only: bool = False
    anonymous: bool = False
    copy_up: bool = True  # fill an empty volume with what the image has at `target`
    size_bytes: int = 0  # of a tmpfs; 0: no limit
    mode: int = 0o1777  # of a tmpfs
    no_exec: bool = False  # of a tmpfs
    uid: int = 0  # of a tmpfs
    gid: int = 0


class ContainerRecord(NamedTuple):
    """One container. Times are Unix seconds, 0 for never; `layers` are diff_ids, bottom first."""

    id: str
    name: str
    image: str  # as the user named it
    image_id: str
    manifest_digest: str
    layers: tuple[str, ...]
    directories: tuple[str, ...]  # lowerdirs, topmost first, below the private directory
    created: float
    # the program
    argv: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    entrypoint_length: int  # how much of argv is the entrypoint
    terminal: bool
    interactive: bool
    # its surroundings
    hostname: str
    network: str  # host, none, default, container:ID, or a network's name
    mounts: tuple[MountPoint, ...]
    labels: tuple[tuple[str, str], ...]
    auto_remove: bool
    stop_signal: int
    stop_timeout_s: int
    read_only: bool
    shm_size_bytes: int
    pids_max: int  # 0: no limit
    memory_bytes: int  # 0: no limit
    runtime: str = ""  # crun, runc or a path; empty: our own sandbox
    profile: Profile = NO_PROFILE
    # what has become of it
    state: State = "created"
    started: float = 0.0
    finished: float = 0.0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    pid: int = 0  # of the sandbox's PID 1, and when that started (ticks since boot): see verbs
    pid_started: int = 0
    networking: Networking = Networking()
    attached: tuple[Attached, ...] = ()  # while it runs
    published: tuple[Publication, ...] = ()  # likewise

    def turned(self, state: State, **more: Any) -> "ContainerRecord":
        """The same container in another state."""
        assert state in FOLLOWS[self.state], f"{self.state} -> {state}"
        return self._replace(state=state, **more)

    @property
    def networks(self) -> tuple[str, ...]:
        """The names of the networks it is on, or will be."""
        if self.attached:
            return tuple(each.network for each in self.attached)
        wanted = [each.network for each in self.networking.endpoints] or [self.network]
        return tuple("bridge" if name == networks.DEFAULT else name for name in wanted)

    @property
    def command(self) -> tuple[str, ...]:
        """The arguments behind the entrypoint."""
        return self.argv[self.entrypoint_length :]

    @property
    def entrypoint(self) -> tuple[str, ...]:
        """The part of argv that `--entrypoint` or the image's ENTRYPOINT gave."""
        return self.argv[: self.entrypoint_length]


def dump(record: ContainerRecord) -> bytes:
    """The record as `container.json`, with a checksum of its own: its words are executed."""
    import json

    fields = record._asdict()
    fields["mounts"] = [mount._asdict() for mount in record.mounts]
    fields["profile"] = record.profile._asdict()
    fields["networking"] = networks.dump(record.networking)
    fields["attached"] = [attached._asdict() for attached in record.attached]
    fields["published"] = [port._asdict() for port in record.published]
    return json.dumps(fields | {"checksum": _checksum(json.dumps(fields))}).encode()


def load(data: bytes) -> ContainerRecord | None:
    """Read `container.json`; None when it is damaged or of another version."""
    import json

    try:
        fields = json.loads(data)
        if fields.pop("checksum") != _checksum(json.dumps(fields)):
            return None
        fields["mounts"] = tuple(MountPoint(**mount) for mount in fields["mounts"])
        for name in ("layers", "directories", "argv", "env"):
            fields[name] = tuple(fields[name])
        fields["profile"] = Profile(**{k: _fixed(v) for k, v in fields["profile"].items()})
        fields["networking"] = networks.load(fields["networking"])
        fields["attached"] = networks.load_attached(fields["attached"])
        fields["published"] = networks.load_ports(fields["published"])
        fields["labels"] = tuple((key, value) for key, value in fields["labels"])
        record = ContainerRecord(**fields)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return record if record.state in FOLLOWS else None


def _fixed(value: Any) -> Any:
    """Lists of JSON as tuples, as deep as they go."""
    return tuple(map(_fixed, value)) if isinstance(value, list) else value


def _checksum(text: str) -> int:
    import zlib

    return zlib.crc32(text.encode())
