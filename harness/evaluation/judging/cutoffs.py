"""Where a judge's scores are cut: into right and wrong answers, and into wins and ties.

A cut that is fitted on the answers which it is then counted on flatters the judge. `cross_fitted`
cuts each fold where the others say, so that what is counted was never fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["FOLDS", "best_margin", "best_threshold", "cross_fitted", "outcome"]

Floats = NDArray[np.floating[Any]]
Fit = Callable[[Floats, NDArray[Any]], float]

FOLDS = 5


def cross_fitted(
    fit: Fit, values: ArrayLike, labels: Sequence[object], groups: Sequence[int]
) -> Floats:
    """A cut for each value, fitted on the values of other groups; shape `(values,)`.

    Group g is in fold g modulo `FOLDS`, so that both answers of a pair fall together.
    """
    value, label = np.asarray(values, float), np.asarray(labels, object)
    fold = np.asarray(groups) % FOLDS
    cuts = np.full(len(value), math.nan)
    for one in np.unique(fold):
        cuts[fold == one] = fit(value[fold != one], label[fold != one])
    return cuts


def best_threshold(scores: Floats, right: NDArray[Any]) -> float:
    """The score from which answers pass, at the greatest sensitivity + specificity - 1.

    Between two scores that were given; of equally good ones the middle one. `right` is True or
    False, None where it is not known. NaN without answers of both kinds.
    """
    known = ~np.isnan(scores) & np.array([flag is not None for flag in right], bool)
    score, good = scores[known], right[known].astype(bool)
    if not good.any() or good.all():
        return math.nan
    order = np.argsort(score, kind="stable")
    score, good = score[order], good[order]
    # with a cut before place i the first i answers fail
    failed_bad = np.concatenate([[0], np.cumsum(~good)]) / (~good).sum()
    failed_good = np.concatenate([[0], np.cumsum(good)]) / good.sum()
    possible = np.concatenate([[True], score[1:] > score[:-1], [True]])
    youden = np.where(possible, failed_bad - failed_good, -1.0)
    best = np.flatnonzero(youden >= youden.max() - 1e-12)
    at = int(best[len(best) // 2])
    ends = np.concatenate([[score[0]], score, [np.nextafter(score[-1], math.inf)]])
    if at == len(score):
        return float(ends[-1])
    return float(score[0]) if at == 0 else float((ends[at] + ends[at + 1]) / 2)


def best_margin(differences: Floats, labels: NDArray[Any]) -> float:
    """How far two scores must be apart for a win, at the greatest kappa with `labels`.

    `labels` are `a`, `b`, `tie` or None; `differences` are of a's score minus b's. 0 where no
    label is a tie.
    """
    known = ~np.isnan(differences) & np.array([label is not None for label in labels], bool)
    apart, label = differences[known], labels[known]
    if not len(apart) or not (label == "tie").any():
        return 0.0
    candidates = np.unique(np.quantile(np.abs(apart), np.linspace(0.0, 0.8, 33)))
    found = [_kappa(outcome(apart, float(margin)), list(label)) for margin in candidates]
    return float(candidates[int(np.argmax(found))])


def outcome(differences: ArrayLike, margins: ArrayLike) -> list[str | None]:
    """`a`, `b` or `tie` by a difference of scores; None where there is none (NaN)."""
    apart = np.asarray(differences, float)
    least = np.broadcast_to(np.asarray(margins, float), apart.shape)
    return [
        None if math.isnan(x) else "a" if x > margin else "b" if x < -margin else "tie"
        for x, margin in zip(apart.tolist(), least.tolist(), strict=True)
    ]


def _kappa(verdicts: Sequence[object], labels: Sequence[object]) -> float:
    """Cohen's kappa without an interval, for the comparison of cuts alone."""
    names = sorted({*map(str, verdicts), *map(str, labels)})
    table = np.zeros((len(names), len(names)))
    for verdict, label in zip(verdicts, labels, strict=True):
        table[names.index(str(verdict)), names.index(str(label))] += 1 / len(labels)
    chance = float(table.sum(axis=0) @ table.sum(axis=1))
    return 0.0 if chance > 1 - 1e-12 else float((np.trace(table) - chance) / (1 - chance))
