"""Random Dockerfiles with contexts, and random edits of them, for builds by the fake executor.

A project is data: stages of small instructions, files, and build arguments. `edits` draws one
change of a project together with what it should be called: the kind and name of the difference
that a build explains itself with.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import strategies as st

Instruction = tuple[str, ...]  # keyword and its words

VALUES = ("one", "two", "three")
FILES = ("a.txt", "d/f", "d/g", "d/e/h")
VARIABLES = ("ALPHA", "BETA")


@dataclass(frozen=True, kw_only=True)
class Project:
    """`stages` begin with what they stand on: `scratch`, `base`, or the number of a stage."""

    stages: tuple[tuple[str, tuple[Instruction, ...]], ...]
    files: Mapping[str, tuple[str, int]]  # content and mode
    build_args: Mapping[str, str]

    @property
    def dockerfile(self) -> str:
        lines = []
        for number, (base, instructions) in enumerate(self.stages):
            lines.append(f"FROM {f's{base}' if base.isdigit() else base} AS s{number}")
            lines.append(f"RUN echo {number} > /mark{number}")
            lines += [" ".join(instruction) for instruction in instructions]
        return "\n".join(lines) + "\n"

    def write(self, directory: Path) -> Path:
        """Make the context what the project says; what is as it should be stays untouched."""
        directory.mkdir(exist_ok=True)
        for path in [path for path in directory.rglob("*") if path.is_file()]:
            if str(path.relative_to(directory)) not in self.files:
                path.unlink()
        for name, (content, mode) in self.files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_text() != content:
                path.write_text(content)
            if path.stat().st_mode & 0o777 != mode:
                path.chmod(mode)
        return directory


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A project after one change. `kind` and `name` are empty where nothing may miss by it."""

    after: Project
    kind: str = ""
    name: str = ""
    touched: str = ""  # a file that gets another time, and nothing else

    def carry_out(self, directory: Path) -> None:
        self.after.write(directory)
        if self.touched:
            os.utime(directory / self.touched, (12345, 12345))


@st.composite
def projects(draw: st.DrawFn) -> Project:
    stages = []
    for number in range(draw(st.integers(1, 3))):
        bases = ["scratch", "base", *map(str, range(number))]
        instructions = draw(st.lists(_instructions(number), max_size=5))
        stages.append((draw(st.sampled_from(bases)), tuple(instructions)))
    files = {name: (draw(st.sampled_from(VALUES)), 0o644) for name in FILES}
    build_args = {name: draw(st.sampled_from(VALUES)) for name in VARIABLES if draw(st.booleans())}
    return Project(stages=tuple(stages), files=files, build_args=build_args)


def _instructions(stage: int) -> st.SearchStrategy[Instruction]:
    value, variable = st.sampled_from(VALUES), st.sampled_from(VARIABLES)
    target = st.sampled_from(("/x", "/y"))
    kinds: list[st.SearchStrategy[Instruction]] = [
        st.tuples(st.just("RUN"), st.just("echo"), value, st.just(">"), target),
        st.tuples(st.just("RUN"), st.just("printf"), value.map(lambda text: f"'{text}\\n'"),
                  st.just(">"), target),
        st.tuples(st.just("RUN"), st.just("env"), variable, st.just(">"), target),
        st.tuples(st.just("COPY"), st.sampled_from(("a.txt", "d", ".", "d/f")), st.just("/c/")),
        st.tuples(st.just("COPY"), st.just("--chmod=0600"), st.just("a.txt"), target),
        st.tuples(st.just("COPY"), st.just("--link"), st.just("a.txt"), st.just("/l/")),
        st.tuples(st.just("ENV"), st.tuples(variable, value).map("=".join)),
        st.tuples(st.just("ARG"), st.tuples(variable, value).map("=".join)),
        st.tuples(st.just("RUN"), st.just("--mount=type=bind,target=/src"), st.just("echo"), value,
                  st.just(">"), target),
        st.tuples(st.just("RUN"), st.just("--mount=type=bind,source=d,target=/src"),
                  st.just("echo"), value, st.just(">"), target),
        st.tuples(st.just("RUN"), st.just("<<E\necho"), value, st.just(">"), target,
                  st.just("\ntouch /here\nE")),
        st.tuples(st.just("COPY"), st.just("<<here.txt"), st.just("/h/\n"), value,
                  st.just("\nhere.txt")),
        st.tuples(st.just("WORKDIR"), st.sampled_from(("/w", "v"))),
        st.tuples(st.just("LABEL"), value.map(lambda text: f"l={text}")),
    ]  # fmt: skip
    if stage:
        other = st.integers(0, stage - 1)
        kinds.append(other.map(lambda n: ("COPY", f"--from=s{n}", f"/mark{n}", f"/from{n}")))
        kinds.append(other.map(lambda n: ("RUN", f"--mount=type=bind,from=s{n},target=/m", "pwd")))
    return st.one_of(kinds)


