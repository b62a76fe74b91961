"""What a test can see: from the width of an interval, so that it holds for every kind of figure."""

from __future__ import annotations

import math
from statistics import NormalDist

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
    stderr: float, n: int, distance: float, confidence: float = 0.95, power: float = POWER
) -> int | None:
    """Samples in all with which a test separates a true value this far from a margin from it.

    `stderr` is that of `n` samples and shrinks with their square root. None where the distance is
    zero, and where no spread is known.
    """
    if distance == 0 or not math.isfinite(stderr):
        return None
    return max(
        n, math.ceil(n * (minimum_detectable_effect(stderr, confidence, power) / distance) ** 2)
    )


def _z(probability: float) -> float:
    return NormalDist().inv_cdf(probability)
