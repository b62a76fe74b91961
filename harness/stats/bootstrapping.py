"""The bootstrap over samples or clusters, and over seeds.

An arm is one of the compared models: its scores and, of a ratio, their denominators. All resampling
is the nonparametric bootstrap over samples (Efron & Tibshirani, An Introduction to the Bootstrap,
1993, ch. 13): samples are drawn with replacement, and every figure is computed anew from what was
drawn. Ratios (perplexity) resample numerator and denominator together, scores of a corpus (BLEU)
all their sufficient statistics. Both arms of a difference
see the same draw, so whatever makes a sample hard for both cancels out. Where samples come in
clusters, whole clusters are drawn. Draws depend on (number of samples or clusters, draws, seed)
alone.

Percentile intervals are too narrow for few samples. An interval here is the wider, at each end, of
two that are corrected for it: the expanded percentile interval (Hesterberg, What teachers should
know about the bootstrap, The American Statistician 69, 2015, sec. 4.3) and the t interval with the
bootstrap's standard error. p is the larger of the two that belong to them.

Scores may be one row per seed, `(seeds, samples)`: the figure is then the mean of the seeds'
figures on the same samples, and seeds are a second level: their spread is in the interval, with
the degrees of freedom that few seeds leave (`_degrees`). One seed does not show it.
What the answers to single samples add to the spread of the seeds' figures is in the draws of
samples already and is taken out of it: the components of variance of a two-way layout without
replication (Searle, Casella & McCulloch, Variance Components, 1992, ch. 4). Arms that were trained
with the same seeds had the same rows in the same order: the seeds of their difference are drawn
jointly, and its spread is that of the differences of each seed. Two such seeds are too few to
trust a spread that happens to be small: the wider of joint and independent draws holds.

Samples that all agree have no spread to resample, which is no certainty: a share is never surer
than the score interval is of as many samples without exception (Wilson, JASA 22, 1927; of a
difference, Tango, Statistics in Medicine 17, 1998): z^2 / (n + z^2) to either side.

One sample (or cluster) has no interval (NaN).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats import corpus_scores
from harness.stats.corpus_scores import Floats as Floats
from harness.stats.student_t import rising_root, t_quantile, t_two_sided

Kind = Literal["mean", "share", "ratio", "exp_ratio", "corpus_bleu", "corpus_chrf"]
Arm = tuple[ArrayLike, "ArrayLike | None"]
Between = tuple[tuple[float, int], ...]
SeedNames = Sequence[object] | None
"""Which seeds the rows of an arm are of; None where that is not known."""

_WEIGHTS_PER_CHUNK = 2_000_000  # of the resampling matrix: 16 MB at a time
_MAX_CACHED_WEIGHTS = 32_000_000  # a byte each
_MAX_CACHED_FLOAT_WEIGHTS = 1_000_000  # 8 MB; of at most MANY units
ROUNDING = 1e-12
"""Differences below this part of a figure are of its arithmetic."""
MANY = 4000
"""Units above which their counts in a draw are taken as independent (Poisson)."""


@dataclass(frozen=True)
class SeedLevel:
    """What an arm's draws of seeds are made from."""

    replicates: Floats
    """The figure of each seed in each draw of samples, `(draws, seeds)`."""
    figures: Floats
    """The figure of each seed, `(seeds,)`."""
    names: tuple[object, ...] | None
    """Which seeds these are; None where that is not known."""
    seed: int
    """Of the draws."""


@dataclass(frozen=True)
class Bootstrap:
    """A figure and its bootstrap replicates, shape `(draws,)`."""

    value: float
    replicates: Floats
    n: int
    units: int
    """What was drawn: samples, or clusters of them."""
    between_seeds: Between = ()
    """(variance of the mean over seeds, degrees of freedom), for each arm with several seeds."""
    share_unit: float | None = None
    """Of a share, or what follows from shares: how much all units together are. None: no share,
    or a difference of shares in which some units differ."""
    seeds: SeedLevel | None = None
    """Of an arm with several seeds."""


