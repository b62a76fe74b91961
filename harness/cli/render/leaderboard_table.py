"""The leaderboard in a terminal; and `render`, which knows the other forms of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.cli.render.tables import columns, text
from harness.cli.render.tables.columns import Board, Column, Row
from harness.cli.render.tables.escapes import clipped
from harness.cli.render.tables.notes import notes
from harness.errors import UserError, nearest
from harness.system.console import plain_table, printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = ["FORMATS", "render"]

METHODS_PER_BLOCK = 3
"""Methods side by side in the terminal: metrics stay readable in 100 columns."""
LONGEST_NOTE = 2000
"""Characters of a line below the table."""
FORMATS = ("table", "markdown", "csv", "latex", "json")

_STYLES = {"better": "green", "worse": "red", "": "dim"}


def render(
    board: Board, format: str = "table", patterns: Sequence[str] | None = None
) -> RenderableType:
    """`board` as one of `FORMATS`, with the columns that `patterns` stand for (default: the usual).

    Everything but `table` is a str. JSON keeps the board's layout: patterns leave metrics out of it
    and no other figure. Raises UserError for another format and for an unknown column.
    """
    if format not in FORMATS:
        raise UserError(f"no format '{format}': {nearest(format, FORMATS)}")
    chosen = columns.chosen(board, patterns) if patterns else None
    if format == "csv":
        return text.as_csv(board, chosen)
    if format == "json":
        return text.as_json(board if chosen is None else columns.narrowed(board, chosen))
    if format == "table":
        return _terminal(board) if chosen is None else _of_columns(board, chosen)
    shown = columns.default(board) if chosen is None else chosen
    write = text.as_markdown if format == "markdown" else text.as_latex
    return write(board, shown, notes(board, chosen))


# Terminal


def _terminal(board: Board) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    rows = board["rows"]
    names = columns.shown_names(rows)
    parts: list[RenderableType] = [_ranking(board)]
    if len(names) > 1:
        for start in range(0, len(rows), METHODS_PER_BLOCK):
            block = rows[start : start + METHODS_PER_BLOCK]
            parts += [Text(), _metrics_block(block, rows, names)]
    return Group(*parts, *_below(notes(board)))


def _of_columns(board: Board, chosen: Sequence[Column]) -> RenderableType:
    """A line per row with the chosen columns."""
    from rich.console import Group
    from rich.text import Text

    rows = board["rows"]
    table, title = plain_table(), columns.titles(rows)
    table.add_column("#", justify="right")
    table.add_column("method", overflow="fold")
    for column in chosen:
        table.add_column(Text(printable(column.title)), overflow="fold", justify="right")
    for row in rows:
        shown = (Text(printable(clipped(column.show(row)))) for column in chosen)
        table.add_row(columns.rank(row), Text(title(row) + columns.failure(row)), *shown)
    return Group(table, *_below(notes(board, chosen)))


def _below(lines: Sequence[str]) -> list[RenderableType]:
    from rich.text import Text

    return [
        Text(printable(clipped(line, LONGEST_NOTE))) for line in (["", *lines] if lines else [])
    ]


def _ranking(board: Board) -> Table:
    """The metric ranked by, with its difference to the base under it, and what a row cost."""
    from rich.text import Text

    rows, by = board["rows"], board["ranked_by"]
    table = plain_table()
    table.add_column("#", justify="right")
    table.add_column("method", overflow="fold")
    if by is not None:
        style = "dim" if columns.doubted(rows, by) else ""
        header = Text(f"{by} {columns.arrow(rows, by)}\nagainst base")
        table.add_column(header, no_wrap=True, style=style, header_style=style)
    costs, title = columns.costs(rows), columns.titles(rows)
    for cost in costs:
        table.add_column(cost.title.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in rows:
        cells: list[RenderableType] = [columns.rank(row), Text(title(row) + columns.failure(row))]
        if by is not None:
            cells.append(_figure(row, by))
        table.add_row(*cells, *(cost.show(row) for cost in costs))
    return table


def _metrics_block(block: Sequence[Row], rows: Sequence[Row], names: Sequence[str]) -> Table:
    """Metrics as lines, methods as columns."""
    from rich.text import Text

    table = plain_table()
    table.add_column("metric", overflow="fold")
    title = columns.titles(rows)
    for row in block:
        table.add_column(Text(title(row)), overflow="fold")
    for name in names:
        line = Text(f"{name} {columns.arrow(rows, name)}")
        style = "dim" if columns.doubted(rows, name) else None
        table.add_row(line, *(_figure(row, name) for row in block), style=style)
    return table


def _figure(row: Row, name: str) -> Text:
    """Value and interval; under them the difference to the base in its colour."""
    from rich.text import Text

    value, delta = Text(columns.value(row, name)), columns.delta(row, name, interval=False)
    style = _STYLES[columns.verdict(row["metrics"].get(name, {}))]
    return value + Text(f"\n{delta}", style=style) if delta else value
