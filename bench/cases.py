"""The peers' program with cases of our own added to it, and its command line.

    python bench/cases.py CASE PEER,PEER... [-n N] [--json FILE] [--no-gate]

A case is `(set-up of one peer, one sample of one peer)`, as in `../shared/peers/bench.py`, which
knows how each peer is asked to build and when the machine is quiet.
"""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PEERS = Path(os.environ.get("LAMINA_PEERS", REPOSITORY.parent / "shared/peers"))

Setup = Callable[[Any], None]
Sample = Callable[[Any], dict[str, float]]

_REWRITTEN = """\
FROM {base}
RUN {first}
RUN sleep 2
RUN echo done > /b
"""


def cut_off(peers: Any) -> tuple[Setup, Sample]:
    """A built Dockerfile's first RUN is put in other words that make the same file.

    What follows it takes two seconds. No two samples use the same words.
    """
    context = Path(peers.WORK) / "cut-off"
    rewritten = 0

    def write(first: str) -> None:
        text = _REWRITTEN.format(base=peers.BASES["busybox"], first=first)
        (context / "Dockerfile").write_text(text)

    def set_up(peer: Any) -> None:
        context.mkdir(parents=True, exist_ok=True)
        peer.reset()
        peer.warm("busybox")

    def sample(peer: Any) -> dict[str, float]:
        nonlocal rewritten
        rewritten += 1
        write("echo hi > /a")
        peers.timed(peer.build(str(context), "cut-off"), peer.env)
        write(f"printf 'hi\\n' > /a  # {os.getpid()} {rewritten}")
        peers.settle()
        return {"": peers.timed(peer.build(str(context), "cut-off"), peer.env)}

    return set_up, sample


def main() -> None:
    """Add the cases and run the peers' command line."""
    spec = importlib.util.spec_from_file_location("peers_bench", PEERS / "bench.py")
    if spec is None or spec.loader is None:
        sys.exit(f"no bench.py in {PEERS}")
    sys.path.insert(0, str(PEERS))
    peers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peers)
    peers.CASES["cut-off"] = (cut_off(peers), peers.BUILDERS, "a step rewritten, same result")
    peers.main()


if __name__ == "__main__":
    main()
