"""Ways out of a container, tried in several: probe.c, and what it finds where.

    python -m tests.support.escapes > docs/escapes.md

What must not be found from inside are canaries of this process: a file, a socket, a variable, a
descriptor... A place is a function that runs the probe in a container of one tool.
"""

import ctypes
import io
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import host, rootfs
from tests.support.cli import REPOSITORY, Lamina, command

SOURCE = Path(__file__).with_name("probe.c")
VARIABLE = "LAMINAPROBE_CANARY"
_IPC_PRIVATE, _IPC_RMID = 0, 0
_KMSG = (1, 11)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    answer: str  # open, blocked, absent
    why: str

    @property
    def is_open(self) -> bool:
        return self.answer == "open"

    def __str__(self) -> str:
        return f"{self.answer} ({self.why})" if self.why else self.answer


Answers = Mapping[str, Answer]  # by probe, in order
Place = Callable[["Ground"], Answers]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What places need: a directory, an image in a tar, the probe's words."""

    work: Path
    image: Path
    words: tuple[str, ...]
    descriptor: int  # that must not be inherited

    def environment(self) -> dict[str, str]:
        return {VARIABLE: VARIABLE, "PATH": os.environ["PATH"]}


def compiled(directory: Path) -> Path:
    """The probe, static."""
    target = directory / "probe"
    warnings = ("-Wall", "-Wextra", "-Werror")
    subprocess.run(["gcc", "-static", "-O1", *warnings, "-o", target, SOURCE], check=True)
    return target


@contextmanager
def prepared() -> Iterator[Ground]:
    """Canaries, and the probe in an image with a device node."""
    with tempfile.TemporaryDirectory(prefix="lamina-escapes-") as directory:
        Path(directory).chmod(0o711)
        with _prepared(Path(directory)) as ground:
            yield ground


@contextmanager
def _prepared(work: Path) -> Iterator[Ground]:
    root = rootfs.make_root(work / "root")
    shutil.copy(compiled(work), root / "probe")
    (root / "run").mkdir()
    image = work / "image.tar"
    with tarfile.open(image, "w") as tar:
        tar.add(root, ".", filter=_owned_by_root)
        node = tarfile.TarInfo("node-of-image")
        node.type, node.mode, (node.devmajor, node.devminor) = tarfile.CHRTYPE, 0o666, _KMSG
        tar.addfile(node, io.BytesIO())
    canary = work / "canary"
    canary.write_text("canary")
    with ExitStack() as cleanup:
        abstract = cleanup.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0laminaprobe-{os.getpid()}")
        abstract.listen()
        loopback = cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
        key = cleanup.enter_context(_shared_memory())
        reader, writer = os.pipe()
        cleanup.callback(os.close, reader)
        cleanup.callback(os.close, writer)
        namespaces = {name: Path(f"/proc/self/ns/{name}").readlink() for name in _NAMESPACES}
        words = {
            "file": str(canary),
            "abstract": f"laminaprobe-{os.getpid()}",
            "port": str(loopback.getsockname()[1]),
            "shm": str(key),
            "env": VARIABLE,
            "pid": str(os.getpid()),
            **({"disk": disk} if (disk := _disk()) else {}),
            **{f"ns/{name}": inode for name, inode in namespaces.items()},
        }
        yield Ground(
            work=work,
            image=image,
            words=tuple(f"{key}={value}" for key, value in words.items()),
            descriptor=reader,
        )


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """An ordinary user without subordinate ids has no other."""
    member.uid = member.gid = 0
    return member


_NAMESPACES = ("mnt", "pid", "ipc", "uts", "net")


@contextmanager
def _shared_memory() -> Iterator[int]:
    """A System V segment; its key."""
    libc = ctypes.CDLL(None, use_errno=True)
    key = 0x1A000000 | os.getpid() & 0xFFFFFF
    segment = libc.shmget(key, 4096, 0o1600)  # IPC_CREAT
    assert segment >= 0, os.strerror(ctypes.get_errno())
    try:
        yield key
    finally:
        libc.shmctl(segment, _IPC_RMID, None)


def _disk() -> str:
    """A block device of this machine, as MAJOR:MINOR."""
    files = sorted(Path("/sys/block").glob("*/dev"))
    return files[0].read_text().strip() if files else ""


