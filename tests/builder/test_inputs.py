"""What a build is given: context, Dockerfile, ignore file; and parsing only once."""

import bz2
import gzip
import io
import lzma
import os
import pickle
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from zstandard import compress as zstd_compress

import grammar
from builder.errors import BuilderError, ContextError
from builder.inputs import DOCKERFILE_MAX_BYTES, Inputs, parse_remembered, read_beside, read_inputs
from builder.remote import Remotes
from grammar import DockerfileError, fingerprint, parse
from layerstore import Digest, Store, TreePath
from tests.support.servers import Page, Repository, make_tar, serve, serve_git
from tests.support.sources import Dir, Items, write_files

TEXT = b"FROM scratch\n"


def inputs_of(
    tmp_path: Path, items: Items, *, path: str = ".", file: str | None = None, stdin: bytes = b""
) -> Inputs:
    write_files(tmp_path, items)
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        with Store.open(tmp_path / "store") as store, ExitStack() as cleanup:
            found = read_inputs(path, file, io.BytesIO(stdin), lambda: Remotes(store, cleanup))
            if isinstance(found.context, Path | None):
                return found
            listed = found.context.children(TreePath(""))
            return replace(found, context=Path(*listed))  # the tree itself is closed from here on
    finally:
        os.chdir(before)


# Which Dockerfile.


def test_the_dockerfile_is_in_the_context(tmp_path: Path) -> None:
    found = inputs_of(tmp_path, {"app/Dockerfile": TEXT}, path="app")
    assert found == Inputs(name="app/Dockerfile", text=TEXT, context=Path("app"), ignore_file=None)


def test_a_containerfile_will_do_where_there_is_no_dockerfile(tmp_path: Path) -> None:
    assert inputs_of(tmp_path, {"Containerfile": TEXT}).name == "Containerfile"
    assert inputs_of(tmp_path, {"Dockerfile": b"FROM x\n"}).name == "Dockerfile"


def test_a_file_is_named_from_the_working_directory_or_else_from_the_context(
    tmp_path: Path,
) -> None:
    items: Items = {"other": b"FROM a\n", "app/other": b"FROM b\n", "app/inner": b"FROM c\n"}
    assert inputs_of(tmp_path, items, path="app", file="other").text == b"FROM a\n"
    assert inputs_of(tmp_path, items, path="app", file="inner").text == b"FROM c\n"
    assert inputs_of(tmp_path, items, path="app", file="app/other").text == b"FROM b\n"
    absolute = str(tmp_path / "app" / "other")
    assert inputs_of(tmp_path, items, path="app", file=absolute).text == b"FROM b\n"


def test_standard_input_may_be_the_dockerfile(tmp_path: Path) -> None:
    found = inputs_of(tmp_path, {".dockerignore": b"x\n"}, file="-", stdin=TEXT)
    assert found == Inputs(name="-", text=TEXT, context=Path(), ignore_file=b"x\n")


def test_standard_input_alone_means_that_there_is_no_context(tmp_path: Path) -> None:
    for file in (None, "-"):
        found = inputs_of(tmp_path, {"Dockerfile": b"FROM x\n"}, path="-", file=file, stdin=TEXT)
        assert found == Inputs(name="-", text=TEXT, context=None, ignore_file=None)


# Which ignore file.


def test_the_ignore_file_is_in_the_context_or_beside_the_dockerfile(tmp_path: Path) -> None:
    items: Items = {"Dockerfile": TEXT, "build/df": TEXT, ".dockerignore": b"context\n"}
    assert inputs_of(tmp_path, items).ignore_file == b"context\n"
    assert inputs_of(tmp_path, items, file="build/df").ignore_file == b"context\n"
    beside: Items = {"build/df.dockerignore": b"beside\n"}
    assert inputs_of(tmp_path, beside, file="build/df").ignore_file == b"beside\n"
    assert inputs_of(tmp_path, {}).ignore_file == b"context\n"


def test_an_empty_ignore_file_beside_the_dockerfile_hides_the_other(tmp_path: Path) -> None:
    items: Items = {"Dockerfile": TEXT, "Dockerfile.dockerignore": b"", ".dockerignore": b"x\n"}
    assert inputs_of(tmp_path, items).ignore_file == b""


# What goes wrong.


@pytest.mark.parametrize(
    ("items", "path", "file", "said"),
    [
        ({}, ".", None, "no Dockerfile in"),
        ({}, "absent", None, "'absent' does not exist"),
        ({"f": TEXT}, "f", None, "'f' is not a directory"),
        ({}, ".", "absent", "cannot read the Dockerfile 'absent'"),
        ({"d": Dir()}, ".", "d", "cannot read the Dockerfile 'd'"),
        ({}, "ftp://me:pw@h/x", None, "unsupported context source ftp: ftp://xxxxx@h/x"),
        ({}, "file:///x.git", None, "unsupported context source file"),
        ({"f": TEXT}, "-", "f", "it is the Dockerfile, and -f names another"),
        ({"Dockerfile": TEXT, ".dockerignore": Dir()}, ".", None, "cannot read '.dockerignore'"),
    ],
)
def test_what_cannot_be_found_is_an_error_that_names_it(
    tmp_path: Path, items: Items, path: str, file: str | None, said: str
) -> None:
    with pytest.raises(ContextError, match=said):
        inputs_of(tmp_path, items, path=path, file=file)


