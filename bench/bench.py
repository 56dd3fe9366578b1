"""Lamina beside the tools a user would pick instead, measured in turns on this machine.

    python bench/bench.py [--lamina PATH] [--case NAME]... [-n N] [--json FILE] [--no-gate]

The measuring is done by `../shared/peers/bench.py` (whole processes, round robin, samples dropped
when strangers used the machine), which also says how each peer is set up; `setup.sh` beside it
brings them up. `cases.py` adds cases to it. This program hands it our commands, and prints medians
and ratios as a table.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PEERS = Path(os.environ.get("LAMINA_PEERS", REPOSITORY.parent / "shared/peers"))
STATE = Path(os.environ.get("PEERS_STATE", "/var/lib/peers"))
OURS = "project"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measurement: who takes part, and the most we allow ourselves as a share of a peer."""

    title: str
    peers: tuple[str, ...]
    budget: tuple[str, float] | None


CASES = {
    "trivial-cold": Case(
        title="ten trivial RUN steps, nothing cached",
        peers=("docker", "buildah", "podman"),
        budget=("docker", 1.0),
    ),
    "trivial-cached": Case(
        title="the same, fully cached",
        peers=("docker", "buildah", "podman"),
        budget=("docker", 1.5),
    ),
    "files-cold": Case(
        title="COPY of 20,000 files of 2 KB, nothing cached",
        peers=("docker", "buildah", "podman"),
        budget=("docker", 1.0),
    ),
    "files-cached": Case(
        title="the same, fully cached",
        peers=("docker", "buildah", "podman"),
        budget=("docker", 1.5),
    ),
    "files-touch": Case(
        title="the same, one file of the 20,000 changed",
        peers=("docker", "buildah", "podman"),
        budget=("docker", 1.0),
    ),
    "cut-off": Case(
        title="a RUN in other words with the same result, above one of two seconds",
        peers=("docker", "buildah", "podman"),
        budget=("docker", 0.5),
    ),
    "stages": Case(
        title="four independent stages of `sleep 2`, four at once",
        peers=("docker", "buildah-jobs", "podman"),
        budget=("docker", 1.1),
    ),
    "run": Case(
        title="run --rm --network host IMAGE /bin/true, ten layers",
        peers=("podman", "docker", "runc", "crun", "minirun"),
        budget=("podman", 0.5),
    ),
    "pull-large": Case(
        title="pull of an image with a layer of 1 GiB; `copy` is the plain copy of its bytes",
        peers=("docker", "podman", "skopeo", "copy"),
        budget=("docker", 1.0),
    ),
    "pull-files": Case(
        title="the same with a layer of 20,000 files",
        peers=("docker", "podman", "skopeo", "copy"),
        budget=("docker", 1.0),
    ),
    "push-large": Case(
        title="push of the image with a layer of 1 GiB to an empty registry",
        peers=("docker", "podman", "skopeo", "copy"),
        budget=("docker", 1.0),
    ),
    "push-files": Case(
        title="the same with the layer of 20,000 files",
        peers=("docker", "podman", "skopeo", "copy"),
        budget=("docker", 1.0),
    ),
    "cli": Case(title="--version", peers=("docker", "buildah", "podman"), budget=None),
}
_BUILD = "build --progress plain --jobs 4 -t {tag} -f {file} {context}"
# `minirun` and the runtimes have only the namespaces to make, on a bundle that is mounted already.


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one tool needed, each time."""

    peer: str
    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """Wall seconds."""
        return statistics.median(self.seconds)


def main() -> int:
    """Run the cases asked for and print the table; 1 when a budget is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--lamina", type=Path, help="the command to measure")
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    parser.add_argument("-n", type=int, default=5, help="samples of each (default 5)")
    parser.add_argument("--json", type=Path, help="append the raw values to this file")
    parser.add_argument("--no-gate", action="store_true", help="do not wait for an idle machine")
    options = parser.parse_args()
    lamina = options.lamina or shutil.which("lamina")
    if not lamina:
        print("no lamina: say --lamina PATH, or `make bench`", file=sys.stderr)
        return 2
    if not (PEERS / "bench.py").exists():
        print(f"no peers in {PEERS}: LAMINA_PEERS names another place", file=sys.stderr)
        return 2
    late = []
    print(f"{_machine()}, {options.n} samples each\n")
    with tempfile.TemporaryDirectory(prefix="lamina-bench-", dir="/var/tmp") as work:
        environment = _environment(Path(lamina).resolve(), Path(work) / "store")
        for name in options.case or CASES:
            raw = Path(work) / f"{name}.json"
            problems = _measure(name, raw, environment, options)
            results = {result.peer: result for result in _read(raw)}
            print("\n".join(_table(name, results, problems)), flush=True)
            late += [name] if _is_late(name, results) else []
            if options.json and raw.exists():
                with options.json.open("a") as file:
                    file.write(raw.read_text())
    print(f"over budget: {', '.join(late)}" if late else "all within budget")
    return 1 if late else 0


