"""What comes out of `lamina build`, as a user asks for it and as other tools read it."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import Lamina, command
from tests.support.faultproxy import fault_proxy
from tests.support.imagetree import Entry, OciLayout, difference, scan
from tests.support.peers import Containers, run
from tests.support.progress import executed
from tests.support.registries import registry

pytestmark = [pytest.mark.needs_overlay]

DOCKERFILE = """\
FROM busybox AS build
RUN echo compiled > /program && chmod 4755 /program && echo rest > /rest
FROM busybox
WORKDIR /work
COPY --from=build /program /bin/program
RUN echo secret > /secret; mkfifo pipe; ln -s /etc/passwd link; rm /etc/group; mkdir -p deep/er
RUN rm /secret; echo one > deep/one; ln deep/one deep/two; chown -R 7:8 deep; touch -d @5 deep/er
RUN rm -r /var; mkdir /var; echo new > /var/new
CMD ["program"]
"""


@pytest.fixture
def project(context: Path) -> Path:
    (context / "Dockerfile").write_text(DOCKERFILE)
    return context


@pytest.fixture
def peers() -> Iterator[Containers]:
    containers = Containers()
    yield containers
    containers.close()


def entries(tree: dict[str, Entry]) -> dict[str, Entry]:
    """Without what a base image and every mount differ in."""
    return {path: entry for path, entry in tree.items() if not path.startswith("dev/")}


def times(tree: dict[str, Entry]) -> dict[str, float]:
    return {path: entry.mtime for path, entry in tree.items()}


def built_tree(store: Lamina, project: Path, *args: str) -> dict[str, Entry]:
    store("build", "-q", "-t", "plain", *args, project)
    return OciLayout(store.root).tree("plain")


def skopeo(source: str) -> Any:
    return json.loads(run("skopeo", "inspect", "--config", source))


# Files.


@pytest.mark.needs_root
def test_a_directory_has_the_tree_of_the_image(
    busybox: Lamina, project: Path, tmp_path: Path
) -> None:
    expected = built_tree(busybox, project)
    busybox("build", "-o", tmp_path / "out", project)
    actual = scan(tmp_path / "out")
    assert difference(entries(expected), entries(actual)) == []
    assert times(entries(expected)) == times(entries(actual))


def test_the_program_of_a_stage_comes_out_beside_what_is_there(
    busybox: Lamina, context: Path, tmp_path: Path
) -> None:
    (context / "Dockerfile").write_text(
        "FROM busybox AS build\nRUN echo made > /made\nFROM scratch\nCOPY --from=build /made /\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    done = busybox("build", "--progress=plain", "--output", f"type=local,dest={out}", context)
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "mine": "mine",
        "made": "made\n",
    }
    assert "image sha256" not in done.stderr
    assert busybox("images", "-q").stdout.count("\n") == 1, "only busybox"


def test_a_tar_on_standard_output_and_nothing_else(busybox: Lamina, project: Path) -> None:
    done = subprocess.run(
        [*command(), "build", "-q", "-o", "-", str(project)],
        env=busybox.environment(),
        capture_output=True,
        check=True,
    )
    listed = run("tar", "tvf", "-", stdin=done.stdout)
    assert "7/8" in next(line for line in listed.splitlines() if line.endswith("deep/one"))
    assert "link to work/deep/one" in listed
    assert ".wh." not in listed


def test_a_tar_is_the_same_for_all_with_an_epoch(tmp_path: Path, project: Path) -> None:
    digests = []
    for number in range(2):
        store = Lamina(root=tmp_path / f"store-{number}", env={"SOURCE_DATE_EPOCH": "1700000000"})
        store("bootstrap", "busybox")
        store("build", "-o", f"type=tar,dest={tmp_path}/{number}.tar", project)
        digests.append((tmp_path / f"{number}.tar").read_bytes())
    assert digests[0] == digests[1]
    with tarfile.open(tmp_path / "0.tar") as archive:
        assert {member.mtime for member in archive} == {1700000000}


@pytest.mark.needs_root
@pytest.mark.needs_userns
def test_an_ordinary_user_owns_what_comes_out(tmp_path: Path) -> None:
    """A store, a context and a directory of user 1000."""
    home = Path("/tmp") / f"lamina-outputs-{os.getpid()}"
    home.mkdir()
    try:
        (home / "context").mkdir()
        (home / "context/f").write_text("f")
        (home / "context/Dockerfile").write_text("FROM scratch\nCOPY --chown=0:0 f /d/f\n")
        for path in (home, *home.rglob("*")):
            os.chown(path, 1000, 1000)
        subprocess.run(
            [
                *("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"),
                *(*command(), "build", "-o", str(home / "out"), str(home / "context")),
            ],
            env={**Lamina(root=home / "store").environment(), "HOME": str(home)},
            check=True,
            capture_output=True,
        )
        assert {(p.stat().st_uid, p.stat().st_gid) for p in (home / "out").rglob("*")} == {
            (1000, 1000)
        }
    finally:
        subprocess.run(["rm", "-rf", str(home)], check=False)


# Archives, as others read them.


@pytest.mark.needs_peers("skopeo")
@pytest.mark.parametrize("compression", ["uncompressed", "gzip", "zstd"])
def test_skopeo_reads_every_archive(
    busybox: Lamina, project: Path, tmp_path: Path, compression: str
) -> None:
    expected = built_tree(busybox, project)
    outputs = [
        f"type=oci,dest={tmp_path}/it.oci,compression={compression},force-compression=true",
        f"type=docker,dest={tmp_path}/it.docker",
        f"type=oci,tar=false,dest={tmp_path}/layout,compression={compression}",
        f"type=oci,dest={tmp_path}/docker-types.oci,oci-mediatypes=false",
    ]
    busybox("build", "-t", "it:1", *(f"--output={text}" for text in outputs), project)
    for number, source in enumerate(
        (
            f"oci-archive:{tmp_path}/it.oci",
            f"docker-archive:{tmp_path}/it.docker:it:1",
            f"oci:{tmp_path}/layout:it:1",
            f"oci-archive:{tmp_path}/docker-types.oci",
        )
    ):
        assert skopeo(source)["config"]["Cmd"] == ["program"]
        copy = tmp_path / f"copy-{number}"
        run("skopeo", "copy", "--insecure-policy", "-q", source, f"oci:{copy}:it:1")
        assert difference(expected, OciLayout(copy).tree("it:1")) == []


@pytest.mark.needs_root
@pytest.mark.needs_peers("umoci")
def test_umoci_unpacks_a_layout(busybox: Lamina, project: Path, tmp_path: Path) -> None:
    expected = built_tree(busybox, project)
    text = f"type=oci,tar=false,dest={tmp_path}/layout,compression-level=9"
    busybox("build", "-t", "it", "--squash", "-o", text, project)
    run("umoci", "unpack", "--image", f"{tmp_path}/layout:it:latest", tmp_path / "bundle")
    assert difference(entries(expected), entries(scan(tmp_path / "bundle/rootfs"))) == []


@pytest.mark.needs_root
@pytest.mark.needs_peers("podman")
def test_podman_loads_and_mounts_what_was_squashed(
    busybox: Lamina, project: Path, tmp_path: Path, peers: Containers
) -> None:
    expected = built_tree(busybox, project)
    text = f"type=docker,dest={tmp_path}/it.tar"
    busybox("build", "-t", "it", "--squash-all", "-o", text, project)
    peers("podman", "load", "-q", "-i", tmp_path / "it.tar")
    (shown,) = json.loads(peers("podman", "inspect", "it"))
    assert len(shown["RootFS"]["Layers"]) == 1
    mounted = Path(peers("podman", "image", "mount", "it").strip())
    try:
        assert difference(entries(expected), entries(scan(mounted))) == []
    finally:
        peers("podman", "image", "umount", "it")


# Squashing.


@pytest.mark.parametrize("flag", ["--squash", "--squash-all", "--squash-from=7"])
def test_a_squashed_image_has_the_tree_of_the_other(
    busybox: Lamina, project: Path, flag: str
) -> None:
    expected = built_tree(busybox, project)
    busybox("build", "-q", "-t", "it", flag, project)
    actual = OciLayout(busybox.root).tree("it")
    assert difference(expected, actual) == []
    assert times(expected) == times(actual)
    run_out = busybox("run", "--rm", "it", "sh", "-c", "ls /var; cat /bin/program").stdout
    assert run_out == "new\ncompiled\n"
    layout = OciLayout(busybox.root)
    tars = [gzip.decompress(layout.blob(digest).read_bytes()) for digest in layout.layers("it")]
    assert any(b"secret\n" in tar for tar in tars) is (flag == "--squash-from=7")
    assert busybox("fsck").stdout.strip() == "0 problems"


def test_squashing_costs_the_next_build_nothing(busybox: Lamina, project: Path) -> None:
    busybox("build", "-q", "-t", "it", "--squash", project)
    done = busybox("build", "--progress=plain", "-t", "it", project)
    assert executed(done.stderr) == []
    assert len(OciLayout(busybox.root).layers("it")) == 6


def test_history_keeps_what_was_squashed(busybox: Lamina, project: Path) -> None:
    busybox("build", "-q", "-t", "it", "--squash", project)
    lines = busybox("history", "--format", "{{.Size}} {{.Comment}}", "it").stdout.splitlines()
    assert len(lines) == 9
    assert lines[0].endswith("merge of 5 layers")
    assert all(line.startswith("0B") for line in lines[1:8])


# Caches.


def test_a_cache_directory_moves_a_build_to_another_machine(
    busybox: Lamina, project: Path, tmp_path: Path
) -> None:
    busybox(
        "build", "-t", "it", "--cache-to", f"type=local,dest={tmp_path}/cache,mode=max", project
    )
    other = Lamina(root=tmp_path / "other")
    other("bootstrap", "busybox")
    source = f"type=local,src={tmp_path}/cache"
    done = other("build", "--progress=plain", "-t", "it", "--cache-from", source, project)
    assert executed(done.stderr) == []
    names = [OciLayout(each.root).names()["it:latest"] for each in (busybox, other)]
    assert names[0] == names[1]
    assert other("fsck").stdout.strip() == "0 problems"
    shutil.rmtree(tmp_path / "cache")
    done = other("build", "--progress=plain", "--target", "build", project)
    assert len(executed(done.stderr)) == 1, "the layer of that stage was never needed"


@pytest.mark.needs_registry
def test_machines_share_a_cache_in_a_registry(
    busybox: Lamina, project: Path, tmp_path: Path
) -> None:
    with registry(tmp_path / "registry") as server, fault_proxy(server.port) as proxy:
        cache = f"type=registry,ref={proxy.address}/cache:it"
        done = busybox("build", "-t", "it", "--cache-to", f"{cache},mode=max", project)
        assert "exporting cache to" in done.stderr
        proxy.forget()
        other = Lamina(root=tmp_path / "other")
        other("bootstrap", "busybox")
        build = ("build", "--progress=plain", "--cache-from", cache)
        done = other(*build, "-o", "type=cacheonly", project)
        assert executed(done.stderr) == []
        documents = proxy.bytes_received("blob")
        assert documents < 50_000, "the list of steps, and tables of contents"
        done = other(*build, "-t", "it", "--cache-to", f"{cache},mode=max", project)
        assert executed(done.stderr) == []
        assert proxy.bytes_sent("upload") == 0
    names = [OciLayout(each.root).names()["it:latest"] for each in (busybox, other)]
    assert names[0] == names[1]
    assert other("fsck").stdout.strip() == "0 problems"
    gone = other(*build, "-t", "it", project)
    assert "no build cache in" in gone.stderr
    assert len(executed(gone.stderr)) == 1, "the layer of that stage was never needed"
    failed = other("build", "--cache-to", cache, project, check=False)
    assert failed.returncode == 1
    assert "cannot reach the registry" in failed.stderr
    other("build", "--cache-to", f"{cache},ignore-error=true", project)


@pytest.mark.needs_peers("skopeo")
def test_skopeo_copies_a_cache_directory(busybox: Lamina, project: Path, tmp_path: Path) -> None:
    busybox("build", "--cache-to", f"type=local,dest={tmp_path}/cache,mode=max", project)
    source, target = f"oci:{tmp_path}/cache:latest", f"oci:{tmp_path}/copy:latest"
    run("skopeo", "copy", "--insecure-policy", "-q", source, target)
    layers = skopeo(target)["rootfs"]["diff_ids"]
    assert len(layers) == 6


def test_merged_cache_directories_serve_both_builds(
    busybox: Lamina, context: Path, tmp_path: Path
) -> None:
    texts = {"one": "FROM busybox\nRUN echo one > /f\n", "two": "FROM busybox\nRUN echo two > /f\n"}
    for name, text in texts.items():
        (context / "Dockerfile").write_text(text)
        busybox("build", "--cache-to", f"type=local,dest={tmp_path}/{name}", context)
    subprocess.run(["cp", "-rn", f"{tmp_path}/two/.", str(tmp_path / "one")], check=False)
    other = Lamina(root=tmp_path / "other")
    other("bootstrap", "busybox")
    for text in texts.values():
        (context / "Dockerfile").write_text(text)
        source = f"type=local,src={tmp_path}/one"
        done = other("build", "--progress=plain", "--cache-from", source, context)
        assert executed(done.stderr) == []
        assert "WARNING" not in done.stderr


MOUNTED = """\
FROM busybox
RUN --mount=type=cache,target=/{name} echo {name} >> /{name}/log; chmod 751 /{name}; \
    mkdir -p /{name}/d; echo deep > /{name}/d/f; chown -R 7:8 /{name}/d; chmod 4750 /{name}/d/f; \
    ln /{name}/d/f /{name}/same; ln -s /etc/passwd /{name}/link
