"""HTTP to registries and to where they redirect: one request, one answer, everything bounded.

Nothing here knows registries or credentials; endpoint.py sends them. What may be worth another
attempt is a TransientError: cut connections, time-outs, 408, 429 and 5xx (but for 501 and 505).
Whoever waits for a server, in whatever thread, is woken by a `Stop`.

urllib3 is imported with the first request.
"""

import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from layerstore.registry.endpoints import Origin, is_loopback
from layerstore.registry.errors import (
    RegistryError,
    UnexpectedAnswerError,
    UnreachableRegistryError,
    UntrustedRegistryError,
)
from layerstore.registry.proxies import proxy_for
from layerstore.registry.settings import Settings

if TYPE_CHECKING:
    import urllib3

Body = Callable[[], Iterable[bytes]]

_PIECE_BYTES = 256 << 10
_SYSTEM_CERTS = (Path("/etc/docker/certs.d"), Path("/etc/containers/certs.d"))
# What OpenSSL says when the other side does not speak TLS at all.
_NOT_TLS = frozenset(
    ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")
)
_FINAL_5XX = (501, 505)
_NO_ANSWER = "no answer in time"


class TransientError(Exception):
    """Worth another attempt, after `wait_s`. `why` is the error if it stays.

    `is_slow`: time was waited in vain, which nobody does many times.
    """

    def __init__(self, why: RegistryError, *, wait_s: float = 0, is_slow: bool = False) -> None:
        super().__init__(why.message)
        self.why = why
        self.wait_s = wait_s
        self.is_slow = is_slow


class PlainHttpError(Exception):
    """The other side does not speak TLS."""


class Response:
    """An answer whose body is still to be read, or closed."""

    def __init__(self, inner: "urllib3.BaseHTTPResponse", url: str, settings: Settings) -> None:
        self.url = url
        self.status = inner.status
        self.headers = inner.headers
        self._inner = inner
        self._bounds = settings.bounds

    @property
    def host(self) -> str:
        """Whom to name in messages."""
        return host_shown(self.url)

    def header(self, name: str) -> str:
        """A header, empty when it is not there."""
        value: str = self.headers.get(name, "")
        return value

    def read(self, bytes_max: int) -> bytes:
        """The whole body.

        Raises:
            TransientError: it was cut, or takes too long.
            UnexpectedAnswerError: it is longer than `bytes_max`.
        """
        deadline = time.monotonic() + self._bounds.document_s
        pieces: list[bytes] = []
        size_bytes = 0
        for piece in self.pieces():
            pieces.append(piece)
            size_bytes += len(piece)
            if size_bytes > bytes_max:
                raise UnexpectedAnswerError(
                    host=self.host, problem=f"an answer of more than {bytes_max} bytes"
                )
            if time.monotonic() > deadline:
                raise self._transient("an answer takes too long", is_slow=True)
        return b"".join(pieces)

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes; the connection is given back or closed at the end.

        Raises:
            TransientError: it was cut, or hardly anything comes.
        """
        window_end, window_bytes = time.monotonic() + self._bounds.window_s, 0
        is_whole = False
        try:
            while piece := self._read_piece():
                yield piece
                window_bytes += len(piece)
                now = time.monotonic()
                if now > window_end:
                    if window_bytes < self._bounds.window_bytes:
                        raise self._transient("hardly anything comes", is_slow=True)
                    window_end, window_bytes = now + self._bounds.window_s, 0
            is_whole = True
        finally:
            if is_whole:
                self._inner.release_conn()
            else:
                self._inner.close()

    def excerpt(self, bytes_max: int) -> bytes:
        """The beginning of the body of an error, as far as it can be had."""
        data = b""
        deadline = time.monotonic() + self._bounds.idle_timeout_s
        try:
            for piece in self.pieces():
                data += piece
                if len(data) > bytes_max or time.monotonic() > deadline:
                    break
        except (TransientError, RegistryError):
            pass  # what has come is all there is
        self.close()
        return data[:bytes_max]

    def finish(self) -> None:
        """Make the connection usable again, if that is cheap."""
        self.excerpt(self._bounds.error_bytes_max)

    def close(self) -> None:
        """Drop what is left of it."""
        self._inner.close()

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_piece(self) -> bytes:
        from urllib3.exceptions import HTTPError

        try:
            data: bytes = self._inner.read1(_PIECE_BYTES, decode_content=False)
        except (HTTPError, OSError, ValueError) as error:
            problem = _reason(error)
            raise self._transient(problem, is_slow=problem == _NO_ANSWER) from error
        return data

    def _transient(self, problem: str, *, is_slow: bool) -> TransientError:
        why = UnreachableRegistryError(host=self.host, problem=problem)
        return TransientError(why, is_slow=is_slow)


class Stop(threading.Event):
    """Set when nobody waits for an answer any more: what other threads send or read is cut then.

    A connection that is just being made cannot be cut; it is as soon as it is there.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def watch(self, opened: socket.socket) -> None:
        """Cut this one as well."""
        with self._lock:
            self._sockets.add(opened)
        if self.is_set():
            _shut(opened)

    def set(self) -> None:
        super().set()
        with self._lock:
            opened = list(self._sockets)
        for each in opened:
            _shut(each)


