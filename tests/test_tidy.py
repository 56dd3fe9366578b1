"""Properties of the code itself: which room may know which, and where each outside thing lives.

Every rule is a function from the parsed sources to complaints. It is tried on a seeded violation
before it is believed, and then on the repository.
"""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
ROOMS = ("grammar", "layerstore", "builder")

# A room, and the rooms it may know. The longest matching name is the room of a file.
MAY_KNOW: dict[str, tuple[str, ...]] = {
    "grammar": (),
    "layerstore": (),
    "layerstore.registry": ("layerstore",),
    "builder": (
        "grammar",
        "layerstore",
        "layerstore.registry",
        "builder.sandbox",
        "builder.network",
        "builder.lower",
        "builder.check",
    ),
    "builder.__main__": ("builder.cli",),
    "builder.check": ("grammar", "layerstore", "builder", "builder.lower"),
    "builder.lower": ("grammar", "layerstore", "builder", "builder.sandbox"),
    "builder.sandbox": (),
    "builder.network": ("builder", "builder.sandbox"),
    "builder.runner": ("layerstore", "builder", "builder.sandbox", "builder.network"),
    "builder.inspect": ("grammar", "layerstore", "builder"),
    "builder.cli": (
        "grammar",
        "layerstore",
        "layerstore.registry",
        "builder",
        "builder.sandbox",
        "builder.network",
        "builder.runner",
        "builder.inspect",
        "builder.check",
    ),
}
# Rooms whose files other rooms must not name: only what `__init__` gives is the contract.
WALLED = (
    "grammar",
    "layerstore",
    "layerstore.registry",  # is inside layerstore, and may name its files, as its transports do
    "builder.sandbox",
    "builder.network",
    "builder.runner",
    "builder.check",
)
# What of `builder` itself the rooms inside it may use, where that is less than everything.
OF_BUILDER: dict[str, tuple[str, ...]] = {
    "builder.network": ("builder.errors", "builder.interpreter"),
    "builder.runner": (
        "builder.errors",
        "builder.interpreter",
        "builder.snapshot",
        "builder.platforms",
        "builder.timetravel",
        "builder.sizes",  # `--memory 64m` and `--mount=type=tmpfs,size=64m` are read alike
    ),
}

# Outside modules that have a home. Reasons for a second home stand beside it.
HOMES: dict[str, tuple[str, ...]] = {
    "lark": ("grammar/parse.py",),
    "zstandard": ("layerstore/compression.py",),
    "isal": ("layerstore/compression.py",),
    "sqlite3": ("layerstore/database.py",),
    "click": ("builder/cli/",),
    "rich": ("builder/cli/",),
    "ctypes": ("builder/sandbox/syscalls.py",),
    # Locks of the store; of containers and of addresses, which are no part of it.
    "fcntl": (
        "builder/network/",
        "builder/sandbox/questions.py",  # ioctl, called for every question
        "layerstore/locks.py",
        "builder/runner/liveness.py",
        "builder/runner/runnable.py",
    ),
    "termios": ("builder/sandbox/terminal.py", "builder/cli/"),  # raw mode of the user's terminal
    # Files by URL, which is BuildKit's affair, and registries.
    "urllib3": ("builder/fetch.py", "layerstore/registry/connection.py"),
    # Programs of the host are run to make base images and to fetch repositories (git), no others.
    # Credential helpers are programs by docker's definition.
    "subprocess": (
        "builder/bootstrap.py",
        "builder/gitcheckout.py",
        "layerstore/registry/helpers.py",
    ),
    "multiprocessing": (),
    # The live view and blobs being written, while a fork server does the forking; transfers, whose
    # threads end before anything is forked; a lock, no thread, in what copies write to.
    "threading": (
        "builder/cli/progress.py",
        "layerstore/packing.py",
        "layerstore/registry/",
        "layerstore/transports/places.py",
    ),
    "asyncio": ("builder/network/proxy.py",),  # a process of its own, which forks nothing
    "tarfile": (),  # hangs and leaks on hostile archives: tarcodec.py reads and writes ours
    "pickle": ("builder/inputs.py",),  # syntax trees, by an unpickler that makes nothing else
}

# Functions that have a home, because elsewhere they are wrong.
CALLS: dict[str, tuple[str, ...]] = {
    "os.fork": ("builder/sandbox/namespaces.py",),
    "os.forkpty": (),
    "os.system": (),
    "os.path.join": (),  # names of images are resolved by descriptor: sandbox/resolve.py
    "os.walk": (),  # recurses, and fails beyond PATH_MAX
    "shutil.rmtree": (),  # layerstore.remove_tree crosses no mount and has no depth limit
    "print": (),  # ruff T20 says the same; `cli` writes through click
}

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """`module` is as written, and one for every imported name that is itself a module of ours."""

    module: str
    line: int
    relative: bool
    for_types: bool  # under `if TYPE_CHECKING:`


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    path: str
    text: str

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def room(self) -> str:
        return room_of(self.module)