def test_a_containerignore_will_do_where_there_is_no_dockerignore(tmp_path: Path) -> None:
    items: Items = {"Dockerfile": TEXT, ".containerignore": b"podman\n"}
    assert inputs_of(tmp_path, items).ignore_file == b"podman\n"
    beside: Items = {"Dockerfile.containerignore": b"beside\n"}
    assert inputs_of(tmp_path, beside).ignore_file == b"beside\n"
    assert inputs_of(tmp_path, {".dockerignore": b"x\n"}).ignore_file == b"beside\n"


# Archives on standard input.


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd_compress,
}


def packed(items: Items, compression: str = "") -> bytes:
    """An archive of files, by another program's hand."""
    data = make_tar(
        {name: content for name, content in items.items() if isinstance(content, bytes)}
    )
    return COMPRESS[compression](data) if compression else data


CONTEXT: Items = {"Dockerfile": TEXT, "a": b"1", "sub/other": b"FROM b\n", ".dockerignore": b"a\n"}


@pytest.mark.parametrize("compression", ["", *COMPRESS])
def test_an_archive_on_standard_input_is_the_context(tmp_path: Path, compression: str) -> None:
    found = inputs_of(tmp_path, {}, path="-", stdin=packed(CONTEXT, compression))
    assert (found.name, found.text) == ("Dockerfile", TEXT)
    assert found.context == Path(".dockerignore", "Dockerfile", "a", "sub")
    assert found.ignore_file is None  # as in BuildKit: ignore files are for directories


def test_the_dockerfile_is_named_inside_an_archive(tmp_path: Path) -> None:
    found = inputs_of(tmp_path, {}, path="-", file="sub/other", stdin=packed(CONTEXT))
    assert (found.name, found.text) == ("sub/other", b"FROM b\n")


@pytest.mark.parametrize(
    ("items", "file", "said", "hint"),
    [
        (CONTEXT, "sub/othr", "'sub/othr': not in the build context", "sub/other"),
        ({"a": b""}, None, "no Dockerfile in the build context", "-f"),
        (CONTEXT, "-", "can't use stdin for both", ""),
        ({"../Dockerfile": TEXT}, None, "leaves the root", ""),
        ({"a/.wh.b": b""}, None, "whiteout", ""),
    ],
)
def test_what_is_wrong_with_an_archive_is_an_error_that_says_it(
    tmp_path: Path, items: Items, file: str | None, said: str, hint: str
) -> None:
    with pytest.raises(ContextError, match=said) as caught:
        inputs_of(tmp_path, {}, path="-", file=file, stdin=packed(items))
    assert hint in caught.value.hint


