"""The digest of the grammar room: a parsed file may be remembered by it and the text's digest."""

import hashlib
import os
import sys

_HERE = os.path.dirname(__file__)  # noqa: PTH120  (os is loaded anyway, pathlib costs 3 ms)


def fingerprint() -> str:
    """64 hex digits over this room's files and Python's version.

    A tree pickled under one fingerprint may be loaded under the same one only.
    """
    total = hashlib.sha256(f"{sys.version_info[:3]}".encode())
    with os.scandir(_HERE) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        if name.endswith((".py", ".lark")):
            with open(f"{_HERE}/{name}", "rb") as file:
                content = file.read()
            total.update(f"{name}\0{len(content)}\0".encode())
            total.update(content)
    return total.hexdigest()
