import json
from pathlib import Path
from typing import Any

import pytest

from layerstore import Image, Platform, Store, host_platform
from layerstore import descriptor as media
from tests.support.commands import Commands
from tests.support.peers import run
from tests.support.registries import registry
from tests.support.stores import make_image, problems


@pytest.fixture
def shop(bare: Commands) -> Commands:
    with Store.open(bare.root) as store:
        make_image(store, "one:1", {"a": b"1"})
        make_image(store, "two:1", {"a": b"2"})
    return bare


def image(commands: Commands, name: str, platform: Platform | None = None) -> Image:
    with Store.open(commands.root) as store:
        return store.images.resolve(name, platform)


def document(commands: Commands, name: str) -> Any:
    return json.loads(commands("manifest", "inspect", name).out)


def make(shop: Commands) -> None:
    """`many`: one:1 for this machine, two:1 for arm64."""
    shop("manifest", "create", "many", "one:1")
    shop("manifest", "add", "--arch", "arm64", "--variant", "v8", "many", "two:1")


def test_an_index_is_created_and_added_to(shop: Commands) -> None:
    created = shop("manifest", "create", "many")
    assert document(shop, "many") == {
        "schemaVersion": 2,
        "mediaType": media.OCI_INDEX,
        "manifests": [],
    }
    added = shop("manifest", "add", "many", "one:1", "two:1")
    assert created.out.startswith("sha256:")
    assert added.out.startswith("sha256:")
    assert created.out != added.out
    found = [entry["digest"] for entry in document(shop, "many")["manifests"]]
    assert found == [image(shop, name).descriptor.digest for name in ("one:1", "two:1")]
    assert problems(shop.root) == []


def test_each_machine_takes_its_own_image(shop: Commands) -> None:
    make(shop)
    assert image(shop, "many").id == image(shop, "one:1").id
    other = Platform(os="linux", architecture="arm64", variant="v8")
    assert image(shop, "many", other).id == image(shop, "two:1").id
    platforms = [entry["platform"] for entry in document(shop, "many")["manifests"]]
    assert platforms == [
        {"os": "linux", "architecture": host_platform().architecture},
        {"os": "linux", "architecture": "arm64", "variant": "v8"},
    ]


def test_an_entry_is_annotated_by_name_digest_or_its_beginning(shop: Commands) -> None:
    make(shop)
    digest = image(shop, "two:1").descriptor.digest
    for number, name in enumerate(("two:1", digest, digest.hex[:12])):
        shop("manifest", "annotate", "--annotation", f"n={number}", "many", name)
        entry = document(shop, "many")["manifests"][1]
        assert entry["annotations"] == {"n": str(number)}
        assert entry["platform"]["architecture"] == "arm64"
    shop("manifest", "annotate", "--os", "windows", "--os-version", "10.0.1", "many", digest)
    shop("manifest", "annotate", "--os-features", "a,b", "--arch", "amd64", "many", digest)
    assert document(shop, "many")["manifests"][1]["platform"] == {
        "os": "windows",
        "architecture": "amd64",
        "variant": "v8",
        "os.version": "10.0.1",
        "os.features": ["a", "b"],
    }


def test_an_entry_is_taken_out(shop: Commands) -> None:
    make(shop)
    shop("manifest", "remove", "many", "two:1")
    (entry,) = document(shop, "many")["manifests"]
    assert entry["digest"] == image(shop, "one:1").descriptor.digest
    assert "no such entry" in shop("manifest", "remove", "many", "two:1", code=1).err


def test_an_existing_index_is_added_to_only_when_asked(shop: Commands) -> None:
    shop("manifest", "create", "many", "one:1")
    refused = shop("manifest", "create", "many", "two:1", code=1)
    assert "there is an index many" in refused.err
    assert "--amend" in refused.err
    shop("manifest", "create", "--amend", "many", "two:1")
    assert len(document(shop, "many")["manifests"]) == 2
    assert "is an image" in shop("manifest", "create", "one:1", "two:1", code=1).err


def test_of_an_index_one_or_all_images_are_added(shop: Commands) -> None:
    make(shop)
    shop("manifest", "create", "fewer", "many")
    shop("manifest", "create", "--all", "all", "many")
    assert len(document(shop, "fewer")["manifests"]) == 1
    assert document(shop, "all") == document(shop, "many")


def test_images_of_elsewhere_are_taken_in_without_a_name(shop: Commands, tmp_path: Path) -> None:
    make(shop)
    shop("copy", "-q", "one:1", f"oci-archive:{tmp_path}/a.tar:x")
    shop("copy", "-q", "--all", "many", f"oci:{tmp_path}/layout:x")
    other = Commands(tmp_path / "other", shop.capture)
    other("manifest", "create", "one", f"oci-archive:{tmp_path}/a.tar:x")
    assert other("images", "--format", "{{.Repository}}").lines == ["one"]
    other("manifest", "create", "--all", "many", f"oci:{tmp_path}/layout:x")
    assert document(other, "many") == document(shop, "many")
    assert sorted(other("images", "--format", "{{.Repository}}").lines) == ["many", "one"]
    assert problems(other.root) == []


def test_it_is_pushed_whole_and_comes_back(shop: Commands, tmp_path: Path) -> None:
    make(shop)
    there = f"oci:{tmp_path}/layout:x"
    pushed = shop("manifest", "push", "-q", "--digestfile", tmp_path / "digest", "many", there)
    assert (tmp_path / "digest").read_text() == pushed.out.strip()
    assert (pushed.err, shop("manifest", "exists", "many").code) == ("", 0)
    other = Commands(tmp_path / "other", shop.capture)
    assert other("copy", "-q", "--all", there, "many").out == pushed.out
    assert document(other, "many") == document(shop, "many")
    assert document(other, there) == document(shop, "many")
    shop("manifest", "push", "--purge", "many", there)
    shop("manifest", "exists", "many", code=1)
    assert problems(shop.root) == []


