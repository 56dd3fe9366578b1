"""Base images without a registry, made of the distribution's own packages.

    busybox        the static busybox: one program, a hard link per applet, like docker's busybox
    debian:SUITE   mmdebstrap's minbase from the mirror that apt on this machine uses, like docker's

What is machine's stays out: no host name, no resolver, no package lists, no logs. What the image
needs to live on goes in: the package sources, and apt's settings as docker's Debian images have
them. Equal packages give equal digests: every time is clamped to SOURCE_DATE_EPOCH or, without it,
to the build date of the busybox package, the date of the suite's release file.

The first half of this file is pure (what is in an image), the second acts.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder import archives
from builder.errors import BuilderError
from builder.sandbox import recording_child
from layerstore import (
    Change,
    ContainerConfig,
    History,
    Image,
    ImageConfig,
    Meta,
    PutDir,
    PutFile,
    PutHardlink,
    PutSymlink,
    Reference,
    Store,
    TreePath,
    host_platform,
    parse_tree_path,
    unpack,
)

if TYPE_CHECKING:
    import subprocess

Report = Callable[[str], None]

BUSYBOX_PACKAGE = "busybox-static"
DEBIAN_PACKAGE = "mmdebstrap"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

_DEBIAN_NAME = re.compile(r"debian:([a-z][a-z0-9-]{0,62})")
_MADE_HERE = "this machine can make busybox and debian:SUITE, such as debian:bookworm"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_POCKETS = ("", "-updates", "-security")
_APT_HELPER = "/usr/lib/apt/apt-helper"


class BootstrapError(BuilderError):
    """A base image could not be made."""


def bootstrap(name: str, store: Store, report: Report) -> Image:
    """Make the base image `name`, store it and tag it; `report` gets a line for each stage of work.

    Raises:
        BootstrapError: the name is not one of ours, a package is missing, the mirror is silent.
    """
    debian = _DEBIAN_NAME.fullmatch(name)
    if debian:
        return _bootstrap_debian(debian[1], store=store, report=report)
    if name in ("busybox", "busybox:latest"):
        return _bootstrap_busybox(store=store, report=report)
    raise BootstrapError(f"cannot make a base image named {name!r}", hint=_MADE_HERE)


# What is in an image: pure.

_BUSYBOX_DIRS = {
    "bin": 0o755,
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "proc": 0o755,
    "root": 0o700,
    "sys": 0o755,
    "tmp": 0o1777,
    "usr": 0o755,
    "usr/bin": 0o755,
    "usr/sbin": 0o755,
    "var": 0o755,
    "var/spool": 0o755,
    "var/spool/mail": 0o755,
    "var/www": 0o755,
}

# The accounts of docker's busybox, which are buildroot's.
_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
sync:x:4:100:sync:/bin:/bin/sync
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
operator:x:37:37:Operator:/var:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
_GROUPS = (
    "root:0 daemon:1 bin:2 sys:3 adm:4 tty:5 disk:6 lp:7 mail:8 kmem:9 wheel:10:root cdrom:11 "
    "dialout:18 floppy:19 video:28 audio:29 tape:32 www-data:33 operator:37 utmp:43 plugdev:46 "
    "staff:50 lock:54 netdev:82 users:100 nobody:65534"
)
_GROUP = "".join("{}:x:{}:{}\n".format(*(entry + ":").split(":")[:3]) for entry in _GROUPS.split())
_SHADOW = "".join(f"{line.split(':')[0]}:*:::::::\n" for line in _PASSWD.splitlines())
_BUSYBOX_FILES = {
    "etc/group": (0o644, _GROUP),
    "etc/nsswitch.conf": (0o644, "hosts: files dns\n"),
    "etc/passwd": (0o644, _PASSWD),
    "etc/shadow": (0o640, _SHADOW),
}

# Settings of docker's Debian images, under the names people delete them by.
_CLEAN = "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb || true"
_DEBIAN_FILES = {
    "etc/apt/apt.conf.d/docker-autoremove-suggests": (
        0o644,
        'Apt::AutoRemove::SuggestsImportant "false";\n',
    ),
    "etc/apt/apt.conf.d/docker-clean": (
        0o644,
        f'DPkg::Post-Invoke {{ "{_CLEAN}"; }};\n'
        f'APT::Update::Post-Invoke {{ "{_CLEAN}"; }};\n'
        'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n',
    ),
    "etc/apt/apt.conf.d/docker-gzip-indexes": (0o644, 'Acquire::GzipIndexes "true";\n'),
    "etc/apt/apt.conf.d/docker-no-languages": (0o644, 'Acquire::Languages "none";\n'),
    "etc/dpkg/dpkg.cfg.d/docker-apt-speedup": (0o644, "force-unsafe-io\n"),
    "etc/machine-id": (0o444, ""),
    # Services are not started while an image is built.
    "usr/sbin/policy-rc.d": (0o755, "#!/bin/sh\nexit 101\n"),
}

# What mmdebstrap leaves of this machine, of the installation, or of its own. A trailing slash
# means everything beneath the directory, which stays.
_DEBIAN_DROPPED = (
    "dev/",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/sources.list",
    "etc/apt/sources.list.d/",
    "etc/group-",
    "etc/gshadow-",
    "etc/hostname",
    "etc/passwd-",
    "etc/resolv.conf",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "proc/",
    "sys/",
    "var/cache/apt/archives/lock",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/cache/ldconfig/",
    "var/lib/apt/lists/lock",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/status-old",
)


def busybox_changes(program: bytes, *, applets: Iterable[str], mtime_s: int) -> list[Change]:
    """The tree of the busybox image; `program` is what every applet is a link to."""
    mtime_ns = mtime_s * 1_000_000_000
    changes: list[Change] = [
        PutDir(TreePath(path), Meta(mode, mtime_ns=mtime_ns))
        for path, mode in _BUSYBOX_DIRS.items()
    ]
    changes.extend(_put_files(_BUSYBOX_FILES, mtime_ns=mtime_ns))
    busybox = TreePath("bin/busybox")
    changes.append(PutFile(busybox, Meta(0o755, mtime_ns=mtime_ns), len(program), program))
    changes.extend(
        PutHardlink(parse_tree_path(f"bin/{name}"), busybox)
        for name in sorted(set(applets) - {"busybox"})
    )
    link = Meta(0o777, mtime_ns=mtime_ns)
    changes.append(PutSymlink(TreePath("usr/bin/env"), link, "../../bin/env"))
    return changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """One line of package sources."""

    uri: str
    suite: str
    components: tuple[str, ...]


def repositories_for(
    suite: str, *, known: Sequence[Repository], host_suite: str
) -> tuple[Repository, ...]:
    """The sources of `suite` on the mirrors that serve `host_suite` to this machine.

    Third-party sources of the host are left out; sid has no updates and no security pocket.
    """
    pockets = ("",) if suite in ("sid", "unstable", "experimental") else _POCKETS
    return tuple(
        replace(repository, suite=suite + pocket)
        for pocket in pockets
        for repository in known
        if repository.suite == host_suite + pocket
    )


def sources_text(repositories: Iterable[Repository], *, signed_by: str) -> str:
    """A deb822 sources file."""
    return "\n".join(
        f"Types: deb\nURIs: {repository.uri}\nSuites: {repository.suite}\n"
        f"Components: {' '.join(repository.components)}\n"
        + (f"Signed-By: {signed_by}\n" if signed_by else "")
        for repository in repositories
    )


def parse_index_targets(text: str) -> tuple[Repository, ...]:
    """Read `URI|suite|component` lines, one per index file that apt would fetch."""
    components: dict[tuple[str, str], dict[str, None]] = {}
    for line in text.splitlines():
        uri, suite, component = line.split("|")
        components.setdefault((uri, suite), {})[component] = None
    return tuple(
        Repository(uri=uri, suite=suite, components=tuple(names))
        for (uri, suite), names in components.items()
    )


def debian_changes(
    changes: Iterable[Change], *, files: dict[str, tuple[int, str]], mtime_s: int
) -> Iterator[Change]:
    """What mmdebstrap made, without the machine's traces and with `files` added."""
    for change in changes:
        if change.path not in files and not _is_dropped(change.path):
            yield change
    yield from _put_files(files, mtime_ns=mtime_s * 1_000_000_000)


