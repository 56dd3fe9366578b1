"""The pass over a file: each check where it has something to say, and where it has not.

The texts and the order of many more files are in test_conformance.
"""

import time
from collections.abc import Mapping

import pytest

from builder.check import Subject, Survey, survey_of
from builder.errors import CheckFailedError, LoweringError, PlanError, UnknownTargetError
from grammar import ExpansionError
from layerstore import ContainerConfig, ImageConfig, Platform
from tests.support.images import dockerfile

HOST = Platform(os="linux", architecture="amd64")


def look(
    text: str,
    *,
    all_stages: bool = True,
    target: str = "",
    build_args: Mapping[str, str] | None = None,
    ignore: str | None = None,
    bases: Mapping[str, ImageConfig] | None = None,
) -> Survey:
    subject = Subject(
        dockerfile=dockerfile(text),
        target=target,
        build_args=build_args or {},
        ignore_file=None if ignore is None else ignore.encode(),
        platform=HOST,
        find_base=(bases or {}).get,
    )
    return survey_of(subject, all_stages=all_stages)


def said(text: str, **more: object) -> list[tuple[str, int]]:
    found = look(text, **more)  # type: ignore[arg-type]  # passed on as it is
    assert found.failure is None, found.failure
    return [(each.rule, each.line) for each in found.warnings]


def details(text: str, **more: object) -> list[str]:
    return [each.detail for each in look(text, **more).warnings]  # type: ignore[arg-type]


def base(*env: str, os: str = "linux", **config: object) -> ImageConfig:
    container = ContainerConfig(env=env, **config)  # type: ignore[arg-type]
    return ImageConfig(os=os, architecture="amd64", config=container)


# The text.


def test_a_good_file_has_no_warnings() -> None:
    text = 'FROM alpine AS build\nRUN make\nFROM scratch\nCOPY --from=build /a /a\nCMD ["/a"]\n'
    assert said(text) == []


def test_an_empty_continuation_is_told_at_the_end_of_its_line() -> None:
    assert said("FROM a\nRUN b \\\n\n  c \\\n  d\n") == [("NoEmptyContinuation", 5)]
    assert said("FROM a\nRUN b \\\n# comment\n  c\n") == []


def test_an_empty_line_of_a_heredoc_is_no_continuation() -> None:
    assert said("FROM a\nRUN <<E\n\nx\n\nE\n") == []
    assert said("FROM a\nRUN \\\n\n <<E\nx\nE\n") == [("NoEmptyContinuation", 4)]


def test_a_warning_covers_all_lines_of_its_instruction() -> None:
    (warning,) = look("FROM a\nCMD b \\\n c \\\n d\n").warnings
    assert (warning.line, warning.end_line) == (2, 4)
    assert warning.description.startswith("JSON arguments recommended")
    assert warning.url.endswith("/json-args-recommended/")


@pytest.mark.parametrize(
    ("line", "is_wrong"),
    [("FROM a as b", True), ("from a AS b", True), ("FROM a AS b", False), ("From a as b", False)],
)
def test_as_is_written_as_from_is(line: str, is_wrong: bool) -> None:
    assert (("FromAsCasing", 1) in said(line + "\n")) is is_wrong


def test_casing_follows_the_majority_and_upper_case_when_there_is_none() -> None:
    assert said("from a\nrun b\nRUN c\n") == [("ConsistentInstructionCasing", 3)]
    assert said("from a\nRUN b\n") == [("ConsistentInstructionCasing", 1)]
    assert said("From a\nrun b\nrun c\n") == [("ConsistentInstructionCasing", 1)]


def test_an_arg_before_from_has_no_say_in_casing() -> None:
    assert said("arg A=1\narg B=2\nFROM a\n") == []


def test_names_of_stages() -> None:
    text = "FROM a AS Up\nFROM a AS up\nFROM a AS scratch\n"
    assert details(text) == [
        "Stage name 'Up' should be lowercase",
        'Duplicate stage name "up", stage names should be unique',
        'Stage name should not use the same name as reserved stage "scratch"',
    ]


