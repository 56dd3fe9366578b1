"""What this machine can do for tests: each probe answers None, or the reason why not.

A probe tries the thing itself, in a process of its own, and is asked once per test process.
"""

import ctypes
import ctypes.util
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from builder.sandbox import syscalls, syscalltable
from builder.sandbox.idmap import own_maps

PEERS = ("skopeo", "umoci", "podman", "buildah")
NOBODY = 65534


@cache
def no_root() -> str | None:
    return None if os.geteuid() == 0 else "not running as root"


@cache
def no_ids() -> str | None:
    """Whether other users than root exist in the sandboxes of whoever runs the suite."""
    if os.geteuid() == 0 or not own_maps().is_single:
        return None
    return "this user has no subordinate ids"


@cache
def no_overlay() -> str | None:
    """Mount a tiny overlayfs, as root or in a user namespace."""
    with tempfile.TemporaryDirectory(prefix="lamina-probe-") as work:
        for name in ("lower", "upper", "work", "merged"):
            Path(work, name).mkdir()
        options = "lowerdir=lower,upperdir=upper,workdir=work"
        unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "-Ur"]
        if os.geteuid() != 0:
            options += ",userxattr"
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, "merged"]
        problem = _fails([*unshare, *mount], cwd=work)
    return f"overlayfs cannot be mounted: {problem}" if problem else None


@cache
def no_userns() -> str | None:
    """Make a user namespace as an ordinary user."""
    unshare = ["unshare", "-Ur", "true"]
    if os.geteuid() == 0:
        unshare = [*as_nobody(), *unshare]
    problem = _fails(unshare)
    return f"an ordinary user cannot make a user namespace: {problem}" if problem else None


def as_nobody() -> tuple[str, ...]:
    """What root puts before a command for an ordinary user to carry it out."""
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")


@cache
def same_python() -> str | None:
    """An interpreter of our version that an ordinary user can execute, too."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for found in (str(Path(sys.executable).resolve()), f"/usr/bin/{version}"):
        if _fails([*as_nobody(), "env", found, "-c", ""]) is None:
            return found
    return None


def no_same_python() -> str | None:
    return None if same_python() else "no python of our version that a user can execute"


@cache
def no_peer(name: str) -> str | None:
    """A program; a file by its path; or a library: libNAME."""
    if name.startswith("/"):
        found: object = Path(name).exists()
    elif name.startswith("lib"):
        found = ctypes.util.find_library(name.removeprefix("lib"))
    else:
        found = shutil.which(name)
    return None if found else f"{name} is not installed"


@cache
def public_python() -> str | None:
    """An interpreter that an ordinary user may start: not one below root's home."""
    return shutil.which("python3", path="/usr/bin:/usr/local/bin")


def no_public_python() -> str | None:
    return None if public_python() else "there is no python3 that an ordinary user may start"


@cache
def cgroup2() -> Path | None:
    """The second version's hierarchy; a hybrid host has it as well."""
    tops = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
    return next((top for top in tops if (top / "cgroup.controllers").exists()), None)


def no_cgroup2() -> str | None:
    """Whether there is one, with cgroup.kill."""
    if cgroup2() is None:
        return "there is no second version of control groups to be seen here"
    release = [int(word) for word in os.uname().release.split(".")[:2]]
    return None if release >= [5, 14] else "cgroup.kill came with Linux 5.14"


@cache
def no_keyrings() -> str | None:
    """Ask for this process's session keyring."""
    libc = ctypes.CDLL(None, use_errno=True)
    get_id, session = ctypes.c_long(0), ctypes.c_long(-3)  # linux/keyctl.h
    number = ctypes.c_long(call_number("keyctl"))
    if libc.syscall(number, get_id, session, ctypes.c_long(0)) < 0:
        return f"there are no keyrings: {os.strerror(ctypes.get_errno())}"
    return None


def call_number(name: str) -> int:
    """The number of a system call on this machine."""
    tables = {"x86_64": syscalltable.X86_64, "aarch64": syscalltable.AARCH64}
    return syscalltable.parse(tables[syscalls.MACHINE])[name]


@cache
def no_registry() -> str | None:
    """Whether tests can run a registry of their own (`tests/support/registries.py`)."""
    missing = [name for name in ("docker-registry", "openssl") if not shutil.which(name)]
    return f"{missing[0]} is not installed" if missing else None


@cache
def no_git() -> str | None:
    return None if shutil.which("git") else "git is not installed"


def no_debian() -> str | None:
    """Ask the first mirror that apt knows for its release file, the way apt asks."""
    if not shutil.which("mmdebstrap"):
        return "mmdebstrap is not installed"
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split("\n")
    if not targets[0].strip():
        return "apt has no package sources"
    uri, release = targets[0].split()
    with tempfile.TemporaryDirectory(prefix="lamina-probe-") as work:
        Path(work).chmod(0o755)
        problem = _fails(
            [
                "/usr/lib/apt/apt-helper",
                *("-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10"),
                "download-file",
                f"{uri}dists/{release}/InRelease",
                f"{work}/InRelease",
            ]
        )
    return f"no Debian mirror can be reached: {problem}" if problem else None


def _fails(argv: list[str], cwd: str | None = None) -> str | None:
    """Run `argv`; None when it succeeds, else the last line it wrote."""
    try:
        done = subprocess.run(
            argv, cwd=cwd, capture_output=True, text=True, check=False, timeout=60
        )
    except OSError as error:
        return f"{argv[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"{argv[0]}: no answer in 60 s"
    if done.returncode == 0:
        return None
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"{argv[0]}: exit code {done.returncode}"
