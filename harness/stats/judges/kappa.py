"""How far a judge agrees with people, and people with each other: shares and Cohen's kappa.

Kappa is (o - e) / (1 - e), the agreement o in parts of what chance, e, leaves to agree on (Cohen,
Educational and Psychological Measurement 20, 1960); with weights for levels, agreement counts in
parts (Cohen, Psychological Bulletin 70, 1968). Of several people it is the mean over their pairs
(R. J. Light, Psychological Bulletin 76, 1971), each pair on the samples that both labelled.

Its standard error is the delta method's (Fleiss, Cohen & Everitt, Psychological Bulletin 72, 1969),
here as the sum of each sample's influence, so that samples may come in clusters and pairs of people
share samples. An interval is the wider, at each end, of the t interval with that error and of the
score interval (Wilson, JASA 22, 1927) of the agreement o, at the e that was seen: without it, a
judge that agrees on all of 30 samples would be certain to agree on every other.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.stats.estimates import Estimate, estimate
from harness.stats.proportions import wilson
from harness.stats.student_t import t_quantile

Weights = Literal["linear", "quadratic"]
Label = Hashable
"""A class or level; None where there is no label."""
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """How far labels of two or more agree, on the samples that at least two of them labelled."""

    share: Estimate | None
    """Of equal labels; None without a sample that two labelled."""
    kappa: Estimate | None
    """Cohen's, or the mean over pairs; None where it is not defined, with the `problem`."""
    problem: str | None = None
    """Why there is no kappa, or why it says little: labels or verdicts of one class."""


def agreement(
    judge: Sequence[Label],
    *people: Sequence[Label],
    weights: Weights | None = None,
    levels: Sequence[Label] | None = None,
    clusters: Sequence[object] | None = None,
    confidence: float = 0.95,
) -> Agreement:
    """A judge against one or more people: the mean over people of its agreement with each.

    Each has one label a sample, None where it has none. With `weights` labels are levels in the
    order of `levels`, by default sorted: those one step apart count in part. Raises ValueError on
    different numbers of samples.
    """
    pairs = [(judge, person) for person in people]
    problem = _one_class(judge, [label for person in people for label in person])
    return _mean_over_pairs(pairs, weights, levels, clusters, confidence, problem)


def human_agreement(
    people: Sequence[Sequence[Label]],
    *,
    weights: Weights | None = None,
    levels: Sequence[Label] | None = None,
    clusters: Sequence[object] | None = None,
    confidence: float = 0.95,
) -> Agreement:
    """The mean agreement of all pairs of people; arguments as for `agreement`."""
    pairs = list(itertools.combinations(people, 2))
    if not pairs:
        return Agreement(None, None, "one person labelled: nobody to agree with")
    labels = {label for person in people for label in person if label is not None}
    problem = f"all labels are {labels.pop()!r}" if len(labels) == 1 else None
    return _mean_over_pairs(pairs, weights, levels, clusters, confidence, problem)


def majority(people: Sequence[Sequence[Label]]) -> list[Label]:
    """The label that most people gave each sample; None where two labels tie or there is none."""
    chosen: list[Label] = []
    for labels in zip(*people, strict=True):
        votes = Counter(label for label in labels if label is not None).most_common(2)
        tie = not votes or (len(votes) == 2 and votes[0][1] == votes[1][1])
        chosen.append(None if tie else votes[0][0])
    return chosen


def _one_class(judge: Sequence[Label], labels: Sequence[Label]) -> str | None:
    verdicts = {verdict for verdict in judge if verdict is not None}
    truths = {label for label in labels if label is not None}
    if len(truths) == 1:
        return f"all labels are {truths.pop()!r}"
    if len(verdicts) == 1:
        return f"all verdicts are {verdicts.pop()!r}"
    return None


def _mean_over_pairs(
    pairs: Sequence[tuple[Sequence[Label], Sequence[Label]]],
    weights: Weights | None,
    levels: Sequence[Label] | None,
    clusters: Sequence[object] | None,
    confidence: float,
    problem: str | None,
) -> Agreement:
    coded = [_coded(pair, levels) for pair in pairs]
    both = np.array([(a >= 0) & (b >= 0) for a, b in coded])
    if not both.any():
        return Agreement(None, None, "no sample has two labels")
    equal = np.array([a == b for a, b in coded]) & both
    used: NDArray[np.bool_] = np.any(both, axis=0)
    own_clusters = _chosen(clusters, used)
    shares = (equal.sum(axis=0)[used] / both.sum(axis=0)[used]).astype(float)
    share = _share(shares, own_clusters, confidence)
    kappas = [_kappa(a, b, weights) for a, b in coded]
    defined = [kappa for kappa in kappas if kappa is not None]
    if not defined or (problem or "").startswith("all labels"):
        return Agreement(share, None, problem or "only one label occurs on samples with two")
    kappa = _interval(defined, used, own_clusters, confidence)
    return Agreement(share, kappa, problem)


