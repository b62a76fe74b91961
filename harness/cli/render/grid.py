"""Lists that commands print: a grid for people, or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from harness.system.console import console


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]], as_json: bool) -> None:
    """Print rows as a grid, or as a JSON list of objects with a key for each column."""
    if as_json:
        objects = [dict(zip(columns, row, strict=True)) for row in rows]
        click.echo(json.dumps(objects, indent=2))
    else:
        print_grid(columns, rows)


def print_grid(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns' names."""
    from rich.table import Table

    grid = Table(*columns)
    for row in rows:
        grid.add_row(*map(str, row))
    console().print(grid)