Sources = Mapping[str, Source]  # by path
Rule = Callable[[Sources], Iterator[str]]


def room_of(module: str) -> str:
    """The innermost room a module is in; the empty string for what is not ours."""
    parts = module.split(".")
    names = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
    return next((name for name in names if name in MAY_KNOW), "")


@cache
def imports_of(source: Source) -> tuple[Import, ...]:
    tree = ast.parse(source.text)
    for_types = {
        id(node)
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and ast.unparse(guard.test).endswith("TYPE_CHECKING")
        for child in guard.body
        for node in ast.walk(child)
    }
    found: list[Import] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names, relative = [alias.name for alias in node.names], False
        elif isinstance(node, ast.ImportFrom):
            base, relative = node.module or "", node.level > 0
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        found.extend(
            Import(
                module=name, line=node.lineno, relative=relative, for_types=id(node) in for_types
            )
            for name in names
        )
    return tuple(found)


def ours(sources: Sources) -> Iterator[Source]:
    return (source for source in sources.values() if source.room)


def no_relative_imports(sources: Sources) -> Iterator[str]:
    for source in sources.values():
        for item in imports_of(source):
            if item.relative:
                yield f"{source.path}:{item.line}: relative import"


def rooms_look_down(sources: Sources) -> Iterator[str]:
    for source in ours(sources):
        if source.path == "builder/__main__.py":  # `python -m builder` is the command line
            continue
        for item in imports_of(source):
            room = room_of(item.module)
            if room and room != source.room and room not in MAY_KNOW[source.room]:
                yield f"{source.path}:{item.line}: {source.room} must not know {item.module}"


def rooms_are_entered_by_the_door(sources: Sources) -> Iterator[str]:
    modules = {source.module for source in sources.values()}
    for source in ours(sources):
        allowed = OF_BUILDER.get(source.room)
        for item in imports_of(source):
            room = room_of(item.module)
            if room == source.room or item.module not in modules or item.module == room:
                continue
            if item.module in given_by_the_doors(sources):
                continue  # a function that is named as its file: `from grammar import unparse`
            if room in WALLED and not source.room.startswith(f"{room}."):
                yield f"{source.path}:{item.line}: {item.module} is inside another room"
            if room == "builder" and allowed is not None and item.module not in allowed:
                yield f"{source.path}:{item.line}: {source.room} must not use {item.module}"


def given_by_the_doors(sources: Sources) -> set[str]:
    """`room.name` for every name in the `__all__` of a room."""
    names: set[str] = set()
    for room in WALLED:
        door = sources.get(f"{room.replace('.', '/')}/__init__.py")
        for node in ast.parse(door.text).body if door else ():
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names |= {f"{room}.{name}" for name in ast.literal_eval(node.value)}
    return names


def outside_modules_are_at_home(sources: Sources) -> Iterator[str]:
    for source in ours(sources):
        for item in imports_of(source):
            top = item.module.partition(".")[0]
            if top in HOMES and not source.path.startswith(HOMES[top] or ("\0",)):
                yield f"{source.path}:{item.line}: {top} is imported outside its home"


def functions_are_at_home(sources: Sources) -> Iterator[str]:
    for source in ours(sources):
        for node in ast.walk(ast.parse(source.text)):
            name = ""
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
            elif isinstance(node, ast.ImportFrom):
                wanted = {f"{node.module}.{alias.name}" for alias in node.names}
                name = next(iter(wanted & CALLS.keys()), "")
            if name in CALLS and not source.path.startswith(CALLS[name] or ("\0",)):
                yield f"{source.path}:{getattr(node, 'lineno', 0)}: {name} is used outside its home"


def no_import_cycles(sources: Sources) -> Iterator[str]:
    """Imports inside functions count: a cycle hidden from the interpreter is still one."""
    modules = {source.module: source for source in ours(sources)}
    edges = {
        name: sorted(
            {
                item.module
                for item in imports_of(source)
                if item.module in modules and item.module != name and not item.for_types
            }
        )
        for name, source in modules.items()
    }
    done: set[str] = set()
    for start in sorted(edges):
        path: list[str] = []
        stack = [iter([start])]
        while stack:
            name = next(stack[-1], None)
            if name is None:
                stack.pop()
                if path:
                    done.add(path.pop())
            elif name in path:
                yield "import cycle: " + " -> ".join([*path[path.index(name) :], name])
            elif name not in done:
                path.append(name)
                stack.append(iter(edges[name]))


