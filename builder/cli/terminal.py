"""The user's terminal: raw while a program has it, and as it was before whatever happens."""

import os


class RawTerminal:
    """While entered, what is typed on `fd` comes at once, unechoed, and makes no signals.

    Does nothing where `fd` is no terminal.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before: list[object] | None = None

    def __enter__(self) -> None:
        if not os.isatty(self._fd):
            return
        import termios
        import tty

        self._before = termios.tcgetattr(self._fd)
        tty.setraw(self._fd, termios.TCSADRAIN)

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            return
        import termios

        # The attributes are what tcgetattr gave, whose type the stubs do not export.
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)  # type: ignore[arg-type]
        self._before = None


def size(*fds: int) -> tuple[int, int] | None:
    """Rows and columns of the first of `fds` that is a terminal."""
    for fd in fds:
        try:
            columns, rows = os.get_terminal_size(fd)
        except OSError:
            continue
        return rows, columns
    return None
