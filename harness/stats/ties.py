"""Every pair of many arms compared, from one bootstrap of all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.stats import bootstrapping, seed_pooling
from harness.stats.bootstrapping import Arm, Bootstrap, Kind, SeedNames
from harness.stats.estimates import bootstraps
from harness.stats.proportions import mid_p

_SCORES_PER_CHUNK = 16_000_000
"""Scores that are resampled at once: 128 MB."""
DRAWS, FEWER = 10_000, 2_500
"""Of the bootstrap, and of one over many samples or arms."""
MANY_SAMPLES, MANY_ARMS = 1_000, 64
"""Above these there are fewer draws."""


@dataclass(frozen=True)
class PairTest:
    """a - b of one pair of arms, by their places, and its two-sided p of being zero."""

    a: int
    b: int
    delta: float
    """Of logarithms for a perplexity."""
    p: float


def pairwise(
    kind: Kind,
    arms: Sequence[Arm],
    *,
    clusters: Sequence[object] | None = None,
    seeds: Sequence[SeedNames] | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> list[PairTest]:
    """All pairs of arms, each tested as `estimates.paired` tests it; p is not adjusted.

    Every arm has the same samples in the same order; `seeds` names those of each. Of three arms
    and more with the same seeds, what seeds add is estimated over all of them (`seed_pooling`).
    Bootstraps grow with the number of arms, not of pairs: all pairs are differences of the same
    replicates. Where no draw lies beyond zero, p is that of the t interval alone, for draws cannot
    resolve what an adjustment for many pairs asks of them. Of one unit p is 1. Raises ValueError
    as `estimates.estimate` does.
    """
    parts = [bootstrapping.checked(kind, *arm)[0] for arm in arms]
    closed = kind == "share" and clusters is None
    single = {i for i, scores in enumerate(parts) if closed and len(scores) == 1}
    tests = _of_shares(sorted(single), parts) if single else []
    if len(single) < len(arms):
        few = parts[0].shape[1] <= MANY_SAMPLES and len(arms) <= MANY_ARMS
        boots = _bootstraps(kind, arms, clusters, seeds, draws or (DRAWS if few else FEWER), seed)
        tables = seed_pooling.seeded(boots)
        seeded = [arm or boot for arm, boot in zip(tables, boots, strict=True)]
        for i, j in itertools.combinations(range(len(arms)), 2):
            if not {i, j} <= single:
                change = seed_pooling.difference(seeded[i], seeded[j])
                p = bootstrapping.p_value(change, resolved=False)
                tests.append(PairTest(i, j, change.value, 1.0 if math.isnan(p) else p))
    return sorted(tests, key=lambda test: (test.a, test.b))


def _of_shares(places: Sequence[int], parts: Sequence[NDArray[np.float64]]) -> list[PairTest]:
    """Pairs of single runs of 0/1 scores, by `proportions.mid_p`."""
    scores = np.concatenate([parts[i] for i in places])
    only = np.rint(scores @ (1 - scores).T).astype(int)
    n = scores.shape[1]
    return [
        PairTest(
            places[i],
            places[j],
            float(only[i, j] - only[j, i]) / n,
            mid_p(int(only[i, j]), int(only[j, i])),
        )
        for i, j in itertools.combinations(range(len(places)), 2)
    ]


def _bootstraps(
    kind: Kind,
    arms: Sequence[Arm],
    clusters: Sequence[object] | None,
    seeds: Sequence[SeedNames] | None,
    draws: int,
    seed: int,
) -> list[Bootstrap]:
    names = list(seeds) if seeds is not None else [None] * len(arms)
    largest = max(bootstrapping.checked(kind, *arm).size for arm in arms)
    chunk = max(1, _SCORES_PER_CHUNK // largest)
    boots: list[Bootstrap] = []
    for start in range(0, len(arms), chunk):
        part = slice(start, start + chunk)
        boots += bootstraps(
            kind, arms[part], clusters=clusters, draws=draws, seed=seed, seeds=names[part]
        )
    return boots
