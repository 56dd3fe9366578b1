"""A WSGI application as a table of routes."""

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

Handler = Callable[[dict[str, str]], str]


class Routes:
    """Maps `METHOD /path` to functions of the form's fields that return a page."""

    def __init__(self) -> None:
        self._table: dict[str, Handler] = {}

    def route(self, name: str) -> Callable[[Handler], Handler]:
        """Register the decorated function for `METHOD /path`."""

        def register(handler: Handler) -> Handler:
            self._table[name] = handler
            return handler

        return register

    def __call__(self, environ: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        handler = self._table.get(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        headers = [("Content-Type", "text/plain; charset=utf-8")]
        if handler is None:
            respond("404 Not Found", headers)
            return [b"not here\n"]
        size = int(environ.get("CONTENT_LENGTH") or 0)
        form = parse_qs(environ["wsgi.input"].read(size).decode()) if size else {}
        page = handler({name: values[-1] for name, values in form.items()})
        respond("200 OK", headers)
        return [page.encode()]
