"""How often a judge is wrong, from answers that people labelled good or bad.

Everything here is two means of verdicts: of the good answers (of verdicts that are 0 or 1, the
sensitivity) and of the bad ones (1 - specificity). Verdicts may be scores, too: what a correction
needs is how far good answers are rated above bad ones, and that is the difference of the means,
Youden's J where verdicts are 0 or 1 (W. J. Youden, Cancer 3, 1950). An interval of J recovers its
variance from those of its parts (R. G. Newcombe, Statistics in Medicine 17, 1998, method 10).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.stats.estimates import Estimate, estimate
from harness.stats.means import t_interval
from harness.stats.proportions import wilson

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Calibration:
    """What a judge says of answers labelled good, and of those labelled bad."""

    good: Estimate | None
    """The mean verdict on good answers; None without one."""
    bad: Estimate | None
    """The mean verdict on bad answers; None without one."""
    binary: bool = True
    """Whether verdicts are 0 or 1."""

    @property
    def labels(self) -> int:
        """Labelled answers that have a verdict."""
        return sum(part.n for part in (self.good, self.bad) if part is not None)

    @property
    def sensitivity(self) -> Estimate | None:
        """The share of good answers that the judge passes; None where verdicts are scores."""
        return self.good if self.binary else None

    @property
    def specificity(self) -> Estimate | None:
        """The share of bad answers that the judge fails; None where verdicts are scores."""
        if not self.binary or self.bad is None:
            return None
        bad = self.bad
        return Estimate(1 - bad.value, bad.stderr, 1 - bad.ci_high, 1 - bad.ci_low, bad.n)

    @property
    def youden(self) -> Estimate | None:
        """Good minus bad: sensitivity + specificity - 1. 0: verdicts say nothing; 1: no error."""
        if self.good is None or self.bad is None:
            return None
        good, bad = self.good, self.bad
        value = good.value - bad.value
        below = math.hypot(good.value - good.ci_low, bad.ci_high - bad.value)
        above = math.hypot(good.ci_high - good.value, bad.value - bad.ci_low)
        stderr = math.hypot(good.stderr, bad.stderr)
        return Estimate(value, stderr, value - below, value + above, self.labels)

    @property
    def problem(self) -> str | None:
        """Why nothing can be corrected with it; None where something can."""
        if self.good is None or self.bad is None:
            if not self.labels:
                return "no labelled answer has a verdict"
            only = "good" if self.bad is None else "bad"
            return f"all {self.labels} labelled answers are {only}: label some of the other kind"
        youden = self.youden
        assert youden is not None
        if youden.ci_low > 0:
            return None
        sort = "sensitivity + specificity - 1" if self.binary else "good minus bad answers"
        if math.isnan(youden.ci_low):
            return f"one label is too few of a kind: {sort} has no interval"
        return (
            f"the judge's verdicts say nothing for sure: {sort} is {youden.value:.2f} "
            f"[{youden.ci_low:.2f}, {youden.ci_high:.2f}]"
        )


def calibrate(
    verdicts: ArrayLike,
    labels: ArrayLike,
    *,
    clusters: Sequence[object] | None = None,
    confidence: float = 0.95,
) -> Calibration:
    """A judge's errors, from `verdicts` and 0/1 `labels` of the same answers, shape `(answers,)`.

    Answers without a verdict or label (NaN) are left out. Verdicts of 0 and 1 have Wilson's
    interval, scores the t interval, answers in `clusters` a bootstrap over these. Raises ValueError
    on a label that is neither 0 nor 1.
    """
    verdict, label = _paired(verdicts, labels)
    known = ~(np.isnan(verdict) | np.isnan(label))
    if not np.isin(label[known], (0.0, 1.0)).all():
        raise ValueError("labels must be 0 (bad) or 1 (good)")
    binary = bool(np.isin(verdict[known], (0.0, 1.0)).all())
    span = float(np.ptp(verdict[known])) if known.any() else 0.0

    def part(value: float) -> Estimate | None:
        chosen = known & (label == value)
        if not chosen.any():
            return None
        names = None
        if clusters is not None:
            names = [name for name, use in zip(clusters, chosen, strict=True) if use]
        return _mean(verdict[chosen], binary, names, confidence, span)

    return Calibration(part(1.0), part(0.0), binary)


def calibration_of_counts(
    true_positives: int,
    false_negatives: int,
    true_negatives: int,
    false_positives: int,
    confidence: float = 0.95,
) -> Calibration:
    """`calibrate` from the counts of a confusion matrix, for another confidence than it had."""
    return Calibration(
        _share(true_positives, true_positives + false_negatives, confidence),
        _share(false_positives, true_negatives + false_positives, confidence),
    )


@dataclass(frozen=True)
class EqualErrors:
    """A test of whether a judge errs alike on the answers of several systems."""

    p: float
    """Of the errors being equal; NaN where no kind of answer has labels of two systems."""
    statistic: float
    df: int
    systems: tuple[str, ...]


def equal_errors(verdicts: ArrayLike, labels: ArrayLike, systems: Sequence[str]) -> EqualErrors:
    """Whether good answers are rated alike whatever system gave them, and bad ones too.

    Chi-squared of the systems' mean verdicts in either kind of answer, added up (K. Pearson, with
    (n - 1) / n after I. Campbell, Statistics in Medicine 26, 2007). A small p says that one
    calibration must not correct the difference of these systems. A large one says little: few
    labels do not show a bias that is large enough to turn a comparison.
    """
    verdict, label = _paired(verdicts, labels)
    if len(systems) != len(verdict):
        raise ValueError(f"got {len(systems)} systems for {len(verdict)} answers")
    names = tuple(dict.fromkeys(systems))
    of_system = np.array([names.index(name) for name in systems], dtype=np.int64)
    known = ~(np.isnan(verdict) | np.isnan(label))
    statistic, df = 0.0, 0
    for value in (0.0, 1.0):
        chosen = known & (label == value)
        part, degrees = _between(verdict[chosen], of_system[chosen])
        statistic, df = statistic + part, df + degrees
    return EqualErrors(chi_squared_tail(statistic, df) if df else math.nan, statistic, df, names)


def _between(verdict: Floats, group: NDArray[np.int64]) -> tuple[float, int]:
    """Chi-squared of the groups' means being equal, and its degrees of freedom."""
    sizes = np.bincount(group) if len(group) else np.zeros(0)
    groups = int((sizes > 0).sum())
    if groups < 2 or np.ptp(verdict) == 0:
        return 0.0, max(0, groups - 1)
    sums = np.bincount(group, weights=verdict)
    means = sums[sizes > 0] / sizes[sizes > 0]
    apart = float((sizes[sizes > 0] * (means - verdict.mean()) ** 2).sum())
    return apart / float(verdict.var(ddof=1)), groups - 1


