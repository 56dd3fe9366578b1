"""Builds that stand on images of registries, and go there: as users and CI machines do it."""

import json
import os
import time
from pathlib import Path

import pytest

from layerstore import Digest, Store
from tests.support.cli import Lamina, peak_bytes
from tests.support.faultproxy import FaultProxy, fault_proxy
from tests.support.peers import Containers, run
from tests.support.progress import executed
from tests.support.registries import Registry
from tests.support.stores import make_image

pytestmark = [pytest.mark.needs_registry, pytest.mark.needs_overlay]

BASE = "FROM {}\nRUN echo one > /one\nCOPY --from={} /bin/busybox /copied\n"


@pytest.fixture
def machine(tmp_path: Path, busybox: Lamina, proxy: FaultProxy) -> Lamina:
    """A machine with an empty store; busybox is in the registry."""
    busybox("push", "busybox", f"{proxy.address}/base:1")
    proxy.forget()
    return Lamina(root=tmp_path / "machine", env={"HOME": str(tmp_path)})


@pytest.fixture
def context(tmp_path: Path, proxy: FaultProxy) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    name = f"{proxy.address}/base:1"
    (folder / "Dockerfile").write_text(BASE.format(name, name))
    return folder


def test_a_base_image_is_pulled_once_and_then_taken_from_the_store(
    machine: Lamina, proxy: FaultProxy, context: Path
) -> None:
    first = machine("build", "-t", "app", context)
    assert f"pull {proxy.address}/base:1" in first.stderr
    assert machine("run", "--rm", "app", "cat", "/one").stdout == "one\n"
    proxy.forget()
    image_id = machine("build", "-q", context).stdout
    assert machine("build", "-q", "--pull=never", context).stdout == image_id
    assert proxy.exchanges == []
    assert machine("build", "-q", "--pull", context).stdout == image_id
    assert proxy.bytes_received("blob") == 0
    machine("fsck")


def test_a_base_image_that_changed_is_pulled_by_those_who_ask(
    machine: Lamina, busybox: Lamina, proxy: FaultProxy, context: Path, tmp_path: Path
) -> None:
    image_id = machine("build", "-q", context).stdout
    (tmp_path / "new").mkdir()
    (tmp_path / "new/Dockerfile").write_text("FROM busybox\nRUN echo new > /new\n")
    busybox("build", "-t", f"{proxy.address}/base:1", "--push", tmp_path / "new")
    assert machine("build", "-q", context).stdout == image_id
    newer = machine("build", "-q", "--pull=newer", context).stdout
    assert newer != image_id
    assert machine("build", "-q", "--pull=always", context).stdout == newer


def test_a_build_without_its_registry_fails_in_one_line_at_once(
    machine: Lamina, context: Path
) -> None:
    (context / "Dockerfile").write_text("FROM 127.0.0.1:1/base\nRUN true\n")
    started = time.monotonic()
    done = machine("build", context, check=False)
    assert time.monotonic() - started < 10
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "lamina: no such image: 127.0.0.1:1/base: cannot reach the registry 127.0.0.1:1: "
        "connection refused (`lamina images`"
    )
    assert ">>> FROM 127.0.0.1:1/base" in done.stderr


def test_an_image_that_nobody_has_is_told_before_a_program_runs(
    machine: Lamina, context: Path, proxy: FaultProxy
) -> None:
    (context / "Dockerfile").write_text(
        f"FROM {proxy.address}/base:1\nRUN echo ran\nCOPY --from={proxy.address}/nope /a /b\n"
    )
    done = machine("build", context, check=False)
    assert "manifest unknown" in done.stderr.splitlines()[-1]
    assert "ran" not in done.stderr.replace("echo ran", "")


def test_what_is_built_is_pushed_under_every_name(
    machine: Lamina, server: Registry, proxy: FaultProxy, context: Path, tmp_path: Path
) -> None:
    names = [f"{proxy.address}/app:{tag}" for tag in ("1", "2")]
    metadata = tmp_path / "metadata.json"
    words = [word for name in names for word in ("-t", name)]
    done = machine("build", *words, "--push", "--metadata-file", metadata, context)
    assert "mounted from base" in done.stderr
    assert f"pushed {names[1]}@sha256:" in done.stderr
    assert server.tags("app") == ["1", "2"]
    digest = json.loads(metadata.read_text())["containerimage.digest"]
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    answer = server.ask("HEAD", "/v2/app/manifests/2", headers=accept)
    assert answer.headers["docker-content-digest"] == digest
    other = Lamina(root=tmp_path / "third", env={"HOME": str(tmp_path)})
    assert other("run", "--rm", names[0], "cat", "/one").stdout == "one\n"


