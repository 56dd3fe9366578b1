"""How the time of a function grows with its input: the test of "linear" that no busy machine fails.

    assert growth(parse, text(1000), text(4000)) < LINEAR

Counted is the processor time of this thread, the least of a few tries.
"""

import gc
import time
from collections.abc import Callable
from typing import TypeVar

Input = TypeVar("Input")

# For four times the input: 4 when linear, 16 when quadratic.
LINEAR = 9


def growth(work: Callable[[Input], object], small: Input, large: Input) -> float:
    """How many times as long `large` takes; it should be four times `small`."""
    return _least_s(work, large) / _least_s(work, small)


def _least_s(work: Callable[[Input], object], given: Input) -> float:
    gc.collect()
    gc.disable()  # its passes over all that a long test run has made are not the work
    try:
        times = []
        for _ in range(4):
            start = time.thread_time()
            work(given)
            times.append(time.thread_time() - start)
    finally:
        gc.enable()
    return min(times)