def _is_dropped(path: str) -> bool:
    return any(
        path.startswith(name) if name.endswith("/") else path == name for name in _DEBIAN_DROPPED
    )


def _put_files(files: dict[str, tuple[int, str]], *, mtime_ns: int) -> Iterator[Change]:
    for path, (mode, text) in files.items():
        content = text.encode()
        yield PutFile(TreePath(path), Meta(mode, mtime_ns=mtime_ns), len(content), content)


def _config(*, created_s: int, created_by: str, cmd: str, comment: str) -> ImageConfig:
    platform = host_platform()
    created = _rfc3339(created_s)
    return ImageConfig(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        created=created,
        config=ContainerConfig(env=(_PATH,), cmd=(cmd,)),
        history=(
            History(created=created, created_by=created_by, comment=comment),
            History(created=created, created_by=f'CMD ["{cmd}"]', empty_layer=True),
        ),
    )


def _rfc3339(seconds: int) -> str:
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


# Acting.


def _bootstrap_busybox(*, store: Store, report: Report) -> Image:
    program = _installed_busybox()
    if program is not None:
        return _keep_busybox(program, store=store, report=report)
    with store.new_tmpdir() as work:
        report(f"fetching the package {BUSYBOX_PACKAGE}")
        return _keep_busybox(_fetched_busybox(work), store=store, report=report)


