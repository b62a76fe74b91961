"""What training seeds add to a figure, estimated over all arms that were trained with the same.

With three seeds the spread of one pair's differences has two degrees of freedom, and among many
pairs some lie close together by chance: the surest of them is then told apart. Here the figures of
A arms on the same S seeds are a two-way table, arms by seeds, whose residual mean square is the
error of every difference, with (A - 1)(S - 1) degrees of freedom: the pooled error of the
repeated-measures analysis of variance (Winer, Brown & Michels, Statistical Principles in
Experimental Design, 1991, ch. 4).

Some methods vary more than others. An arm's own variance is that of F. E. Grubbs (On estimating
precision of measuring instruments and product variability, JASA 43, 1948); what it has over the
pooled error is added, with its own S - 1 degrees of freedom. An arm that varies less is not thought
surer: of so few seeds that is mostly chance. An arm whose residuals are beyond those of the others
by an F test, adjusted for all arms, is no part of the pool, which would make every arm unsure, and
has its own variance alone.

What all arms' figures have in common on a seed cancels out between them, but not against an arm
that ran with other seeds or with one: there its mean square, with S - 1 degrees of freedom, comes
back in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from harness.stats import bootstrapping
from harness.stats.bootstrapping import Between, Bootstrap, Floats
from harness.stats.student_t import beta_share

FEWEST = 3
"""Arms, below which a table says no more than their difference."""
_OUTLYING = 0.05
"""The chance that any of equally variable arms is left out of the pool."""
_Squared = Callable[[Floats], Floats]
_Variances = tuple[float, Floats, float]


@dataclass(frozen=True)
class SeededArm:
    """An arm without draws of its seeds, and what those add to the variance of its mean."""

    samples: Bootstrap
    table: object
    """Equal for arms with the same seeds."""
    pooled: tuple[float, int]
    """(variance, degrees of freedom) of the pooled error; zero of an arm that is no part of it."""
    own: tuple[float, int]
    """Of what this arm has beyond that."""
    common: tuple[float, int]
    """Of what all arms have in common."""


def seeded(boots: Sequence[Bootstrap]) -> list[SeededArm | None]:
    """Each of the arms with what seeds add to it; None where fewer than three have the same seeds.

    All are from the same draws of samples.
    """
    tables: dict[object, list[int]] = {}
    for place, boot in enumerate(boots):
        if boot.seeds is not None and boot.seeds.names is not None:
            tables.setdefault((boot.seeds.names, boot.seeds.seed), []).append(place)
    found: list[SeededArm | None] = [None] * len(boots)
    for table, places in tables.items():
        if len(places) >= FEWEST:
            arms = _of_table(table, [boots[place] for place in places])
            for place, arm in zip(places, arms, strict=True):
                found[place] = arm
    return found


def difference(a: SeededArm | Bootstrap, b: SeededArm | Bootstrap) -> Bootstrap:
    """The bootstrap of a - b, what seeds add to it drawn from a normal distribution."""
    between = _between(a, b)
    one, other = (arm.samples if isinstance(arm, SeededArm) else arm for arm in (a, b))
    change = bootstrapping.difference(one, other)
    spread = math.sqrt(sum(variance for variance, _ in between))
    replicates = change.replicates + spread * _normal(len(change.replicates))
    return replace(change, replicates=replicates, between_seeds=(*between, *change.between_seeds))


def _between(a: SeededArm | Bootstrap, b: SeededArm | Bootstrap) -> Between:
    """(variance, degrees of freedom) of each component that the arms of tables add."""
    if isinstance(a, SeededArm) and isinstance(b, SeededArm) and a.table == b.table:
        # one estimate, not two of them
        return (a.pooled[0] + b.pooled[0], a.pooled[1]), a.own, b.own
    of_tables = [arm for arm in (a, b) if isinstance(arm, SeededArm)]
    return tuple(part for arm in of_tables for part in (arm.common, arm.pooled, arm.own))


def _of_table(table: object, boots: Sequence[Bootstrap]) -> list[SeededArm]:
    levels = [boot.seeds for boot in boots if boot.seeds is not None]
    figures = np.stack([level.figures for level in levels])
    draws = np.stack([level.replicates for level in levels], axis=1)
    seeds = figures.shape[1]
    pool = _alike(figures)
    units = boots[0].units
    of_answers = units / (units - 1) if units > 1 else 0.0

    error, own, common = _variances(np.square, figures, pool)
    error_noise, own_noise, common_noise = _variances(_drawn, draws, pool)
    degrees = (len(pool) - 1) * (seeds - 1)
    error = bootstrapping.beyond_answers(error, error_noise * of_answers, degrees)
    common = bootstrapping.beyond_answers(common, common_noise * of_answers, seeds - 1)
    result = []
    for place, (boot, level) in enumerate(zip(boots, levels, strict=True)):
        mine = bootstrapping.beyond_answers(
            float(own[place]), float(own_noise[place]) * of_answers, seeds - 1
        )
        pooled = error if place in pool else 0.0
        shift = boot.value - float(level.figures.mean())
        samples = replace(
            boot, replicates=level.replicates.mean(axis=1) + shift, between_seeds=(), seeds=None
        )
        result.append(
            SeededArm(
                samples,
                table,
                (pooled / seeds, degrees),
                (max(0.0, mine - pooled) / seeds, seeds - 1),
                (common / seeds, seeds - 1),
            )
        )
    return result


def _alike(figures: Floats) -> list[int]:
    """The arms whose error is pooled: without those that vary more than the others, three at least.

    The most variable one is left out while its residuals are beyond the others' by an F test.
    """
    pool = list(range(len(figures)))
    seeds = figures.shape[1]
    while len(pool) > FEWEST:
        squares = (_residuals(figures[pool]) ** 2).sum(axis=1)
        arms, most = len(pool), int(squares.argmax())
        of_most = float(squares[most]) * arms / (arms - 1)
        of_others = max(0.0, float(squares.sum()) - of_most)
        if of_most == 0 or _f_test(of_most, of_others, seeds - 1, arms - 2) * arms >= _OUTLYING:
            break
        del pool[most]
    return pool


def _f_test(of_one: float, of_others: float, df: int, others: int) -> float:
    """p of the F test of two sums of squares with `df` and `df * others` degrees of freedom."""
    return beta_share(of_others / (of_others + of_one), df * others / 2, df / 2)


def _residuals(figures: Floats) -> Floats:
    """What is left of `(..., arms, seeds)` without the effects of arms and of seeds."""
    of_arms = figures.mean(axis=-1, keepdims=True)
    of_seeds = figures.mean(axis=-2, keepdims=True)
    left: Floats = figures - of_arms - of_seeds + figures.mean(axis=(-1, -2), keepdims=True)
    return left


def _variances(squared: _Squared, figures: Floats, pool: Sequence[int]) -> _Variances:
    """Of the pooled error, of each arm on its own, and of the mean of the pool, over seeds.

    `squared` is what to take of deviations, `(..., arms, seeds)` -> `(arms, seeds)`: their squares,
    or their variance over draws of samples, which is of single answers.
    """
    seeds, arms = figures.shape[-1], len(pool)
    of_pool = figures[..., pool, :].mean(axis=-2, keepdims=True)
    common = float(squared(of_pool - of_pool.mean(axis=-1, keepdims=True)).sum()) / (seeds - 1)
    squares = squared(_residuals(figures[..., pool, :])).sum(axis=1) / (seeds - 1)
    error = float(squares.sum()) / (arms - 1)
    apart = figures - of_pool
    own = squared(apart - apart.mean(axis=-1, keepdims=True)).sum(axis=1) / (seeds - 1)
    own -= error / arms
    own[list(pool)] = (squares - error / arms) * arms / (arms - 2)
    return error, own, common


def _drawn(deviations: Floats) -> Floats:
    variances: Floats = deviations.var(axis=0, ddof=1)
    return variances


@lru_cache(maxsize=4)
def _normal(draws: int) -> Floats:
    """Draws of a standard normal distribution, of mean 0 and variance 1 exactly."""
    drawn = np.random.Generator(np.random.SFC64(2)).standard_normal(draws)
    drawn -= drawn.mean()
    result: Floats = drawn / drawn.std(ddof=1)
    return result
