"""What a test can see: from the width of an interval, so that it holds for every kind of figure."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.stats import proportions

POWER = 0.8
"""The chance that a test sees a difference of the detectable size."""


def stderr_of(ci_low: float, ci_high: float, confidence: float = 0.95) -> float:
    """The standard error of a normal interval of this width."""
    return (ci_high - ci_low) / (2 * _z((1 + confidence) / 2))


def minimum_detectable_effect(
    stderr: float, confidence: float = 0.95, power: float = POWER
) -> float:
    """The smallest true difference that a two-sided test sees with this power.

    (z[1 - alpha/2] + z[power]) stderr: the usual normal approximation (Lehr, Statistics in
    Medicine 11, 1992; Miller, Adding error bars to evals, arXiv 2411.00640, eq. 9).
    """
    return (_z((1 + confidence) / 2) + _z(power)) * stderr


def samples_needed(
    stderr: float,
    n: int,
    distance: float,
    confidence: float = 0.95,
    power: float = POWER,
    *,
    fewest: int | None = None,
) -> int | None:
    """Samples in all with which a test separates a true value this far from a margin from it.

    `stderr` is that of `n` samples and shrinks with their square root. Never under `fewest`, by
    default the `n` that there are. None where the distance is zero, and where no spread is known.
    """
    if distance == 0 or not math.isfinite(stderr):
        return None
    effect = minimum_detectable_effect(stderr, confidence, power)
    return max(n if fewest is None else fewest, math.ceil(n * (effect / distance) ** 2))


MANY_PAIRS = 300
"""Discordant pairs from which the normal approximation of the score test is used."""


def fewest_pairs(margin: float, confidence: float = 0.95) -> int | None:
    """The fewest pairs whose score interval stays within a margin below where none is discordant.

    z^2 / (n + z^2) <= margin, of Tango's interval (Statistics in Medicine 17, 1998). None where the
    margin is zero.
    """
    if margin <= 0:
        return None
    z2 = _z((1 + confidence) / 2) ** 2
    return max(1, math.ceil(z2 * (1 - margin) / margin - 1e-9))


def power_of_pairs(
    n: int, only_a: float, only_b: float, bound: float, confidence: float = 0.95
) -> float:
    """The chance that Tango's interval of p_a - p_b lies above `bound`, on n pairs.

    `only_a` and `only_b` are the probabilities of a discordant pair each way. The sum over all
    pairs of counts, of their multinomial probability, out to six standard deviations.
    """
    a, b = _likely(n, only_a), _likely(n, only_b)
    probability = _multinomial(n, a, b, only_a, only_b)
    total, most = 0.0, 0
    for row, first in enumerate(a):  # the more a has alone, the more b may have
        while most < len(b) and proportions.clears(int(first), int(b[most]), n, bound, confidence):
            most += 1
        total += float(probability[row, :most].sum())
    return total


@lru_cache(maxsize=1000)
def pairs_needed(
    only_a: float,
    only_b: float,
    bound: float,
    confidence: float = 0.95,
    power: float = POWER,
) -> int | None:
    """Pairs with which Tango's interval of p_a - p_b lies above `bound` with this power.

    None where the true difference is not above it. With many discordant pairs the normal
    approximation of `samples_needed`, with the variance of a paired difference.
    """
    distance, discordance = only_a - only_b - bound, only_a + only_b
    if distance <= 1e-12:
        return None
    stderr = math.sqrt(max(0.0, discordance - (only_a - only_b) ** 2))
    rough = ((_z((1 + confidence) / 2) + _z(power)) * stderr / distance) ** 2
    if rough * discordance > MANY_PAIRS:
        return math.ceil(rough)
    low, high = 0, max(8, math.ceil(rough))
    while power_of_pairs(high, only_a, only_b, bound, confidence) < power:
        low, high = high, 2 * high
        if high * discordance > 20 * MANY_PAIRS:
            return high
    while high - low > 1:
        middle = (low + high) // 2
        enough = power_of_pairs(middle, only_a, only_b, bound, confidence) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def _likely(n: int, share: float) -> NDArray[np.int64]:
    """Counts of a binomial within six standard deviations."""
    mean, wide = n * share, 6 * math.sqrt(n * share * (1 - share)) + 6
    if share <= 0:
        return np.zeros(1, dtype=np.int64)
    return np.arange(max(0, int(mean - wide)), min(n, math.ceil(mean + wide)) + 1)


def _multinomial(
    n: int, a: NDArray[np.int64], b: NDArray[np.int64], share_a: float, share_b: float
) -> NDArray[np.floating[Any]]:
    """The probability of each pair of counts, `(len(a), len(b))`."""
    rest = n - a[:, None] - b
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    logs = factorials[n] - factorials[a][:, None] - factorials[b] - factorials[np.maximum(rest, 0)]
    logs += _times_log(a, share_a)[:, None] + _times_log(b, share_b)
    logs += _times_log(rest, max(0.0, 1 - share_a - share_b))
    probability = np.exp(logs)
    probability[rest < 0] = 0.0
    return probability


def _times_log(counts: NDArray[np.int64], share: float) -> NDArray[np.floating[Any]]:
    if share <= 0:
        return np.where(counts == 0, 0.0, -np.inf)
    return counts * math.log(share)


def _z(probability: float) -> float:
    return NormalDist().inv_cdf(probability)
