"""What ADD selects at URLs: known early, fetched late."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from builder.errors import ChecksumError, ContextError, FetchError, LoweringError
from builder.remote import Remotes
from builder.sources import Selection
from builder.urls import FileUrl, GitUrl, parse_url
from layerstore import Digest, Peeked, Store, TreePath
from tests.support.servers import Page, Repository, Server, make_tar, replace_ssh, serve, serve_git
from tests.support.sources import write_files

TIME = "Sun, 13 Sep 2020 12:26:40 GMT"
TIME_S = 1_600_000_000


@pytest.fixture
def remotes(store: Store) -> Iterator[Remotes]:
    with ExitStack() as cleanup:
        yield Remotes(store, cleanup)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as server:
        yield server


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository.make(tmp_path / "served/x.git")
    made.commit(write_files(tmp_path / "work", {"a": b"1", "d/b": b"2"}))
    return made


@pytest.fixture
def address(repository: Repository) -> Iterator[str]:
    with serve_git(repository.path.parent) as address:
        yield f"{address}/x.git"


def select(
    remotes: Remotes,
    word: str,
    *,
    checksum: str = "",
    keep_git_dir: bool | None = None,
    unpack: bool = False,
) -> Selection:
    url = parse_url(word)
    assert url is not None
    return remotes.select(url, checksum=checksum, keep_git_dir=keep_git_dir, unpack=unpack)


def read(selection: Selection, path: str) -> bytes:
    entry = selection.tree.get(TreePath(path))
    assert entry is not None
    content = selection.tree.content(entry)
    return content if isinstance(content, bytes) else b"".join(content())


# Files.


def test_a_file_has_its_url_s_name_docker_s_mode_and_the_server_s_time(
    remotes: Remotes, server: Server
) -> None:
    disposition = {"Last-Modified": TIME, "Content-Disposition": "attachment; filename=other"}
    server.pages["/d/f.txt?x=1"] = Page(b"text", disposition)
    selected = select(remotes, f"{server.url}/d/f.txt?x=1")
    assert (selected.name, selected.kind, selected.path) == ("f.txt", "file", "f.txt")
    entry = selected.tree.get(selected.path)
    assert entry is not None
    assert entry.meta.mode == 0o600
    assert (entry.meta.uid, entry.meta.gid) == (0, 0)
    assert entry.meta.mtime_ns == TIME_S * 10**9
    assert read(selected, "f.txt") == b"text"


def test_files_of_one_content_are_one_ingredient_wherever_they_are(
    remotes: Remotes, server: Server
) -> None:
    server.pages |= {"/1/f": Page(b"x"), "/2/f": Page(b"x", {"Last-Modified": TIME})}
    server.pages["/3/f"] = Page(b"y")
    first, same, other = (select(remotes, f"{server.url}/{n}/f") for n in (1, 2, 3))
    assert first == same
    assert first != other


def test_unpacking_is_another_ingredient(remotes: Remotes, server: Server) -> None:
    server.pages["/f"] = Page(b"x")
    assert select(remotes, server.url + "/f").unpacks is False
    assert select(remotes, server.url + "/f", unpack=True).unpacks is True


def test_with_a_checksum_nothing_is_asked_before_the_content_is_needed(
    remotes: Remotes, server: Server
) -> None:
    server.pages["/f"] = Page(b"x")
    pinned = select(remotes, server.url + "/f", checksum=Digest.of(b"x"))
    assert server.requests == []
    assert pinned == select(remotes, server.url + "/f")  # the same ingredient as without
    assert read(pinned, "f") == b"x"


def test_a_wrong_checksum_is_an_error_when_the_content_comes(
    remotes: Remotes, server: Server
) -> None:
    server.pages["/f"] = Page(b"x")
    selected = select(remotes, server.url + "/f", checksum=Digest.of(b"y"))
    with pytest.raises(ChecksumError):
        selected.tree.get(selected.path)


@pytest.mark.parametrize("checksum", ["x", "md5:" + "0" * 32, "sha512:" + "0" * 128, "0" * 64])
def test_a_checksum_that_is_none_is_an_error(
    remotes: Remotes, server: Server, checksum: str
) -> None:
    with pytest.raises(LoweringError, match="invalid checksum") as caught:
        select(remotes, server.url + "/f", checksum=checksum)
    assert "sha256:" in caught.value.hint


def test_a_file_that_changes_between_two_looks_is_an_error(store: Store, server: Server) -> None:
    server.pages["/f"] = Page(b"1", {"ETag": '"1"'})
    with ExitStack() as cleanup:
        select(Remotes(store, cleanup), server.url + "/f")
    with ExitStack() as cleanup:
        selected = select(Remotes(store, cleanup), server.url + "/f")  # remembered: 304
        server.pages["/f"] = Page(b"2", {"ETag": '"2"'})
        with pytest.raises(FetchError, match="changed while it was being fetched"):
            selected.tree.get(selected.path)


def test_nothing_stays_behind(store: Store, server: Server) -> None:
    server.pages["/f"] = Page(b"x" * 100_000)
    store.lease()
    before = set(store.tmp.rglob("*"))
    with ExitStack() as cleanup:
        select(Remotes(store, cleanup), server.url + "/f")
        (directory,) = set(store.tmp.rglob("*")) - before  # and no file in it has a name
    assert not directory.exists()
    assert set(store.tmp.rglob("*")) == before


# Archives.


def test_an_archive_is_told_by_its_content(remotes: Remotes, server: Server) -> None:
    server.pages |= {"/t": Page(make_tar({"m": b"1"})), "/x.tar": Page(b"no tar" * 200)}
    tree = remotes.archive_or_file(FileUrl(url=server.url + "/t"), "what is called")
    assert tree.children(TreePath("")) == ["m"]
    assert tree.description == "what is called"
    plain = remotes.archive_or_file(FileUrl(url=server.url + "/x.tar"), "x")
    assert plain.children(TreePath("")) == ["context"]
    entry = plain.get(TreePath("context"))
    assert entry is not None
    assert (entry.meta.mode, entry.size_bytes) == (0o600, 1200)


def test_a_damaged_archive_is_an_error_of_the_context(remotes: Remotes, server: Server) -> None:
    server.pages["/t"] = Page(make_tar({"m": b"1" * 2000})[:1500])
    with pytest.raises(ContextError, match=r"^the thing: "):
        remotes.archive_or_file(FileUrl(url=server.url + "/t"), "the thing")


def test_a_stream_may_have_been_looked_at(remotes: Remotes, server: Server) -> None:
    server.pages["/t"] = Page(make_tar({"m": b"1" * 5000}))
    stream = Peeked(remotes.read(FileUrl(url=server.url + "/t")))
    tree = remotes.archive(stream, "x")
    assert tree is not None
    assert tree.children(TreePath("")) == ["m"]


# Repositories.


@pytest.mark.needs_git
def test_a_repository_is_a_directory_known_by_its_commit(
    remotes: Remotes, repository: Repository, address: str
) -> None:
    commit = repository.git("rev-parse", "main")
    by_name, by_id = select(remotes, address), select(remotes, f"{address}#{commit}")
    assert by_name == by_id
    assert (by_name.name, by_name.kind, by_name.path) == ("", "dir", "")
    assert by_name.tree.children(TreePath("")) == ["a", "d"]
    entry = by_name.tree.get(TreePath("d/b"))
    assert entry is not None
    assert entry.meta.mtime_ns == TIME_S * 10**9


@pytest.mark.needs_git
def test_what_of_a_repository_is_taken_is_part_of_what_it_is(
    remotes: Remotes, address: str
) -> None:
    words = [address, f"{address}#main:d", f"{address}?keep-git-dir=1", f"{address}?submodules=0"]
    assert len({select(remotes, word).digest for word in words}) == len(words)


@pytest.mark.needs_git
def test_a_directory_of_a_repository_is_taken_alone(remotes: Remotes, address: str) -> None:
    selected = select(remotes, f"{address}#main:/d/", keep_git_dir=True)
    assert selected.tree.children(TreePath("")) == ["b"]  # and no .git, as in BuildKit
    for missing in ("nope", "a"):
        with pytest.raises(FetchError, match=f"no directory '{missing}'"):
            select(remotes, f"{address}#main:{missing}").tree.get(TreePath(""))


@pytest.mark.needs_git
def test_a_directory_is_looked_for_inside_of_the_repository(
    remotes: Remotes, repository: Repository, address: str, tmp_path: Path
) -> None:
    (tmp_path / "work/host").symlink_to("/etc")
    (tmp_path / "work/up").symlink_to("../..")
    repository.commit(tmp_path / "work")
    with pytest.raises(FetchError, match="no directory"):
        select(remotes, f"{address}#main:host").tree.get(TreePath(""))
    for inside in ("up", "../.."):  # the top is the repository's
        selected = select(remotes, f"{address}#main:{inside}")
        assert "a" in selected.tree.children(TreePath(""))


@pytest.mark.needs_git
def test_the_repository_itself_is_kept_where_asked(remotes: Remotes, address: str) -> None:
    assert ".git" in select(remotes, address, keep_git_dir=True).tree.children(TreePath(""))
    kept = select(remotes, f"{address}?keep-git-dir=true")
    assert ".git" in kept.tree.children(TreePath(""))


@pytest.mark.needs_git
def test_a_commit_that_is_written_needs_no_network_before_its_files_are(
    remotes: Remotes,
) -> None:
    word = f"http://nobody.invalid/x.git#{'a' * 40}"
    selected = select(remotes, word)
    with pytest.raises(FetchError):
        selected.tree.get(TreePath(""))


@pytest.mark.needs_git
def test_flags_and_url_must_agree(remotes: Remotes, repository: Repository, address: str) -> None:
    commit = repository.git("rev-parse", "main")
    assert select(remotes, address, checksum=commit) == select(remotes, address)
    for word, flags, said in (
        (f"{address}?checksum={commit}", {"checksum": "b" * 40}, "checksum mismatch"),
        (address, {"checksum": "sha256:" + "0" * 64}, "invalid checksum"),
        (f"{address}?keep-git-dir=1", {"keep_git_dir": False}, "inconsistent keep-git-dir"),
    ):
        with pytest.raises(LoweringError, match=said):
            select(remotes, word, **flags)
    with pytest.raises(ChecksumError):
        select(remotes, f"{address}#main", checksum="b" * 40)


@pytest.mark.needs_git
def test_a_context_is_the_whole_tree_without_git_s_own_files(
    remotes: Remotes, address: str
) -> None:
    tree = remotes.repository(GitUrl(remote=address), keep_git_dir=False, description="context")
    assert tree.children(TreePath("")) == ["a", "d"]
    assert tree.description == "context"


# Times.


def test_the_time_of_a_file_is_the_server_s_or_the_newest_of_an_archive(
    remotes: Remotes, server: Server
) -> None:
    archive = make_tar({"a": b"", "b": b""}, mtime_s=77)
    server.pages |= {
        "/dated": Page(archive, {"Last-Modified": TIME}),
        "/tar": Page(archive),
        "/plain": Page(b"x"),
    }
    times = {
        path: remotes.time_of(FileUrl(url=server.url + path), checksum="") for path in server.pages
    }
    assert times == {"/dated": TIME_S, "/tar": 77, "/plain": None}
    with pytest.raises(ChecksumError):
        remotes.time_of(FileUrl(url=server.url + "/tar"), checksum=Digest.of(b""))


@pytest.mark.needs_git
def test_the_time_of_a_repository_is_its_commit_s(remotes: Remotes, address: str) -> None:
    assert remotes.time_of(GitUrl(remote=address, ref="main"), checksum="") == TIME_S


def test_the_caller_s_own_agent_is_for_contexts_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_ssh(monkeypatch, tmp_path / "bin", 'echo "agent=$SSH_AUTH_SOCK." >&2; exit 255')
    monkeypatch.setenv("SSH_AUTH_SOCK", "/own")
    url = GitUrl(remote="git@h.invalid:x.git")
    with ExitStack() as cleanup:
        for lent, of_add, of_context in ((None, "", "/own"), (Path("/lent"), "/lent", "/lent")):
            remotes = Remotes(store, cleanup, lent)
            with pytest.raises(FetchError, match=f"agent={of_add}\\."):
                select(remotes, "git@h.invalid:x.git")
            with pytest.raises(FetchError, match=f"agent={of_add}\\."):
                remotes.time_of(url, checksum="")
            with pytest.raises(FetchError, match=f"agent={of_context}\\."):
                remotes.time_of(url, checksum="", is_context=True)
            with pytest.raises(FetchError, match=f"agent={of_context}\\."):
                remotes.repository(url, keep_git_dir=False, description="x")
