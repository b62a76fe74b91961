"""`harness report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from harness.cli import options
from harness.errors import UserError

DEFAULT = Path("report.html")


@click.command("report")
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[DIR ...]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help=f"Where the page goes.  [default: {DEFAULT}]",
)
@click.option("--rank-by", metavar="SUITE.METRIC", help="The metric that ranks.")
@click.option(
    "--watch",
    is_flag=True,
    help="Serve the page on this machine, and renew it while a run goes on.",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), metavar="N", help="Of --watch; default: a free one."
)
def command(
    folders: Sequence[Path],
    output: Path | None,
    rank_by: str | None,
    watch: bool,
    port: int | None,
) -> None:
    """One page of the records in results folders, with the answers behind its figures.

    A single file that opens from a disk and asks for nothing. Default: the folders under results/.
    """
    results = options.existing_results(folders)
    if not results:
        raise UserError("no results under results/: name a results folder, or run an experiment")
    if watch and output:
        raise UserError("--watch writes no file: leave -o out, or write the page without --watch")
    if port and not watch:
        raise UserError("--port: only --watch serves the page: add it, or leave --port out")
    if watch:
        _serve(results, rank_by, port or 0)
    else:
        _write(results, rank_by, output or DEFAULT)


def _write(results: Sequence[Path], rank_by: str | None, file: Path) -> None:
    from harness.cli.report import page, reading
    from harness.results import store

    read = reading.read(results, rank_by)
    for line in read.unread:
        click.echo(f"Note: {line}", err=True)
    text, rows = page.page(read), len(read.board["rows"])
    try:
        store.write_text(file, text)
    except OSError as error:
        raise UserError(f"-o {file}: cannot be written ({error.strerror}); name another") from None
    click.echo(f"{file}: {rows} {'row' if rows == 1 else 'rows'}, {len(text) / 1e6:.1f} MB")


def _serve(results: Sequence[Path], rank_by: str | None, port: int) -> None:
    """Until an interrupt."""
    from harness.cli.report.watch import HOST, Watched, server

    with server(Watched(results, rank_by), port) as serving:
        click.echo(f"http://{HOST}:{serving.server_port}/ (Ctrl-C ends it)")
        serving.serve_forever(poll_interval=0.1)
