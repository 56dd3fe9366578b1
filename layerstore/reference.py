"""Names of images, by Docker's rules: [host[:port]/]path[:tag][@digest].

`hello` is short for `docker.io/library/hello:latest`. The first component is a host when it has a
dot, a colon or a capital letter, or is `localhost`.

Spec: github.com/distribution/reference, regexp.go and normalize.go.
"""

import re
from dataclasses import dataclass
from typing import Self

from layerstore.digest import Digest
from layerstore.errors import InvalidReferenceError, MalformedDocumentError

DEFAULT_HOST = "docker.io"
DEFAULT_TAG = "latest"
_LIBRARY = "library/"
_NAME_LENGTH_MAX = 255
_TEXT_LENGTH_MAX = 512

# Each alternative begins with another character: nothing to backtrack over.
_PATH = r"[a-z0-9]+(?:(?:[.]|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[.]|_{1,2}|-+)[a-z0-9]+)*)*"
_HOST = (
    r"(?:[A-Za-z0-9][A-Za-z0-9-]*(?:[.][A-Za-z0-9][A-Za-z0-9-]*)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
)
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A checked image name. `tag` is empty only beside a digest."""

    host: str
    path: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an image name, filling in the default host, `library/` and `latest`.

        Raises:
            InvalidReferenceError: it is none.
        """
        if not text or len(text) > _TEXT_LENGTH_MAX:
            raise InvalidReferenceError(text=text[:80], reason="it is empty or too long")
        rest, at, digest_text = text.partition("@")
        digest = _parse_digest(text, digest_text) if at else None
        head, colon, tag = rest.rpartition(":")
        if not colon or "/" in tag:
            head, tag = rest, ""
        elif not is_tag(tag):
            raise InvalidReferenceError(text=text, reason=f"{tag[:40]!r} is no tag")
        host, path = _split_host(head)
        _check_name(text, host, path)
        if not tag and digest is None:
            tag = DEFAULT_TAG
        return cls(host=host, path=path, tag=tag, digest=digest)

    @property
    def repository(self) -> str:
        """Host and path, in full."""
        return f"{self.host}/{self.path}"

    @property
    def full(self) -> str:
        """The name with nothing left out: `docker.io/library/hello:latest`."""
        return self.repository + self._suffix

    @property
    def familiar(self) -> str:
        """The name as people write it: `hello:latest`. Parses to an equal value."""
        if self.host != DEFAULT_HOST:
            return self.full
        first, _, rest = self.path.partition("/")
        if first + "/" == _LIBRARY and "/" not in rest:
            return rest + self._suffix
        return self.full if _is_host(first) else self.path + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.familiar


def is_tag(text: str) -> bool:
    """Whether `text` may stand for the tag in a name."""
    return re.fullmatch(_TAG, text, re.ASCII) is not None


def _parse_digest(text: str, digest: str) -> Digest:
    try:
        return Digest.parse(digest)
    except MalformedDocumentError as error:
        raise InvalidReferenceError(text=text, reason=error.problem) from None


def _split_host(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and _is_host(first):
        host, path = ("docker.io" if first == "index.docker.io" else first), rest
    else:
        host, path = DEFAULT_HOST, name
    if host == DEFAULT_HOST and "/" not in path:
        path = _LIBRARY + path
    return host, path


def _is_host(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost" or first != first.lower()


def _check_name(text: str, host: str, path: str) -> None:
    if path.lower() != path:
        raise InvalidReferenceError(text=text, reason="the repository must be lower case")
    if not re.fullmatch(_PATH, path, re.ASCII):
        raise InvalidReferenceError(
            text=text, reason="a repository has letters, digits and single separators (. _ -)"
        )
    if not re.fullmatch(_HOST, host, re.ASCII) or "-." in host + "." or "-:" in host:
        raise InvalidReferenceError(text=text, reason=f"{host[:80]!r} is no host")
    if len(host) + 1 + len(path) > _NAME_LENGTH_MAX:
        raise InvalidReferenceError(text=text, reason=f"longer than {_NAME_LENGTH_MAX} characters")
    if len(text) == 64 and re.fullmatch("[0-9a-f]{64}", text):
        raise InvalidReferenceError(text=text, reason="64 hex digits are an image id")
