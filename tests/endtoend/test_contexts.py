"""Contexts of every kind, remote sources and platforms, as typed on a command line."""

import gzip
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import host_platform
from tests.support.cli import Lamina
from tests.support.imagetree import OciLayout
from tests.support.servers import Page, Repository, make_tar, serve, serve_git
from tests.support.sources import write_files

DOCKERFILE = b"FROM scratch\nCOPY . /c/\n"


def files_of(lamina: Lamina, name: str = "it") -> set[str]:
    tree = OciLayout(lamina.root).tree(f"{name}:latest")
    return {path for path, entry in tree.items() if entry.type != "dir"}


def nothing_is_left(lamina: Lamina) -> bool:
    lamina("images")  # the next command removes what a killed one left
    return list((lamina.root / "lamina/tmp").iterdir()) == []


def error_of(lamina: Lamina, *args: str | Path, stdin: bytes = b"", code: int = 1) -> str:
    """The only line that a command that fails writes, besides progress."""
    done = lamina(*args, stdin=stdin, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("lamina: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.make(tmp_path / "served/x.git")
    work = {"Dockerfile": DOCKERFILE, "d/Dockerfile": DOCKERFILE, "d/f": b"1"}
    made.commit(write_files(tmp_path / "work", work))
    return made


@pytest.fixture
def address(repository: Repository) -> Iterator[str]:
    with serve_git(repository.path.parent) as address:
        yield f"{address}/x.git"


# Contexts.


def test_an_archive_is_given_on_standard_input(lamina: Lamina) -> None:
    data = gzip.compress(
        make_tar({"Dockerfile": DOCKERFILE, "df": b"FROM scratch\nCOPY a /\n", "a": b""})
    )
    lamina("build", "-t", "it", "-", stdin=data)
    assert files_of(lamina) == {"c/Dockerfile", "c/df", "c/a"}
    lamina("build", "-t", "it", "-f", "df", "-", stdin=data)
    assert files_of(lamina) == {"a"}
    assert nothing_is_left(lamina)


def test_the_same_archive_is_cached_and_gives_the_same_image(lamina: Lamina) -> None:
    data = make_tar({"Dockerfile": DOCKERFILE, "a": b"1"})
    first = lamina("build", "-q", "-", stdin=data).stdout
    second = lamina("build", "--progress=plain", "-", stdin=gzip.compress(data))
    assert "CACHED" in second.stderr
    assert lamina("build", "-q", "-", stdin=data).stdout == first


def test_a_dockerfile_is_given_on_standard_input(lamina: Lamina, context: Path) -> None:
    lamina("build", "-t", "it", "-", stdin=b"FROM scratch\nCOPY <<EOF /x\nEOF\n")
    assert files_of(lamina) == {"x"}
    (context / "a").write_text("")
    lamina("build", "-t", "it", "-f", "-", context, stdin=DOCKERFILE)
    assert files_of(lamina) == {"c/a"}
    assert "no build context" in error_of(lamina, "build", "-", stdin=DOCKERFILE)


def test_a_hostile_archive_writes_nothing_anywhere(lamina: Lamina, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    name = "../" * 20 + str(victim).lstrip("/")
    data = make_tar({"Dockerfile": DOCKERFILE, name: b"x"})
    assert "leaves the root" in error_of(lamina, "build", "-", stdin=data)
    assert not victim.exists()
    assert nothing_is_left(lamina)


@pytest.mark.needs_git
def test_a_repository_is_a_context(lamina: Lamina, address: str) -> None:
    lamina("build", "-t", "it", address)
    assert files_of(lamina) == {"c/Dockerfile", "c/d/Dockerfile", "c/d/f"}
    lamina("build", "-t", "it", f"{address}#main:d")
    assert files_of(lamina) == {"c/Dockerfile", "c/f"}
    lamina("build", "-t", "it", "-f", "d/Dockerfile", f"{address}?branch=main")
    assert files_of(lamina) == {"c/Dockerfile", "c/d/Dockerfile", "c/d/f"}
    lamina("build", "-t", "it", "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", address)
    assert "c/.git/HEAD" in files_of(lamina)
    assert nothing_is_left(lamina)


@pytest.mark.needs_git
def test_what_is_wrong_with_a_repository_is_said_in_one_line(lamina: Lamina, address: str) -> None:
    assert "does not contain ref nope" in error_of(lamina, "build", f"{address}#nope")
    assert "no directory 'nope'" in error_of(lamina, "build", f"{address}#main:nope")
    assert "query 'nope'" in error_of(lamina, "build", f"{address}?nope=1")
    secret = address.replace("//", "//me:secret@").replace("x.git", "y.git")
    assert "xxxxx@" in (said := error_of(lamina, "build", secret))
    assert "secret" not in said
    assert nothing_is_left(lamina)


def test_without_git_a_repository_is_an_error_that_names_it(lamina: Lamina, tmp_path: Path) -> None:
    bare = Lamina(root=lamina.root, env={"PATH": str(tmp_path)})
    assert "no git on this machine" in error_of(bare, "build", "http://h.invalid/x.git")


def test_a_url_is_a_context(lamina: Lamina) -> None:
    pages = {
        "/c.tgz": Page(gzip.compress(make_tar({"Dockerfile": DOCKERFILE, "a": b""}))),
        "/Dockerfile": Page(b"FROM scratch\nCOPY context /df\n"),
    }
    with serve(pages) as server:
        lamina("build", "-t", "it", f"{server.url}/c.tgz")
        assert files_of(lamina) == {"c/Dockerfile", "c/a"}
        lamina("build", "-t", "it", f"{server.url}/Dockerfile")
        assert files_of(lamina) == {"df"}
        assert "status 404" in error_of(lamina, "build", f"{server.url}/absent")


def test_named_contexts_are_directories_images_and_layouts(
    lamina: Lamina, context: Path, tmp_path: Path
) -> None:
    write_files(context, {"Dockerfile": b"FROM base\nCOPY --from=other . /o/\n", "mine": b""})
    named = write_files(tmp_path / "named", {"n": b"", "skip": b"", ".dockerignore": b"skip\n"})
    lamina("build", "-t", "it", *contexts(base=named, other=named), context)
    assert files_of(lamina) == {".dockerignore", "n", "o/.dockerignore", "o/n"}
    given = contexts(base="docker-image://scratch", other="docker-image://it")
    lamina("build", "-t", "two", *given, context)
    assert files_of(lamina, "two") == {f"o/{path}" for path in files_of(lamina)}
    fresh = Lamina(root=tmp_path / "fresh")
    layout = f"oci-layout://{lamina.root}:two"  # a store is a layout too
    given = contexts(base="docker-image://scratch", other=layout)
    fresh("build", "-t", "three", *given, context)
    assert files_of(fresh, "three") == {f"o/{path}" for path in files_of(lamina, "two")}


def contexts(**named: str | Path) -> list[str]:
    return [
        word for name, value in named.items() for word in ("--build-context", f"{name}={value}")
    ]


@pytest.mark.parametrize("value", ["", "x", "x=", "=x"])
def test_a_named_context_has_a_name_and_a_value(lamina: Lamina, context: Path, value: str) -> None:
    said = error_of(lamina, "build", "--build-context", value, context, code=125)
    assert "invalid argument" in said


# ADD.


def test_add_fetches_once_and_asks_again(lamina: Lamina, context: Path) -> None:
    with serve({"/f": Page(b"1", {"ETag": '"1"'})}) as server:
        (context / "Dockerfile").write_text(f"FROM scratch\nADD {server.url}/f /\n")
        first = lamina("build", "-q", "-t", "it", context).stdout
        assert files_of(lamina) == {"f"}
        assert lamina("build", "-q", context).stdout == first
        assert [each.headers.get("if-none-match") for each in server.requests] == [None, '"1"']
    assert nothing_is_left(lamina)


def test_an_interrupted_download_leaves_nothing(lamina: Lamina, context: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stalled:
        url = f"http://127.0.0.1:{stalled.getsockname()[1]}/f"
        (context / "Dockerfile").write_text(f"FROM scratch\nADD {url} /\n")
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
            process = lamina.start("build", context)
            connection, _ = stalled.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 9000
                )
                time.sleep(0.2)
                process.send_signal(number)
                _, error = process.communicate(timeout=20)
            assert process.returncode == code, error
            assert b"Traceback" not in error
            assert nothing_is_left(lamina)


@pytest.mark.needs_git
def test_an_interrupted_git_leaves_no_process_and_no_file(lamina: Lamina) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stalled:
        address = f"http://127.0.0.1:{stalled.getsockname()[1]}/x.git"
        process = lamina.start("build", address)
        connection, _ = stalled.accept()
        with connection:
            assert running(address)
            process.send_signal(signal.SIGTERM)
            _, error = process.communicate(timeout=20)
    assert process.returncode == 143
    assert b"Traceback" not in error
    assert running(address) == []
    assert nothing_is_left(lamina)


def running(word: str) -> list[str]:
    """The processes that have `word` on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text()
        except OSError:
            continue
        if word in line:
            found.append(line)
    return found


# Options.


def test_arguments_come_from_files_and_the_command_line_wins(
    lamina: Lamina, context: Path, tmp_path: Path
) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nARG A B C\nLABEL v=$A,$B,$C\n")
    (tmp_path / "args").write_text("# comment\n\nA=1\n  B=two words\nC=a=b\n")
    given = ("--build-arg", "A=9", "--build-arg-file", tmp_path / "args")
    lamina("build", "-t", "it", *given, context)
    labels = lamina("inspect", "-f", "{{json .Config.Labels}}", "it").stdout
    assert json.loads(labels) == {"v": "9,two words,a=b"}
    (tmp_path / "args").write_text("A=1\nnonsense\n")
    assert "args:2: 'nonsense'" in error_of(lamina, "build", *given, context, code=125)
    absent = ("--build-arg-file", "/nowhere")
    assert "cannot read '/nowhere'" in error_of(lamina, "build", *absent, context, code=125)


def test_an_image_is_built_for_another_platform(lamina: Lamina, context: Path) -> None:
    write_files(context, {"Dockerfile": b"FROM scratch\nCOPY Dockerfile /\n"})
    lamina("build", "-t", "it", "--platform", "linux/arm/v7", context)
    config = OciLayout(lamina.root).config("it:latest")
    assert (config["os"], config["architecture"], config["variant"]) == ("linux", "arm", "v7")
    other = Lamina(root=lamina.root, env={"DOCKER_DEFAULT_PLATFORM": "linux/s390x"})
    other("build", "-t", "two", context)
    assert OciLayout(lamina.root).config("two:latest")["architecture"] == "s390x"


def test_what_cannot_be_a_platform_is_refused(lamina: Lamina, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\nRUN true\n")
    for value, said in (
        ("linux/vax", "unknown operating system or architecture"),
        ("linux/amd64,linux/arm64", "several platforms at once is not supported"),
        ("windows/amd64", "the platform windows/amd64 is not supported"),
    ):
        assert said in error_of(lamina, "build", "--platform", value, context)
    foreign = "linux/s390x" if host_platform().architecture != "s390x" else "linux/amd64"
    said = error_of(lamina, "build", "--platform", foreign, context)
    assert f"cannot run a program for {foreign}" in said
    assert "BUILDPLATFORM" in said


def test_pull_is_for_images_and_takes_everybodys_words(lamina: Lamina, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM scratch\n")
    for value in ("--pull", "--pull=false", "--pull=missing", "--pull=newer", "--pull=never"):
        lamina("build", value, context)
    said = error_of(lamina, "build", "--pull=often", context, code=125)
    assert "'often' for --pull" in said
    (context / "Dockerfile").write_text("FROM nope\n")
    assert "no such image: nope" in error_of(lamina, "build", "--pull=never", context)
    said = error_of(lamina, "build", context)
    assert "no such image: nope: cannot reach the registry" in said
    assert "lamina bootstrap" in said


def test_options_of_old_that_ask_for_what_is_so_anyway_are_taken(
    lamina: Lamina, context: Path
) -> None:
    (context / "Dockerfile").write_text("FROM scratch\n")
    for words in (("--rm",), ("--rm=false",), ("--force-rm", "--compress")):
        lamina("build", *words, context)


# Errors that show where.


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("FROM scratch AS a\nCOPY --from=a / /\n", 2, "circular dependency detected on stage: a"),
        (
            "FROM scratch AS a\nCOPY --from=b / /\nFROM a AS b\n",
            2,
            "cannot copy from stage 'b', it needs to be defined before current stage 'a'",
        ),
        ("FROM scratch AS build\nFROM biuld\n", 2, "did you mean 'build'?"),
        ("FROM scratch\nFROM --platform=linux/vax x\n", 2, "unknown operating system"),
        ("FROM scratch\nADD http://127.0.0.1:1/x /\n", 2, "Connection refused"),
        ("FROM scratch\nCOPY http://h/x /\n", 2, "ADD fetches it"),
        ("FROM scratch\nADD --checksum=x http://h/x /\n", 2, "sha256: and 64"),
    ],
)
def test_an_error_shows_its_line_and_what_to_do(
    lamina: Lamina, context: Path, text: str, line: int, said: str
) -> None:
    (context / "Dockerfile").write_text(text)
    done = lamina("build", context, check=False)
    assert done.returncode == 1
    assert f"Dockerfile:{line}\n" in done.stderr
    assert f"{line} | >>> {text.splitlines()[line - 1]}" in done.stderr
    assert said in done.stderr.splitlines()[-1]
