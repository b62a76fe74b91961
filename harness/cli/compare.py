"""`harness compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from harness.cli.render import comparison_table
from harness.errors import UserError
from harness.results import comparison, leaderboard, leaderboard_file, lookup, store
from harness.results.lookup import Side
from harness.system.console import console


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    names: Sequence[str]
    against: str | None
    places: Sequence[Path]
    only: Sequence[str]
    confidence: float
    shown: int
    as_json: bool


def results(folders: Sequence[Path]) -> list[Path]:
    """The results folders to find names in: those given, or all under results/."""
    return list(folders) or sorted(cells.parent for cells in Path("results").glob("*/cells"))


def run(asked: Asked) -> None:
    """Print the comparison."""
    places = results(asked.places)
    if len(asked.names) == 2 and asked.against is None:
        candidate = lookup.find(asked.names[0], places)
        told = _pair(asked, candidate, lookup.find(asked.names[1], places, candidate))
        shown = comparison_table.pair(told)
    else:
        told = _several(asked, places)
        shown = comparison_table.several(told)
    if asked.as_json:
        click.echo(json.dumps(store.plain(told), indent=2, ensure_ascii=False))
    else:
        console().print(shown)


def _pair(asked: Asked, candidate: Side, baseline: Side) -> dict[str, Any]:
    return comparison.compare(
        candidate,
        baseline,
        only=asked.only,
        confidence=asked.confidence,
        shown=asked.shown,
    )


def _several(asked: Asked, places: Sequence[Path]) -> dict[str, Any]:
    rows = [side for name in asked.names for side in lookup.every(name, places)]
    against = asked.against or lookup.BASE
    told = []
    for side in rows:
        if against == lookup.BASE and lookup.is_base(side):
            continue
        other = lookup.baseline(against, side, places)
        if other.group.cells != side.group.cells:
            told.append(_pair(asked, side, other))
    if not told:
        raise UserError(f"nothing to compare with {against}: name rows, or a folder of several")
    board = _board(rows)
    return {
        "schema": comparison.SCHEMA,
        "against": against,
        "rows": [{k: v for k, v in one.items() if k != "samples"} for one in told],
        "ranked_by": board["ranked_by"],
        "groups": _tied_groups(board["rows"]),
    }


def _board(rows: Sequence[Side]) -> dict[str, Any]:
    """The leaderboard of the rows; the one in their results folder where they are all of it."""
    cells = {cell["id"]: cell for side in rows for cell in side.group.cells}
    whole = rows[0].found
    if len(whole.places) == 1 and cells.keys() == whole.by_id.keys():
        return leaderboard_file.build(whole.places[0], whole.stored)
    founds = {key: side.found for side in rows for key in side.found.by_id}
    return leaderboard.build(
        list(cells.values()),
        read_rows=lambda cell, suite: founds[cell["id"]].read_rows(cell, suite),
    )


def _tied_groups(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in order of rank; each group holds those that are tied with its first."""
    groups: list[dict[str, Any]] = []
    first: dict[str, Any] = {}
    for row in (row for row in rows if row["rank"] is not None):
        if groups and row["label"] in first["tied_with"]:
            groups[-1]["rows"].append(row["label"])
        else:
            first = row
            groups.append({"rank": row["rank"], "rows": [row["label"]]})
    return groups
