"""`harness import peft`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from harness.cli.render import numbers
from harness.cli.render.tables import escapes, text
from harness.errors import UserError, nearest
from harness.importing import peft_comparison
from harness.importing.peft_comparison import COLUMNS, Row
from harness.system.console import console, plain_table, printable

SHOWN = (
    *("experiment", "method", "test_accuracy", "forgetting", "train_loss", "train_seconds"),
    *("memory_max_bytes", "memory_avg_bytes", "trainable_parameters", "file_bytes"),
    *("seed", "hardware", "peft"),
)
"""The columns of a table that people read; CSV and JSON have all."""
IN_A_TERMINAL = (
    *("experiment", "method", "test_accuracy", "forgetting", "train_seconds"),
    *("memory_max_bytes", "trainable_parameters", "hardware"),
)
FORMATS = ("table", "markdown", "csv", "latex", "json")
_SHOW: Mapping[str, Callable[[float], str]] = {
    "seconds": numbers.duration,
    "bytes": lambda value: numbers.size(round(value)),
    "parameters": lambda value: numbers.count(round(value)),
}
"""The end of a column's name -> how its figures are written."""


@click.command("peft")
@click.argument(
    "places", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="DIR ..."
)
@click.option(
    "--format",
    "table_format",
    default="table",
    show_default=True,
    type=click.Choice(FORMATS),
    help="How the table is written.",
)
@click.option(
    "--sort",
    default="test_accuracy",
    show_default=True,
    metavar="COLUMN",
    help="Order rows by it, best first; `-COLUMN`: worst first.",
)
def command(places: Sequence[Path], table_format: str, sort: str) -> None:
    """peft's method_comparison results as a table of their own.

    DIR is a folder of result files, such as method_comparison/MetaMathQA/results. They have no
    samples and one seed, and so no intervals: what they cannot tell stands below the table.
    """
    if sort.removeprefix("-") not in COLUMNS:
        raise UserError(f"--sort: no column '{sort}': {nearest(sort.removeprefix('-'), COLUMNS)}")
    rows, problems = peft_comparison.read_rows(places)
    rows = peft_comparison.sorted_rows(rows, sort)
    notes = peft_comparison.caveats(rows)
    if table_format == "json":
        click.echo(json.dumps({"rows": rows, "caveats": notes}, indent=2, ensure_ascii=False))
    elif table_format == "csv":
        click.echo(_csv(rows), nl=False)
    elif table_format == "table":
        _print(rows, notes)
    else:
        write = text.markdown if table_format == "markdown" else text.latex
        click.echo(write([COLUMNS[name].title for name in SHOWN], _cells(rows), notes), nl=False)
    for problem in problems:
        click.echo(f"Left out: {problem}", err=True)
    if table_format == "csv":
        for note in notes:
            click.echo(f"Note: {note}", err=True)


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    return [[_cell(name, row[name]) for name in SHOWN] for row in rows]


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return escapes.short_name(value)
    assert isinstance(value, (int, float))
    if (show := _SHOW.get(name.rpartition("_")[2])) is not None:
        return show(value)
    return str(value) if isinstance(value, int) else numbers.number(value)


def _print(rows: Sequence[Row], notes: Sequence[str]) -> None:
    from rich.text import Text

    table = plain_table()
    for name in IN_A_TERMINAL:
        number = name not in ("experiment", "method", "hardware")
        table.add_column(
            COLUMNS[name].title.replace(" ", "\n"),
            overflow="fold",
            no_wrap=number,
            justify="right" if number else "left",
        )
    for row in rows:
        table.add_row(*(Text(_cell(name, row[name])) for name in IN_A_TERMINAL))
    screen = console()
    screen.print(table)
    for note in notes:
        screen.print(Text(printable(escapes.clipped(note, 2000))))


def _csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(map(escapes.for_spreadsheet, row.values()))
    return out.getvalue()
