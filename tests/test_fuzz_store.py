"""Fuzzing of what others wrote: layers, archives, documents, answers of registries, filters.

Nothing but their own errors come out, in bounded time; and a store that was given such things is
whole. How, and how to search longer: tests/support/fuzzing.py.
"""

import base64
import bz2
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zstandard

from builder.sandbox import SandboxError
from builder.sandbox.seccomp import compile_profile
from builder.sandbox.seccompprofile import parse as parse_profile
from layerstore import (
    Digest,
    Export,
    ImageConfig,
    Index,
    Manifest,
    PutFile,
    Reference,
    Store,
    StoreError,
    canonical_json,
    load_images,
    save_images,
    unpack,
)
from layerstore.compression import decompressor, detect
from layerstore.overlaydir import survey
from layerstore.registry import Bounds, RegistryClient, Settings, pull_image
from layerstore.registry.challenges import choose, parse_challenges
from layerstore.registry.credentials import CredentialStore
from layerstore.toc import load as load_toc
from tests.support import rawtar
from tests.support.fuzzing import Change, Target, changes, search
from tests.support.oddregistry import Asked, OddRegistry, Reply, odd_registry
from tests.support.stores import findings, make_image

PIECE = 64 << 10

# ---- layers

_PAX = [
    rawtar.pax({"path": "a/b", "mtime": "1.5", "uid": "3"}),
    rawtar.pax({"SCHILY.xattr.user.a": "b", "linkpath": "../../x", "size": "3"}),
    rawtar.pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1000"}),
    rawtar.pax({"GNU.sparse.map": "0,1,500,2", "GNU.sparse.size": "600"}),
    rawtar.pax({"comment": "x"}, kind=b"g"),
]
_LONG = [rawtar.entry("././@LongLink", b"n" * 200 + b"\0", kind=kind) for kind in (b"L", b"K")]
ENTRIES = [
    *(
        rawtar.entry("a", b"content"),
        rawtar.entry("d/", kind=b"5"),
        rawtar.entry("d/f", b"x" * 600),
    ),
    *(rawtar.header("l", kind=b"2", target="../../etc"), rawtar.header("h", kind=b"1", target="a")),
    *(rawtar.header("c", kind=b"3", device=(1, 3)), rawtar.header("p", kind=b"6")),
    *(rawtar.entry(".wh.a"), rawtar.entry("d/.wh..wh..opq"), rawtar.entry("l/x", b"through")),
    *(rawtar.entry("/abs", b"1"), rawtar.entry("../up", b"2"), rawtar.entry("./", kind=b"5")),
    rawtar.header("s", kind=b"S", size=10, fields={386: b"0".rjust(11, b"0") + b"\0" + b"12"}),
    *_PAX,
    *_LONG,
]
_FIELDS = ((0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (156, 1), (157, 100))
_MORE_FIELDS = ((257, 8), (329, 8), (337, 8), (345, 155), (386, 100), (482, 13))
_VALUES = [
    *(b"", b"\0", b"7" * 12, b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-1", b" 17 \0", b"9", b"0x10"),
    *(
        b"../",
        b"/",
        b"a/../../b",
        b".wh.",
        b".wh..",
        b".wh..wh..opq",
        b"a\0b",
        b"\xff\xfe",
        b"a" * 99,
    ),
    *(b"L", b"K", b"x", b"g", b"S", b"5", b"2", b"1", b"3", b"4", b"7", b"Z", b"ustar  \0"),
]


def changed_tar(data: bytes, dice: random.Random) -> bytes:
    """Entries come, go and lie; checksums stay right, for else nothing would look further."""
    blocks = bytearray(data)
    for _ in range(dice.randint(1, 5)):
        at = dice.randrange(0, len(blocks) + 1, rawtar.BLOCK)
        match dice.randint(0, 5):
            case 0:
                blocks[at:at] = dice.choice(ENTRIES)
            case 1:
                del blocks[at : at + rawtar.BLOCK * dice.randint(1, 3)]
            case 2 | 3:
                start, length = dice.choice(_FIELDS + _MORE_FIELDS)
                value = dice.choice(_VALUES)[:length]
                blocks[at + start : at + start + len(value)] = value
                _correct_checksum(blocks, at)
            case 4:
                end = at + dice.randint(0, rawtar.BLOCK)
                blocks[at:end] = dice.randbytes(end - at)
            case _:
                del blocks[dice.randint(0, len(blocks)) :]
    return bytes(blocks[:60_000])


def _correct_checksum(blocks: bytearray, at: int) -> None:
    block = blocks[at : at + rawtar.BLOCK]
    if len(block) == rawtar.BLOCK:
        blocks[at + 148 : at + 156] = b" " * 8
        total = sum(blocks[at : at + rawtar.BLOCK])
        blocks[at + 148 : at + 156] = b"%06o\0 " % total


LAYERS = [b"".join(random.Random(number).sample(ENTRIES, 6)) + rawtar.END for number in range(20)]


def read_layer(data: bytes) -> None:
    for is_layer in (True, False):
        try:
            for change in unpack(io.BytesIO(data), is_layer=is_layer):
                if isinstance(change, PutFile) and not isinstance(change.content, bytes):
                    assert sum(map(len, change.content())) == change.size_bytes
        except StoreError as error:
            assert_told(error)


def survey_layer(data: bytes) -> None:
    """The same in the form in which it would lie on disk."""
    try:
        entries = survey(unpack(io.BytesIO(data)))
    except StoreError as error:
        assert_told(error)
        return
    for entry in entries:
        assert not any(part in ("..", ".", "") for part in entry.path.split("/")) or not entry.path


def assert_told(error: StoreError) -> None:
    assert str(error)
    assert len(str(error)) + len(error.hint) < 5000


# ---- compressed

PLAIN = b"".join(LAYERS[:3])
COMPRESSED = [
    *(gzip.compress(PLAIN), gzip.compress(PLAIN[:9]) * 3, gzip.compress(b"")),
    *(zstandard.compress(PLAIN), zstandard.compress(b"x" * 100_000), zstandard.compress(b"")),
    *(bz2.compress(PLAIN), lzma.compress(PLAIN)),
]
_MAGIC = [data[:6] for data in COMPRESSED] + [b"\x50\x2a\x4d\x18\xff\xff\xff\xff", b"\0" * 40]


def read_compressed(data: bytes) -> None:
    kind = detect(data[:6])
    if kind is None:
        return
    reader = decompressor(kind, io.BytesIO(data))
    total = 0
    try:
        while piece := reader.read(PIECE):
            total += len(piece)
            assert len(piece) <= 2 * PIECE
            if total > 64 << 20:  # a bomb: whoever reads stops at the announced size
                return
    except StoreError as error:
        assert_told(error)


# ---- documents

_DIGEST = "sha256:" + "ab" * 32
_DESCRIPTOR = {
    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
    "digest": _DIGEST,
    "size": 100,
    "annotations": {"a": "b"},
    "urls": ["http://x/"],
    "data": base64.b64encode(b"{}").decode(),
    "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"},
}
DOCUMENTS = [
    canonical_json(document)
    for document in (
        {"schemaVersion": 2, "config": _DESCRIPTOR, "layers": [_DESCRIPTOR], "annotations": {}},
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [_DESCRIPTOR, _DESCRIPTOR],
        },
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-05-06T07:08:09.5Z",
            "config": {
                "User": "1:2",
                "ExposedPorts": {"80/tcp": {}},
                "Env": ["A=1"],
                "Cmd": ["x"],
                "Volumes": {"/v": {}},
                "Labels": {"a": "b"},
                "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1},
                "StopSignal": "9",
            },
            "rootfs": {"type": "layers", "diff_ids": [_DIGEST]},
            "history": [
                {"created": "2024-05-06T07:08:09Z", "created_by": "x", "empty_layer": True}
            ],
        },
    )
]
_JSON_TOKENS = [
    *(b"null", b"true", b"-1", b"1e999", b"1.5", b"9" * 30, b"9" * 5000, b'""', b"[]", b"{}", b"["),
    *(b"]", b"{", b"}", b",", b":", b'"', b'"\\ud800"', b'"\\u0000"', b"\xff", b"\\", b'"../../x"'),
    *(
        b'"schemaVersion":2',
        b'"layers":[]',
        b'"manifests":[]',
        b'"digest":"sha256:x"',
        b'"size":-1',
    ),
    *(b"[" * 2000, b'{"a":' * 500, b"NaN", b"\xef\xbb\xbf", b'"config":', b'"A":1,"A":1,'),
]


