"""An executor without privileges: programs are acted out on the overlay's upper directory.

`FakeExecutor` understands the few commands that builds of the tests consist of, written as a shell
would be given them (`/bin/sh -c "..."`) or as an argument vector, and leaves behind what overlayfs
would: copied-up directories, 0:0 devices for removals, an opaque mark on a directory that replaces
another. It mounts nothing, resolves no links, and knows no quoting beyond `shlex`.

    echo WORDS [> FILE | >> FILE]      printf FORMAT [> FILE]     cat FILE      touch FILE
    mkdir [-p] DIR   rm [-r] PATH      ln [-s] TARGET PATH        chmod OCTAL PATH
    chown UID:GID PATH                 pwd   env NAME   whoami    exit N   kill N   true   false
    fail TEXT                          TEXT to standard error, exit 1
"""

import os
import shlex
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from builder.sandbox import (
    Executor,
    ExitStatus,
    OverlayRoot,
    Program,
    ProgramNotFoundError,
    Running,
    SandboxSpec,
    Stdio,
)

SHELL = "/bin/sh"
_WHITEOUT = os.makedev(0, 0)
_OPAQUE = "trusted.overlay.opaque"
_READABLE = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)  # always is


@dataclass
class FakeRunning:
    """A program that was over before `start` returned."""

    status: ExitStatus
    killed: bool = False

    @property
    def init_pid(self) -> int:
        return 1

    @property
    def terminal_fd(self) -> int | None:
        return None

    @property
    def network_fd(self) -> int | None:
        return None

    def fileno(self) -> int:
        return _READABLE

    def signal(self, number: int) -> None:
        pass

    def kill(self) -> None:
        self.killed = True

    def is_full(self) -> bool:
        return False

    def wait(self) -> ExitStatus:
        return self.status


@dataclass
class FakeExecutor:
    """`specs` is everything that was started; `before` is called with each one of them first.

    `usage` is what every program seems to take: CPU seconds and bytes.
    """

    before: Callable[[SandboxSpec], None] = lambda spec: None
    specs: list[SandboxSpec] = field(default_factory=list)
    closed: int = 0
    usage: tuple[float, int] = (0.0, 0)

    def __call__(self) -> Self:
        """So that the executor itself can be what starts it."""
        return self

    @property
    def scripts(self) -> list[str]:
        """The programs in the order they ran, without the shell in front."""
        return [spec.program.argv[-1] for spec in self.specs]

    def start(self, spec: SandboxSpec, stdio: Stdio) -> Running:
        self.before(spec)
        self.specs.append(spec)
        assert isinstance(spec.root, OverlayRoot)
        actor = _Actor(spec, _Merged(spec.root), stdio)
        cpu_s, memory_peak_bytes = self.usage
        status = actor.run()
        return FakeRunning(replace(status, cpu_s=cpu_s, memory_peak_bytes=memory_peak_bytes))

    def act(self, root: OverlayRoot, script: str) -> ExitStatus:
        """Act out a script on a root, its output thrown away."""
        null = os.open(os.devnull, os.O_RDWR)
        try:
            spec = SandboxSpec(root=root, program=Program(argv=(SHELL, "-c", script)))
            return self.start(spec, Stdio(stdin=null, stdout=null, stderr=null)).wait()
        finally:
            os.close(null)

    def join(self, init_pid: int, program: Program, stdio: Stdio) -> Running:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def no_executor() -> Executor:
    """For builds that must not run anything."""
    raise AssertionError("this build must not start an executor")


class _Merged:
    """The overlay as its user would see it; links are not followed."""

    def __init__(self, root: OverlayRoot) -> None:
        self._upper = root.upperdir
        self._layers = (root.upperdir, *root.lowerdirs)

    def find(self, path: str, *, below: bool = False) -> Path | None:
        """Where `path` really lies; None where nothing is. `below`: not in the upper directory."""
        for layer in self._layers[1:] if below else self._layers:
            found = layer / path.lstrip("/")
            hidden = False
            for part in [*reversed(found.relative_to(layer).parents), found.relative_to(layer)]:
                here = layer / part
                if not os.path.lexists(here):
                    break
                status = here.lstat()
                if stat.S_ISCHR(status.st_mode) and status.st_rdev == _WHITEOUT:
                    return None
                hidden = hidden or _is_opaque(here)
            else:
                return found
            if hidden:
                return None
        return None

    def place(self, path: str) -> Path:
        """The place in the upper directory where `path` may be made; its parents are copied up."""
        place = self._upper / path.lstrip("/")
        for parent in reversed(place.relative_to(self._upper).parents):
            if not os.path.lexists(self._upper / parent):
                self._copy_up_directory(str(parent))
        self.clear(place)
        return place

    def clear(self, place: Path) -> None:
        if os.path.lexists(place):
            _remove(place)

    def _copy_up_directory(self, path: str) -> None:
        lower = self.find(path)
        if lower is None or not stat.S_ISDIR(lower.lstat().st_mode):
            raise FileNotFoundError(path)
        status = lower.lstat()
        upper = self._upper / path
        upper.mkdir()
        os.chown(upper, status.st_uid, status.st_gid)
        upper.chmod(status.st_mode & 0o7777)
        os.utime(upper, ns=(status.st_atime_ns, status.st_mtime_ns))


class _Exited(Exception):
    def __init__(self, *, code: int = 0, signal: int = 0) -> None:
        super().__init__(code)
        self.status = ExitStatus(code=code, signal=signal)