class Connections:
    """Pools of connections, by origin. May be used by several threads."""

    def __init__(self, settings: Settings, stop: Stop | None = None) -> None:
        self._settings = settings
        self._stop = stop or Stop()
        self._managers: dict[tuple[Origin, bool], urllib3.PoolManager] = {}

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None = None,
        *,
        insecure: bool = False,
        is_commit: bool = False,
    ) -> Response:
        """One request, without redirects and repetition.

        Raises:
            TransientError, PlainHttpError
            UnreachableRegistryError, UntrustedRegistryError
        """
        import urllib3
        from urllib3 import exceptions

        bounds = self._settings.bounds
        host = host_shown(url)
        idle_s = bounds.commit_timeout_s if is_commit else bounds.idle_timeout_s
        try:
            inner = self._manager(url, insecure=insecure).request(
                method,
                url,
                body=None if body is None else body(),
                headers={"User-Agent": "lamina", "Accept-Encoding": "identity", **headers},
                timeout=urllib3.Timeout(connect=bounds.connect_timeout_s, read=idle_s),
                redirect=False,
                retries=False,
                preload_content=False,
            )
        except exceptions.SSLError as error:
            raise _tls_problem(error, host) from error
        except exceptions.ProxyError as error:
            raise UnreachableRegistryError(host=host, problem=f"proxy: {_reason(error)}") from error
        except exceptions.NameResolutionError as error:
            raise UnreachableRegistryError(
                host=host, problem="no such host", hint="check the name, and the network"
            ) from error
        except (exceptions.NewConnectionError, exceptions.ConnectTimeoutError) as error:
            raise UnreachableRegistryError(host=host, problem=_reason(error)) from error
        except exceptions.LocationParseError as error:
            raise UnexpectedAnswerError(host=host, problem="a URL that is none") from error
        except (exceptions.HTTPError, OSError) as error:
            problem = _reason(error)
            why = UnreachableRegistryError(host=host, problem=problem)
            raise TransientError(why, is_slow=problem == _NO_ANSWER) from error
        response = Response(inner, url, self._settings)
        if is_transient(response.status):
            wait_s = retry_after(response.header("Retry-After"))
            response.finish()
            problem = f"it answers {response.status} {_words(response.status)}".rstrip()
            refusal = UnexpectedAnswerError(host=host, problem=problem)
            raise TransientError(refusal, wait_s=wait_s)
        return response

    def close(self) -> None:
        """Close all connections."""
        for manager in self._managers.values():
            manager.clear()
        self._managers.clear()

    def _manager(self, url: str, *, insecure: bool) -> "urllib3.PoolManager":
        origin = Origin.of(url)
        known = self._managers.get((origin, insecure))
        if known is None:
            known = self._managers.setdefault((origin, insecure), self._new(url, origin, insecure))
        return known

    def _new(self, url: str, origin: Origin, insecure: bool) -> "urllib3.PoolManager":
        manager = self._unbounded(url, origin, insecure)
        manager.pool_classes_by_scheme = _impatient_pools(self._settings.bounds.head_s, self._stop)
        return manager

    def _unbounded(self, url: str, origin: Origin, insecure: bool) -> "urllib3.PoolManager":
        import urllib3

        context = self._tls(origin, insecure=insecure) if origin.scheme == "https" else None
        size = self._settings.jobs + 1
        proxy = "" if is_loopback(origin.host) else proxy_for(url, self._settings.environment)
        if not proxy:
            return urllib3.PoolManager(ssl_context=context, maxsize=size)
        userinfo, at, _ = urlsplit(proxy).netloc.rpartition("@")
        credentials = urllib3.make_headers(proxy_basic_auth=unquote(userinfo) if at else None)
        try:
            return urllib3.ProxyManager(
                without_userinfo(proxy),
                proxy_headers=credentials,
                ssl_context=context,
                maxsize=size,
            )
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise UnreachableRegistryError(
                host=origin.host, problem="a proxy that is none"
            ) from error

    def _tls(self, origin: Origin, *, insecure: bool) -> ssl.SSLContext:
        """The system's authorities, and those of certs.d/HOST:PORT, whose clients' keys are there.

        Spec: docker, "Verify repository client with certificates"; containers-certs.d(5).
        """
        from urllib3 import disable_warnings
        from urllib3.exceptions import InsecureRequestWarning
        from urllib3.util.ssl_ import create_urllib3_context

        context = create_urllib3_context()
        if insecure:
            disable_warnings(InsecureRequestWarning)  # the user has asked for it
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context.load_default_certs()
        for directory in self._cert_directories(origin):
            try:
                for file in sorted(directory.iterdir()):
                    if file.suffix == ".crt":
                        context.load_verify_locations(cafile=str(file))
                    elif file.suffix == ".cert":
                        context.load_cert_chain(str(file), str(file.with_suffix(".key")))
            except OSError as error:  # ssl.SSLError among them
                problem = error.strerror or "not as it should be"
                raise UntrustedRegistryError(
                    host=str(origin), problem=f"certificates in {directory}: {problem}"
                ) from error
        return context

    def _cert_directories(self, origin: Origin) -> list[Path]:
        if self._settings.cert_dir is not None:
            if not self._settings.cert_dir.is_dir():
                raise RegistryError(f"--cert-dir: {self._settings.cert_dir} is not a directory")
            return [self._settings.cert_dir]
        environment = self._settings.environment
        home = environment.get("HOME")
        own = (
            [Path(home, ".config/containers/certs.d"), Path(home, ".docker/certs.d")]
            if home
            else []
        )
        names = [f"{origin.host}:{origin.port}"]
        names += [origin.host] if origin.port == 443 else []
        places = [root / name for root in (*own, *_SYSTEM_CERTS) for name in names]
        return [place for place in places if place.is_dir()]


