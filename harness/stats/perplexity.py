"""Perplexities through their logarithms.

A perplexity is symmetric, if anywhere, as a logarithm, and never below zero; and a model that is
worse beyond measure must not hide in its own spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from harness.stats import bootstrapping
from harness.stats.bootstrapping import Arm, Bootstrap, Floats, SeedNames

_LARGEST = 709
"""What `math.exp` can take."""


def bootstrap(
    arms: Sequence[Arm],
    *,
    clusters: Sequence[object] | None = None,
    draws: int = 2000,
    seed: int = 0,
    seeds: Sequence[SeedNames] | None = None,
) -> list[Bootstrap]:
    """Bootstraps of the logarithm of each arm's perplexity, all from the same draws.

    Over several seeds the perplexity is the mean of theirs, and the draws are those of the mean
    of their logarithms, moved to it. Raises ValueError as `estimates.estimate` does.
    """
    boots = bootstrapping.bootstrap(
        "ratio", arms, clusters=clusters, draws=draws, seed=seed, seeds=seeds
    )
    return [
        bootstrapping.shifted(boot, log_figure(*arm) - boot.value)
        for boot, arm in zip(boots, arms, strict=True)
    ]


def log_figure(scores: object, per: object) -> float:
    """The logarithm of the mean of the seeds' perplexities."""
    top, bottom = bootstrapping.checked("ratio", scores, per)  # type: ignore[arg-type]
    logs = top.sum(axis=1) / bottom.sum(axis=1)
    return float(logs.max() + np.log(np.exp(logs - logs.max()).mean()))


def subtract(a: Bootstrap, b: Bootstrap, confidence: float) -> tuple[float, float, float]:
    """exp(a) - exp(b) of two bootstraps of logarithms, and its interval.

    Bounds are the wider of the difference's own expanded percentiles, and the t interval of a - b
    brought back at the geometric mean of both: x becomes 2 sqrt(e^a e^b) sinh(x / 2).
    """
    value = exp(a.value) - exp(b.value)
    if a.units < 2:
        return value, math.nan, math.nan
    a, b, _ = bootstrapping.together(a, b)
    logs = bootstrapping.difference(a, b)
    middle = (a.value + b.value) / 2
    low, high = (
        exp(middle + bound / 2) - exp(middle - bound / 2)
        for bound in bootstrapping.interval(logs, confidence)
    )
    replicates = exp_all(a.replicates) - exp_all(b.replicates)
    outer = bootstrapping.expanded_percentiles(
        replicates, *bootstrapping.inflated_t(logs, confidence)
    )
    return value, min(low, outer[0]), max(high, outer[1])


def exp(value: float) -> float:
    """e to the power of `value`; infinite where no float holds it."""
    if math.isnan(value):
        return math.nan
    return math.exp(value) if value <= _LARGEST else math.inf


def expm1(value: float) -> float:
    """e to the power of `value`, minus 1; infinite where no float holds it."""
    return math.expm1(value) if not value > _LARGEST else math.inf


def exp_all(values: Floats) -> Floats:
    """`exp` of each value of an array."""
    with np.errstate(over="ignore"):
        result: Floats = np.exp(values)
    return result
