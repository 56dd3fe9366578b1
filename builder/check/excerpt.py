"""Lines of a Dockerfile with some of them marked, as BuildKit shows them:

    Dockerfile:2
    --------------------
       1 |     FROM alpine
       2 | >>> CMD sh
    --------------------

Source: moby/buildkit solver/errdefs/source.go.
"""

from grammar import Dockerfile, printable

_AROUND_ONE, _AROUND_MORE = 4, 2  # lines shown besides those that are marked
_RULE = "-" * 20
_WIDTH_MAX = 500


def excerpt_of(dockerfile: Dockerfile, first: int, last: int) -> str:
    """The lines `first` to `last`, marked, and some around them; empty where there are none."""
    lines = dockerfile.source.lines
    if not 1 <= first <= len(lines):
        return ""
    last = min(max(first, last), len(lines))
    start, end, around = first, last, 0
    wanted = _AROUND_ONE if first == last else _AROUND_MORE
    while around < wanted:
        if start > 1:
            start -= 1
            around += 1
        if end < len(lines):
            end += 1
            around += 1
        around += 1  # however short the file is, this ends
    shown = [f"{printable(dockerfile.source.name)}:{first}", _RULE]
    for number in range(start, end + 1):
        mark = ">>>" if first <= number <= last else "   "
        text = printable(lines[number - 1].replace("\t", "    ")[:_WIDTH_MAX])
        shown.append(f" {number:3d} | {mark} {text}".rstrip())
    return "\n".join([*shown, _RULE])
