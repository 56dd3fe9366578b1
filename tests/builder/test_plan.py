"""Plans: which stages there are, what they stand on, and which of them the target needs."""

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import PlanError, StageOrderError, UnknownTargetError
from builder.plan import (
    BuildPlan,
    ContextBase,
    ImageBase,
    ScratchBase,
    StageBase,
    begin_of,
    image_names,
    plan,
)
from grammar import Dockerfile, DockerfileError, parse
from layerstore import Platform, host_platform
from tests.support.growth import LINEAR, growth

AMD = Platform(os="linux", architecture="amd64")


def planned(text: str, *, target: str = "", **build_args: str) -> BuildPlan:
    return plan(parse(text), target=target, build_args=build_args, platform=AMD)


def bases(made: BuildPlan) -> list[object]:
    return [stage.base for stage in made.stages]


def needed(text: str, target: str = "") -> list[int]:
    return sorted(planned(text, target=target).needed)


# Bases.


def test_a_base_is_nothing_an_image_or_a_stage_above() -> None:
    made = planned("FROM scratch AS a\nFROM debian:12 AS b\nFROM a\nFROM b\n")
    assert bases(made) == [
        ScratchBase(),
        ImageBase(name="debian:12"),
        StageBase(index=0),
        StageBase(index=1),
    ]


def test_stage_names_are_lower_case_and_a_base_must_be_written_so() -> None:
    """As in BuildKit: `FROM BUILD` is an image, whose name is then refused."""
    made = planned("FROM scratch AS Build\nFROM build\nFROM BUILD\n")
    assert made.stages[0].name == "build"
    assert bases(made)[1:] == [StageBase(index=0), ImageBase(name="BUILD")]


def test_a_number_as_base_is_an_image() -> None:
    """Only --from knows stages by number."""
    assert bases(planned("FROM scratch\nFROM 0\n"))[1] == ImageBase(name="0")


def test_a_name_means_the_last_stage_above_that_has_it() -> None:
    made = planned("FROM scratch AS a\nFROM scratch AS a\nFROM a\n")
    assert bases(made)[2] == StageBase(index=1)


def test_a_stage_may_hide_an_image_below_it_and_not_above() -> None:
    made = planned("FROM debian\nFROM scratch AS debian\nFROM debian\n")
    assert bases(made) == [ImageBase(name="debian"), ScratchBase(), StageBase(index=1)]


def test_a_stage_named_scratch_hides_the_empty_one() -> None:
    made = planned("FROM debian AS scratch\nFROM scratch\n")
    assert bases(made)[1] == StageBase(index=0)


def test_a_stage_never_stands_on_itself() -> None:
    assert bases(planned("FROM a AS a\n")) == [ImageBase(name="a")]


def test_stages_have_titles_for_people() -> None:
    made = planned("FROM scratch AS build\nFROM scratch\n")
    assert [stage.title for stage in made.stages] == ["build", "stage-1"]


# Arguments of the global scope.


def test_args_above_from_are_expanded_in_it() -> None:
    text = "ARG NAME=debian\nARG TAG=12\nARG BOTH=${NAME}:${TAG}\nFROM $BOTH\nFROM ${NAME:-x}\n"
    assert bases(planned(text)) == [ImageBase(name="debian:12"), ImageBase(name="debian")]


def test_build_args_replace_defaults_of_declared_args_alone() -> None:
    text = "ARG NAME=debian\nFROM $NAME$OTHER\n"
    assert bases(planned(text, NAME="alpine", OTHER="x")) == [ImageBase(name="alpine")]


def test_an_arg_sees_the_values_that_build_args_gave_to_those_above() -> None:
    text = "ARG A=1\nARG B=$A-2\nFROM x:$B\n"
    assert bases(planned(text, A="9")) == [ImageBase(name="x:9-2")]


def test_an_arg_without_a_value_is_empty_in_from() -> None:
    text = "ARG TAG\nFROM debian${TAG:+:$TAG}\n"
    assert bases(planned(text)) == [ImageBase(name="debian")]
    assert bases(planned(text, TAG="12")) == [ImageBase(name="debian:12")]
    assert "TAG" not in planned(text).global_args


def test_args_of_a_stage_do_not_reach_the_next_from() -> None:
    made = planned("FROM scratch\nARG NAME=debian\nFROM a${NAME}b\n")
    assert bases(made)[1] == ImageBase(name="ab")


def test_the_platform_is_known_without_declaration() -> None:
    made = planned("FROM x:$TARGETARCH-$BUILDOS\n")
    assert bases(made) == [ImageBase(name="x:amd64-linux")]
    assert made.global_args["TARGETPLATFORM"] == "linux/amd64"


