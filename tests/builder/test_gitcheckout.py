"""Repositories over HTTP, by the installed git, against git's own server."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.errors import ChecksumError, FetchError
from builder.gitcheckout import Git
from builder.urls import GitUrl
from tests.support.servers import Page, Repository, replace_ssh, serve, serve_git
from tests.support.sources import File, Link, write_files

pytestmark = pytest.mark.needs_git

COMMITTED_S = 1_600_000_000


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with two commits on main, a branch and two tags."""
    made = Repository.make(tmp_path / "served/x.git")
    work = write_files(tmp_path / "work", {"a": b"1"})
    made.commit(work)
    made.git("tag", "light", "main")
    made.git("tag", "-a", "-m", "x", "heavy", "main")
    made.commit(write_files(work, {"b": File(content=b"2", mode=0o775), "d/l": Link("../a")}))
    made.commit(write_files(work, {"c": b"3"}), branch="other")
    return made


@pytest.fixture
def address(repository: Repository) -> Iterator[str]:
    with serve_git(repository.path.parent) as address:
        yield f"{address}/x.git"


@pytest.fixture
def git(tmp_path: Path) -> Git:
    work = tmp_path / "git"
    work.mkdir()
    return Git(work)


def files(root: Path) -> set[str]:
    found = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}
    return {name for name in found if not name.startswith(".git/")}


# Which commit.


@pytest.mark.parametrize(
    ("ref", "means"),
    [
        ("", "main"),
        ("main", "main"),
        ("refs/heads/main", "main"),
        ("heads/main", "main"),
        ("light", "main~1"),
        ("refs/tags/light", "main~1"),
        ("heavy", "main~1"),
        ("refs/tags/heavy", "main~1"),
    ],
)
def test_a_branch_or_tag_is_a_commit(
    repository: Repository, address: str, git: Git, ref: str, means: str
) -> None:
    expected = repository.git("rev-parse", means)
    assert git.commit_of(GitUrl(remote=address, ref=ref)) == expected


def test_a_tag_comes_before_a_branch_of_its_name(
    repository: Repository, address: str, git: Git
) -> None:
    repository.git("branch", "light", "main")
    found = git.commit_of(GitUrl(remote=address, ref="light"))
    assert found == repository.git("rev-parse", "refs/tags/light")


def test_a_whole_commit_id_asks_nobody(git: Git) -> None:
    url = GitUrl(remote="http://nobody.invalid/x.git", ref="a" * 40)
    assert git.commit_of(url) == "a" * 40


def test_the_beginning_of_a_commit_id_will_do(
    repository: Repository, address: str, git: Git
) -> None:
    commit = repository.git("rev-parse", "main~1")
    assert git.commit_of(GitUrl(remote=address, ref=commit[:8])) == commit


def test_a_checksum_is_the_commit_or_its_beginning_or_the_tag(
    repository: Repository, address: str, git: Git
) -> None:
    commit, tag = (repository.git("rev-parse", name) for name in ("heavy^{}", "heavy"))
    assert commit != tag
    for checksum in (commit, commit[:7], tag):
        assert git.commit_of(GitUrl(remote=address, ref="heavy", checksum=checksum)) == commit
    with pytest.raises(ChecksumError, match="digest mismatch") as caught:
        git.commit_of(GitUrl(remote=address, ref="main", checksum=commit))
    assert caught.value.expected == commit


# Which files.


def test_files_are_those_of_the_commit_and_executable_or_not(
    repository: Repository, address: str, git: Git
) -> None:
    before = os.umask(0o077)
    try:
        url = GitUrl(remote=address)
        root, seconds = git.checkout(url, git.commit_of(url), keep_git_dir=False)
    finally:
        os.umask(before)
    assert files(root) == {"a", "b", "d/l"}
    modes = {name: stat.S_IMODE((root / name).stat().st_mode) for name in ("a", "b", "d")}
    assert modes == {"a": 0o644, "b": 0o755, "d": 0o755}
    assert str((root / "d/l").readlink()) == "../a"
    assert seconds == COMMITTED_S


