"""From per-sample scores to a record's metrics: the figure, its interval, its delta to the base."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from harness import stats
from harness.record import Estimator, MetricSection
from harness.stats import corpus_scores, proportions
from harness.stats.judges import Judged, KnownErrors, judged_difference, judged_rate, known_errors
from harness.types import Bounds, Metric

__all__ = [
    "Arm",
    "Pooled",
    "Rows",
    "Score",
    "Scored",
    "bounds",
    "clipped",
    "common",
    "estimator",
    "figure",
    "judged",
    "judged_arms",
    "measure",
    "metrics_of",
    "paired",
    "pairwise",
    "per_token",
    "pool",
    "scored",
    "spread",
    "summarise",
    "tables",
]

Rows = Sequence[Mapping[str, Any]]
"""Sample rows, as a sample file holds them."""

TASK_WEIGHT = "weight"
"""The `per` of a mean over tasks: in each row's scores, 1 / the number of its task's rows."""


class Score(NamedTuple):
    """What a sample adds to a figure."""

    score: float
    """Of the sample alone."""
    per: float | None
    """Its denominator."""
    cluster: str | None
    statistics: tuple[float, ...] | None = None
    """What a corpus score sums up."""
    label: float | None = None
    """Of a judge's verdict: what people say of the answer, 1 good and 0 bad."""
    length: int | None = None
    """Of a judge's verdict: characters of the answer."""


Scored = dict[str, Score]
"""By sample id."""

Arm = tuple[Sequence[Scored], stats.SeedNames]
"""The samples of each run, and the seeds of the runs where they are known."""


class Pooled(NamedTuple):
    """The samples that several runs share."""

    ids: list[str]
    """Sorted."""
    scores: list[list[float]]
    """(runs, samples); of a corpus score each sample's own."""
    per: list[list[float]] | None
    """Denominators, (runs, samples)."""
    clusters: list[str] | None
    """Of each sample, where the suite names them."""
    seeds: tuple[object, ...] | None = None
    """Of each run, where known: differences of runs with the same seeds are paired by them."""
    statistics: list[list[tuple[float, ...]]] | None = None
    """Of a corpus score, (runs, samples, components)."""
    labels: list[list[float]] | None = None
    """Of a judge's verdicts, (runs, samples): people's labels, NaN without one."""
    length: float | None = None
    """Of a judge's verdicts: the mean length of the answers."""

    @property
    def arm(self) -> tuple[ArrayLike, ArrayLike | None]:
        """What the figure is computed of, as `harness.stats` takes it."""
        return self.scores if self.statistics is None else self.statistics, self.per


def summarise(
    metrics: Sequence[Metric],
    rows: Rows,
    base_rows: Rows | None = None,
    *,
    same_tokens: bool = True,
) -> dict[str, MetricSection]:
    """A suite's `metrics` section from its sample rows.

    Samples whose score is None or not finite are left out and counted (`left_out`). The delta to
    the base is on the samples that both have; its keys are null where there are none. `delta_p`
    is McNemar's mid-p for a share, whose `gained` and `lost` count samples that went from 0 to 1
    and from 1 to 0; else it is from the bootstrap. With `same_tokens` False, a figure per token
    (`exp_ratio`) has no delta. Raises ValueError on a repeated id.
    """
    bases = [] if base_rows is None else [base_rows]
    return {
        metric.name: measure(
            estimator(metric),
            metric.higher_is_better,
            [rows],
            bases if same_tokens or not per_token(estimator(metric)) else [],
        )
        for metric in metrics
    }


def estimator(metric: Metric) -> Estimator:
    """How a metric is computed, as its record keeps it."""
    how: Estimator = {
        "kind": metric.kind,
        "score": metric.score or metric.name,
        "per": metric.per,
        "where": dict(metric.where) if isinstance(metric.where, Mapping) else metric.where,
    }
    if metric.bounds is not None:
        how["bounds"] = list(metric.bounds)
    if metric.judge is not None:
        how["judge"] = metric.judge
    if metric.label:
        how["label"] = metric.label
    return how


def bounds(how: Estimator) -> Bounds:
    """The range of a figure."""
    if how["kind"] in ("share", "retained") or "judge" in how:
        return 0.0, 1.0
    low, high = how.get("bounds", (None, None))
    return low, high


def spread(of: Bounds | None) -> Bounds:
    """The range of a difference of two figures that have this range."""
    low, high = of or (None, None)
    return (None, None) if low is None or high is None else (low - high, high - low)


def clipped(within: Bounds, value: float, low: float, high: float) -> tuple[float, float]:
    """An interval without what lies beyond the range of its figure; it always holds the figure.

    For showing alone: tests and verdicts are of the whole interval, whose width is the spread.
    """
    least, greatest = within
    if least is not None:
        low = min(max(low, least), max(value, low))
    if greatest is not None:
        high = max(min(high, greatest), min(value, high))
    return low, high