def test_a_damaged_archive_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    large = packed({"large": os.urandom(3 << 20)}, "gz")
    with pytest.raises(ContextError, match="the build context"):
        inputs_of(tmp_path, {}, path="-", stdin=large[: len(large) // 2])
    assert list((tmp_path / "store/lamina/tmp").iterdir()) == []


# URLs.


def test_a_url_of_an_archive_is_the_context(tmp_path: Path) -> None:
    with serve({"/c.tar.gz": Page(packed(CONTEXT, "gz"))}) as server:
        found = inputs_of(tmp_path, {}, path=f"{server.url}/c.tar.gz", file="sub/other")
    assert (found.name, found.text) == ("sub/other", b"FROM b\n")
    assert found.context == Path(".dockerignore", "Dockerfile", "a", "sub")


def test_a_url_of_something_else_is_the_dockerfile_and_the_context_that_alone(
    tmp_path: Path,
) -> None:
    with serve({"/df": Page(TEXT)}) as server:
        address = server.url.replace("//", "//me:secret@")
        found = inputs_of(tmp_path, {}, path=f"{address}/df")
        assert found.text == TEXT
        assert found.context == Path("context")
        assert found.name == f"{server.url.replace('//', '//xxxxx@')}/df"
        with pytest.raises(ContextError, match="no archive") as caught:
            inputs_of(tmp_path, {}, path=f"{address}/df", file="x")
    assert "secret" not in str(caught.value)


def test_the_dockerfile_alone_may_be_at_a_url(tmp_path: Path) -> None:
    with serve({"/df": Page(TEXT)}) as server:
        found = inputs_of(tmp_path, {"app/a": b""}, path="app", file=f"{server.url}/df")
    assert (found.text, found.context) == (TEXT, Path("app"))


@pytest.mark.needs_git
def test_a_repository_is_the_context(tmp_path: Path) -> None:
    repository = Repository.make(tmp_path / "served/x.git")
    work = write_files(tmp_path / "work", {"Dockerfile": TEXT, "sub/Dockerfile": b"FROM b\n"})
    repository.commit(work)
    with serve_git(tmp_path / "served") as address:
        whole = inputs_of(tmp_path, {}, path=f"{address}/x.git")
        assert (whole.text, whole.context) == (TEXT, Path("Dockerfile", "sub"))
        below = inputs_of(tmp_path, {}, path=f"{address}/x.git#main:sub")
        assert (below.text, below.context) == (b"FROM b\n", Path("Dockerfile"))
        kept = inputs_of(tmp_path, {}, path=f"{address}/x.git?keep-git-dir=1")
        assert kept.context == Path(".git", "Dockerfile", "sub")


def test_a_dockerfile_has_a_bounded_size(tmp_path: Path) -> None:
    large = b"#" * (DOCKERFILE_MAX_BYTES + 1)
    for given in ({"file": None, "stdin": b""}, {"file": "-", "stdin": large}):
        with pytest.raises(BuilderError, match="larger than 16 MiB"):
            inputs_of(tmp_path, {"Dockerfile": large}, **given)


# Parsing once.


def inputs(text: bytes, name: str = "Dockerfile") -> Inputs:
    return Inputs(name=name, text=text, context=None, ignore_file=None)


FULL = b"""# escape=`
ARG A=1
FROM scratch AS build
RUN --mount=type=cache,target=/c <<EOF
echo
EOF
COPY --from=build --chown=1 a b /c/
HEALTHCHECK --interval=5s CMD true
ONBUILD RUN ["a", "\\u00e9"]
FROM build
"""


def test_a_remembered_tree_is_the_same_tree(store: Store) -> None:
    first = parse_remembered(inputs(FULL), store.cache)
    again = parse_remembered(inputs(FULL), store.cache)
    assert first == again == parse(FULL, name="Dockerfile")
    assert first is not again


def test_a_dockerfile_whose_path_is_not_utf_8_is_remembered(store: Store) -> None:
    odd = replace(inputs(FULL), name="/home/\udcff/Dockerfile")
    first = parse_remembered(odd, store.cache)
    assert first == parse_remembered(odd, store.cache)
    assert first.source.name == odd.name


def test_a_remembered_text_is_not_parsed_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse_remembered(inputs(FULL), store.cache)

    def not_again(*_: object, **__: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(grammar, "parse", not_again)
    parse_remembered(inputs(FULL), store.cache)
    for other in (inputs(FULL + b"\n"), inputs(FULL, name="other")):
        with pytest.raises(AssertionError, match="parsed again"):
            parse_remembered(other, store.cache)


def test_a_text_with_a_password_is_not_remembered(store: Store, tmp_path: Path) -> None:
    for number, address in enumerate((b"http://me:secret@h", b"http://h")):
        text = b"FROM scratch\nADD %s/found-again /\n" % address
        parse_remembered(inputs(text), store.cache)
        store.flush()
        kept = [path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()]
        assert any(b"found-again" in data for data in kept) == bool(number)


def test_the_name_in_messages_is_part_of_what_is_remembered(store: Store) -> None:
    assert parse_remembered(inputs(TEXT, "a"), store.cache).source.name == "a"
    assert parse_remembered(inputs(TEXT, "b"), store.cache).source.name == "b"


def test_a_text_that_is_refused_is_refused_every_time(store: Store) -> None:
    for _ in range(2):
        with pytest.raises(DockerfileError):
            parse_remembered(inputs(b"FROM\n"), store.cache)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("/tmp/lamina-evil-pickle",))


@pytest.mark.parametrize(
    "kept",
    [
        b"",
        b"garbage",
        pickle.dumps({"a": 1}),
        pickle.dumps(Evil()),
        pickle.dumps(Path("x")),
        pickle.dumps(parse(TEXT))[:-20],
        pickle.dumps(parse(TEXT).stages[0]),
    ],
    ids=["empty", "garbage", "dict", "evil", "class", "cut", "node"],
)
def test_what_is_remembered_can_only_be_a_tree(store: Store, kept: bytes) -> None:
    """The store is private, and damage is still no reason to believe it, or to fail."""
    given = inputs(TEXT)
    key = Digest.of(f"{fingerprint()}\0{given.name}\0".encode() + given.text)
    store.cache.put_memo("parsed", key, kept)
    assert parse_remembered(given, store.cache) == parse(TEXT, name="Dockerfile")
    assert not Path("/tmp/lamina-evil-pickle").exists()


# A Dockerfile alone.


def test_a_dockerfile_alone_has_no_context_and_the_ignore_file_beside_it(tmp_path: Path) -> None:
    write_files(tmp_path, {"d/My.file": TEXT, "d/.dockerignore": b"a\n"})
    found = read_beside(tmp_path / "d/My.file")
    assert found.name == str(tmp_path / "d/My.file")
    assert (found.text, found.context, found.ignore_file) == (TEXT, None, b"a\n")
    write_files(tmp_path, {"d/My.file.dockerignore": b"b\n"})
    assert read_beside(tmp_path / "d/My.file").ignore_file == b"b\n"


def test_a_dockerfile_alone_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContextError, match="cannot read the Dockerfile"):
        read_beside(tmp_path / "nope")
