"""`harness leaderboard`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from harness.cli import options
from harness.cli.render import leaderboard_table
from harness.cli.render.tables.columns import sorted_by
from harness.errors import UserError
from harness.results import leaderboard_file, store
from harness.results.leaderboard_layout import Leaderboard
from harness.system.console import console


@click.command("leaderboard")
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR ...]")
@click.option(
    "--format",
    "table_format",
    default="table",
    show_default=True,
    type=click.Choice(leaderboard_table.FORMATS),
)
@click.option("--rank-by", metavar="SUITE.METRIC", help="The metric that ranks.")
@click.option(
    "--columns",
    "columns",
    multiple=True,
    metavar="A,B",
    help="Names or patterns: perplexity.*, *.delta, train_seconds, options.lr, tied_with.",
)
@click.option(
    "--sort", metavar="COLUMN", help="Order rows by it, best first; `-COLUMN`: worst first."
)
def command(
    folders: Sequence[Path],
    table_format: str,
    rank_by: str | None,
    columns: Sequence[str],
    sort: str | None,
) -> None:
    """The table of the records in results folders (default: those under results/)."""
    board = _board(options.existing_results(folders), rank_by)
    shown = sorted_by(board, sort) if sort else board
    patterns = [name for group in columns for name in group.split(",") if name]
    table = leaderboard_table.render(shown, table_format, patterns)
    if isinstance(table, str):
        click.echo(table.rstrip("\n"))
    else:
        console().print(table)


def _board(results: Sequence[Path], rank_by: str | None) -> Leaderboard:
    """The leaderboard of all records that can be used; the others are named on standard error."""
    if not results:
        raise UserError("no results under results/: name a results folder, or run an experiment")
    records, problems = store.read_usable(results)
    folder = results[0] if len(results) == 1 else None
    try:
        board = leaderboard_file.build(folder, records, rank_by=rank_by)
    except UserError:
        records, more = store.with_samples(records)
        if not more or not records:
            raise
        problems += more
        board = leaderboard_file.build(None, records, rank_by=rank_by)
    for problem in problems:
        click.echo(f"Left out: {problem}", err=True)
    if note := store.unsealed(records):
        click.echo(f"Note: {note}", err=True)
    return board
