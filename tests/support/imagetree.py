"""Images as other people see them: a second, independent reading of OCI layouts and layers.

Made of the standard library alone (json, tarfile) and shares nothing with `layerstore`, so that
agreement means something. For images the tests made; not hardened against hostile ones.

    layout = OciLayout(store_root)      or DirLayout(path) for what `skopeo copy dir:` writes
    tree = layout.tree("demo:latest")   path -> Entry, after all layers
"""

import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from layerstore import Reference

CONTENT_MAX = 1 << 16  # larger contents are known by digest alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One path. `links` is the smallest path of the group for hard links, else empty."""

    type: str  # file dir symlink fifo char block
    mode: int
    uid: int
    gid: int
    size: int = 0
    sha256: str = ""
    target: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    links: str = ""
    content: bytes | None = field(default=None, compare=False)
    mtime: float = field(default=0, compare=False)


Tree = Mapping[str, Entry]
JSON = Any


class Layout:
    """What both forms of layouts have in common."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def blob(self, digest: str) -> Path:
        raise NotImplementedError

    def manifest(self, name: str) -> JSON:
        raise NotImplementedError

    def config(self, name: str) -> JSON:
        return json.loads(self.blob(self.manifest(name)["config"]["digest"]).read_bytes())

    def layers(self, name: str) -> list[str]:
        return [layer["digest"] for layer in self.manifest(name)["layers"]]

    def tree(self, name: str) -> dict[str, Entry]:
        return stack([self.blob(digest) for digest in self.layers(name)])


class OciLayout(Layout):
    """A directory with oci-layout, index.json and blobs/; a lamina store is one."""

    def blob(self, digest: str) -> Path:
        algorithm, _, name = digest.partition(":")
        return self.root / "blobs" / algorithm / name

    def names(self) -> dict[str, str]:
        """Image name -> manifest digest."""
        key = "org.opencontainers.image.ref.name"
        index = json.loads((self.root / "index.json").read_bytes())
        return {
            entry["annotations"][key]: entry["digest"]
            for entry in index["manifests"]
            if key in entry.get("annotations", {})
        }

    def manifest(self, name: str) -> JSON:
        familiar = Reference.parse(name).familiar
        return json.loads(self.blob(self.names()[familiar]).read_bytes())


class DirLayout(Layout):
    """One image in a flat directory: manifest.json, and blobs named by their hex digits."""

    def blob(self, digest: str) -> Path:
        return self.root / digest.partition(":")[2]

    def manifest(self, name: str = "") -> JSON:
        return json.loads((self.root / "manifest.json").read_bytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFacts:
    """One layer tar: what it removes, and what it holds in order; hard links name a path."""

    removed: tuple[str, ...]
    opaque: tuple[str, ...]
    entries: tuple[tuple[str, Entry | str], ...]


@lru_cache(maxsize=256)
def read_layer(path: Path) -> LayerFacts:
    removed, opaque, entries = [], [], []
    with path.open("rb") as stream, open_tar(stream) as archive:
        for member in archive:
            name = member.name.removeprefix("./").strip("/")
            folder, _, last = name.rpartition("/")
            if last == ".wh..wh..opq":
                opaque.append(folder)
            elif last.startswith(".wh."):
                removed.append(f"{folder}/{last[4:]}".lstrip("/"))
            elif name not in ("", "."):
                entries.append((name, _entry(archive, member)))
    return LayerFacts(removed=tuple(removed), opaque=tuple(opaque), entries=tuple(entries))


def open_tar(stream: IO[bytes]) -> tarfile.TarFile:
    if stream.read(4) == b"\x28\xb5\x2f\xfd":
        import zstandard

        stream.seek(0)
        data = zstandard.ZstdDecompressor().stream_reader(stream).read()
        stream = io.BytesIO(data)
    stream.seek(0)
    return tarfile.open(fileobj=stream, encoding="utf-8", errors="surrogateescape")


def _entry(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Entry | str:
    if member.islnk():
        return member.linkname.removeprefix("./").strip("/")
    prefix = "SCHILY.xattr."
    xattrs = tuple(
        sorted(
            (key.removeprefix(prefix), value.encode("utf-8", "surrogateescape"))
            for key, value in member.pax_headers.items()
            if key.startswith(prefix)
        )
    )
    entry = Entry(
        type="file",
        mode=member.mode & 0o7777,
        uid=member.uid,
        gid=member.gid,
        xattrs=xattrs,
        mtime=member.mtime,
    )
    if member.isdir():
        return replace(entry, type="dir")
    if member.issym():
        return replace(entry, type="symlink", target=member.linkname, mode=0o777)
    if member.isfifo():
        return replace(entry, type="fifo")
    if member.isdev():
        kind = "char" if member.ischr() else "block"
        return replace(entry, type=kind, device=(member.devmajor, member.devminor))
    assert member.isreg(), member
    content = archive.extractfile(member)
    assert content is not None
    digest, head = hashlib.sha256(), content.read(CONTENT_MAX + 1)
    digest.update(head)
    while piece := content.read(1 << 20):
        digest.update(piece)
    kept = head if len(head) <= CONTENT_MAX else None
    return replace(entry, size=member.size, sha256=digest.hexdigest(), content=kept)


def stack(layers: list[Path]) -> dict[str, Entry]:
    """Apply the layers, bottom first (image-spec, layer.md, "Applying Changesets")."""
    inodes: dict[str, tuple[int, Entry]] = {}
    count = 0
    for path in layers:
        layer = read_layer(path)
        for name in layer.opaque:
            _remove(inodes, beneath=name)
        for name in layer.removed:
            _remove(inodes, beneath=name)
            inodes.pop(name, None)
        for name, entry in layer.entries:
            if isinstance(entry, str):
                _remove(inodes, beneath=name)
                inodes[name] = inodes[entry]
                continue
            if entry.type != "dir":
                _remove(inodes, beneath=name)
            count += 1
            inodes[name] = (count, entry)
    return _with_links(inodes)


def _remove(inodes: dict[str, tuple[int, Entry]], *, beneath: str) -> None:
    prefix = f"{beneath}/" if beneath else ""
    for name in [name for name in inodes if name.startswith(prefix)]:
        del inodes[name]


def _with_links(inodes: dict[str, tuple[int, Entry]]) -> dict[str, Entry]:
    groups: dict[int, list[str]] = {}
    for name, (number, _) in inodes.items():
        groups.setdefault(number, []).append(name)
    return {
        name: replace(entry, links=min(group)) if len(group := groups[number]) > 1 else entry
        for name, (number, entry) in sorted(inodes.items())
    }


def scan(root: Path) -> dict[str, Entry]:
    """The tree of a real directory, as lstat and friends see it; the root itself left out."""
    import os

    inodes: dict[str, tuple[int, Entry]] = {}
    for path in _walk(root):
        info = path.lstat()
        entry = Entry(
            type=_TYPES[stat.S_IFMT(info.st_mode)],
            mode=0o777 if path.is_symlink() else stat.S_IMODE(info.st_mode),
            uid=info.st_uid,
            gid=info.st_gid,
            mtime=int(info.st_mtime),
            xattrs=tuple(
                (name, os.getxattr(path, name, follow_symlinks=False))
                for name in sorted(os.listxattr(path, follow_symlinks=False))
            ),
        )
        if entry.type == "file":
            content = path.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            kept = content if len(content) <= CONTENT_MAX else None
            entry = replace(entry, size=len(content), sha256=digest, content=kept)
        elif entry.type == "symlink":
            entry = replace(entry, target=str(path.readlink()))
        elif entry.type in ("char", "block"):
            entry = replace(entry, device=(os.major(info.st_rdev), os.minor(info.st_rdev)))
        number = -1 - len(inodes) if entry.type == "dir" else info.st_ino
        inodes[str(path.relative_to(root))] = (number, entry)
    return _with_links(inodes)


_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFSOCK: "socket",
}


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def difference(expected: Tree, actual: Tree) -> list[str]:
    """Readable lines: `- path` is missing, `+ path` is too much, `~ path: field` differs."""
    lines = [f"- {name}" for name in expected if name not in actual]
    lines += [f"+ {name} ({actual[name].type})" for name in actual if name not in expected]
    for name in expected:
        if name in actual and expected[name] != actual[name]:
            lines += [f"~ {name}: {text}" for text in _fields(expected[name], actual[name])]
    return lines


def _fields(expected: Entry, actual: Entry) -> Iterator[str]:
    for name in (
        "type",
        "mode",
        "uid",
        "gid",
        "size",
        "sha256",
        "target",
        "device",
        "xattrs",
        "links",
    ):
        wanted, got = getattr(expected, name), getattr(actual, name)
        if wanted != got:
            if name == "mode":
                wanted, got = oct(wanted), oct(got)
            yield f"{name} should be {wanted!r}, is {got!r}"