def test_a_commit_is_fetched_without_a_name(repository: Repository, address: str, git: Git) -> None:
    commit = repository.git("rev-parse", "main~1")
    root, _ = git.checkout(GitUrl(remote=address, ref=commit), commit, keep_git_dir=False)
    assert files(root) == {"a"}


def test_a_plain_file_server_will_do(repository: Repository, git: Git) -> None:
    """The dumb protocol: no server side, hence no single commits and no depth."""
    repository.git("update-server-info")
    pages = {
        f"/x.git/{path.relative_to(repository.path)}": Page(path.read_bytes())
        for path in repository.path.rglob("*")
        if path.is_file()
    }
    with serve(pages) as server:
        server.pages |= {
            "/x.git/info/refs?service=git-upload-pack": server.pages["/x.git/info/refs"]
        }
        url = GitUrl(remote=f"{server.url}/x.git", ref="other")
        root, _ = git.checkout(url, git.commit_of(url), keep_git_dir=False)
    assert files(root) == {"a", "b", "c", "d/l"}


def test_a_kept_repository_is_the_same_every_time_and_without_passwords(
    repository: Repository, address: str, tmp_path: Path
) -> None:
    found = []
    for number in range(2):
        work = tmp_path / str(number)
        work.mkdir()
        git = Git(work)
        url = GitUrl(remote=address.replace("//", "//me:secret@"), ref="heavy")
        root, _ = git.checkout(url, git.commit_of(url), keep_git_dir=True)
        kept = {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file()
        }
        found.append(kept)
    assert found[0] == found[1]
    assert ".git/index" in found[0]
    assert not any(b"secret" in data for data in found[0].values())
    assert repository.git("--git-dir", str(root / ".git"), "status", "-s", cwd=root) == ""
    assert (
        repository.git("--git-dir", str(root / ".git"), "describe", "--tags", cwd=root) == "heavy"
    )


def test_submodules_are_fetched_unless_unwanted(
    repository: Repository, address: str, tmp_path: Path
) -> None:
    inner = Repository.make(tmp_path / "served/inner.git")
    inner.commit(write_files(tmp_path / "inner", {"deep": b"d"}))
    _add_submodule(repository, tmp_path / "work", inner, url="../inner.git")
    for wanted in (True, False):
        work = tmp_path / f"git-{wanted}"
        work.mkdir()
        url = GitUrl(remote=address, submodules=wanted)
        git = Git(work)
        root, _ = git.checkout(url, git.commit_of(url), keep_git_dir=False)
        assert (root / "sub/deep").exists() == wanted


# What goes wrong.


def test_a_name_that_is_not_there_is_an_error(address: str, git: Git) -> None:
    with pytest.raises(FetchError, match=r"x\.git does not contain ref nosuch"):
        git.commit_of(GitUrl(remote=address, ref="nosuch"))
    with pytest.raises(FetchError, match="git rev-parse"):
        git.commit_of(GitUrl(remote=address, ref="abcdef0123"))


def test_a_repository_that_is_not_there_is_an_error_without_its_password(git: Git) -> None:
    with serve() as server:
        remote = server.url.replace("//", "//me:secret@") + "/x.git"
        with pytest.raises(FetchError, match="not found") as caught:
            git.commit_of(GitUrl(remote=remote))
    assert "secret" not in str(caught.value)