def per_token(how: Estimator) -> bool:
    """Whether a figure depends on the tokenizer: a perplexity of tokens, not of words or bytes."""
    return how["kind"] == "exp_ratio" and how["per"] == "tokens"


def metrics_of(sections: Mapping[str, MetricSection]) -> list[Metric]:
    """The metrics that a `metrics` section was computed with."""
    return [
        Metric(
            name,
            section["higher_is_better"],
            kind=section["estimator"]["kind"],
            score=section["estimator"]["score"],
            per=section["estimator"]["per"],
            where=section["estimator"]["where"],
            bounds=_bounds(section["estimator"].get("bounds")),
            judge=section["estimator"].get("judge"),
            label=section["estimator"].get("label", ""),
        )
        for name, section in sections.items()
    ]


def _bounds(written: Sequence[float | None] | None) -> Bounds | None:
    return None if written is None else (written[0], written[1])


def figure(how: Estimator) -> stats.Kind:
    """What is computed of the scores in `tables`."""
    passes = "judge" in how and "threshold" in how["judge"]
    return "share" if how["kind"] == "retained" or passes else how["kind"]


def measure(
    how: Estimator,
    higher_is_better: bool,
    runs: Sequence[Rows],
    bases: Sequence[Rows],
    *,
    seeds: tuple[stats.SeedNames, stats.SeedNames] = (None, None),
) -> MetricSection:
    """One metric over one or several runs (seeds), against one or several runs of the base.

    `seeds` are those of `runs` and of `bases`: the same ones are paired.
    With several runs the figure is the mean of their figures on the samples they share. What is
    `retained` is counted on the samples that every run of the base has right, and has no delta.
    """
    own, base = tables(how, runs, bases), [scored(how, rows) for rows in bases]
    pooled = pool(own)
    metric: MetricSection = {
        "value": None,
        "stderr": None,
        "ci_low": None,
        "ci_high": None,
        "n": len(pooled.ids),
        "higher_is_better": higher_is_better,
        "delta": None,
        "delta_ci_low": None,
        "delta_ci_high": None,
        "delta_p": None,
        "left_out": len(_eligible(how, runs, base)) - len(pooled.ids),
        "estimator": how.copy(),
    }
    if how["kind"] == "share":
        metric |= {"gained": None, "lost": None}
    if not pooled.ids:
        return metric
    base_pooled = pool(base) if base and how["kind"] != "retained" else None
    change: stats.Difference | None
    if base_pooled is not None and base_pooled.ids == pooled.ids:
        estimate, change = stats.estimate_with_difference(
            figure(how), pooled.arm, base_pooled.arm, clusters=pooled.clusters, seeds=seeds
        )
    else:
        estimate = stats.estimate(figure(how), *pooled.arm, clusters=pooled.clusters)
        change = None if base_pooled is None else paired(how, own, base, seeds=seeds)
    if (known := known_errors(how.get("judge"))) is not None:
        arms = common(own, base) if change is not None else None
        metric.update(_corrected(how, known, (pooled, estimate), arms, change))  # type: ignore[typeddict-item]
        return metric
    within = bounds(how)
    low, high = clipped(within, estimate.value, estimate.ci_low, estimate.ci_high)
    metric |= {
        "value": estimate.value,
        "stderr": estimate.stderr,
        "ci_low": low,
        "ci_high": high,
    }
    if change is not None:
        low, high = clipped(spread(within), change.delta, change.ci_low, change.ci_high)
        metric |= {
            "delta": change.delta,
            "delta_ci_low": low,
            "delta_ci_high": high,
            "delta_p": change.p,
        }
        if how["kind"] == "share" and len(own) == len(base) == 1:
            a, b = common(own, base)
            gained, lost, _ = proportions.discordant(a.scores[0], b.scores[0])
            metric |= {"gained": gained, "lost": lost}
    return metric


def judged(pooled: Pooled, raw: stats.Estimate) -> Judged:
    """The verdicts on the samples of an arm, with their mean."""
    labels = None if pooled.labels is None else np.array(pooled.labels)
    return Judged(raw, np.array(pooled.scores), labels, pooled.length)


def judged_arms(
    how: Estimator, arms: tuple[Pooled, Pooled], *, confidence: float = 0.95
) -> tuple[Judged, Judged]:
    """Both arms' verdicts on the samples that they share."""
    a, b = (
        judged(
            arm,
            stats.estimate(figure(how), *arm.arm, clusters=arm.clusters, confidence=confidence),
        )
        for arm in arms
    )
    return a, b


