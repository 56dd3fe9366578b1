import gzip
import io
import json
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from layerstore import (
    Descriptor,
    Image,
    Index,
    Platform,
    Reference,
    Store,
    host_platform,
)
from layerstore.blobs import put
from layerstore.descriptor import OCI_INDEX
from tests.support.cli import Lamina
from tests.support.commands import Commands
from tests.support.rawtar import END, entry
from tests.support.rootfs import need_busybox
from tests.support.servers import Page, serve
from tests.support.stores import flip, flip_blob, make_image, problems
from tests.support.terminals import Typist

ROOTFS = entry("etc/", kind=b"5", mode=0o755) + entry("etc/motd", b"hello\n", mtime=10**9) + END


@pytest.fixture
def shop(bare: Commands) -> Commands:
    """Commands on a store with two images that share a layer; one has two names."""
    with Store.open(bare.root) as store:
        make_image(store, "one:1", {"a": b"shared"}, {"b": b"1"})
        two = make_image(store, "team/two", {"a": b"shared"}, {"b": b"2"})
        config = replace(two.config, architecture="s390x")
        store.images.tag(store.images.seal(config, two.layers), Reference.parse("team/two"))
        store.images.remove(two)
    bare("tag", "one:1", "one:first")
    return bare


@pytest.fixture
def elsewhere(tmp_path: Path, shop: Commands) -> Commands:
    """Commands on another, empty store."""
    return Commands(tmp_path / "elsewhere", shop.capture)


def image(commands: Commands, name: str) -> Image:
    with Store.open(commands.root) as store:
        return store.images.resolve(name)


def names(commands: Commands) -> list[str]:
    return sorted(commands("images", "--format", "{{.Repository}}:{{.Tag}}").lines)