def test_what_ssh_says_is_passed_on(
    git: Git, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "echo 'warning: x' >&2; echo 'ssh: no such host' >&2; exit 255"
    replace_ssh(monkeypatch, tmp_path / "bin", script)
    with pytest.raises(FetchError, match=r"git ls-remote: ssh: no such host$"):
        git.commit_of(GitUrl(remote="git@h.invalid:x.git"))


def test_no_keys_but_those_of_the_agent_that_was_lent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_ssh(monkeypatch, tmp_path / "bin", 'echo "$SSH_AUTH_SOCK $*" >&2; exit 255')
    monkeypatch.setenv("SSH_AUTH_SOCK", "/the/callers/own")
    for number, agent in enumerate((None, Path("/lent"))):
        work = tmp_path / f"git{number}"
        work.mkdir()
        with pytest.raises(FetchError) as caught:
            Git(work, agent).commit_of(GitUrl(remote="git@h.invalid:x.git"))
        said = str(caught.value)
        assert ("/lent" in said) is (agent is not None)
        assert "callers" not in said
        assert "IdentityFile=/dev/null" in said
        assert ("--ssh default" in caught.value.hint) is (agent is None)


def test_a_server_that_says_nothing_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    work = tmp_path / "git"
    work.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        remote = f"git://127.0.0.1:{silent.getsockname()[1]}/x.git"
        with pytest.raises(FetchError, match=r"git ls-remote: no end after 0\.5 s"):
            Git(work, ask_timeout_s=0.5).commit_of(GitUrl(remote=remote))


def test_nobody_is_asked_for_a_password(git: Git) -> None:
    with serve({}) as server:
        answer = Page(status=401, headers={"WWW-Authenticate": "Basic realm=x"})
        server.pages["/x.git/info/refs?service=git-upload-pack"] = answer
        with pytest.raises(FetchError, match="git ls-remote"):
            git.commit_of(GitUrl(remote=f"{server.url}/x.git"))


def test_without_git_the_error_says_so(git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FetchError, match="there is no git") as caught:
        git.commit_of(GitUrl(remote="http://h/x.git"))
    assert caught.value.hint == "install git"


# Repositories that mean harm, and hosts with settings.


@pytest.mark.parametrize("scheme", ["ext::touch {}", "file://{}", "{}"])
def test_a_submodule_runs_no_program_and_reads_no_file_of_the_host(
    repository: Repository, address: str, tmp_path: Path, git: Git, scheme: str
) -> None:
    secret = Repository.make(tmp_path / "secret.git")
    secret.commit(write_files(tmp_path / "inner", {"deep": b"d"}))
    place = tmp_path / "ran" if "ext" in scheme else secret.path
    _add_submodule(repository, tmp_path / "work", secret, url=scheme.format(place))
    url = GitUrl(remote=address)
    with pytest.raises(FetchError, match="git submodule"):
        git.checkout(url, git.commit_of(url), keep_git_dir=False)
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "git/tree/sub/deep").exists()


def test_settings_hooks_and_helpers_of_the_host_play_no_part(
    address: str, tmp_path: Path, git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    hooks = write_files(
        tmp_path / "hooks",
        {"post-checkout": File(content=f"#!/bin/sh\ntouch {ran}\n".encode(), mode=0o755)},
    )
    home = write_files(
        tmp_path / "home",
        {
            ".gitconfig": f"[core]\n hooksPath = {hooks}\n[init]\n templateDir = {hooks}\n"
            f"[credential]\n helper = !touch {ran}\n[user]\n name = x\n".encode()
        },
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.hooksPath")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(hooks))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    url = GitUrl(remote=address)
    root, _ = git.checkout(url, git.commit_of(url), keep_git_dir=True)
    assert not ran.exists()
    assert not (root / ".git/hooks").exists()


def _add_submodule(repository: Repository, work: Path, inner: Repository, *, url: str) -> None:
    """Commit `inner` as the submodule `sub`, which is said to be at `url`."""
    modules = f'[submodule "sub"]\n\tpath = sub\n\turl = {url}\n'
    write_files(work, {".gitmodules": modules.encode()})
    options = ("--git-dir", str(repository.path), "--work-tree", str(work))
    commit = inner.git("rev-parse", "main")
    repository.git("symbolic-ref", "HEAD", "refs/heads/main")
    repository.git(*options, "add", ".gitmodules", cwd=work)
    repository.git(*options, "update-index", "--add", "--cacheinfo", f"160000,{commit},sub")
    repository.git(*options, "commit", "--quiet", "-m", "sub", cwd=work)
