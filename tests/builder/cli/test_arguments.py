import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.cli.arguments import (
    Arguments,
    Command,
    HelpWanted,
    UsageError,
    build_args,
    flag,
    many,
    maybe,
    split,
    value,
)
from builder.cli.session import GLOBAL, Session


def nothing(arguments: Arguments, session: Session) -> int:
    raise AssertionError("only split here")


RUN = Command(
    name="run",
    synopsis="IMAGE [COMMAND...]",
    about="",
    act=nothing,
    options=(
        flag("-i", "--interactive", about=""),
        flag("-t", "--tty", about=""),
        flag("--rm", about=""),
        many("-e", "--env", about=""),
        value("-n", "--name", about=""),
        value("--progress", about="", choices=("plain", "tty")),
        maybe("--pull", bare="always", choices=("always", "never"), about=""),
    ),
    words=(1, None),
    stops_at_word=True,
    refused={"-p": "no ports", "--publish": "no ports"},
)
TAG = RUN._replace(name="tag", words=(2, 2), stops_at_word=False)


def test_a_flag_is_off_unless_given() -> None:
    assert not split(RUN, ["image"]).flag("rm")
    assert split(RUN, ["--rm", "image"]).flag("rm")


@pytest.mark.parametrize("word", ["false", "0", "f", "F", "False", "FALSE"])
def test_a_flag_can_be_switched_off_again(word: str) -> None:
    assert not split(RUN, ["--rm", f"--rm={word}", "image"]).flag("rm")


@pytest.mark.parametrize("word", ["true", "1", "t", "T", "True", "TRUE"])
def test_a_flag_can_be_switched_on_by_value(word: str) -> None:
    assert split(RUN, ["--rm=false", f"--rm={word}", "image"]).flag("rm")


def test_a_flag_takes_no_value_from_the_next_word() -> None:
    arguments = split(RUN, ["--rm", "false"])
    assert arguments.flag("rm")
    assert arguments.words == ["false"]


def test_a_flag_with_another_value_is_refused() -> None:
    with pytest.raises(UsageError, match="'maybe' for --rm"):
        split(RUN, ["--rm=maybe", "image"])


def test_short_flags_combine() -> None:
    arguments = split(RUN, ["-it", "image"])
    assert arguments.flag("interactive")
    assert arguments.flag("tty")


def test_the_last_of_combined_letters_may_take_a_value() -> None:
    arguments = split(RUN, ["-ite", "A=1", "image"])
    assert arguments.values("env") == ("A=1",)
    assert arguments.flag("tty")


@pytest.mark.parametrize(
    "line", [["--name", "x"], ["--name=x"], ["-n", "x"], ["-nx"], ["-n=x"]], ids=" ".join
)
def test_a_value_may_be_written_in_five_ways(line: list[str]) -> None:
    assert split(RUN, [*line, "image"]).value("name") == "x"


def test_a_value_may_look_like_an_option() -> None:
    assert split(RUN, ["--name", "--rm", "image"]).value("name") == "--rm"


def test_the_last_value_counts_and_a_list_keeps_all() -> None:
    arguments = split(RUN, ["-n", "a", "-n", "b", "-e", "A=1", "--env=B=2", "image"])
    assert arguments.value("name") == "b"
    assert arguments.values("env") == ("A=1", "B=2")


def test_an_empty_value_is_a_value() -> None:
    assert split(RUN, ["--name=", "image"]).value("name") == ""
    assert split(RUN, ["image"]).value("name") is None


def test_a_value_that_may_be_left_out() -> None:
    assert split(RUN, ["--pull", "image"]).value("pull") == "always"
    assert split(RUN, ["--pull=never", "image"]).value("pull") == "never"
    assert split(RUN, ["--pull", "image"]).words == ["image"]


def test_a_choice_is_checked() -> None:
    assert split(RUN, ["--progress", "tty", "image"]).value("progress") == "tty"
    with pytest.raises(UsageError, match="'loud' for --progress: not one of plain, tty"):
        split(RUN, ["--progress", "loud", "image"])


def test_options_of_run_end_at_the_first_word() -> None:
    arguments = split(RUN, ["image", "ls", "--rm", "-l"])
    assert arguments.words == ["image", "ls", "--rm", "-l"]
    assert not arguments.flag("rm")


def test_options_of_other_commands_may_stand_anywhere() -> None:
    arguments = split(TAG, ["a", "--rm", "b"])
    assert arguments.words == ["a", "b"]
    assert arguments.flag("rm")


