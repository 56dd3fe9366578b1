import json
import re
from pathlib import Path

import pytest

from layerstore import Image, Store, host_platform
from tests.support.commands import Commands
from tests.support.registries import registry
from tests.support.stores import make_image, problems


@pytest.fixture
def shop(bare: Commands) -> Commands:
    with Store.open(bare.root) as store:
        make_image(store, "one:1", {"a": b"shared"}, {"b": b"1"})
    return bare


def image(commands: Commands, name: str) -> Image:
    with Store.open(commands.root) as store:
        return store.images.resolve(name)


@pytest.mark.parametrize(
    "place", ["oci:{}/a:x", "oci-archive:{}/a.tar:x", "docker-archive:{}/b.tar:one:1", "dir:{}/d"]
)
def test_it_prints_the_digest_and_tells_of_each_blob(
    place: str, shop: Commands, tmp_path: Path
) -> None:
    wanted = image(shop, "one:1")
    there = place.format(tmp_path)
    done = shop("copy", "one:1", there)
    assert done.out == f"{wanted.descriptor.digest}\n"
    names = [blob.digest.short for blob in (*wanted.manifest.layers, wanted.manifest.config)]
    told = re.findall(r"^([0-9a-f]{12}): (Copying|Copied|Already exists)", done.err, re.MULTILINE)
    assert [name for name, what in told if what != "Copying"] == names
    elsewhere = Commands(tmp_path / "elsewhere", shop.capture)
    back = elsewhere("copy", "-q", there, "back:2")
    assert (back.out, back.err) == (done.out, "") or "docker-archive" in place
    assert image(elsewhere, "back:2").id == wanted.id
    assert problems(elsewhere.root) == []


def test_what_is_there_is_told_to_exist(shop: Commands, tmp_path: Path) -> None:
    shop("copy", "-q", "one:1", f"oci:{tmp_path}/a:x")
    again = shop("copy", "one:1", f"oci:{tmp_path}/a:y")
    assert [text.partition(": ")[2] for text in again.err.splitlines()] == ["Already exists"] * 3
    told = shop("copy", "--progress", "json", "one:1", f"oci:{tmp_path}/b:y").err.splitlines()
    assert {json.loads(text)["status"] for text in told} == {"Copying", "Copied"}
    assert shop("copy", "--progress", "no", "one:1", f"oci:{tmp_path}/c:y", code=125).err


def test_the_digest_goes_to_a_file_as_well(shop: Commands, tmp_path: Path) -> None:
    done = shop("copy", "--digestfile", tmp_path / "digest", "one:1", f"dir:{tmp_path}/d")
    assert (tmp_path / "digest").read_text() == done.out.strip()


def test_a_store_can_be_copied_to_itself_under_another_name(shop: Commands) -> None:
    shop("copy", "-q", "one:1", "two:2")
    assert image(shop, "two:2") == image(shop, "one:1")


def test_a_moment_of_an_image_is_copied_too(shop: Commands, tmp_path: Path) -> None:
    done = shop("copy", "-q", "one:1@1", f"oci:{tmp_path}/a:x")
    shop("copy", "-q", f"oci:{tmp_path}/a:x", "early")
    early = image(shop, "early")
    assert done.out.strip() == early.descriptor.digest
    assert early.layers == image(shop, "one:1").layers[:1]


@pytest.mark.needs_registry
def test_registries_are_reached_with_options_for_each_side(shop: Commands, tmp_path: Path) -> None:
    with (
        registry(tmp_path / "open") as server,
        registry(tmp_path / "closed", auth="basic", tls=True) as closed,
    ):
        assert closed.ca_file is not None
        (tmp_path / "certs").mkdir()
        (tmp_path / "certs/ca.crt").write_bytes(closed.ca_file.read_bytes())
        creds = f"{closed.username}:{closed.password}"
        there, inside = f"docker://{server.address}/a:1", f"docker://{closed.address}/b:1"
        first = shop("copy", "-q", "one:1", there)
        refused = shop("copy", there, inside, code=1)
        assert "certificate" in refused.err
        refused = shop("copy", "--dest-tls-verify=false", there, inside, code=1)
        assert "unauthorized" in refused.err
        shop("copy", "--dest-tls-verify=false", "--dest-creds", creds, there, inside)
        certs = ("--src-cert-dir", tmp_path / "certs", "--src-creds", creds)
        assert shop("copy", "-q", *certs, inside, "back").out == first.out
        assert shop("copy", "-q", "--tls-verify=false", "--creds", creds, inside, "b").out
        assert creds.partition(":")[2] not in refused.err
        assert "whole number" in shop("copy", "--retry", "x", there, "c", code=125).err
    assert problems(shop.root) == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("missing", "oci:{}/a"), "no such image: missing"),
        (("one:1", "docker-daemon:x:1"), "docker-daemon: is not supported"),
        (("one:1", "dir:{}"), "neither empty nor"),
        (("oci:{}/nothing", "x"), "not an OCI image layout"),
        (("one:1", "NO NAME"), "invalid image name"),
        (("--all", "--platform", "linux/amd64", "one:1", "dir:{}/d"), "exclude each other"),
        (("--platform", "x/y/z/w", "one:1", "dir:{}/d"), "unknown operating system"),
        (("oci-archive:{}/none.tar", "x"), "No such file"),
        (("one:1", "oci-archive:{}/no/such/a.tar"), "No such directory"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(
    words: tuple[str, ...], problem: str, shop: Commands, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    before = sorted(path for path in tmp_path.rglob("*") if "store" not in path.parts)
    done = shop("copy", *(word.format(tmp_path) for word in words), code=None)
    assert done.code != 0
    assert problem in done.err
    assert "Traceback" not in done.err
    assert sorted(path for path in tmp_path.rglob("*") if "store" not in path.parts) == before
    assert shop("images", "-q").lines == [image(shop, "one:1").id.short]


def test_an_image_for_one_platform_is_for_no_other(shop: Commands, tmp_path: Path) -> None:
    here = str(host_platform())
    shop("copy", "one:1", f"dir:{tmp_path}/plain")
    for source in ("one:1", f"dir:{tmp_path}/plain"):
        done = shop("copy", "--platform", "linux/s390x", source, f"oci:{tmp_path}/out", code=1)
        assert f"no such image for linux/s390x: the image is for {here} (" in done.err
        assert done.out == ""
        shop("copy", "--platform", here, source, f"oci:{tmp_path}/{source[:3]}")