def read_document(data: bytes) -> None:
    for parse in (Manifest.parse, Index.parse, ImageConfig.parse):
        try:
            document = parse(data)
        except StoreError as error:
            assert_told(error)
            continue
        assert document.encode() == type(document).parse(document.encode()).encode()


def read_table(data: bytes) -> None:
    """A table of contents of the store, which a failing disk may change."""
    try:
        load_toc(data)
    except StoreError as error:
        assert_told(error)


TABLES = [b"1\n", *DOCUMENTS]


def read_reference(data: bytes) -> None:
    try:
        found = Reference.parse(data.decode("utf-8", "surrogateescape"))
    except StoreError as error:
        assert_told(error)
        return
    assert Reference.parse(str(found)) == found


REFERENCES = [
    *(b"a", b"a:1", b"localhost:5000/a/b:c", f"a@{_DIGEST}".encode(), b"[::1]:5000/a", b"A/b"),
    *(b"example.com/a__b/c--d:v1.2_x", b"docker.io/library/a"),
]
_NAME_TOKENS = [
    b":",
    b"/",
    b"@",
    b".",
    b"-",
    b"_",
    b"//",
    b"sha256:",
    b"\n",
    b"\0",
    b"A",
    b"a" * 300,
]


# ---- registries


def read_challenge(data: bytes) -> None:
    text = data.decode("latin-1")
    found = parse_challenges([text, text[::-1]])
    choose(found)
    assert all(each.scheme == each.scheme.lower() for each in found)


