"""Two arms, metric by metric and sample by sample: a pure function of records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from typing_extensions import NotRequired, TypedDict

from harness import stats
from harness.errors import NotComparable, UserError, nearest
from harness.results import comparability
from harness.results.cost import cost
from harness.results.leaderboard_layout import Cost
from harness.results.lookup import Arm
from harness.results.paired_differences import (
    SMALL_PART,
    SMALL_SHARE,
    Evidence,
    FigureTest,
    Pairs,
    between,
)
from harness.stats import metric_summary

SCHEMA = 1
"""Version of a comparison's layout."""

SHOWN = 3
"""Samples of each suite that are shown, both ways."""

Verdict = Literal["better", "worse", "tied", "cannot tell"]


class ComparedRow(TypedDict):
    """An arm of a comparison."""

    label: str
    model: str
    cells: list[str]
    seeds: list[int | None]
    cost: Cost


class JudgeDoubt(TypedDict):
    """Why a judge's figure is to be doubted."""

    level: Literal["trusted", "weak", "failed"]
    reason: str
    """Why the level is not higher, or else why the difference cannot be told."""


class MetricDifference(TypedDict):
    """A metric of both arms, and candidate - baseline on the samples of both."""

    value: float
    baseline: float
    delta: float
    delta_ci_low: float
    delta_ci_high: float
    p: float
    detectable: float
    """The smallest true difference that this test sees 4 times in 5."""
    margin: float
    """Within this far of each other the arms are tied."""
    n: int
    higher_is_better: bool
    p_adjusted: float
    """Holm's, over all metrics."""
    verdict: Verdict
    judge: NotRequired[JudgeDoubt]
    """Absent where no judge is behind the metric, and of one that is trusted and tells."""


class ChangedSample(TypedDict):
    """A sample, as both arms answered it."""

    id: str
    score: float
    baseline_score: float
    prompt: object
    reference: object
    output: object
    baseline_output: object


class ChangedSamples(TypedDict):
    """The samples of a suite that changed most."""

    worse: list[ChangedSample]
    better: list[ChangedSample]


class RowComparison(TypedDict):
    """Two rows, metric by metric."""

    schema: int
    confidence: float
    candidate: ComparedRow
    baseline: ComparedRow
    metrics: dict[str, MetricDifference]
    not_compared: list[str]
    warnings: list[str]


class Comparison(RowComparison):
    """Two rows, sample by sample too."""

    samples: dict[str, ChangedSamples]
    """Of each suite."""


class TiedGroup(TypedDict):
    """Rows that are tied with the first of them."""

    rank: int
    rows: list[str]
    """Labels."""


class SeveralComparisons(TypedDict):
    """Several rows against the same one, or each against its own base."""

    schema: int
    against: str
    rows: list[RowComparison]
    ranked_by: str | None
    groups: list[TiedGroup]


def compare(
    candidate: Arm,
    baseline: Arm,
    *,
    only: Sequence[str] = (),
    confidence: float = 0.95,
    shown: int = SHOWN,
) -> Comparison:
    """candidate - baseline on every metric that both have, of the suites `only` (default: all).

    Each metric has `value`, `baseline`, `delta` with its interval, `p`, `p_adjusted` (Holm over
    all metrics), `detectable` (the smallest true difference that this test sees 4 times in 5),
    `n` and a `verdict`: `better` or `worse` where `p_adjusted` is small enough; `tied` where the
    interval lies within `margin` both ways; else `cannot tell`. `samples` has those that changed
    most.
    Raises NotComparable where a suite of both is not the same, and where they share none.
    """
    pairs = between(candidate, baseline, confidence)
    evidence = {name: pairs.on(*name) for name in _names(pairs, only)}
    paired = {name: metric for name, metric in evidence.items() if metric is not None}
    changes = [metric.change() for metric in paired.values()]
    adjusted = stats.holm([_p_value(change) for change in changes])
    metrics = {
        ".".join(name): _difference(metric, change, p, confidence)
        for (name, metric), change, p in zip(paired.items(), changes, adjusted, strict=True)
    }
    return {
        "schema": SCHEMA,
        "confidence": confidence,
        "candidate": _compared_row(candidate),
        "baseline": _compared_row(baseline),
        "metrics": metrics,
        "samples": _samples(pairs, paired, shown),
        "not_compared": [
            *_only_one_has(pairs, only),
            *(
                f"{'.'.join(name)}: per token, and the arms have different tokenizers; "
                "see bits_per_byte"
                for name in evidence
                if name not in paired
            ),
        ],
        "warnings": pairs.warnings(),
    }


