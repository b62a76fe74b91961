"""lm-eval's aggregation functions as sums over samples, which a bootstrap can draw anew.

A record's figures are computed from the scores of its samples, by processes that do not import
lm-eval. So a task's metric is kept where its aggregation is a mean, a ratio of sums or the
exponential of one; any other is left out, with its reason and the value that lm-eval gives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.types import Bounds

Item = Any
"""What `process_results` gives for one metric of one question: a number or a tuple."""


@dataclass(frozen=True)
class Sums:
    """An aggregation as a figure of two sums over the samples."""

    kind: Literal["mean", "ratio", "exp_ratio"]
    parts: Callable[[Item], tuple[float, float]]
    """A sample's share of the numerator and of the denominator.

    Raises TypeError or ValueError on an item that the aggregation is not for."""
    bounds: Bounds | None = None
    """The range of the figure."""


def number(item: Item) -> float:
    """A Python or numpy number, or bool, as a float. Raises TypeError on anything else."""
    array = np.asarray(item)
    if array.ndim or array.dtype.kind not in "biuf":
        raise TypeError(f"a {type(item).__name__} is no number")
    return float(array)


def _mean(item: Item) -> tuple[float, float]:
    return number(item), 1.0


def _perplexity(item: Item) -> tuple[float, float]:
    """exp(-mean of the questions' log-likelihoods)."""
    return -number(item), 1.0


def _weighted_perplexity(item: Item) -> tuple[float, float]:
    """exp(-log-likelihoods / words or bytes)."""
    loglikelihood, weight = item
    return -number(loglikelihood), number(weight)


def _bits_per_byte(item: Item) -> tuple[float, float]:
    nats, weight = _weighted_perplexity(item)
    return nats / math.log(2), weight


def _f1(item: Item) -> tuple[float, float]:
    """2 TP / (2 TP + FP + FN) of class 1, scikit-learn's `f1_score` of two classes."""
    gold, predicted = (number(part) for part in item)
    if {gold, predicted} - {0.0, 1.0}:
        raise ValueError("F1 is of the two classes 0 and 1")
    return 2 * gold * predicted, gold + predicted


def _brier_score(item: Item) -> tuple[float, float]:
    """The squared distance between the choices' probabilities and the right choice's 1."""
    gold, probabilities = item
    chances = np.asarray(probabilities, float)
    return float(((chances - np.eye(len(chances))[int(gold)]) ** 2).sum()), 1.0


BY_NAME: Mapping[str, Sums] = {
    "mean": Sums("mean", _mean),
    "nanmean": Sums("mean", _mean),
    "perplexity": Sums("exp_ratio", _perplexity, (1.0, None)),
    "weighted_perplexity": Sums("exp_ratio", _weighted_perplexity, (1.0, None)),
    "bits_per_byte": Sums("ratio", _bits_per_byte, (0.0, None)),
    "f1": Sums("ratio", _f1, (0.0, 1.0)),
    "brier_score": Sums("mean", _brier_score, (0.0, 2.0)),
}
"""By the name under which lm-eval registers the aggregation."""
