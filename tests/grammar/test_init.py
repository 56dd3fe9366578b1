import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import grammar

# What each of these may not import, in a fresh interpreter.
HEAVY = ("lark", "dataclasses", "inspect", "json", "logging", "pathlib", "hashlib", "tempfile")


def modules_after(code: str) -> set[str]:
    run = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {sys.path[0]!r}); "
            f"sys.path[:0] = {[p for p in sys.path if p]!r}; {code}; print(*sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import grammar",
        "from grammar import DockerfileError, nodes, Word, Span",
        "from grammar import expand; expand('${a:-b}', {})",
        "from grammar import parse_written; parse_written('FROM scratch')",
        "from grammar import unparse, as_json",
    ],
)
def test_what_needs_no_parser_imports_no_lark(code: str) -> None:
    assert not modules_after(code) & set(HEAVY)


def test_parsing_brings_nothing_dear_besides_lark(tmp_path: Path) -> None:
    grammar.warm(tmp_path)
    parsing = modules_after(f"import grammar; grammar.parse('FROM a', tables={str(tmp_path)!r})")
    lark = modules_after("import lark, lark.lexer")
    assert not (parsing - lark) & (set(HEAVY) | {"urllib", "ipaddress", "shutil", "random"})


def test_importing_the_room_imports_none_of_its_files() -> None:
    assert {
        name for name in modules_after("import grammar") if name.startswith("grammar.")
    } == set()


def test_a_tree_is_unpickled_without_lark() -> None:
    tree = pickle.dumps(grammar.parse("FROM scratch\nRUN a\n"))
    code = f"import pickle; assert pickle.loads({tree!r}).stages"
    assert "lark" not in modules_after(code)


@pytest.mark.parametrize("name", grammar.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(grammar, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = grammar.nothing


@pytest.mark.parametrize("name", ["parse", "unparse", "fingerprint"])
def test_a_function_is_not_hidden_by_the_module_of_its_name(name: str) -> None:
    code = f"import grammar.{name}; import grammar; assert callable(grammar.{name})"
    modules_after(code)
    modules_after(f"from grammar.{name} import {name}; from grammar import {name} as f; f.__call__")