def members(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


def manifest(archive: Path) -> list[dict[str, object]]:
    with tarfile.open(archive) as tar:
        file = tar.extractfile("manifest.json")
        assert file is not None
        found: list[dict[str, object]] = json.load(file)
        return found


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


OTHER = "linux/s390x"


@pytest.fixture
def multi(shop: Commands) -> Descriptor:
    """An index of one:1 for this machine and of team/two for another one, named `multi`."""
    with Store.open(shop.root) as store:
        here, there = (store.images.resolve(name).descriptor for name in ("one:1", "team/two"))
        entries = (
            replace(here, platform=host_platform()),
            replace(there, platform=Platform(os="linux", architecture="s390x")),
        )
        data = Index(manifests=entries).encode()
        entry = Descriptor(
            media_type=OCI_INDEX, digest=put(store.blobs, data).digest, size_bytes=len(data)
        )
        store.images.tag_entry(entry, Reference.parse("multi"))
    return entry


class TestSeveralPlatforms:
    def test_they_are_saved_and_loaded_whole(
        self, shop: Commands, elsewhere: Commands, multi: Descriptor, tmp_path: Path
    ) -> None:
        shop("save", "-o", tmp_path / "out", "multi")
        assert elsewhere("load", "-i", tmp_path / "out").lines == ["Loaded image: multi:latest"]
        assert image(elsewhere, "multi").entry == multi
        assert image(elsewhere, "multi").id == image(shop, "one:1").id
        assert problems(elsewhere.root) == []

    def test_one_of_them_is_saved_or_loaded_alone(
        self, shop: Commands, elsewhere: Commands, multi: Descriptor, tmp_path: Path
    ) -> None:
        shop("save", "-o", tmp_path / "one", "--platform", OTHER, "multi")
        shop("save", "-o", tmp_path / "all", "multi")
        wanted = image(shop, "team/two").descriptor
        for source in ("one", "all"):
            elsewhere("load", "-i", tmp_path / source, "--platform", OTHER)
            assert image(elsewhere, "multi").entry == wanted
        refused = elsewhere("load", "-i", tmp_path / "all", "--platform", "windows/amd64", code=1)
        assert "windows/amd64" in refused.err
        refused = shop(
            "save", "-o", tmp_path / "no", "--platform", "windows/amd64", "multi", code=1
        )
        assert "windows/amd64" in refused.err
        assert not (tmp_path / "no").exists()

    @pytest.mark.parametrize("style", ["docker", "oci-archive", "docker-archive"])
    def test_an_image_for_one_platform_is_for_no_other(
        self, shop: Commands, elsewhere: Commands, tmp_path: Path, style: str
    ) -> None:
        archive = tmp_path / "out"
        words = ("save", "--format", style, "--platform")
        refused = shop(*words, OTHER, "-o", archive, "one:1", code=1)
        here = str(host_platform())
        assert f"no such image for {OTHER}: the image is for {here} (" in refused.err
        assert not archive.exists()
        shop(*words, here, "-o", archive, "one:1")
        refused = elsewhere("load", "-i", archive, "--platform", OTHER, code=1)
        assert f"no such image for {OTHER}" in refused.err
        assert names(elsewhere) == []
        assert problems(elsewhere.root) == []
        elsewhere("load", "-i", archive, "--platform", here)
        assert names(elsewhere) == ["one:1"]

    def test_an_old_archive_has_its_platform(
        self, shop: Commands, elsewhere: Commands, multi: Descriptor, tmp_path: Path
    ) -> None:
        shop("save", "--format", "docker-archive", "-o", tmp_path / "old", "multi")
        refused = elsewhere("load", "-i", tmp_path / "old", "--platform", OTHER, code=1)
        assert OTHER in refused.err
        platform = str(host_platform())
        elsewhere("load", "-i", tmp_path / "old", "--platform", platform)
        assert image(elsewhere, "multi").id == image(shop, "one:1").id

    def test_another_name_is_of_all_of_them(self, shop: Commands, multi: Descriptor) -> None:
        shop("tag", "multi", "many")
        assert image(shop, "many").entry == multi
        assert {"many:latest", "multi:latest"} <= set(names(shop))
        assert shop("rmi", "multi").lines == ["Untagged: multi:latest"]
        shop("rmi", "many")
        assert not {"many:latest", "multi:latest"} & set(names(shop))
        assert problems(shop.root) == []


class TestSaveAndLoad:
    @pytest.mark.parametrize("style", ["docker", "oci-archive", "oci-dir"])
    def test_what_is_loaded_is_what_was_saved(
        self, shop: Commands, elsewhere: Commands, tmp_path: Path, style: str
    ) -> None:
        done = shop("save", "--format", style, "-o", tmp_path / "out", "one:1", "team/two")
        assert (done.out, done.err) == ("", "")
        loaded = elsewhere("load", "-i", tmp_path / "out")
        assert loaded.lines == ["Loaded image: one:1", "Loaded image: team/two:latest"]
        for name in ("one:1", "team/two"):
            assert image(elsewhere, name).descriptor == image(shop, name).descriptor
        assert names(elsewhere) == ["one:1", "team/two:latest"]
        assert problems(elsewhere.root) == []

    def test_a_plain_directory_holds_one_image_without_its_name(
        self, shop: Commands, elsewhere: Commands, tmp_path: Path
    ) -> None:
        shop("save", "--format", "docker-dir", "-o", tmp_path / "out", "one:1")
        assert (tmp_path / "out/version").is_file()
        one = image(shop, "one:1")
        assert elsewhere("load", "-i", tmp_path / "out").lines == [f"Loaded image ID: {one.id}"]
        assert image(elsewhere, one.id).descriptor == one.descriptor
        assert problems(elsewhere.root) == []
        both = shop(
            *("save", "--format", "docker-dir", "-o", tmp_path / "x", "one:1", "team/two"), code=125
        )
        assert "holds one image" in both.err
        damaged = tmp_path / "out" / one.manifest.layers[0].digest.hex
        flip(damaged)
        third = Commands(tmp_path / "third", shop.capture)
        assert "damaged" in third("load", "-i", tmp_path / "out", code=1).err
        assert names(third) == []

    def test_the_old_archive_keeps_the_image_id(
        self, shop: Commands, elsewhere: Commands, tmp_path: Path
    ) -> None:
        """Its layers are not compressed: the manifest is another one, the config is the same."""
        shop("save", "--format", "docker-archive", "-o", tmp_path / "out", "one:1")
        assert "oci-layout" not in members(tmp_path / "out")
        elsewhere("load", "--input", tmp_path / "out")
        assert image(elsewhere, "one:1").id == image(shop, "one:1").id
        assert problems(elsewhere.root) == []

    def test_unasked_it_is_an_archive_of_both_kinds(self, shop: Commands, tmp_path: Path) -> None:
        shop("save", "-o", tmp_path / "out", "one:1")
        assert {"oci-layout", "index.json", "manifest.json"} <= set(members(tmp_path / "out"))
        (found,) = manifest(tmp_path / "out")
        config = image(shop, "one:1").id.removeprefix("sha256:")
        assert found["Config"] == f"blobs/sha256/{config}"
        assert found["RepoTags"] == ["one:1"]

    def test_through_a_pipe_it_is_the_same(
        self, shop: Commands, elsewhere: Commands, tmp_path: Path
    ) -> None:
        with (tmp_path / "out").open("wb") as out:
            process = Lamina(root=shop.root).start("save", "one:1", stdout=out)
            assert process.communicate(timeout=60)[1] == b""
        shop("save", "-o", tmp_path / "file", "one:1")
        archive = (tmp_path / "out").read_bytes()
        assert archive == (tmp_path / "file").read_bytes()
        done = Lamina(root=elsewhere.root)("load", "-q", stdin=archive)
        assert (done.stdout, done.stderr) == ("Loaded image: one:1\n", "")

    def test_saving_twice_gives_the_same_bytes(self, shop: Commands, tmp_path: Path) -> None:
        for name in ("first", "second"):
            shop("image", "save", "--output", tmp_path / name, "team/two", "one:1")
        assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()

    def test_only_the_names_that_were_asked_for_go_along(
        self, shop: Commands, tmp_path: Path
    ) -> None:
        shop("save", "-o", tmp_path / "out", "one:first", "one:1", "one:first")
        (found,) = manifest(tmp_path / "out")
        assert found["RepoTags"] == ["one:first", "one:1"]

    def test_an_id_takes_no_name_along(
        self, shop: Commands, elsewhere: Commands, tmp_path: Path
    ) -> None:
        image_id = image(shop, "one:1").id
        shop("save", "-o", tmp_path / "out", image_id[7:19])
        assert manifest(tmp_path / "out")[0]["RepoTags"] is None
        assert elsewhere("load", "-i", tmp_path / "out").out == f"Loaded image ID: {image_id}\n"
        assert names(elsewhere) == ["<none>:<none>"]

    def test_shared_layers_are_written_once(self, shop: Commands, tmp_path: Path) -> None:
        shop("save", "-o", tmp_path / "out", "one:1", "team/two")
        found = members(tmp_path / "out")
        assert len(found) == len(set(found))
        shared = image(shop, "one:1").layers[0].descriptor.digest.hex
        assert f"blobs/sha256/{shared}" in found

    def test_a_compressed_archive_is_loaded_too(
        self, shop: Commands, elsewhere: Commands, tmp_path: Path
    ) -> None:
        shop("save", "-o", tmp_path / "out", "one:1")
        packed = write(tmp_path / "out.gz", gzip.compress((tmp_path / "out").read_bytes()))
        assert elsewhere("load", "-i", packed).out == "Loaded image: one:1\n"

    def test_loading_moves_a_name_and_keeps_the_old_image(
        self, shop: Commands, tmp_path: Path
    ) -> None:
        shop("save", "-o", tmp_path / "out", "one:1")
        old = image(shop, "one:1").id
        shop("tag", "team/two", "one:1")
        shop("load", "-i", tmp_path / "out")
        assert image(shop, "one:1").id == old
        assert names(shop) == ["one:1", "one:first", "team/two:latest"]

    def test_an_existing_file_is_replaced_only_by_a_whole_one(
        self, shop: Commands, tmp_path: Path
    ) -> None:
        target = write(tmp_path / "out", b"before")
        with Store.open(shop.root) as store:
            flip_blob(store, store.images.resolve("one:1").layers[0].descriptor.digest)
        done = shop("save", "-o", target, "one:1", code=1)
        assert "is damaged" in done.err
        assert target.read_bytes() == b"before"
        assert [path.name for path in tmp_path.iterdir() if path.name != "store"] == ["out"]
        shop("save", "-o", target, "team/two", code=1)  # it has the damaged layer too

    def test_what_a_killed_one_has_left_goes_with_the_next(
        self, shop: Commands, tmp_path: Path
    ) -> None:
        dead = subprocess.Popen(["true"])
        dead.wait()
        write(tmp_path / f".lamina-write-{dead.pid}", b"half")
        shop("save", "-o", tmp_path / "out", "one:1")
        assert {path.name for path in tmp_path.iterdir()} == {"out", "store"}


class TestSaveMistakes:
    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            ((), 1, "'save' requires at least 1 argument (usage: lamina save IMAGE...)"),
            (("-o", "{tmp}/out", "nope"), 1, "no such image: nope"),
            (("-o", "{tmp}/out", "one:1", "nope"), 1, "no such image: nope"),
            (("-o", "{tmp}/none/out", "one:1"), 1, "{tmp}/none: No such directory"),
            (("-o", "{tmp}", "one:1"), 1, "{tmp}: Is a directory"),
            (("--format", "zip", "-o", "{tmp}/out", "one:1"), 125, "'zip' for --format (docker, "),
            (("--format", "oci-dir", "one:1"), 125, "no directory (name a file with -o"),
            (("--format", "oci-dir", "-o", "{tmp}/store", "one:1"), 1, "store is not empty"),
            (("--platform", "linux", "--platform", "a/b/c/d", "one:1"), 1, "unknown operating"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
    )
    def test_they_are_one_line_and_leave_nothing(
        self, shop: Commands, tmp_path: Path, words: tuple[str, ...], code: int, message: str
    ) -> None:
        before = sorted(tmp_path.iterdir())
        done = shop("save", *(word.format(tmp=tmp_path) for word in words), code=code)
        assert message.format(tmp=tmp_path) in done.err
        assert done.err.count("\n") == 1
        assert done.out == ""
        assert sorted(tmp_path.iterdir()) == before

    def test_it_does_not_write_to_a_terminal(self, shop: Commands) -> None:
        with Typist(Lamina(root=shop.root), "save", "one:1") as typist:
            typist.wait_for(b"cowardly refusing to save to a terminal")
            assert typist.end() == 125


class TestLoadMistakes:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "neither a manifest.json"),
            (b"no archive at all\n", "it ends too early"),
            (b"\0" * 10240, "neither a manifest.json"),
            (ROOTFS, "a root file system is taken in by `lamina import`"),
            (entry("manifest.json", b"[") + END, "manifest.json"),
            (entry("manifest.json", b"[]") + END, "manifest.json"),
            (entry("../index.json", b"{}") + END, "../index.json"),
            (gzip.compress(ROOTFS)[:-20], ""),
        ],
        ids=["empty", "text", "zeros", "rootfs", "truncated-json", "no-image", "outside", "cut"],
    )
    def test_what_is_no_archive_of_images_changes_nothing(
        self, shop: Commands, tmp_path: Path, content: bytes, message: str
    ) -> None:
        index = (shop.root / "index.json").read_bytes()
        done = shop("load", "-i", write(tmp_path / "archive", content), code=1)
        assert message in done.err
        assert done.err.count("\n") == 1
        assert "internal error" not in done.err
        assert done.out == ""
        assert (shop.root / "index.json").read_bytes() == index
        assert problems(shop.root) == []

    def test_an_archive_that_ends_early_gives_no_image(
        self, shop: Commands, elsewhere: Commands, tmp_path: Path
    ) -> None:
        shop("save", "-o", tmp_path / "out", "one:1")
        whole = (tmp_path / "out").read_bytes()
        for size in range(512, len(whole) - 1024, 2048):
            elsewhere("load", "-i", write(tmp_path / "cut", whole[:size]), code=1)
        assert names(elsewhere) == []
        assert problems(elsewhere.root) == []

    def test_a_changed_byte_of_a_layer_is_found(
        self, shop: Commands, elsewhere: Commands, tmp_path: Path
    ) -> None:
        shop("save", "-o", tmp_path / "out", "one:1")
        digest = image(shop, "one:1").layers[1].descriptor.digest
        with tarfile.open(tmp_path / "out") as tar:
            at = tar.getmember(f"blobs/sha256/{digest.hex}").offset_data
        data = bytearray((tmp_path / "out").read_bytes())
        data[at + 20] ^= 1
        done = elsewhere("load", "-i", write(tmp_path / "bad", bytes(data)), code=1)
        assert done.err.count("\n") == 1
        assert names(elsewhere) == []
        assert problems(elsewhere.root) == []

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (("-i", "/does/not/exist"), 1, "/does/not/exist: No such file or directory"),
            (("-i",), 125, "flag needs an argument: -i"),
            (("file",), 1, "'load' requires no arguments"),
            (("--platform", "a/b/c/d"), 1, "unknown operating"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
    )
    def test_mistakes_are_one_line(
        self, bare: Commands, words: tuple[str, ...], code: int, message: str
    ) -> None:
        done = bare("load", *words, code=code)
        assert message in done.err
        assert done.err.count("\n") == 1

    def test_a_directory_without_a_layout_is_no_image(self, bare: Commands, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        done = bare("load", "-i", tmp_path / "empty", code=1)
        assert done.err.count("\n") == 1
        assert "internal error" not in done.err

    def test_nobody_types_an_archive(self, bare: Commands) -> None:
        with Typist(Lamina(root=bare.root), "load") as typist:
            typist.wait_for(b"requested load from stdin, but stdin is empty")
            assert typist.end() == 125


class TestImport:
    def test_it_prints_the_id_and_names_the_image(self, bare: Commands, tmp_path: Path) -> None:
        archive = write(tmp_path / "rootfs.tar", ROOTFS)
        image_id = bare("import", archive, "base:1").out.strip()
        found = image(bare, "base:1")
        assert found.id == image_id
        assert [entry.comment for entry, _ in found.history()] == [f"Imported from {archive}"]
        assert problems(bare.root) == []

    def test_without_a_name_it_is_kept_by_its_id(self, bare: Commands, tmp_path: Path) -> None:
        image_id = bare("import", write(tmp_path / "rootfs.tar", ROOTFS)).out.strip()
        assert names(bare) == ["<none>:<none>"]
        assert image(bare, image_id).id == image_id

    def test_from_a_pipe_and_compressed(self, bare: Commands, tmp_path: Path) -> None:
        lamina = Lamina(root=bare.root)
        packed = gzip.compress(ROOTFS)
        image_id = lamina("import", "-m", "same", "-", "piped", stdin=packed).stdout
        archive = write(tmp_path / "rootfs.tar", ROOTFS)
        assert bare("image", "import", "--message", "same", archive).out == image_id
        assert names(bare) == ["piped:latest"]

    def test_the_archive_may_be_behind_a_url(self, bare: Commands, tmp_path: Path) -> None:
        archive = write(tmp_path / "rootfs.tar", ROOTFS)
        wanted = bare("import", "-m", "same", archive).out
        with serve({"/r.tgz": Page(gzip.compress(ROOTFS)), "/text": Page(b"text")}) as server:
            url = f"{server.url}/r.tgz"
            assert bare("import", "-m", "same", url, "fetched").out == wanted
            secret = url.replace("//", "//me:secret@")
            bare("import", secret, "told")
            assert f"{server.url}/text: " in bare("import", f"{server.url}/text", code=1).err
        (entry,) = image(bare, "told").config.history
        assert entry.comment.startswith("Imported from http://")
        assert "secret" not in entry.comment
        assert problems(bare.root) == []

    def test_it_may_be_for_another_platform(self, bare: Commands, tmp_path: Path) -> None:
        archive = write(tmp_path / "rootfs.tar", ROOTFS)
        bare("import", "--platform", "linux/arm/v7", archive, "far")
        config = image(bare, "far").config
        assert (config.os, config.architecture, config.variant) == ("linux", "arm", "v7")

    def test_changes_are_instructions(self, bare: Commands, tmp_path: Path) -> None:
        words = ("-c", 'CMD ["sh"]', "--change", "ENV A=1 B=2", "-c", "LABEL x=y", "-c", "USER 7")
        bare("import", *words, write(tmp_path / "rootfs.tar", ROOTFS), "changed")
        config = image(bare, "changed").config.config
        assert config.cmd == ("sh",)
        assert {"A=1", "B=2"} <= set(config.env)
        assert config.labels == (("x", "y"),)
        assert config.user == "7"

    @pytest.mark.needs_root
    @pytest.mark.needs_overlay
    def test_what_was_imported_runs(self, box: Commands, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.add("/bin/busybox", "bin/busybox")
        archive = write(tmp_path / "rootfs.tar", buffer.getvalue())
        box("import", "-c", 'ENTRYPOINT ["/bin/busybox", "echo"]', archive, "tiny")
        assert box("run", "--rm", "--network", "none", "tiny", "hello").out == "hello\n"

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            ((), 1, "'import' requires at least 1 argument"),
            (("a", "b", "c"), 1, "'import' requires at most 2 arguments"),
            (("/does/not/exist",), 1, "/does/not/exist: No such file or directory"),
            (("{file}", "UPPER"), 1, "invalid image name 'UPPER'"),
            (("-c", "RUN true", "{file}"), 1, "RUN is not a valid change command (one of CMD"),
            (("-c", "COPY a b", "{file}"), 1, "COPY is not a valid change command"),
            (("-c", "NOPE x", "{file}"), 1, "NOPE is not a valid change command"),
            (("-c", "EXPOSE pork", "{file}"), 1, "pork"),
            (("--platform", "nope/at/all/x", "{file}"), 1, "nope"),
            (("http://127.0.0.1:1/x.tar", "y"), 1, "cannot fetch http://127.0.0.1:1/x.tar"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
    )
    def test_mistakes_leave_no_image(
        self, bare: Commands, tmp_path: Path, words: tuple[str, ...], code: int, message: str
    ) -> None:
        file = write(tmp_path / "rootfs.tar", ROOTFS)
        done = bare("import", *(word.format(file=file) for word in words), code=code)
        assert message in done.err
        assert "internal error" not in done.err
        assert done.out == ""
        assert names(bare) == []


class TestBootstrap:
    def test_busybox_is_made_named_and_told(self, bare: Commands) -> None:
        need_busybox()
        done = bare("bootstrap", "busybox")
        assert done.out.strip() == image(bare, "busybox").id
        assert done.err.startswith("making busybox of ")
        again = bare("bootstrap", "-q", "busybox:latest")
        assert (again.out, again.err) == (done.out, "")
        assert problems(bare.root) == []

    def test_what_cannot_be_made_is_refused_with_what_can(self, bare: Commands) -> None:
        done = bare("bootstrap", "alpine", code=1)
        assert done.err == (
            "lamina: cannot make a base image named 'alpine' (this machine can make busybox and "
            "debian:SUITE, such as debian:bookworm)\n"
        )
        assert names(bare) == []

    def test_registries_are_refused_by_name(self, bare: Commands) -> None:
        done = bare("bootstrap", "--registry", "x", "busybox", code=125)
        assert "--registry is not supported" in done.err


@pytest.mark.parametrize("command", [("load", "-i"), ("import",)], ids=lambda words: words[0])
def test_what_cannot_be_read_is_named(
    shop: Commands, tmp_path: Path, command: tuple[str, ...]
) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(ROOTFS[:700])
    done = shop(*command, cut, code=1)
    assert done.err.startswith(f"lamina: {cut}: tar archive: ")
    piped = command[:1] if command[0] == "load" else (*command, "-")
    told = Lamina(root=shop.root)(*piped, stdin=b"x" * 600, check=False)
    assert told.stderr.startswith("lamina: standard input: tar archive: ")


def test_a_damaged_blob_of_an_archive_is_that_of_the_archive(
    shop: Commands, elsewhere: Commands, tmp_path: Path
) -> None:
    archive = tmp_path / "one.tar"
    shop("save", "-o", archive, "one:1")
    layer = image(shop, "one:1").manifest.layers[0].digest
    with tarfile.open(archive) as tar:
        flip(archive, tar.getmember(f"blobs/sha256/{layer.hex}").offset_data + 20)
    done = elsewhere("load", "-i", archive, code=1)
    assert done.err.startswith(f"lamina: {archive}: ")
    assert "fsck" not in done.err
