"""Build every build case of the conformance material and compare with the recorded reference.

    python tests/endtoend/conformance_run.py [-k PART] [-x] [--keep DIR] [--list] [--beside-buildah]

A case passes, fails (with the differences), or is refused: lamina said that a feature is not
supported. Exit code 1 when a case fails. `test_conformance.py` runs the same cases.

With --beside-buildah every case that needs no large base is built by buildah as well, in the same
run and of the same context, and three comparisons are told: ours with the reference, buildah's
with the reference, ours with buildah's. `test_differential.py` does so with a sample of them.
"""

import argparse
import collections
import contextlib
import functools
import hashlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support import conformance
from tests.support.cli import Lamina
from tests.support.imagetree import Entry, OciLayout, difference
from tests.support.peers import Containers, PeerError
from tests.support.tally import HEAD

Outcome = Literal["pass", "refused", "fail"]
JSON = Any

# What a refusal looks like; the group is the feature.
_REFUSED = re.compile(r"(?:lamina: )?(.*) is not supported by this version of lamina")
_IMAGE_NAME = re.compile(r"[a-z0-9][a-z0-9._/-]*(:[0-9A-Za-z._-]+)?")

# Cases that we answer otherwise on purpose: name -> why.
EXCEPTIONS: dict[str, str] = {
    "buildkit/testMountTmpfsSize": "every mount of ours is nodev, and `mount` says so",
}

# Here buildah must agree as well, so that it is known that the comparison compares: wildcards,
# links, modes, archives, ignore files, accounts, ONBUILD and every field of the configuration.
ALL_AGREE = (
    "buildah-bud/220-bud-with-ADD-file-construct",
    "buildah-conformance/add-archive-4",
    "buildah-conformance/copy folder contents to higher level",
    "buildah-conformance/dockerignore-includes-star",
    "buildah-conformance/setuid-file-in-other-stage",
    "buildah-conformance/stage-container-as-source-plus-hardlinks",
    "buildkit/testCopyRelative",
    "buildkit/testCopySymlinks",
    "imagebuilder/edgecases-31",
    "moby/TestBuildLabels",
    "moby/TestBuildOpaqueDirectory",
    "moby/TestBuildUsersAndGroups",
)

# What a refusal may name, by its beginning, and why it is refused. A case that needs anything else
# and is refused has failed.
REFUSED: dict[str, str] = {
    "RUN --device": "an image must not depend on devices of the host that built it",
}


