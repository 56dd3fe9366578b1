"""Everything a file system can hold survives build -> save -> load -> run, by GNU tar's measure."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.cli import Lamina
from tests.support.imagetree import Entry, OciLayout, difference, scan

pytestmark = [pytest.mark.needs_overlay]

ODD_NAME = os.fsdecode(b"not-utf8-\xff\xfe-\x80")
LONG_NAME = "l" * 251 + ".txt"
LISTING = "find . -mindepth 1 | sort | while IFS= read -r f; do stat -c 'FORMAT' \"$f\"; done; true"


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with one of each kind."""
    root = tmp_path_factory.mktemp("special") / "tree"
    root.mkdir()
    (root / "plain").write_text("plain\n")
    (root / "empty").touch()
    (root / "empty-directory").mkdir(mode=0o700)
    (root / ODD_NAME).write_text("a name of bytes\n")
    (root / LONG_NAME).write_text("a long name\n")
    (root / "new\nline").write_text("a name of two lines\n")
    deep = root.joinpath(*(["d" * 100] * 4))
    deep.mkdir(parents=True)
    (deep / "far down").write_text("deep\n")
    (root / "hard").write_text("one inode\n")
    (root / "hard-1").hardlink_to(root / "hard")
    (root / "empty-directory" / "hard-2").hardlink_to(root / "hard")
    (root / "relative").symlink_to("plain")
    (root / "absolute").symlink_to("/special/plain")
    (root / "dangling").symlink_to("../../../nowhere")
    (root / "long-link").symlink_to("t" * 200 + "/" + "u" * 200)
    os.mkfifo(root / "fifo", 0o640)
    for name, mode in (("setuid", 0o4755), ("setgid", 0o2755), ("all", 0o7777), ("none", 0)):
        (root / name).write_text(name)
        (root / name).chmod(mode)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    (root / "owned").write_text("owned\n")
    os.chown(root / "owned", 1234, 2**31 - 2)
    os.setxattr(root / "owned", "user.note", b"with \0 and = in it")
    (root / "capable").write_text("capable\n")
    os.setxattr(root / "capable", "security.capability", _CAP_NET_RAW)
    os.setxattr(root / "sticky", "user.on-directory", b"")
    with (root / "holes").open("wb") as file:
        for start in (1 << 20, 5 << 20):
            file.seek(start)
            file.write(b"data" * 1024)
        file.truncate(8 << 20)
    (root / "binary").write_bytes(bytes(range(256)) * 600)
    for path in [*root.rglob("*"), root]:
        os.utime(path, (1_500_000_000, 1_500_000_000), follow_symlinks=False)
    yield root
    shutil.rmtree(root)


# vfs_ns_cap_data, revision 2, effective: CAP_NET_RAW (linux/capability.h)
_CAP_NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")


def archive(tree: Path, target: Path) -> None:
    """GNU tar's view of the tree."""
    subprocess.run(
        [
            *("tar", "--format=pax", "--xattrs", "--xattrs-include=*", "--sparse", "--sort=name"),
            *("-C", str(tree), "-cf", str(target), "."),
        ],
        check=True,
    )


def extracted(layer: Path, target: Path) -> dict[str, Entry]:
    """What GNU tar makes of a layer."""
    target.mkdir()
    subprocess.run(
        [
            *("tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-pxzf", str(layer)),
            *("-C", str(target)),
        ],
        check=True,
        capture_output=True,
    )
    return scan(target)


def beneath(tree: dict[str, Entry], top: str) -> dict[str, Entry]:
    prefix = f"{top}/"
    return {
        path.removeprefix(prefix): replace(entry, links=entry.links.removeprefix(prefix))
        for path, entry in tree.items()
        if path.startswith(prefix)
    }


@pytest.fixture(scope="module")
def image(special: Path, tmp_path_factory: pytest.TempPathFactory) -> Lamina:
    """A store that has the image from a saved archive, not from the build itself."""
    work = tmp_path_factory.mktemp("special-build")
    context = work / "context"
    context.mkdir()
    archive(special, context / "special.tar")
    (context / "Dockerfile").write_text(
        "FROM busybox\nADD special.tar /special/\nRUN cp -a /special /again\n"
    )
    builder = Lamina(root=work / "store-1")
    builder("bootstrap", "busybox")
    builder("build", "-t", "special", context)
    builder("save", "-o", work / "saved.tar", "special")
    reader = Lamina(root=work / "store-2")
    reader("load", "-i", work / "saved.tar")
    return reader


@pytest.mark.needs_root
def test_added_by_the_builder_it_is_what_gnu_tar_had(image: Lamina, special: Path) -> None:
    tree = OciLayout(image.root).tree("special:latest")
    assert difference(scan(special), beneath(tree, "special")) == []


@pytest.mark.needs_root
def test_written_by_a_program_it_is_what_was_there(image: Lamina, special: Path) -> None:
    """`cp -a` of busybox drops xattrs and holes; all else is the overlay's and the packer's."""
    tree = beneath(OciLayout(image.root).tree("special:latest"), "again")
    expected = {path: replace(entry, xattrs=()) for path, entry in scan(special).items()}
    assert difference(expected, {path: replace(e, xattrs=()) for path, e in tree.items()}) == []


