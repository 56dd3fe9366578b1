"""A guest book on the web: GET / reads it, POST / signs it."""

import argparse
import threading
import urllib.parse
import urllib.request
from importlib.metadata import version
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from tinyroutes import Routes

app = Routes()
entries: list[str] = []


@app.route("GET /")
def show(_form: dict[str, str]) -> str:
    """The whole book."""
    return "".join(f"* {entry}\n" for entry in entries) or "nobody was here yet\n"


@app.route("POST /")
def sign(form: dict[str, str]) -> str:
    """Write a line into the book."""
    entries.append(f"{form['name']}: {form['text']}")
    return "thank you\n"


def main() -> None:
    """The command `guestbook`."""
    parser = argparse.ArgumentParser(prog="guestbook", description=__doc__)
    parser.add_argument("action", choices=["serve", "check"])
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    if args.action == "check":
        check()
    else:
        print(f"guestbook {version('guestbook')} on port {args.port}")
        make_server(args.host, args.port, app).serve_forever()


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_args: object) -> None:
        """Say nothing."""


def check() -> None:
    """Serve on a free port, be one's own first guest, and print the book."""
    server: WSGIServer = make_server("127.0.0.1", 0, app, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    form = urllib.parse.urlencode({"name": "check", "text": "it works"}).encode()
    for data in (None, form, None):
        with urllib.request.urlopen(address, data=data, timeout=10) as answer:
            print(answer.read().decode(), end="")
    server.shutdown()
