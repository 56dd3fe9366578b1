"""Searching for input that breaks something: known texts, changed at random, by a seed.

    LAMINA_FUZZ_SECONDS=600 LAMINA_FUZZ_SEED=$RANDOM pytest tests/test_fuzz*.py

searches for as long in each target; without, it is a few seconds each. A failure shows the input.
"""

import os
import random
import time
from collections.abc import Callable, Sequence

SECONDS = float(os.environ.get("LAMINA_FUZZ_SECONDS", 2.5))
SEED = int(os.environ.get("LAMINA_FUZZ_SEED", 1))
SLOW_S = 3  # of one input, which is a thousandth of that on an idle machine
_BYTES_MAX = 20_000

Target = Callable[[bytes], None]
Change = Callable[[bytes, random.Random], bytes]


def changes(texts: Sequence[bytes], tokens: Sequence[bytes]) -> Change:
    """A function that makes a few random changes, with pieces of `texts` and with `tokens`."""

    def change(text: bytes, dice: random.Random) -> bytes:
        for _ in range(dice.randint(1, 6)):
            text = _changed_once(text, texts, tokens, dice)
        return text[:_BYTES_MAX]

    return change


def _changed_once(
    text: bytes, texts: Sequence[bytes], tokens: Sequence[bytes], dice: random.Random
) -> bytes:
    at = dice.randint(0, len(text))
    end = min(len(text), at + dice.choice((1, 1, 2, 8, 64)))
    match dice.randint(0, 6):
        case 0:
            return text[:at] + text[end:]
        case 1:
            return text[:at] + bytes([dice.randint(0, 255)]) + text[end:]
        case 2 | 3:
            return text[:at] + dice.choice(tokens) * dice.choice((1, 1, 1, 2, 40)) + text[at:]
        case 4:
            return text[:end] + text[at:end] * dice.choice((1, 2, 30)) + text[end:]
        case 5:
            other = dice.choice(texts)
            start = dice.randint(0, len(other))
            return text[:at] + other[start : start + dice.randint(1, 80)] + text[at:]
        case _:
            lines = text.split(b"\n")
            dice.shuffle(lines)
            return b"\n".join(lines)


def search(
    target: Target,
    texts: Sequence[bytes],
    change: Change,
    *,
    seconds: float = SECONDS,
    slow_s: float = SLOW_S,
    count_min: int = 50,
) -> None:
    """Give `target` changed texts until the time is up; whatever it raises is a failure."""
    dice = random.Random(f"{SEED} {target.__name__}")
    pool = list(texts)
    count = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        text = change(dice.choice(pool), dice)
        start = time.thread_time()
        try:
            target(text)
        except Exception as error:
            raise AssertionError(f"{target.__name__}({text!r})") from error
        taken_s = time.thread_time() - start
        assert taken_s < slow_s, f"{taken_s:.1f} s: {target.__name__}({text!r})"
        count += 1
        if count % 5 == 0:  # changes may pile up
            pool[dice.randrange(len(pool))] = text if count % 50 else dice.choice(texts)
    assert count > count_min
