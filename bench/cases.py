"""The peers' program with cases of our own added to it, and its command line.

    python bench/cases.py CASE PEER,PEER... [-n N] [--json FILE] [--no-gate]

A case is `(set-up of one peer, one sample of one peer)`, as in `../shared/peers/bench.py`, which
knows how each peer is asked to build and when the machine is quiet.
"""

import importlib.util
import json
import os
import shlex
import sys
import urllib.request
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


# How each tool is asked to move an image; {ref} is a name in a registry, {to} one in another.
_PULL = {
    "docker": "{cli} pull -q {ref}",
    "podman": "{cli} pull -q --tls-verify=false docker://{ref}",
    "skopeo": "skopeo --insecure-policy copy -q --src-tls-verify=false docker://{ref} dir:{dir}",
    "copy": "curl -sf -o {dir}/blob http://{blob}",
}
_FORGET = {
    "docker": "{cli} rmi -f {ref}",
    "podman": "{cli} rmi -f {ref}",
    "skopeo": "rm -rf {dir}",
    "copy": "rm -rf {dir}",
    "project": "rm -rf {store}",
}
_PUSH = {
    "docker": "{cli} push -q {to}",
    "podman": "{cli} push -q --tls-verify=false {ref} docker://{to}",
    "skopeo": "skopeo --insecure-policy copy -q --dest-tls-verify=false dir:{dir} docker://{to}",
    "copy": _PULL["copy"],
}
MOVERS = ["docker", "podman", "skopeo", "copy", "project"]


def transfer(peers: Any, kind: str, *, push: bool) -> tuple[Setup, Sample]:
    """An image of one layer is pulled or pushed: 1 GiB that no compression helps, or 20,000 files.

    `copy` is the plain copy of the layer's blob over loopback to a file, for comparison.
    """
    ref = f"{peers.REG}/transfers/{kind}:latest"
    blob = ""

    def words(template: str, peer: Any) -> list[str]:
        filled = template.format(
            cli=shlex.join(getattr(peer, "cli", [])),
            ref=ref,
            to=f"{peers.REG2}/transfers/{peer.name}-{kind}:latest",
            dir=Path(peers.WORK) / f"transfer-{peer.name}-{kind}",
            blob=blob,
            store=os.environ.get("PROJECT_STORE", ""),
        )
        return shlex.split(filled)

    def pull_of(peer: Any) -> list[str]:
        return words(_PULL.get(peer.name) or os.environ["PROJECT_PULL"], peer)

    def forget(peer: Any) -> None:
        peers.sh(words(_FORGET[peer.name], peer), check=False, env=peer.env)
        if peer.name in ("skopeo", "copy"):
            (Path(peers.WORK) / f"transfer-{peer.name}-{kind}").mkdir(parents=True, exist_ok=True)

    def set_up(peer: Any) -> None:
        nonlocal blob
        blob = blob or _put_image(peers, kind, ref)
        forget(peer)
        if push:
            peers.sh(pull_of(peer), env=peer.env)
            if peer.name == "docker":
                peers.sh([*peer.cli, "tag", ref, words("{to}", peer)[0]], env=peer.env)

    def sample(peer: Any) -> dict[str, float]:
        if push:
            peers.wipe_registry()
            template = _PUSH.get(peer.name) or os.environ["PROJECT_PUSH"]
            argv = words(template, peer)
        else:
            forget(peer)
            argv = pull_of(peer)
        peers.settle()
        return {"": peers.timed(argv, peer.env)}

    return set_up, sample


def _put_image(peers: Any, kind: str, ref: str) -> str:
    """Make the image with our own command, push it, and say where its one layer's blob is."""
    context = Path(peers.WORK) / f"transfer-context-{kind}"
    name, _, tag = ref.partition("/")[2].rpartition(":")
    base = f"{peers.REG}/v2/{name}"
    accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}

    def manifest() -> Any:
        asked = urllib.request.Request(f"http://{base}/manifests/{tag}", headers=accept)
        with urllib.request.urlopen(asked) as answer:
            return json.load(answer)

    try:
        found = manifest()
    except OSError:
        context.mkdir(parents=True, exist_ok=True)
        if kind == "large":
            source = "big.bin"
            with open("/dev/urandom", "rb") as random, (context / source).open("wb") as file:
                for _ in range(1024):
                    file.write(random.read(1 << 20))
        else:
            source = "tree"
            there = Path(peers.ctx_of("files20k")) / source
            peers.sh(["cp", "-a", str(there), str(context / source)])
        (context / "Dockerfile").write_text(f"FROM scratch\nCOPY {source} /{source}\n")
        build = os.environ["PROJECT_BUILD"].format(
            tag=ref, file=context / "Dockerfile", context=context
        )
        peers.sh(shlex.split(build))
        peers.sh(shlex.split(os.environ["PROJECT_PUSH"].format(ref=ref, to=ref)))
        found = manifest()
    return f"{base}/blobs/{found['layers'][0]['digest']}"


def main() -> None:
    """Add the cases and run the peers' command line."""
    spec = importlib.util.spec_from_file_location("peers_bench", PEERS / "bench.py")
    if spec is None or spec.loader is None:
        sys.exit(f"no bench.py in {PEERS}")
    sys.path.insert(0, str(PEERS))
    peers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peers)
    peers.CASES["cut-off"] = (cut_off(peers), peers.BUILDERS, "a step rewritten, same result")
    for name in ("skopeo", "copy"):
        peers.PEERS[name] = peers.Peer(name)
    for kind, what in (("large", "a layer of 1 GiB"), ("files", "a layer of 20,000 files")):
        for verb in ("pull", "push"):
            pair = transfer(peers, kind, push=verb == "push")
            peers.CASES[f"{verb}-{kind}"] = (pair, MOVERS, f"{verb} {what}")
    peers.main()


if __name__ == "__main__":
    main()
