"""An HTTP proxy in front of a registry that does it harm on purpose, and counts what goes through.

with fault_proxy(server.port, seed=1, rate=0.05) as proxy:     # 5 % of all requests
    ...                                                       # talk to proxy.address
    proxy.bytes_received("blob"), proxy.count(kind="upload", method="PUT")
with fault_proxy(server.port) as proxy:                        # no harm, only counting
    proxy.fail_next("truncate", r"GET /v2/.*/blobs/", times=2) # the next two of these

Whether a request is harmed depends on the seed, on what it asks for, and on how often that was
asked for before: not on which thread comes first.
"""

import contextlib
import hashlib
import http.client
import http.server
import random
import re
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from tests.support.servers import Quiet

Fault = Literal["cut", "truncate", "flip", "delay", "429", "500", "503"]
"""cut: nothing is answered. truncate: a body ends in the middle, the request's own where it has
one. flip: one byte of such a body is another. delay: half a second. 429 says Retry-After: 1."""
Kind = Literal["manifest", "blob", "upload", "referrers", "other"]

FAULTS: tuple[Fault, ...] = get_args(Fault)
_DELAY_S = 0.5
_PIECE = 64 * 1024
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"}


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as it was seen. `status` is 0 where nothing was answered."""

    method: str
    path: str
    kind: Kind
    status: int
    sent: int
    """Bytes of the body that the registry got."""
    received: int
    """Bytes of the body that the client got."""
    fault: Fault | None


@dataclass
class FaultProxy:
    port: int
    upstream: int
    seed: int
    rate: float
    faults: Sequence[Fault]
    only: str
    _exchanges: list[Exchange] = field(default_factory=list)
    _under_way: int = 0
    _next: list[tuple[re.Pattern[str], Fault]] = field(default_factory=list)
    _asked: Counter[str] = field(default_factory=Counter)
    _lock: threading.Condition = field(default_factory=threading.Condition)

    @property
    def exchanges(self) -> list[Exchange]:
        """All that was asked for: waits for the end of what is under way."""
        with self._lock:
            assert self._lock.wait_for(lambda: self._under_way == 0, timeout=30)
            return list(self._exchanges)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def fail_next(self, fault: Fault, pattern: str = "", *, times: int = 1) -> None:
        """Harm the next requests in whose `METHOD PATH` the pattern is found."""
        with self._lock:
            self._next.extend([(re.compile(pattern), fault)] * times)

    def count(self, *, kind: Kind | None = None, method: str | None = None) -> int:
        return sum(
            (kind is None or each.kind == kind) and (method is None or each.method == method)
            for each in self.exchanges
        )

    def bytes_received(self, kind: Kind | None = None) -> int:
        """Bytes of bodies that the client was given."""
        return sum(each.received for each in self.exchanges if kind in (None, each.kind))

    def bytes_sent(self, kind: Kind | None = None) -> int:
        """Bytes of bodies that the registry was given."""
        return sum(each.sent for each in self.exchanges if kind in (None, each.kind))

    def harmed(self) -> Counter[Fault]:
        return Counter(each.fault for each in self.exchanges if each.fault)

    def forget(self) -> None:
        """Begin to count anew."""
        with self._lock:
            self._exchanges.clear()

    def fault_of(self, method: str, path: str) -> Fault | None:
        """What is done to this request; asking is counted."""
        line = f"{method} {path}"
        with self._lock:
            for place, (pattern, fault) in enumerate(self._next):
                if pattern.search(line):
                    del self._next[place]
                    return fault
            # The name of an upload is another one in every run.
            same = re.sub(r"(/blobs/uploads/)[^?]+", r"\1ID", line.partition("?")[0])
            turn = self._asked[same]
            self._asked[same] += 1
        if not re.search(self.only, line):
            return None
        chance = random.Random(f"{self.seed} {turn} {same}")
        return chance.choice(self.faults) if chance.random() < self.rate else None

    def begin(self) -> None:
        with self._lock:
            self._under_way += 1

    def end(self, exchange: Exchange) -> None:
        with self._lock:
            self._under_way -= 1
            self._exchanges.append(exchange)
            self._lock.notify_all()


def kind_of(path: str) -> Kind:
    """What a path of a registry is about."""
    if re.search(r"^/v2/.+/blobs/uploads/", path):
        return "upload"
    if re.search(r"^/v2/.+/blobs/", path):
        return "blob"
    if re.search(r"^/v2/.+/manifests/", path):
        return "manifest"
    return "referrers" if re.search(r"^/v2/.+/referrers/", path) else "other"


@contextlib.contextmanager
def fault_proxy(
    upstream: int,
    *,
    seed: int = 0,
    rate: float = 0.0,
    faults: Sequence[Fault] = FAULTS,
    only: str = "",
) -> Iterator[FaultProxy]:
    """Stand before the registry at the port `upstream`.

    Args:
        rate: the part of the requests that are harmed, if `only` is found in their `METHOD PATH`.
    """
    connections: set[socket.socket] = set()

    class Handler(_Forward):
        def setup(self) -> None:
            connections.add(self.request)
            super().setup()

        def finish(self) -> None:
            with contextlib.suppress(OSError):
                super().finish()
            connections.discard(self.request)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        proxy = FaultProxy(
            port=server.server_port,
            upstream=upstream,
            seed=seed,
            rate=rate,
            faults=faults,
            only=only,
        )
        Handler.proxy = proxy
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()
            for connection in list(connections):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


class _Forward(Quiet):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    proxy: FaultProxy

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()

    def do_GET(self) -> None:
        proxy, kind = self.proxy, kind_of(self.path)
        fault = proxy.fault_of(self.command, self.path)
        passage = _Passage(handler=self, fault=fault)
        proxy.begin()
        try:
            passage.run(proxy.upstream)
        except (OSError, http.client.HTTPException):
            passage.hang_up()
        finally:
            proxy.end(
                Exchange(
                    method=self.command,
                    path=self.path,
                    kind=kind,
                    status=passage.status,
                    sent=passage.sent,
                    received=passage.received,
                    fault=fault,
                )
            )

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET


@dataclass
class _Passage:
    """One request on its way to the registry and its answer on the way back."""

    handler: _Forward
    fault: Fault | None
    status: int = 0
    sent: int = 0
    received: int = 0

    def run(self, upstream: int) -> None:
        headers = self.handler.headers
        length = int(headers.get("Content-Length") or 0)
        has_body = length > 0 or headers.get("Transfer-Encoding") == "chunked"
        if self.fault == "cut":
            self.hang_up()
            return
        if self.fault == "delay":
            time.sleep(_DELAY_S)  # this is the fault
        if self.fault in ("429", "500", "503"):
            deque(self.handler.request_body(), maxlen=0)  # or the client looks for no answer
            self._refuse(int(self.fault))
            return
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", upstream)) as connection:
            connection.putrequest(
                self.handler.command,
                self.handler.path,
                skip_host=True,
                skip_accept_encoding=True,
            )
            for name, value in headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            chunked = has_body and not length
            if chunked:
                connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders()
            for piece in self._harm(self.handler.request_body(), length or _PIECE, active=has_body):
                connection.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
                self.sent += len(piece)
            if chunked:
                connection.send(b"0\r\n\r\n")
            self._answer(connection.getresponse(), harm=not has_body)

    def _answer(self, answer: http.client.HTTPResponse, *, harm: bool) -> None:
        self.status = answer.status
        self.handler.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.handler.send_header(name, value)
        body = answer.status not in (204, 304) and self.handler.command != "HEAD"
        length = answer.length
        if body and length is None:
            self.handler.close_connection = True
            self.handler.send_header("Connection", "close")
        self.handler.end_headers()
        pieces = iter(lambda: answer.read(_PIECE), b"") if body else iter(())
        for piece in self._harm(pieces, length or _PIECE, active=harm and body):
            self.handler.wfile.write(piece)
            self.received += len(piece)
        self.handler.wfile.flush()

    def _refuse(self, status: int) -> None:
        content = b'{"errors":[{"code":"UNKNOWN","message":"made to fail"}]}'
        self.status = status
        self.handler.send_response_only(status)
        if status == 429:
            self.handler.send_header("Retry-After", "1")
        self.handler.send_header("Content-Type", "application/json")
        self.handler.send_header("Content-Length", str(len(content)))
        self.handler.end_headers()
        if self.handler.command != "HEAD":
            self.handler.wfile.write(content)
            self.received += len(content)

    def _harm(self, pieces: Iterator[bytes], length: int, *, active: bool) -> Iterator[bytes]:
        """The pieces as they come out: of about `length` bytes one is changed, or some are lost."""
        if not active or self.fault not in ("truncate", "flip"):
            yield from pieces
            return
        digest = hashlib.sha256(self.handler.path.encode()).digest()
        place = int.from_bytes(digest[:8], "big") % length
        begin = 0
        for piece in pieces:
            inside = place - begin
            begin += len(piece)
            if not 0 <= inside < len(piece):
                yield piece
            elif self.fault == "flip":
                yield piece[:inside] + bytes([piece[inside] ^ 1]) + piece[inside + 1 :]
            else:
                yield piece[:inside]
                raise ConnectionAbortedError

    def hang_up(self) -> None:
        """End the client's connection, with what was written so far."""
        self.handler.close_connection = True
        with contextlib.suppress(OSError):
            self.handler.wfile.flush()
            self.handler.connection.shutdown(socket.SHUT_RDWR)
