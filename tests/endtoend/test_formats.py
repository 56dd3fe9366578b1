"""Images from place to place as users move them: large, over bad networks, by way of others."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from layerstore import Store
from tests.support.cli import Lamina, peak_bytes
from tests.support.faultproxy import fault_proxy
from tests.support.peers import Containers, run
from tests.support.rawtar import END
from tests.support.rawtar import header as tar_header
from tests.support.registries import Registry
from tests.support.stores import make_image, problems

pytestmark = pytest.mark.needs_registry

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
SIZE_BYTES = 4 << 30
PART_BYTES = 64 << 20
MEMORY_MAX_BYTES = 150 << 20


def put_large(server: Registry, name: str) -> None:
    """An image of one file of 4 GiB in the registry; its blob is 64 times the same gzip member."""
    head = tar_header("large", size=SIZE_BYTES)
    zeros = bytes(PART_BYTES)
    member = gzip.compress(zeros, compresslevel=1, mtime=0)
    parts = SIZE_BYTES // PART_BYTES
    blob = gzip.compress(head, mtime=0) + member * parts + gzip.compress(END, mtime=0)
    tar_hash = hashlib.sha256(head)
    for _ in range(parts):
        tar_hash.update(zeros)
    tar_hash.update(END)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{tar_hash.hexdigest()}"]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": CONFIG,
            "digest": server.put_blob(name, config),
            "size": len(config),
        },
        "layers": [{"mediaType": LAYER, "digest": server.put_blob(name, blob), "size": len(blob)}],
    }
    server.put_manifest(name, "1", json.dumps(manifest).encode(), MANIFEST)


def test_an_image_of_four_gibibytes_passes_through_little_memory(
    server: Registry, tmp_path: Path
) -> None:
    put_large(server, "large")
    there = f"{server.address}/large:1"
    lamina = Lamina(root=tmp_path / "store", env={"HOME": str(tmp_path)})
    peaks = {
        "pull": peak_bytes(lamina, "pull", "-q", there),
        "push": peak_bytes(lamina, "push", "-q", there, f"{server.address}/again:1"),
        "copy": peak_bytes(lamina, "copy", "-q", f"docker://{there}", f"oci:{tmp_path}/layout:x"),
    }
    assert {name: peak for name, peak in peaks.items() if peak > MEMORY_MAX_BYTES} == {}


@pytest.mark.parametrize("seed", range(5))
def test_over_a_bad_network_an_image_arrives_whole_or_not_at_all(
    seed: int, server: Registry, tmp_path: Path
) -> None:
    layers = [{f"file-{number}": bytes([number]) * 50_000} for number in range(10)]
    with Store.open(tmp_path / "store") as store:
        image = make_image(store, "many:1", *layers)
    sender = Lamina(root=tmp_path / "store", env={"HOME": str(tmp_path)})
    receiver = Lamina(root=tmp_path / "other", env={"HOME": str(tmp_path)})
    with fault_proxy(server.port, seed=seed, rate=0.05) as proxy:
        name = f"{proxy.address}/many:1"
        pushed = sender("push", "-q", "many:1", name, check=False)
        assert pushed.returncode in (0, 1), pushed.stderr
        assert pushed.returncode == 0 or len(pushed.stderr.splitlines()) == 1
        assert (server.tags("many") == ["1"]) == (pushed.returncode == 0)
        pulled = receiver("pull", "-q", name, check=False)
        assert "Traceback" not in pulled.stderr
        if pulled.returncode == 0:
            with Store.open(receiver.root) as store:
                assert store.images.resolve(name).descriptor == image.descriptor
    assert problems(receiver.root) == []


@pytest.mark.needs_root
@pytest.mark.needs_overlay
@pytest.mark.needs_peers("skopeo", "podman", "umoci")
def test_an_image_goes_round_by_way_of_all_others_and_keeps_its_digest(
    busybox: Lamina, server: Registry, tmp_path: Path
) -> None:
    digest = busybox("copy", "-q", "busybox", f"oci:{tmp_path}/first:x").stdout.strip()
    run("umoci", "tag", "--image", f"{tmp_path}/first:x", "y")
    there = f"docker://{server.address}/skopeo:1"
    skopeo = ("skopeo", "--insecure-policy", "copy", "-q")
    run(*skopeo, "--dest-tls-verify=false", f"oci:{tmp_path}/first:y", there)
    podman = Containers()
    try:
        podman("podman", "pull", "-q", "--tls-verify=false", there)
        ran = podman(
            *("podman", "run", "--rm", "--network", "host", "--cgroups", "disabled"),
            *(f"{server.address}/skopeo:1", "echo", "podman ran it"),
        )
        assert ran == "podman ran it\n"
    finally:
        podman.close()
    run(
        *(*skopeo, "--src-tls-verify=false", there),
        f"oci-archive:{tmp_path}/second.tar:z",
    )
    other = Lamina(root=tmp_path / "other", env={"HOME": str(tmp_path)})
    back = other("copy", "-q", f"oci-archive:{tmp_path}/second.tar:z", "back")
    assert back.stdout.strip() == digest
    ran_here = other("run", "--rm", "back", "echo", "so did we")
    assert ran_here.stdout == "so did we\n"
    assert problems(other.root) == []