@pytest.mark.parametrize(
    "output", ["type=registry", "type=image,push=true", "type=registry,compression=zstd"]
)
def test_outputs_that_push(
    machine: Lamina, server: Registry, proxy: FaultProxy, context: Path, output: str
) -> None:
    machine("build", "-o", f"{output},name={proxy.address}/app:1", context)
    assert server.tags("app") == ["1"]
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    manifest = json.loads(server.ask("GET", "/v2/app/manifests/1", headers=accept).content)
    is_zstd = manifest["layers"][-1]["mediaType"].endswith("zstd")
    assert is_zstd == ("zstd" in output)


def test_a_named_context_may_be_an_image_of_a_registry(
    machine: Lamina, proxy: FaultProxy, context: Path
) -> None:
    (context / "Dockerfile").write_text("FROM other\nRUN echo two > /two\n")
    other = f"other=docker-image://{proxy.address}/base:1"
    machine("build", "-t", "app", "--build-context", other, context)
    assert machine("run", "--rm", "app", "cat", "/two").stdout == "two\n"


STAGES = """\
FROM {base} AS build
WORKDIR /work
RUN echo built > out
FROM {base}
COPY --from=build --chown=daemon /work/out /out
COPY --from={base} /bin/busybox /copied
RUN echo done > /done
"""


@pytest.fixture
def shared(machine: Lamina, proxy: FaultProxy, context: Path) -> str:
    """The id of an image of STAGES, which one machine has built and shared the steps of."""
    (context / "Dockerfile").write_text(STAGES.format(base=f"{proxy.address}/base:1"))
    cache = f"type=registry,ref={proxy.address}/cache:1,mode=max"
    image_id = machine("build", "-q", "--cache-to", cache, context).stdout
    proxy.forget()
    return image_id


def layers_fetched(proxy: FaultProxy, machine: Lamina) -> set[Digest]:
    """The layers of `machine` that somebody has fetched."""
    with Store.open(machine.root) as store:
        layers = {layer.descriptor.digest for layer in store.layers.all()}
    asked = (each.path for each in proxy.exchanges if each.method == "GET" and each.received)
    return layers & {path.rpartition("/")[2] for path in asked}


@pytest.mark.parametrize("output", [("-o", "type=cacheonly"), ("--push",)])
def test_a_fully_cached_build_downloads_no_layer(
    shared: str,
    machine: Lamina,
    proxy: FaultProxy,
    context: Path,
    tmp_path: Path,
    output: tuple[str, ...],
) -> None:
    """Not one of its base image either: a machine that has nothing shares all steps."""
    other = Lamina(root=tmp_path / "third", env={"HOME": str(tmp_path)})
    name, id_file = f"{proxy.address}/app:1", tmp_path / "id"
    cache = ("--cache-from", f"type=registry,ref={proxy.address}/cache:1")
    done = other("build", "-t", name, *cache, *output, "--iidfile", id_file, context)
    assert layers_fetched(proxy, machine) == set()
    assert id_file.read_text() == shared.strip()
    assert other("images", "-q", "-a").stdout == ""
    other("fsck")
    if "--push" in output:
        assert f"image {shared.strip()}, not kept here: 4 layers did not have to be" in done.stderr
        sent = {each.path for each in proxy.exchanges if each.sent > 10_000}
        assert sent == set(), "layers are mounted from where they are"
        proxy.forget()
        assert other("run", "--rm", name, "cat", "/out", "/done").stdout == "built\ndone\n"
        assert other("build", "-q", *cache, context).stdout == shared


def test_a_plan_asks_what_a_base_image_consists_of_and_fetches_nothing(
    shared: str, machine: Lamina, proxy: FaultProxy, context: Path, tmp_path: Path
) -> None:
    other = Lamina(root=tmp_path / "third", env={"HOME": str(tmp_path)})
    plan = ("plan", "--format", "json", context)
    cache = ("--cache-from", f"type=registry,ref={proxy.address}/cache:1")

    def outcomes(*words: str | Path, code: int) -> list[str]:
        done = other(*words, check=False)
        assert done.returncode == code, done.stderr
        return [step["prediction"] for step in json.loads(done.stdout)["steps"]]

    assert outcomes(*plan, *cache, code=0) == ["hit"] * 5
    # without the cache nobody says what is in the base image
    expected = ["miss", "miss", "depends", "depends", "miss"]
    assert outcomes(*plan, code=2) == expected
    assert layers_fetched(proxy, machine) == set()
    assert not other.root.exists()
    built = other("build", "--progress=plain", "-t", "app", context)
    assert len(executed(built.stderr)) == 5
    assert outcomes(*plan, code=0) == ["hit"] * 5


