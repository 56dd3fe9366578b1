"""What every command is given besides its own arguments: where the store is, and how to open it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from builder.cli.arguments import Arguments, Command, flag, value

if TYPE_CHECKING:
    from layerstore import Store


class Session:
    """One command's view of the world: the store's place, and whether to tell everything."""

    def __init__(self, *, root: str | None, debug: bool) -> None:
        self.debug = debug
        self._user_id = os.geteuid()  # before a user namespace makes it 0
        self.root = self._location(root)
        self._entered = False

    @property
    def private(self) -> Path:
        """Where the store keeps what is not for other tools, containers among it."""
        return self.root / "lamina"

    def enter(self, *, of_pid: int | None = None) -> None:
        """For an ordinary user: become root of a user namespace, once, before the store is used.

        `of_pid` names a process whose user namespace it is to be: that of a sandbox to join.
        """
        if self._user_id == 0 or self._entered:
            return
        from builder.sandbox import enter_user_namespace

        enter_user_namespace(of_pid=of_pid)
        self._entered = True

    def open_store(self, *, with_reserve: bool = False) -> "Store":
        """Open the store, making it where there is none. A context manager.

        `with_reserve` is for commands that look and remove: they work on a full disk, too.
        """
        self.enter()
        from layerstore import Store

        return Store.open(self.root, with_reserve=with_reserve)

    def _location(self, given: str | None) -> Path:
        named = given or os.environ.get("LAMINA_ROOT")
        if named:
            return Path(os.path.abspath(named))  # noqa: PTH100 - Path.absolute keeps `..`
        if self._user_id == 0:
            return Path("/var/lib/lamina")
        data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")  # noqa: PTH111
        return Path(data) / "lamina"


def _unreachable(arguments: Arguments, session: Session) -> int:
    raise AssertionError("the global options are not a command")


GLOBAL = Command(
    name="",
    synopsis="COMMAND",
    about="Build Dockerfiles into OCI images, look into the layers, and run the result.",
    act=_unreachable,
    options=(
        value(
            "--root",
            metavar="DIRECTORY",
            about="The store (default: $LAMINA_ROOT, else "
            "/var/lib/lamina for root, $XDG_DATA_HOME/lamina for others)",
        ),
        flag("-D", "--debug", about="Show where an error comes from"),
        flag("-v", "--version", about="Show the version"),
    ),
    stops_at_word=True,
)