def _corrected(
    how: Estimator,
    known: KnownErrors,
    own: tuple[Pooled, stats.Estimate],
    arms: tuple[Pooled, Pooled] | None,
    change: stats.Difference | None,
) -> dict[str, Any]:
    """A judge's figure and its delta, with the judge's errors in them."""
    pooled, raw = own
    rate = judged_rate(known, judged(pooled, raw), clusters=pooled.clusters)
    delta = None
    if arms is not None and change is not None:
        a, b = judged_arms(how, arms)
        delta = judged_difference(known, a, b, change, clusters=arms[0].clusters)
    section: dict[str, Any] = {
        "value": _known(rate.value),
        "stderr": _known(rate.stderr),
        "ci_low": rate.ci_low,
        "ci_high": rate.ci_high,
        "correction": {
            "raw": raw.value,
            "raw_delta": change.delta if change else None,
            "assumption": rate.assumption,
            "delta_assumption": delta.assumption if delta else None,
            "labels": rate.labels,
            "reason": rate.reason,
            "delta_reason": delta.reason if delta else None,
            "level": known.level,
        },
    }
    if delta is not None:
        section |= {
            "delta": _known(delta.value),
            "delta_ci_low": delta.ci_low,
            "delta_ci_high": delta.ci_high,
            "delta_p": delta.p,
        }
    return section


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def tables(how: Estimator, runs: Sequence[Rows], bases: Sequence[Rows]) -> list[Scored]:
    """The samples of each run that the figure is made of.

    For `retained` those that every run of the base has right: none without a base.
    """
    own = [scored(how, rows) for rows in runs]
    if how["kind"] != "retained":
        return own
    right = _right_in_all([scored(how, rows) for rows in bases])
    return [{key: value for key, value in table.items() if key in right} for table in own]


def _right_in_all(bases: Sequence[Scored]) -> set[str]:
    wrong = {key for base in bases for key, sample in base.items() if not sample.score}
    return set(pool(bases).ids) - wrong


def paired(
    how: Estimator,
    own: Sequence[Scored],
    other: Sequence[Scored],
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seeds: tuple[stats.SeedNames, stats.SeedNames] = (None, None),
) -> stats.Difference | None:
    """own - other on the samples that all runs of both have; None where there are none."""
    a, b = common(own, other)
    if not a.ids:
        return None
    (scores_a, per_a), (scores_b, per_b) = a.arm, b.arm
    return stats.paired(
        figure(how),
        scores_a,
        scores_b,
        per_a,
        per_b,
        clusters=a.clusters,
        confidence=confidence,
        draws=draws,
        seeds=seeds,
    )


def pairwise(how: Estimator, arms: Mapping[int, Arm]) -> list[stats.PairTest]:
    """All pairs of arms that share samples, each with its p, adjusted after Holm for all of them.

    `a` and `b` of a test are keys of `arms`. Arms with the same samples, which are most of them,
    are compared at once.
    """
    if (known := known_errors(how.get("judge"))) is not None:
        return _judged_pairs(how, known, arms)
    pools = {key: pool(runs, seeds=seeds) for key, (runs, seeds) in arms.items()}
    keys_by_samples: dict[tuple[tuple[str, ...], tuple[str, ...]], list[int]] = {}
    for key, pooled in pools.items():
        keys_by_samples.setdefault((tuple(pooled.ids), tuple(pooled.clusters or ())), []).append(
            key
        )
    tests = []
    for (ids, clusters), keys in keys_by_samples.items():
        if ids and len(keys) > 1:
            found = stats.pairwise(
                figure(how),
                [pools[key].arm for key in keys],
                clusters=clusters or None,
                seeds=[pools[key].seeds for key in keys],
            )
            tests += [replace(test, a=keys[test.a], b=keys[test.b]) for test in found]
    group_of = {key: number for number, keys in enumerate(keys_by_samples.values()) for key in keys}
    for first, second in itertools.combinations(arms, 2):
        if group_of[first] != group_of[second]:
            (own, own_seeds), (other, other_seeds) = arms[first], arms[second]
            difference = paired(how, own, other, seeds=(own_seeds, other_seeds))
            if difference is not None:
                p = 1.0 if math.isnan(difference.p) else difference.p
                tests.append(stats.PairTest(first, second, difference.delta, p))
    adjusted = stats.holm([test.p for test in tests])
    return [replace(test, p=p) for test, p in zip(tests, adjusted, strict=True)]


