"""Files from HTTP servers: bounded, verified, and asked for again only when they changed.

    fetch(url, memory)       -> Fetched: digest at once, content when somebody reads it
        remembered, and the server says 304    nothing is downloaded
        else                                   downloaded into an unnamed file, hashed meanwhile

What is remembered is a validator that stands for exact bytes: a strong ETag, or a Last-Modified
that was a minute old when it was sent (RFC 9110, 8.8.2.2). A weak one costs a download, never a
stale build.

Bounds: time to connect and between two pieces, redirects, attempts, seconds of Retry-After, bytes.
A transient failure (connection cut, 429, 502, 503, 504) is tried once more. User name and password
of a URL are sent to its own scheme, host and port alone, and are in no message.

Source: RFC 9110 (redirects, conditional requests); BuildKit source/http.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urljoin, urlsplit

from builder.errors import ChecksumError, FetchError
from builder.urls import redacted
from layerstore import CacheIndex, Digest
from layerstore.registry import proxy_for

if TYPE_CHECKING:
    import urllib3

_MEMO = "fetched"
_PIECE_BYTES = 256 << 10
_STRONG_AFTER_S = 60
_TRANSIENT = (429, 502, 503, 504)
_CONNECTION = re.compile(r"^HTTPS?Connection(?:Pool)?\([^()]*\): |^<[^<>]*>: ")
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much of what is accepted."""

    connect_timeout_s: float = 30
    idle_timeout_s: float = 60
    redirects_max: int = 10
    attempts_max: int = 2
    backoff_s: float = 1
    retry_after_max_s: float = 10
    body_bytes_max: int = 32 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file that was fetched. `content` is read from the start at every call."""

    digest: Digest
    size_bytes: int
    mtime_s: int  # of Last-Modified, 0 without one
    content: Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Remembered:
    digest: Digest
    etag: str
    last_modified: str


class Fetcher:
    """Fetches files for one build. Contents are in unnamed files that `cleanup` closes."""

    def __init__(
        self,
        new_file: Callable[[], BinaryIO],
        cache: CacheIndex,
        cleanup: ExitStack,
        bounds: Bounds | None = None,
    ) -> None:
        self._new_file = new_file
        self._cache = cache
        self._cleanup = cleanup
        self._bounds = bounds or Bounds()
        self._fetched: dict[str, Fetched] = {}

    def digest(self, url: str) -> Digest:
        """What the file at `url` is now; downloaded only if that is not known.

        Raises:
            FetchError: it cannot be had.
        """
        known = self._fetched.get(url)
        if known is not None:
            return known.digest
        remembered = self._recall(url)
        fetched = self._get(url, remembered)
        return remembered.digest if fetched is None and remembered else self._fetched[url].digest

    def fetch(self, url: str, expected: Digest | None) -> Fetched:
        """The file at `url`, which must have the digest `expected`.

        Raises:
            FetchError: it cannot be had.
            ChecksumError: it is another one.
        """
        if url not in self._fetched:
            self._get(url, None)
        found = self._fetched[url]
        if expected is not None and found.digest != expected:
            raise ChecksumError(what=redacted(url), expected=expected, actual=found.digest)
        return found

    # ---- requests

    def _get(self, url: str, remembered: _Remembered | None) -> Fetched | None:
        """Fetch; None when the server says that it is what is remembered."""
        bounds = self._bounds
        for attempt in range(1, bounds.attempts_max + 1):
            try:
                return self._get_once(url, remembered)
            except _TransientError as error:
                if attempt == bounds.attempts_max:
                    raise FetchError(f"cannot fetch {redacted(url)}: {error}") from error
                time.sleep(min(max(error.wait_s, bounds.backoff_s), bounds.retry_after_max_s))
        raise AssertionError("attempts_max is at least 1")

    def _get_once(self, url: str, remembered: _Remembered | None) -> Fetched | None:
        import urllib3

        headers = {"User-Agent": "lamina", "Accept-Encoding": "gzip"}
        if remembered is not None and remembered.etag:
            headers["If-None-Match"] = remembered.etag
        elif remembered is not None:
            headers["If-Modified-Since"] = remembered.last_modified
        at = url
        try:
            for _ in range(self._bounds.redirects_max + 1):
                with _manager(at, self._bounds) as manager:
                    response = manager.request(
                        "GET",
                        _without_credentials(at),
                        headers=_with_credentials(headers, url, at),
                        redirect=False,
                        retries=False,
                        preload_content=False,
                    )
                    try:
                        if response.status not in _REDIRECTS:
                            return self._take(url, response, remembered)
                        at = _redirected(at, response.headers.get("Location"))
                    finally:
                        response.close()
        except urllib3.exceptions.SSLError as error:
            raise FetchError(f"cannot fetch {redacted(url)}: {_reason(error)}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
                raise
            raise _TransientError(_reason(error)) from error
        raise FetchError(
            f"cannot fetch {redacted(url)}: more than {self._bounds.redirects_max} redirects"
        )

    def _take(
        self, url: str, response: "urllib3.BaseHTTPResponse", remembered: _Remembered | None
    ) -> Fetched | None:
        if response.status == 304 and remembered is not None:
            return None
        if response.status in _TRANSIENT:
            from layerstore.registry import retry_after

            wait_s = retry_after(response.headers.get("Retry-After", ""))
            raise _TransientError(f"invalid response status {response.status}", wait_s=wait_s)
        if not 200 <= response.status < 300:
            raise FetchError(
                f"cannot fetch {redacted(url)}: invalid response status {response.status}"
            )
        file = self._cleanup.enter_context(self._new_file())
        digest, size_bytes = self._write(url, response, file)
        fetched = Fetched(
            digest=digest,
            size_bytes=size_bytes,
            mtime_s=_http_time(response.headers.get("Last-Modified", "")) or 0,
            content=lambda: _pieces(file, size_bytes),
        )
        self._fetched[url] = fetched
        self._remember(url, digest, response.headers)
        return fetched

    def _write(
        self, url: str, response: "urllib3.BaseHTTPResponse", file: BinaryIO
    ) -> tuple[Digest, int]:
        hasher = sha256()
        size_bytes = 0
        for piece in response.stream(_PIECE_BYTES, decode_content=True):
            size_bytes += len(piece)
            if size_bytes > self._bounds.body_bytes_max:
                raise FetchError(
                    f"cannot fetch {redacted(url)}: "
                    f"it is larger than {self._bounds.body_bytes_max} bytes"
                )
            hasher.update(piece)
            file.write(piece)
        file.flush()
        return Digest("sha256:" + hasher.hexdigest()), size_bytes

    # ---- what is remembered

    def _recall(self, url: str) -> _Remembered | None:
        data = self._cache.get_memo(_MEMO, _memo_key(url))
        if data is None:
            return None
        try:
            digest, etag, last_modified = json.loads(data)
        except ValueError:
            return None
        return _Remembered(digest=Digest(digest), etag=etag, last_modified=last_modified)

    def _remember(self, url: str, digest: Digest, headers: Mapping[str, str]) -> None:
        etag = headers.get("ETag", "")
        last_modified = headers.get("Last-Modified", "")
        if not (etag.startswith('"') and etag.isascii() and etag.isprintable()):
            etag = ""
        sent_s, changed_s = _http_time(headers.get("Date", "")), _http_time(last_modified)
        if sent_s is None or changed_s is None or sent_s - changed_s < _STRONG_AFTER_S:
            last_modified = ""
        if etag or last_modified:
            memo = json.dumps([digest, etag, last_modified]).encode()
            self._cache.put_memo(_MEMO, _memo_key(url), memo)


def _memo_key(url: str) -> Digest:
    return Digest.of(url.encode("utf-8", "surrogateescape"))


class _TransientError(Exception):
    """Worth another attempt, after `wait_s`."""

    def __init__(self, reason: str, *, wait_s: float = 0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def _manager(url: str, bounds: Bounds) -> "urllib3.PoolManager":
    """The way to `url`: straight, or as HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY ask for."""
    import urllib3

    timeout = urllib3.Timeout(connect=bounds.connect_timeout_s, read=bounds.idle_timeout_s)
    proxy = proxy_for(url, os.environ)
    if not proxy:
        return urllib3.PoolManager(timeout=timeout)
    headers = urllib3.make_headers(proxy_basic_auth=_credentials(proxy) or None)
    return urllib3.ProxyManager(_without_credentials(proxy), proxy_headers=headers, timeout=timeout)


def _redirected(at: str, location: str | None) -> str:
    if not location:
        raise FetchError(f"cannot fetch {redacted(at)}: a redirect that leads nowhere")
    try:
        target = urljoin(at, location)
        parts = urlsplit(target)
        is_http = parts.scheme in ("http", "https") and parts.port != 0
    except ValueError as error:  # brackets or a port that are none
        raise FetchError(
            f"cannot fetch {redacted(at)}: a redirect to {redacted(location)}: {error}"
        ) from error
    if not is_http:
        raise FetchError(f"cannot fetch {redacted(at)}: a redirect to {redacted(target)}")
    return target


def _with_credentials(headers: Mapping[str, str], given: str, at: str) -> Mapping[str, str]:
    """The headers for `at`: user name and password only for where they were given for."""
    import urllib3

    credentials = _credentials(given)
    if not credentials or _origin(given) != _origin(at):
        return headers
    return {**headers, **urllib3.make_headers(basic_auth=credentials)}


def _credentials(url: str) -> str:
    userinfo, at, _ = urlsplit(url).netloc.rpartition("@")
    return unquote(userinfo) if at else ""


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return (
        parts.scheme,
        parts.hostname or "",
        parts.port or (443 if parts.scheme == "https" else 80),
    )


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()


def _http_time(text: str) -> int | None:
    from email.utils import parsedate_to_datetime

    try:
        seconds = int(parsedate_to_datetime(text).timestamp())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(seconds, 0)


def _reason(error: BaseException) -> str:
    """What went wrong, without urllib3's objects in it."""
    inner = getattr(error, "reason", None)
    error = inner if isinstance(inner, BaseException) else error
    text = getattr(error, "strerror", None) or str(error)
    return redacted(_CONNECTION.sub("", text) or type(error).__name__)


def _pieces(file: BinaryIO, size_bytes: int) -> Iterator[bytes]:
    position = 0
    while position < size_bytes:
        piece = os.pread(file.fileno(), min(_PIECE_BYTES, size_bytes - position), position)
        if not piece:
            raise FetchError("a file that was fetched is cut short on this machine")
        position += len(piece)
        yield piece
