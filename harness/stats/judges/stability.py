"""Whether a judge says the same of the same: in either order, again, and asked for better."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.estimates import Difference, Estimate, estimate, paired


@dataclass(frozen=True)
class PositionConsistency:
    """Verdicts on pairs of answers shown in both orders."""

    consistent: Estimate
    """The share of pairs with the same verdict in both orders (Zheng et al., MT-Bench, 2023)."""
    first: Estimate
    """The mean preference for the answer shown first, over both orders: 0.5 without a bias."""


def position_consistency(
    in_order: ArrayLike,
    swapped: ArrayLike,
    *,
    clusters: Sequence[object] | None = None,
    confidence: float = 0.95,
) -> PositionConsistency | None:
    """Of preferences for answer A, shown first (`in_order`) and second (`swapped`), `(pairs,)`.

    1 prefers A, 0 B, 0.5 neither; pairs without a verdict in one order (NaN) are left out. None
    where no pair has both.
    """
    first, second = np.asarray(in_order, float), np.asarray(swapped, float)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"verdicts {first.shape} and {second.shape} differ in shape")
    known = ~(np.isnan(first) | np.isnan(second))
    if not known.any():
        return None
    names = None
    if clusters is not None:
        names = [name for name, use in zip(clusters, known, strict=True) if use]
    first, second = first[known], second[known]
    same = estimate("share", first == second, clusters=names, confidence=confidence)
    preferred = (first + 1 - second) / 2
    bias = estimate("mean", preferred, clusters=names, confidence=confidence)
    return PositionConsistency(same, bias)


def repeatability(
    repeats: Sequence[Sequence[float | str | None]],
    *,
    clusters: Sequence[object] | None = None,
    confidence: float = 0.95,
) -> Estimate | None:
    """The chance that two verdicts on one sample are equal, from `(repeats, samples)`.

    Of each sample the share of equal pairs of its repeats. No verdict (None) differs from every
    verdict; samples that never had one are left out. None with fewer than two repeats or none left.
    """
    rows = [row for row in zip(*repeats, strict=True) if any(v is not None for v in row)]
    kept = [any(v is not None for v in row) for row in zip(*repeats, strict=True)]
    if len(repeats) < 2 or not rows:
        return None
    pairs = list(itertools.combinations(range(len(repeats)), 2))
    equal = [
        sum(row[i] is not None and row[i] == row[j] for i, j in pairs) / len(pairs) for row in rows
    ]
    names = None
    if clusters is not None:
        names = [name for name, use in zip(clusters, kept, strict=True) if use]
    kind = "share" if set(equal) <= {0.0, 1.0} else "mean"
    return estimate(kind, equal, clusters=names, confidence=confidence)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Shift:
    """What a change of the answers that is no change of their worth does to verdicts."""

    moved: Estimate
    """The share of verdicts that changed."""
    difference: Difference
    """Of the mean verdict: changed minus as it was."""


def shift(
    before: ArrayLike,
    after: ArrayLike,
    *,
    clusters: Sequence[object] | None = None,
    by: float = 0.0,
    confidence: float = 0.95,
) -> Shift | None:
    """Verdicts on the same answers before and after: padded, or with an instruction to the judge.

    Shape `(answers,)`; answers without a verdict (NaN) before are left out, and losing it counts as
    moved. A verdict is `moved` that differs by more than `by`. None where no answer has both.
    """
    first, second = np.asarray(before, float), np.asarray(after, float)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(f"verdicts {first.shape} and {second.shape} differ in shape")
    known = ~np.isnan(first)
    both = known & ~np.isnan(second)
    if not both.any():
        return None

    def named(use: Sequence[bool]) -> list[object] | None:
        return None if clusters is None else list(itertools.compress(clusters, use))

    # the comparison is False where the second is NaN
    moved = ~(np.abs(second[known] - first[known]) <= by + 1e-12)
    binary = bool(
        np.isin(first[both], (0.0, 1.0)).all() and np.isin(second[both], (0.0, 1.0)).all()
    )
    return Shift(
        estimate("share", moved, clusters=named(known.tolist()), confidence=confidence),
        paired(
            "share" if binary else "mean",
            second[both],
            first[both],
            clusters=named(both.tolist()),
            confidence=confidence,
        ),
    )


def validity(verdicts: ArrayLike, confidence: float = 0.95) -> Estimate:
    """The share of answers that got a verdict; NaN is none. Raises ValueError on no answers."""
    values = np.asarray(verdicts, float)
    return estimate("share", [not math.isnan(value) for value in values], confidence=confidence)