CHALLENGES = [
    *(b'Bearer realm="https://a/token",service="a",scope="repository:b:pull,push"', b"Basic"),
    *(b'Basic realm="a \\" b", charset=UTF-8, Bearer realm=x', b"Negotiate abc==, Basic realm=x"),
]
_CHALLENGE_TOKENS = [b'"', b"\\", b",", b"=", b" ", b"Bearer ", b"realm=", b"\\\\" * 50, b'="' * 50]

CREDENTIALS = [
    json.dumps(document).encode()
    for document in (
        {"auths": {"a.example": {"auth": base64.b64encode(b"me:pw").decode()}}},
        {"auths": {"https://a.example/v1/": {"username": "me", "password": "pw"}}},
        {"auths": {"a.example": {"identitytoken": "t"}}, "HttpHeaders": {"X": "y"}},
    )
]


# ---- filters


def read_filter(data: bytes) -> None:
    """A seccomp profile: refused in words, or a program that the kernel would take."""
    rights = frozenset({"CAP_CHOWN"})
    try:
        text = data.decode("utf-8", "surrogateescape")
        profile = parse_profile(text, capabilities=rights, machine="x86_64", kernel=(6, 1))
        program = compile_profile(profile, "x86_64")
    except SandboxError as error:
        assert str(error)
        return
    assert 0 < len(program) // 8 <= 4096