def parse(text: str) -> Answers:
    rows = [line.split("\t") for line in text.splitlines() if line.count("\t") == 2]
    found = {name: Answer(answer=answer, why=why) for name, answer, why in rows}
    assert len(found) > 40, text[-2000:]
    return found


# ---- places

_BUILD = ("build", "--no-cache", "-q", "-t", "probed")
_RUN = ("run", "--rm", "escapes", "/probe")


def lamina_of(ground: Ground, name: str = "store", **env: str) -> Lamina:
    """A store with the image `escapes` in it."""
    lamina = Lamina(root=ground.work / name, env={VARIABLE: VARIABLE, **env})
    if not lamina.root.exists():
        lamina("import", ground.image, "escapes")
    return lamina


def in_build(ground: Ground, *, insecure: bool = False) -> Answers:
    """In a RUN."""
    lamina = lamina_of(ground)
    folder = ground.work / ("insecure" if insecure else "build")
    folder.mkdir()
    flag = "--security=insecure " if insecure else ""
    words = " ".join(f"'{word}'" for word in ground.words)
    (folder / "Dockerfile").write_text(f"FROM escapes\nRUN {flag}/probe {words} > /answers\n")
    rights = ("--allow", "security.insecure") if insecure else ()
    build = (*_BUILD, *rights, folder)
    _run_passing(lamina, ground, *build)
    return parse(lamina("run", "--rm", "probed", "cat", "/answers").stdout)


def in_insecure_build(ground: Ground) -> Answers:
    """With the walls down: what shows that the probe finds something."""
    return in_build(ground, insecure=True)


def in_run(ground: Ground) -> Answers:
    lamina = lamina_of(ground)
    return parse(_run_passing(lamina, ground, *_RUN, *ground.words))


def by_runtime(name: str) -> Place:
    """In `run --runtime`: the same container, by another runtime."""

    def place(ground: Ground) -> Answers:
        run = (*_RUN[:2], "--runtime", name, *_RUN[2:])
        return parse(_run_passing(lamina_of(ground), ground, *run, *ground.words))

    return place


def in_rootless_run(ground: Ground) -> Answers:
    """As an ordinary user."""
    with _ordinary_user(ground) as (lamina, prefix):
        return parse(_run_passing(lamina, ground, *_RUN, *ground.words, prefix=prefix))


def in_rootless_build(ground: Ground) -> Answers:
    with _ordinary_user(ground) as (lamina, prefix):
        folder = ground.work / "ordinary" / "context"
        folder.mkdir(exist_ok=True)
        words = " ".join(f"'{word}'" for word in ground.words)
        (folder / "Dockerfile").write_text(f"FROM escapes\nRUN /probe {words} > /answers\n")
        build = (*_BUILD, folder)
        _run_passing(lamina, ground, *build, prefix=prefix)
        cat = ("run", "--rm", "probed", "cat", "/answers")
        return parse(_run_passing(lamina, ground, *cat, prefix=prefix))


