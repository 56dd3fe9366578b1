"""What a word that names something remote means: a git repository, a file to fetch, or neither.

    https://host/path.git#ref:subdir       git; http(s) only when the path ends in .git
    git@host:path.git, ssh://, git://      git
    github.com/owner/repository            git, as a build context only: ADD takes it for a path
    http(s)://host/path                    one file

The same may be asked as a query: ?ref= or ?tag= or ?branch=, &subdir=, &checksum= (or commit=),
&keep-git-dir=, &submodules=.

`redacted` takes user names and passwords out of whatever is shown or kept.

Source: Docker's "Build context" ("URL fragments", "URL queries"); BuildKit dfgitutil and gitutil.
"""

import posixpath
import re
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, unquote, urlsplit

from builder.errors import UrlError
from builder.truth import TRUTH

UNNAMED = "__unnamed__"  # as BuildKit calls a file whose URL has no last component

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_GIT_SCHEMES = ("http", "https", "ssh", "git")
_SCP = re.compile(r"([a-zA-Z0-9_-]+@[a-zA-Z0-9.-]+:[^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_BARE = "github.com/"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_COMMIT_PREFIX = re.compile(r"[0-9a-f]{7,64}")
_CREDENTIALS = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s?#'\"]*@")


@dataclass(frozen=True, slots=True, kw_only=True)
class GitUrl:
    """A git repository and what of it is meant. `ref` is empty for the default branch."""

    remote: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""  # the commit that it must be, or the beginning of it
    keep_git_dir: bool | None = None
    submodules: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FileUrl:
    """One file on an HTTP server."""

    url: str

    @property
    def name(self) -> str:
        """The last component of the path, decoded; never one that means a directory."""
        base = posixpath.basename(unquote(urlsplit(self.url).path).rstrip("/"))
        return base if base not in ("", ".", "..") and "\0" not in base else UNNAMED


def parse_url(word: str, *, is_context: bool = False) -> GitUrl | FileUrl | None:
    """What `word` names; None for a local path.

    Args:
        is_context: whether `github.com/...` without a scheme is a repository.

    Raises:
        UrlError: a repository's URL that makes no sense.
    """
    if is_context and word.startswith(_BARE):
        return _git_url("https://" + word)
    scheme = _SCHEME.match(word)
    if scheme is None:
        found = _SCP.fullmatch(word)
        return found and _with_options(found[1], query=found[2] or "", fragment=found[3] or "")
    name = scheme[1].lower()
    if name in ("http", "https"):
        _check_http(word)
        return _git_url(word) if urlsplit(word).path.endswith(".git") else FileUrl(url=word)
    return _git_url(word) if name in _GIT_SCHEMES else None


def other_scheme(word: str) -> str:
    """The scheme of a URL that `parse_url` takes for a path; empty for a path."""
    scheme = _SCHEME.match(word)
    return scheme[1] if scheme and parse_url(word) is None else ""


def is_ssh(remote: str) -> bool:
    """Whether git asks this remote by ssh."""
    scheme = _SCHEME.match(remote)
    return scheme is None or scheme[1].lower() == "ssh"


def is_commit(ref: str) -> bool:
    """Whether `ref` is a whole commit id."""
    return _COMMIT.fullmatch(ref) is not None


def is_commit_prefix(ref: str) -> bool:
    """Whether `ref` may be the beginning of a commit id."""
    return _COMMIT_PREFIX.fullmatch(ref) is not None


def redacted(text: str) -> str:
    """`text` without the user names and passwords of the URLs in it."""
    return _CREDENTIALS.sub(r"\1xxxxx@", text) if "@" in text else text


def _check_http(word: str) -> None:
    try:
        parts = urlsplit(word)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UrlError(f"{redacted(word)!r} is no URL: {error}") from error
    if not host or any(char <= " " or char == "\x7f" for char in word):
        raise UrlError(f"{redacted(word)!r} is no URL", hint="http://HOST/PATH")


def _git_url(word: str) -> GitUrl:
    parts = urlsplit(word)
    remote = parts._replace(query="", fragment="").geturl()
    return _with_options(remote, query=parts.query, fragment=parts.fragment)


def _with_options(remote: str, *, query: str, fragment: str) -> GitUrl:
    if remote.startswith("-") or any(char < " " or char == "\x7f" for char in remote):
        raise UrlError(f"{redacted(remote)!r} is no address of a git repository")
    ref, _, subdir = unquote(fragment).partition(":")
    url = GitUrl(remote=remote, ref=ref, subdir=subdir)
    asked: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in asked:
            raise UrlError(f"query {name!r} has multiple values")
        asked[name] = value
    url = _with_query(url, asked)
    _check_ref(url.ref)
    if url.checksum and not is_commit_prefix(url.checksum):
        raise UrlError(f"{url.checksum!r} is no commit id", hint="7 hexadecimal digits or more")
    return url


def _with_query(url: GitUrl, asked: dict[str, str]) -> GitUrl:
    for name, value in asked.items():
        if not value and name not in ("keep-git-dir", "submodules"):
            raise UrlError(f"query {name!r} has no value")
        match name:
            case "ref":
                url = replace(url, ref=_agreed("ref", url.ref, value))
            case "tag":
                url = replace(url, ref=_agreed("ref", url.ref, _prefixed("refs/tags/", value)))
            case "branch":
                if "tag" in asked:
                    raise UrlError("branch conflicts with tag")
                url = replace(url, ref=_agreed("ref", url.ref, _prefixed("refs/heads/", value)))
            case "subdir":
                url = replace(url, subdir=_agreed("subdir", url.subdir, value))
            case "checksum" | "commit":
                url = replace(url, checksum=_agreed("checksum", url.checksum, value))
            case "keep-git-dir":
                url = replace(url, keep_git_dir=_truth(name, value))
            case "submodules":
                url = replace(url, submodules=_truth(name, value))
            case _:
                raise UrlError(
                    f"unexpected query {name!r}",
                    hint="ref, tag, branch, subdir, checksum, keep-git-dir or submodules",
                )
    if url.checksum and not url.ref:
        url = replace(url, ref=url.checksum)
    return url


def _agreed(what: str, known: str, value: str) -> str:
    if known and known != value:
        raise UrlError(f"{what} conflicts: {known!r} vs {value!r}")
    return value


def _prefixed(prefix: str, name: str) -> str:
    return name if name.startswith(prefix) else prefix + name


def _truth(name: str, value: str) -> bool:
    if not value:
        return True
    if value not in TRUTH:
        raise UrlError(f"invalid {name} value: {value!r}", hint="true or false")
    return TRUTH[value]


def _check_ref(ref: str) -> None:
    """Refuse what git would take for an option or a refspec."""
    if ref.startswith("-") or any(char <= " " or char in "\x7f:*?[\\^~" for char in ref):
        raise UrlError(f"{ref!r} is no name of a git branch, tag or commit")
