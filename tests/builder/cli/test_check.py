"""`lamina check`, and `lamina build --check` and `--call`."""

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from builder.cli.arguments import UsageError
from builder.cli.check import Call, parse_call
from tests.support.commands import Commands

GOOD = "FROM scratch\n"
BAD = "# base has nothing\nFROM scratch as base\nARG MODE=fast\nCMD run \\\n  it\n"
RULE = "--------------------"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    (made / "Dockerfile").write_text(BAD)
    return made


def stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


# lamina check


def test_warnings_are_shown_as_docker_shows_them(bare: Commands, folder: Path) -> None:
    done = bare("check", folder / "Dockerfile", code=1)
    assert done.lines[:10] == [
        "Check complete, 2 warnings have been found!",
        "",
        "WARNING: FromAsCasing - https://docs.docker.com/go/dockerfile/rule/from-as-casing/",
        "'as' and 'FROM' keywords' casing do not match",
        f"{folder}/Dockerfile:2",
        RULE,
        "   1 |     # base has nothing",
        "   2 | >>> FROM scratch as base",
        "   3 |     ARG MODE=fast",
        "   4 |     CMD run \\",
    ]
    assert "   4 | >>> CMD run \\\n   5 | >>>   it\n" in done.out
    assert done.err == ""


def test_they_are_in_the_order_of_their_lines(bare: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch\nCMD a\nLABEL a b\nRUN c \\\n\n d\n")
    done = bare("check", folder / "Dockerfile", code=1)
    named = [line.split(" ")[1] for line in done.lines if line.startswith("WARNING")]
    assert named == ["JSONArgsRecommended", "LegacyKeyValueFormat", "NoEmptyContinuation"]


def test_one_warning_is_one(bare: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch as a\n")
    assert bare("check", folder, code=1).lines[0] == "Check complete, 1 warning has been found!"


def test_a_good_file_is_good(bare: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text(GOOD)
    assert bare("check", folder / "Dockerfile").lines == ["Check complete, no warnings found."]


def test_json_has_four_fields_for_each_warning(bare: Commands, folder: Path) -> None:
    done = bare("check", "--format", "json", folder / "Dockerfile", code=1)
    assert json.loads(done.out) == {
        "warnings": [
            {
                "rule": "FromAsCasing",
                "line": 2,
                "detail": "'as' and 'FROM' keywords' casing do not match",
                "url": "https://docs.docker.com/go/dockerfile/rule/from-as-casing/",
            },
            {
                "rule": "JSONArgsRecommended",
                "line": 4,
                "detail": "JSON arguments recommended for CMD to prevent unintended behavior"
                " related to OS signals",
                "url": "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
            },
        ]
    }
    (folder / "Dockerfile").write_text(GOOD)
    assert json.loads(bare("check", "--format=json", folder).out) == {"warnings": []}


def test_the_file_may_be_a_directorys_or_standard_input(
    bare: Commands, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Dockerfile:2" in bare("check", folder, code=1).out
    monkeypatch.chdir(folder)
    assert "Dockerfile:2" in bare("check", code=1).out
    stdin(monkeypatch, "FROM scratch as x\n")
    assert "\n-:1\n" in bare("check", "-", code=1).out


def test_no_store_is_made(bare: Commands, folder: Path) -> None:
    bare("check", folder, code=1)
    assert not bare.root.exists()


def test_the_ignore_file_beside_it_is_read(bare: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY a b /\n")
    (folder / ".dockerignore").write_text("a\n")
    assert 'Copy file "a"' in bare("check", folder / "Dockerfile", code=1).out
    (folder / "Dockerfile.dockerignore").write_text("b\n")
    done = bare("check", folder / "Dockerfile", code=1)
    assert 'Copy file "b"' in done.out
    assert 'Copy file "a"' not in done.out


def test_a_target_and_build_arguments_may_be_given(bare: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM a AS b\nCMD c\nFROM scratch\nARG D=$E\n")
    assert bare("check", folder, code=1).out.count("WARNING") == 2
    assert bare("check", "--build-arg", "D=1", folder, code=1).out.count("WARNING") == 1
    assert bare("check", "--target", "b", folder, code=1).out.count("WARNING") == 1
    arguments = ("--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all")
    assert bare("check", *arguments, folder).out.startswith("Check complete, no warnings")


def test_a_syntax_error_is_told_as_one(bare: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch as a\nRNU x\n")
    for style in ("text", "json"):
        done = bare("check", "--format", style, folder, code=1)
        assert done.out == ""
        assert "Dockerfile:2: unknown instruction RNU" in done.err
        assert "did you mean RUN?" in done.err


def test_an_error_comes_after_the_warnings_before_it(bare: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch as a\nEXPOSE nope\n")
    done = bare("check", folder, code=1)
    assert done.lines[0] == "Check complete, 1 warning has been found!"
    assert "2 | >>> EXPOSE nope" in done.err
    assert "lamina: invalid containerPort: nope" in done.err
    done = bare("check", "--format", "json", folder, code=1)
    assert [each["rule"] for each in json.loads(done.out)["warnings"]] == ["FromAsCasing"]
    assert "invalid containerPort" in done.err
    (folder / "Dockerfile").write_text("FROM scratch\nEXPOSE nope\n")
    assert bare("check", folder, code=1).out == ""


def test_warnings_may_be_errors(bare: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text("# check=error=true\nFROM scratch as a\n")
    done = bare("check", folder, code=1)
    assert "WARNING: FromAsCasing" in done.out
    assert "lamina: lint violation found for rules: FromAsCasing" in done.err


def test_what_cannot_be_read_is_told(bare: Commands, folder: Path) -> None:
    done = bare("check", folder / "nope", code=1)
    assert done.err.startswith("lamina: cannot read the Dockerfile")
    (folder / "Dockerfile").unlink()
    assert "no Dockerfile in" in bare("check", folder, code=1).err
    bare("check", "--format", "xml", folder, code=125)
    bare("check", "a", "b", code=1)


def test_nothing_of_the_file_steers_the_terminal(bare: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch\nEXPOSE \x1b[2J:80/TCP\nCOPY $\x1b /x\n")
    done = bare("check", folder, code=None)
    assert "\x1b" not in done.out + done.err


# lamina build --call


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("check", Call("check")),
        ("lint", Call("check")),
        ("outline,format=json", Call("outline", is_json=True)),
        ("format=json,targets", Call("targets", is_json=True)),
        ("check,ignorestatus=true", Call("check", ignores_status=True)),
        ("check,format=text,ignorestatus=0", Call("check")),
        ("build", Call("build")),
        ("format=json", Call("build", is_json=True)),
    ],
)
def test_a_call_is_a_method_and_its_options(text: str, call: Call) -> None:
    assert parse_call(text) == call


@pytest.mark.parametrize(
    "text", ["nope", "check,outline", "check,format=xml", "check,a=b", "check,ignorestatus=what"]
)
def test_another_call_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_call(text)
    assert "--call" in caught.value.message
    assert caught.value.hint


def test_a_build_may_only_check(bare: Commands, folder: Path) -> None:
    for words in (["--check"], ["--call=check"], ["--call", "lint"]):
        done = bare("build", *words, "-t", "it", folder, code=1)
        assert done.out.startswith("Check complete, 2 warnings have been found!")
        assert done.err == ""
    assert bare("images", "-q").out == ""
    bare("build", "--call=check,ignorestatus=true", folder)


def test_check_false_builds(bare: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch\nLABEL a=b\n")
    for words in (["--check=false"], ["--call=build"], ["--call", "build,format=json"]):
        assert bare("build", *words, "-q", folder).out.startswith("sha256:")


def test_base_images_in_the_store_are_known(box: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM box\nWORKDIR /$GREETING\n")
    box("build", "--check", folder)
    (folder / "Dockerfile").write_text("FROM box\nWORKDIR /$GREETINGS\n")
    assert "did you mean $GREETING?" in box("build", "--check", folder, code=1).out


def test_the_check_as_json_has_buildkits_fields(bare: Commands, folder: Path) -> None:
    document = json.loads(bare("build", "--call=check,format=json", folder, code=1).out)
    assert document["warnings"][1] == {
        "ruleName": "JSONArgsRecommended",
        "description": "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended"
        " behavior related to OS signals",
        "url": "https://docs.docker.com/go/dockerfile/rule/json-args-recommended/",
        "detail": "JSON arguments recommended for CMD to prevent unintended behavior related to"
        " OS signals",
        "location": located(4, 5),
    }
    (source,) = document["sources"]
    assert source["filename"] == f"{folder}/Dockerfile"
    assert base64.b64decode(source["data"]).decode() == BAD
    assert "buildError" not in document


def test_an_error_is_in_the_json_as_well(bare: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch\nEXPOSE nope\n")
    done = bare("build", "--call=check,format=json", folder, code=1)
    assert json.loads(done.out)["buildError"] == {
        "message": "invalid containerPort: nope",
        "location": located(2, 2),
    }
    done = bare("build", "--call=check,format=json", "--target=nope", folder, code=1)
    assert "location" not in json.loads(done.out)["buildError"]


def located(first: int, last: int) -> Any:
    lines = range(first, last + 1)
    return {"ranges": [{"start": {"line": line}, "end": {"line": line}} for line in lines]}


def test_targets_are_listed(bare: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text(BAD + "# last is all\nFROM base AS last\n")
    assert bare("build", "--call=targets", folder).lines == [
        "TARGET         DESCRIPTION",
        "base           has nothing",
        "last (default) is all",
    ]
    (folder / "Dockerfile").write_text(BAD + "FROM base\n")
    assert bare("build", "--call=targets", folder).lines[-1] == "(default)"


def test_targets_as_json(bare: Commands, folder: Path) -> None:
    document = json.loads(bare("build", "--call=targets,format=json", folder).out)
    assert document["targets"] == [
        {
            "name": "base",
            "default": True,
            "description": "has nothing",
            "base": "scratch",
            "location": located(2, 2),
        }
    ]
    assert base64.b64decode(document["sources"][0]).decode() == BAD


OUTLINED = """\
# V is the version
ARG V=1.2.3
FROM scratch AS deps
ARG V
RUN --mount=type=secret,id=key,required --mount=type=cache,id=c,target=/c true
# app is it
FROM deps AS app
ARG MODE
RUN --mount=type=ssh true
"""


def test_an_outline_is_told(bare: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text(OUTLINED)
    assert bare("build", "--call=outline", "--build-arg", "MODE=slow", folder).lines == [
        "TARGET:      app",
        "DESCRIPTION: is it",
        "",
        "BUILD ARG   VALUE   DESCRIPTION",
        "V           1.2.3   is the version",
        "MODE        slow",
        "",
        "SECRET   REQUIRED",
        "key      true",
        "",
        "SSH       REQUIRED",
        "default",
        "",
        "CACHE",
        "c",
        "",
    ]
    (folder / "Dockerfile").write_text(GOOD)
    assert bare("build", "--call=outline", folder).out == ""


def test_an_outline_as_json(bare: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text(OUTLINED)
    document = json.loads(bare("build", "--call=outline,format=json", folder).out)
    assert document.pop("sources") == [base64.b64encode(OUTLINED.encode()).decode()]
    assert document == {
        "name": "app",
        "description": "is it",
        "args": [
            {
                "name": "V",
                "description": "is the version",
                "value": "1.2.3",
                "location": located(2, 2),
            },
            {"name": "MODE", "location": located(8, 8)},
        ],
        "secrets": [{"name": "key", "required": True, "location": located(5, 5)}],
        "ssh": [{"name": "default", "location": located(9, 9)}],
        "cache": [{"ID": "c", "location": located(5, 5)}],
    }


def test_what_is_wrong_with_a_call_is_told(bare: Commands, folder: Path) -> None:
    assert "methods are" in bare("build", "--call=nope", folder, code=125).err
    done = bare("build", "--call=outline", "--target=nope", folder, code=1)
    assert "target stage 'nope' could not be found" in done.err


# The warnings of a build.


def test_a_build_ends_with_its_warnings(bare: Commands, folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch as a\nLABEL b c\n")
    for _ in range(2):  # the second time they are remembered
        done = bare("build", "--progress=plain", folder)
        assert done.err.endswith(
            "\n\n 2 warnings found (use --check to expand):\n"
            " - FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)\n"
            ' - LegacyKeyValueFormat: "LABEL key=value" should be used instead of legacy'
            ' "LABEL key value" format (line 2)\n'
        )
    assert bare("build", "-q", folder).err == ""


def test_warnings_that_are_errors_stop_a_build_before_it_begins(
    box: Commands, folder: Path
) -> None:
    (folder / "Dockerfile").write_text("# check=error=true\nFROM box as a\nRUN touch /x\n")
    done = box("build", "--progress=plain", "-t", "it", folder, code=1)
    assert "#1" not in done.err
    assert " 1 warning found" in done.err
    assert "lamina: lint violation found for rules: FromAsCasing" in done.err
    assert "it" not in box("images", "--format", "{{.Repository}}").lines