def bootstrap(
    kind: Kind,
    arms: Sequence[Arm],
    *,
    clusters: Sequence[object] | None = None,
    draws: int = 2000,
    seed: int = 0,
    seeds: Sequence[SeedNames] | None = None,
) -> list[Bootstrap]:
    """Replicates of a figure for each `(scores, per)` in `arms`, all from the same draws.

    `seeds` names the seeds of each arm, in the order of its rows. Raises ValueError as
    `estimates.estimate` does, where the arms differ in their number of samples, and where an arm
    has more or fewer seeds than names.
    """
    parts = [checked(kind, scores, per) for scores, per in arms]
    counts = [part.shape[2] for part in parts]
    if len(set(counts)) != 1:
        raise ValueError(f"arms must have the same samples, got {counts} of them")
    n = counts[0]
    columns = np.concatenate([part.reshape(-1, n) for part in parts])
    if clusters is not None:
        columns = by_cluster(columns, clusters)
    sums = _resampled_sums(columns, draws, seed)
    totals = columns.sum(axis=1)[None]
    out, at = [], 0
    for names, (components, runs, _) in zip(
        seeds or [None] * len(parts), (part.shape for part in parts), strict=True
    ):
        part = slice(at, at + components * runs)
        if names is not None and len(names) != runs:
            raise ValueError(f"got {len(names)} names for {runs} seeds")
        of_seeds = point_estimates(kind, totals[:, part], runs)[0]
        known = None if names is None else tuple(names)
        level = SeedLevel(point_estimates(kind, sums[:, part], runs), of_seeds, known, seed)
        unit = 1.0 if kind == "share" else None
        out.append(_arm(float(of_seeds.mean()), level, n, columns.shape[1], unit))
        at = part.stop
    return out


def _arm(value: float, level: SeedLevel, n: int, units: int, unit: float | None) -> Bootstrap:
    if len(level.figures) == 1:
        return Bootstrap(value, level.replicates[:, 0], n, units, (), unit)
    weights, between = _seed_weights(level, units, stream=0)
    replicates = (level.replicates * weights).sum(axis=1)
    return Bootstrap(value, replicates, n, units, (between,), unit, level)


def difference(a: Bootstrap, b: Bootstrap) -> Bootstrap:
    """The bootstrap of a - b, of two made with the same draws on the same samples."""
    a, b, between = together(a, b)
    value = float(rounded_difference(a.value, b.value))
    replicates = rounded_difference(a.replicates, b.replicates)
    # where units differ their spread says how sure the difference is
    unit = a.share_unit if np.ptp(replicates) <= ROUNDING else None
    return Bootstrap(value, replicates, a.n, a.units, between, unit)


def together(
    a: Bootstrap, b: Bootstrap, scales: tuple[float, float] = (1.0, 1.0)
) -> tuple[Bootstrap, Bootstrap, Between]:
    """Two arms whose seeds are drawn as their difference asks for, and what seeds add to it.

    Jointly where both have the same seeds, else independently. The difference is that of the
    arms times their `scales`. Raises ValueError on bootstraps of different samples or draws.
    """
    if (a.n, a.units) != (b.n, b.units) or a.replicates.shape != b.replicates.shape:
        raise ValueError("bootstraps of different samples or draws cannot be subtracted")
    apart = _apart(a, b, scales)
    if a.seeds is None or b.seeds is None or not _same_seeds(a.seeds, b.seeds):
        return apart
    jointly = _jointly(a, a.seeds, b, b.seeds, scales)
    if len(a.seeds.figures) > 2:
        return jointly
    return max(apart, jointly, key=lambda parts: _reach(parts, scales))


def _same_seeds(a: SeedLevel, b: SeedLevel) -> bool:
    return a.names is not None and a.names == b.names and a.seed == b.seed


def _apart(
    a: Bootstrap, b: Bootstrap, scales: tuple[float, float]
) -> tuple[Bootstrap, Bootstrap, Between]:
    if b.seeds is not None:
        b = _redrawn(b, b.seeds, _seed_weights(b.seeds, b.units, stream=1)[0])
    parts = ((a.between_seeds, scales[0]), (b.between_seeds, scales[1]))
    return a, b, tuple((v * scale**2, df) for between, scale in parts for v, df in between)


def _jointly(
    a: Bootstrap, of_a: SeedLevel, b: Bootstrap, of_b: SeedLevel, scales: tuple[float, float]
) -> tuple[Bootstrap, Bootstrap, Between]:
    level = SeedLevel(
        scales[0] * of_a.replicates - scales[1] * of_b.replicates,
        scales[0] * of_a.figures - scales[1] * of_b.figures,
        of_a.names,
        of_a.seed,
    )
    weights, between = _seed_weights(level, a.units, stream=0)
    return _redrawn(a, of_a, weights), _redrawn(b, of_b, weights), (between,)


