"""What words that name something remote mean."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import UrlError
from builder.urls import (
    UNNAMED,
    FileUrl,
    GitUrl,
    is_commit,
    is_commit_prefix,
    is_ssh,
    other_scheme,
    parse_url,
    redacted,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


# Which is which.


@pytest.mark.parametrize(
    "word",
    [
        *("a.txt", ".", "./x.git", "../git@h:x", "/abs/x.git", "github.com/o/r", "C:/x", "a:b"),
        *("ftp://h/x", "file:///x/y.git", "ext::sh -c id", "ext://x/y.git", "s3://b/k", "@:x"),
    ],
)
def test_paths_and_unknown_schemes_are_nothing_remote(word: str) -> None:
    assert parse_url(word) is None


@pytest.mark.parametrize(
    ("word", "remote"),
    [
        ("https://h/o/r.git", "https://h/o/r.git"),
        ("HTTPS://h/r.git", "https://h/r.git"),
        ("http://h:8080/r.git", "http://h:8080/r.git"),
        ("https://me:secret@h/r.git", "https://me:secret@h/r.git"),
        ("ssh://git@h:22/r", "ssh://git@h:22/r"),
        ("git://h/r", "git://h/r"),
        ("git@h:o/r.git", "git@h:o/r.git"),
        ("some-one_1@h.example:r", "some-one_1@h.example:r"),
    ],
)
def test_repositories_have_git_s_schemes_or_end_in_git(word: str, remote: str) -> None:
    assert parse_url(word) == GitUrl(remote=remote)


@pytest.mark.parametrize(
    "word", ["https://h/r", "http://h/r.git/x", "https://h/x.git.tar", "http://h"]
)
def test_other_http_urls_are_files(word: str) -> None:
    assert parse_url(word) == FileUrl(url=word)


def test_a_repository_without_a_scheme_is_one_as_a_context_alone() -> None:
    assert parse_url("github.com/o/r#v1:d") is None
    assert parse_url("github.com/o/r#v1:d", is_context=True) == GitUrl(
        remote="https://github.com/o/r", ref="v1", subdir="d"
    )


@pytest.mark.parametrize(
    ("word", "scheme"),
    [
        *(("ftp://h/x", "ftp"), ("file:///x.git", "file"), ("git+ssh://h/x", "git+ssh")),
        *(("http://h/x", ""), ("ssh://h/x", ""), ("a/b", ""), ("a:b//c", ""), ("://x", "")),
    ],
)
def test_schemes_that_nobody_fetches_are_told_from_paths(word: str, scheme: str) -> None:
    assert other_scheme(word) == scheme


# What of a repository.


@pytest.mark.parametrize("remote", ["https://h/r.git", "git@h:r.git", "ssh://git@h/r"])
@pytest.mark.parametrize(
    ("suffix", "ref", "subdir"),
    [
        ("#", "", ""),
        ("#main", "main", ""),
        ("#main:a/b", "main", "a/b"),
        ("#:a", "", "a"),
        ("#refs/pull/1/head", "refs/pull/1/head", ""),
        ("#a%20b", None, ""),
        ("?ref=main&subdir=a", "main", "a"),
        ("?ref=main#main:a", "main", "a"),
        ("?tag=v1", "refs/tags/v1", ""),
        ("?tag=refs/tags/v1", "refs/tags/v1", ""),
        ("?branch=b", "refs/heads/b", ""),
    ],
)
def test_branch_and_directory_are_fragments_or_queries(
    remote: str, suffix: str, ref: str | None, subdir: str
) -> None:
    if ref is None:
        with pytest.raises(UrlError, match="no name of a git branch"):
            parse_url(remote + suffix)
        return
    assert parse_url(remote + suffix) == GitUrl(remote=remote, ref=ref, subdir=subdir)


def test_a_checksum_is_the_ref_where_there_is_no_other() -> None:
    assert parse_url(f"https://h/r.git?checksum={COMMIT}") == GitUrl(
        remote="https://h/r.git", ref=COMMIT, checksum=COMMIT
    )
    assert parse_url("https://h/r.git?tag=v1&commit=0123456") == GitUrl(
        remote="https://h/r.git", ref="refs/tags/v1", checksum="0123456"
    )


@pytest.mark.parametrize(
    ("query", "keep", "submodules"),
    [
        ("keep-git-dir", True, True),
        ("keep-git-dir=false", False, True),
        ("keep-git-dir=1&submodules=0", True, False),
        ("submodules", None, True),
    ],
)
def test_switches_may_go_without_a_value(query: str, keep: bool | None, submodules: bool) -> None:
    found = parse_url(f"https://h/r.git?{query}")
    assert found == GitUrl(remote="https://h/r.git", keep_git_dir=keep, submodules=submodules)


@pytest.mark.parametrize(
    ("suffix", "said"),
    [
        ("?ref=a&ref=b", "query 'ref' has multiple values"),
        ("?ref=", "query 'ref' has no value"),
        ("?nope=1", "unexpected query 'nope'"),
        ("?ref=a#b", "ref conflicts: 'b' vs 'a'"),
        ("?tag=a&branch=b", "branch conflicts with tag"),
        ("?subdir=a#x:b", "subdir conflicts: 'b' vs 'a'"),
        ("?keep-git-dir=maybe", "invalid keep-git-dir value: 'maybe'"),
        ("?checksum=xyz", "'xyz' is no commit id"),
        ("?checksum=012345", "'012345' is no commit id"),
        ("#--upload-pack=id", "no name of a git branch"),
        ("#a..b^{tree}", "no name of a git branch"),
        ("#+refs/heads/*:refs/heads/*", "no name of a git branch"),
    ],
)
def test_what_makes_no_sense_is_an_error(suffix: str, said: str) -> None:
    with pytest.raises(UrlError, match=re.escape(said)):
        parse_url("https://h/r.git" + suffix)


@pytest.mark.parametrize(
    "word", ["http://", "http://h:x/", "https:///x", "http://h/a b", "http://[::1"]
)
def test_a_url_that_is_none_is_an_error(word: str) -> None:
    with pytest.raises(UrlError, match="is no URL"):
        parse_url(word)


def test_commits_are_told_from_names() -> None:
    assert is_commit(COMMIT)
    assert is_commit("a" * 64)
    assert not is_commit(COMMIT[:-1])
    assert not is_commit(COMMIT.upper())
    assert is_commit_prefix(COMMIT[:7])
    assert not is_commit_prefix("main")


def test_ssh_is_asked_by_scheme_or_without_one() -> None:
    assert is_ssh("git@h:x.git")
    assert is_ssh("SSH://h/x.git")
    assert not is_ssh("https://ssh@h/x.git")
    assert not is_ssh("git://h/x.git")


# Names of files.


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/b.tar.gz", "b.tar.gz"),
        ("http://h/b?x=/y#z", "b"),
        ("http://h/a%20b", "a b"),
        ("http://h/x%2F..%2Fname", "name"),
        ("http://h/a/b/", "b"),
        ("http://h", UNNAMED),
        ("http://h/", UNNAMED),
        ("http://h/..", UNNAMED),
        ("http://h/x/%2e%2e", UNNAMED),
        ("http://h/a%00b", UNNAMED),
    ],
)
def test_a_file_is_called_as_the_last_component(url: str, name: str) -> None:
    assert FileUrl(url=url).name == name


@given(st.text(alphabet="ab/.%20?#:@&=", max_size=30))
def test_no_name_leads_anywhere(path: str) -> None:
    try:
        found = parse_url("http://h/" + path)
    except UrlError:
        return
    if isinstance(found, FileUrl):
        assert "/" not in found.name
        assert found.name not in ("", ".", "..")


# What is shown.


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@h/x", "http://xxxxx@h/x"),
        ("ADD HTTPS://token@h/x git@h:x /y", "ADD HTTPS://xxxxx@h/x git@h:x /y"),
        ("a http://u:p@h/ b ssh://u@h/r c", "a http://xxxxx@h/ b ssh://xxxxx@h/r c"),
        ("http://u:p@q@h/", "http://xxxxx@h/"),
        ("http://h/x?a@b", "http://h/x?a@b"),
        ("http://h/me@home", "http://h/me@home"),
        ("me@home", "me@home"),
        ("", ""),
    ],
)
def test_user_names_and_passwords_are_taken_out(text: str, shown: str) -> None:
    assert redacted(text) == shown