def test_descriptions_are_checked_when_asked_for() -> None:
    text = "# nonsense\nARG A\n# b does it\nFROM a AS b\n# wrong\nARG C D\n"
    assert said(text) == []
    found = details("# check=experimental=all\n" + text)
    assert found == [
        "Comment for ARG should follow the format: `# A <description>`",
        "Comment for ARG should follow the format: `# <arg_key> <description>`",
    ]


# FROM.


def test_an_arg_that_from_uses_is_declared() -> None:
    assert details("ARG TAG=1\nFROM a:${TAGS}x\n") == [
        "FROM argument 'TAGS' is not declared (did you mean TAG?)"
    ]
    assert said("ARG TAG\nFROM a:${TAG:-1}\n") == []
    assert said("FROM --platform=$BUILDPLATFORM a\n") == []


def test_the_defaults_make_names_of_images() -> None:
    assert details("ARG A\nFROM $A\n", build_args={"A": "x"}) == [
        "Default value for ARG $A results in empty or invalid base image name"
    ]
    assert said("ARG A=x\nFROM $A:${A}\n") == []
    found = look("ARG A=${B:?give B}\nFROM $A\n", build_args={"A": "x"})
    assert not found.warnings
    assert found.failure is None


def test_a_platform_should_be_neither_fixed_nor_the_default() -> None:
    assert said("FROM --platform=linux/arm64 a\n") == [("FromPlatformFlagConstDisallowed", 1)]
    assert said("FROM --platform=linux/arm64 a AS for-arm64\n") == []
    assert said("FROM --platform=$TARGETPLATFORM a\n") == [("RedundantTargetPlatform", 1)]
    assert said("FROM --platform=${TARGETPLATFORM}/x a\n") == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("FROM --platform=$NOPE a", "empty platform value from expression $NOPE"),
        ("FROM --platform=no/such/thing/here a", "failed to parse platform no/such/thing/here"),
        ("FROM --platform=$BULIDOS a", "(did you mean BUILDOS?)"),
        ("FROM $NOPE", "base name ($NOPE) should not be blank"),
    ],
)
def test_a_from_that_cannot_be_ends_the_pass_there(line: str, message: str) -> None:
    found = look(f"FROM a\n{line}\nCMD b\n")
    assert isinstance(found.failure, PlanError)
    assert message in found.failure.message
    assert found.failure_span is not None
    assert found.failure_span.start_line == 2
    assert ">>> FROM" in found.failure.excerpt
    assert "JSONArgsRecommended" not in {each.rule for each in found.warnings}


def test_a_base_image_for_another_platform_is_told() -> None:
    images = {"win": base(os="windows")}
    assert details("FROM win\n", bases=images) == [
        'Base image win was pulled with platform "windows/amd64", expected "linux/amd64" for'
        " current build"
    ]
    assert said("FROM --platform=windows/amd64 win AS windows\n", bases=images) == []
    assert said("# check=skip=InvalidBaseImagePlatform\nFROM win\n", bases=images) == []
    assert said("\n# check=skip=InvalidBaseImagePlatform\nFROM win\n", bases=images) == []


# Variables.


@pytest.mark.parametrize(
    "line",
    [
        "COPY $X /a",
        "COPY a /$X",
        "COPY --chown=$X a /a",
        "ADD --chmod=$X a /a",
        "ADD --checksum=$X a /a",
        "ENV A=$X",
        "ENV A$X=b",
        "LABEL a=${X}",
        "ARG A=$X",
        "ARG A=${X:-1}",
        "WORKDIR /$X",
        "USER a$X",
        "VOLUME /$X",
        "STOPSIGNAL SIGTERM$X",
        "RUN --mount=type=bind,target=$X true",
        "COPY <<E /a\n$X\nE",
    ],
)
def test_an_unknown_variable_is_told_where_words_are_expanded(line: str) -> None:
    assert said(f"FROM a\n{line}\n") == [("UndefinedVar", 2)]


@pytest.mark.parametrize(
    "line",
    [
        "RUN echo $X",
        'CMD ["$X"]',
        "EXPOSE 8$X",
        "COPY '$X' /a",
        "COPY \\$X /a",
        'COPY <<"E" /a\n$X\nE',
        "HEALTHCHECK CMD echo $X",
        "SHELL ['$X']",
        "COPY --exclude=$X a /a",
    ],
)
def test_and_nowhere_else(line: str) -> None:
    line = line.replace("['$X']", '["$X"]')
    assert said(f"FROM a\n{line}\n") == []