def test_a_build_arg_may_replace_what_is_predefined() -> None:
    made = planned("FROM x:$TARGETARCH\n", TARGETARCH="arm64")
    assert bases(made) == [ImageBase(name="x:arm64")]
    assert made.global_args["TARGETARCH"] == "arm64"


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("FROM scratch AS a\nFROM scratch AS b\n", "a", "a"),
        ("FROM scratch AS a\nFROM scratch AS b\n", "", "b"),
        ("FROM scratch\n", "", "default"),
    ],
)
def test_the_target_stage_has_an_arg(text: str, target: str, expected: str) -> None:
    assert planned(text, target=target).global_args["TARGETSTAGE"] == expected


def test_a_file_without_from_has_nothing_to_build() -> None:
    with pytest.raises(PlanError, match="no stages to build"):
        planned("ARG A=1\n")


def test_the_escape_directive_holds_in_from_and_arg() -> None:
    text = "# escape=`\nARG A=x\nFROM a`$A\n"
    assert bases(planned(text)) == [ImageBase(name="a$A")]


def test_quotes_of_a_default_are_removed() -> None:
    assert bases(planned('ARG A="debian:12"\nFROM $A\n')) == [ImageBase(name="debian:12")]


def test_an_empty_base_is_an_error_with_what_to_do() -> None:
    with pytest.raises(DockerfileError) as caught:
        planned("ARG NAME\nFROM ${NAME}\n")
    assert caught.value.render() == (
        "Dockerfile:2: base name (${NAME}) should not be blank\n"
        "    1 | ARG NAME\n"
        "    2 | FROM ${NAME}\n"
        "      |      ^^^^^^^\n"
        "hint: give the ARG a default above FROM, or pass --build-arg"
    )


def test_a_required_arg_that_is_missing_is_an_error() -> None:
    text = 'ARG BASE=${FOO:?"custom error"}\nFROM $BASE\n'
    with pytest.raises(DockerfileError, match="custom error"):
        planned(text)
    assert bases(planned("ARG FOO\n" + text, FOO="debian")) == [ImageBase(name="debian")]


# What is needed.


def test_only_what_the_target_stands_on_is_needed() -> None:
    text = "FROM scratch AS a\nFROM scratch AS b\nFROM a AS c\nFROM b AS d\n"
    assert needed(text) == [1, 3]
    assert needed(text, "c") == [0, 2]
    assert needed(text, "a") == [0]


def test_copy_from_needs_its_stage_by_name_in_any_case_and_by_number() -> None:
    text = "FROM scratch AS a\nFROM scratch\nFROM scratch\n"
    assert needed(text + "COPY --from=A /x /x\n") == [0, 2]
    assert needed(text + "COPY --from=1 /x /x\n") == [1, 2]
    assert needed(text + "COPY --from=debian /x /x\n") == [2]


def test_a_mount_from_a_stage_needs_it() -> None:
    text = "FROM scratch AS a\nFROM scratch\nRUN --mount=type=bind,from=a,target=/x true\n"
    assert needed(text) == [0, 1]


def test_needs_reach_through_stages() -> None:
    text = (
        "FROM scratch AS a\nFROM scratch AS b\nCOPY --from=a / /\n"
        "FROM scratch AS unused\nFROM scratch\nCOPY --from=b / /\n"
    )
    assert needed(text) == [0, 1, 3]


@pytest.mark.parametrize(
    ("instruction", "said"),
    [
        ("COPY --from=a / /", "circular dependency detected on stage: a"),
        ("COPY --from=0 / /", "circular dependency detected on stage: 0"),
        ("COPY --from=B / /", "cannot copy from stage 'B', it needs to be defined before"),
        ("COPY --from=1 / /", "cannot copy from stage '1'"),
        ("RUN --mount=from=b true", "cannot copy from stage 'b'"),
    ],
)
def test_a_stage_can_not_need_itself_or_one_below(instruction: str, said: str) -> None:
    text = f"FROM scratch AS a\n{instruction}\nFROM scratch AS b\n"
    assert planned(text).needed == {1}  # nobody asks for the bad one
    with pytest.raises(StageOrderError, match=said) as caught:
        planned(text, target="a")
    assert caught.value.span is not None
    assert caught.value.span.start_line == 2


def test_a_name_that_is_used_again_below_means_the_one_above() -> None:
    text = "FROM scratch AS a\nFROM scratch\nCOPY --from=a / /\nFROM scratch AS a\n"
    assert planned(text, target="1").needed == {0, 1}