@st.composite
def any_edits(draw: st.DrawFn, project: Project) -> Edit:
    """Any change at all, of which nothing is said."""
    if draw(st.booleans()):
        return draw(edits(project))
    number = draw(st.integers(0, len(project.stages) - 1))
    base, instructions = project.stages[number]
    at = draw(st.integers(0, len(instructions)))
    come = tuple(draw(st.lists(_instructions(number), max_size=2)))
    gone = draw(st.integers(0, 1))
    changed = (*instructions[:at], *come, *instructions[at + gone :])
    return Edit(after=_with_stage(project, number, (base, changed)))


@st.composite
def edits(draw: st.DrawFn, project: Project) -> Edit:
    """A change of one ingredient, and its name."""
    choices = [_edit_file, _edit_mode, _add_file, _remove_file, _touch, _edit_instruction]
    if project.build_args:
        choices.append(_edit_build_arg)
    return draw(draw(st.sampled_from(choices))(project))


@st.composite
def _edit_file(draw: st.DrawFn, project: Project) -> Edit:
    name = draw(st.sampled_from(sorted(project.files)))
    content, mode = project.files[name]
    return _with_file(project, name, (content + "!", mode))


@st.composite
def _edit_mode(draw: st.DrawFn, project: Project) -> Edit:
    name = draw(st.sampled_from(sorted(project.files)))
    content, mode = project.files[name]
    return _with_file(project, name, (content, mode ^ 0o111))


@st.composite
def _add_file(draw: st.DrawFn, project: Project) -> Edit:
    return _with_file(project, f"d/new-{draw(st.sampled_from(VALUES))}", ("new", 0o644))


@st.composite
def _remove_file(draw: st.DrawFn, project: Project) -> Edit:
    name = draw(st.sampled_from(("d/g", "d/e/h")))
    if name not in project.files or len(project.files) < len(FILES):
        return draw(_touch(project))
    files = {each: file for each, file in project.files.items() if each != name}
    return Edit(after=replace(project, files=files), kind="file", name=name)


@st.composite
def _touch(draw: st.DrawFn, project: Project) -> Edit:
    return Edit(after=project, touched=draw(st.sampled_from(sorted(project.files))))


@st.composite
def _edit_instruction(draw: st.DrawFn, project: Project) -> Edit:
    number = draw(st.integers(0, len(project.stages) - 1))
    base, instructions = project.stages[number]
    if not instructions:
        return draw(_touch(project))
    at = draw(st.integers(0, len(instructions) - 1))
    changed, kind, name = _edited(instructions[at])
    if not kind:
        return draw(_touch(project))
    stage = (base, (*instructions[:at], changed, *instructions[at + 1 :]))
    return Edit(after=_with_stage(project, number, stage), kind=kind, name=name)


@st.composite
def _edit_build_arg(draw: st.DrawFn, project: Project) -> Edit:
    name = draw(st.sampled_from(sorted(project.build_args)))
    after = {**project.build_args, name: project.build_args[name] + "!"}
    return Edit(after=replace(project, build_args=after), kind="argument", name=name)


def edit_of(*instructions: Instruction) -> tuple[Project, Edit]:
    """A project of one stage, and the edit of its first instruction."""
    files = dict.fromkeys(FILES, (VALUES[0], 420))
    project = Project(stages=(("scratch", instructions),), files=files, build_args={})
    changed, kind, name = _edited(instructions[0])
    stage = ("scratch", (changed, *instructions[1:]))
    return project, Edit(after=_with_stage(project, 0, stage), kind=kind, name=name)


def _edited(instruction: Instruction) -> tuple[Instruction, str, str]:
    match instruction:
        case ("RUN", "echo", value, sign, target):
            return ("RUN", "echo", f"{value}!", sign, target), "command", "command"
        case ("RUN", mount, "echo", value, sign, target):
            return ("RUN", mount, "echo", f"{value}!", sign, target), "command", "command"
        case ("RUN", "<<E\necho", value, *rest):
            return ("RUN", "<<E\necho", f"{value}!", *rest), "command", "command"
        case ("COPY", "<<here.txt", target, value, end):
            return ("COPY", "<<here.txt", target, f"{value}!", end), "heredoc", "here.txt"
        case ("ENV", pair):
            return ("ENV", f"{pair}!"), "environment", pair.partition("=")[0]
        case ("ARG", pair):
            return ("ARG", f"{pair}!"), "argument", pair.partition("=")[0]
        case ("COPY", "--chmod=0600", *words):
            return ("COPY", "--chmod=0640", *words), "field", "chmod"
        case ("COPY", source, "/c/"):
            return ("COPY", source, "/other/"), "field", "destination"
        case _:
            return instruction, "", ""


def _with_file(project: Project, name: str, file: tuple[str, int]) -> Edit:
    after = replace(project, files={**project.files, name: file})
    return Edit(after=after, kind="file", name=name)


def _with_stage(
    project: Project, number: int, stage: tuple[str, tuple[Instruction, ...]]
) -> Project:
    stages = (*project.stages[:number], stage, *project.stages[number + 1 :])
    return replace(project, stages=stages)
