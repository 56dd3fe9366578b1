"""What a build is given: context, Dockerfile, ignore file; and parsing only once."""

import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

import grammar
from builder.errors import BuilderError, ContextError, UnsupportedFeatureError
from builder.inputs import DOCKERFILE_MAX_BYTES, Inputs, parse_remembered, read_beside, read_inputs
from grammar import DockerfileError, fingerprint, parse
from layerstore import Digest, Store
from tests.support.sources import Dir, Items, write_files

TEXT = b"FROM scratch\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        yield store


def inputs_of(
    tmp_path: Path, items: Items, *, path: str = ".", file: str | None = None, stdin: bytes = b""
) -> Inputs:
    write_files(tmp_path, items)
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        return read_inputs(path, file, io.BytesIO(stdin))
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
        ({"f": TEXT}, "-", "f", "cannot be standard input when -f names a file"),
        ({"Dockerfile": TEXT, ".dockerignore": Dir()}, ".", None, "cannot read '.dockerignore'"),
    ],
)
def test_what_cannot_be_found_is_an_error_that_names_it(
    tmp_path: Path, items: Items, path: str, file: str | None, said: str
) -> None:
    with pytest.raises(ContextError, match=said):
        inputs_of(tmp_path, items, path=path, file=file)


@pytest.mark.parametrize(
    "path", ["https://example.org/x.git", "git@example.org:x.git", "github.com/x/y", "SSH://x/y"]
)
def test_remote_contexts_are_refused_by_name(tmp_path: Path, path: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match="remote build context"):
        inputs_of(tmp_path, {}, path=path)


def test_a_context_as_a_tar_on_standard_input_is_refused_by_name(tmp_path: Path) -> None:
    for data in (b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\0" * 257 + b"ustar\0"):
        with pytest.raises(UnsupportedFeatureError, match="tar archive on standard input"):
            inputs_of(tmp_path, {}, path="-", stdin=data)


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