@pytest.mark.needs_registry
def test_it_is_pushed_to_the_registry_that_its_name_says(shop: Commands, tmp_path: Path) -> None:
    make(shop)
    with registry(tmp_path / "registry") as server:
        name = f"{server.address}/many:1"
        shop("tag", "many", name)
        pushed = shop("manifest", "push", "-q", name)
        shop("manifest", "push", "-q", "many", f"{server.address}/again:1")
        assert (server.tags("many"), server.tags("again")) == (["1"], ["1"])
        other = Commands(tmp_path / "other", shop.capture)
        assert document(other, name) == document(shop, "many")  # not here, but there
        other("manifest", "create", "--all", "copy", f"docker://{name}")
        assert document(other, "copy") == document(shop, "many")
        assert other("copy", "-q", "--all", f"docker://{name}", "back").out == pushed.out
    assert problems(other.root) == []


@pytest.mark.needs_peers("skopeo")
def test_skopeo_finds_every_platform(shop: Commands, tmp_path: Path) -> None:
    make(shop)
    shop("manifest", "push", "-q", "many", f"oci:{tmp_path}/layout:x")
    raw = run("skopeo", "inspect", "--raw", f"oci:{tmp_path}/layout:x")
    assert json.loads(raw) == document(shop, "many")
    override = ("--override-arch", "arm64", "--override-variant", "v8")
    found = json.loads(run("skopeo", *override, "inspect", f"oci:{tmp_path}/layout:x"))
    layers = [layer.digest for layer in image(shop, "two:1").manifest.layers]
    assert found["Layers"] == layers


def test_what_is_removed_leaves_images_with_names(shop: Commands) -> None:
    make(shop)
    shop("manifest", "create", "far")
    shop("manifest", "add", "--arch", "s390x", "far", "two:1")
    removed = shop("manifest", "rm", "many", "far")
    assert removed.lines[0] == "Untagged: many:latest"
    assert sorted(shop("images", "--format", "{{.Repository}}").lines) == ["one", "two"]
    shop("manifest", "exists", "many", code=1)
    assert "is an image" in shop("manifest", "rm", "one:1", code=1).err
    assert sorted(shop("images", "--format", "{{.Repository}}").lines) == ["one", "two"]
    assert problems(shop.root) == []


def test_a_name_of_an_index_goes_without_the_image_of_the_same_id(shop: Commands) -> None:
    make(shop)
    shop("tag", "many", "again")
    assert shop("rmi", "many").lines == ["Untagged: many:latest"]
    index = image(shop, "again").entry.digest
    assert shop("rmi", "again").lines == ["Untagged: again:latest", f"Deleted: {index}"]
    assert sorted(shop("images", "--format", "{{.Repository}}").lines) == ["one", "two"]
    assert problems(shop.root) == []


def test_the_digest_of_an_index_is_shown(shop: Commands) -> None:
    make(shop)
    shown = shop("images", "--digests", "--format", "{{.Repository}} {{.Digest}}", "many")
    with Store.open(shop.root) as store:
        assert shown.lines == [f"many {store.images.find('many').digest}"]


def test_an_image_stays_while_an_index_lists_it(shop: Commands) -> None:
    make(shop)
    shop("rmi", "two:1")
    shop("image", "prune", "--force")
    other = Platform(os="linux", architecture="arm64", variant="v8")
    assert image(shop, "many", other).layers
    assert problems(shop.root) == []


def test_an_index_without_this_machine_is_shown_tagged_and_removed(shop: Commands) -> None:
    shop("manifest", "create", "far")
    shop("manifest", "add", "--arch", "s390x", "far", "two:1")
    shop("rmi", "two:1")
    assert sorted(shop("images", "--format", "{{.Repository}}").lines) == ["far", "one"]
    assert "s390x" in shop("inspect", "--type", "image", "far", code=1).err
    assert shop("rmi", "far").lines[0] == "Untagged: far:latest"
    assert shop("images", "--format", "{{.Repository}}").lines == ["one"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("create", "NO NAME"), "invalid image name"),
        (("create", "x", "missing"), "no such image: missing"),
        (("add", "missing", "one:1"), "no such image: missing"),
        (("add", "one:1", "one:1"), "is an image"),
        (("annotate", "many", "two:1"), "no such"),
        (("annotate", "--annotation", "x", "many", "one:1"), "KEY=VALUE"),
        (("inspect", "127.0.0.1:1/missing"), "cannot reach the registry"),
        (("push", "one:1", "oci:x"), "is an image"),
        (("push", "--all=false", "many", "oci:x"), "with all its images"),
        (("rm", "missing"), "no such image"),
        (("push", "--format", "v2s2", "many"), "--format is not supported"),
    ],
)
def test_mistakes_are_told_and_change_nothing(
    words: tuple[str, ...], problem: str, shop: Commands, tmp_path: Path
) -> None:
    shop("manifest", "create", "many", "one:1")
    before = (shop.root / "index.json").read_bytes()
    done = shop("manifest", *words, code=None)
    assert done.code != 0
    assert problem in done.err
    assert (shop.root / "index.json").read_bytes() == before


def test_any_image_of_an_index_is_described(shop: Commands) -> None:
    make(shop)
    for words in (("image", "inspect", "--format", "{{.Id}}"), ("history", "-q", "--no-trunc")):
        for platform, name in (("linux/arm64/v8", "two:1"), (str(host_platform()), "one:1")):
            done = shop(*words, "--platform", platform, "many")
            assert done.lines[0] == image(shop, name).id
        assert "linux/s390x" in shop(*words, "--platform", "linux/s390x", "many", code=1).err
