"""Which of many sides cannot be told apart, pair by pair, from one bootstrap of all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from harness.stats import bootstrapping, perplexity
from harness.stats.bootstrapping import Bootstrap, Kind, Side
from harness.stats.proportions import exact_p
from harness.stats.student_t import t_quantile

_CELLS_AT_ONCE = 16_000_000
"""Of the scores that are resampled in one go: 128 MB."""
_LARGEST_LOG = 700.0
"""The exponential of what is above it is close to infinite, and differences of such are none."""

Matrix = NDArray[np.bool_]


def tied(
    kind: Kind,
    sides: Sequence[Side],
    *,
    clusters: Sequence[object] | None = None,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Matrix:
    """Whether `estimates.paired` of two sides does not exclude zero: `(sides, sides)`, symmetric.

    Every side has the same samples in the same order. Bootstraps grow with the number of sides,
    not of pairs: all pairs are differences of the same replicates. What the t interval or the
    replicates' extremes decide alone needs no quantiles; the interval itself decides the rest.
    Raises ValueError as `estimates.estimate` does.
    """
    parts = [bootstrapping.checked(kind, *side)[0] for side in sides]
    result = np.zeros((len(sides), len(sides)), dtype=bool)
    closed = kind == "share" and clusters is None
    single = [i for i, scores in enumerate(parts) if closed and len(scores) == 1]
    if single:
        scores = np.concatenate([parts[i] for i in single])
        result[np.ix_(single, single)] = _shares_tied(scores, confidence)
    if len(single) < len(sides):
        boots = tuple(
            _bootstraps(kind, sides, clusters, draws, seed, place=place) for place in (0, 1)
        )
        for one in range(len(sides) - 1):
            others = [i for i in range(one + 1, len(sides)) if not {one, i} <= set(single)]
            seconds = [boots[1][i] for i in others]
            result[one, others] = _row(boots[0][one], seconds, confidence, kind)
    return result | result.T


def _shares_tied(scores: NDArray[np.float64], confidence: float) -> Matrix:
    """`proportions.paired_shares` of all pairs of rows; at zero McNemar's (a-b)/sqrt(a+b).

    Tango's interval is drawn out to zero where the exact test does not reject.
    """
    only = scores @ (1 - scores).T
    discordant, apart = only + only.T, np.abs(only - only.T)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    result = apart <= z * np.sqrt(discordant)
    for i, j in np.argwhere(np.triu(~result)):
        p = exact_p(int(discordant[i, j]), int(min(only[i, j], only[j, i])))
        result[i, j] = result[j, i] = p >= 1 - confidence
    np.fill_diagonal(result, False)
    return result


def _bootstraps(
    kind: Kind,
    sides: Sequence[Side],
    clusters: Sequence[object] | None,
    draws: int,
    seed: int,
    *,
    place: int,
) -> list[Bootstrap]:
    """Of each side as the first (0) or second (1) of a difference: those draw seeds apart."""
    largest = max(bootstrapping.checked(kind, *side)[0].size for side in sides)
    at_once = max(1, _CELLS_AT_ONCE // (2 * largest))
    boots: list[Bootstrap] = []
    for start in range(0, len(sides), at_once):
        part = sides[start : start + at_once]
        places = [place] * len(part)
        if kind == "exp_ratio":
            boots += perplexity.bootstrap(
                part, clusters=clusters, draws=draws, seed=seed, places=places
            )
        else:
            boots += bootstrapping.bootstrap(
                kind, part, clusters=clusters, draws=draws, seed=seed, places=places
            )
    return boots


def _row(
    one: Bootstrap, others: Sequence[Bootstrap], confidence: float, kind: Kind
) -> NDArray[np.bool_]:
    """Whether the difference of one side to each of the others does not exclude zero."""
    if not others or one.units < 2:
        return np.ones(len(others), dtype=bool)  # of one unit there is no interval
    theirs = np.stack([other.replicates for other in others])
    differences = one.replicates - theirs
    values = np.abs(bootstrapping.apart(one.value, np.array([other.value for other in others])))
    spread = differences.std(axis=1, ddof=1) * math.sqrt(one.units / (one.units - 1))
    fewest, most = _degrees(one, others)
    least = bootstrapping.least(one, confidence)
    level = (1 + confidence) / 2
    within = values <= np.maximum(t_quantile(level, most) * spread * (1 - 1e-9), least)
    beyond = values > np.maximum(t_quantile(level, fewest) * spread * (1 + 1e-9), least)
    largest = max(float(np.abs(theirs).max()), float(np.abs(one.replicates).max()))
    if kind != "exp_ratio" or largest < _LARGEST_LOG:
        # draws that all lie on one side of zero have no percentile on the other
        rounding = bootstrapping.ROUNDING * largest
        beyond &= (differences.min(axis=1) > rounding) | (differences.max(axis=1) < -rounding)
    else:
        beyond[:] = False
    for at in map(int, np.flatnonzero(~within & ~beyond)):
        within[at] = not _excludes_zero(one, others[at], confidence, kind)
    return within


def _degrees(one: Bootstrap, others: Sequence[Bootstrap]) -> tuple[float, float]:
    """The fewest and the most degrees of freedom that Satterthwaite's formula can give."""
    seeds = [df for boot in (one, *others) for _, df in boot.between_seeds]
    samples = one.units - 1
    return min((samples, *seeds)), samples + 2 * max(seeds, default=0)


def _excludes_zero(one: Bootstrap, other: Bootstrap, confidence: float, kind: Kind) -> bool:
    if kind == "exp_ratio":
        _, low, high = perplexity.subtract(one, other, confidence)
    else:
        low, high = bootstrapping.interval(bootstrapping.difference(one, other), confidence)
    return low > 0 or high < 0