def test_every_word_is_told_and_a_name_once_a_word() -> None:
    assert said("FROM a\nCOPY $X$X $X$Y /a\n") == [("UndefinedVar", 2)] * 3


@pytest.mark.parametrize(
    "before",
    ["ARG X", "ARG X=1", "ENV X=1", "ARG Y X", "ARG BUILDKIT_SBOM_SCAN_STAGE\nENV X="],
)
def test_what_is_declared_is_known(before: str) -> None:
    assert said(f"FROM a\n{before}\nCOPY $X /a\n") == []
    assert said(f"FROM a AS b\n{before}\nFROM b\nCOPY $X /a\n") == []


def test_a_global_arg_has_to_be_declared_again() -> None:
    assert said("ARG X=1\nFROM a\nCOPY $X /a\n") == [("UndefinedVar", 3)]
    assert said("ARG X=1\nFROM a\nARG X\nCOPY $X /a\n") == []


def test_the_values_of_one_env_do_not_see_each_other_and_those_of_one_arg_do() -> None:
    assert said("FROM a\nENV A=1 B=$A\n") == [("UndefinedVar", 2)]
    assert said("FROM a\nARG A=1 B=$A\n") == []


def test_a_build_arg_makes_its_default_unread() -> None:
    assert said("FROM a\nARG A=$X\n", build_args={"A": "1"}) == []


def test_the_newest_of_equally_close_names_was_meant() -> None:
    assert details("FROM a\nENV ABC1=1\nARG ABC2=1\nCOPY $ABC3 /a\n") == [
        "Usage of undefined variable '$ABC3' (did you mean $ABC2?)"
    ]
    assert details("FROM a\nARG ABC1=1 ABC2=1\nARG ABC1=2\nCOPY $ABC3 /a\n") == [
        "Usage of undefined variable '$ABC3' (did you mean $ABC1?)"
    ]


def test_variables_of_a_known_base_image_are_known() -> None:
    images = {"go": base("GOPATH=/go")}
    assert said("FROM go\nWORKDIR $GOPATH\n", bases=images) == []
    assert said("FROM go\nENV PATH=$GOPATH:$PATH\n", bases=images) == []
    assert ("UndefinedVar", 2) in said("FROM go\nWORKDIR $GOPATH\n")


# What instructions do.


def test_keys_and_values_are_joined_by_a_sign() -> None:
    text = "FROM a\nENV b c\nLABEL d e\nenv f g\n"
    assert [each for each in details(text) if "legacy" in each] == [
        '"ENV key=value" should be used instead of legacy "ENV key value" format',
        '"LABEL key=value" should be used instead of legacy "LABEL key value" format',
        '"env key=value" should be used instead of legacy "env key value" format',
    ]


@pytest.mark.parametrize("name", ["token", "API_KEY", "my_Password", "auth", "secret_x"])
def test_a_secret_is_told_in_arg_and_env(name: str) -> None:
    assert said(f"FROM a\nARG {name}\nENV {name}=1\n") == [
        ("SecretsUsedInArgOrEnv", 2),
        ("SecretsUsedInArgOrEnv", 3),
    ]


@pytest.mark.parametrize("name", ["PUBLIC_KEY", "key_file", "tokens", "AUTHOR", "token_version"])
def test_what_only_sounds_like_one_is_not(name: str) -> None:
    assert said(f"FROM a\nARG {name}\nENV {name}=1\n") == []


def test_a_secret_among_the_global_args_is_not_in_the_image() -> None:
    assert said("ARG TOKEN\nFROM a\n") == []


def test_the_first_workdir_is_absolute() -> None:
    assert details('FROM a\nWORKDIR "b c"\nWORKDIR d\n') == [
        'Relative workdir "b c" can have unexpected results if the base image changes'
    ]
    assert said("FROM a AS b\nWORKDIR /x\nFROM b\nWORKDIR y\n") == []
    assert said("FROM a\nENV D=/x\nWORKDIR $D/y\n") == []
    images = {"a": base(working_dir="/x")}
    assert said("FROM a\nWORKDIR y\n", bases=images) == [("WorkdirRelativePath", 2)]


