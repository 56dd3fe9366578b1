import pytest

from builder.cli.arguments import Command, HelpWanted, UsageError
from builder.cli.commands import COMMANDS, GROUPS, VERSION, find, load
from tests.support.cli import REPOSITORY


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_loaded(name: str) -> None:
    command = load(name.split(" "), [])
    assert isinstance(command, Command)
    assert command.about.endswith(".")
    assert callable(command.act)


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_a_command_have_names_of_their_own(name: str) -> None:
    command = load(name.split(" "), [])
    names = [option for each in command.options for option in each.names]
    assert len(names) == len(set(names))
    assert not set(names) & set(command.refused)
    assert "--help" not in names
    assert all(option.names[-1].startswith("--") for option in command.options)


def test_every_group_has_commands_and_these_have_a_group() -> None:
    for group in GROUPS:
        assert any(name.startswith(f"{group} ") for name in COMMANDS)
    assert {name.rpartition(" ")[0] for name in COMMANDS} - {""} == set(GROUPS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if " " in name])
def test_every_command_of_several_words_has_its_group(name: str) -> None:
    group = name.rpartition(" ")[0]
    assert group in GROUPS
    assert group not in COMMANDS
    assert find(group.split(" ")) == (group.split(" "), [])
    with pytest.raises(HelpWanted):
        load(group.split(" "), [])


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("images", "image ls"),
        ("rmi", "image rm"),
        ("build", "image build"),
        ("build", "buildx build"),
        ("ps", "container ls"),
        ("run", "container run"),
        ("load", "image load"),
        ("builds ls", "buildx history ls"),
        ("builds show", "buildx history inspect"),
    ],
)
def test_both_spellings_are_one_command(short: str, long: str) -> None:
    assert COMMANDS[short] == COMMANDS[long]


@pytest.mark.parametrize(
    ("words", "name", "rest"),
    [
        (["ps", "-a"], ["ps"], ["-a"]),
        (["image", "ls", "-q"], ["image", "ls"], ["-q"]),
        (["image"], ["image"], []),
        (["image", "nope"], ["image"], ["nope"]),
        (["nope", "ls"], [], ["nope", "ls"]),
        ([], [], []),
        (["run", "ls"], ["run"], ["ls"]),
        (["buildx", "history", "ls", "-x"], ["buildx", "history", "ls"], ["-x"]),
        (["buildx", "history", "nope"], ["buildx", "history"], ["nope"]),
        (["buildx", "history"], ["buildx", "history"], []),
        (["builds", "ls", "ls"], ["builds", "ls"], ["ls"]),
    ],
)
def test_commands_are_found_by_one_word_or_several(
    words: list[str], name: list[str], rest: list[str]
) -> None:
    assert find(words) == (name, rest)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["imagse"], "did you mean `lamina images`?"),
        (["image", "lss"], "did you mean `lamina image ls`?"),
        (["qqqqqqqq"], "`lamina --help` lists the commands"),
    ],
)
def test_an_unknown_command_comes_with_the_nearest(words: list[str], hint: str) -> None:
    with pytest.raises(UsageError, match="unknown command: " + " ".join(words)) as caught:
        load(*find(words))
    assert caught.value.hint == hint
    assert caught.value.is_count


@pytest.mark.parametrize("words", [[], ["image"], ["image", "--help"], ["system", "-h"]])
def test_nothing_and_a_group_alone_want_help(words: list[str]) -> None:
    with pytest.raises(HelpWanted):
        load(*find(words))


def test_the_version_is_the_distribution_s() -> None:
    assert f'\nversion = "{VERSION}"\n' in (REPOSITORY / "pyproject.toml").read_text()