def _impatient_pools(head_s: float, stop: Stop) -> "dict[str, type[urllib3.HTTPConnectionPool]]":
    """Pools whose connections are cut by `stop`, or when no head of an answer comes in time.

    Time-outs of sockets begin anew with every byte: a header that trickles would never end. What an
    answer waits for before its first byte is no concern of this.
    """
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Impatient(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            stop.watch(_socket_of(self))

        def getresponse(self) -> "urllib3.HTTPResponse":  # type: ignore[override]  # as urllib3
            sock, was_cut = _socket_of(self), threading.Event()
            patience_s = head_s + (sock.gettimeout() or 0)
            timer = threading.Timer(patience_s, _cut, (sock, was_cut))
            timer.daemon = True
            timer.start()
            try:
                response = super().getresponse()
            finally:
                timer.cancel()
                timer.join()  # before anybody forks
            if was_cut.is_set():  # which http.client takes for the end of the head
                response.close()
                raise TimeoutError
            return response

    class ImpatientTls(Impatient, HTTPSConnection):
        """The same, over TLS."""

    return {
        "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": Impatient}),
        "https": type("Pool", (HTTPSConnectionPool,), {"ConnectionCls": ImpatientTls}),
    }


def _socket_of(connection: "urllib3.connection.HTTPConnection") -> socket.socket:
    """What a connection is made of: also the one below TLS in the TLS of a proxy."""
    found: socket.socket = getattr(connection.sock, "socket", connection.sock)
    return found


def _cut(sock: socket.socket, was_cut: threading.Event) -> None:
    was_cut.set()
    _shut(sock)


def _shut(sock: socket.socket) -> None:
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # of TLS as well, without its farewell
    except OSError:  # it has ended meanwhile
        return


def is_transient(status: int) -> bool:
    """Whether the same request may succeed a moment later."""
    return status in (408, 429) or (500 <= status < 600 and status not in _FINAL_5XX)


def retry_after(text: str) -> float:
    """Seconds to wait by a Retry-After header, 0 without a good one; the caller caps it."""
    if text.isascii() and text.isdigit():
        return float(text[:9])
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0


def host_shown(url: str) -> str:
    """The host and port of a URL."""
    return urlsplit(url).netloc.rpartition("@")[2]


def without_userinfo(url: str) -> str:
    """A URL without user name and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _tls_problem(error: Exception, host: str) -> Exception:
    inner = error.args[0] if error.args else error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return UntrustedRegistryError(
            host=host,
            problem=f"tls: failed to verify certificate: x509: {_x509(inner)}",
            hint="put its authority into certs.d, or use --tls-verify=false",
        )
    reason = getattr(inner, "reason", None) or ""
    if reason in _NOT_TLS:
        return PlainHttpError()
    if isinstance(inner, ssl.SSLError) and reason.startswith(("TLSV1", "SSLV3", "TLSV13")):
        problem = f"tls: {reason.lower().replace('_', ' ')}"
        return UntrustedRegistryError(host=host, problem=problem)
    return TransientError(UnreachableRegistryError(host=host, problem=f"tls: {_reason(error)}"))


def _x509(error: ssl.SSLCertVerificationError) -> str:
    """As Go says it, by which people search."""
    match error.verify_code:
        case 18 | 19 | 20 | 21:  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT ...
            return "certificate signed by unknown authority"
        case 9 | 10:  # X509_V_ERR_CERT_NOT_YET_VALID, ..._HAS_EXPIRED
            return "certificate has expired or is not yet valid"
        case _:
            return str(error.verify_message or "certificate is not valid")


def _reason(error: BaseException) -> str:
    """What went wrong, without urllib3's objects in it."""
    chain: list[BaseException] = [error]
    while len(chain) < 5:
        last = chain[-1]
        inner = [each for each in last.args if isinstance(each, BaseException)]
        nested = inner[0] if inner else last.__cause__ or last.__context__
        if nested is None:
            break
        chain.append(nested)
    for each in reversed(chain):
        if isinstance(each, TimeoutError) or "timed out" in str(each):
            return _NO_ANSWER
        if isinstance(each, OSError) and each.strerror:
            return each.strerror.lower()
    return "the connection was cut"


def _words(status: int) -> str:
    from http import HTTPStatus

    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
