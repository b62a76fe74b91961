"""The rows of a results folder that are ranked: who answered the same suite, and what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError, nearest
from harness.results import comparability, store
from harness.results.groups import Group, grouped
from harness.results.store import Rows, Stored

__all__ = ["LEAST_ROWS", "Contestant", "contestants"]

LEAST_ROWS = 3
"""Two rows are compared by a suite whose judge says `against:`."""


@dataclass(frozen=True)
class Contestant:
    """A row of a results folder with its answers to a suite, of each seed."""

    label: str
    seeds: Mapping[int | None, Mapping[str, Mapping[str, Any]]]
    """Seed -> sample's id -> row of the sample file."""


def contestants(folder: Path, suite: str) -> list[Contestant]:
    """The rows of a results folder that answered a suite.

    Raises UserError for fewer than three of them, answers that are missing or no texts, and
    NotComparable where they did not answer the same suite.
    """
    records = [one for one in store.read_records([folder]) if one.data["status"] == "ok"]
    having = [one for one in records if suite in store.suites(one.data)]
    if not having:
        known = {name for one in records for name in store.suites(one.data)}
        raise UserError(f"{folder}: no record has suite '{suite}': {nearest(suite, known)}")
    groups = grouped(one.data for one in having)
    for group in groups[1:]:
        comparability.check_suite(suite, group, groups[0])
    if len(groups) < LEAST_ROWS:
        names = " and ".join(group.label for group in groups)
        raise UserError(
            f"{folder}: {len(groups)} rows have answers to suite '{suite}' ({names}), and "
            f"{LEAST_ROWS} make a ranking: run more methods, or compare two with `against:`"
        )
    found = [_contestant(group, having, suite, groups) for group in groups]
    _check_samples(found, suite, folder)
    return found


def _contestant(
    group: Group, stored: Sequence[Stored], suite: str, groups: Sequence[Group]
) -> Contestant:
    places = {one.id: one.folder for one in stored}
    alike = [other.label for other in groups].count(group.label) > 1
    label = f"{group.label} ({group.cells[0]['id']})" if alike else group.label
    seeds: dict[int | None, dict[str, dict[str, Any]]] = {}
    for cell in group.cells:
        rows: Rows = store.read_samples(places[cell["id"]], cell, suite)
        seeds[cell["plan"]["seed"]] = {row["id"]: row for row in rows}
    return Contestant(label, seeds)


def _check_samples(found: Sequence[Contestant], suite: str, folder: Path) -> None:
    """Every row has an answer in words to the same samples."""
    first = next(iter(found[0].seeds.values()))
    for row in found:
        for samples in row.seeds.values():
            lacking = [name for name in first if name not in samples]
            if lacking or len(samples) != len(first):
                name = lacking[0] if lacking else next(n for n in samples if n not in first)
                raise UserError(
                    f"{folder}: suite '{suite}': not every row has sample '{name}', such as "
                    f"{row.label if lacking else found[0].label}: measure it with the others' limit"
                )
            if not all(isinstance(one.get("output"), str) for one in samples.values()):
                raise UserError(
                    f"{folder}: suite '{suite}' has no answers in words: name one with "
                    "`ask: generate`"
                )