def _redrawn(boot: Bootstrap, level: SeedLevel, weights: Floats) -> Bootstrap:
    shift = boot.value - float(level.figures.mean())
    return replace(boot, replicates=(level.replicates * weights).sum(axis=1) + shift)


def _reach(parts: tuple[Bootstrap, Bootstrap, Between], scales: tuple[float, float]) -> float:
    """How far an interval of the difference goes, to compare two."""
    a, b, between = parts
    replicates = scales[0] * a.replicates - scales[1] * b.replicates
    boot = Bootstrap(0.0, replicates, a.n, a.units, between)
    return t_quantile(0.975, _degrees(boot)) * float(replicates.std()) if a.units > 1 else 0.0


def rounded_difference(a: float | Floats, b: float | Floats) -> Floats:
    """a - b, zero where only rounding separates the two."""
    raw = a - b
    return np.where(np.abs(raw) <= ROUNDING * np.maximum(np.abs(a), np.abs(b)), 0.0, raw)


def relative(a: Bootstrap, b: Bootstrap) -> Bootstrap:
    """The bootstrap of a / b - 1, of two made with the same draws on the same samples."""
    a, b, between = together(a, b, (1 / b.value, a.value / b.value**2))
    value, replicates = a.value / b.value - 1, a.replicates / b.replicates - 1
    unit = a.share_unit / b.value if a.share_unit and np.ptp(replicates) <= ROUNDING else None
    return Bootstrap(value, replicates, a.n, a.units, between, unit)


def shifted(boot: Bootstrap, by: float) -> Bootstrap:
    """The bootstrap of a figure plus a constant."""
    return replace(boot, value=boot.value + by, replicates=boot.replicates + by)


def interval(boot: Bootstrap, confidence: float) -> tuple[float, float]:
    """The wider, at each end, of the expanded percentile and the t interval; NaN for one unit."""
    if boot.units < 2:
        return math.nan, math.nan
    t, inflation = inflated_t(boot, confidence)
    low, high = expanded_percentiles(boot.replicates, t, inflation)
    half = max(
        t * inflation * float(boot.replicates.std(ddof=1)), minimum_half_width(boot, confidence)
    )
    return min(low, boot.value - half), max(high, boot.value + half)


def clipped(kind: Kind, bounds: tuple[float, float]) -> tuple[float, float]:
    """Bounds of a share from 0 to 1; of anything else as they are."""
    low, high = bounds
    return (max(low, 0.0), min(high, 1.0)) if kind == "share" else bounds


def minimum_half_width(boot: Bootstrap, confidence: float) -> float:
    """The smallest half-width of a share's interval: that of units that all agree."""
    if boot.share_unit is None:
        return 0.0
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    return boot.share_unit * z2 / (boot.units + z2)


def _minimum_p(boot: Bootstrap) -> float:
    """The smallest p: the one that belongs to `minimum_half_width`."""
    if boot.share_unit is None:
        return 0.0
    part = min(abs(boot.value) / boot.share_unit, 1.0)
    if part == 1.0:
        return 0.0
    return 2 * NormalDist().cdf(-math.sqrt(boot.units * part / (1 - part)))


def inflated_t(boot: Bootstrap, confidence: float) -> tuple[float, float]:
    """The quantile of t, and the factor by which the spread of draws of few units is too small."""
    inflation = math.sqrt(boot.units / (boot.units - 1))
    return t_quantile((1 + confidence) / 2, _degrees(boot)), inflation


def expanded_percentiles(replicates: Floats, t: float, inflation: float) -> tuple[float, float]:
    """Percentiles, as far out as t is beyond the normal distribution."""
    tail = NormalDist().cdf(-t * inflation)
    with np.errstate(invalid="ignore"):
        low, high = np.quantile(replicates, [tail, 1 - tail])
    return float(low), float(high)


