"""What must not be shown: taken out of everything that a server says."""

import base64
from urllib.parse import quote

_MASK = "***"
_LENGTH_MIN = 4  # a shorter one would eat ordinary words


class Secrets:
    """The passwords and tokens of one client."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def add(self, secret: str, *, user: str = "") -> None:
        """Hide `secret`, and what it looks like in a header or a URL."""
        if len(secret) < _LENGTH_MIN:
            return
        pair = base64.b64encode(f"{user}:{secret}".encode()).decode()
        self._known |= {secret, quote(secret, safe=""), pair}

    def hide(self, text: str) -> str:
        """`text` without them."""
        for secret in sorted(self._known, key=len, reverse=True):
            text = text.replace(secret, _MASK)
        return text
