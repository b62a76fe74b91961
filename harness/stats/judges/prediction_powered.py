"""Means and paired differences from a few labels and many verdicts of the same suite.

Where people labelled a random part of a suite's own answers, the verdicts on all of them sharpen
what the labels say and no assumption about the judge is needed: errors that depend on the system,
its length or its wording are in the labels' difference from the verdicts (Angelopoulos et al.,
Prediction-powered inference, Science 382, 2023). The figure is

    mean(label - w verdict), of the labelled answers, + w mean(verdict), of all

with w the slope of labels on verdicts, which is the power tuning of PPI++ (Angelopoulos, Duchi &
Zrnic, arXiv 2311.01453) where verdicts are averaged over all answers instead of the
unlabelled ones, and of old the regression estimator of double sampling (W. G. Cochran, Sampling
Techniques, 1977, sec. 12.6). A judge that says nothing has w near 0: the labels alone count. One
that goes against the labels is not turned round: w is never negative.

The error is that of each sample's influence, so that two systems labelled and judged on the same
questions are compared as pairs, whichever of them are labelled. Residuals are enlarged for what w
took from them (HC2, MacKinnon & White, Journal of Econometrics 29, 1985). Labels of 0 and 1 that
hardly differ from the verdicts show too little spread, so some more is added that differ (`ADDED`,
in the manner of Bonett & Price, Statistics in Medicine 31, 2012). A single rate under 0/1 verdicts
is the sum of the share of good answers among passed and among failed ones (A. Tenenbein, JASA 65,
1970), which is the same figure, with their Wilson intervals put together (Zou & Donner, Statistics
in Medicine 27, 2008).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats.judges.correction import Corrected
from harness.stats.proportions import wilson
from harness.stats.student_t import t_quantile, t_two_sided

Floats = NDArray[np.floating[Any]]
FEWEST = 10
"""Labels: below these a slope and a spread are of chance, and the figure cannot be told."""
ADDED = {1: 1.0, 2: 0.5}
"""Squared residuals added to those of 0/1 labels, of one system and of the difference of two: the
least with which intervals of 30 to 50 labels held the truth in 93 % of draws and more, whatever the
judge (`benchmarks/judge_simulation.py`)."""


@dataclass(frozen=True)
class _Powered:
    """One system's figure and what each sample adds to it."""

    value: float
    raw: float
    tuning: float
    influence: Floats
    """(samples,); their root of summed squares over the samples is the standard error."""
    labelled: NDArray[np.bool_]
    binary: bool
    """Whether labels are 0 or 1."""


def powered_mean(
    verdicts: ArrayLike,
    labels: ArrayLike,
    *,
    clusters: Sequence[object] | None = None,
    limit: float = 0.0,
    confidence: float = 0.95,
) -> Corrected:
    """The mean label of a suite's answers, from `verdicts` on all and `labels` of some (else NaN).

    Both have shape `(samples,)`; labels may be 0/1 or levels, verdicts any number. Samples without
    a verdict must be left out before. `p` is of the mean being at `limit`. With fewer than
    `FEWEST` labels it cannot be told, and the interval is the range of a 0/1 label or unbounded.
    """
    verdict, label = _checked(verdicts, labels)
    problem = _too_few([label])
    if problem:
        return _unknown([verdict], [label], problem)
    one = _powered(verdict, label)
    if one.binary and clusters is None and np.isin(verdict, (0.0, 1.0)).all():
        return _double_sampling(verdict, label, one, limit, confidence)
    return _figure(one.value, one.raw, one.influence, [one], clusters, limit, confidence)


def powered_difference(
    verdicts_a: ArrayLike,
    labels_a: ArrayLike,
    verdicts_b: ArrayLike,
    labels_b: ArrayLike,
    *,
    clusters: Sequence[object] | None = None,
    limit: float = 0.0,
    confidence: float = 0.95,
) -> Corrected:
    """a - b of the mean labels of two systems' answers to the same samples in the same order.

    Arguments as for `powered_mean`; which answers are labelled may differ between the systems.
    Raises ValueError on different numbers of samples.
    """
    a, b = _checked(verdicts_a, labels_a), _checked(verdicts_b, labels_b)
    if a[0].shape != b[0].shape:
        raise ValueError(f"got {len(a[0])} and {len(b[0])} verdicts on the same samples")
    problem = _too_few([a[1], b[1]])
    if problem:
        return _unknown([a[0], b[0]], [a[1], b[1]], problem)
    first, second = _powered(*a), _powered(*b)
    influence = first.influence - second.influence
    return _figure(
        first.value - second.value,
        first.raw - second.raw,
        influence,
        [first, second],
        clusters,
        limit,
        confidence,
    )


def random_labels(verdicts: ArrayLike, labels: ArrayLike) -> float:
    """p of the labelled answers being a random part, as far as verdicts show it.

    A t test of the mean verdict on labelled answers against that on the others (B. L. Welch,
    Biometrika 34, 1947). A small p says that answers were picked for labelling by what they are
    like, and that the figure may be of that choice. NaN where either part is of one answer.
    """
    verdict, label = _checked(verdicts, labels)
    chosen = ~np.isnan(label)
    parts = [verdict[chosen], verdict[~chosen]]
    if min(map(len, parts)) < 2:
        return math.nan
    errors = [float(part.var(ddof=1)) / len(part) for part in parts]
    apart = float(parts[0].mean() - parts[1].mean())
    if not sum(errors):
        return 1.0 if apart == 0 else 0.0
    df = sum(errors) ** 2 / sum(
        error**2 / (len(part) - 1) for error, part in zip(errors, parts, strict=True)
    )
    return t_two_sided(apart / math.sqrt(sum(errors)), df)