@pytest.mark.needs_root
def test_gnu_tar_extracts_the_layer_to_the_same_tree(
    image: Lamina, special: Path, tmp_path: Path
) -> None:
    layout = OciLayout(image.root)
    added = layout.layers("special:latest")[1]
    unpacked = extracted(layout.blob(added), tmp_path / "unpacked")
    assert difference(scan(special), beneath(unpacked, "special")) == []


@pytest.mark.needs_root
def test_times_are_kept(image: Lamina, special: Path) -> None:
    tree = beneath(OciLayout(image.root).tree("special:latest"), "special")
    wrong = [path for path, entry in scan(special).items() if tree[path].mtime != entry.mtime]
    assert wrong == []


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("folder", "form"),
    [("special", "%n|%f|%u|%g|%h|%Y"), ("again", "%n|%f|%u|%g|%h")],  # cp sets no times of links
)
def test_a_container_sees_what_the_host_saw(
    image: Lamina, special: Path, folder: str, form: str
) -> None:
    script = LISTING.replace("FORMAT", form)
    inside = image("run", "--rm", "-w", f"/{folder}", "special", "sh", "-c", script).stdout
    host = subprocess.run(
        ["/bin/busybox", "sh", "-c", script], cwd=special, capture_output=True, check=True
    )
    assert sorted(inside.splitlines()) == sorted(os.fsdecode(host.stdout).splitlines())


@pytest.mark.needs_root
def test_files_with_holes_take_little_room_in_the_checkout(image: Lamina) -> None:
    image("run", "--rm", "special", "true")
    found = [path for path in (image.root / "lamina").rglob("holes") if path.is_file()]
    assert found
    for path in found:
        assert path.stat().st_size == 8 << 20
        assert path.stat().st_blocks * 512 < 1 << 20


@pytest.mark.needs_root
def test_xattrs_are_there_in_a_container_too(image: Lamina) -> None:
    image("run", "--rm", "special", "true")
    (found,) = [
        path for path in (image.root / "lamina").rglob("capable") if path.parent.name == "special"
    ]
    assert os.getxattr(found, "security.capability") == _CAP_NET_RAW


@pytest.mark.needs_root
def test_it_is_sound(image: Lamina) -> None:
    image("fsck")


DELETIONS = """\
FROM busybox
RUN mkdir -p /a/b /replaced/old /file-to-dir.d /kept && touch /a/one /a/b/two /replaced/old/x \\
 && echo 1 > /dir-to-file && mkdir /becomes-file && touch /becomes-file/x && echo f > /becomes-dir
RUN rm -r /a/b && rm -r /replaced && mkdir /replaced && touch /replaced/new \\
 && rm -r /becomes-file && echo now > /becomes-file && rm /becomes-dir && mkdir /becomes-dir \\
 && mv /a/one /a/renamed && ln -s /kept /link && rm /bin/vi && rmdir /file-to-dir.d
RUN mkdir /a/b && touch /a/b/three && rm /link
"""
EXPECTED = {
    "a": "dir",
    "a/b": "dir",
    "a/b/three": "file",
    "a/renamed": "file",
    "becomes-dir": "dir",
    "becomes-file": "file",
    "dir-to-file": "file",
    "kept": "dir",
    "replaced": "dir",
    "replaced/new": "file",
}


def test_deletions_and_replacements_survive(busybox: Lamina, context: Path, tmp_path: Path) -> None:
    (context / "Dockerfile").write_text(DELETIONS)
    busybox("build", "-t", "it", context)
    layout = OciLayout(busybox.root)
    base, tree = layout.tree("busybox:latest"), layout.tree("it:latest")
    made = {path: entry.type for path, entry in tree.items() if path not in base}
    assert made == EXPECTED
    assert set(base) - set(tree) == {"bin/vi"}

    busybox("save", "-o", tmp_path / "saved.tar", "it")
    other = Lamina(root=tmp_path / "other")
    other("load", "-i", tmp_path / "saved.tar")
    assert difference(tree, OciLayout(other.root).tree("it:latest")) == []
    script = "cd / && find a becomes-* dir-to-file kept replaced | sort; ls /link /bin/vi"
    listed = other("run", "--rm", "it", "sh", "-c", script, check=False).stdout
    assert listed.split() == sorted(EXPECTED)


def test_setuid_bits_have_their_effect(busybox: Lamina, context: Path) -> None:
    (context / "Dockerfile").write_text(
        "FROM busybox\nRUN cp /bin/busybox /bin/id2 && chmod 4755 /bin/id2 && ln /bin/id2 /bin/x\n"
        'CMD ["sh", "-c", "ls -l /bin/id2 | cut -c1-10"]\n'
    )
    busybox("build", "-t", "it", context)
    assert busybox("run", "--rm", "it").stdout == "-rwsr-xr-x\n"
