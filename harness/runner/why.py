"""Why each cell of a plan would run, or not, and what of an earlier run it would go on from.

Only looks: nothing is moved, written or loaded. What a worker finds out by opening files (whether
an artifact is whole, whether a suite's data changed) is as it was recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.api.task import Suite
from harness.data.training_set import DataPlan
from harness.errors import UserError
from harness.evaluation import suite_versions
from harness.evaluation.blocks import kept_answers
from harness.evaluation.cached_results import arithmetic
from harness.manager import plugins
from harness.models import trained_artifact
from harness.planning.cell import Cell, budget_content
from harness.planning.plan import Plan
from harness.record import Record
from harness.results import store
from harness.results.artifact_hash import artifact_hash
from harness.runner.run import lost_answers
from harness.runner.tuning import recorded_trials
from harness.types import Artifact

__all__ = ["Difference", "Reason", "why"]

Kind = Literal["recorded", "no record", "invalid record", "failed", "answers of the base are lost"]
SHOWN = 12
"""Digits of a hash that are shown."""


@dataclass(frozen=True)
class Difference:
    """A part of a cell's identity that is not what it was."""

    what: str
    """As the experiment file names it."""
    before: object
    now: object


@dataclass(frozen=True)
class Reason:
    """Why a cell would run, or not."""

    cell: str
    label: str
    seed: int
    kind: Kind
    why: str
    """A sentence."""
    nearest: str | None
    """The recorded cell of the same label that is most alike; None without one, or where the cell
    itself was recorded."""
    differences: tuple[Difference, ...]
    """Between that one and this."""
    goes_on: tuple[str, ...]
    """What need not be computed again, as sentences."""

    @property
    def runs(self) -> bool:
        """Whether it would run."""
        return self.kind != "recorded"


def why(plan: Plan, out: Path) -> list[Reason]:
    """Of each cell, in the plan's order. Raises UserError where a record cannot be read."""
    states = {cell.id: _state(cell, out) for cell in plan.cells}
    left = any(kind != "recorded" for kind, _ in states.values())
    if left and states[plan.base.id][0] == "recorded":
        if lack := lost_answers(out, plan.base):
            states[plan.base.id] = ("answers of the base are lost", lack)
    records = suite_versions.records_in(out) if left else []
    return [_reason(cell, out, *states[cell.id], records, plan) for cell in plan.cells]


def _state(cell: Cell, out: Path) -> tuple[Kind, str]:
    file = out / "cells" / f"{cell.id}.json"
    if not file.is_file():
        return "no record", "it has no record"
    if (fault := store.fault(out, cell.id)) is not None:
        return "invalid record", f"its record is not used ({fault})"
    record = store.read_record(file)
    if record["status"] == "ok":
        return "recorded", "it is recorded"
    error = record["error"] or {}
    phase, message = error.get("phase"), " ".join(str(error.get("message", "")).split())[:200]
    where = f" in {phase}" if phase else ""
    return "failed", f"it failed{where} and runs again ({record['status']}: {message})"


def _reason(
    cell: Cell, out: Path, kind: Kind, told: str, records: Iterable[Record], plan: Plan
) -> Reason:
    nearest: Record | None = None
    differences: list[Difference] = []
    if kind == "no record":
        others = [record for record in records if _comparable(record, cell, plan)]
        found = [(_differences(cell, record), record) for record in others]
        if found:
            differences, nearest = min(found, key=lambda one: (len(one[0]), one[1]["id"]))
            told = f"it has no record; {nearest['id']} differs in {_listed(differences)}"
        elif records:
            told = f"it has no record, and no other cell is recorded as '{cell.label}'"
    return Reason(
        cell.id,
        cell.label,
        cell.seed,
        kind,
        told,
        nearest["id"] if nearest else None,
        tuple(differences),
        tuple(_goes_on(cell, out)) if kind != "recorded" else (),
    )