def _keep_busybox(program: Path, *, store: Store, report: Report) -> Image:
    report(f"making busybox of {program}")
    applets = _run([str(program), "--list"]).split()
    mtime_s = _source_date_epoch(int(program.stat().st_mtime))
    changes = busybox_changes(program.read_bytes(), applets=applets, mtime_s=mtime_s)
    config = _config(
        created_s=mtime_s,
        created_by="lamina bootstrap busybox",
        cmd="sh",
        comment=f"made of the package {BUSYBOX_PACKAGE}",
    )
    return _keep(changes, config=config, name="busybox:latest", store=store)


def _installed_busybox() -> Path | None:
    """A busybox of this machine that runs without any library."""
    for path in (Path("/bin/busybox"), Path("/usr/bin/busybox")):
        try:
            if is_static(path.read_bytes()):
                return path
        except OSError:  # not there, or not ours to read
            continue
    return None


def is_static(program: bytes) -> bool:
    """Whether an ELF file asks for no program interpreter (PT_INTERP, <elf.h>)."""
    if program[:4] != b"\x7fELF":
        return False
    wide = program[4] == 2
    order: Literal["little", "big"] = "little" if program[5] == 1 else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(program[at : at + size], order)

    start = number(32, 8) if wide else number(28, 4)
    size, count = (number(54, 2), number(56, 2)) if wide else (number(42, 2), number(44, 2))
    pt_interp = 3
    return all(number(start + index * size, 4) != pt_interp for index in range(count))


def _fetched_busybox(work: Path) -> Path:
    hint = f"install the package {BUSYBOX_PACKAGE} (apt-get install {BUSYBOX_PACKAGE})"
    _run(["apt-get", "download", "-q", BUSYBOX_PACKAGE], cwd=work, hint=hint)
    packages = list(work.glob("*.deb"))
    _run(["dpkg-deb", "-x", *map(str, packages), str(work / "tree")], hint=hint)
    for path in (work / "tree/bin/busybox", work / "tree/usr/bin/busybox"):
        if path.is_file():
            return path
    raise BootstrapError(f"the package {BUSYBOX_PACKAGE} holds no /bin/busybox", hint=hint)


def _bootstrap_debian(suite: str, *, store: Store, report: Report) -> Image:
    import shutil

    if not shutil.which(DEBIAN_PACKAGE):
        raise BootstrapError(
            f"{DEBIAN_PACKAGE} is not installed, which makes Debian base images",
            hint=f"install it (apt-get install {DEBIAN_PACKAGE}), or `lamina import` a root "
            "file system",
        )
    repositories = repositories_for(
        suite, known=_apt_repositories(), host_suite=_os_release("VERSION_CODENAME")
    )
    with store.new_tmpdir() as work:
        epoch_s = _source_date_epoch(_release_date(repositories, suite=suite, work=work))
        tarball = work / "debian.tar"
        _mmdebstrap(
            suite, repositories=repositories, tarball=tarball, epoch_s=epoch_s, report=report
        )
        report("storing the layer")
        files = _DEBIAN_FILES | {
            "etc/apt/sources.list.d/debian.sources": (
                0o644,
                sources_text(repositories, signed_by=KEYRING),
            )
        }
        settings = "".join(f'{name} "{value}";\n' for name, value in _apt_settings("Check"))
        if settings:  # the mirror is a frozen one: what this machine needs, the image needs
            files["etc/apt/apt.conf.d/90mirror"] = (0o644, settings)
        config = _config(
            created_s=epoch_s,
            created_by=f"lamina bootstrap debian:{suite}",
            cmd="bash",
            comment=f"made by {DEBIAN_PACKAGE}, variant minbase",
        )
        with tarball.open("rb") as stream, ExitStack() as cleanup:
            members = archives.kept(unpack(stream), cleanup)
            changes = debian_changes(members, files=files, mtime_s=epoch_s)
            return _keep(changes, config=config, name=f"debian:{suite}", store=store)