"""
LISTED = """\
FROM busybox
RUN --mount=type=cache,target=/{name} echo changed; cat /{name}/log /{name}/same; \
    stat -c 'of %u:%g %a %n' /{name} /{name}/d /{name}/d/f; readlink /{name}/link; \
    test /{name}/d/f -ef /{name}/same && echo linked
"""


def write(context: Path, text: str, name: str) -> Path:
    (context / "Dockerfile").write_text(text.format(name=name))
    return context


def test_cache_mounts_of_two_projects_are_merged_and_warm_elsewhere(
    context: Path, tmp_path: Path
) -> None:
    names = ("one", "two")
    for name in names:
        store = Lamina(root=tmp_path / f"store-{name}")
        store("bootstrap", "busybox")
        target = f"type=local,dest={tmp_path}/{name},mounts=true"
        done = store("build", "--cache-to", target, write(context, MOUNTED, name))
        assert "WARNING" not in done.stderr
    subprocess.run(["cp", "-rn", f"{tmp_path}/two/.", str(tmp_path / "one")], check=False)

    other = Lamina(root=tmp_path / "other")
    other("bootstrap", "busybox")
    source = f"type=local,src={tmp_path}/one"
    for name in names:
        project = write(context, MOUNTED, name)
        done = other("build", "--progress=plain", "-t", name, "--cache-from", source, project)
        assert executed(done.stderr) == []
        assert "WARNING" not in done.stderr
    assert not (other.root / "lamina/cachemounts").exists(), "nothing has needed one yet"
    for name in names:
        project = write(context, LISTED, name)
        done = other("build", "--progress=plain", "--cache-from", source, project)
        assert len(executed(done.stderr)) == 1
        said = [line.split(maxsplit=2)[-1] for line in done.stderr.splitlines() if "#" in line]
        for line in (
            name,
            "deep",
            f"of 0:0 751 /{name}",
            f"of 7:8 755 /{name}/d",
            f"of 7:8 4750 /{name}/d/f",
            "/etc/passwd",
            "linked",
        ):
            assert line in said
    assert other("fsck").stdout.strip() == "0 problems"
    rows = other("system", "df", "--format", "{{.Type}} {{.Size}}").stdout
    assert "Build Cache 0B" not in rows
    assert "2 cache mounts" in other("builder", "prune", "-f").stdout
    assert list((other.root / "lamina/cachemounts").iterdir()) == []


@pytest.mark.needs_root
@pytest.mark.needs_userns
def test_an_ordinary_user_gets_the_owners_of_roots_cache(busybox: Lamina, context: Path) -> None:
    """With subordinate ids and without."""
    home = Path("/tmp") / f"lamina-mounts-{os.getpid()}"
    home.mkdir()
    try:
        target = f"type=local,dest={home}/cache,mounts=true"
        busybox("build", "--cache-to", target, write(context, MOUNTED, "one"))
        subprocess.run(["cp", "-r", str(context), str(home / "context")], check=True)
        write(home / "context", LISTED, "one")
        for path in (home, *home.rglob("*")):
            os.chown(path, 1000, 1000, follow_symlinks=False)
        said = ""
        for words in (
            ["bootstrap", "busybox"],
            ["build", "--progress=plain", "--cache-from", f"type=local,src={home}/cache"],
        ):
            done = subprocess.run(
                [
                    *("setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"),
                    *(
                        *command(),
                        *words,
                        *([str(home / "context")] if words[0] == "build" else ()),
                    ),
                ],
                env={**Lamina(root=home / "store").environment(), "HOME": str(home)},
                check=True,
                capture_output=True,
                text=True,
            )
            said = done.stderr
        assert "WARNING" not in said
        assert "deep\n" in said
        assert "linked\n" in said
        assert "of 7:8 755 /one/d\n" in said
        assert "of 7:8 4750 /one/d/f\n" in said
    finally:
        subprocess.run(["rm", "-rf", str(home)], check=False)


@pytest.mark.needs_peers("skopeo")
def test_skopeo_reads_a_directory_with_cache_mounts(
    busybox: Lamina, context: Path, tmp_path: Path
) -> None:
    target = f"type=local,dest={tmp_path}/cache,mounts=true"
    busybox("build", "--cache-to", target, write(context, MOUNTED, "one"))
    (mount,) = (tmp_path / "cache/lamina/mounts").iterdir()
    blob = json.loads(mount.read_bytes())["blob"]["digest"]
    inspected = json.loads(run("skopeo", "inspect", f"oci:{tmp_path}/cache:latest"))
    assert len(inspected["Layers"]) == 1
    assert blob not in inspected["Layers"]
    names = run("tar", "-tzf", f"{tmp_path}/cache/blobs/sha256/{blob[7:]}").split()
    assert names == ["./", "d/", "d/f", "link", "log", "same"]


# What a script reads, and what it is told.


def test_metadata_and_iidfile_agree(busybox: Lamina, project: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("meta.json", "iid")}
    busybox(
        *("build", "-t", "it", "--metadata-file", files["meta.json"]),
        *("--iidfile", files["iid"], project),
    )
    metadata = json.loads(files["meta.json"].read_bytes())
    assert metadata["containerimage.config.digest"] == files["iid"].read_text()
    assert metadata["containerimage.digest"] == OciLayout(busybox.root).names()["it:latest"]
    assert metadata["image.name"] == "docker.io/library/it:latest"
    busybox(
        *("build", "-o", f"type=oci,dest={tmp_path}/it.oci,name=named"),
        *("--metadata-file", files["meta.json"], project),
    )
    again = json.loads(files["meta.json"].read_bytes())
    assert again["image.name"] == "docker.io/library/named:latest"
    assert again["containerimage.digest"] == metadata["containerimage.digest"]


def test_annotations_stand_in_the_manifest(busybox: Lamina, project: Path) -> None:
    busybox("build", "-t", "it", "--annotation", "org.opencontainers.image.title=It", project)
    assert OciLayout(busybox.root).manifest("it")["annotations"] == {
        "org.opencontainers.image.title": "It"
    }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--push"], 1, "tag is needed when pushing to registry"),
        (["-o", "type=registry"], 1, "tag is needed when pushing to registry"),
        (["-o", "type=image,push=true"], 1, "tag is needed when pushing to registry"),
        (["-o", "type=what"], 1, "unknown type 'what'"),
        (["-o", "type=local"], 1, "dest is required"),
        (["--cache-to", "type=gha"], 1, "type=gha is not supported"),
        (["--cache-from", "type=gha"], 1, "type=gha is not supported"),
        (["--cache-from", "type=local,src=x,mounts=true"], 1, "mounts= of --cache-from"),
        (["--squash", "--squash-all"], 125, "exclude each other"),
        (["--squash-from", "0"], 125, "not a whole number of at least 1"),
        (["--squash-from", "99"], 1, "no layer of the result is made from that line on"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    busybox: Lamina, context: Path, words: list[str], code: int, message: str
) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nRUN touch /a\n")
    done = busybox("build", *words, context, check=False)
    assert done.returncode == code
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_load_keeps_the_image_whatever_else_is_wanted(
    busybox: Lamina, project: Path, tmp_path: Path
) -> None:
    busybox("build", "-t", "it", "--load", "-o", tmp_path / "out", project)
    assert "it" in busybox("images").stdout
    assert (tmp_path / "out/bin/program").exists()
    busybox("build", "-t", "only", "-o", "type=cacheonly", project)
    assert "only" not in busybox("images").stdout


# Ends before its time.


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_is_ended_while_it_writes_leaves_no_half_file(
    busybox: Lamina, project: Path, tmp_path: Path, ending: signal.Signals
) -> None:
    """It is stopped at a pipe that nobody reads, with a tar before it and one behind."""
    os.mkfifo(tmp_path / "pipe")
    outputs = [f"type=tar,dest={tmp_path}/{name}" for name in ("before", "pipe", "behind")]
    process = busybox.start("build", *(f"-o{text}" for text in outputs), project)
    reader = os.open(tmp_path / "pipe", os.O_RDONLY)
    try:
        assert os.read(reader, 1), "it has begun to write"
        process.send_signal(ending)
        process.communicate(timeout=60)
    finally:
        os.close(reader)
    assert process.returncode in (128 + ending, -ending)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["before", "context", "pipe", "store"]
    with tarfile.open(tmp_path / "before") as archive:
        assert "work/deep/one" in archive.getnames()
    busybox("build", "-o", f"type=tar,dest={tmp_path}/behind", project)
    assert (tmp_path / "behind").read_bytes() == (tmp_path / "before").read_bytes()
    assert busybox("fsck").stdout.strip() == "0 problems"