def _coded(
    pair: tuple[Sequence[Label], Sequence[Label]], levels: Sequence[Label] | None
) -> tuple[Ints, Ints]:
    """Labels as places among the levels; -1 for None."""
    a, b = pair
    if len(a) != len(b):
        raise ValueError(f"got {len(a)} and {len(b)} labels of the same samples")
    if levels is None:
        found = {label for label in (*a, *b) if label is not None}
        levels = sorted(found, key=lambda label: (str(type(label)), label))
    place: dict[Label, int] = {label: i for i, label in enumerate(levels)}
    place[None] = -1
    missing = {label for label in (*a, *b) if label not in place}
    if missing:
        raise ValueError(f"labels {sorted(map(repr, missing))} are not among the levels")
    return np.array([place[x] for x in a], np.int64), np.array([place[x] for x in b], np.int64)


@dataclass(frozen=True)
class _Kappa:
    """Of one pair, with what each sample adds to it."""

    value: float
    observed: float
    expected: float
    influence: Floats
    """Of each sample, times their number over those with both labels; 0 where one is missing."""
    n: int
    in_parts: bool
    """Whether levels that are near each other agree in part."""


def _kappa(a: Ints, b: Ints, weights: Weights | None) -> _Kappa | None:
    """None where chance alone agrees on everything: labels of one class."""
    both = (a >= 0) & (b >= 0)
    n = int(both.sum())
    if not n:
        return None
    own, other = a[both], b[both]
    count = int(max(own.max(), other.max())) + 1
    credit = _credit(count, weights)
    share_a, share_b = (np.bincount(x, minlength=count) / n for x in (own, other))
    seen = credit[own, other]
    observed, expected = float(seen.mean()), float(share_a @ credit @ share_b)
    left = 1 - expected
    if left < 1e-12:
        return None
    by_chance = (credit @ share_b)[own] + (share_a @ credit)[other] - 2 * expected
    influence = np.zeros(len(a))
    own_influence = ((seen - observed) * left - (1 - observed) * by_chance) / left**2
    influence[both] = own_influence * len(a) / n
    value, in_parts = (observed - expected) / left, weights is not None and count > 2
    return _Kappa(value, observed, expected, influence, n, in_parts)


def _credit(count: int, weights: Weights | None) -> Floats:
    """How much each pair of levels counts as agreement, `(levels, levels)`."""
    if weights is None or count == 1:
        return np.eye(count)
    places = np.arange(count)
    apart = np.abs(places[:, None] - places) / (count - 1)
    return 1 - (apart if weights == "linear" else apart**2)


def _interval(
    kappas: Sequence[_Kappa],
    used: NDArray[np.bool_],
    clusters: Sequence[object] | None,
    level: float,
) -> Estimate:
    value = float(np.mean([kappa.value for kappa in kappas]))
    influence = np.mean([kappa.influence for kappa in kappas], axis=0)
    n, total = int(used.sum()), len(used)
    sums, units = influence[used], n
    if clusters is not None:
        names = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
        inverse = np.array([names[name] for name in clusters])
        sums, units = np.bincount(inverse, weights=sums), len(names)
    if units < 2:
        return Estimate(value, math.nan, math.nan, math.nan, n)
    stderr = math.sqrt(float((sums**2).sum()) * units / (units - 1)) / total
    half = t_quantile((1 + level) / 2, units - 1) * stderr
    lows, highs = zip(*(_by_score(kappa, units / n, level) for kappa in kappas), strict=True)
    low, high = min(value - half, float(np.mean(lows))), max(value + half, float(np.mean(highs)))
    return Estimate(value, stderr, max(low, -1.0), min(high, 1.0), n)


def _by_score(kappa: _Kappa, independent: float, level: float) -> tuple[float, float]:
    """The score interval of the agreement, as kappas; `independent`: units in parts of samples.

    Credit in parts varies less than shares do: there it is of full agreement alone.
    """
    if kappa.in_parts and kappa.observed < 1:
        return kappa.value, kappa.value
    n = max(1, round(kappa.n * independent))
    low, high = (
        (end - kappa.expected) / (1 - kappa.expected)
        for end in wilson(kappa.observed * n, n, level)
    )
    return low, high


def _share(scores: Floats, clusters: Sequence[object] | None, confidence: float) -> Estimate:
    kind: Literal["share", "mean"] = "share" if np.isin(scores, (0.0, 1.0)).all() else "mean"
    return estimate(kind, scores, clusters=clusters, confidence=confidence)


def _chosen(clusters: Sequence[object] | None, used: NDArray[np.bool_]) -> Sequence[object] | None:
    if clusters is None:
        return None
    if len(clusters) != len(used):
        raise ValueError(f"got {len(clusters)} clusters for {len(used)} samples")
    return [name for name, use in zip(clusters, used, strict=True) if use]