def _mmdebstrap(
    suite: str,
    *,
    repositories: tuple[Repository, ...],
    tarball: Path,
    epoch_s: int,
    report: Report,
) -> None:
    """Run mmdebstrap, passing on its progress; it cleans up after itself, also when interrupted."""
    import subprocess

    argv = [DEBIAN_PACKAGE, "--variant=minbase", "--format=tar"]
    for name, value in (*_apt_settings("Check"), *_apt_settings("https?::")):
        argv.append(f'--aptopt={name} "{value}"')
    argv += [suite, str(tarball)]
    if repositories:
        sources = tarball.with_name("debian.sources")
        signed_by = KEYRING if Path(KEYRING).exists() else ""
        sources.write_text(sources_text(repositories, signed_by=signed_by))
        argv.append(str(sources))
    environment = os.environ | {"LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": str(epoch_s)}
    with recording_child() as before:
        if before is not None:  # nor are there the ids that /dev/pts would belong to
            argv.insert(1, "--skip=chroot/mount")
        process = subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            preexec_fn=before,  # this process has one thread
        )
        with process:
            problems = list(_progress(process, report=report))
    if process.returncode != 0:
        problem = problems[-1] if problems else f"exit code {process.returncode}"
        raise BootstrapError(
            f"{DEBIAN_PACKAGE} could not make debian:{suite}: {problem}",
            hint="try `apt-get update` on this machine: the same mirror is used",
        )


def _progress(process: "subprocess.Popen[str]", *, report: Report) -> Iterator[str]:
    """Report the stages of work as they come; yield what was complained about."""
    assert process.stderr is not None
    for line in process.stderr:
        severity, _, text = line.rstrip().partition(": ")
        if severity == "I" and text.endswith("...") and "tempdir" not in text:
            report(text.removesuffix("..."))
        elif severity == "E":
            yield text


def _apt_repositories() -> tuple[Repository, ...]:
    """The binary package sources of this machine, whichever style they are written in."""
    fields = "$(CREATED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    try:
        text = _run(["apt-get", "indextargets", "--no-release-info", "--format", fields])
    except BootstrapError:  # no apt: mmdebstrap knows Debian's own mirror
        return ()
    prefix = "Packages|"
    lines = (line for line in text.splitlines() if line.startswith((prefix + "http", prefix + "m")))
    return parse_index_targets("\n".join(line.removeprefix(prefix) for line in lines))


def _apt_settings(kind: str) -> list[tuple[str, str]]:
    """The scalar `Acquire::KIND...` settings of this machine that are set."""
    try:
        text = _run(["apt-config", "dump", "--no-empty", "--format", "%f=%v%n", "Acquire"])
    except BootstrapError:
        return []
    wanted = re.compile(rf"(Acquire::{kind}[A-Za-z:-]*)=(.+)")
    found = (wanted.fullmatch(line) for line in text.splitlines())
    return [(match[1], match[2]) for match in found if match and not match[1].endswith("::")]


def _release_date(repositories: tuple[Repository, ...], *, suite: str, work: Path) -> int:
    """When the suite was last changed; asking also tells early that a mirror is out of reach."""
    import email.utils
    import time

    if not repositories:
        return int(time.time())
    uri = f"{repositories[0].uri}dists/{suite}/InRelease"
    target = work / "InRelease"
    timeouts = ["-o", "Acquire::http::Timeout=30", "-o", "Acquire::Retries=2"]
    hint = f"is there a suite named {suite}, and does `apt-get update` work on this machine?"
    _run([_APT_HELPER, *timeouts, "download-file", uri, str(target)], hint=hint)
    for line in target.read_text(errors="replace").splitlines():
        if line.startswith("Date: "):
            date = email.utils.parsedate_to_datetime(line.removeprefix("Date: "))
            return int(date.timestamp())
    raise BootstrapError(f"the release file of {suite} has no date", hint=hint)


def _source_date_epoch(otherwise_s: int) -> int:
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(text) if text.isdecimal() else otherwise_s


def _os_release(key: str) -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == key:
            return value.strip("\"'")
    return ""


def _keep(changes: Iterable[Change], *, config: ImageConfig, name: str, store: Store) -> Image:
    layer = store.layers.commit(changes)
    image = store.images.seal(config, (layer,))
    store.images.tag(image, Reference.parse(name))
    store.flush()
    return image


def _run(argv: list[str], *, cwd: Path | None = None, hint: str = "") -> str:
    """Run a helper program and return what it printed.

    Raises:
        BootstrapError: it is missing, or it failed; the last line it wrote says why.
    """
    import subprocess

    try:
        with recording_child() as before:
            done = subprocess.run(
                argv,
                cwd=cwd,
                env=os.environ | {"LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                preexec_fn=before,
            )
    except OSError as error:
        raise BootstrapError(f"{argv[0]}: {error.strerror}", hint=hint) from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if not line.startswith("W:")]
        problem = lines[-1] if lines else f"exit code {done.returncode}"
        raise BootstrapError(f"{' '.join(argv[:2])}: {problem}", hint=hint)
    return done.stdout