def is_refused_on_purpose(feature: str) -> bool:
    """Whether the refused feature is one of those that are known to be refused."""
    return feature.startswith(tuple(REFUSED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    name: str
    outcome: Outcome
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a builder made of one step; without a tree it failed."""

    log: str
    tree: dict[str, Entry] | None = None
    config: JSON = None


class Ours:
    """lamina, with a store of its own."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.lamina = Lamina(root=work / "store")
        self.layout = OciLayout(work / "store")
        self._imported: set[str] = set()

    def need(self, kinds: set[str]) -> None:
        """Import the bases that are not there yet."""
        conformance.import_bases(self.lamina, kinds - self._imported, self.work)
        self._imported |= kinds

    def build(self, step: JSON, words: list[str], names: list[str]) -> Built:
        tags = [word for name in names for word in ("-t", name)]
        done = self.lamina(
            *("build", "--progress", "plain", *tags, *words),
            env=step.get("env", {}),
            check=False,
            timeout_s=300,
        )
        if done.returncode != 0:
            return Built(log=done.stderr)
        name = _full(names[-1])
        return Built(log="", tree=self.layout.tree(name), config=self.layout.config(name))


class Buildah:
    """buildah, with a storage of its own; `close` removes it."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.containers = Containers()
        self.close = self.containers.close
        self._imported: set[str] = set()

    def need(self, kinds: set[str]) -> None:
        """Import the bases that are not there yet."""
        for kind in sorted(kinds - self._imported):
            self.containers.import_base(kind, self.work)
        self._imported |= kinds

    def build(self, step: JSON, words: list[str], names: list[str]) -> Built:
        tags = [word for name in names for word in ("-t", name)]
        try:
            self.containers("buildah", *_BUILDAH, *tags, *words, env=step.get("env", {}))
            with tempfile.TemporaryDirectory(dir=self.work) as folder:
                layout = self.containers.layout_of(names[-1], Path(folder, "pushed"))
                return Built(log="", tree=layout.tree(""), config=_plain(layout.config("")))
        except PeerError as error:
            return Built(log=str(error).partition("\n")[2])


_BUILDAH = (
    *("build", "-q", "--format=docker", "--identity-label=false"),
    *("--network=host", "--no-cache", "--pull=never"),
)


class Runner:
    """One store with the bases, and the cases built in it one after the other."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.ours = Ours(work)

    def run(self, case: JSON) -> Verdict:
        """Build all steps and compare each; stops at the first step that is refused."""
        self.ours.need(conformance.base_kinds(case))
        names: list[str | None] = []
        details: list[str] = []
        for number, (step, words) in enumerate(_steps(case, self.work)):
            built = self.ours.build(step, words, _tags(step, number))
            if refusal := _refusal(built):
                return Verdict(name=case["name"], outcome="refused", details=(refusal,))
            names.append(_full(_own_name(number)) if built.tree is not None else None)
            problems = [*self.against_reference(step, built), *self.checks(step, names)]
            details += [f"step {number}: {problem}" for problem in problems]
        outcome: Outcome = "fail" if details else "pass"
        return Verdict(name=case["name"], outcome=outcome, details=tuple(details))

    def against_reference(self, step: JSON, built: Built) -> Iterator[str]:
        """How the result differs from the recorded one."""
        reference = step["reference"]
        if built.tree is None:
            if reference["result"] == "ok":
                lines = [line for line in built.log.splitlines() if line.strip()]
                yield from (f"failed: {line}" for line in lines[-12:])
            elif "Traceback" in built.log:
                yield "a traceback"
        elif reference["result"] != "ok":
            yield f"built, but should fail: {reference.get('error', '')[:300]}"
        else:
            base = self._base(reference["base"])
            yield from conformance.tree_difference(reference, base, built.tree)
            yield from conformance.config_difference(reference, built.config)

    def checks(self, step: JSON, names: list[str | None]) -> Iterator[str]:
        """Upstream's own assertions that do not hold."""
        if step["reference"]["result"] == "ok":
            for op in step["checks"]:
                problem = conformance.check(
                    op, layout=self.ours.layout, names=names, lamina=self.ours.lamina
                )
                if problem:
                    yield problem

    @functools.cache  # noqa: B019  one runner per process
    def _base(self, kind: str) -> dict[str, Entry]:
        if kind == "scratch":
            return {}
        self.ours.need({kind})
        return self.ours.layout.tree(_full(conformance.base_names(kind)[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One case built twice: the differences of each pair, nothing where there is none.

    `refused` is the feature that lamina refused, if any; then the case was not compared.
    """

    name: str
    ours: tuple[str, ...] = ()  # to the reference
    theirs: tuple[str, ...] | None = None  # to the reference; None without buildah
    apart: tuple[str, ...] | None = None  # ours to theirs
    refused: str = ""

    def row(self) -> str:
        """The line of the table: three answers, and the first difference."""
        pairs = (None, None, None) if self.refused else (self.ours, self.theirs, self.apart)
        cells = ["-" if lines is None else "DIFFERS" if lines else "same" for lines in pairs]
        first = self.refused and f"refused: {self.refused}"
        first = first or next((lines[0] for lines in pairs if lines), "")
        return "".join(f"{cell:9}" for cell in cells) + self.name + (first and f": {first[:120]}")

    def answers(self) -> str:
        """The three answers in words."""
        if self.refused:
            return "refused"
        pairs = {"ours=ref": self.ours, "buildah=ref": self.theirs, "ours=buildah": self.apart}
        return ", ".join(
            f"{pair} {'not compared' if lines is None else 'differs' if lines else 'same'}"
            for pair, lines in pairs.items()
        )


class Differential:
    """Builds the cases with lamina and buildah, in the same run and of the same context.

    Without buildah only ours are compared.
    """

    def __init__(self, work: Path, buildah: Buildah | None) -> None:
        self.runner = Runner(work)
        self.buildah = buildah

    def run(self, case: JSON) -> Comparison:
        """Build all steps with both, each after its own earlier ones."""
        kinds = conformance.base_kinds(case)
        self.runner.ours.need(kinds)
        if self.buildah:
            self.buildah.need(kinds)
        ours, theirs, apart = list[str](), list[str](), list[str]()
        names: list[str | None] = []
        for number, (step, words) in enumerate(_steps(case, self.runner.work)):
            mine = self.runner.ours.build(step, words, _tags(step, number))
            if refusal := _refusal(mine):
                return Comparison(name=case["name"], refused=refusal)
            names.append(_full(_own_name(number)) if mine.tree is not None else None)
            at = f"step {number}: " if len(case["steps"]) > 1 else ""
            ours += [at + line for line in self.runner.against_reference(step, mine)]
            ours += [at + line for line in self.runner.checks(step, names)]
            if self.buildah:
                other = self.buildah.build(step, words, _tags(step, number))
                other = _without_stubs(other, mine)
                theirs += [at + line for line in self.runner.against_reference(step, other)]
                apart += [at + line for line in _apart(step, mine, other)]
        return Comparison(
            name=case["name"],
            ours=tuple(ours),
            theirs=tuple(theirs) if self.buildah else None,
            apart=tuple(apart) if self.buildah else None,
        )


def small_cases() -> list[str]:
    """The cases with busybox, or nothing, below them."""
    return [
        name
        for name, case in conformance.cases().items()
        if "debian" not in conformance.base_kinds(case)
    ]


def sample() -> list[str]:
    """Two fifths of the small cases, by the digest of their names; about a hundred."""
    return [name for name in small_cases() if hashlib.sha256(name.encode()).digest()[0] % 5 < 2]


def _steps(case: JSON, work: Path) -> Iterator[tuple[JSON, list[str]]]:
    """The steps with their command lines; the contexts vanish when the iteration is over."""
    with tempfile.TemporaryDirectory(dir=work, prefix="case-") as folder:
        for number, step in enumerate(case["steps"]):
            place = Path(folder, str(number))
            place.mkdir()
            with _server(step) as server:
                yield step, conformance.build_arguments(step, place, server)


def _tags(step: JSON, number: int) -> list[str]:
    """What the step calls its image, for later steps, and the name by which we find it."""
    name = step.get("tag", "").replace("{{REGISTRY}}", "registry.invalid")
    # none, or another tool's way to name an archive
    return [*([name] if _IMAGE_NAME.fullmatch(name) else []), _own_name(number)]


def _own_name(number: int) -> str:
    return f"case-step-{number}"


def _refusal(built: Built) -> str:
    """The feature that lamina said it does not support; empty where it built or failed."""
    refused = _REFUSED.search(built.log)
    return refused[1] if refused else ""


def _without_stubs(theirs: Built, ours: Built) -> Built:
    """Without the mount points that buildah needed and commits; Docker takes them away."""
    if theirs.tree is None:
        return theirs
    there = ours.tree or {}
    stubs = [
        name
        for name in ("etc/hosts", "etc/hostname", "etc/resolv.conf", "run", "etc")
        if name not in there
    ]
    return replace(
        theirs, tree={name: entry for name, entry in theirs.tree.items() if name not in stubs}
    )


def _apart(step: JSON, ours: Built, theirs: Built) -> Iterator[str]:
    if ours.tree is None or theirs.tree is None:
        if ours.tree is not None:
            yield f"buildah fails: {theirs.log.strip().splitlines()[-1]}"
        if theirs.tree is not None:
            yield "buildah builds, and lamina fails"
        return
    volatile = step["reference"].get("volatile", [])
    yield from difference(_settled(theirs.tree, volatile), _settled(ours.tree, volatile))
    wanted, got = _fields(theirs.config), _fields(ours.config)
    for name in sorted({*wanted, *got}):
        if wanted.get(name) != got.get(name):
            yield (
                f"config {name} is {json.dumps(got.get(name))}, "
                f"with buildah {json.dumps(wanted.get(name))}"
            )


def _settled(tree: dict[str, Entry], volatile: list[str]) -> dict[str, Entry]:
    """The tree without what differs from one build to the next."""
    return {
        name: replace(entry, size=0, sha256="") if name in volatile else entry
        for name, entry in tree.items()
    }


def _plain(document: JSON) -> JSON:
    """Without the notes that Docker's older builder kept in its images, and buildah still does."""
    notes = ("ArgsEscaped", "Hostname", "Domainname", "Image")
    config = {key: value for key, value in (document["config"] or {}).items() if key not in notes}
    return {**document, "config": config}


def _fields(document: JSON) -> dict[str, JSON]:
    """The fields that say something, in comparable form."""
    config = {key: value for key, value in (document["config"] or {}).items() if value}
    config["Env"] = sorted(config.get("Env", []))
    config["WorkingDir"] = config.get("WorkingDir", "/")
    config["architecture"], config["os"] = document["architecture"], document["os"]
    return config


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
    parser.add_argument(
        "--beside-buildah", action="store_true", help="build with buildah too, and compare"
    )
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
        if options.beside_buildah:
            return _run_both(folder.resolve(), chosen)
        verdicts = list(_run_all(Runner(folder.resolve()), chosen, stop=options.x))
    return _summary(verdicts)


def _run_both(folder: Path, chosen: list[JSON]) -> int:
    names = set(small_cases())
    failed = 0
    print(HEAD)
    with contextlib.closing(Buildah(folder)) as buildah:
        differential = Differential(folder, buildah)
        for case in chosen:
            if case["name"] in names:
                found = differential.run(case)
                print(found.row(), flush=True)
                failed += bool(found.ours) and found.name not in EXCEPTIONS
    return 1 if failed else 0


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