def test_two_dashes_end_the_options() -> None:
    assert split(TAG, ["a", "--", "--rm"]).words == ["a", "--rm"]
    assert split(RUN, ["--", "image", "--", "x"]).words == ["image", "--", "x"]


def test_a_single_dash_is_a_word() -> None:
    assert split(TAG, ["-", "b"]).words == ["-", "b"]


def test_an_unknown_option_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown flag: --nam") as caught:
        split(RUN, ["--nam", "x", "image"])
    assert caught.value.hint == "did you mean --name?"
    assert not caught.value.is_count


def test_where_no_option_is_near_the_help_is_named() -> None:
    for command, see in ((TAG, "see `lamina tag --help`"), (GLOBAL, "see `lamina --help`")):
        with pytest.raises(UsageError, match="unknown flag: --zz") as caught:
            split(command, ["--zz", "a"])
        assert caught.value.hint == see


def test_an_unknown_letter_is_named_with_its_group() -> None:
    with pytest.raises(UsageError, match="unknown shorthand flag: 'x' in -ix"):
        split(RUN, ["-ix", "image"])


def test_an_option_that_others_have_is_refused_with_the_reason() -> None:
    for line in (["-p", "80:80"], ["--publish=80:80"]):
        with pytest.raises(UsageError, match="is not supported by this version") as caught:
            split(RUN, [*line, "image"])
        assert caught.value.hint == "no ports"


@pytest.mark.parametrize("line", [["--name"], ["-n"], ["-in"]])
def test_a_missing_value_is_an_error_unless_the_line_is_being_typed(line: list[str]) -> None:
    with pytest.raises(UsageError, match=r"flag needs an argument: (--name|-n)"):
        split(RUN, line)
    assert split(RUN, line, partial=True).value("name") is None


@pytest.mark.parametrize("line", [["--help"], ["-h"], ["--rm", "--help", "image"]])
def test_help_is_wanted_wherever_it_stands_among_the_options(line: list[str]) -> None:
    with pytest.raises(HelpWanted):
        split(RUN, line)


def test_help_behind_the_image_is_the_programs() -> None:
    assert split(RUN, ["image", "--help"]).words == ["image", "--help"]


@pytest.mark.parametrize(
    ("words", "given", "message"),
    [
        ((2, 2), ["a"], "requires exactly 2 arguments"),
        ((1, None), [], "requires at least 1 argument"),
        ((0, 1), ["a", "b"], "requires at most 1 argument"),
        ((0, 0), ["a"], "requires no arguments"),
        ((1, 1), [], "requires exactly 1 argument"),
    ],
)
def test_a_wrong_number_of_words_is_a_mistake_of_its_own_kind(
    words: tuple[int, int | None], given: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        split(TAG._replace(words=words), given)
    assert caught.value.is_count
    assert "usage: lamina tag" in caught.value.hint


def test_numbers_are_checked() -> None:
    assert split(RUN, ["-n", "12", "image"]).number("name") == 12
    assert split(RUN, ["image"]).number("name") is None
    for text in ("x", "-1", "1.5", ""):
        with pytest.raises(UsageError, match="not a whole number of at least 0"):
            split(RUN, ["-n", text, "image"]).number("name")
    assert split(RUN, ["-n", "-1", "image"]).number("name", least=-1) == -1


def test_asking_for_an_option_that_is_none_is_a_mistake_of_ours() -> None:
    with pytest.raises(KeyError):
        split(RUN, ["image"]).flag("nmae")


@settings(deadline=None)
@given(st.lists(st.text(max_size=6), max_size=6))
def test_any_line_is_split_or_refused(line: list[str]) -> None:
    for command in (RUN, TAG):
        try:
            arguments = split(command, line)
        except (UsageError, HelpWanted):
            continue
        assert len(arguments.words) >= command.words[0]


@settings(deadline=None)
@given(st.lists(st.text(min_size=1, max_size=8).filter(lambda text: text[0] != "-"), min_size=1))
def test_words_come_out_as_they_went_in(words: list[str]) -> None:
    assert split(RUN, words).words == words


def test_build_args_take_their_values_from_the_line_or_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GIVEN", "there")
    monkeypatch.delenv("NOT_GIVEN", raising=False)
    given = ("A=1", "B=", "A=2=3", "GIVEN", "NOT_GIVEN")
    assert build_args(given) == {"A": "2=3", "B": "", "GIVEN": "there"}


def test_a_build_arg_has_a_name() -> None:
    with pytest.raises(UsageError, match="for --build-arg"):
        build_args(("=1",))
