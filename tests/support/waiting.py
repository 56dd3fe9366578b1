"""Waiting for what says nothing when it happens: other processes, files, what a command prints."""

import time
from collections.abc import Callable

_ASK_AGAIN_S = 0.02


def wait_until(condition: Callable[[], bool], *, seconds: float = 20) -> None:
    """Ask until it is so.

    Raises:
        AssertionError: it is not so after some seconds.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not so after {seconds} seconds"
        time.sleep(_ASK_AGAIN_S)  # there is no event
