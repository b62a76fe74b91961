"""The page of the command line: each command with its arguments and options, from click."""

from __future__ import annotations

from collections.abc import Iterator

import click

from harness.cli import main
from scripts.reference.keys import Undescribed
from scripts.reference.markdown import fenced, page, prose, table


def commands() -> str:
    """The page."""
    context = click.Context(main.cli, info_name="harness")
    parts = [prose(main.cli.help or ""), EXITS]
    for name in main.COMMANDS:
        command = main.cli.get_command(context, name)
        assert command is not None
        parts += _command(command, click.Context(command, info_name=name, parent=context))
    return page("Commands", *parts)


EXITS = "Every command ends with one of the [exit codes](exit-codes.md)."


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    """A section, and those of the commands of a group."""
    yield f"## {context.command_path}"
    pieces = [piece for piece in command.collect_usage_pieces(context) if piece]
    yield fenced(" ".join([context.command_path, *pieces]), "text")
    yield prose((command.help or "").replace("\b\n", ""))
    rows = [row for option in command.params if (row := _option(option, context))]
    if rows:
        yield table(["option", "meaning"], rows)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(inner, click.Context(inner, info_name=name, parent=context))


def _option(parameter: click.Parameter, context: click.Context) -> list[str] | None:
    """How it is written, and what it means; None for an argument, which the usage shows."""
    if not isinstance(parameter, click.Option) or parameter.hidden:
        return None
    if not parameter.help:
        raise Undescribed(f"{context.command_path} {parameter.name}")
    written, meaning = parameter.get_help_record(context) or ("", "")
    if parameter.envvar:
        meaning += f"  [env var: {parameter.envvar}]"
    return [f"`{written.replace('|', ' or ')}`", prose(meaning)]


def options() -> list[click.Option]:
    """The options of every command, each name once."""
    context = click.Context(main.cli, info_name="harness")
    found: dict[str, click.Option] = {}
    waiting = [main.cli.get_command(context, name) for name in main.COMMANDS]
    for command in waiting:
        assert command is not None
        if isinstance(command, click.Group):
            waiting += command.commands.values()
        found |= {str(p.name): p for p in command.params if isinstance(p, click.Option)}
    return list(found.values())
