"""`harness compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from harness.cli import options
from harness.cli.render import comparison_table
from harness.errors import UserError
from harness.results import comparison, leaderboard, leaderboard_file, lookup, store
from harness.results.comparison import Comparison, RowComparison, SeveralComparisons, TiedGroup
from harness.results.leaderboard_layout import Leaderboard, Row
from harness.results.lookup import Arm
from harness.sdk.comparing import compare
from harness.system.console import console


@dataclass(frozen=True)
class CompareOptions:
    """The options of the command line."""

    names: Sequence[str]
    results_folders: Sequence[Path]
    against: str | None
    suites: Sequence[str]
    confidence: float
    samples: int
    as_json: bool


@click.command("compare")
@click.argument("names", nargs=-1, required=True, metavar="A [B ...]")
@options.results_folders
@click.option("--against", metavar="NAME", help="The baseline of all. Default: base.")
@click.option("--suite", "suites", multiple=True, metavar="NAME", help="Only this suite.")
@click.option(
    "--confidence",
    default=0.95,
    show_default=True,
    type=options.Finite(0.5, 1, True, True),
    help="Of each interval.",
)
@click.option(
    "--samples",
    default=3,
    show_default=True,
    type=click.IntRange(min=0),
    help="Answers shown of each suite that changed most.",
)
@options.as_json
@options.collected(CompareOptions)
def command(given: CompareOptions) -> None:
    """A minus B on the same samples; or several rows, or a whole results folder, against the base.

    A name is a record file, FOLDER/LABEL, or a label, method, cell id or prefix of one.
    """
    folders = options.existing_results(given.results_folders)
    report: Comparison | SeveralComparisons
    if len(given.names) == 2 and given.against is None:
        report = compare(
            *given.names,
            results=folders,
            suites=given.suites,
            confidence=given.confidence,
            samples=given.samples,
        ).report
        table = comparison_table.pair(report)
    else:
        report = _compare_rows(given, folders)
        table = comparison_table.several(report)
    if given.as_json:
        click.echo(json.dumps(store.plain(report), indent=2, ensure_ascii=False))
    else:
        console().print(table)


def _compare(given: CompareOptions, candidate: Arm, baseline: Arm) -> Comparison:
    return comparison.compare(
        candidate,
        baseline,
        only=given.suites,
        confidence=given.confidence,
        shown=given.samples,
    )


def _compare_rows(given: CompareOptions, folders: Sequence[Path]) -> SeveralComparisons:
    """Every row against the same one, or each against its own base."""
    rows = [arm for name in given.names for arm in lookup.every(name, folders)]
    against = given.against or lookup.BASE
    comparisons = []
    for arm in rows:
        if against == lookup.BASE and lookup.is_base(arm):
            continue
        baseline = lookup.baseline(against, arm, folders)
        if baseline.group.cells != arm.group.cells:
            comparisons.append(_compare(given, arm, baseline))
    if not comparisons:
        raise UserError(f"nothing to compare with {against}: name rows, or a folder of several")
    board = _leaderboard(rows)
    return {
        "schema": comparison.SCHEMA,
        "against": against,
        "rows": [_without_samples(row) for row in comparisons],
        "ranked_by": board["ranked_by"],
        "groups": _tied_groups(board["rows"]),
    }


def _without_samples(comparison: Comparison) -> RowComparison:
    return {
        "schema": comparison["schema"],
        "confidence": comparison["confidence"],
        "candidate": comparison["candidate"],
        "baseline": comparison["baseline"],
        "metrics": comparison["metrics"],
        "not_compared": comparison["not_compared"],
        "warnings": comparison["warnings"],
    }


def _leaderboard(rows: Sequence[Arm]) -> Leaderboard:
    """The leaderboard of the rows; the one in their results folder where they are all of it."""
    cells = {cell["id"]: cell for arm in rows for cell in arm.group.cells}
    records = rows[0].records
    if len(records.places) == 1 and cells.keys() == records.by_id.keys():
        return leaderboard_file.build(records.places[0], records.stored)
    records_of = {cell_id: arm.records for arm in rows for cell_id in arm.records.by_id}
    return leaderboard.build(
        list(cells.values()),
        read_rows=lambda cell, suite: records_of[cell["id"]].read_rows(cell, suite),
    )


def _tied_groups(rows: Sequence[Row]) -> list[TiedGroup]:
    """Rows in order of rank; each group holds those not told apart from its first."""
    groups: list[TiedGroup] = []
    tied: Sequence[str] = ()
    for row in rows:
        rank = row["rank"]
        if rank is None:
            continue
        if groups and row["label"] in tied:
            groups[-1]["rows"].append(row["label"])
        else:
            tied = row["tied_with"]
            groups.append({"rank": rank, "rows": [row["label"]]})
    return groups
