"""Labels on a command line: `--label NAME=VALUE`, and `label=NAME[=VALUE]` of a filter."""

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
