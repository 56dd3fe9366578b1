"""What the walls cost: one program with the default profile, and with hardly any, in turns.

    python bench/walls.py [--lamina PATH] [-n N]

Three things are measured, whole processes but for the last one:

    run       lamina run --rm --network none busybox /bin/true
    RUN       lamina build --no-cache of one RUN
    sandbox   the executor alone, from here: start /bin/true, and wait for it

The bare side has all capabilities, no filter, and nothing of /proc and /sys hidden. Turns are taken
in random order. Compared are the medians, the fastest quarters (strangers on a machine only ever
make things slower), and the processor time. It ends with an error when the default profile costs
more than BUDGET_MS more, by the fastest quarters.
"""

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
BUDGET_MS = 3.0
BARE = (
    *("--cap-add=ALL", "--security-opt=seccomp=unconfined"),
    "--security-opt=systempaths=unconfined",
)

Act = Callable[[], None]


def command(line: list[str], root: Path, folder: Path) -> Act:
    """Run a command line to its end; another exit code than 0 is an error."""
    environment = {**os.environ, "LAMINA_ROOT": str(root)}

    def act() -> None:
        subprocess.run(line, env=environment, cwd=folder, check=True, capture_output=True)

    return act


def sandboxes(root: Path, folder: Path) -> tuple[Act, Act]:
    """The executor alone, on the directories of the image."""
    from builder.sandbox import (
        ALL_CAPABILITIES,
        LocalExecutor,
        OverlayRoot,
        Program,
        SandboxSpec,
        Stdio,
    )

    (lower,) = (root / "lamina/snapshots").iterdir()
    upper, work = folder / "upper", folder / "work"
    upper.mkdir()
    work.mkdir()
    overlay = OverlayRoot(lowerdirs=(lower,), upperdir=upper, workdir=work, volatile=True)
    full = SandboxSpec(root=overlay, program=Program(argv=("/bin/true",)))
    bare = replace(
        full,
        program=replace(full.program, capabilities=ALL_CAPABILITIES, seccomp="unconfined"),
        hide_system_paths=False,
    )
    null = os.open(os.devnull, os.O_RDWR)
    executor = LocalExecutor()

    def starting(spec: SandboxSpec) -> Act:
        def act() -> None:
            status = executor.start(spec, Stdio(stdin=null, stdout=null, stderr=null)).wait()
            assert status.shell_code == 0

        return act

    return starting(full), starting(bare)


class Times(NamedTuple):
    """Milliseconds of one side."""

    real: list[float]
    processor: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.real)

    @property
    def fastest(self) -> float:
        return least(self.real)


def compare(full: Act, bare: Act, count: int) -> tuple[Times, Times]:
    """Do both in turns."""
    times = {full: Times([], []), bare: Times([], [])}
    for act in times:
        act()  # what is read once
    for _ in range(count):
        for act in random.sample((full, bare), 2):
            start, used = time.perf_counter(), processor_s()
            act()
            times[act].real.append(1000 * (time.perf_counter() - start))
            times[act].processor.append(1000 * (processor_s() - used))
    return times[full], times[bare]


def least(times: list[float]) -> float:
    """The mean of the least quarter."""
    return statistics.mean(sorted(times)[: max(1, len(times) // 4)])


def processor_s() -> float:
    """What this process and all that it has waited for have taken."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    """Measure, print a table, and hold the budget."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lamina", type=os.path.abspath, default=REPOSITORY / ".venv/bin/lamina")
    parser.add_argument("-n", type=int, default=40)
    given = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    with tempfile.TemporaryDirectory() as scratch:
        folder, root = Path(scratch), Path(scratch) / "store"
        command([given.lamina, "bootstrap", "busybox"], root, folder)()
        command([given.lamina, "run", "--rm", "busybox", "true"], root, folder)()
        (folder / "full").write_text("FROM busybox\nRUN true\n")
        (folder / "bare").write_text("FROM busybox\nRUN --security=insecure true\n")
        run = [given.lamina, "run", "--rm", "--network=none"]
        build = [given.lamina, "build", "-q", "--no-cache", "--allow=security.insecure"]
        pairs = {
            "run": (
                command([*run, "busybox", "/bin/true"], root, folder),
                command([*run, *BARE, "busybox", "/bin/true"], root, folder),
            ),
            "RUN": (
                command([*build, "-f", "full", "."], root, folder),
                command([*build, "-f", "bare", "."], root, folder),
            ),
            "sandbox": sandboxes(root, folder),
        }
        print("| | default | bare | difference | of the fastest | of processor time |")
        print("|---|---:|---:|---:|---:|---:|")
        worst = 0.0
        for name, (full, bare) in pairs.items():
            with_walls, without = compare(full, bare, given.n)
            fastest = with_walls.fastest - without.fastest
            used = least(with_walls.processor) - least(without.processor)
            worst = max(worst, fastest)
            print(
                f"| {name} | {with_walls.median:.1f} ms | {without.median:.1f} ms "
                f"| {with_walls.median - without.median:+.1f} ms | {fastest:+.1f} ms "
                f"| {used:+.1f} ms |",
                flush=True,
            )
    if worst > BUDGET_MS:
        sys.exit(f"the walls cost {worst:.1f} ms, and may cost {BUDGET_MS}")


if __name__ == "__main__":
    main()