def p_value(boot: Bootstrap, *, resolved: bool = True) -> float:
    """Two-sided p of the figure being zero: the larger of those of the interval's two parts.

    The share of replicates beyond zero counts one more, so that p is never zero (Davison &
    Hinkley, Bootstrap Methods and their Application, 1997, eq. 4.11); where none is beyond, the
    draws cannot resolve a smaller one, and with `resolved` False the t interval's alone counts.
    """
    if boot.units < 2:
        return math.nan
    replicates = boot.replicates
    beyond = min(int((replicates <= 0).sum()), int((replicates >= 0).sum()))
    tail = (beyond + 1) / (len(replicates) + 1)
    if tail >= 0.5:
        return 1.0
    inflation, df = math.sqrt(boot.units / (boot.units - 1)), _degrees(boot)
    stderr = inflation * float(replicates.std(ddof=1))
    by_t = t_two_sided(boot.value / stderr, df) if stderr else 0.0
    by_share = 2 * tail if resolved else 0.0
    if beyond:
        by_share = t_two_sided(NormalDist().inv_cdf(tail) / inflation, df)
    return max(by_t, by_share, _minimum_p(boot))


def _degrees(boot: Bootstrap) -> float:
    """Degrees of freedom of its standard error.

    Where seeds are a level, those at which t is as far out at 95 % as W. G. Howe's limits are
    (JASA 69, 1974): the root of the summed squares of each component's t times its error. After
    Satterthwaite they would be too many wherever a few seeds happen to lie close together.
    """
    seeds = sum(variance for variance, _ in boot.between_seeds)
    samples = boot.units - 1
    if seeds <= 0:
        return samples
    of_samples = max(0.0, float(boot.replicates.var(ddof=1)) - seeds)
    parts = [(of_samples, samples), *boot.between_seeds]
    squares = sum(variance * t_quantile(0.975, df) ** 2 for variance, df in parts)
    t = math.sqrt(squares / (of_samples + seeds))
    few, many = min(df for _, df in parts), max(df for _, df in parts)
    # the chance beyond t is nearly straight in 1 / df
    return 1 / rising_root(lambda x: t_two_sided(t, 1 / x) - 0.05, 1 / many, 1 / few)


def checked(kind: Kind, scores: ArrayLike, per: ArrayLike | None) -> Floats:
    """What is summed over samples for a figure: `(components, seeds, samples)`.

    Two components are scores and denominators, a mean's being ones; of a corpus score they are its
    sufficient statistics. Raises ValueError as `estimates.estimate` does.
    """
    if kind in corpus_scores.KINDS:
        return corpus_scores.checked(kind, scores)
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
    return np.stack([top, bottom])


def by_cluster(columns: Floats, clusters: Sequence[object]) -> Floats:
    """Sums over each cluster: `(columns, samples)` -> `(columns, clusters)`."""
    if len(clusters) != columns.shape[1]:
        raise ValueError(f"got {len(clusters)} clusters for {columns.shape[1]} samples")
    names = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    inverse = np.fromiter((names[name] for name in clusters), int, len(clusters))
    return np.stack([np.bincount(inverse, weights=column) for column in columns])


def _resampled_sums(columns: Floats, draws: int, seed: int) -> Floats:
    """Sums of each column over each bootstrap draw: `(columns, units)` -> `(draws, columns)`."""
    units = columns.shape[1]
    distinct: dict[bytes, int] = {}
    positions = [distinct.setdefault(column.tobytes(), len(distinct)) for column in columns]
    distinct_columns = columns[[positions.index(i) for i in range(len(distinct))]].T
    if units > MANY:  # to 1e-6 of a figure whose own error is a thousand times that
        distinct_columns = distinct_columns.astype(np.float32)
    if units * draws <= _MAX_CACHED_FLOAT_WEIGHTS:
        sums = [part @ distinct_columns for part in _cached_float_weights(units, draws, seed)]
    else:
        weights = _cached_weights if units * draws <= _MAX_CACHED_WEIGHTS else _weights
        sums = [
            part.astype(distinct_columns.dtype) @ distinct_columns
            for part in weights(units, draws, seed)
        ]
    return np.concatenate(sums).astype(np.float64)[:, positions]


@lru_cache(maxsize=4)
def _cached_weights(units: int, draws: int, seed: int) -> tuple[NDArray[np.uint8], ...]:
    """Weights that are used again, by the other metrics of a suite."""
    return tuple(_weights(units, draws, seed))


@lru_cache(maxsize=8)
def _cached_float_weights(units: int, draws: int, seed: int) -> tuple[Floats, ...]:
    """Weights of few units as floats: the conversion takes longer than the product."""
    return tuple(part.astype(np.float64) for part in _weights(units, draws, seed))


