"""Figures with their uncertainty, and paired differences between two models.

All resampling is the nonparametric bootstrap over samples (Efron & Tibshirani, An Introduction
to the Bootstrap, 1993, ch. 13, percentile intervals): samples are drawn with replacement, and
every figure is computed anew from what was drawn. Ratios (perplexity) resample numerator and
denominator together. Both sides of a difference see the same draw, so whatever makes a sample
hard for both cancels out. Draws depend on (number of samples, draws, seed) alone.

Scores may be one row per seed, `(seeds, samples)`: the figure is then the mean of the seeds'
figures on the same samples. Intervals tell the uncertainty of the samples; the spread between
seeds is not in them.

Limits: percentile intervals are too narrow below about 10 samples; one sample has none (NaN).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Bootstrap",
    "Difference",
    "Estimate",
    "Kind",
    "bootstrap",
    "estimate",
    "mcnemar",
    "paired",
    "subtract",
    "wilson",
]

Kind = Literal["mean", "share", "ratio", "exp_ratio"]
Floats = NDArray[np.float64]
Side = tuple[ArrayLike, "ArrayLike | None"]

_CELLS_PER_CHUNK = 1_000_000  # of the weight matrix: 8 MB at a time


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
    """A paired difference a - b over `n` samples; `p` is two-sided."""

    delta: float
    ci_low: float
    ci_high: float
    p: float
    """From the bootstrap: consistent with the interval."""
    n: int
    p_exact: float | None = None
    """Exact McNemar p where both sides are single runs of a `share`, else None."""


@dataclass(frozen=True)
class Bootstrap:
    """A figure and its bootstrap replicates, shape `(draws,)`."""

    value: float
    replicates: Floats
    n: int


def estimate(
    kind: Kind,
    scores: ArrayLike,
    per: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A figure of kind `kind` (see `types.Metric`) from per-sample scores.

    `scores` and `per` have shape `(samples,)` or `(seeds, samples)`. A `share` of one run gets a
    Wilson interval, everything else a bootstrap. Raises ValueError on an empty or non-finite
    array, on a share that is not 0 or 1, and where `per` is missing or sums to zero.
    """
    top, _ = _checked(kind, scores, per)
    if kind == "share" and len(top) == 1:
        return _share(top[0], confidence)
    [boot] = bootstrap(kind, [(scores, per)], draws=draws, seed=seed)
    low, high = _interval(boot, boot.replicates, confidence)
    stderr = float(boot.replicates.std(ddof=1)) if boot.n > 1 else math.nan
    return Estimate(boot.value, stderr, low, high, boot.n)