def chi_squared_tail(statistic: float, df: int) -> float:
    """The chance of a chi-squared of `df` degrees of freedom being larger.

    The finite sums of Abramowitz & Stegun 26.4.4 and 26.4.5.
    """
    if statistic <= 0:
        return 1.0
    root = math.sqrt(statistic)
    if df % 2 == 0:
        term = total = 1.0
        for i in range(1, df // 2):
            term *= statistic / (2 * i)
            total += term
        return math.exp(-statistic / 2) * total
    total, term = 0.0, root
    for i in range(1, (df - 1) // 2 + 1):
        total += term
        term *= statistic / (2 * i + 1)
    density = math.exp(-statistic / 2) / math.sqrt(2 * math.pi)
    return math.erfc(root / math.sqrt(2)) + 2 * density * total


def _paired(verdicts: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    verdict, label = np.asarray(verdicts, float), np.asarray(labels, float)
    if verdict.shape != label.shape or verdict.ndim != 1:
        raise ValueError(f"verdicts {verdict.shape} and labels {label.shape} differ in shape")
    return verdict, label


def _mean(
    verdict: Floats,
    binary: bool,
    clusters: Sequence[object] | None,
    confidence: float,
    span: float,
) -> Estimate:
    """Scores that all agree are as sure as a share without exception, over the `span` of all."""
    if binary and clusters is None:
        counted = _share(int(verdict.sum()), len(verdict), confidence)
        assert counted is not None
        return counted
    n, value = len(verdict), float(verdict.mean())
    if not binary and n > 1 and np.ptp(verdict) == 0:
        reach = span * wilson(0, n, confidence)[1]
        return Estimate(value, 0.0, value - reach, value + reach, n)
    if clusters is not None:
        kind: Literal["share", "mean"] = "share" if binary else "mean"
        return estimate(kind, verdict, clusters=clusters, confidence=confidence)
    low, high = t_interval(verdict, confidence)
    stderr = float(verdict.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(value, stderr, low, high, n)


def _share(hits: int, n: int, confidence: float) -> Estimate | None:
    if not n:
        return None
    share = hits / n
    return Estimate(share, math.sqrt(share * (1 - share) / n), *wilson(hits, n, confidence), n)
