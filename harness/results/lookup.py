"""What a name on the command line means: a cell, a row of a leaderboard, the base."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.errors import NotComparable, UserError, nearest
from harness.record import Record
from harness.results import store
from harness.results.groups import Group, ReadRows, base_id, grouped
from harness.results.store import Stored, suites

BASE = "base"
"""As a baseline: the untouched base that the candidate was compared with when it was measured."""


@dataclass(frozen=True)
class RecordSet:
    """The records of some places, and their samples, each file read once."""

    places: Sequence[Path]
    stored: Sequence[Stored]

    @cached_property
    def by_id(self) -> Mapping[str, Record]:
        """Cell id -> record."""
        return {stored.id: stored.data for stored in self.stored}

    @cached_property
    def read_rows(self) -> ReadRows:
        """The samples of any of the records."""
        return store.rows_reader(self.stored)

    @property
    def groups(self) -> list[Group]:
        """All rows."""
        return grouped(stored.data for stored in self.stored)


@dataclass(frozen=True)
class Arm:
    """One arm of a comparison, and the records that it was taken from."""

    group: Group
    records: RecordSet


def find(name: str, folders: Sequence[Path], beside: Arm | None = None) -> Arm:
    """The arm that `name` means.

    `name` is a record file, a results folder with just one row beside the base, FOLDER/NAME, or a
    cell id, a unique prefix of one, a label or a method in one of `folders`. A label that several
    seeds share means all of them. What was read for the arm `beside` is not read again. Raises
    UserError with what it could be otherwise, and NotComparable where it has no results.
    """
    arm = recorded(name, folders, beside)
    failed = [cell for cell in arm.group.cells if not suites(cell)]
    if failed:
        raise NotComparable(
            f"cell {failed[0]['id']} ended with '{failed[0]['status']}' and has no results: "
            "run it again, or leave it out"
        )
    return arm


def recorded(name: str, folders: Sequence[Path], beside: Arm | None = None) -> Arm:
    """As `find`, also where it was trained and has no results."""
    places, wanted = _places(name, folders)
    records = beside.records if beside and beside.records.places == places else _read(places)
    group = _only_row(name, records) if wanted is None else _named(wanted, records)
    return Arm(group, records)


def only_cell(arm: Arm, name: str) -> tuple[Record, Path]:
    """The one cell of an arm, and its results folder. Raises UserError where it has several."""
    if len(arm.group.cells) > 1:
        ids = ", ".join(cell["id"] for cell in arm.group.cells)
        raise UserError(f"'{name}' means several cells: name one of {ids}")
    (cell,) = arm.group.cells
    return cell, next(stored.folder for stored in arm.records.stored if stored.id == cell["id"])


def every(name: str, folders: Sequence[Path]) -> list[Arm]:
    """All rows of a results folder; of another name the arm that it means."""
    if not (Path(name) / "cells").is_dir():
        return [find(name, folders)]
    records = _read([Path(name)])
    return [Arm(group, records) for group in records.groups]


def base_of(arm: Arm) -> Arm:
    """The untouched base that an arm was compared with. Raises UserError where it is missing."""
    wanted = _bases([arm.group])
    bases = [cell for key, cell in arm.records.by_id.items() if key in wanted]
    if not bases:
        raise UserError(
            f"the base of {arm.group.label} is not in its results folder: keep cells/ whole, or "
            "name another baseline"
        )
    return Arm(grouped(bases)[0], arm.records)


def baseline(name: str, candidate: Arm, folders: Sequence[Path]) -> Arm:
    """What a candidate is held against: `base`, or as `find`."""
    return base_of(candidate) if name == BASE else find(name, folders, candidate)


def is_base(arm: Arm) -> bool:
    """Whether it was compared with no base when it was measured."""
    return not _bases([arm.group])


def _bases(groups: Sequence[Group]) -> set[str]:
    """Ids of the bases that cells were compared with."""
    return {base for group in groups for cell in group.cells if (base := base_id(cell))}


def _read(places: Sequence[Path]) -> RecordSet:
    return RecordSet(places, store.read_records(places))


def _places(name: str, folders: Sequence[Path]) -> tuple[list[Path], str | None]:
    """Where to search, and the name to search for; None means the only row."""
    path = Path(name)
    if path.is_file():
        whole = path.parent.parent if path.parent.name == "cells" else None
        wanted = store.read_record(path)["id"]
        return [whole or path], str(wanted)
    if (path / "cells").is_dir():
        return [path], None
    if (path.parent / "cells").is_dir() and os.sep in name:
        return [path.parent], path.name
    if os.sep in name or name.endswith(".json"):
        raise UserError(f"{name}: no such record or results folder; check the path")
    if not folders:
        raise UserError(
            f"no results to find '{name}' in: name FOLDER/{name}, or a folder with --results"
        )
    return list(folders), name


def _only_row(name: str, records: RecordSet) -> Group:
    groups = records.groups
    bases = _bases(groups)
    rows = [group for group in groups if group.cells[0]["id"] not in bases] or groups
    if len(rows) == 1:
        return rows[0]
    labels = ", ".join(sorted({group.label for group in rows}))
    raise UserError(f"{name} has {len(rows)} rows: name one, {name.rstrip('/')}/NAME of {labels}")


def _named(name: str, records: RecordSet) -> Group:
    groups = records.groups
    single = [Group([cell]) for cell in records.by_id.values()]
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
            candidates = ", ".join(f"{group.cells[0]['id']} ({group.title})" for group in matches)
            raise UserError(f"'{name}' names {len(matches)} rows: {candidates}; give a whole id")
    known = {group.label for group in groups} | set(records.by_id)
    raise UserError(f"no cell '{name}': {nearest(name, known)}")
