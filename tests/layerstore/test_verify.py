"""One kind of damage after the other: each must be found, and named."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layerstore import (
    Descriptor,
    Digest,
    Finding,
    Image,
    Index,
    Meta,
    Opaque,
    Platform,
    PutDir,
    PutFile,
    PutHardlink,
    PutNode,
    PutSymlink,
    Reference,
    Remove,
    Store,
    TreePath,
    overlay_changes,
    prune,
    toc,
)
from layerstore.blobs import put
from tests.support.stores import (
    CREATED,
    cached_step,
    edit_cache,
    findings,
    flip,
    flip_blob,
    make_image,
    make_layer,
    puts,
    seal,
    start,
)


@pytest.fixture
def image(store: Store) -> Image:
    """An image with a bit of everything, checked out."""
    layers = [
        make_layer(store, {"etc/passwd": b"root", "bin/sh": b"#!" * 1000}),
        store.layers.commit(
            [
                PutDir(TreePath("d"), Meta(0o1777, 5, 6)),
                Opaque(TreePath("d")),
                PutFile(TreePath("d/f"), Meta(0o4755, mtime_ns=1_500_000_000), 2, b"hi"),
                PutHardlink(TreePath("d/g"), TreePath("d/f")),
                PutSymlink(TreePath("l"), Meta(0o777), "target"),
                PutNode(TreePath("p"), Meta(0o600), "fifo"),
                Remove(TreePath("etc/passwd")),
            ]
        ),
    ]
    image = seal(store, layers)
    store.images.tag(image, Reference.parse("app"))
    store.cache.put(cached_step(b"k", layers[0]), parent=None, variant="")
    store.cache.put_memo("kind", "key", b"value")
    store.flush()
    store.layers.lowerdirs(layers)
    return image


def only(found: list[Finding], kind: str) -> Finding:
    assert {finding.kind for finding in found} == {kind}, found
    return found[0]


# ---- nothing wrong


def test_a_new_store_is_clean(store: Store) -> None:
    assert findings(store) == []


def test_a_store_in_use_is_clean(store: Store, image: Image) -> None:
    assert findings(store) == []
    assert findings(store, quick=True) == []


def test_pending_work_is_no_finding(store: Store, image: Image) -> None:
    make_layer(store, {"pending": b"1"})
    assert findings(store) == []


def test_garbage_is_no_finding(store: Store, image: Image) -> None:
    put(store.blobs, b"garbage")
    store.flush()
    (store.private / "snapshots" / ("a" * 32)).mkdir()
    (store.private / "toc" / ("b" * 64)).write_text("x")
    assert findings(store) == []


def test_upper_directories_with_nanoseconds_and_sockets_are_clean(store: Store) -> None:
    import socket

    with store.new_tmpdir() as directory:
        upper = directory / "upper"
        (upper / "d").mkdir(parents=True)
        (upper / "d/f").write_bytes(b"1")
        os.utime(upper / "d/f", ns=(1, 1_600_000_000_123_456_789))
        with socket.socket(socket.AF_UNIX) as server:
            folder = os.open(upper, os.O_RDONLY)  # sun_path has room for 108 bytes
            server.bind(f"/proc/self/fd/{folder}/s")
            os.close(folder)
        store.layers.commit(overlay_changes(upper), upperdir=upper)
    store.flush()
    assert findings(store) == []


def test_implied_directories_are_clean(store: Store) -> None:
    layer = store.layers.commit([PutFile(TreePath("a/b/c"), Meta(0o644), 1, b"1")])
    store.layers.checkout(layer)
    store.flush()
    assert findings(store) == []


# ---- every file of the store, damaged in turn


def test_one_flipped_byte_in_any_file_is_found(store: Store, image: Image) -> None:
    """All files but those whose content says nothing, or is rewritten when it is not understood."""
    store.close()
    copy = store.root.parent / "copy"
    excused = {"lock", "boot", "version", "reserve"}  # the last is room, whatever is in it
    files = [
        path.relative_to(store.root)
        for path in sorted(store.root.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name not in excused
    ]
    assert len(files) > 10
    for name in files:
        subprocess.run(["cp", "-a", store.root, copy], check=True)
        if name.name == "cache.db":
            damage_database(copy / name)
        else:
            flip(copy / name, len((copy / name).read_bytes()) // 2)
        with Store.open(copy) as damaged:
            found = [str(finding) for finding in findings(damaged)]
        named = {"cache.db": "row"}.get(name.name, name.name)
        if "snapshots" in name.parts:
            named = name.parts[2]
        shutil.rmtree(copy)
        assert any(named[:12] in text for text in found), f"{name}: {found}"


def damage_database(path: Path) -> None:
    """Change a stored value on its page."""
    data = path.read_bytes()
    at = data.index(CREATED.encode())
    path.write_bytes(data[:at] + b"3" + data[at + 1 :])


# ---- blobs


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
@pytest.mark.parametrize("at", [0, -1])
def test_a_flipped_blob_is_named(store: Store, image: Image, part: str, at: int) -> None:
    digest = digest_of(image, part)
    flip_blob(store, digest, at)
    found = findings(store)
    assert any(digest in finding.key for finding in found if finding.kind == "blob")
    assert all(finding.hint for finding in found if finding.kind == "blob" and part != "layer")


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
@pytest.mark.parametrize("quick", [False, True])
def test_a_missing_blob_is_found_even_quickly(
    store: Store, image: Image, part: str, quick: bool
) -> None:
    digest = digest_of(image, part)
    store.blob_path(digest).unlink()
    assert any(digest in str(finding) for finding in findings(store, quick=quick))


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
@pytest.mark.parametrize("quick", [False, True])
def test_a_truncated_blob_is_found_even_quickly(
    store: Store, image: Image, part: str, quick: bool
) -> None:
    digest = digest_of(image, part)
    path = store.blob_path(digest)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1])
    assert any(digest in str(finding) for finding in findings(store, quick=quick))


def digest_of(image: Image, part: str) -> Digest:
    return {
        "manifest": image.descriptor.digest,
        "config": image.id,
        "layer": image.layers[0].descriptor.digest,
    }[part]


def test_quick_reads_no_layer(store: Store, image: Image) -> None:
    flip_blob(store, image.layers[0].descriptor.digest)
    assert findings(store, quick=True) == []


def test_what_is_no_blob_is_named(store: Store, image: Image) -> None:
    (store.root / "blobs/sha256/README").write_text("x")
    finding = only(findings(store), "file")
    assert finding.key == "blobs/sha256/README"


def test_a_link_for_a_blob_is_found(store: Store, image: Image, tmp_path: Path) -> None:
    path = store.blob_path(image.id)
    path.rename(tmp_path / "away")
    path.symlink_to(tmp_path / "away")
    assert any("expected a file" in finding.problem for finding in findings(store))


def test_a_blob_nothing_leads_to_is_verified_too(store: Store) -> None:
    digest = put(store.blobs, b"of another tool").digest
    store.flush()
    flip_blob(store, digest)
    assert only(findings(store), "blob").key == digest


# ---- documents


def test_a_damaged_index_is_named(store: Store, image: Image) -> None:
    (store.root / "index.json").write_text("{")
    assert only(findings(store), "file").key == "index.json"


def test_a_damaged_layout_file_is_named(store: Store, image: Image) -> None:
    (store.root / "oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}')
    assert only(findings(store), "file").key == "oci-layout"
    (store.root / "oci-layout").unlink()
    assert only(findings(store), "file").key == "oci-layout"


def test_an_open_store_directory_is_named(store: Store, image: Image) -> None:
    store.root.chmod(0o755)
    assert "open to other users" in only(findings(store), "file").problem


def test_a_layout_file_of_another_tool_is_fine(store: Store) -> None:
    (store.root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}\n')
    assert findings(store) == []


def test_an_entry_with_a_wrong_size_is_found(store: Store, image: Image) -> None:
    wrong = replace(image.descriptor, size_bytes=5)
    (store.root / "index.json").write_bytes(Index(manifests=(wrong,)).encode())
    assert only(findings(store), "image").key == image.descriptor.digest


def test_an_entry_without_a_blob_is_found(store: Store, image: Image) -> None:
    for media_type in (image.descriptor.media_type, "application/vnd.example"):
        missing = Descriptor(media_type=media_type, digest=Digest.of(b"missing"), size_bytes=5)
        (store.root / "index.json").write_bytes(Index(manifests=(missing,)).encode())
        assert any(Digest.of(b"missing") in str(finding) for finding in findings(store))


def test_a_manifest_that_does_not_fit_its_config_is_found(store: Store, image: Image) -> None:
    short = put(store.blobs, replace(image.manifest, layers=image.manifest.layers[:1]).encode())
    entry = replace(image.descriptor, digest=short.digest, size_bytes=short.size_bytes)
    store.flush()
    (store.root / "index.json").write_bytes(Index(manifests=(entry,)).encode())
    assert "1 layers, but 2 diff_ids" in only(findings(store), "image").problem


def test_a_manifest_with_another_layer_under_the_diff_id_is_found(
    store: Store, image: Image
) -> None:
    swapped = put(store.blobs, replace(image.manifest, layers=image.manifest.layers[::-1]).encode())
    entry = replace(image.descriptor, digest=swapped.digest, size_bytes=swapped.size_bytes)
    store.flush()
    (store.root / "index.json").write_bytes(Index(manifests=(entry,)).encode())
    assert "is not" in only(findings(store), "image").problem


def test_the_same_layer_compressed_otherwise_is_fine(store: Store, image: Image) -> None:
    import gzip

    layer = image.layers[0]
    other = gzip.compress(b"".join(store.layers.tar_pieces(layer)), 9)
    info = put(store.blobs, other)
    descriptor = replace(layer.descriptor, digest=info.digest, size_bytes=info.size_bytes)
    manifest = put(
        store.blobs,
        replace(image.manifest, layers=(descriptor, image.manifest.layers[1])).encode(),
    )
    entry = replace(image.descriptor, digest=manifest.digest, size_bytes=manifest.size_bytes)
    store.flush()
    (store.root / "index.json").write_bytes(Index(manifests=(entry,)).encode())
    assert findings(store) == []


def test_platforms_that_were_left_out_are_no_finding(store: Store, image: Image) -> None:
    absent = Descriptor(
        media_type=image.descriptor.media_type,
        digest=Digest.of(b"absent"),
        size_bytes=5,
        platform=Platform(os="linux", architecture="s390x"),
    )
    index = Index(manifests=(image.descriptor, absent))
    info = put(store.blobs, index.encode())
    store.flush()
    entry = Descriptor(media_type=index.media_type, digest=info.digest, size_bytes=info.size_bytes)
    (store.root / "index.json").write_bytes(Index(manifests=(entry,)).encode())
    assert findings(store) == []

    store.blob_path(image.layers[0].descriptor.digest).unlink()
    assert any(finding.key == image.descriptor.digest for finding in findings(store))


# ---- the database


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("UPDATE layers SET size_bytes = size_bytes + 1", "layer row"),
        ("UPDATE layers SET digest = diff_id", "layer row"),
        ("UPDATE steps SET created = 'never'", "cache row"),
        ("UPDATE memos SET value = CAST('x' AS BLOB)", "cache row"),
        ("INSERT INTO listings VALUES ('sha256:1', CAST('x' AS BLOB))", "cache row"),
    ],
)
def test_a_changed_row_is_found(
    store: Store, image: Image, sql: str, kind: str, quick: bool
) -> None:
    edit_cache(store, sql)
    only(findings(store, quick=quick), kind)


def test_a_row_that_lies_consistently_is_found(store: Store, image: Image) -> None:
    """Its checksum is right; the blob says something else."""
    from layerstore.database import checksum
    from layerstore.layers import _COLUMNS, _values

    lying = replace(image.layers[0], size_bytes=5, files=77)
    values = (*_values(lying), checksum(*_values(lying)))
    store.database.write(
        [(f"INSERT OR REPLACE INTO layers ({_COLUMNS}, checksum) VALUES ({'?,' * 10}?)", values)]
    )
    found = findings(store)
    assert {finding.problem for finding in found} == {
        "says size_bytes 5, which is 2004",
        "says files 77, which is 2",
    }


def test_a_file_that_is_no_database_is_found(store: Store, image: Image) -> None:
    store.close()
    for path in store.private.glob("cache.db*"):
        path.unlink()
    (store.private / "cache.db").write_bytes(b"x" * 8192)
    with Store.open(store.root) as damaged:
        assert any(finding.key == "lamina/cache.db" for finding in findings(damaged))


# ---- tables of contents


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: flip(path, 40),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(toc.dump([])),
    ],
    ids=["flipped", "empty", "another"],
)
def test_a_wrong_table_of_contents_is_found(
    store: Store, image: Image, damage: Callable[[Path], object]
) -> None:
    damage(store.layers.toc_path(image.layers[0].diff_id))
    finding = only(findings(store), "table of contents")
    assert finding.key == image.layers[0].diff_id
    assert "made again" in finding.hint


def test_a_missing_table_of_contents_is_no_damage(store: Store, image: Image) -> None:
    store.layers.toc_path(image.layers[0].diff_id).unlink()
    assert findings(store) == []


# ---- checkouts


def replace_by_link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def break_hard_link(path: Path, other: Path) -> None:
    path.unlink()
    shutil.copy2(other, path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "content": lambda d: flip(d / "d/f"),
    "mode": lambda d: (d / "d/f").chmod(0o755),
    "time": lambda d: os.utime(d / "d/f", (5, 5)),
    "owner": lambda d: os.chown(d / "d/f", 7, 7),
    "xattr": lambda d: os.setxattr(d / "d/f", "user.x", b"y"),
    "missing file": lambda d: (d / "d/g").unlink(),
    "extra file": lambda d: (d / "extra").touch(),
    "extra directory": lambda d: (d / "extra").mkdir(),
    "link target": lambda d: replace_by_link(d / "l", "elsewhere"),
    "link for file": lambda d: replace_by_link(d / "d/f", "g"),
    "broken hard link": lambda d: break_hard_link(d / "d/g", d / "d/f"),
    "missing whiteout": lambda d: (d / "etc/passwd").unlink(),
    "opaque": lambda d: os.removexattr(d / "d", "trusted.overlay.opaque"),
    "missing fifo": lambda d: (d / "p").unlink(),
    "empty": lambda d: shutil.rmtree(d / "d"),
}


@pytest.mark.needs_root
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkout_is_found(
    store: Store, image: Image, damage: Callable[[Path], object]
) -> None:
    damage(store.layers.checkout(image.layers[1]))
    finding = only(findings(store), "checkout")
    assert finding.key == image.layers[1].diff_id
    assert "differs from its layer in" in finding.problem


def test_many_differences_are_counted(store: Store) -> None:
    layer = make_layer(store, {f"f{number}": b"1" for number in range(10)})
    directory = store.layers.checkout(layer)
    store.flush()
    for number in range(10):
        (directory / f"f{number}").write_bytes(b"2")
    assert only(findings(store), "checkout").problem.endswith("'f0', 'f1', 'f2' and 7 more")


def test_the_empty_checkout_must_stay_empty(store: Store, image: Image) -> None:
    (directory,) = store.layers.lowerdirs([])
    assert findings(store) == []
    (directory / "x").touch()
    assert only(findings(store), "checkout").key == "empty"


def test_a_checkout_of_a_damaged_blob_is_still_checked(store: Store, image: Image) -> None:
    flip_blob(store, image.layers[1].descriptor.digest)
    flip(store.layers.checkout(image.layers[1]) / "d/f")
    assert {"blob", "checkout"} <= {finding.kind for finding in findings(store)}


# ---- containers


def test_a_container_without_its_image_is_found(store: Store, image: Image) -> None:
    directory = store.private / "containers" / "c1"
    directory.mkdir(parents=True)
    record = {"manifest_digest": image.descriptor.digest, "layers": [image.layers[0].diff_id]}
    (directory / "container.json").write_text(json.dumps(record))
    assert findings(store) == []

    record = {"manifest_digest": Digest.of(b"x"), "layers": [Digest.of(b"y")]}
    (directory / "container.json").write_text(json.dumps(record))
    found = findings(store)
    assert [finding.kind for finding in found] == ["container"] * 2
    assert all(finding.key == "c1" for finding in found)


# ---- healing


def test_committing_and_sealing_again_heals(store: Store, image: Image) -> None:
    for part in ("manifest", "config", "layer"):
        flip_blob(store, digest_of(image, part))
    assert findings(store)
    store.close()
    with Store.open(store.root) as again:
        layers = [
            make_layer(again, {"etc/passwd": b"root", "bin/sh": b"#!" * 1000}),
            image.layers[1],
        ]
        again.images.tag(seal(again, layers), Reference.parse("app"))
    with Store.open(store.root) as healed:
        assert findings(healed) == []


def test_what_the_hints_say_helps(store: Store, image: Image) -> None:
    directory = store.layers.checkout(image.layers[1])
    flip(directory / "d/f")
    flip(store.layers.toc_path(image.layers[0].diff_id))
    from layerstore import remove_tree

    remove_tree(directory)
    store.layers.toc_path(image.layers[0].diff_id).unlink()
    assert findings(store) == []
    store.layers.lowerdirs(image.layers)
    store.layers.tree(image.layers)
    assert findings(store) == []


def test_a_pruned_store_is_clean(store: Store, image: Image) -> None:
    prune(store, images="unused", cache="all")
    assert findings(store) == []


# ---- manners


WORK = """
import os, sys
from pathlib import Path
from layerstore import Store, prune
from tests.support.stores import make_image
for number in range(15):
    with Store.open(Path(sys.argv[1])) as store:
        image = make_image(store, "app", {"a": os.urandom(20000)}, {"b": b"2"})
        store.layers.lowerdirs(image.layers)
    with Store.open(Path(sys.argv[1])) as store:
        prune(store, images="dangling" if number % 2 else "unused", cache="all")
