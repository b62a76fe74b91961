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
class Found:
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
class Side:
    """One side of a comparison, and all that was found with it."""

    group: Group
    found: Found


def find(name: str, folders: Sequence[Path], beside: Side | None = None) -> Side:
    """The side that `name` means.

    `name` is a record file, a results folder with just one row beside the base, FOLDER/NAME, or a
    cell id, a unique prefix of one, a label or a method in one of `folders`. A label that several
    seeds share means all of them. What was read for the side `beside` is not read again. Raises
    UserError with what it could be otherwise, and NotComparable where it has no results.
    """
    side = recorded(name, folders, beside)
    failed = [cell for cell in side.group.cells if not suites(cell)]
    if failed:
        raise NotComparable(
            f"cell {failed[0]['id']} ended with '{failed[0]['status']}' and has no results: "
            "run it again, or leave it out"
        )
    return side


def recorded(name: str, folders: Sequence[Path], beside: Side | None = None) -> Side:
    """As `find`, also where it was trained and has no results."""
    places, wanted = _places(name, folders)
    found = beside.found if beside and beside.found.places == places else _read(places)
    group = _only_row(name, found) if wanted is None else _named(wanted, found)
    return Side(group, found)


def every(name: str, folders: Sequence[Path]) -> list[Side]:
    """All rows of a results folder; of another name the side that it means."""
    if not (Path(name) / "cells").is_dir():
        return [find(name, folders)]
    found = _read([Path(name)])
    return [Side(group, found) for group in found.groups]


def base_of(side: Side) -> Side:
    """The untouched base that a side was compared with. Raises UserError where it is not there."""
    wanted = _bases([side.group])
    bases = [cell for key, cell in side.found.by_id.items() if key in wanted]
    if not bases:
        raise UserError(
            f"the base of {side.group.label} is not in its results folder: keep cells/ whole, or "
            "name another baseline"
        )
    return Side(grouped(bases)[0], side.found)


def baseline(name: str, candidate: Side, folders: Sequence[Path]) -> Side:
    """What a candidate is held against: `base`, or as `find`."""
    return base_of(candidate) if name == BASE else find(name, folders, candidate)


def is_base(side: Side) -> bool:
    """Whether it was compared with no base when it was measured."""
    return not _bases([side.group])


def _bases(groups: Sequence[Group]) -> set[str]:
    """Ids of the bases that cells were compared with."""
    return {base for group in groups for cell in group.cells if (base := base_id(cell))}


def _read(places: Sequence[Path]) -> Found:
    return Found(places, store.read_records(places))


def _places(name: str, folders: Sequence[Path]) -> tuple[list[Path], str | None]:
    """Where to look, and the name to look for; None means the only row."""
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


def _only_row(name: str, found: Found) -> Group:
    groups = found.groups
    bases = _bases(groups)
    rows = [group for group in groups if group.cells[0]["id"] not in bases] or groups
    if len(rows) == 1:
        return rows[0]
    labels = ", ".join(sorted({group.label for group in rows}))
    raise UserError(f"{name} has {len(rows)} rows: name one, {name.rstrip('/')}/NAME of {labels}")


def _named(name: str, found: Found) -> Group:
    groups = found.groups
    single = [Group([cell]) for cell in found.by_id.values()]
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
    known = {group.label for group in groups} | set(found.by_id)
    raise UserError(f"no cell '{name}': {nearest(name, known)}")