def test_what_a_changed_step_stands_on_comes_with_its_base(
    shared: str, machine: Lamina, proxy: FaultProxy, context: Path, tmp_path: Path
) -> None:
    other = Lamina(root=tmp_path / "third", env={"HOME": str(tmp_path)})
    changed = STAGES.replace("echo done", "echo changed").format(base=f"{proxy.address}/base:1")
    (context / "Dockerfile").write_text(changed)
    cache = ("--cache-from", f"type=registry,ref={proxy.address}/cache:1")
    done = other("build", "-t", "app", *cache, context)
    assert done.stderr.count(f"pull {proxy.address}/base:1") == 2, "asked about, and then fetched"
    assert other("run", "--rm", "app", "cat", "/out", "/done").stdout == "built\nchanged\n"
    assert (
        f"{proxy.address}/base:1" in other("images", "--format", "{{.Repository}}:{{.Tag}}").stdout
    )
    with Store.open(machine.root) as store:
        built = store.images.resolve(shared.strip())
        unneeded = {layer.descriptor.digest for layer in store.layers.all()} - {
            layer.descriptor.digest for layer in built.layers[:-1]
        }
    assert layers_fetched(proxy, machine) & unneeded == set(), "nothing of the other stage"
    other("fsck")


def test_an_image_with_its_cache_inside_is_looked_into_and_not_fetched(
    machine: Lamina, proxy: FaultProxy, context: Path, tmp_path: Path
) -> None:
    """Its base image is described there as well."""
    base, name = f"{proxy.address}/base:1", f"{proxy.address}/app:1"
    (context / "Dockerfile").write_text(f"FROM {base}\nWORKDIR /w\nRUN echo 1 > a\n")
    image_id = machine("build", "-q", "-t", name, "--cache-to=type=inline", "--push", context)
    proxy.forget()
    other = Lamina(root=tmp_path / "third", env={"HOME": str(tmp_path)})
    build = ("build", "-q", "--cache-from", name, "--cache-to=type=inline")
    assert other(*build, "-o", "type=cacheonly", context).stdout == image_id.stdout
    assert layers_fetched(proxy, machine) == set()
    assert other(*build, "-t", "app", context).stdout == image_id.stdout
    assert other("run", "--rm", "app", "cat", "a").stdout == "1\n"
    other("fsck")
    assert other("build", "-q", "--cache-to=type=inline", context).stdout == image_id.stdout


def test_with_load_a_pushed_image_is_kept_as_well(
    shared: str, proxy: FaultProxy, context: Path, tmp_path: Path
) -> None:
    other = Lamina(root=tmp_path / "third", env={"HOME": str(tmp_path)})
    cache = f"type=registry,ref={proxy.address}/cache:1"
    name = f"{proxy.address}/app:1"
    other("build", "-t", name, "--cache-from", cache, "--push", "--load", context)
    assert other("run", "--rm", "--pull=never", name, "cat", "/done").stdout == "done\n"


def test_a_push_that_fails_fails_the_build(machine: Lamina, context: Path) -> None:
    done = machine("build", "-t", "127.0.0.1:1/app", "--push", context, check=False)
    assert done.returncode == 1
    assert "cannot reach the registry" in done.stderr.splitlines()[-1]


# Other tools.


