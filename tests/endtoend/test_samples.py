"""Every sample: built, run, checked, built again from the cache, and given to other tools.

One store holds them all, as it would on a user's machine; each sample is built when first needed.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.support.cli import REPOSITORY, Lamina
from tests.support.imagetree import DirLayout, OciLayout, difference, scan
from tests.support.peers import Containers, run
from tests.support.progress import executed
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.needs_overlay]

SAMPLES = REPOSITORY / "sample-dockerfiles"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image: how it is built, and what `run IMAGE arguments` prints."""

    folder: str
    output: str
    build: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    variant: str = ""
    base: tuple[str, ...] = ()  # built before, from the same folder
    debian: bool = False
    ids: bool = False  # what it prints depends on whose files may be read

    @property
    def name(self) -> str:
        return f"samples/{self.folder}{self.variant and '-' + self.variant}"

    def __str__(self) -> str:
        return self.name


ALL = (
    Sample(folder="01-hello", output="Hello from Lamina\n"),
    Sample(folder="02-basics", output="Hello, small world, from /app\n"),
    Sample(folder="03-dockerignore", output="./docs/manual.md\n./src/main.py\n"),
    Sample(folder="04-multi-stage-c", output="2 3 5 7 11 13 17 19 23 29\n", debian=True),
    Sample(
        folder="04-multi-stage-c", variant="ten", output="2 3 5 7\n", arguments=("10",), debian=True
    ),
    Sample(
        folder="05-python-web",
        output="nobody was here yet\nthank you\n* check: it works\n",
        arguments=("check",),
        debian=True,
    ),
    Sample(
        folder="06-heredocs",
        output="/www/index.html: <h1>Made by nobody</h1>\n/www/robots.txt: User-agent: *\n"
        "/www/sitemap.txt: 2 pages\n/www/sums.txt: 2 + 2 = 4\n",
    ),
    Sample(
        folder="06-heredocs",
        variant="author",
        build=("--build-arg", "AUTHOR=Ada"),
        output="/www/index.html: <h1>Made by Ada</h1>\n/www/robots.txt: User-agent: *\n"
        "/www/sitemap.txt: 2 pages\n/www/sums.txt: 2 + 2 = 4\n",
    ),
    Sample(
        folder="07-onbuild",
        base=("-f", "Dockerfile.base", "-t", "samples/site"),
        build=("--build-arg", "TITLE=Home"),
        output="=== Home ===\n",
    ),
    Sample(
        folder="08-user",
        output="I am app in group app\nhome is /home/app\n"
        "app:app 755 report\napp:app 644 note.txt\nroot:app 2775 /srv/shared\n"
        "root:root 640 /etc/shadow\napp:app /srv/shared/file\n/etc/shadow: not for me\n",
        ids=True,
    ),
    Sample(
        folder="09-add-tar",
        output="-rw-r----- letters/alpha\n-rwxr-xr-x letters/beta\nA\nB\n"
        "two letters, in an archive\n",
    ),
    Sample(folder="10-args-and-targets", output="release 0.0\n"),
    Sample(
        folder="10-args-and-targets",
        variant="debug",
        build=("--target", "debug", "--build-arg", "VERSION=1.2"),
        output="debug 1.2: tracing on\n",
    ),
    Sample(folder="11-service", output="0\n", arguments=("--entrypoint", "cat", "/data/visits")),
    Sample(folder="12-waste", output="163804\nc\ngone\n"),
    Sample(
        folder="12-waste",
        variant="thrifty",
        build=("--target", "thrifty"),
        output="163804\nc\ngone\n",
    ),
    Sample(folder="13-mounts", output="apple\nleek\npear\nquince\n4\nunsigned\n3\n"),
)

every_sample = pytest.mark.parametrize(
    "sample",
    [
        pytest.param(sample, id=sample.name, marks=[pytest.mark.needs_debian] * sample.debian)
        for sample in ALL
    ],
)


class Built:
    """The store of all samples."""

    def __init__(self, root: Path) -> None:
        self.lamina = Lamina(root=root)
        self.layout = OciLayout(root)
        self._done: set[str] = set()

    def ensure(self, sample: Sample) -> None:
        base = "debian:bookworm" if sample.debian else "busybox"
        if base not in self._done:
            self.lamina("bootstrap", base)
        if sample.name not in self._done:
            if sample.base:
                self.build(replace(sample, build=sample.base))
            self.build(sample)
        self._done |= {base, sample.name}

    def build(self, sample: Sample) -> str:
        """Build, and return the plain progress."""
        words = ["build", "--progress", "plain", "-t", sample.name, *sample.build, "."]
        return self.lamina(*words, cwd=SAMPLES / sample.folder).stderr

    def run(self, sample: Sample) -> str:
        return self.lamina("run", *run_arguments(sample, f"{sample.name}:latest")).stdout


def run_arguments(sample: Sample, image: str) -> list[str]:
    """The same for podman: what stands behind `run`."""
    options, arguments = ["--rm", "--network", "none"], list(sample.arguments)
    if arguments[:1] == ["--entrypoint"]:
        options, arguments = options + arguments[:2], arguments[2:]
    return [*options, image, *arguments]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return Built(tmp_path_factory.mktemp("samples") / "store")


@pytest.fixture(scope="module")
def podman() -> Iterator[Containers]:
    containers = Containers()
    try:
        yield containers
    finally:
        containers.close()


def test_every_sample_folder_is_tested_and_in_the_table() -> None:
    folders = {path.name for path in SAMPLES.iterdir() if path.is_dir()}
    table = (SAMPLES / "README.md").read_text()
    assert {sample.folder for sample in ALL} == folders
    assert [folder for folder in folders if f"[{folder}]({folder}/Dockerfile)" not in table] == []