def every_folder_is_a_package(sources: Sources) -> Iterator[str]:
    folders = {source.path.rpartition("/")[0] for source in ours(sources)}
    for folder in sorted(folders):
        if f"{folder}/__init__.py" not in sources:
            yield f"{folder}: no __init__.py, so it would not be installed"
    for source in ours(sources):
        if source.path.rpartition("/")[2].startswith("_") and "/__" not in source.path:
            yield f"{source.path}: the room is the wall, no _private modules"


def no_package_holds_tests(sources: Sources) -> Iterator[str]:
    for path in sources:
        if path.startswith("tests/") and path.endswith("/__init__.py"):
            yield f"{path}: tests are found by path, a package would shadow their names"


def nothing_is_left_unfinished(sources: Sources) -> Iterator[str]:
    for source in sources.values():
        if source.path == "tests/test_tidy.py":  # spells the words out
            continue
        for number, line in enumerate(source.text.splitlines(), 1):
            if UNFINISHED.search(line):
                yield f"{source.path}:{number}: unfinished: {line.strip()}"


RULES: tuple[Rule, ...] = (
    no_relative_imports,
    rooms_look_down,
    rooms_are_entered_by_the_door,
    outside_modules_are_at_home,
    functions_are_at_home,
    no_import_cycles,
    every_folder_is_a_package,
    no_package_holds_tests,
    nothing_is_left_unfinished,
)

# One violation at least for each rule: files, and the complaint (its start) that must come.
SEEDS: tuple[tuple[Rule, dict[str, str], str], ...] = (
    (no_relative_imports, {"grammar/a.py": "from . import b"}, "grammar/a.py:1"),
    (no_relative_imports, {"tests/grammar/a.py": "from .b import c"}, "tests/grammar/a.py:1"),
    (rooms_look_down, {"grammar/a.py": "import layerstore"}, "grammar/a.py:1"),
    (rooms_look_down, {"layerstore/a.py": "\nfrom builder import x"}, "layerstore/a.py:2"),
    (rooms_look_down, {"builder/sandbox/a.py": "from builder import errors"}, "builder/sandbox"),
    (rooms_look_down, {"builder/a.py": "def f():\n import builder.cli"}, "builder/a.py:2"),
    (rooms_look_down, {"builder/runner/a.py": "import grammar"}, "builder/runner/a.py:1"),
    (
        rooms_are_entered_by_the_door,
        {"layerstore/toc.py": "", "builder/a.py": "from layerstore.toc import load"},
        "builder/a.py:1",
    ),
    (
        rooms_are_entered_by_the_door,
        {"layerstore/toc.py": "", "builder/a.py": "from layerstore import toc"},
        "builder/a.py:1",
    ),
    (
        rooms_are_entered_by_the_door,
        {"builder/sandbox/spec.py": "", "builder/a.py": "import builder.sandbox.spec"},
        "builder/a.py:1",
    ),
    (
        rooms_are_entered_by_the_door,
        {"builder/engine.py": "", "builder/runner/a.py": "from builder.engine import build"},
        "builder/runner/a.py:1",
    ),
    (
        rooms_are_entered_by_the_door,
        {"layerstore/registry/pull.py": "", "builder/a.py": "import layerstore.registry.pull"},
        "builder/a.py:1",
    ),
    (rooms_look_down, {"layerstore/a.py": "import layerstore.registry"}, "layerstore/a.py:1"),
    (outside_modules_are_at_home, {"grammar/words.py": "import lark"}, "grammar/words.py:1"),
    (
        outside_modules_are_at_home,
        {"layerstore/tarcodec.py": "def f():\n from zstandard import x"},
        "layerstore/tarcodec.py:2",
    ),
    (outside_modules_are_at_home, {"builder/engine.py": "import click"}, "builder/engine.py:1"),
    (outside_modules_are_at_home, {"builder/sandbox/a.py": "import ctypes.util"}, "builder/sand"),
    (outside_modules_are_at_home, {"builder/a.py": "import subprocess"}, "builder/a.py:1"),
    (outside_modules_are_at_home, {"layerstore/a.py": "import tarfile"}, "layerstore/a.py:1"),
    (outside_modules_are_at_home, {"builder/remote.py": "import urllib3"}, "builder/remote.py:1"),
    (functions_are_at_home, {"builder/a.py": "import os\nos.fork()"}, "builder/a.py:2"),
    (functions_are_at_home, {"builder/a.py": "from os import fork"}, "builder/a.py:1"),
    (functions_are_at_home, {"builder/a.py": "os.path.join(root, name)"}, "builder/a.py:1"),
    (functions_are_at_home, {"layerstore/a.py": "shutil.rmtree(x)"}, "layerstore/a.py:1"),
    (
        no_import_cycles,
        {
            "grammar/a.py": "import grammar.b",
            "grammar/b.py": "def f():\n from grammar import c",
            "grammar/c.py": "from grammar.a import x",
        },
        "import cycle: grammar.a -> grammar.b -> grammar.c -> grammar.a",
    ),
    (every_folder_is_a_package, {"builder/new/a.py": ""}, "builder/new"),
    (every_folder_is_a_package, {"builder/__init__.py": "", "builder/_a.py": ""}, "builder/_a"),
    (no_package_holds_tests, {"tests/grammar/__init__.py": ""}, "tests/grammar"),
    (nothing_is_left_unfinished, {"grammar/a.py": "x = 1  # TODO"}, "grammar/a.py:1"),
)