FILTERS = [
    json.dumps(document).encode()
    for document in (
        {"defaultAction": "SCMP_ACT_ALLOW"},
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}
            ],
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                {
                    "name": "socket",
                    "action": "SCMP_ACT_ERRNO",
                    "errnoRet": 1,
                    "args": [{"index": 0, "value": 40, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}],
                    "includes": {"caps": ["CAP_CHOWN"], "minKernel": "4.8"},
                    "excludes": {"arches": ["arm64"]},
                },
            ],
        },
    )
]
_FILTER_TOKENS = [
    *(
        b'"SCMP_ACT_KILL"',
        b'"SCMP_CMP_GT"',
        b'"SCMP_CMP_NE"',
        b'"index":6',
        b'"value":-1',
        b"[null]",
    ),
    *(b'"minKernel":"x"', b'"flags":["SECCOMP_FILTER_FLAG_LOG"]', b'"names":[', b'"clone"', b"1e9"),
    *(
        b'"listenerPath":"x"',
        b'"args":[{}]',
        b'"errnoRet":5000',
        b'"architectures":["SCMP_ARCH_X86"]',
    ),
]


@pytest.mark.parametrize(
    ("target", "texts", "change"),
    [
        pytest.param(read_layer, LAYERS, changed_tar, id="layer"),
        pytest.param(survey_layer, LAYERS, changed_tar, id="layer-on-disk"),
        pytest.param(read_compressed, COMPRESSED, changes(COMPRESSED, _MAGIC), id="compressed"),
        pytest.param(read_document, DOCUMENTS, changes(DOCUMENTS, _JSON_TOKENS), id="documents"),
        pytest.param(
            read_filter, FILTERS, changes(FILTERS, [*_JSON_TOKENS, *_FILTER_TOKENS]), id="seccomp"
        ),
        pytest.param(read_table, TABLES, changes(TABLES, _JSON_TOKENS), id="table"),
        pytest.param(read_reference, REFERENCES, changes(REFERENCES, _NAME_TOKENS), id="names"),
        pytest.param(
            read_challenge, CHALLENGES, changes(CHALLENGES, _CHALLENGE_TOKENS), id="challenges"
        ),
    ],
)
def test_nothing_but_its_own_errors_comes_out(
    target: Target, texts: list[bytes], change: Change
) -> None:
    search(target, texts, change)