class _Actor:
    """Acts out one program."""

    def __init__(self, spec: SandboxSpec, merged: _Merged, stdio: Stdio) -> None:
        self._program = spec.program
        self._merged = merged
        self._stdio = stdio
        self._env = dict(pair.split("=", 1) for pair in spec.program.env)

    def run(self) -> ExitStatus:
        argv = self._program.argv
        try:
            if argv[:2] == (SHELL, "-c"):
                self._script(argv[2])
            else:
                self._command(list(argv))
        except _Exited as ended:
            return ended.status
        except OSError as error:
            os.write(self._stdio.stderr, f"{error.strerror}: {error.filename}\n".encode())
            return ExitStatus(code=1)
        return ExitStatus()

    def _script(self, text: str) -> None:
        for line in text.replace("&&", "\n").replace(";", "\n").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                self._command([self._variable(word) for word in words])

    def _variable(self, word: str) -> str:
        return self._env.get(word[1:], "") if word.startswith("$") else word

    def _command(self, words: list[str]) -> None:
        words, target, append = _redirection(words)
        name, *args = words
        action = getattr(self, f"_do_{name}", None)
        if action is None:
            raise ProgramNotFoundError(argv0=name, errno=2)
        written = b"".join(action(*args) or ())
        if target is None:
            os.write(self._stdio.stdout, written)
            return
        found = self._merged.find(target)
        before = found.read_bytes() if append and found is not None else b""
        mode = found.lstat().st_mode & 0o7777 if found is not None else 0o644
        place = self._merged.place(target)
        place.write_bytes(before + written)
        place.chmod(mode)

    def _do_echo(self, *words: str) -> Iterator[bytes]:
        yield (" ".join(words) + "\n").encode()

    def _do_printf(self, text: str) -> Iterator[bytes]:
        yield text.replace("\\n", "\n").encode()

    def _do_cat(self, path: str) -> Iterator[bytes]:
        yield self._existing(path).read_bytes()

    def _do_ls(self, path: str) -> Iterator[bytes]:
        for name in sorted(entry.name for entry in self._existing(path).iterdir()):
            yield name.encode() + b"\n"

    def _do_touch(self, path: str) -> None:
        found = self._merged.find(path)
        content = found.read_bytes() if found is not None else b""
        self._merged.place(path).write_bytes(content)

    def _do_mkdir(self, *args: str) -> None:
        path = args[-1].rstrip("/")
        if "-p" in args:
            for end in [index for index, char in enumerate(path + "/") if char == "/" and index]:
                if self._merged.find(path[:end]) is None:
                    self._make_directory(path[:end])
        else:
            self._make_directory(path)

    def _make_directory(self, path: str) -> None:
        below = self._merged.find(path, below=True)
        place = self._merged.place(path)
        place.mkdir()
        place.chmod(0o755)
        if below is not None:
            os.setxattr(place, _OPAQUE, b"y")

    def _do_rm(self, *args: str) -> None:
        path = args[-1]
        self._existing(path)
        below = self._merged.find(path, below=True)
        place = self._merged.place(path)
        if below is not None:
            os.mknod(place, stat.S_IFCHR, _WHITEOUT)

    def _do_ln(self, *args: str) -> None:
        target, path = args[-2:]
        if "-s" in args:
            self._merged.place(path).symlink_to(target)
            return
        source = self._existing(target)
        content, mode = source.read_bytes(), source.lstat().st_mode & 0o7777
        upper = self._merged.place(target)
        upper.write_bytes(content)
        upper.chmod(mode)
        self._merged.place(path).hardlink_to(upper)

    def _do_chmod(self, mode: str, path: str) -> None:
        self._copy_up(path).chmod(int(mode, 8))

    def _do_chown(self, owner: str, path: str) -> None:
        uid, gid = owner.split(":")
        os.chown(self._copy_up(path), int(uid), int(gid))

    def _copy_up(self, path: str) -> Path:
        source = self._existing(path)
        if source == self._merged.find(path, below=True):
            content, mode = source.read_bytes(), source.lstat().st_mode & 0o7777
            source = self._merged.place(path)
            source.write_bytes(content)
            source.chmod(mode)
        return source

    def _do_pwd(self) -> Iterator[bytes]:
        yield (self._program.cwd + "\n").encode()

    def _do_whoami(self) -> Iterator[bytes]:
        yield (self._program.user + "\n").encode()

    def _do_env(self, name: str) -> Iterator[bytes]:
        yield (self._env.get(name, "(unset)") + "\n").encode()

    def _do_true(self) -> None:
        pass

    def _do_false(self) -> None:
        raise _Exited(code=1)

    def _do_exit(self, code: str) -> None:
        raise _Exited(code=int(code))

    def _do_kill(self, number: str) -> None:
        raise _Exited(signal=int(number))

    def _do_fail(self, *words: str) -> None:
        os.write(self._stdio.stderr, (" ".join(words) + "\n").encode())
        raise _Exited(code=1)

    def _existing(self, path: str) -> Path:
        found = self._merged.find(path)
        if found is None:
            raise FileNotFoundError(2, "No such file or directory", path)
        return found


def _redirection(words: list[str]) -> tuple[list[str], str | None, bool]:
    for sign in (">>", ">"):
        if sign in words:
            at = words.index(sign)
            return words[:at], words[at + 1], sign == ">>"
    return words, None, False


def _is_opaque(directory: Path) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        for child in place.iterdir():
            _remove(child)
        place.rmdir()
    else:
        place.unlink()
