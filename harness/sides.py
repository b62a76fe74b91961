"""What a name on the command line means: a cell, a row of a leaderboard, the base."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import record
from harness.errors import NotComparable, UserError, nearest
from harness.groups import Cell, Group, ReadRows, grouped, suites
from harness.record import Stored
from harness.summary import Rows

BASE = "base"
"""As a baseline: the untouched base that the candidate was compared with when it was measured."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison, and all that lies in the results folders with it."""

    group: Group
    stored: Sequence[Stored]

    @property
    def by_id(self) -> Mapping[str, Cell]:
        """Cell id -> record."""
        return {stored.id: stored.data for stored in self.stored}

    @property
    def read_rows(self) -> ReadRows:
        """The samples of any of the records."""
        return record.rows_reader(self.stored)


def find(name: str, folders: Sequence[Path]) -> Side:
    """The side that `name` means.

    `name` is a record file, a results folder with just one row beside the base, FOLDER/NAME, or a
    cell id, a unique prefix of one, a label or a method in one of `folders`. A label that several
    seeds share means all of them. Raises UserError with what it could be otherwise, and
    NotComparable where it has no results.
    """
    stored, wanted = _places(name, folders)
    group = _only_row(name, stored) if wanted is None else _named(wanted, stored)
    failed = [cell for cell in group.cells if not suites(cell)]
    if failed:
        raise NotComparable(
            f"cell {failed[0]['id']} ended with '{failed[0]['status']}' and has no results: "
            "run it again, or leave it out"
        )
    return Side(group, stored)


def base_of(side: Side) -> Side:
    """The untouched base that a side was compared with. Raises UserError where it is not there."""
    wanted = _bases([side.group])
    found = [stored.data for stored in side.stored if stored.id in wanted]
    if not found:
        raise UserError(
            f"the base of {side.group.label} is not in its results folder: keep cells/ whole, or "
            "name another baseline"
        )
    return Side(grouped(found)[0], side.stored)


def baseline(name: str, candidate: Side, folders: Sequence[Path]) -> Side:
    """What a candidate is held against: `base`, or as `find`."""
    return base_of(candidate) if name == BASE else find(name, folders)


def is_base(side: Side) -> bool:
    """Whether it was compared with no base when it was measured."""
    return not _bases([side.group])


def _bases(groups: Sequence[Group]) -> set[str]:
    """Ids of the bases that cells were compared with."""
    told = {(cell["evaluation"] or {}).get("base") for group in groups for cell in group.cells}
    return {str(one) for one in told if one is not None}


def _places(name: str, folders: Sequence[Path]) -> tuple[list[Stored], str | None]:
    """The records to look in, and the name to look for; None means the only row."""
    path = Path(name)
    if path.is_file():
        whole = path.parent.parent if path.parent.name == "cells" else None
        wanted = record.read_record(path)["id"]
        return record.read_records([whole or path]), str(wanted)
    if (path / "cells").is_dir():
        return record.read_records([path]), None
    if (path.parent / "cells").is_dir() and os.sep in name:
        return record.read_records([path.parent]), path.name
    if os.sep in name or name.endswith(".json"):
        raise UserError(f"{name}: no such record or results folder; check the path")
    if not folders:
        raise UserError(
            f"no results to find '{name}' in: name FOLDER/{name}, or a folder with --results"
        )
    return record.read_records(folders), name


def _only_row(name: str, stored: Sequence[Stored]) -> Group:
    groups = grouped(one.data for one in stored)
    trained = [group for group in groups if group.cells[0]["training"]] or groups
    bases = _bases(groups)
    rows = [group for group in groups if group.cells[0]["id"] not in bases] or trained
    if len(rows) == 1:
        return rows[0]
    labels = ", ".join(sorted({group.label for group in rows}))
    raise UserError(f"{name} has {len(rows)} rows: name one, {name.rstrip('/')}/NAME of {labels}")


def _named(name: str, stored: Sequence[Stored]) -> Group:
    groups = grouped(one.data for one in stored)
    single = [Group([one.data]) for one in stored]
    choices = (
        [group for group in single if group.cells[0]["id"] == name],
        [group for group in groups if group.label == name],
        [group for group in groups if group.plan["method"] == name],
        [group for group in single if name and group.cells[0]["id"].startswith(name)],
    )
    for matches in choices:
        if len(matches) == 1:
            return matches[0]
        if matches:
            told = ", ".join(f"{group.cells[0]['id']} ({group.title})" for group in matches)
            raise UserError(f"'{name}' names {len(matches)} rows: {told}; give a whole id")
    known = {one.label for one in stored} | {one.id for one in stored}
    raise UserError(f"no cell '{name}': {nearest(name, known)}")


def reader(candidate: Side, baseline: Side) -> ReadRows:
    """Rows of either side: each reads those of its own folders."""
    mine, theirs, own = candidate.read_rows, baseline.read_rows, candidate.by_id

    def read(record: Cell, suite: str) -> Rows:
        return mine(record, suite) if record["id"] in own else theirs(record, suite)

    return read