def _environment(lamina: Path, store: Path) -> dict[str, str]:
    """Our commands, as the peers' program wants to be told."""
    tool = shlex.quote(str(lamina))
    pinned = f"env LAMINA_ROOT={shlex.quote(str(store))} {tool}"
    return os.environ | {
        "PROJECT_BUILD": f"{pinned} {_BUILD}",
        "PROJECT_RUN": f"{pinned} run --rm --network host {{tag}} {{cmd}}",
        "PROJECT_IMPORT": f"{pinned} import {{tar}} {{ref}}",
        "PROJECT_RESET": f"rm -rf {shlex.quote(str(store))}",
        "PROJECT_PULL": f"{pinned} pull -q {{ref}}",
        "PROJECT_PUSH": f"{pinned} push -q {{ref}} {{to}}",
        "PROJECT_VERSION": f"{pinned} --version",
        "PROJECT_STORE": str(store),
    }


def _measure(
    name: str, raw: Path, environment: dict[str, str], options: argparse.Namespace
) -> list[str]:
    """Let the peers' program measure one case; returns its complaints."""
    peers = ",".join((OURS, *CASES[name].peers))
    base = {"tar": STATE / "rootfs/busybox.tar", "ref": "127.0.0.1:5000/peers/busybox:latest"}
    words = shlex.split(environment["PROJECT_IMPORT"])
    subprocess.run([word.format(**base) for word in words], capture_output=True, check=False)
    argv = [sys.executable, str(REPOSITORY / "bench/cases.py"), name, peers, "-n", str(options.n)]
    argv += ["--json", str(raw), *(["--no-gate"] if options.no_gate else [])]
    done = subprocess.run(
        argv,
        env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (done.stdout + done.stderr).splitlines()
    said = [line for line in lines if "FAILED" in line or "not usable" in line or "samples" in line]
    return said or ([] if done.returncode == 0 else lines[-3:])


def _read(raw: Path) -> Iterator[Result]:
    if not raw.exists():
        return
    for line in raw.read_text().splitlines():
        row = json.loads(line)
        if row["metric"] == "s":
            yield Result(peer=row["peer"], seconds=tuple(row["values"]))


def _table(name: str, results: dict[str, Result], problems: list[str]) -> Iterator[str]:
    case = CASES[name]
    yield f"### {name}: {case.title}\n"
    yield "| tool | median s | min s | max s | samples | lamina / tool |"
    yield "|---|---:|---:|---:|---:|---:|"
    ours = results.get(OURS)
    for who, result in results.items():
        shown = "lamina" if who == OURS else who
        ratio = f"{ours.median_s / result.median_s:.2f}" if ours and who != OURS else ""
        yield (
            f"| {shown} | {result.median_s:.4f} | {min(result.seconds):.4f} "
            f"| {max(result.seconds):.4f} | {len(result.seconds)} | {ratio} |"
        )
    yield ""
    if case.budget and ours and case.budget[0] in results:
        met = "over" if _is_late(name, results) else "within"
        yield f"budget: {case.budget[1]} x {case.budget[0]}, {met}"
    yield from problems
    yield ""


def _is_late(name: str, results: dict[str, Result]) -> bool:
    if OURS not in results:
        return True
    peer, share = CASES[name].budget or ("", 0.0)
    return peer in results and results[OURS].median_s > share * results[peer].median_s


def _machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return (
        f"{os.cpu_count()} x {model}, Linux {os.uname().release}, Python {sys.version.split()[0]}"
    )


if __name__ == "__main__":
    sys.exit(main())