def test_the_last_of_several_counts_and_the_others_are_told() -> None:
    text = 'FROM a\nCMD ["a"]\nHEALTHCHECK NONE\nCMD ["b"]\nHEALTHCHECK CMD c\nCMD ["d"]\n'
    assert said(text) == [("MultipleInstructionsDisallowed", line) for line in (2, 3, 4)]
    assert said('FROM a AS b\nCMD ["a"]\nFROM b\nCMD ["c"]\n') == []


def test_the_shell_form_is_told_where_no_shell_was_chosen() -> None:
    assert said("FROM a\nENTRYPOINT b\n") == [("JSONArgsRecommended", 2)]
    assert said('FROM a\nSHELL ["/bin/bash", "-c"]\nENTRYPOINT b\n') == []
    assert said("FROM a\nCMD b\n", bases={"a": base(shell=("/bin/bash", "-c"))}) == []


def test_ports_are_the_containers_and_protocols_lower_case() -> None:
    assert details("FROM a\nEXPOSE 80/tcp 9090:80/UDP 1.2.3.4::53/udp\n") == [
        "EXPOSE instruction should not define an IP address or host-port mapping, found"
        " '1.2.3.4::53/udp'",
        "Defined protocol '9090:80/UDP' in EXPOSE instruction should be lowercase",
        "EXPOSE instruction should not define an IP address or host-port mapping, found"
        " '9090:80/UDP'",
    ]


def test_an_ignored_source_is_told() -> None:
    text = "FROM a\nCOPY x ./d/y ok /z/\nADD x /x\n"
    assert details(text, ignore="x\nd\n") == [
        'Attempting to Copy file "x" that is excluded by .dockerignore',
        'Attempting to Copy file "d/y" that is excluded by .dockerignore',
        'Attempting to Add file "x" that is excluded by .dockerignore',
    ]


@pytest.mark.parametrize(
    ("line", "ignore"),
    [
        ("COPY x /x", ""),
        ("COPY x /x", "x\n!y\n"),  # something is taken back: nobody can tell
        ("COPY --from=b x /x", "x"),
        ("ADD https://example.com/x /x", "**/x"),
        ("ADD git@example.com:x /x", "**"),
        ("COPY . /x", "x"),
        ("COPY / /x", "x"),
        ("COPY <<x /x\nx", "x"),
    ],
)
def test_a_source_that_may_be_there_is_not(line: str, ignore: str) -> None:
    assert said(f"FROM a AS b\nFROM a\n{line}\n", ignore=ignore) == []


@pytest.mark.parametrize("pattern", ["*", "**", "**/*"])
def test_a_context_of_which_nothing_is_left_is_told(pattern: str) -> None:
    assert said("FROM a\nCOPY . /x\n", ignore=pattern) == [("CopyIgnoredFile", 2)]


def test_triggers_of_a_base_are_checked_where_from_stands() -> None:
    text = "FROM a AS b\nONBUILD CMD $X\nONBUILD ENV A $X\nFROM b\n"
    assert said(text) == [
        ("JSONArgsRecommended", 4),
        ("UndefinedVar", 4),
        ("LegacyKeyValueFormat", 4),
    ]
    assert said("FROM a\n", bases={"a": base(on_build=("ENV A b",))}) == [
        ("LegacyKeyValueFormat", 1)
    ]


# Which stages, which checks.


def test_a_check_looks_at_all_stages_and_a_build_at_those_it_needs() -> None:
    text = "FROM a AS b\nCMD b\nFROM a AS c\nCMD c\nFROM a\nCOPY --from=c x x\nCMD d\n"
    assert [line for _rule, line in said(text)] == [2, 4, 7]
    assert [line for _rule, line in said(text, all_stages=False)] == [4, 7]
    assert [line for _rule, line in said(text, all_stages=False, target="b")] == [2]


def test_the_text_of_other_stages_is_looked_at_in_a_build_too() -> None:
    assert said("FROM a as b\nFROM a\n", all_stages=False) == [("FromAsCasing", 1)]


