import pytest

from builder import cli
from builder.cli.application import application, show_help
from builder.cli.commands import COMMANDS, load
from tests.support.cli import Lamina

Capture = pytest.CaptureFixture[str]


def help_of(capsys: Capture, *name: str) -> str:
    assert show_help(list(name)) == 0
    return capsys.readouterr().out


def test_help_lists_every_command_and_group(capsys: Capture) -> None:
    text = help_of(capsys)
    for name in ("build", "run", "images", "system", "container", "fsck"):
        assert f"\n  {name} " in text
    assert "--root DIRECTORY" in text


def test_help_of_a_group_lists_its_commands(capsys: Capture) -> None:
    text = help_of(capsys, "system")
    assert "Usage: lamina system" in text
    for name in ("df", "prune", "info"):
        assert f"\n  {name} " in text


def test_a_group_inside_a_group_is_listed_by_its_own_word(capsys: Capture) -> None:
    text = help_of(capsys, "buildx")
    assert "\n  history " in text
    assert "history ls" not in text
    assert "\n  trace " in help_of(capsys, "buildx", "history")
    assert "\n  history " in help_of(capsys)  # that of an image
    assert help_of(capsys).count("\n  buildx ") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_shows_its_options(capsys: Capture, name: str) -> None:
    text = help_of(capsys, *name.split(" "))
    command = load(name.split(" "), [])
    assert text.startswith(f"Usage: lamina {name} ")
    assert "  " not in text.splitlines()[0]
    assert command.synopsis in " ".join(text.split())
    for option in command.options:
        assert option.names[-1] in text


def test_help_of_run_says_what_the_network_is(capsys: Capture) -> None:
    assert "bridge (default)" in help_of(capsys, "run")


@pytest.mark.parametrize(
    "line", [["--help"], ["-h"], [], ["run", "--help"], ["image"], ["image", "ls", "--help"]]
)
def test_help_goes_to_standard_output(capsys: Capture, line: list[str]) -> None:
    assert cli.carry_out(line) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Usage: lamina")
    assert captured.err == ""


def test_the_application_is_a_click_group() -> None:
    group = application()
    assert group.name == "lamina"
    assert group.params


def complete(lamina: Lamina, line: str) -> list[str]:
    words = line.split(" ")
    done = lamina(
        env={
            "_LAMINA_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
    )
    return [item.partition(",")[2] for item in done.stdout.splitlines()]


def test_commands_are_completed(lamina: Lamina) -> None:
    assert complete(lamina, "lamina im") == ["images", "import", "image"]
    assert complete(lamina, "lamina system d") == ["df"]


def test_options_are_completed_also_behind_others(lamina: Lamina) -> None:
    assert complete(lamina, "lamina run --ent") == ["--entrypoint"]
    assert complete(lamina, "lamina ps -a --no") == ["--no-trunc"]
    assert "--gpus" not in complete(lamina, "lamina run --")


def test_the_shell_gets_its_script(lamina: Lamina) -> None:
    done = lamina(env={"_LAMINA_COMPLETE": "bash_source"})
    assert "_lamina_completion" in done.stdout
