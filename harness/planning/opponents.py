"""Rows whose answers a suite's judge compares with: which cell that is, and that it runs before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from harness.api.task import Suite
from harness.config import strict_yaml
from harness.errors import ConfigError, nearest
from harness.evaluation import fingerprint
from harness.planning.cell import Cell, with_suites

__all__ = ["in_order", "without_figure"]


def in_order(base: Cell, cells: Sequence[Cell]) -> tuple[tuple[Cell, ...], tuple[str, ...]]:
    """The cells in the order in which they can run, and the ids of those that others wait for.

    A judge with `against: LABEL` compares with the answers of the first cell of that label, which
    then runs right after the base. What its answers depend on becomes part of the suite's hash.
    A cell that runs before, as the base does, is left without the suite. Raises ConfigError for a
    label that no row has.
    """
    suites = {suite.name: suite for cell in cells for suite in cell.suites}
    wanted = [suite for suite in suites.values() if suite.judge_row is not None]
    if not wanted:
        return tuple(cells), ()
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.label, cell)
    opponents = {suite.name: _opponent(suite, first) for suite in wanted}
    waited = [cell for cell in cells if cell is not base and cell in opponents.values()]
    order = [base, *waited, *(c for c in cells if c is not base and c not in waited)]
    turn = {cell.id: at for at, cell in enumerate(order)}
    named = {suite.name: _known_by(suite, opponents[suite.name]) for suite in wanted}

    def planned(cell: Cell) -> Cell:
        kept = [
            named.get(suite.name, suite)
            for suite in cell.suites
            if suite.name not in named or turn[opponents[suite.name].id] <= turn[cell.id]
        ]
        return with_suites(cell, tuple(kept))

    done = tuple(map(planned, order))
    return done, tuple(cell.id for cell in done[1 : 1 + len(waited)])


def without_figure(suites: Sequence[Suite], cells: Sequence[Cell]) -> list[str]:
    """A sentence for each suite that some rows are left without."""
    notes = []
    for suite in suites:
        if suite.judge_row is None:
            continue
        names = [s.label for s in cells if suite.name not in {own.name for own in s.suites}]
        if names:
            rows = ", ".join(dict.fromkeys(names))
            notes.append(
                f"suite '{suite.name}' compares with the answers of '{suite.judge_row}': {rows} "
                "is measured before and has no figure of it"
            )
    return notes


def _opponent(suite: Suite, first: dict[str, Cell]) -> Cell:
    label = str(suite.judge_row)
    if label in first:
        return first[label]
    message = (
        f"no row is called '{label}', whose answers the judge is to compare with: "
        f"{nearest(label, {*first, 'base', 'reference'})}; of an earlier run name the record, "
        "RESULTS/cells/ID.json"
    )
    located = strict_yaml.load(Path(suite.file))
    judge = located.data.get("judge")
    if isinstance(judge, dict) and label in map(str, judge.values()):
        key = next(key for key, value in judge.items() if str(value) == label)
        raise located.error(message, ("judge", key))
    raise ConfigError(message, file=f"the experiment's settings of suite '{suite.name}'")


def _known_by(suite: Suite, opponent: Cell) -> Suite:
    """The suite with a hash of what the opponent's answers depend on, too."""
    return dataclasses.replace(
        suite,
        hash=fingerprint.digest([suite.hash, opponent.training_id]),
        parts={**suite.parts, "opponent": opponent.training_id[:12]},
    )