def _weights(units: int, draws: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """How often each draw holds each unit, `(part of the draws, units)`."""
    rng = np.random.Generator(np.random.SFC64(seed))
    chunk = max(1, _WEIGHTS_PER_CHUNK // units)
    for start in range(0, draws, chunk):
        count = min(chunk, draws - start)
        yield _poisson(rng, count, units) if units > MANY else _multinomial(rng, count, units)


def _multinomial(rng: np.random.Generator, count: int, units: int) -> NDArray[np.uint8]:
    picked = rng.integers(0, units, size=(count, units), dtype=np.int32)
    picked += np.arange(count, dtype=np.int32)[:, None] * np.int32(units)
    counts = np.bincount(picked.ravel(), minlength=count * units)
    return counts.reshape(count, units).astype(np.uint8)


def _poisson(rng: np.random.Generator, count: int, units: int) -> NDArray[np.uint8]:
    """Counts that are independent Poisson(1), the limit of the multinomial for many units.

    Chamandy et al., Estimating uncertainty for massive data streams, Google, 2012. Several times
    faster. Figures are ratios of sums, so the draw's size cancels out.
    """
    # four numbers of 16 bits in one: several times faster than `rng.bytes`
    raw = rng.bit_generator.random_raw(-(-count * units // 4))
    random = raw.view(np.uint16)[: count * units]
    # `clip` spares a check of the indices, of which all are in the table
    return _poisson_table().take(random, mode="clip").reshape(count, units)


@lru_cache(maxsize=1)
def _poisson_table() -> NDArray[np.uint8]:
    """A Poisson(1) count for each of 65,536 equal steps of probability."""
    cumulative = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)])
    steps = (np.arange(65536) + 0.5) / 65536
    return np.searchsorted(cumulative, steps).astype(np.uint8)


def point_estimates(kind: Kind, sums: Floats, seeds: int) -> Floats:
    """The figure of each seed, `(draws, seeds)`, from the sums `(draws, components * seeds)`."""
    parts = sums.reshape(len(sums), -1, seeds)
    if kind in corpus_scores.KINDS:
        return corpus_scores.SCORES[kind](np.moveaxis(parts, 1, -1))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        tops, bottoms = parts[:, 0], parts[:, 1]
        # a draw that holds nothing to count: 0, as scikit-learn's F1
        estimates: Floats = np.where((tops == 0) & (bottoms == 0), 0.0, tops / bottoms)
        return np.exp(estimates) if kind == "exp_ratio" else estimates


def _seed_weights(level: SeedLevel, units: int, *, stream: int) -> tuple[Floats, tuple[float, int]]:
    """The weight of each seed in each draw, `(draws, seeds)`, and (variance, df) that they add."""
    draws, seeds = level.replicates.shape
    total = float(level.figures.var(ddof=1))
    own = beyond_answers(total, _of_answers(level.replicates, units), seeds - 1)
    spread = math.sqrt(own / total) if total > 0 else 0.0
    weights = 1 / seeds + spread * _deviations(draws, seeds, level.seed, stream)
    return weights, (own / seeds, seeds - 1)


def beyond_answers(variance: float, of_answers: float, df: int) -> float:
    """What a variance with `df` degrees of freedom has beyond that of single answers.

    Not the expected variance of answers is taken off but its median, (1 - 2 / (9 df))^3 times that
    (Wilson & Hilferty, PNAS 17, 1931): few seeds lie closer together than on average more often
    than not, and the seeds' own part would be thought zero too often.
    """
    return max(0.0, variance - (1 - 2 / (9 * df)) ** 3 * of_answers)


def _of_answers(replicates: Floats, units: int) -> float:
    """The variance of seeds' figures that is of single answers: draws of samples show it."""
    seeds = replicates.shape[1]
    apart = replicates - replicates.mean(axis=1, keepdims=True)
    variance = float(apart.var(axis=0, ddof=1).sum()) / (seeds - 1)
    return variance * units / (units - 1) if units > 1 else 0.0


@lru_cache(maxsize=8)
def _deviations(draws: int, seeds: int, seed: int, stream: int) -> Floats:
    """How far the weight of each drawn seed is from 1 / seeds; kept for the next metric.

    Draws of few seeds vary too little, by (seeds - 1) / seeds: that is made up for.
    """
    rng = np.random.Generator(np.random.SFC64([seed, stream, seeds]))
    drawn = rng.multinomial(seeds, [1 / seeds] * seeds, size=draws) / seeds
    deviations: Floats = math.sqrt(seeds / (seeds - 1)) * (drawn - 1 / seeds)
    return deviations
