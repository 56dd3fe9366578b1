"""What a new interpreter of `builder/interpreter.py` executes in tests: it tells what it is.

It has the standard library, and no other.
"""

import json
import os
import sys
from typing import Never


def main() -> Never:
    """Write a line of JSON to the descriptor that is named; then stay as long as asked to."""
    words = json.loads(sys.argv[1])
    links = {fd: _link(fd) for fd in os.listdir("/proc/self/fd")}  # noqa: PTH208 - names alone
    seen = {
        "argv": sys.argv[1:],
        "environment": dict(os.environ),
        "descriptors": sorted(int(fd) for fd, link in links.items() if link is not None),
        "streams": [links[fd] for fd in ("0", "1", "2")],
        "leads a session": os.getsid(0) == os.getpid(),
        "modules": sorted(sys.modules),
    }
    os.write(words["tell"], json.dumps(seen).encode() + b"\n")
    if "lifeline" in words:
        os.read(words["lifeline"], 1)
    os._exit(words["code"])


def _link(fd: str) -> str | None:
    """None for the one that has listed them."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - a magic link
    except OSError:
        return None
