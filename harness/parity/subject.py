"""The cell that a shipped form is held against: its model, its base, and what it was asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.api.task import Suite
from harness.errors import UserError
from harness.parity.observing import Prompt
from harness.record import Record, SuiteSection
from harness.results import lookup
from harness.results.artifact_hash import artifact_hash
from harness.results.lookup import RecordSet
from harness.results.store import suites
from harness.types import Artifact
from harness.verification.asking import Asking, recorded_model
from harness.verification.suites_at_hand import SuitesAtHand

LIMIT = 40
"""Prompts by default."""


@dataclass(frozen=True)
class Subject:
    """A measured cell whose model is at hand."""

    record: Record
    home: Path
    """Its results folder."""
    artifact: Artifact
    hash: str
    records: RecordSet

    @property
    def id(self) -> str:
        """The cell's id."""
        return str(self.record["id"])

    @property
    def base(self) -> Artifact | None:
        """The untouched base as the cell opened it; None where that is the cell's own model."""
        if self.artifact.path is None:
            return None
        return dataclasses.replace(self.artifact, kind="base", path=None)


def find(
    name: str, places: Sequence[Path], base: str | None = None, mirror: Path | None = None
) -> Subject:
    """The cell that `name` means (`lookup.find`), with its model.

    Raises UserError where it means several, nothing was measured, or its model is not at hand.
    """
    arm = lookup.find(name, places)
    cell, home = lookup.only_cell(arm, name)
    if not (home / "cells").is_dir():
        raise UserError(f"{home}: a record alone has no model: name its results folder")
    asking = Asking(0, 0, base=base, mirror=mirror)
    artifact = recorded_model(home, cell, asking)
    return Subject(cell, home, artifact, artifact_hash(artifact), arm.records)


def prompts(subject: Subject, limit: int) -> list[Prompt]:
    """At most `limit` questions with recorded answers, the suites' in turn.

    Raises UserError where the cell has none: of its suites those count that had it answer in its
    own words.
    """
    queues = [_of_suite(subject, name, section) for name, section in suites(subject.record).items()]
    if not any(queues):
        raise UserError(
            f"cell {subject.id} has no answers in its own words to compare: its suites are "
            f"{', '.join(suites(subject.record)) or 'none'}; measure it with one of "
            "`ask: generate`, and keep samples/ beside cells/"
        )
    picked: list[Prompt] = []
    while len(picked) < limit and any(queues):
        picked += [queue.pop(0) for queue in queues if queue][: limit - len(picked)]
    return picked


def _of_suite(subject: Subject, name: str, section: SuiteSection) -> list[Prompt]:
    """The questions of a suite that were answered in words; none of another suite."""
    notes: Mapping[str, Any] = section.get("notes") or {}
    most = (notes.get("decoding") or {}).get("max_new_tokens")
    if not isinstance(most, int):
        return []
    rows = subject.records.read_rows(subject.record, name)
    return [
        _prompt(name, row, most)
        for row in rows
        if row.get("prompt")
        and row.get("output") is not None
        and "missing" not in row
        # servers render tools in ways of their own, which are not compared
        and not row.get("tools")
    ]


def _prompt(suite: str, row: Mapping[str, Any], most: int) -> Prompt:
    prompt, stored = row["prompt"], str(row["output"])
    thought = bool(row.get("reasoning"))
    if isinstance(prompt, str):
        return Prompt(suite, str(row["id"]), stored, most, text=prompt, thought=thought)
    return Prompt(suite, str(row["id"]), stored, most, messages=tuple(prompt), thought=thought)


def suites_at_hand(
    subject: Subject, asked: Sequence[Prompt], at_hand: SuitesAtHand
) -> tuple[list[Suite], dict[str, str]]:
    """The suites of the prompts, to score answers with; and why one of them is not here."""
    found, missing = [], {}
    for name in dict.fromkeys(prompt.suite for prompt in asked):
        if any(prompt.thought for prompt in asked if prompt.suite == name):
            missing[name] = "its scores are of answers without the reasoning, which is compared too"
            continue
        known = at_hand.find(subject.record, name, suites(subject.record)[name])
        if known.suite is None:
            missing[name] = f"the suite is not at hand ({known.reason}): name --suites DIR"
        else:
            found.append(dataclasses.replace(known.suite, judge=None, judge_labels=None))
    return found, missing