"""


def test_it_may_run_beside_builds_and_prunes(store: Store) -> None:
    worker = start(WORK, store.root)
    rounds = 0
    while worker.poll() is None:
        assert findings(store) == []
        rounds += 1
    _, err = worker.communicate(timeout=60)
    assert worker.returncode == 0, err.decode()
    assert rounds > 1


def test_it_reads_many_megabytes_a_second(store: Store) -> None:
    size = 20_000_000
    make_image(store, "big", {f"f{number}": os.urandom(size // 20) for number in range(20)})
    started = time.perf_counter()
    assert findings(store) == []
    assert size / (time.perf_counter() - started) > 5_000_000


def test_a_finding_reads_as_a_sentence() -> None:
    finding = Finding(kind="blob", key="sha256:abc", problem="is missing", hint="pull it")
    assert str(finding) == "blob sha256:abc: is missing"


def test_errors_of_the_disk_are_findings(
    store: Store, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Any = os.open

    def failing(path: object, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith(image.layers[0].descriptor.digest.hex):
            raise OSError(5, "Input/output error", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", failing)
    found = findings(store)
    assert any("Input/output error" in finding.problem for finding in found)


def test_puts_is_canonical() -> None:
    assert [change.path for change in puts({"a/b/c": b""})] == ["a", "a/b", "a/b/c"]
