"""Leaks: training rows that a suite asks for, so that its scores would flatter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.data.overlap import Overlap, overlaps
from harness.evaluation.suite import Suite, rows_of, samples_of
from harness.types import Row, Sample

__all__ = ["leaks", "leaks_of_rows", "samples_from_rows"]

NAMED = 10
"""Pairs that a warning names; the others are counted."""


def leaks(train: Sequence[Row], suites: Sequence[Suite]) -> list[str]:
    """One warning per suite that shares a prompt or a 13-gram with training rows.

    lm-eval's suites are left out: `leaks_of_rows`, when their questions are known.
    """
    if not train:
        return []
    # The training rows are read through once for all suites; ids lead back to each.
    every: list[Sample] = []
    for suite in suites:
        own = _samples(suite)
        every += [replace(sample, id=f"{suite.name}\n{sample.id}") for sample in own]
    found: dict[str, list[Overlap]] = {suite.name: [] for suite in suites}
    for overlap in overlaps(train, every):
        name, _, sample_id = overlap.sample_id.partition("\n")
        found[name].append(replace(overlap, sample_id=sample_id))
    return [warning for name, theirs in found.items() for warning in _warning(name, theirs)]


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
    talk = isinstance(prompt, Sequence) and not isinstance(prompt, str)
    return Sample(
        id=str(row["id"]),
        messages=tuple(prompt) if talk and prompt else None,
        prompt=prompt if isinstance(prompt, str) else None,
        reference=reference if isinstance(reference, str) else None,
    )


def _samples(suite: Suite) -> list[Sample]:
    if suite["ask"] == "lm-eval":
        return []
    if suite["ask"] == "perplexity":
        return [_as_sample(source, row) for source, row in rows_of(suite)]
    return samples_of(suite)


def _as_sample(source: str, row: Row) -> Sample:
    """A perplexity row with all its texts, under the id of its sample-file row."""
    return Sample(
        id=f"{source}/{row.id}" if source else row.id,
        messages=row.messages,
        prompt=row.prompt,
        reference=row.completion if row.text is None else row.text,
    )


def _warning(suite: str, found: Sequence[Overlap]) -> list[str]:
    if not found:
        return []
    asked = len({overlap.sample_id for overlap in found})
    pairs = "; ".join(map(_pair, found[:NAMED]))
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    samples = "1 sample overlaps" if asked == 1 else f"{asked} samples overlap"
    return [
        f"suite '{suite}': {samples} with training rows, so its scores may flatter "
        f"({len(found)} pair{'s' if len(found) > 1 else ''}: {pairs}{more})"
    ]


def _pair(overlap: Overlap) -> str:
    line = f" (line {overlap.row_line})" if overlap.row_line is not None else ""
    return f"sample {overlap.sample_id} and row {overlap.row_id}{line}, {overlap.kind}"
