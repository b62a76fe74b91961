"""Krippendorff's alpha: how far several judges agree, beyond what chance would have them.

alpha is 1 - D_o / D_e, the disagreement that is seen over the one of values paired at random (K.
Krippendorff, Educational and Psychological Measurement 30, 1970; Content Analysis, 2004, chapter
11), here with squared differences, as for values on an interval scale. Unlike kappa it takes any
number of judges, of whom some may be silent on a sample. Its interval is a bootstrap of samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.stats.estimates import Estimate

__all__ = ["krippendorff_alpha"]

DRAWS = 2_000
_AT_ONCE = 4_000_000
"""Weights of samples that are there at once."""

Floats = NDArray[np.floating[Any]]


def krippendorff_alpha(
    judges: Sequence[Sequence[float | None]], confidence: float = 0.95, seed: int = 0
) -> Estimate | None:
    """Of each judge's value of each sample, None where it gave none.

    None where fewer than two samples have two values, or all are equal: nothing could differ.
    `n` are samples that two and more rated. Raises ValueError on different numbers of samples.
    """
    if len({len(values) for values in judges}) > 1:
        raise ValueError(f"got {sorted({len(values) for values in judges})} values of each judge")
    table = np.array([[math.nan if v is None else v for v in own] for own in judges], float)
    known = ~np.isnan(table)
    rated = known.sum(axis=0)
    table, rated = table[:, rated >= 2], rated[rated >= 2]
    if rated.size < 2:
        return None
    # alpha is the same on any scale; a shift keeps the sums of squares exact
    table = table - np.nanmean(table)
    total, squares = np.nansum(table, axis=0), np.nansum(table**2, axis=0)
    apart = 2 * (rated * squares - total**2) / (rated - 1)
    parts = np.array([apart, rated, total, squares])
    value = float(_alpha(parts.sum(axis=1)[None])[0])
    replicates = _replicates(parts, seed)
    replicates = replicates[~np.isnan(replicates)]
    if math.isnan(value) or replicates.size < 2:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail]).tolist()
    return Estimate(value, float(replicates.std(ddof=1)), low, high, int(rated.size))


def _alpha(sums: Floats) -> Floats:
    """Of sums over samples, `(draws, 4)`; NaN where all values are equal."""
    apart, count, total, squares = sums.T
    by_chance = 2 * (count * squares - total**2) / (count - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha: Floats = 1 - np.maximum(apart, 0) / np.where(by_chance > 1e-12, by_chance, math.nan)
    return alpha


def _replicates(parts: Floats, seed: int) -> Floats:
    rng, units = np.random.default_rng(seed), parts.shape[1]
    found, chunk = [], max(1, _AT_ONCE // units)
    for start in range(0, DRAWS, chunk):
        weights = rng.multinomial(units, np.full(units, 1 / units), min(chunk, DRAWS - start))
        found.append(_alpha(weights @ parts.T))
    return np.concatenate(found)
