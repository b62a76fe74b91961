"""Which of many arms do not differ significantly, pair by pair, from one bootstrap of all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from harness.stats import bootstrapping, perplexity
from harness.stats.bootstrapping import Arm, Bootstrap, Kind
from harness.stats.estimates import bootstraps
from harness.stats.proportions import exact_p
from harness.stats.student_t import t_quantile

_SCORES_PER_CHUNK = 16_000_000
"""Scores that are resampled at once: 128 MB."""
_LARGEST_LOG = 700.0
"""The exponential of what is above it is close to infinite, and differences of such are none."""

Matrix = NDArray[np.bool_]


def tied(
    kind: Kind,
    arms: Sequence[Arm],
    *,
    clusters: Sequence[object] | None = None,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Matrix:
    """Whether `estimates.paired` of two arms does not exclude zero: `(arms, arms)`, symmetric.

    Every arm has the same samples in the same order. Bootstraps grow with the number of arms,
    not of pairs: all pairs are differences of the same replicates. What the t interval or the
    replicates' extremes decide alone needs no quantiles; the interval itself decides the rest.
    Raises ValueError as `estimates.estimate` does.
    """
    parts = [bootstrapping.checked(kind, *arm)[0] for arm in arms]
    result = np.zeros((len(arms), len(arms)), dtype=bool)
    closed = kind == "share" and clusters is None
    single = [i for i, scores in enumerate(parts) if closed and len(scores) == 1]
    if single:
        scores = np.concatenate([parts[i] for i in single])
        result[np.ix_(single, single)] = _shares_tied(scores, confidence)
    if len(single) < len(arms):
        boots = tuple(
            _bootstraps(kind, arms, clusters, draws, seed, stream=stream) for stream in (0, 1)
        )
        for index in range(len(arms) - 1):
            others = [i for i in range(index + 1, len(arms)) if not {index, i} <= set(single)]
            second_boots = [boots[1][i] for i in others]
            result[index, others] = _row(boots[0][index], second_boots, confidence, kind)
    return result | result.T


def _shares_tied(scores: NDArray[np.float64], confidence: float) -> Matrix:
    """`proportions.paired_shares` of all pairs of rows; at zero McNemar's (a-b)/sqrt(a+b).

    Tango's interval is drawn out to zero where the exact test does not reject.
    """
    only = scores @ (1 - scores).T
    discordant, distance = only + only.T, np.abs(only - only.T)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    result = distance <= z * np.sqrt(discordant)
    for i, j in np.argwhere(np.triu(~result)):
        p = exact_p(int(discordant[i, j]), int(min(only[i, j], only[j, i])))
        result[i, j] = result[j, i] = p >= 1 - confidence
    np.fill_diagonal(result, False)
    return result


def _bootstraps(
    kind: Kind,
    arms: Sequence[Arm],
    clusters: Sequence[object] | None,
    draws: int,
    seed: int,
    *,
    stream: int,
) -> list[Bootstrap]:
    """Bootstraps of arms as the first (0) or second (1) of a difference, which draw seeds apart."""
    largest = max(bootstrapping.checked(kind, *arm)[0].size for arm in arms)
    chunk = max(1, _SCORES_PER_CHUNK // (2 * largest))
    boots: list[Bootstrap] = []
    for start in range(0, len(arms), chunk):
        part = arms[start : start + chunk]
        streams = [stream] * len(part)
        boots += bootstraps(kind, part, clusters=clusters, draws=draws, seed=seed, streams=streams)
    return boots


def _row(
    first: Bootstrap, others: Sequence[Bootstrap], confidence: float, kind: Kind
) -> NDArray[np.bool_]:
    """Whether the difference of the first to each of the others does not exclude zero."""
    if not others or first.units < 2:
        return np.ones(len(others), dtype=bool)  # of one unit there is no interval
    other_replicates = np.stack([other.replicates for other in others])
    differences = first.replicates - other_replicates
    values = np.abs(
        bootstrapping.rounded_difference(first.value, np.array([other.value for other in others]))
    )
    spread = differences.std(axis=1, ddof=1) * math.sqrt(first.units / (first.units - 1))
    fewest, most = _degrees(first, others)
    minimum = bootstrapping.minimum_half_width(first, confidence)
    level = (1 + confidence) / 2
    within = values <= np.maximum(t_quantile(level, most) * spread * (1 - 1e-9), minimum)
    beyond = values > np.maximum(t_quantile(level, fewest) * spread * (1 + 1e-9), minimum)
    largest = max(float(np.abs(other_replicates).max()), float(np.abs(first.replicates).max()))
    if kind != "exp_ratio" or largest < _LARGEST_LOG:
        # draws that all have one sign have no percentile of the other
        rounding = bootstrapping.ROUNDING * largest
        beyond &= (differences.min(axis=1) > rounding) | (differences.max(axis=1) < -rounding)
    else:
        beyond[:] = False
    for index in map(int, np.flatnonzero(~within & ~beyond)):
        within[index] = not _excludes_zero(first, others[index], confidence, kind)
    return within


def _degrees(first: Bootstrap, others: Sequence[Bootstrap]) -> tuple[float, float]:
    """The fewest and the most degrees of freedom that Satterthwaite's formula can give."""
    seeds = [df for boot in (first, *others) for _, df in boot.between_seeds]
    samples = first.units - 1
    return min((samples, *seeds)), samples + 2 * max(seeds, default=0)


def _excludes_zero(a: Bootstrap, b: Bootstrap, confidence: float, kind: Kind) -> bool:
    if kind == "exp_ratio":
        _, low, high = perplexity.subtract(a, b, confidence)
    else:
        low, high = bootstrapping.interval(bootstrapping.difference(a, b), confidence)
    return low > 0 or high < 0