@contextmanager
def _ordinary_user(ground: Ground) -> Iterator[tuple[Lamina, tuple[str, ...]]]:
    """A store of an ordinary user's, and the command for it."""
    home = ground.work / "ordinary"
    python = host.same_python()
    assert python is not None
    prefix = (*host.as_nobody(), python, "-m", "builder")
    packages = sysconfig.get_path("purelib")
    env = {VARIABLE: VARIABLE, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    lamina = Lamina(root=home / "store", env=env | {"PYTHONPATH": f"{REPOSITORY}:{packages}"})
    if not home.exists():
        home.mkdir()
        os.chown(home, host.NOBODY, host.NOBODY)
        _run_passing(lamina, ground, "import", str(ground.image), "escapes", prefix=prefix)
    yield lamina, prefix


def _run_passing(
    lamina: Lamina, ground: Ground, *words: str | Path, prefix: tuple[str, ...] = ()
) -> str:
    """Run the command with a descriptor that it must not pass on; what it prints."""
    os.set_inheritable(ground.descriptor, True)
    done = subprocess.run(
        [*(prefix or command()), *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=lamina.environment(),
        pass_fds=(ground.descriptor,),
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def in_podman(ground: Ground) -> Answers:
    state = ground.work / "podman"
    state.mkdir()
    hard = os.sysconf("SC_OPEN_MAX")
    (state / "containers.conf").write_text(
        f'[containers]\ndefault_ulimits = ["nofile={hard}:{hard}", "nproc=32768:32768"]\n'
        '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    )
    podman = [
        *("podman", "--root", str(state / "root"), "--runroot", str(state / "run")),
        *("--tmpdir", str(state / "tmp"), "--storage-driver", "vfs"),
    ]
    env = ground.environment() | {"CONTAINERS_CONF": str(state / "containers.conf")}
    _output([*podman, "import", str(ground.image), "localhost/escapes"], env)
    run = ("run", "--rm", "--network=none", "localhost/escapes", "/probe")
    return parse(_output([*podman, *run, *ground.words], env))


def in_docker(ground: Ground) -> Answers:
    """By a daemon of its own, which touches no network of this machine."""
    state = ground.work / "docker"
    state.mkdir()
    address = f"unix://{state}/sock"
    off = ("--iptables=false", "--ip6tables=false", "--ip-masq=false", "--ip-forward=false")
    places = ("--data-root", f"{state}/data", "--exec-root", f"{state}/exec", "-p", f"{state}/pid")
    with (state / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                *("dockerd", "-H", address, "--bridge=none", "--storage-driver", "vfs"),
                *off,
                *places,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    env = ground.environment() | {"DOCKER_HOST": address, "HOME": str(state)}
    try:
        for _ in range(300):
            asked = subprocess.run(["docker", "version"], env=env, capture_output=True, check=False)
            if asked.returncode == 0 or daemon.poll() is not None:
                break
            time.sleep(0.1)
        _output(["docker", "import", str(ground.image), "escapes"], env)
        run = ("run", "--rm", "--network=none", "escapes", "/probe")
        return parse(_output(["docker", *run, *ground.words], env))
    finally:
        daemon.terminate()
        daemon.wait(60)


def _output(argv: list[str], env: Mapping[str, str]) -> str:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- the page

OURS: dict[str, Place] = {"RUN": in_build, "run": in_run}
ROOTLESS: dict[str, Place] = {
    "RUN, rootless": in_rootless_build,
    "run, rootless": in_rootless_run,
}
RUNTIMES: dict[str, Place] = {name: by_runtime(name) for name in ("crun", "runc")}
THEIRS: Mapping[str, tuple[str, Place]] = {
    "docker": ("dockerd", in_docker),
    "podman": ("podman", in_podman),
}


def page(found: Mapping[str, Answers], versions: str) -> str:
    """The comparison as Markdown."""
    names = list(dict.fromkeys(name for answers in found.values() for name in answers))
    rows = [
        [name, *(str(answers[name]) if name in answers else "" for answers in found.values())]
        for name in names
    ]
    counts = [
        f"{sum(answer.is_open for answer in answers.values())} open" for answers in found.values()
    ]
    table = [["way", *found], ["---"] * (len(found) + 1), *rows, ["", *counts]]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in table)
    return f"{_HEAD.format(count=len(names), versions=versions)}\n{lines}\n"


_HEAD = """# Ways out, tried

`tests/support/probe.c` tries {count} ways out of a container and up in it, here inside of a RUN, of
`lamina run`, and of other tools on the same machine. Ours have the network that they get when
nobody says which, docker and podman have none. `open`: the way is there; `blocked`: it is not, with
the error; `absent`: this machine has nothing of the kind. What docker or podman blocks is blocked
(`tests/endtoend/test_escapes.py`).

Made by `python -m tests.support.escapes > docs/escapes.md`, on {versions}.
"""


def _versions() -> str:
    kernel = os.uname()
    found = [f"Linux {kernel.release.partition('-')[0]} {kernel.machine}"]
    for argv in (["dockerd", "--version"], ["podman", "--version"]):
        if shutil.which(argv[0]):
            found.append(_output(argv, os.environ).strip().partition(",")[0])
    return ", ".join(found)


def main() -> None:
    with prepared() as ground:
        places = OURS | ROOTLESS
        places |= {name: place for name, place in RUNTIMES.items() if shutil.which(name)}
        places |= {name: place for name, (tool, place) in THEIRS.items() if shutil.which(tool)}
        found = {name: place(ground) for name, place in places.items()}
    sys.stdout.write(page(found, _versions()))


if __name__ == "__main__":
    main()