def test_a_trigger_needs_nothing_before_it_fires() -> None:
    text = "FROM scratch AS a\nFROM scratch AS b\nONBUILD COPY --from=a / /\n"
    assert needed(text) == [1]


def test_a_stage_sees_the_names_and_numbers_of_those_above() -> None:
    made = planned("FROM scratch AS a\nFROM scratch\nFROM scratch AS b\n")
    assert made.stages[2].visible == {"0": 0, "a": 0, "1": 1}


# Targets.


def test_the_last_stage_is_the_target_unless_one_is_named() -> None:
    text = "FROM scratch AS a\nFROM scratch AS b\nFROM scratch\n"
    assert planned(text).target == 2
    assert planned(text, target="A").target == 0
    assert planned(text, target="1").target == 1


@pytest.mark.parametrize(
    ("text", "target", "hint"),
    [
        ("FROM scratch AS build\nFROM scratch AS test\n", "biuld", "did you mean 'build'?"),
        ("FROM scratch AS build\nFROM scratch AS test\n", "xyz", "build, test"),
        ("FROM scratch\n", "xyz", "no stage of this Dockerfile has a name"),
        ("FROM scratch\n", "1", "no stage of this Dockerfile has a name"),
    ],
)
def test_an_unknown_target_is_an_error_that_helps(text: str, target: str, hint: str) -> None:
    with pytest.raises(UnknownTargetError, match=f"target stage '{target}' could not") as caught:
        planned(text, target=target)
    assert hint in caught.value.hint


STAGES = st.lists(
    st.lists(st.integers(0, 6), max_size=3), min_size=1, max_size=6
)  # for each stage the numbers it copies from; those beyond the last are images


@settings(max_examples=60, deadline=None)
@given(stages=STAGES, choice=st.integers(0, 5))
def test_what_is_needed_is_what_can_be_reached(stages: list[list[int]], choice: int) -> None:
    size = len(stages)
    text = "".join(
        "FROM scratch\n"
        + "".join(f"COPY --from={number} / /\n" for number in numbers if not index <= number < size)
        for index, numbers in enumerate(stages)
    )
    target = choice % len(stages)
    reached = {target}
    for index in range(target, -1, -1):
        if index in reached:
            reached.update(number for number in stages[index] if number < index)
    made: Mapping[int, object] = dict.fromkeys(needed(text, str(target)))
    assert set(made) == reached


# Platforms.


def platforms(made: BuildPlan) -> list[str]:
    return [str(stage.platform) for stage in made.stages]


def test_a_stage_is_for_the_platform_of_its_from_or_of_the_build() -> None:
    text = "ARG P=arm64\nFROM --platform=linux/$P a\nFROM --platform=$TARGETPLATFORM b\nFROM c\n"
    assert platforms(planned(text)) == ["linux/arm64", "linux/amd64", "linux/amd64"]


def test_build_and_target_platforms_are_told_apart() -> None:
    made = plan(
        parse("FROM --platform=$BUILDPLATFORM a\nFROM b\n"),
        target="",
        build_args={},
        platform=Platform(os="linux", architecture="arm", variant="v7"),
    )
    assert platforms(made) == [str(host_platform()), "linux/arm/v7"]
    assert made.global_args["TARGETVARIANT"] == "v7"
    assert made.global_args["BUILDARCH"] == host_platform().architecture


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("FROM --platform=linux/vax a\n", "unknown operating system or architecture"),
        ("FROM --platform=$NONE a\n", "empty platform value from expression"),
    ],
)
def test_a_platform_that_makes_no_sense_is_an_error_at_its_from(text: str, said: str) -> None:
    with pytest.raises(PlanError, match=said) as caught:
        planned("# comment\n" + text)
    assert caught.value.span is not None
    assert caught.value.span.start_line == 2


# Named contexts.


def with_contexts(text: str, *contexts: str) -> BuildPlan:
    return plan(parse(text), target="", build_args={}, platform=AMD, contexts=contexts)


def test_a_named_context_takes_the_place_of_an_image() -> None:
    made = with_contexts("FROM alpine:3\nFROM docker.io/library/busybox:latest\n", "busybox")
    assert bases(made) == [ImageBase(name="alpine:3"), ContextBase(name="busybox")]
    assert bases(with_contexts("FROM busybox\n", "busybox")) == [ContextBase(name="busybox")]