def paired(
    kind: Kind,
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    per_a: ArrayLike | None = None,
    per_b: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> Difference:
    """The difference a - b on the same samples in the same order, by a paired bootstrap.

    Shapes and errors as for `estimate`; the sides may have different numbers of seeds, but not of
    samples (ValueError).
    """
    a, b = bootstrap(kind, [(scores_a, per_a), (scores_b, per_b)], draws=draws, seed=seed)
    exact = None
    if kind == "share":
        (top_a, _), (top_b, _) = _checked(kind, scores_a, None), _checked(kind, scores_b, None)
        if len(top_a) == len(top_b) == 1:
            exact = mcnemar(top_a[0], top_b[0])
    return subtract(a, b, confidence=confidence, p_exact=exact)


def bootstrap(
    kind: Kind, sides: Sequence[Side], *, draws: int = 2000, seed: int = 0
) -> list[Bootstrap]:
    """Replicates of a figure for each `(scores, per)` in `sides`, all from the same draws.

    Raises ValueError as `estimate` does, and where the sides differ in their number of samples.
    """
    parts = [_checked(kind, scores, per) for scores, per in sides]
    if len({top.shape[1] for top, _ in parts}) != 1:
        counts = [top.shape[1] for top, _ in parts]
        raise ValueError(f"sides must have the same samples, got {counts} of them")
    n = parts[0][0].shape[1]
    columns = np.concatenate([row for top, bottom in parts for row in (top, bottom)])
    sums = _resampled_sums(columns, draws, seed)
    totals = columns.sum(axis=1)
    out, at = [], 0
    for top, _ in parts:
        width = 2 * len(top)
        value = float(_figure(kind, totals[None, at : at + width])[0])
        out.append(Bootstrap(value, _figure(kind, sums[:, at : at + width]), n))
        at += width
    return out


def subtract(
    a: Bootstrap, b: Bootstrap, *, confidence: float = 0.95, p_exact: float | None = None
) -> Difference:
    """a - b of two bootstraps made with the same draws on the same samples.

    p = 2 min(#{d <= 0} + 1, #{d >= 0} + 1) / (draws + 1), at most 1: the +1 keeps it above zero
    (Davison & Hinkley, Bootstrap Methods and their Application, 1997, eq. 4.11).
    """
    if a.n != b.n or a.replicates.shape != b.replicates.shape:
        raise ValueError("bootstraps of different samples or draws cannot be subtracted")
    replicates = a.replicates - b.replicates
    low, high = _interval(a, replicates, confidence)
    p = math.nan
    if a.n > 1:
        tail = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
        p = min(1.0, 2 * (tail + 1) / (len(replicates) + 1))
    return Difference(a.value - b.value, low, high, p, a.n, p_exact)


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a proportion (E. B. Wilson, JASA 22, 1927)."""
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    share = successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * share * (1 - share) / n + z2**2 / (4 * n**2)) / (1 + z2 / n)
    # rounding must not push the bounds past the proportion itself
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def mcnemar(scores_a: ArrayLike, scores_b: ArrayLike) -> float:
    """Two-sided exact p of paired 0/1 scores: a binomial test of the discordant pairs at 1/2.

    McNemar, Psychometrika 12, 1947, in its exact form. Binomial terms go through log-gamma, so
    that thousands of pairs do not overflow.
    """
    a, b = np.asarray(scores_a, float), np.asarray(scores_b, float)
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    n, fewer = only_a + only_b, min(only_a, only_b)
    if n == 0 or only_a == only_b:
        return 1.0
    log_terms = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(fewer + 1)
    )
    return min(1.0, 2 * math.fsum(math.exp(term) for term in log_terms))


def _share(scores: Floats, confidence: float) -> Estimate:
    n = len(scores)
    value = float(scores.mean())
    low, high = wilson(float(scores.sum()), n, confidence)
    return Estimate(value, math.sqrt(value * (1 - value) / n), low, high, n)


def _checked(kind: Kind, scores: ArrayLike, per: ArrayLike | None) -> tuple[Floats, Floats]:
    """Scores and denominators, each `(seeds, samples)`; a mean's denominators are ones."""
    top = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if top.ndim != 2 or top.size == 0:
        raise ValueError(f"scores must be (samples,) or (seeds, samples), got {np.shape(scores)}")
    if kind in ("mean", "share"):
        bottom = np.ones_like(top)
    elif per is None:
        raise ValueError(f"a {kind} needs `per`")
    else:
        bottom = np.atleast_2d(np.asarray(per, dtype=np.float64))
    if bottom.shape != top.shape:
        raise ValueError(f"scores {top.shape} and per {bottom.shape} differ in shape")
    if not (np.isfinite(top).all() and np.isfinite(bottom).all()):
        raise ValueError("scores must be finite: drop NaN and infinity first")
    if kind == "share" and not np.isin(top, (0.0, 1.0)).all():
        raise ValueError("a share needs scores that are 0 or 1; use kind 'mean'")
    if (bottom < 0).any() or (bottom.sum(axis=1) == 0).any():
        raise ValueError("`per` must not be negative and must not sum to zero")
    return top, bottom


def _resampled_sums(columns: Floats, draws: int, seed: int) -> Floats:
    """Sums of each column over each bootstrap draw: `(columns, samples)` -> `(draws, columns)`."""
    n = columns.shape[1]
    rng = np.random.default_rng(seed)
    chunk = max(1, _CELLS_PER_CHUNK // n)
    out = np.empty((draws, len(columns)))
    for start in range(0, draws, chunk):
        count = min(chunk, draws - start)
        picked = rng.integers(0, n, size=(count, n), dtype=np.int32)
        # how often each draw holds each sample, so that all columns share one matrix product
        picked += np.arange(count, dtype=np.int32)[:, None] * np.int32(n)
        weights = np.bincount(picked.ravel(), minlength=count * n).reshape(count, n)
        out[start : start + count] = weights.astype(np.float64) @ columns.T
    return out


def _figure(kind: Kind, sums: Floats) -> Floats:
    """The figure of each draw from its sums, numerators before denominators: `(draws,)`."""
    seeds = sums.shape[1] // 2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        figures = sums[:, :seeds] / sums[:, seeds:]
        if kind == "exp_ratio":
            figures = np.exp(figures)
    means: Floats = figures.mean(axis=1)
    return means


def _interval(boot: Bootstrap, replicates: Floats, confidence: float) -> tuple[float, float]:
    if boot.n < 2:
        return math.nan, math.nan
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(replicates, [tail, 1 - tail])
    return float(low), float(high)
