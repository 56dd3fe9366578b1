"""Plain build progress, read back: which step was executed and which came out of the cache."""

import re
from collections.abc import Mapping

_TITLE = re.compile(r"#(\d+) (\[.*)")
_END = re.compile(r"#(\d+) (CACHED|DONE|ERROR)\b.*")
_OTHER = re.compile(r"\] (FROM|pull|load) |\] fetch layers$")


def outcomes(plain: str) -> Mapping[str, str]:
    """Title of each piece of work -> CACHED, DONE, ERROR, or the empty string while it runs."""
    titles: dict[str, str] = {}
    ends: dict[str, str] = {}
    for line in plain.splitlines():
        if match := _END.fullmatch(line):
            ends[match[1]] = match[2]
        elif match := _TITLE.fullmatch(line):
            titles.setdefault(match[1], match[2])
    return {title: ends.get(number, "") for number, title in titles.items()}


def executed(plain: str) -> list[str]:
    """The instructions that did work: neither cached, nor a FROM, nor fetched for them."""
    return [
        title
        for title, end in outcomes(plain).items()
        if end != "CACHED" and not title.startswith("[internal]") and not _OTHER.search(title)
    ]
