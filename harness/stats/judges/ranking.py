"""Who is best of three rows and more, by strengths, and which ranks the differences leave open."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.stats.judges.strengths import BradleyTerry, Comparison, bradley_terry, unbeaten
from harness.stats.multiple_testing import holm

__all__ = ["Ranking", "ranking"]

_ADDED = "one tie of all pairs"
"""The question that is added where strengths would be infinite; no sample is called so."""


@dataclass(frozen=True)
class Ranking:
    """Rows by strength, best first."""

    fitted: BradleyTerry
    ranks: tuple[tuple[int, int], ...]
    """The best and the worst rank of each row that the differences leave open."""
    unbeaten: tuple[str, ...]
    """Rows that never lost or tied against the rest; then one tie was added to each pair, without
    which their strength would be infinite. Empty where nothing was added."""


def ranking(comparisons: Sequence[Comparison], confidence: float = 0.95) -> Ranking:
    """Strengths after Bradley and Terry, and the ranks that they leave open.

    Two rows have no order where the p value of their difference, adjusted for all pairs after Holm,
    is not below 1 - `confidence`. Raises ValueError as `bradley_terry`, but for rows that never
    lost: these get half a win and half a loss against each other row, on one question more.
    """
    apart = _unbeaten(comparisons)
    pairs = dict.fromkeys((c.a, c.b) for c in comparisons)
    added = [Comparison(_ADDED, a, b, 0.5) for a, b in pairs] if apart else []
    fitted = bradley_terry([*comparisons, *added], confidence)
    return Ranking(fitted, _ranks(fitted, 1 - confidence), tuple(apart))


def _unbeaten(comparisons: Sequence[Comparison]) -> list[str]:
    rows = sorted({row for c in comparisons for row in (c.a, c.b)})
    place = {row: i for i, row in enumerate(rows)}
    a, b = (np.array([place[row] for row in side]) for side in _sides(comparisons))
    return unbeaten(rows, a, b, np.array([c.score for c in comparisons], float))


def _sides(comparisons: Sequence[Comparison]) -> tuple[list[str], list[str]]:
    return [c.a for c in comparisons], [c.b for c in comparisons]


def _ranks(fitted: BradleyTerry, alpha: float) -> tuple[tuple[int, int], ...]:
    """Of rows in the order of their strengths."""
    count = len(fitted.rows)
    pairs = list(itertools.combinations(range(count), 2))
    adjusted = holm([fitted.difference(fitted.rows[i], fitted.rows[j]).p for i, j in pairs])
    told = {pair for pair, p in zip(pairs, adjusted, strict=True) if p < alpha}
    return tuple(
        (
            1 + sum((i, place) in told for i in range(place)),
            count - sum((place, j) in told for j in range(place + 1, count)),
        )
        for place in range(count)
    )
