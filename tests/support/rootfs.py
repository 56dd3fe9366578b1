"""Root file systems for tests, made of the machine's static busybox (Debian: busybox-static)."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

BUSYBOX = Path("/bin/busybox")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n"
GROUP = "root:x:0:\nada:x:1000:\nwheel:x:10:root,ada\nstaff:x:50:ada\n"


@cache
def no_busybox() -> str | None:
    """Why no root can be made here; None when it can."""
    if not BUSYBOX.exists():
        return f"{BUSYBOX} is missing (Debian package busybox-static)"
    with BUSYBOX.open("rb") as file:
        if b"/ld-linux" in file.read(4096):
            return f"{BUSYBOX} is not static (Debian package busybox-static)"
    return None


def need_busybox() -> None:
    """For fixtures: without it the test is skipped, or fails where everything must be checked."""
    reason = no_busybox()
    if reason and os.environ.get("LAMINA_MUST_CHECK_ALL", "") not in ("", "0"):
        pytest.fail(f"this machine must check everything, but {reason}", pytrace=False)
    if reason:
        pytest.skip(reason)


@cache
def applets() -> tuple[str, ...]:
    done = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    return tuple(done.stdout.split())


def make_bare_root(directory: Path) -> Path:
    """/bin with busybox and its links, and nothing else: no /proc, /sys, /dev, /etc, /tmp."""
    (directory / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, directory / "bin/busybox")
    for name in applets():
        if name != "busybox":
            (directory / "bin" / name).symlink_to("busybox")
    directory.chmod(0o755)
    return directory


def make_root(directory: Path) -> Path:
    """A bare root, and what images usually have."""
    make_bare_root(directory)
    for name in ("proc", "sys", "dev", "etc", "root", "home/ada", "tmp", "var"):
        (directory / name).mkdir(parents=True)
    (directory / "tmp").chmod(0o1777)
    (directory / "root").chmod(0o700)
    (directory / "etc/passwd").write_text(PASSWD)
    (directory / "etc/group").write_text(GROUP)
    for name in ("hosts", "hostname", "resolv.conf"):
        (directory / "etc" / name).touch()
    if os.geteuid() == 0:
        os.chown(directory / "home/ada", 1000, 1000)
    return directory