def _names(pairs: Pairs, only: Sequence[str]) -> list[tuple[str, str]]:
    ours, theirs = set(pairs.candidate.hashes), set(pairs.baseline.hashes)
    for suite in only:
        if suite not in ours | theirs:
            raise UserError(f"no suite '{suite}': {nearest(suite, ours | theirs)}")
    wanted = [suite for suite in sorted(ours & theirs) if not only or suite in only]
    for suite in wanted or only:
        comparability.check_suite(suite, pairs.candidate, pairs.baseline)
    names = [name for name in pairs.shared() if name[0] in wanted]
    if not names:
        raise NotComparable(
            f"{pairs.candidate.label} and {pairs.baseline.label} have no suite in common: "
            f"{', '.join(sorted(ours))} and {', '.join(sorted(theirs))}"
        )
    return names


def _only_one_has(pairs: Pairs, only: Sequence[str]) -> list[str]:
    arms = ((pairs.candidate, pairs.baseline), (pairs.baseline, pairs.candidate))
    return [
        f"suite '{name}': only {group.label} has a result"
        for group, other in arms
        for name in sorted(set(group.hashes) - set(other.hashes))
        if not only or name in only
    ]


def _p_value(change: FigureTest) -> float:
    return 1.0 if math.isnan(change.p) else change.p


def _difference(
    metric: Evidence, change: FigureTest, p_adjusted: float, confidence: float
) -> MetricDifference:
    stderr = stats.stderr_of(change.ci_low, change.ci_high, confidence)
    low, high = metric.shown(change, "difference")
    found: MetricDifference = {
        "value": metric.value,
        "baseline": metric.baseline,
        "delta": change.value,
        "delta_ci_low": low,
        "delta_ci_high": high,
        "p": _p_value(change),
        "detectable": stats.minimum_detectable_effect(stderr, confidence),
        "margin": margin(metric),
        "n": metric.n,
        "higher_is_better": metric.higher_is_better,
        "p_adjusted": p_adjusted,
        "verdict": _verdict(metric, change, p_adjusted, confidence),
    }
    judge = metric.judge
    if judge is not None and (judge.level != "trusted" or change.reason):
        found["judge"] = {"level": judge.level, "reason": judge.reason or change.reason or ""}
    return found


def margin(metric: Evidence) -> float:
    """Within this far of each other two figures are called tied: 0.02 of a share, else 5 %."""
    return (
        SMALL_SHARE if metric.kind == "share" or metric.judge else SMALL_PART * abs(metric.baseline)
    )


def _verdict(metric: Evidence, change: FigureTest, p_adjusted: float, confidence: float) -> Verdict:
    low, high, tolerance = change.ci_low, change.ci_high, margin(metric)
    if p_adjusted < 1 - confidence and (low > 0 or high < 0):
        return "better" if (low > 0) == metric.higher_is_better else "worse"
    return "tied" if -tolerance <= low and high <= tolerance else "cannot tell"


def _compared_row(arm: Arm) -> ComparedRow:
    group = arm.group
    return {
        "label": group.label,
        "model": group.plan["model"]["name"],
        "cells": [cell["id"] for cell in group.cells],
        "seeds": [cell["plan"]["seed"] for cell in group.cells],
        "cost": cost(group.cells),
    }


def _samples(
    pairs: Pairs, paired: Mapping[tuple[str, str], Evidence], shown: int
) -> dict[str, ChangedSamples]:
    """Suite -> those that got worse and better most, by the suite's first metric."""
    firsts: dict[str, tuple[str, str]] = {}
    for name in paired:
        firsts.setdefault(name[0], name)
    return {
        suite: _most_changed(pairs, name, paired[name], shown) for suite, name in firsts.items()
    }


def _most_changed(
    pairs: Pairs, name: tuple[str, str], metric: Evidence, shown: int
) -> ChangedSamples:
    ours, theirs = _per_sample(metric.a), _per_sample(metric.b)
    sign = 1 if metric.higher_is_better else -1
    gains = {key: sign * (a - b) for key, a, b in zip(metric.a.ids, ours, theirs, strict=True)}
    order = sorted(gains, key=lambda key: (gains[key], key))
    rows = [
        {row["id"]: row for row in pairs.rows(group, *name)[0]}
        for group in (pairs.candidate, pairs.baseline)
    ]
    values = [dict(zip(metric.a.ids, scores, strict=True)) for scores in (ours, theirs)]

    def entry(key: str) -> ChangedSample:
        a, b = rows[0][key], rows[1][key]
        return {
            "id": key,
            "score": values[0][key],
            "baseline_score": values[1][key],
            "prompt": a.get("prompt"),
            "reference": a.get("reference"),
            "output": a.get("output"),
            "baseline_output": b.get("output"),
        }

    return {
        "worse": [entry(key) for key in order[:shown] if gains[key] < 0],
        "better": [entry(key) for key in order[::-1][:shown] if gains[key] > 0],
    }


def _per_sample(pooled: metric_summary.Pooled) -> list[float]:
    """A sample's score (over its denominator), the mean over seeds."""
    per = pooled.per or [[1.0] * len(pooled.ids)] * len(pooled.scores)
    return [
        sum(score[i] / (of[i] or 1.0) for score, of in zip(pooled.scores, per, strict=True))
        / len(pooled.scores)
        for i in range(len(pooled.ids))
    ]