def _comparable(record: Record, cell: Cell, plan: Plan) -> bool:
    """Whether a record is of the same row; a cell that is planned as it is explains nothing."""
    planned = {one.id for one in plan.cells if one.seed != cell.seed}
    return store.label(record["plan"]) == cell.label and record["id"] not in planned


def _listed(differences: Iterable[Difference]) -> str:
    names = [one.what for one in differences]
    return ", ".join(names) if names else "a part that records do not hold, such as a chat template"


# what differs


def _differences(cell: Cell, record: Record) -> list[Difference]:
    """The parts of a cell's identity in which a record's cell is another."""
    now, before = store.plain(cell.as_record()), record["plan"]
    return [
        *_of("method", before["method"], now["method"]),
        *_of_models("model", before["model"], now["model"]),
        *_of_data(before.get("data"), cell.data),
        *_of_mappings("budget", before.get("budget"), _budget(cell, before.get("budget"))),
        *_of_options(cell, before, now),
        *_of("seed", before["seed"], now["seed"]),
        *_of_suites(cell.suites, record),
    ]


def _of(what: str, before: object, now: object) -> Iterator[Difference]:
    if before != now:
        yield Difference(what, before, now)


def _of_models(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    if not _same_model(before, now):
        yield Difference(what, _model(before), _model(now))
    yield from _of(
        f"{what}: trust_remote_code",
        before.get("trust_remote_code", False),
        now.get("trust_remote_code", False),
    )


def _same_model(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if before.get("content_hash") or now.get("content_hash"):
        return before.get("content_hash") == now.get("content_hash")
    return [before.get(key) for key in ("name", "revision")] == [
        now.get(key) for key in ("name", "revision")
    ]


def _model(model: Mapping[str, Any]) -> str:
    """Its name, and what tells its bytes from others'."""
    found = model.get("content_hash") or model.get("revision")
    return f"{model['name']} ({str(found)[:SHOWN]})" if found else str(model["name"])


def _of_data(before: Mapping[str, Any] | None, data: DataPlan | None) -> Iterator[Difference]:
    now = store.plain(data.as_record()) if data else None
    if before is None or now is None:
        yield from _of("data", before and before.get("name"), now and now["name"])
        return
    if before.get("hash") != now["hash"]:
        yield Difference("data: rows", _rows(before), _rows(now))
    for key in ("format", "loss"):
        yield from _of(f"data.{key}", before.get(key), now[key])
    mixed = [_mixed(one.get("mix")) for one in (before, now)]
    yield from _of("data.mix", *mixed)


def _rows(data: Mapping[str, Any]) -> str:
    rows = f"{data['rows']} rows " if "rows" in data else ""
    return f"{data.get('name')}: {rows}({str(data.get('hash'))[:SHOWN]})"


def _mixed(mix: Mapping[str, Any] | None) -> str | None:
    return f"{mix['share']} of {mix['source']} ({str(mix['hash'])[:SHOWN]})" if mix else None


def _budget(cell: Cell, before: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What counts in an id: fields that a recorded budget does not have are at their defaults."""
    counted = store.plain(budget_content(cell.budget))
    return {**{key: value for key, value in (before or {}).items() if key in _all(cell)}, **counted}


def _all(cell: Cell) -> set[str]:
    """Fields that are at their default now and so count only where a record has another value."""
    return {key for key in vars(cell.budget) if key != "on_oom"}


def _of_mappings(
    what: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> Iterator[Difference]:
    one, other = before or {}, now or {}
    for key in dict.fromkeys([*one, *other]):
        yield from _of(f"{what}.{key}", one.get(key), other.get(key))


def _of_options(
    cell: Cell, before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[Difference]:
    yield from ()


def _of_suites(suites: Iterable[Suite], record: Record) -> Iterator[Difference]:
    yield from ()


# what it goes on from


def _goes_on(cell: Cell, out: Path) -> Iterator[str]:
    yield from ()
