"""Labels and filters on a command line: `--label NAME=VALUE`, `--filter KEY=VALUE`."""

from collections.abc import Iterable

from builder.cli.arguments import UsageError


def parse_label(text: str) -> tuple[str, str]:
    """NAME=VALUE; a bare NAME has an empty value.

    Raises:
        UsageError: it has no name.
    """
    name, _, content = text.partition("=")
    if not name:
        raise UsageError(f"invalid argument {text!r} for --label: it has no name")
    return name, content


def has_label(labels: Iterable[tuple[str, str]], wanted: str) -> bool:
    """Whether a label NAME is there, or NAME=VALUE just so."""
    name, equals, content = wanted.partition("=")
    found = dict(labels)
    return name in found and (not equals or found[name] == content)


def parse_filters(texts: Iterable[str], keys: Iterable[str]) -> dict[str, list[str]]:
    """The values of every key that is filtered by: alternatives, but labels, which all must fit.

    Raises:
        UsageError: no KEY=VALUE, or a key that is not one of `keys`.
    """
    known = tuple(keys)
    wanted: dict[str, list[str]] = {}
    for text in texts:
        key, equals, content = text.partition("=")
        if not equals or key not in known:
            raise UsageError(
                f"invalid filter {text!r}", hint=f"KEY=VALUE; there are {', '.join(known)}"
            )
        wanted.setdefault(key, []).append(content)
    return wanted
