"""Other tools, with storage of their own in a temporary folder: what we compare ourselves with."""

import os
import resource
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.support import conformance
from tests.support.imagetree import DirLayout


class PeerError(AssertionError):
    """A peer failed where it should not; says all it wrote."""


class Containers:
    """Buildah and podman on one store of its own; `close` removes it.

    Podman asks for limits that need CAP_SYS_RESOURCE, hence the configuration of its own; and its
    runroot must be a short name, hence not in a folder of the test's.
    """

    def __init__(self) -> None:
        self.root = root = Path(tempfile.mkdtemp(prefix="peers-"))
        files = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1 << 20)
        processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        if processes == resource.RLIM_INFINITY or processes > 32768:
            processes = 32768
        (root / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", '
            f'"nproc={processes}:{processes}"]\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        (root / "registries.conf").write_text("unqualified-search-registries = []\n")
        (root / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (root / "tmp").mkdir()
        self.env = os.environ | {
            "CONTAINERS_CONF": str(root / "containers.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(root / "registries.conf"),
            "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
            "TMPDIR": str(root / "tmp"),
        }

    def __call__(
        self,
        tool: str,
        *args: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run buildah or podman and return what it printed."""
        storage: list[str | Path] = ["--root", self.root / "store", "--runroot", self.root / "run"]
        return run(
            tool,
            *storage,
            "--storage-driver",
            "overlay",
            *args,
            cwd=cwd,
            env=self.env | dict(env or {}),
        )

    def close(self) -> None:
        """Remove everything; a build that failed may have left its root mounted."""
        mounted = [
            line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()
        ]
        for place in reversed(mounted):
            if Path(place).is_relative_to(self.root):
                subprocess.run(["umount", "-l", place], capture_output=True, check=False)
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.root)], check=False)

    def import_base(self, kind: str, work: Path) -> None:
        """A base of the conformance material, under all its names."""
        changes = [
            word for change in conformance.base_changes(kind) for word in ("--change", change)
        ]
        first, *others = conformance.base_names(kind)
        self("podman", "import", "-q", *changes, conformance.base_tar(kind, work), first)
        for name in others:
            self("podman", "tag", first, name)

    def layout_of(self, name: str, work: Path) -> DirLayout:
        """The image as a flat directory in Docker's format, which keeps every config field."""
        self("buildah", "push", "-q", "--format", "docker", name, f"dir:{work}")
        return DirLayout(work)


def run(
    *argv: str | Path,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    stdin: bytes = b"",
) -> str:
    done = subprocess.run(
        list(map(str, argv)), cwd=cwd, env=env, input=stdin, capture_output=True, check=False
    )
    if done.returncode != 0:
        words = " ".join(map(str, argv))
        raise PeerError(f"exit code {done.returncode}: {words}\n{os.fsdecode(done.stderr)[-4000:]}")
    return os.fsdecode(done.stdout)
