"""Leaks: training rows that overlap a suite's samples, so that its scores would be too high."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.api.task import Suite
from harness.data.overlap import Overlap, overlaps
from harness.evaluation.suite import task_of
from harness.manager import plugins
from harness.types import Row, Sample

__all__ = ["leaks", "leaks_of_rows", "samples_from_rows"]

NAMED = 10
"""Pairs that a warning names; the others are counted."""


def leaks(train: Sequence[Row], suites: Sequence[Suite]) -> list[str]:
    """One warning per suite that shares a prompt or a 13-gram with training rows.

    Suites whose questions are known only once they are run are left out: see `leaks_of_rows`.
    """
    if not train:
        return []
    # The training rows are read through once for all suites; ids lead back to each.
    every: list[Sample] = []
    for suite in suites:
        own = task_of(suite, plugins()).samples(suite)
        every += [replace(sample, id=f"{suite.name}\n{sample.id}") for sample in own]
    by_suite: dict[str, list[Overlap]] = {suite.name: [] for suite in suites}
    for overlap in overlaps(train, every):
        name, _, sample_id = overlap.sample_id.partition("\n")
        by_suite[name].append(replace(overlap, sample_id=sample_id))
    return [warning for name, own in by_suite.items() for warning in _warning(name, own)]


def leaks_of_rows(train: Sequence[Row], suite: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """As `leaks`, for one suite's sample-file rows: the warning, or nothing."""
    return _warning(suite, overlaps(train, samples_from_rows(rows))) if train else []


def samples_from_rows(rows: Sequence[Mapping[str, Any]]) -> list[Sample]:
    """Samples of sample-file rows: `id`, `prompt` (text or messages) and `reference`.

    A reference that is no text (lm-eval's index of a choice) is left out.
    """
    return [_from_row(row) for row in rows]


def _from_row(row: Mapping[str, Any]) -> Sample:
    prompt, reference = row.get("prompt"), row.get("reference")
    is_conversation = isinstance(prompt, Sequence) and not isinstance(prompt, str)
    return Sample(
        id=str(row["id"]),
        messages=tuple(prompt) if is_conversation and prompt else None,
        prompt=prompt if isinstance(prompt, str) else None,
        reference=reference if isinstance(reference, str) else None,
    )


def _warning(suite: str, shared: Sequence[Overlap]) -> list[str]:
    if not shared:
        return []
    count = len({overlap.sample_id for overlap in shared})
    pairs = "; ".join(map(_pair, shared[:NAMED]))
    more = f"; and {len(shared) - NAMED} more" if len(shared) > NAMED else ""
    samples = "1 sample overlaps" if count == 1 else f"{count} samples overlap"
    return [
        f"suite '{suite}': {samples} with training rows, so its scores may flatter "
        f"({len(shared)} pair{'s' if len(shared) > 1 else ''}: {pairs}{more})"
    ]


def _pair(overlap: Overlap) -> str:
    line = f" (line {overlap.row_line})" if overlap.row_line is not None else ""
    return f"sample {overlap.sample_id} and row {overlap.row_id}{line}, {overlap.kind}"
