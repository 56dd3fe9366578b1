"""Here-documents, as RUN, COPY and ADD take them."""

import re

from grammar import Heredoc


def chomped(heredoc: Heredoc) -> str:
    """The content, without leading tabs for `<<-`."""
    if not heredoc.chomp:
        return heredoc.content
    return re.sub(r"(?m)^\t+", "", heredoc.content)
