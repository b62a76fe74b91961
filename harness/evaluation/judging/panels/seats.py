"""The judges of a suite, one or a panel of several, each as if the suite had it alone."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence

from harness.api.task import Suite

__all__ = ["each", "labels", "seated"]


def each(suite: Suite) -> list[Suite]:
    """The suite for each of its judges: itself, where it has just one; none without a judge."""
    if not suite.judge_panel:
        return [] if suite.judge is None else [suite]
    return [seated(suite, seat) for seat in range(len(suite.judge_panel))]


def seated(suite: Suite, seat: int) -> Suite:
    """The suite as one judge of its panel has it."""
    one = suite.judge_panel[seat]
    return dataclasses.replace(
        suite,
        judge=one.judge,
        judge_options=one.judge_options,
        judge_model=one.judge_model,
        judge_quantization=one.judge_quantization,
        judge_endpoint=one.judge_endpoint,
        judge_panel=(),
    )


def labels(named: Sequence[tuple[str, str]]) -> list[str]:
    """What the judges of a panel are called, by (judge, model): the model, as far as that tells."""
    judges, models = ({pair[at] for pair in named} for at in (0, 1))
    shown = [
        model if len(judges) == 1 else judge if len(models) == 1 else f"{judge} by {model}"
        for judge, model in named
    ]
    counts: Counter[str] = Counter()
    found = []
    for label in shown:
        counts[label] += 1
        found.append(label if counts[label] == 1 else f"{label} ({counts[label]})")
    return found
