"""A figure with its interval, and the paired difference of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from harness.stats import perplexity
from harness.stats.bootstrapping import (
    Arm,
    Bootstrap,
    Floats,
    Kind,
    SeedNames,
    bootstrap,
    checked,
    clipped,
    difference,
    interval,
    p_value,
    point_estimates,
)
from harness.stats.proportions import paired_shares, wilson


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error and interval; `n` samples."""

    value: float
    stderr: float
    ci_low: float
    ci_high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A paired difference a - b over `n` samples; `p` is two-sided and agrees with the interval."""

    delta: float
    ci_low: float
    ci_high: float
    p: float
    n: int
    p_exact: float | None = None
    """Mid-p McNemar where both arms are single runs of a `share`, else None."""


def estimate(
    kind: Kind,
    scores: ArrayLike,
    per: ArrayLike | None = None,
    *,
    clusters: Sequence[object] | None = None,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A figure of kind `kind` (see `types.Metric`) from per-sample scores.

    `scores` and `per` have shape `(samples,)` or `(seeds, samples)`, the statistics of a corpus
    score one more axis, of theirs; `clusters` names each sample's. A `share` of one run without
    clusters gets a Wilson interval, everything else a bootstrap. Raises ValueError on an empty or
    non-finite array, on a share that is not 0 or 1, on numbers that are no statistics of the kind,
    and where `per` is missing or sums to zero.
    """
    top = checked(kind, scores, per)[0]
    if kind == "share" and len(top) == 1 and clusters is None:
        return _share(top[0], confidence)
    [boot] = bootstraps(kind, [(scores, per)], clusters=clusters, draws=draws, seed=seed)
    return _estimate(kind, boot, confidence)


def estimate_with_difference(
    kind: Kind,
    arm: Arm,
    base: Arm,
    *,
    clusters: Sequence[object] | None = None,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    seeds: tuple[SeedNames, SeedNames] = (None, None),
) -> tuple[Estimate, Difference]:
    """`estimate` of an arm and its `paired` difference to a base, from one bootstrap of both.

    Both have the same samples in the same order. Errors as for `paired`.
    """
    (scores, per), scores_b = arm, base[0]
    top = checked(kind, scores, per)[0]
    if kind == "share" and len(top) == 1 and clusters is None:
        return (
            _share(top[0], confidence),
            paired(kind, scores, scores_b, confidence=confidence, draws=draws, seed=seed),
        )
    a, b = bootstraps(kind, [arm, base], clusters=clusters, draws=draws, seed=seed, seeds=seeds)
    return _estimate(kind, a, confidence), _difference(kind, a, b, confidence)


def point_estimate(kind: Kind, scores: ArrayLike, per: ArrayLike | None = None) -> float:
    """The value without an interval; shapes and errors as for `estimate`."""
    sums = checked(kind, scores, per).sum(axis=2)
    return float(point_estimates(kind, sums.reshape(1, -1), sums.shape[1])[0].mean())


def paired(
    kind: Kind,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    per_a: ArrayLike | None = None,
    per_b: ArrayLike | None = None,
    *,
    clusters: Sequence[object] | None = None,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    seeds: tuple[SeedNames, SeedNames] = (None, None),
) -> Difference:
    """The difference a - b on the same samples in the same order.

    Shapes and errors as for `estimate`; the arms may have different numbers of seeds, but not of
    samples (ValueError). Where `seeds` names the same seeds for both, they are drawn jointly.
    Single runs of a `share` without clusters: `proportions.paired_shares`; everything else a
    paired bootstrap.
    """
    if kind == "share":
        (top_a, _), (top_b, _) = checked(kind, scores_a, None), checked(kind, scores_b, None)
        if len(top_a) == len(top_b) == 1 and clusters is None and top_a.shape == top_b.shape:
            shares = paired_shares(top_a[0], top_b[0], confidence)
            n = top_a.shape[1]
            return Difference(shares.delta, shares.ci_low, shares.ci_high, shares.p, n, shares.p)
    arms = [(scores_a, per_a), (scores_b, per_b)]
    a, b = bootstraps(kind, arms, clusters=clusters, draws=draws, seed=seed, seeds=seeds)
    return _difference(kind, a, b, confidence)


def bootstraps(
    kind: Kind,
    arms: Sequence[Arm],
    *,
    clusters: Sequence[object] | None = None,
    draws: int = 2000,
    seed: int = 0,
    seeds: Sequence[SeedNames] | None = None,
) -> list[Bootstrap]:
    """`bootstrapping.bootstrap` of all arms; those of a perplexity are of its logarithm."""
    if kind == "exp_ratio":
        return perplexity.bootstrap(arms, clusters=clusters, draws=draws, seed=seed, seeds=seeds)
    return bootstrap(kind, arms, clusters=clusters, draws=draws, seed=seed, seeds=seeds)


def _estimate(kind: Kind, boot: Bootstrap, confidence: float) -> Estimate:
    if kind == "exp_ratio":
        low, high = map(perplexity.exp, interval(boot, confidence))
        value, replicates = perplexity.exp(boot.value), perplexity.exp_all(boot.replicates)
    else:
        low, high = clipped(kind, interval(boot, confidence))
        value, replicates = boot.value, boot.replicates
    stderr = float(replicates.std(ddof=1)) if boot.units > 1 else math.nan
    return Estimate(value, stderr, low, high, boot.n)


def _difference(kind: Kind, a: Bootstrap, b: Bootstrap, confidence: float) -> Difference:
    change = difference(a, b)
    if kind == "exp_ratio":
        return Difference(*perplexity.subtract(a, b, confidence), p_value(change), a.n)
    return Difference(change.value, *interval(change, confidence), p_value(change), change.n)


def _share(scores: Floats, confidence: float) -> Estimate:
    n = len(scores)
    value = float(scores.mean())
    low, high = wilson(float(scores.sum()), n, confidence)
    return Estimate(value, math.sqrt(value * (1 - value) / n), low, high, n)
