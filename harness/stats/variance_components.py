"""Variance components of a figure: of its samples, of its trainings, and of both together.

A sample's value under one seed is y[q, s] = mean + Q[q] + S[s] + E[q, s]: samples are drawn at
random from those that could be asked, seeds from all trainings, and E is what a training changes
on single samples (and what a repeated answer would). The variance of the mean over n samples and
S seeds is then

    samples / n + training / S + sample_by_seed / (n S).

The components are those of a two-way layout without replication, by the method of moments: mean
squares set equal to their expectations (Searle, Casella & McCulloch, Variance Components, 1992,
ch. 4), as `bootstrapping` has them too. Ratios, perplexities (their logarithm) and corpus scores
are made linear first, and samples that hang together are one unit, their cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from harness.stats import bootstrapping, corpus_scores
from harness.stats.bootstrapping import Floats, Kind


@dataclass(frozen=True)
class Components:
    """Variances of a figure, in its squared unit; `training` is below zero where chance has it."""

    samples: float
    """Between units. Of one seed it holds `sample_by_seed` too, which cannot be told apart."""
    training: float | None
    """Between seeds; None where there is one: unknown, which is not zero."""
    sample_by_seed: float | None
    """Of single units under single seeds; None where there is one seed."""

    @property
    def split(self) -> bool:
        """Whether there were the seeds to split it."""
        return self.training is not None

    def truncated(self) -> Components:
        """What is below zero set to it."""
        training, both = self.training, self.sample_by_seed
        return Components(
            max(0.0, self.samples),
            None if training is None else max(0.0, training),
            None if both is None else max(0.0, both),
        )

    def parts(self, units: float, seeds: int) -> tuple[float, float, float]:
        """What samples, training and both add to the variance of a mean; unknown ones nothing."""
        own = self.truncated()
        both = (own.sample_by_seed or 0.0) / (units * seeds)
        return own.samples / units, (own.training or 0.0) / seeds, both


def unit_values(
    kind: Kind,
    scores: ArrayLike,
    per: ArrayLike | None = None,
    *,
    clusters: Sequence[object] | None = None,
) -> Floats:
    """Values, `(seeds, units)`, whose mean over units is each seed's figure.

    Of a perplexity the figure is its logarithm. A ratio R = sum x / sum y has R + (x - R y) / mean
    y, whose spread is that of R to the first order; a corpus score its jackknife's pseudo-values
    (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, sec. 11.5). Shapes and errors are
    those of `estimates.estimate`.
    """
    parts = bootstrapping.checked("ratio" if kind == "exp_ratio" else kind, scores, per)
    if clusters is not None:
        parts = np.stack([bootstrapping.by_cluster(part, clusters) for part in parts])
    if kind in corpus_scores.KINDS:
        return _pseudo_values(corpus_scores.SCORES[kind], parts)
    top, bottom = parts
    figures = (top.sum(axis=1) / bottom.sum(axis=1))[:, None]
    values: Floats = figures + (top - figures * bottom) / bottom.mean(axis=1, keepdims=True)
    return values


def _pseudo_values(score: Callable[[Floats], Floats], parts: Floats) -> Floats:
    """Of a score of sums, from `(components, seeds, units)`: how it changes without each unit."""
    sums, units = parts.sum(axis=2, keepdims=True), parts.shape[2]
    whole, without = (score(np.moveaxis(each, 0, -1)) for each in (sums, sums - parts))
    values: Floats = whole + (units - 1) * (without.mean(axis=1, keepdims=True) - without)
    return values


def components(values: Floats) -> Components:
    """The unbiased estimates from values `(seeds, units)` of at least two units.

    E[MS samples] = sample_by_seed + S samples, E[MS seeds] = sample_by_seed + n training and
    E[MS residual] = sample_by_seed. Raises ValueError for one unit.
    """
    seeds, units = values.shape
    if units < 2:
        raise ValueError("one unit has no spread")
    of_units, of_seeds = values.mean(axis=0), values.mean(axis=1)
    if seeds == 1:
        return Components(float(of_units.var(ddof=1)), None, None)
    residuals = values - of_units - of_seeds[:, None] + values.mean()
    both = float((residuals**2).sum()) / ((seeds - 1) * (units - 1))
    return Components(
        float(of_units.var(ddof=1)) - both / seeds,
        float(of_seeds.var(ddof=1)) - both / units,
        both,
    )