def _checked(verdicts: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    verdict, label = np.asarray(verdicts, float), np.asarray(labels, float)
    if verdict.shape != label.shape or verdict.ndim != 1:
        raise ValueError(f"verdicts {verdict.shape} and labels {label.shape} differ in shape")
    if not np.isfinite(verdict).all():
        raise ValueError("verdicts must be finite: leave samples without one out first")
    return verdict, label


def _too_few(labels: Sequence[Floats]) -> str | None:
    fewest = min(int((~np.isnan(label)).sum()) for label in labels)
    return None if fewest >= FEWEST else f"{fewest} labels are fewer than {FEWEST}"


def _unknown(verdicts: Sequence[Floats], labels: Sequence[Floats], reason: str) -> Corrected:
    known = [label[~np.isnan(label)] for label in labels]
    shares = all(np.isin(label, (0.0, 1.0)).all() for label in known)
    low, high = (0.0, 1.0) if shares else (-math.inf, math.inf)
    if len(verdicts) == 2:
        low, high = -high, high
    means = [float(verdict.mean()) for verdict in verdicts]
    return Corrected(
        math.nan,
        math.nan,
        low,
        high,
        1.0,
        len(verdicts[0]),
        sum(map(len, known)),
        means[0] - sum(means[1:]),
        "random labels",
        reason,
    )


def _powered(verdict: Floats, label: Floats) -> _Powered:
    chosen = ~np.isnan(label)
    y, f = label[chosen], verdict[chosen]
    n, total = len(y), len(verdict)
    spread = float(((f - f.mean()) ** 2).sum())
    slope = float(((f - f.mean()) * (y - y.mean())).sum()) / spread if spread > 0 else 0.0
    slope = max(0.0, slope)
    leverage = 1 / n + ((f - f.mean()) ** 2 / spread if slope else 0.0)
    residual = y - slope * f
    influence = slope * (verdict - verdict.mean())
    enlarged = (residual - residual.mean()) / np.sqrt(np.maximum(1 - leverage, 1 / n))
    influence[chosen] += enlarged * (total / n)
    value = float(residual.mean()) + slope * float(verdict.mean())
    binary = bool(np.isin(y, (0.0, 1.0)).all())
    return _Powered(value, float(verdict.mean()), slope, influence, chosen, binary)


def _figure(
    value: float,
    raw: float,
    influence: Floats,
    systems: Sequence[_Powered],
    clusters: Sequence[object] | None,
    limit: float,
    confidence: float,
) -> Corrected:
    n = len(influence)
    labelled = np.logical_or.reduce([system.labelled for system in systems])
    of_labels = int(labelled.sum())
    if clusters is not None:
        if len(clusters) != n:
            raise ValueError(f"got {len(clusters)} clusters for {n} samples")
        names = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
        inverse = np.array([names[name] for name in clusters])
        influence = np.bincount(inverse, weights=influence).astype(np.float64)
        of_labels = len(set(inverse[labelled].tolist()))
    variance = float((influence**2).sum()) / n**2
    if all(system.binary for system in systems):
        variance += ADDED[len(systems)] / (of_labels + 2) ** 2
    stderr = math.sqrt(variance)
    df = max(1, of_labels - 2)
    half = t_quantile((1 + confidence) / 2, df) * stderr
    low, high = value - half, value + half
    if all(system.binary for system in systems):
        least, most = (0.0, 1.0) if len(systems) == 1 else (-1.0, 1.0)
        value = min(max(value, least), most)
        low, high = min(max(low, least), value), max(min(high, most), value)
    p = t_two_sided((value - limit) / stderr, df) if stderr else float(value == limit)
    tuning = float(np.mean([system.tuning for system in systems]))
    labels = sum(int(system.labelled.sum()) for system in systems)
    return Corrected(value, stderr, low, high, p, n, labels, raw, "random labels", tuning=tuning)


def _double_sampling(
    verdict: Floats, label: Floats, one: _Powered, limit: float, confidence: float
) -> Corrected:
    """A share of good answers: those among passed and those among failed ones, put together."""
    chosen = ~np.isnan(label)
    y, f = label[chosen], verdict[chosen]
    passed, n = float(verdict.mean()), len(verdict)
    if not one.tuning or f.min() == f.max():  # the verdicts tell nothing
        value = float(y.mean())
        low, high = wilson(float(y.sum()), len(y), confidence)
        return _share(value, (low, high), one, n, limit, confidence)
    parts = []
    for verdict_value, weight in ((1.0, passed), (0.0, 1 - passed)):
        own = y[f == verdict_value]
        parts.append((float(own.mean()), weight, *wilson(float(own.sum()), len(own), confidence)))
    slope = parts[0][0] - parts[1][0]
    parts.append((passed, slope, *wilson(float(verdict.sum()), n, confidence)))
    below = math.sqrt(sum((weight * (share - low)) ** 2 for share, weight, low, _ in parts))
    above = math.sqrt(sum((weight * (high - share)) ** 2 for share, weight, _, high in parts))
    value = passed * parts[0][0] + (1 - passed) * parts[1][0]
    return _share(value, (value - below, value + above), one, n, limit, confidence)


def _share(
    value: float,
    bounds: tuple[float, float],
    one: _Powered,
    n: int,
    limit: float,
    confidence: float,
) -> Corrected:
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    reach = (value - bounds[0]) if value > limit else (bounds[1] - value)
    p = 2 * NormalDist().cdf(-z * abs(value - limit) / reach) if reach else float(value == limit)
    low, high = max(0.0, bounds[0]), min(1.0, bounds[1])
    stderr = (bounds[1] - bounds[0]) / (2 * z)
    labels = int(one.labelled.sum())
    return Corrected(
        value, stderr, low, high, p, n, labels, one.raw, "random labels", tuning=one.tuning
    )
