"""`harness import`: what others measured."""

from __future__ import annotations

import importlib

import click

SUBCOMMANDS = {
    "lm-eval": ("lm_eval", "A folder of lm-eval's results as rows of a results folder."),
    "peft": ("peft", "peft's method_comparison results as a table of their own."),
}
"""Name -> its module, and the first sentence of its help."""


class _LazyGroup(click.Group):
    """Imports a subcommand when it is run."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand of that name."""
        if cmd_name not in SUBCOMMANDS:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"{__name__}.{SUBCOMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing one."""
        click.Group(commands=_listed()).format_commands(ctx, formatter)


def _listed() -> dict[str, click.Command]:
    return {name: click.Command(name, help=told) for name, (_, told) in SUBCOMMANDS.items()}


@click.group("import", cls=_LazyGroup, commands=_listed())
def command() -> None:
    """What others measured: lm-eval's results as rows, peft's as a table of their own."""
