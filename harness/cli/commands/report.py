"""`harness report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from harness.cli import options
from harness.errors import UserError


@click.command("report")
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR ...]")
@click.option(
    "-o",
    "--output",
    default="report.html",
    show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the page goes.",
)
@click.option("--rank-by", metavar="SUITE.METRIC", help="The metric that ranks.")
def command(folders: Sequence[Path], output: Path, rank_by: str | None) -> None:
    """One page of the records in results folders, with the answers behind its figures.

    A single file that opens from a disk and asks for nothing. Default: the folders under results/.
    """
    results = options.existing_results(folders)
    if not results:
        raise UserError("no results under results/: name a results folder, or run an experiment")
    from harness.cli.report import page, reading
    from harness.results import store

    read = reading.read(results, rank_by)
    for line in read.unread:
        click.echo(f"Note: {line}", err=True)
    text = page.page(read)
    store.write_text(output, text)
    click.echo(f"{output}: {len(read.board['rows'])} rows, {len(text) / 1e6:.1f} MB")