INNOCENT: tuple[tuple[Rule, dict[str, str]], ...] = (
    (
        rooms_are_entered_by_the_door,
        {"layerstore/toc.py": "", "layerstore/registry/a.py": "from layerstore.toc import load"},
    ),
    (rooms_look_down, {"builder/a.py": "from layerstore import Store\nimport os"}),
    (rooms_look_down, {"builder/cli/a.py": "from builder.runner import start"}),
    (
        no_import_cycles,
        {
            "grammar/a.py": "import typing\nif typing.TYPE_CHECKING:\n import grammar.b",
            "grammar/b.py": "import grammar.a",
        },
    ),
    (rooms_are_entered_by_the_door, {"grammar/a.py": "", "grammar/b.py": "import grammar.a"}),
    (
        rooms_are_entered_by_the_door,
        {
            "grammar/__init__.py": '__all__ = ["parse"]',
            "grammar/parse.py": "",
            "builder/a.py": "from grammar import parse",
        },
    ),
    (outside_modules_are_at_home, {"builder/cli/a.py": "import click"}),
    (functions_are_at_home, {"builder/sandbox/namespaces.py": "os.fork()"}),
)


def sources_of(files: Mapping[str, str]) -> Sources:
    return {path: Source(path=path, text=text) for path, text in files.items()}


@cache
def repository() -> Sources:
    files = {}
    for top in (*ROOMS, "tests", "bench"):
        for path in sorted((REPOSITORY / top).rglob("*.py")):
            files[str(path.relative_to(REPOSITORY))] = path.read_text()
    return sources_of(files)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_repository_keeps_the_rule(rule: Rule) -> None:
    complaints = sorted(set(rule(repository())))
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(("rule", "files", "complaint"), SEEDS)
def test_a_seeded_violation_is_found(rule: Rule, files: dict[str, str], complaint: str) -> None:
    assert [text for text in rule(sources_of(files)) if text.startswith(complaint)]


@pytest.mark.parametrize(("rule", "files"), INNOCENT)
def test_what_is_allowed_is_not_complained_about(rule: Rule, files: dict[str, str]) -> None:
    assert list(rule(sources_of(files))) == []


def test_every_rule_has_a_seeded_violation() -> None:
    assert {rule for rule, _, _ in SEEDS} == set(RULES)


def test_every_home_exists() -> None:
    homes = {home for table in (HOMES, CALLS) for paths in table.values() for home in paths}
    assert sorted(home for home in homes if not (REPOSITORY / home).exists()) == []


# Files that only the suites of their room and the end-to-end tests hold so far. May only shrink.
WITHOUT_TESTS_OF_THEIR_OWN: frozenset[str] = frozenset(
    {
        "builder/cli/build.py",
    }
)


def test_every_source_file_has_a_test_file_of_the_same_name() -> None:
    """`__init__` and `__main__` hold next to nothing; errors are tested where they are raised."""
    tests = {path for path in repository() if path.startswith("tests/")}
    missing = set()
    for source in ours(repository()):
        folder, _, name = source.path.rpartition("/")
        if name in ("__init__.py", "__main__.py", "errors.py"):
            continue
        if f"tests/{folder}/test_{name}" not in tests:
            missing.add(source.path)
    assert missing == WITHOUT_TESTS_OF_THEIR_OWN


def test_tests_are_at_least_as_long_as_the_source() -> None:
    def lines(tests: bool) -> int:
        return sum(
            len(source.text.splitlines())
            for source in repository().values()
            if source.path.startswith("tests/") == tests
            and not source.path.startswith("bench/")
            and source.path not in WITHOUT_TESTS_OF_THEIR_OWN
        )

    assert lines(tests=True) >= lines(tests=False)
