"""`harness leaderboard`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from harness.cli.render import leaderboard_table
from harness.cli.render.tables.columns import sorted_by
from harness.results import store
from harness.sdk.results import load_results
from harness.system.console import console


@click.command("leaderboard")
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR ...]")
@click.option(
    "--format",
    "table_format",
    default="table",
    show_default=True,
    type=click.Choice(leaderboard_table.FORMATS),
    help="How the table is written.",
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
    results = load_results(*folders, rank_by=rank_by)
    for problem in results.problems:
        click.echo(f"Left out: {problem}", err=True)
    if note := store.unsealed(results.records):
        click.echo(f"Note: {note}", err=True)
    board = sorted_by(results.board, sort) if sort else results.board
    patterns = [name for group in columns for name in group.split(",") if name]
    table = leaderboard_table.render(board, table_format, patterns)
    if isinstance(table, str):
        click.echo(table.rstrip("\n"))
    else:
        console().print(table)