def test_a_named_context_takes_the_place_of_a_stage_with_all_that_it_does() -> None:
    text = "FROM a AS x\nFROM a AS Build\nCOPY --from=x / /\nFROM build\n"
    made = with_contexts(text, "build")
    assert bases(made)[1:] == [ContextBase(name="build"), StageBase(index=1)]
    assert made.stages[1].instructions == ()
    assert made.needed == {1, 2}


def test_what_is_only_copied_from_a_named_context_needs_no_stage() -> None:
    made = with_contexts("FROM a AS build\nFROM scratch\nCOPY --from=build / /\n", "build")
    assert made.needed == {1}


def test_images_are_named_by_bases_copies_and_mounts_of_the_stages_that_are_needed() -> None:
    text = """
        ARG BASE=a.b/base
        FROM ${BASE}:1 AS one
        FROM scratch AS unneeded
        COPY --from=c.d/not / /
        FROM ctx AS three
        COPY --from=one / /
        COPY --from=0 / /
        COPY --from=scratch / /
        COPY --from=a.b/base:1 / /
        COPY --from=plain / /
        RUN --mount=type=bind,from=e.f/mounted,target=/m true
        ONBUILD COPY --from=g.h/later / /
    """
    contexts = {"ctx": "docker-image://i.j/given", "plain": "directory", "c.d/not": "x"}
    made = plan(parse(text), target="", build_args={}, platform=AMD, contexts=contexts)
    assert image_names(made, contexts) == ["a.b/base:1", "i.j/given", "e.f/mounted"]
    nothing = planned("FROM scratch")
    assert image_names(nothing, {"scratch": "docker-image://scratch"}) == []


def test_stages_above_hide_named_contexts_of_the_names_of_images() -> None:
    made = with_contexts("FROM a\nFROM scratch AS b\nFROM b\n", "a")
    assert bases(made) == [ContextBase(name="a"), ScratchBase(), StageBase(index=1)]


# Many stages.


def stages(count: int) -> Dockerfile:
    return parse(
        "".join(
            f"FROM scratch AS s{index}\nCOPY --from={max(0, index - 1)} / /\n"
            if index
            else "FROM scratch AS s0\n"
            for index in range(count)
        )
    )


def test_a_plan_takes_linear_time() -> None:
    def work(dockerfile: Dockerfile) -> None:
        plan(dockerfile, target="", build_args={}, platform=AMD)

    assert growth(work, stages(500), stages(2000)) < LINEAR


def test_a_thousand_stages_that_follow_each_other_are_all_needed() -> None:
    made = plan(stages(1000), target="", build_args={}, platform=AMD)
    assert len(made.needed) == 1000
    assert made.stages[500].visible["s499"] == 499
    assert made.stages[500].visible["499"] == 499
    assert "s500" not in made.stages[500].visible
    assert len(made.stages[500].visible) == 1000


def test_a_thousand_arguments_may_refer_to_one_another() -> None:
    text = "".join(f"ARG a{i + 1}=${{a{i}:-x}}\n" for i in range(1000)) + "FROM base:$a1000\n"
    assert bases(planned(text)) == [ImageBase(name="base:x")]


def test_what_a_stage_sees_is_a_table_of_those_above() -> None:
    made = planned("FROM a AS x\nFROM b AS y\nFROM c AS X\nFROM d\n")
    assert [dict(stage.visible) for stage in made.stages] == [
        {},
        {"0": 0, "x": 0},
        {"0": 0, "x": 0, "1": 1, "y": 1},
        {"0": 0, "x": 2, "1": 1, "y": 1, "2": 2},
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [(("build",), True), (("BUILD",), True), (("0",), True), (("x", "build"), True),
     ((), False), (("",), False), (("1",), False), (("buil",), False)],
)  # fmt: skip
def test_a_stage_is_called_by_its_name_or_number(names: tuple[str, ...], expected: bool) -> None:
    stage = planned("FROM scratch AS Build\nFROM scratch\n").stages[0]
    assert stage.is_one_of(names) is expected


@pytest.mark.parametrize(
    ("line", "begin"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 3), (6, 6), (7, 6), (8, 8), (99, 99)]
)
def test_a_line_belongs_to_the_instruction_around_it(line: int, begin: int) -> None:
    text = "# a\n\nFROM \\\n\n  scratch\nCOPY <<E /x\nE\n\nENV A=1\n"
    assert begin_of(parse(text), line) == begin


def test_a_stage_without_a_name_has_its_number_alone() -> None:
    stage = planned("FROM scratch AS a\nFROM scratch\n").stages[1]
    assert stage.is_one_of(("1",))
    assert not stage.is_one_of(("", "stage-1"))
