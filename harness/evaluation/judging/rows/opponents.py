"""The row that a judge compares with: its stored answers, matched by sample and prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.record import Record
from harness.results import store
from harness.results.store import Rows
from harness.stats.answers import degenerate_answers
from harness.types import Message, Sample

__all__ = ["Opponent", "digest", "of_record", "read"]


@dataclass(frozen=True)
class Opponent:
    """A cell whose answers others are compared with."""

    folder: str
    """Its results folder."""
    cell: str
    own: bool = False
    """Whether it is the judged cell itself, whose answers are not stored yet."""

    @property
    def file(self) -> Path:
        """Its record."""
        return Path(self.folder) / "cells" / f"{self.cell}.json"


def of_record(file: Path) -> Opponent:
    """The opponent of a record's file, `RESULTS/cells/ID.json`.

    Raises UserError where there is none, or it is no record.
    """
    if not file.is_file():
        raise UserError(f"there is no record {file}: name a file under cells/ of some results")
    cell = store.read_record(file)["id"]
    if file.parent.name != "cells" or file.stem != cell:
        raise UserError(f"{file} is not where a run writes it: name cells/{cell}.json")
    return Opponent(str(file.resolve().parent.parent), cell)


def read(
    opponent: Opponent,
    suite: str,
    samples: Sequence[Sample],
    cap: int,
    *,
    without_reasoning: bool = False,
) -> list[str]:
    """Its answers to the samples of `suite`, in their order.

    They are of its suite of the same name or, where its record has none, of one that asked the same
    questions with the same `max_new_tokens`, which is `cap`. Raises UserError where there are no
    such answers, or a sample file was changed.
    """
    record = store.read_record(opponent.file)
    known = store.suites(record)
    names = [suite] if suite in known else [name for name in known if _cap(record, name) == cap]
    problem = f"no suite of its record asked these questions with max_new_tokens: {cap}"
    for name in names:
        rows = {row["id"]: row for row in store.read_samples(Path(opponent.folder), record, name)}
        lacking = _lacking(rows, samples)
        if lacking is None and without_reasoning:
            lacking = _thinking(name, [rows[sample.id] for sample in samples])
        if lacking is None:
            return [rows[sample.id]["output"] for sample in samples]
        if name == suite:
            problem = lacking
    raise UserError(
        f"{opponent.file}: not the answers that suite '{suite}' compares with: {problem}; measure "
        "that row on the same questions"
    )


def digest(samples: Sequence[Sample], answers: Sequence[str]) -> str:
    """sha256 of questions and answers: what a comparison with them is about."""
    content = [
        [sample.id, [dict(message) for message in _conversation(sample)], answer]
        for sample, answer in zip(samples, answers, strict=True)
    ]
    return store.digest({"answers": content})


def _cap(record: Record, suite: str) -> object:
    notes = store.suites(record)[suite].get("notes") or {}
    return (notes.get("decoding") or {}).get("max_new_tokens")


def _lacking(rows: Mapping[str, Mapping[str, Any]], samples: Sequence[Sample]) -> str | None:
    """Why the rows do not answer the samples; None where they do."""
    for sample in samples:
        row = rows.get(sample.id)
        if row is None or not isinstance(row.get("output"), str):
            return f"it has no answer to sample '{sample.id}'"
        if _asked(row.get("prompt")) != [dict(message) for message in _conversation(sample)]:
            return f"sample '{sample.id}' has another prompt there"
    return None


def _thinking(suite: str, rows: Rows) -> str | None:
    """Why answers cannot stand beside others without reasoning; None where they can."""
    found = [one for one in degenerate_answers.detect(suite, rows) if one.name == "reasoning"]
    return f"{found[0].share:.0%} of its answers hold their reasoning" if found else None


def _conversation(sample: Sample) -> Sequence[Message]:
    """What is asked; a plain prompt as a user's turn, for not every model has a template."""
    return sample.messages or ({"role": "user", "content": sample.prompt or ""},)


def _asked(prompt: object) -> object:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
