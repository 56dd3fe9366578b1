"""What a stage does, instruction by instruction."""

import pytest

from tests.support.checks import base, details, said

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


# The base.


def test_a_base_image_for_another_platform_is_told() -> None:
    images = {"win": base(os="windows")}
    assert details("FROM win\n", bases=images) == [
        'Base image win was pulled with platform "windows/amd64", expected "linux/amd64" for'
        " current build"
    ]
    assert said("FROM --platform=windows/amd64 win AS windows\n", bases=images) == []
    assert said("# check=skip=InvalidBaseImagePlatform\nFROM win\n", bases=images) == []
    # as in BuildKit, where a comment above FROM has no say in this
    assert len(said("\n# check=skip=InvalidBaseImagePlatform\nFROM win\n", bases=images)) == 1
