"""The commands as click knows them: drawn help, and completion of words in shells.

The only importer of click. Made from the same `Command` tables that `arguments.split` reads, so
that help, completion and parsing cannot disagree. Not imported by a command line in order.

To complete in bash: eval "$(_LAMINA_COMPLETE=bash_source lamina)"; zsh and fish likewise.
"""

from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from builder.cli.arguments import Command, Option, UsageError, split
from builder.cli.commands import COMMANDS, GROUPS, load
from builder.cli.session import GLOBAL

_WIDTH = 96


def show_help(name: list[str]) -> int:
    """Print the help of a command or a group; of everything when `name` is empty."""
    command: click.Command = application()
    ctx = click.Context(command, info_name="lamina", max_content_width=_WIDTH)
    for word in name:
        assert isinstance(command, click.Group)
        found = command.get_command(ctx, word)
        assert found is not None
        command = found
        ctx = click.Context(command, info_name=word, parent=ctx, max_content_width=_WIDTH)
    click.echo(command.get_help(ctx))
    return 0


def complete() -> int:
    """Answer the shell that asks, by _LAMINA_COMPLETE, for completions or for its script."""
    application().main(prog_name="lamina", complete_var="_LAMINA_COMPLETE", standalone_mode=False)
    return 0


def application() -> click.Group:
    """The whole command line as a click application."""
    return _Family(
        name="lamina",
        prefix="",
        help=GLOBAL.about,
        params=[_click_option(option) for option in GLOBAL.options],
        epilog="`lamina COMMAND --help` tells more about a command.",
    )


class _Family(click.Group):
    """All commands whose name begins with `prefix`; loaded when asked for."""

    def __init__(self, *, prefix: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.prefix = prefix

    def list_commands(self, ctx: click.Context) -> list[str]:
        spelled = (name.rpartition(" ") for name in (*COMMANDS, *GROUPS))
        return [word for family, _, word in spelled if family == self.prefix]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = f"{self.prefix} {cmd_name}".strip()
        if name in COMMANDS:
            return _Single(load(name.split(" "), []), name=cmd_name)
        if name in GROUPS:
            return _Family(name=name, prefix=name, help=GROUPS[name])
        return None


class _Single(click.Command):
    """One command of ours in click's clothes: its words are split by `arguments.split`."""

    def __init__(self, command: Command, *, name: str) -> None:
        self.ours = command
        words = click.Argument(
            ["words"], nargs=-1, type=click.UNPROCESSED, metavar=command.synopsis or " "
        )
        options = [_click_option(option) for option in command.options]
        super().__init__(name=name, help=command.about, params=[*options, words])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS]", self.ours.synopsis] if self.ours.options else [self.ours.synopsis]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split what stands before the word that is being completed."""
        try:
            parsed = split(self.ours, args, partial=True)
        except UsageError:
            return args
        ctx.params["words"] = tuple(parsed.words)
        return parsed.words

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [name for option in self.ours.options for name in option.names]
        if incomplete.startswith("-"):
            return [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return [CompletionItem(incomplete, type="file")]


def _click_option(option: Option) -> click.Option:
    kinds: dict[str, dict[str, Any]] = {
        "flag": {"is_flag": True},
        "value": {"metavar": option.metavar},
        "list": {"metavar": option.metavar, "multiple": True},
        "maybe": {"metavar": f"[={option.metavar}]"},
    }
    more = kinds[option.kind]
    if option.choices and option.kind in ("value", "list"):
        more = {**more, "type": click.Choice([choice for choice in option.choices if choice])}
        del more["metavar"]
    # click wants a Python name beside the spelled ones
    declarations: Sequence[str] = [*option.names, option.key.replace("-", "_")]
    return click.Option(declarations, help=option.about, **more)
