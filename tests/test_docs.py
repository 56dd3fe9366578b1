"""Pages: the reference says everything that the grammar knows, and tests that are named exist."""

import re
from pathlib import Path

import pytest

from builder.platforms import platform_args
from layerstore import Platform

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs/dockerfile.md").read_text()
GRAMMAR = (REPOSITORY / "grammar/dockerfile.lark").read_text()
DECLARED = re.findall(r"\b[A-Z_]+\b", " ".join(re.findall(r"(?m)^%declare (.*)", GRAMMAR)))
FLAGS = ["--" + name[5:].lower().replace("_", "-") for name in DECLARED if name[:5] == "FLAG_"]
KEYWORDS = sorted(
    set(re.findall(r"(?m)^(?:[a-z]+|    \|): ?([A-Z]{3,})|\| ([A-Z]{5,}) CHECK", GRAMMAR))
)


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_has_a_line(flag: str) -> None:
    assert re.search(rf"\| .*`{flag}[=\[`]", PAGE)


@pytest.mark.parametrize("keyword", sorted({first or second for first, second in KEYWORDS}))
def test_every_instruction_has_a_line(keyword: str) -> None:
    assert re.search(rf"(?m)^\| `{keyword}` \|", PAGE)


@pytest.mark.parametrize("name", ["escape", "syntax", "check"])
def test_every_directive_has_a_line(name: str) -> None:
    assert f"| `# {name}=` |" in PAGE


def test_every_predefined_argument_is_named() -> None:
    here = Platform(os="linux", architecture="amd64")
    for name in (*platform_args(here, target=here), "TARGETSTAGE", "HTTP_PROXY"):
        assert f"`{name}`" in PAGE


def test_the_tests_it_names_are_there() -> None:
    names = set(re.findall(r"\b(test_\w+\.py|conformance_run\.py)", PAGE))
    there = {path.name for path in (REPOSITORY / "tests").rglob("*.py")}
    assert len(names) > 20
    assert names <= there


PAGES = sorted([*(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("*/README.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    """`test_x.py`, and `test_x.py::test_y`: a promise without its test is a wish."""
    files: dict[str, str] = {}
    for path in sorted((REPOSITORY / "tests").rglob("*.py")):
        files[path.name] = files.get(path.name, "") + path.read_text()
    for name, test in re.findall(r"`(?:[\w/]+/)?(\w+\.py)(?:::(\w+))?`", page.read_text()):
        if name.startswith("test_"):
            assert name in files, name
            assert not test or f"def {test}(" in files[name], f"{name}::{test}"


def test_every_promise_of_security_names_a_test() -> None:
    page = (REPOSITORY / "docs/security.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    promises = [row for row in rows if "held by" not in row]
    assert len(promises) > 35
    assert [row for row in promises if "`test_" not in row.split(" | ")[-1]] == []


def test_every_deviation_of_the_grammar_is_told() -> None:
    """As many as the code marks, at least: one sentence here may stand for one mark there."""
    marks = sum(
        path.read_text().count("Differs: ")
        for folder in ("grammar", "builder/lower")
        for path in sorted((REPOSITORY / folder).glob("*.py"))
        if path.name != "frozen.py"  # about Python, not about Dockerfiles
    )
    assert marks > 5
    assert len(re.findall(r"Differs: \S", PAGE)) >= marks