def test_files_with_credentials(tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    environment = {"HOME": str(tmp_path), "PATH": ""}

    def read_credentials(data: bytes) -> None:
        file.write_bytes(data)
        try:
            CredentialStore(environment, file).find("a.example", "b/c")
        except StoreError as error:
            assert_told(error)
            assert "pw" not in str(error)

    search(read_credentials, CREDENTIALS, changes(CREDENTIALS, _JSON_TOKENS))


# ---- whole archives


def archives(root: Path) -> list[bytes]:
    """An image in every format."""
    with Store.open(root) as store:
        image = make_image(store, "a:1", {"f": b"x"}, {"d/g": b"y" * 700})
        export = Export(image=image, names=(Reference.parse("a:1"),))
        found = []
        for format in ("docker", "oci-archive", "docker-archive"):
            target = io.BytesIO()
            save_images(store, [export], target, format=format)
            found.append(target.getvalue())
    return found


def changed_archive(members: list[bytes]) -> Change:
    """Changes in the documents of an archive, and of the tar around them."""
    in_text = changes(members, _JSON_TOKENS)

    def change(data: bytes, dice: random.Random) -> bytes:
        if dice.random() < 0.4:
            return changed_tar(data, dice)
        entries = list(_entries(data))
        at = dice.randrange(len(entries))
        head, content = entries[at]
        content = in_text(content, dice) if dice.random() < 0.8 else dice.choice(entries)[1]
        block = bytearray(head)
        block[124:136] = b"%011o\0" % len(content)
        _correct_checksum(block, 0)
        entries[at] = (bytes(block), content)
        if dice.random() < 0.1:
            dice.shuffle(entries)
        return b"".join(head + rawtar.padded(content) for head, content in entries) + rawtar.END

    return change


def _entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Headers and contents, as far as they make sense."""
    at = 0
    while at + rawtar.BLOCK <= len(data):
        head = data[at : at + rawtar.BLOCK]
        at += rawtar.BLOCK
        digits = head[124:135].strip(b"\0 ")
        size = int(digits, 8) if digits.isdigit() and not set(digits) & set(b"89") else 0
        yield head, data[at : at + size]
        at += size + -size % rawtar.BLOCK
    if at == 0:
        yield rawtar.header("x"), b""


def test_archives_of_images(tmp_path: Path) -> None:
    """Whatever is loaded, the store stays whole, and what is named can be read."""
    texts = archives(tmp_path / "source")
    loaded = 0
    with Store.open(tmp_path / "store") as store:

        def load_archive(data: bytes) -> None:
            nonlocal loaded
            try:
                loaded += len(load_images(store, io.BytesIO(data)))
            except StoreError as error:
                assert_told(error)

        search(load_archive, texts, changed_archive(DOCUMENTS), count_min=20)
        store.flush()
        assert loaded > 0
        assert findings(store) == []


# ---- registries that answer anything

QUICK = Bounds(
    connect_timeout_s=1,
    idle_timeout_s=0.3,
    document_s=0.5,
    window_s=0.3,
    backoff_s=0.001,
    retry_after_max_s=0.01,
    waits_max_s=0.1,
)


def test_answers_of_registries(tmp_path: Path) -> None:
    """Statuses, headers and bodies of a pull, each of them changed at random."""
    dice = random.Random("answers")
    in_text = changes(DOCUMENTS, _JSON_TOKENS)
    layer = rawtar.entry("hello", b"hello") + rawtar.END

    def oddly(answer: Callable[[], Reply]) -> Reply:
        reply = answer()
        if dice.random() < 0.6:
            return reply
        status = dice.choice((200, 200, 200, 204, 206, 301, 307, 401, 404, 416, 429, 500, 503))
        headers = dict(reply.headers)
        if dice.random() < 0.5:
            name = dice.choice(("Location", "Content-Type", "Docker-Content-Digest", "Retry-After"))
            value = in_text(dice.choice(CHALLENGES), dice).decode("latin-1")
            headers[name] = "".join(char for char in value if char.isprintable())[:200]
        if status == 401:
            headers["WWW-Authenticate"] = "Basic" if dice.random() < 0.5 else "Bearer realm=x"
        content = in_text(reply.content, dice) if dice.random() < 0.6 else reply.content
        length = dice.choice((None, None, None, 0, len(content) + 5, 1 << 50))
        return Reply(content, status, headers, length)

    with ExitStack() as cleanup:
        odd = cleanup.enter_context(odd_registry())
        _serve(odd, layer, oddly)
        store = cleanup.enter_context(Store.open(tmp_path / "store"))
        environment = {"HOME": str(tmp_path), "PATH": ""}
        settings = Settings(bounds=QUICK, retries=1, tls_verify=False, environment=environment)
        pulled = 0

        def pull(data: bytes) -> None:
            nonlocal pulled
            with RegistryClient(settings) as client:
                try:
                    pull_image(client, store, Reference.parse(f"{odd.address}/a:1"))
                    pulled += 1
                except StoreError as error:
                    assert_told(error)

        search(pull, [b""], lambda data, dice: data, count_min=10)
        store.flush()
        assert pulled > 0
        assert findings(store) == []


def _serve(odd: OddRegistry, layer: bytes, oddly: Callable[[Callable[[], Reply]], Reply]) -> None:
    """An image, each of whose answers goes through `oddly`."""
    odd.add_image("a", "1", [(layer, Digest.of(layer))])
    for line, reply in list(odd.replies.items()):
        assert isinstance(reply, Reply)
        odd.replies[line] = _changed(reply, oddly)


def _changed(
    reply: Reply, oddly: Callable[[Callable[[], Reply]], Reply]
) -> Callable[[Asked], Reply]:
    return lambda _: oddly(lambda: reply)