def _judged_pairs(
    how: Estimator, known: KnownErrors, arms: Mapping[int, Arm]
) -> list[stats.PairTest]:
    """`pairwise` of a judge's verdicts, whose errors each pair has in its own difference."""
    tests = []
    for first, second in itertools.combinations(arms, 2):
        (own, own_seeds), (other, other_seeds) = arms[first], arms[second]
        seeds = (own_seeds, other_seeds)
        change, both = paired(how, own, other, seeds=seeds), common(own, other)
        if change is not None:
            found = judged_difference(
                known, *judged_arms(how, both), change, clusters=both[0].clusters
            )
            tests.append(stats.PairTest(first, second, _known(found.value) or 0.0, found.p))
    adjusted = stats.holm([test.p for test in tests])
    return [replace(test, p=p) for test, p in zip(tests, adjusted, strict=True)]


def common(own: Sequence[Scored], other: Sequence[Scored]) -> tuple[Pooled, Pooled]:
    """Both arms on the samples that all runs of both have, in one order."""
    ids = set(pool(own).ids) & set(pool(other).ids)
    return pool(own, ids), pool(other, ids)


def scored(how: Estimator, rows: Rows) -> Scored:
    """The samples of `rows` that have the score (and denominator) that `how` asks for."""
    if how["kind"] in corpus_scores.KINDS:
        return _with_statistics(how["kind"], how, rows)
    out: Scored = {}
    top, bottom = how["score"], how["per"]
    for row in _matching(how, rows):
        score = _number(row, top)
        per = None if bottom is None else _number(row, bottom)
        if score is None or (bottom is not None and per is None):
            continue
        if row["id"] in out:
            raise ValueError(f"sample id {row['id']!r} occurs twice")
        label, length = None, None
        if "judge" in how:
            threshold = how["judge"].get("threshold")
            score = score if threshold is None else float(score >= threshold)
            label = _number(row, how["label"]) if "label" in how else None
            length = len(row.get("output") or "")
        out[row["id"]] = Score(score, per, row.get("cluster"), None, label, length)
    return out


def _with_statistics(kind: corpus_scores.CorpusKind, how: Estimator, rows: Rows) -> Scored:
    """The samples with statistics of a corpus score, and the score of each sample alone."""
    having = [row for row in _matching(how, rows) if row["statistics"].get(how["score"])]
    if not having:
        return {}
    statistics = [tuple(map(float, row["statistics"][how["score"]])) for row in having]
    alone = corpus_scores.SCORES[kind](np.moveaxis(corpus_scores.checked(kind, statistics), 0, -1))
    out: Scored = {}
    for row, score, own in zip(having, alone[0].tolist(), statistics, strict=True):
        if row["id"] in out:
            raise ValueError(f"sample id {row['id']!r} occurs twice")
        out[row["id"]] = Score(score, None, row.get("cluster"), own)
    return out


def pool(
    runs: Sequence[Scored], only: set[str] | None = None, *, seeds: stats.SeedNames = None
) -> Pooled:
    """The samples that are in every run (and in `only`); `seeds` are those of the runs."""
    shared = set.intersection(*(set(table) for table in runs)) if runs else set()
    ids = sorted(shared if only is None else shared & only)
    scores = [[table[key].score for key in ids] for table in runs]
    per = [[p for key in ids if (p := table[key].per) is not None] for table in runs]
    clusters = [cluster for key in ids if (cluster := runs[0][key].cluster) is not None]
    names = None if seeds is None else tuple(seeds)
    every = [[own for key in ids if (own := table[key].statistics) is not None] for table in runs]
    return Pooled(
        ids,
        scores,
        per if any(per) else None,
        clusters or None,
        names,
        every if any(every) else None,
        *_labels_and_length(runs, ids),
    )


def _matching(how: Estimator, rows: Rows) -> Rows:
    """The rows that a metric is of: all, those of a group, or those `where` keys have values."""
    where = how["where"]
    wanted = {"group": where} if isinstance(where, str) else where or {}
    for key, value in wanted.items():
        rows = [row for row in rows if row.get(key) == value]
    return rows


def _eligible(how: Estimator, runs: Sequence[Rows], bases: Sequence[Scored]) -> set[str]:
    samples = {row["id"] for rows in runs for row in _matching(how, rows)}
    return samples & _right_in_all(bases) if how["kind"] == "retained" else samples


def _number(row: Mapping[str, Any], key: str) -> float | None:
    value = row["scores"].get(key)
    return float(value) if value is not None and math.isfinite(value) else None


def _labels_and_length(
    runs: Sequence[Scored], ids: Sequence[str]
) -> tuple[list[list[float]] | None, float | None]:
    """What people say of judged answers, and how long these are; None of other scores."""
    samples = [[table[key] for key in ids] for table in runs]
    lengths = [sample.length for table in samples for sample in table if sample.length is not None]
    if not lengths:
        return None, None
    labels = [[math.nan if s.label is None else s.label for s in table] for table in samples]
    labelled = any(not math.isnan(label) for table in labels for label in table)
    return labels if labelled else None, sum(lengths) / len(lengths)