@pytest.mark.needs_peers("skopeo")
@pytest.mark.parametrize("words", [(), ("--compression", "zstd", "--force-compression")])
def test_skopeo_reads_what_we_push(
    busybox: Lamina, server: Registry, tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = tmp_path / "digest"
    name = f"{server.address}/app:1"
    busybox("push", *words, "--digestfile", file, "busybox", name)
    run(
        *("skopeo", "copy", "--src-tls-verify=false"),
        *(f"docker://{name}", f"oci:{tmp_path / 'layout'}:it"),
    )
    index = json.loads((tmp_path / "layout/index.json").read_text())
    assert [entry["digest"] for entry in index["manifests"]] == [file.read_text()]


@pytest.mark.needs_peers("skopeo")
@pytest.mark.parametrize(
    ("form", "compression"),
    [("oci", "gzip"), ("oci", "zstd"), ("v2s2", "gzip")],  # Docker's media types know no zstd
)
def test_we_pull_what_skopeo_pushes(
    busybox: Lamina, server: Registry, tmp_path: Path, form: str, compression: str
) -> None:
    name = f"{server.address}/app:1"
    run(
        *("skopeo", "copy", "--dest-tls-verify=false", "--format", form),
        *("--dest-compress-format", compression, "--digestfile", tmp_path / "digest"),
        *(f"oci:{busybox.root}:busybox:latest", f"docker://{name}"),
    )
    other = Lamina(root=tmp_path / "other", env={"HOME": str(tmp_path)})
    assert f"Digest: {(tmp_path / 'digest').read_text()}" in other("pull", name).stdout
    assert other("run", "--rm", name, "echo", "it runs").stdout == "it runs\n"
    again = other("push", "--digestfile", tmp_path / "again", name, f"{server.address}/b:1")
    assert again.returncode == 0
    assert (tmp_path / "again").read_text() == (tmp_path / "digest").read_text()
    other("fsck")


@pytest.mark.needs_root
@pytest.mark.needs_peers("podman")
def test_podman_pulls_what_we_push_and_we_build_on_what_it_pushes(
    busybox: Lamina, server: Registry, tmp_path: Path
) -> None:
    name = f"{server.address}/app:1"
    busybox("push", "busybox", name)
    podman = Containers()
    try:
        podman("podman", "pull", "-q", "--tls-verify=false", name)
        podman("podman", "tag", name, f"{server.address}/theirs:1")
        podman("podman", "push", "-q", "--tls-verify=false", f"{server.address}/theirs:1")
    finally:
        podman.close()
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(f"FROM {server.address}/theirs:1\nRUN true\n")
    other = Lamina(root=tmp_path / "other", env={"HOME": str(tmp_path)})
    other("build", "-t", "on-theirs", tmp_path / "context")
    assert other("run", "--rm", "on-theirs", "echo", "it runs").stdout == "it runs\n"


# Memory and interruption.


def test_memory_does_not_grow_with_the_image(server: Registry, tmp_path: Path) -> None:
    root = tmp_path / "store"
    with Store.open(root) as store:
        make_image(store, f"{server.address}/small:1", {"a": b"x"})
        big = os.urandom(64 << 20)
        make_image(store, f"{server.address}/big:1", {"a": big}, {"b": big[::-1]})
        del big
    lamina = Lamina(root=root, env={"HOME": str(tmp_path)})
    other = Lamina(root=tmp_path / "other", env={"HOME": str(tmp_path)})
    for name in ("small", "big"):
        peak_bytes(lamina, "push", f"{server.address}/{name}:1")
    small, big_peak = (
        peak_bytes(other, "pull", f"{server.address}/{name}:1") for name in ("small", "big")
    )
    assert big_peak - small < 40 << 20
    pushed = peak_bytes(lamina, "push", f"{server.address}/big:1")
    assert pushed - small < 40 << 20


def test_a_killed_pull_leaves_a_store_without_fault(server: Registry, tmp_path: Path) -> None:
    source = tmp_path / "source"
    name = f"{server.address}/app:1"
    with Store.open(source) as store:
        make_image(store, name, *({f"f{n}": os.urandom(2 << 20)} for n in range(4)))
    Lamina(root=source, env={"HOME": str(tmp_path)})("push", name)
    lamina = Lamina(root=tmp_path / "store", env={"HOME": str(tmp_path)})
    for delay_s in (0.05, 0.15, 0.25, 0.4):
        process = lamina.start("pull", name)
        time.sleep(delay_s)  # the moment is what is tried
        process.kill()
        process.communicate(timeout=60)
        lamina("fsck")
    lamina("pull", name)
    lamina("fsck")


def test_an_interrupted_pull_ends_at_once(server: Registry, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with Store.open(source) as store:
        make_image(store, f"{server.address}/app:1", {"a": os.urandom(1 << 20)})
    Lamina(root=source, env={"HOME": str(tmp_path)})("push", f"{server.address}/app:1")
    with fault_proxy(server.port) as proxy:
        proxy.fail_next("delay", "GET /v2/app/blobs/", times=100)
        lamina = Lamina(root=tmp_path / "store", env={"HOME": str(tmp_path)})
        process = lamina.start("pull", f"{proxy.address}/app:1")
        time.sleep(0.6)
        process.terminate()
        started = time.monotonic()
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - started < 5
    assert process.returncode in (0, 143)
    assert b"Traceback" not in err
    lamina("fsck")
