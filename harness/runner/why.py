"""Why each cell of a plan would run, or not, and what of an earlier run it would go on from.

This only looks: nothing is moved, written, loaded or asked of a server. What a worker alone finds
out, such as whether the data of an lm-eval task changed, is taken as it was recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.api.task import Suite
from harness.errors import HarnessError, UserError
from harness.evaluation import suite_versions
from harness.evaluation.blocks import kept_answers
from harness.evaluation.cached_results import arithmetic
from harness.manager import plugins
from harness.models import trained_artifact
from harness.planning.cell import Cell
from harness.planning.differences import Difference, differences
from harness.planning.plan import Plan
from harness.record import Record
from harness.results import store
from harness.results.artifact_hash import artifact_hash
from harness.runner.run import lacks_base, lost_answers
from harness.runner.tuning.trials import recorded_trials
from harness.types import Artifact

__all__ = ["Reason", "why"]

Kind = Literal["recorded", "no record", "invalid record", "failed", "answers lost", "no base"]


@dataclass(frozen=True)
class Reason:
    """Why a cell would run, or not."""

    cell: str
    label: str
    seed: int
    kind: Kind
    why: str
    """A sentence."""
    nearest: str | None = None
    """The recorded cell of the same label that is most alike; None where there is none, or where
    the cell itself has a record."""
    differences: tuple[Difference, ...] = ()
    """Between that one and this."""
    goes_on: tuple[str, ...] = ()
    """What need not be computed again, in words."""

    @property
    def runs(self) -> bool:
        """Whether it would run."""
        return self.kind != "recorded"


def why(plan: Plan, out: Path, shared: Path | None = None) -> list[Reason]:
    """Of each cell, in the plan's order.

    Suites are also searched in the results folders under `shared`. Raises UserError where a record
    cannot be read.
    """
    states = {cell.id: _state(cell, plan.base, out) for cell in plan.cells}
    left = any(kind != "recorded" for kind, _ in states.values())
    if left and states[plan.base.id][0] == "recorded" and (lack := lost_answers(out, plan.base)):
        states[plan.base.id] = ("answers lost", lack)
    records = suite_versions.records_in(out) if left else []
    found = []
    for cell in plan.cells:
        kind, told = states[cell.id]
        reason = Reason(cell.id, cell.label, cell.seed, kind, told)
        if kind == "no record":
            reason = _beside(reason, cell, plan, records)
        if reason.runs:
            told_more = tuple(_Found(cell, out, shared).sentences())
            reason = replace(reason, goes_on=told_more)
        found.append(reason)
    return found


def _state(cell: Cell, base: Cell, out: Path) -> tuple[Kind, str]:
    file = out / "cells" / f"{cell.id}.json"
    if not file.is_file():
        return "no record", "it has no record"
    if (problem := store.invalidity(out, cell.id)) is not None:
        return "invalid record", f"its record is not used: {problem}"
    record = store.read_record(file)
    if record["status"] == "ok" and lacks_base(record, base):
        told = "it was measured when the base had failed, and is compared with it afterwards"
        return "no base", told
    if record["status"] == "ok":
        return "recorded", "it is recorded"
    error: Mapping[str, Any] = record["error"] or {}
    where = f" in {error['phase']}" if error.get("phase") else ""
    message = " ".join(str(error.get("message", "")).split())[:200]
    return "failed", f"it failed{where} ({record['status']}: {message}), and what failed runs again"


def _beside(reason: Reason, cell: Cell, plan: Plan, records: Iterable[Record]) -> Reason:
    """The reason with what tells the cell from the recorded one that is most alike."""
    planned = {one.id for one in plan.cells}
    rows = [one for one in records if store.label(one["plan"]) == cell.label]
    # a cell of this plan differs by its seed, which everybody sees
    others = [one for one in rows if one["id"] not in planned] or rows
    if not others:
        if not records:
            return reason
        told = f"it has no record, and nothing is recorded as '{cell.label}'"
        return replace(reason, why=told)
    apart, nearest = min(
        ((differences(cell, one), one) for one in others),
        key=lambda found: (len(found[0]), found[1]["id"]),
    )
    names = ", ".join(dict.fromkeys(one.what for one in apart))
    told = names or "a part that records do not hold, such as the date in a chat template"
    return replace(
        reason,
        why=f"it has no record; from {nearest['id']}, which has one, it differs in {told}",
        nearest=nearest["id"],
        differences=tuple(apart),
    )


class _Found:
    """What a cell's worker would find in the folder."""

    def __init__(self, cell: Cell, out: Path, shared: Path | None) -> None:
        self.cell, self.out, self.shared = cell, out, shared

    def sentences(self) -> Iterator[str]:
        """What it need not compute again, in words."""
        if self.cell.search:
            if count := recorded_trials(self.cell, self.out):
                yield f"{count} trials of its search are recorded"
            return  # its training is known once the search is over
        artifact: Artifact | None = None
        if plugins().methods.get(self.cell.method).trains:
            artifact, told = self._trained()
            yield from told
        else:
            artifact = self._untrained()
        if artifact is not None:
            yield from self._answers(artifact)

    def _trained(self) -> tuple[Artifact | None, list[str]]:
        places = trained_artifact.with_training(self.out, self.cell.training_id)
        for place in sorted(places, key=lambda place: place.name != self.cell.id):
            with suppress(UserError):
                kept = trained_artifact.read(place)
                told = f"it is trained already: artifacts/{place.name}"
                return kept.opened_at(place), [told]
        steps = [
            int(folder.name.removeprefix("step-"))
            for folder in (self.out / "checkpoints" / self.cell.training_id).glob("*/step-*")
            if folder.name.removeprefix("step-").isdigit()
        ]
        if steps:
            of = self.cell.budget.steps
            return None, [f"its training has a checkpoint after step {max(steps)} of {of}"]
        return None, []

    def _untrained(self) -> Artifact | None:
        from harness.runner.worker import untrained

        with suppress(HarnessError):  # its worker says why
            return untrained(self.cell)
        return None

    def _answers(self, artifact: Artifact) -> Iterator[str]:
        found = artifact_hash(artifact)
        for suite in self.cell.suites:
            if (cell := self._measured(suite, found)) is not None:
                yield f"suite '{suite.name}' is measured already: samples/{cell}"
        blocks, requests = kept_answers.count(self.out, found)
        if blocks:
            yield f"the answers to {requests} requests are kept, in {blocks} blocks"

    def _measured(self, suite: Suite, artifact: str) -> str | None:
        """The cell whose answers of a suite would be used again."""
        inside = sorted(self.out.glob(f"samples/*/{suite.name}.json"))
        beside = sorted(self.shared.glob(f"*/samples/*/{suite.name}.json")) if self.shared else []
        own = [file for file in inside if file.parent.name == self.cell.id]
        for file in own if self.cell.served else [*own, *inside, *beside]:
            with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                section = json.loads(file.read_text(encoding="utf-8"))
                rows = section.get("uncorrected_hash", section["hash"])
                known = [section["artifact_hash"], section.get("arithmetic"), rows]
                if known == [artifact, arithmetic(), suite.rows_hash]:
                    return file.parent.name
        return None
