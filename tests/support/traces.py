"""What a command could leave behind on this machine: processes, mounts, control groups, files."""

import os
from collections.abc import Iterator
from pathlib import Path

_OTHERS = ("peers", "docker", "containers")


def processes_with(word: str) -> list[int]:
    """Processes whose command line has `word`; ours left out."""
    return [pid for pid in _pids() if word.encode() in _read(pid, "cmdline")]


def processes_in(folder: Path) -> list[str]:
    """Processes that work in, are rooted in, hold open, or have mounted something of `folder`."""
    found = []
    for pid in _pids():
        links = [Path(f"/proc/{pid}/{name}") for name in ("cwd", "root", "exe")]
        try:
            links += list(Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            continue
        targets = [_target(link) for link in links]
        if any(target.startswith(str(folder)) for target in targets) or (
            str(folder).encode() in _read(pid, "mountinfo")
        ):
            found.append(f"{pid}: {_read(pid, 'cmdline').decode(errors='replace')}")
    return found


def open_descriptors() -> set[str]:
    """Of this process: number and target, as another may have been given the same number.

    Ask for `<=`: what earlier tests have left to the garbage collector may go at any moment.
    """
    with os.scandir("/proc/self/fd") as entries:
        names = [entry.name for entry in entries]
    found = set()
    for name in names:
        try:
            found.add(f"{name} {Path(f'/proc/self/fd/{name}').readlink()}")
        except FileNotFoundError:
            continue
    return found


def mounts_of(folder: Path) -> list[str]:
    """Lines of the mount table that name the folder."""
    return [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(folder) in line
    ]


def mount_table() -> list[str]:
    """The mount table of this process, but for what other tools mount meanwhile."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if not any(word in line for word in _OTHERS)]


def control_groups() -> set[str]:
    """Control groups whose name says that they are ours, and whose maker does not live any more.

    Those of others, which run at the same time on this machine, are in use.
    """
    return {
        str(path)
        for root, folders, _ in os.walk("/sys/fs/cgroup")
        for path in (Path(root, name) for name in folders)
        if "lamina" in path.name and not _is_alive(path.name)
    }


def _is_alive(group: str) -> bool:
    """Whether the process is there that a group is named after: lamina-NAMESPACE-PID-N."""
    words = group.split("-")
    return len(words) == 4 and Path("/proc", words[2]).exists()


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything about a tree that a change of it would change."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        info = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (
            *(info.st_mode, info.st_uid, info.st_gid, info.st_nlink, info.st_ino, info.st_size),
            *(info.st_mtime_ns, info.st_ctime_ns, content),
        )
    return found


def _pids() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            yield int(entry.name)


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