def test_a_comment_above_an_instruction_skips_checks_for_it_alone() -> None:
    text = "FROM a\n# check=skip=JSONArgsRecommended\nCMD b\nFROM a\nCMD c\n"
    assert said(text) == [("JSONArgsRecommended", 5)]
    text = "\n# check=skip=StageNameCasing\nFROM a AS B\nFROM a AS C\n"
    assert said(text) == [("StageNameCasing", 4)]


def test_the_build_argument_replaces_the_directive() -> None:
    text = "# check=skip=all\nFROM a\nCMD b\n"
    assert said(text) == []
    for value in ("", "skip=StageNameCasing"):
        arguments = {"BUILDKIT_DOCKERFILE_CHECK": value}
        assert said(text, build_args=arguments) == [("JSONArgsRecommended", 3)]


def test_warnings_are_an_error_where_the_file_says_so() -> None:
    found = look("# check=error=true\nFROM a as b\nCMD c\nCMD d\n")
    assert isinstance(found.failure, CheckFailedError)
    assert found.failure.rules == (
        "FromAsCasing",
        "JSONArgsRecommended",
        "MultipleInstructionsDisallowed",
    )
    assert "FromAsCasing, JSONArgsRecommended" in found.failure.message
    assert "2 | >>> FROM a as b" in found.failure.excerpt
    assert look("# check=error=true\nFROM a AS b\n").failure is None


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(PlanError, match="invalid check option"):
        look("# check=nonsense\nFROM a\n")


# Errors.


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("EXPOSE nope", LoweringError),
        ("EXPOSE 80/XYZ", LoweringError),
        ("STOPSIGNAL nope", LoweringError),
        ("ENV A=${B", ExpansionError),
        ("COPY ${A:?none} /a", ExpansionError),
        ("COPY <<E /a\n${A!}\nE", ExpansionError),
    ],
)
def test_an_error_ends_the_pass_and_keeps_the_warnings_before_it(
    line: str, kind: type[Exception]
) -> None:
    found = look(f"FROM a\nCMD x\n{line}\nWORKDIR rel\n")
    assert isinstance(found.failure, kind)
    assert found.failure_span is not None
    assert found.failure_span.start_line == 3
    rules = [each.rule for each in found.warnings]
    assert rules[0] == "JSONArgsRecommended"
    assert "WorkdirRelativePath" not in rules


def test_a_user_or_directory_out_of_unknown_variables_is_no_error() -> None:
    assert said("FROM a\nUSER $X\nWORKDIR $Y\n") == [
        ("UndefinedVar", 2),
        ("UndefinedVar", 3),
        ("WorkdirRelativePath", 3),
    ]


def test_an_unknown_target_and_a_file_without_stages_are_errors() -> None:
    assert isinstance(look("FROM a\n", target="b").failure, UnknownTargetError)
    failure = look("ARG A\n").failure
    assert isinstance(failure, PlanError)
    assert "no stages" in failure.message


def test_a_global_arg_that_cannot_be_expanded_is_an_error_with_its_place() -> None:
    failure = look("ARG A=${B:?give B}\nFROM x\n").failure
    assert isinstance(failure, ExpansionError)
    assert str(failure).startswith("Dockerfile:1:")


def test_a_malformed_pattern_of_the_ignore_file_is_an_error() -> None:
    failure = look("FROM a\nCOPY a /a\n", ignore="[\n").failure
    assert isinstance(failure, PlanError)
    assert ".dockerignore" in failure.message


def test_a_hostile_file_is_looked_at_in_seconds() -> None:
    """Guessing names costs most; it is given up when there is too much to guess."""
    name = "x" * 50
    text = "FROM a\n" + "".join(f"ENV {name}{number:03}=1\n" for number in range(150))
    text += "COPY " + " ".join(f"${name}{number:03}yyy" for number in range(1000)) + " /x\n"
    subject = Subject(dockerfile=dockerfile(text), platform=HOST)
    started = time.monotonic()
    assert len(survey_of(subject, all_stages=True).warnings) == 1000
    assert time.monotonic() - started < 5
