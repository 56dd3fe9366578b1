"""BuildKit's own answers: what its checks have against 770 Dockerfiles, in the order it says so.

The material lies beside the repository (format in its README.md); LAMINA_CONFORMANCE names another
place.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from builder.check import Subject, Survey, survey_of
from builder.check.rules import RULES
from builder.errors import CheckFailedError
from grammar import parse
from tests.support.conformance import MATERIAL

if not (MATERIAL / "lint_cases.json").exists():
    pytest.skip(f"the conformance material is not at {MATERIAL}", allow_module_level=True)

Json = Any
LINT = json.loads((MATERIAL / "lint_cases.json").read_text())

# Cases that are answered differently on purpose: name -> why.
EXCEPTIONS: dict[str, str] = {}


def references() -> Iterator[Any]:
    for kind in ("parser", "realworld"):
        for directory in sorted((MATERIAL / kind).iterdir()):
            if directory.is_dir():
                reference = json.loads((directory / "expected.json").read_text())
                text = (directory / "Dockerfile").read_bytes()
                if reference.get("lint") is not None:
                    yield pytest.param(text, reference["lint"], id=f"{kind}/{directory.name}")
    for case in json.loads((MATERIAL / "parser_corpus.json").read_text()):
        lint = case["reference"].get("lint")
        if lint is not None and case["name"] not in EXCEPTIONS:
            yield pytest.param(case["dockerfile"].encode(), lint, id=f"corpus/{case['name']}")


REFERENCES = list(references())


def surveyed(case: Json, *, all_stages: bool) -> Survey:
    ignore = case.get("dockerignore")
    subject = Subject(
        dockerfile=parse(case["dockerfile"]),
        build_args=case.get("build_args", {}),
        ignore_file=None if ignore is None else ignore.encode(),
    )
    return survey_of(subject, all_stages=all_stages)


def test_there_is_material() -> None:
    assert len(REFERENCES) > 700
    assert len(LINT["cases"]) > 30
    assert all(case["name"] not in EXCEPTIONS for case in LINT["cases"])


def test_the_checks_are_buildkits() -> None:
    theirs = [(r["name"], r["description"], r["url"], r["experimental"]) for r in LINT["rules"]]
    assert theirs == [(r.name, r.description, r.url, r.experimental) for r in RULES]


@pytest.mark.parametrize(("text", "lint"), REFERENCES)
def test_a_dockerfile_has_the_warnings_it_has_there(text: bytes, lint: Json) -> None:
    found = survey_of(Subject(dockerfile=parse(text)), all_stages=True)
    assert [[each.rule, each.line, each.detail] for each in found.warnings] == lint


@pytest.mark.parametrize("key", ["warnings", "build_warnings"])
@pytest.mark.parametrize("case", LINT["cases"], ids=lambda case: case["name"])
def test_a_case_of_the_checks_has_its_warnings(case: Json, key: str) -> None:
    found = surveyed(case, all_stages=key == "warnings")
    expected = [
        (each["rule"], each["line"], each["detail"], each["url"])
        for each in case.get(key, case["warnings"])
    ]
    assert [(each.rule, each.line, each.detail, each.url) for each in found.warnings] == expected


@pytest.mark.parametrize(
    "case",
    [case for case in LINT["cases"] if "message" in case.get("error", {})],
    ids=lambda case: case["name"],
)
def test_a_case_that_is_an_error_there_is_one_here(case: Json) -> None:
    found = surveyed(case, all_stages=True)
    assert found.failure is not None
    assert found.failure.message == case["error"]["message"]
    assert found.failure_span is not None
    assert found.failure_span.start_line == case["error"]["line"]


def test_a_case_without_an_error_has_none() -> None:
    for case in LINT["cases"]:
        if "message" not in case.get("error", {}):
            failure = surveyed(case, all_stages=True).failure
            assert not isinstance(failure, CheckFailedError), case["name"]


@pytest.mark.parametrize(
    "example",
    [each for each in LINT["doc_examples"] if each["reference_lint"] is not None],
    ids=lambda each: f"{each['rule']}-{each['kind']}",
)
def test_the_examples_of_the_pages_have_their_warnings(example: Json) -> None:
    found = survey_of(Subject(dockerfile=parse(example["dockerfile"])), all_stages=True)
    assert [[each.rule, each.line] for each in found.warnings] == example["reference_lint"]
