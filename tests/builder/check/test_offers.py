"""What a build takes from outside, and which targets there are."""

from collections.abc import Mapping

import pytest

from builder.check import Outline, Subject, outline_of, targets_of
from builder.errors import PlanError, UnknownTargetError
from grammar import ExpansionError
from tests.support.images import dockerfile

TEXT = """\
# BASE is what all stands on
ARG BASE=busybox
ARG TAG=1
ARG IMAGE=${BASE}:${TAG}
ARG UNUSED=1
# tools has the compiler
FROM $IMAGE AS tools
# MODE says how
ARG MODE=fast
ARG TAG
RUN --mount=type=cache,target=/root/.cache/ --mount=type=secret,id=token true
FROM scratch AS docs
ARG DOCS
# app is the result
FROM tools AS app
ARG NONE
RUN --mount=type=secret,id=token,required=true --mount=type=ssh true
RUN --mount=type=secret,target=/run/secrets/other,required \\
    --mount=type=cache,id=shared,target=/c --mount=type=tmpfs,target=/t true
FROM scratch
COPY --from=app /a /a
"""


def outline(
    text: str = TEXT, target: str = "", build_args: Mapping[str, str] | None = None
) -> Outline:
    subject = Subject(dockerfile=dockerfile(text), target=target, build_args=build_args or {})
    return outline_of(subject)


def values(found: Outline) -> dict[str, str]:
    return {arg.name: arg.value for arg in found.args}


def test_the_outline_has_the_args_of_all_stages_that_are_needed() -> None:
    assert values(outline()) == {
        "BASE": "busybox",
        "TAG": "1",
        "IMAGE": "busybox:1",
        "MODE": "fast",
        "NONE": "",
    }


def test_args_are_in_the_order_of_their_lines() -> None:
    lines = [arg.line for arg in outline().args]
    assert lines == sorted(lines)


def test_a_stage_that_is_not_needed_adds_nothing() -> None:
    assert values(outline(target="docs")) == {"DOCS": ""}


def test_an_arg_has_the_value_it_would_have() -> None:
    found = values(outline(build_args={"MODE": "slow", "TAG": "2"}))
    assert (found["MODE"], found["TAG"], found["IMAGE"]) == ("slow", "2", "busybox:2")


def test_descriptions_come_from_the_comments_above() -> None:
    described = {arg.name: arg.description for arg in outline().args if arg.description}
    assert described == {"BASE": "is what all stands on", "MODE": "says how"}


def test_the_target_is_named_and_described() -> None:
    assert (outline(target="app").name, outline(target="app").description) == (
        "app",
        "is the result",
    )
    assert (outline().name, outline().description) == ("", "")


def test_an_arg_of_the_global_scope_is_told_where_it_has_its_default() -> None:
    assert [arg.line for arg in outline(target="tools").args if arg.name == "TAG"] == [3]
    text = "ARG A=1\nFROM x\nARG A=2\n"
    (arg,) = outline(text).args
    assert (arg.value, arg.line) == ("2", 3)


def test_secrets_are_told_once_with_their_first_place() -> None:
    found = outline()
    assert [(each.id, each.is_required, each.line) for each in found.secrets] == [
        ("token", True, 17),
        ("other", True, 18),
    ]
    assert found.secrets[1].end_line == 19
    assert [(each.id, each.is_required) for each in outline(target="tools").secrets] == [
        ("token", False)
    ]


def test_ssh_and_caches_are_told() -> None:
    found = outline()
    assert [each.id for each in found.ssh] == ["default"]
    assert [each.id for each in found.caches] == ["/root/.cache", "shared"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("id=a,target=/b/c", "a"),
        ("source=a,id=b", "a"),
        ("src=a", "a"),
        ("target=/b/c", "c"),
        ("dst=/b/c", "c"),
        ("destination=/b/c,required", "c"),
        ("env=X,id=$N", "name"),
    ],
)
def test_a_secret_has_the_name_under_which_it_is_given(options: str, name: str) -> None:
    text = f"FROM x\nARG N=name\nRUN --mount=type=secret,{options} true\n"
    assert [each.id for each in outline(text).secrets] == [name]


def test_predefined_args_are_nobodys_to_give() -> None:
    assert values(outline("FROM --platform=$BUILDPLATFORM x\nARG TARGETARCH\n")) == {}


def test_a_file_that_cannot_be_built_has_no_outline() -> None:
    with pytest.raises(UnknownTargetError):
        outline(target="nope")
    with pytest.raises(ExpansionError) as caught:
        outline("FROM x\nENV A=${B:?none}\n")
    assert str(caught.value).startswith("Dockerfile:2:")
    with pytest.raises(PlanError):
        outline("ARG A\n")


def test_targets_are_the_stages_as_written() -> None:
    text = "# one is the first\nFROM --platform=$P $BASE AS One\nFROM scratch\n"
    first, last = targets_of(dockerfile(text))
    assert (first.name, first.description, first.base) == ("one", "is the first", "$BASE")
    assert (first.platform, first.is_default, first.line) == ("$P", False, 2)
    assert (last.name, last.description, last.base) == ("", "", "scratch")
    assert (last.platform, last.is_default, last.end_line) == ("", True, 3)


def test_a_file_without_stages_has_no_targets() -> None:
    assert targets_of(dockerfile("ARG A\n")) == ()