@pytest.mark.parametrize(
    "sample",
    [
        pytest.param(
            sample,
            id=sample.name,
            marks=[pytest.mark.needs_debian] * sample.debian + [pytest.mark.needs_ids] * sample.ids,
        )
        for sample in ALL
    ],
)
def test_it_runs_with_the_expected_output(built: Built, sample: Sample) -> None:
    built.ensure(sample)
    assert built.run(sample) == sample.output


@every_sample
def test_building_it_again_executes_nothing(built: Built, sample: Sample) -> None:
    built.ensure(sample)
    before = built.layout.names()[f"{sample.name}:latest"]
    assert executed(built.build(sample)) == []
    assert built.layout.names()[f"{sample.name}:latest"] == before


@every_sample
@pytest.mark.needs_peers("skopeo")
def test_skopeo_reads_it_from_the_store_in_place(
    built: Built, sample: Sample, tmp_path: Path
) -> None:
    built.ensure(sample)
    source = f"oci:{built.lamina.root}:{sample.name}:latest"
    seen = json.loads(run("skopeo", "inspect", source))
    assert seen["Digest"] == built.layout.names()[f"{sample.name}:latest"]
    run("skopeo", "copy", "-q", "--preserve-digests", source, f"dir:{tmp_path / 'copy'}")
    assert copied_layers(tmp_path / "copy") == built.layout.layers(f"{sample.name}:latest")


@every_sample
@pytest.mark.needs_peers("skopeo")
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_skopeo_reads_what_save_writes(
    built: Built, sample: Sample, kind: str, tmp_path: Path
) -> None:
    """One tar, which is both; skopeo is told which of them to see, and unpacks the former."""
    built.ensure(sample)
    built.lamina("save", "-o", tmp_path / "image.tar", sample.name)
    run("skopeo", "copy", "-q", f"{kind}:{tmp_path / 'image.tar'}", f"dir:{tmp_path / 'copy'}")
    layers = built.layout.layers(f"{sample.name}:latest")
    if kind == "docker-archive":
        layers = built.layout.config(f"{sample.name}:latest")["rootfs"]["diff_ids"]
    assert copied_layers(tmp_path / "copy") == layers


def copied_layers(folder: Path) -> list[str]:
    """The layers of a flat copy, after a look that each is what it is called."""
    layers = DirLayout(folder).layers("")
    for digest in layers:
        with DirLayout(folder).blob(digest).open("rb") as blob:
            assert f"sha256:{hashlib.file_digest(blob, 'sha256').hexdigest()}" == digest
    return layers


@every_sample
@pytest.mark.needs_root
@pytest.mark.needs_peers("umoci")
def test_umoci_unpacks_the_same_tree(built: Built, sample: Sample, tmp_path: Path) -> None:
    built.ensure(sample)
    image = f"{built.lamina.root}:{sample.name}:latest"
    run("umoci", "unpack", "--image", image, tmp_path / "bundle")
    unpacked = scan(tmp_path / "bundle" / "rootfs")
    assert difference(built.layout.tree(f"{sample.name}:latest"), unpacked) == []


@every_sample
@pytest.mark.needs_ids
@pytest.mark.needs_peers("podman")
def test_podman_loads_it_and_prints_the_same(
    built: Built, podman: Containers, sample: Sample, tmp_path: Path
) -> None:
    built.ensure(sample)
    built.lamina("save", "-o", tmp_path / "image.tar", sample.name)
    loaded = podman("podman", "load", "-i", tmp_path / "image.tar")
    assert f"{sample.name}:latest" in loaded
    image = loaded.strip().rpartition("Loaded image: ")[2]
    assert podman("podman", "run", *run_arguments(sample, image)) == sample.output


def test_the_store_of_all_samples_is_sound(built: Built) -> None:
    for sample in ALL:
        if not sample.debian:
            built.ensure(sample)
    built.lamina("fsck")


def test_the_service_says_how_it_wants_to_be_run(built: Built) -> None:
    sample = next(sample for sample in ALL if sample.folder == "11-service")
    built.ensure(sample)
    config = built.layout.config(f"{sample.name}:latest")["config"]
    assert config["ExposedPorts"] == {"8080/tcp": {}}
    assert config["Volumes"] == {"/data": {}}
    assert config["StopSignal"] == "SIGINT"
    assert config["Entrypoint"] == ["service"]
    assert config["Cmd"] == ["8080"]
    assert config["Healthcheck"] == {
        "Test": ["CMD-SHELL", "wget -q -O /dev/null http://127.0.0.1:8080/ || exit 1"],
        "Interval": 5_000_000_000,
        "Timeout": 2_000_000_000,
        "StartPeriod": 1_000_000_000,
        "Retries": 3,
    }


def test_the_service_is_started_asked_and_stopped_by_its_own_signal(built: Built) -> None:
    sample = next(sample for sample in ALL if sample.folder == "11-service")
    built.ensure(sample)
    lamina = built.lamina
    lamina("run", "-d", "--network", "none", "--name", "service", sample.name)
    try:
        wait_until(lambda: "serving on 8080" in lamina("logs", "service").stdout)
        page = ["wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]
        wait_until(lambda: lamina("exec", "service", *page, check=False).stdout == "it works\n")
        lamina("stop", "service")
        assert lamina("logs", "service").stdout == "serving on 8080\nstopping\n"
    finally:
        lamina("rm", "-f", "service")
