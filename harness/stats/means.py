"""Means in closed form: the t interval and clustered standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.student_t import t_quantile


def t_interval(scores: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean, `scores` of shape `(samples,)`; NaN for one sample."""
    values = np.asarray(scores, float)
    if values.size < 2:
        return math.nan, math.nan
    half = t_quantile((1 + confidence) / 2, values.size - 1) * values.std(ddof=1)
    half /= math.sqrt(values.size)
    return float(values.mean() - half), float(values.mean() + half)


def clustered_stderr(scores: ArrayLike, clusters: Sequence[object]) -> float:
    """Standard error of a mean whose samples come in clusters (questions on one passage).

    The cluster-robust variance (Liang & Zeger, Biometrika 73, 1986) with the usual factor
    G / (G - 1) for G clusters, as statsmodels has it. NaN for one cluster.
    """
    values = np.asarray(scores, float)
    names = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    if len(names) < 2:
        return math.nan
    inverse = np.fromiter((names[name] for name in clusters), int, values.size)
    sums = np.bincount(inverse, weights=values - values.mean())
    return float(np.sqrt((sums**2).sum() * len(names) / (len(names) - 1)) / values.size)
