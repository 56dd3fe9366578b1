"""WWW-Authenticate: what a registry asks for before it answers.

    Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull"
    Basic realm="Registry"

Spec: RFC 9110, 11.6.1; distribution, "Token Authentication".
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_HEADER_LENGTH_MAX = 16 << 10
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# One name=value of a challenge, or the name of a scheme. Nothing to backtrack over: what begins
# with a token is a parameter exactly when `=` and no blank follows.
_PART = re.compile(
    rf'[\s,]*(?:(?P<name>{_TOKEN})=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]*))'
    rf"|(?P<scheme>{_TOKEN})(?=[\s,]|$))",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One scheme, in lower case, and its parameters."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str:
        """A parameter, empty when it is not there."""
        return self.parameters.get(name, "")


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Read every challenge; what cannot be read ends the header it stands in."""
    found: list[Challenge] = []
    for header in headers:
        for match in _parts(header[:_HEADER_LENGTH_MAX]):
            if match["scheme"]:
                found.append(Challenge(match["scheme"].lower()))
            elif found:
                quoted = match["quoted"]
                value = match["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                found[-1].parameters.setdefault(match["name"].lower(), value)
    return found


def _parts(header: str) -> Iterator[re.Match[str]]:
    position = 0
    while match := _PART.match(header, position):
        yield match
        position = match.end()


def choose(challenges: list[Challenge]) -> Challenge | None:
    """The one to answer: tokens before passwords. None where none is known."""
    by_scheme = {each.scheme: each for each in reversed(challenges)}
    return by_scheme.get("bearer") or by_scheme.get("basic")
