"""`harness leaderboard`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from harness.cli import options
from harness.cli.render import leaderboard_table
from harness.errors import UserError
from harness.results import leaderboard_file, store
from harness.system.console import console


@click.command("leaderboard")
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR ...]")
@click.option(
    "--format",
    "table_format",
    default="table",
    show_default=True,
    type=click.Choice(["table", "markdown", "csv", "json"]),
)
@click.option("--rank-by", metavar="SUITE.METRIC", help="The metric that ranks.")
def command(folders: Sequence[Path], table_format: str, rank_by: str | None) -> None:
    """The table of the records in results folders (default: those under results/)."""
    results = options.existing_results(folders)
    if not results:
        raise UserError("no results under results/: name a results folder, or run an experiment")
    records = store.read_records(results)
    folder = results[0] if len(results) == 1 else None
    board = leaderboard_file.build(folder, records, rank_by=rank_by)
    if note := store.unsealed(records):
        click.echo(f"Note: {note}", err=True)
    table = leaderboard_table.render(board, table_format)
    if isinstance(table, str):
        click.echo(table.rstrip("\n"))
    else:
        console().print(table)
