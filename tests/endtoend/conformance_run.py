"""Build every build case of the conformance material and compare with the recorded reference.

    python tests/endtoend/conformance_run.py [-k PART] [-x] [--keep DIR] [--list]

A case passes, fails (with the differences), or is refused: lamina said that a feature is not
supported yet. Exit code 1 when a case fails. `test_conformance.py` runs the same cases.
"""

import argparse
import collections
import contextlib
import functools
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support import conformance
from tests.support.cli import Lamina
from tests.support.imagetree import Entry, OciLayout

Outcome = Literal["pass", "refused", "fail"]
JSON = Any

# What a refusal looks like; the group is the feature.
_REFUSED = re.compile(r"(?:lamina: )?(.*) is not supported by this version of lamina")
_IMAGE_NAME = re.compile(r"[a-z0-9][a-z0-9._/-]*(:[0-9A-Za-z._-]+)?")

# Cases that we answer otherwise on purpose: name -> why.
EXCEPTIONS: dict[str, str] = {
    "buildkit/testMountTmpfsSize": "every mount of ours is nodev, and `mount` says so",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    name: str
    outcome: Outcome
    details: tuple[str, ...] = ()


class Runner:
    """One store with the bases, and the cases built in it one after the other."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.lamina = Lamina(root=work / "store")
        self.layout = OciLayout(work / "store")
        self._imported: set[str] = set()

    def run(self, case: JSON) -> Verdict:
        """Build all steps and compare each; stops at the first step that is refused."""
        kinds = conformance.base_kinds(case) - self._imported
        conformance.import_bases(self.lamina, kinds, self.work)
        self._imported |= kinds
        names: list[str | None] = []
        details: list[str] = []
        with tempfile.TemporaryDirectory(dir=self.work, prefix="case-") as folder:
            for number, step in enumerate(case["steps"]):
                refusal, problems = self._step(step, Path(folder) / str(number), names)
                if refusal:
                    return Verdict(name=case["name"], outcome="refused", details=(refusal,))
                details += [f"step {number}: {problem}" for problem in problems]
        outcome: Outcome = "fail" if details else "pass"
        return Verdict(name=case["name"], outcome=outcome, details=tuple(details))

    def _step(self, step: JSON, work: Path, names: list[str | None]) -> tuple[str, list[str]]:
        work.mkdir()
        name = step.get("tag", "").replace("{{REGISTRY}}", "registry.invalid")
        if not _IMAGE_NAME.fullmatch(name):  # none, or another tool's way to name an archive
            name = f"case-step-{len(names)}"
        with _server(step) as server:
            words = conformance.build_arguments(step, work, server)
            done = self.lamina(
                *("build", "--progress", "plain", "-t", name, *words),
                env=step.get("env", {}),
                check=False,
                timeout_s=300,
            )
        refused = _REFUSED.search(done.stderr)
        if done.returncode != 0 and refused:
            return refused[1], []
        reference = step["reference"]
        ok = done.returncode == 0
        names.append(_full(name) if ok else None)
        if ok != (reference["result"] == "ok"):
            if ok:
                return "", [f"built, but should fail: {reference.get('error', '')[:300]}"]
            return "", [f"failed: {line}" for line in done.stderr.strip().splitlines()[-12:]]
        if not ok:
            return "", ["a traceback"] if "Traceback" in done.stderr else []
        return "", list(self._problems(step, names))

    def _problems(self, step: JSON, names: list[str | None]) -> Iterator[str]:
        name, reference = names[-1], step["reference"]
        assert name is not None
        tree = self.layout.tree(name)
        yield from conformance.tree_difference(reference, self._base(reference["base"]), tree)
        yield from conformance.config_difference(reference, self.layout.config(name))
        for op in step["checks"]:
            problem = conformance.check(op, layout=self.layout, names=names, lamina=self.lamina)
            if problem:
                yield problem

    @functools.cache  # noqa: B019  one runner per process
    def _base(self, kind: str) -> dict[str, Entry]:
        if kind == "scratch":
            return {}
        return self.layout.tree(_full(conformance.base_names(kind)[0]))


@contextlib.contextmanager
def _server(step: JSON) -> Iterator[str]:
    if "http" not in step:
        yield ""
        return
    with conformance.http_server(step["http"]) as address:
        yield address


def _full(name: str) -> str:
    """The name under which the store's index has the image."""
    name = name.removeprefix("docker.io/library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("-k", default="", metavar="PART", help="cases with PART in their name")
    parser.add_argument("-x", action="store_true", help="stop at the first failure")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work in DIR and leave it there")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    options = parser.parse_args()
    chosen = [case for name, case in conformance.cases().items() if options.k in name]
    if options.list:
        print("\n".join(case["name"] for case in chosen))
        return 0
    if not chosen:
        print(f"no such case in {conformance.MATERIAL}")
        return 1
    with contextlib.ExitStack() as stack:
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        verdicts = list(_run_all(Runner(folder.resolve()), chosen, stop=options.x))
    return _summary(verdicts)


def _run_all(runner: Runner, chosen: list[JSON], *, stop: bool) -> Iterator[Verdict]:
    for case in chosen:
        start = time.monotonic()
        verdict = runner.run(case)
        seconds = time.monotonic() - start
        print(f"{verdict.outcome:8} {seconds:6.2f} s  {verdict.name}", flush=True)
        if verdict.outcome == "fail":
            print("\n".join(f"    {line}" for line in verdict.details[:40]), flush=True)
        yield verdict
        if stop and verdict.outcome == "fail":
            return


def _summary(verdicts: list[Verdict]) -> int:
    counts = collections.Counter(verdict.outcome for verdict in verdicts)
    refused = collections.Counter(v.details[0] for v in verdicts if v.outcome == "refused")
    for feature, count in refused.most_common():
        print(f"refused {count:4}  {feature}")
    failed = [v.name for v in verdicts if v.outcome == "fail" and v.name not in EXCEPTIONS]
    print(f"{counts['pass']} passed, {counts['refused']} refused, {counts['fail']} failed")
    if failed:
        print("failed:", *failed, sep="\n  ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
