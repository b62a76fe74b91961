"""Two sides, metric by metric and sample by sample: a pure function of records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness import stats
from harness.errors import NotComparable, UserError, nearest
from harness.results import comparability
from harness.results.cost import cost
from harness.results.lookup import Side
from harness.results.paired_differences import SMALL_PART, SMALL_SHARE, Evidence, Pairs, between
from harness.stats import metric_summary

SCHEMA = 1
"""Version of a comparison's layout."""

SHOWN = 3
"""Samples of each suite that are told, both ways."""


def compare(
    candidate: Side,
    baseline: Side,
    *,
    only: Sequence[str] = (),
    confidence: float = 0.95,
    shown: int = SHOWN,
) -> dict[str, Any]:
    """candidate - baseline on every metric that both have, of the suites `only` (default: all).

    Each metric has `value`, `baseline`, `delta` with its interval, `p`, `p_adjusted` (Holm over
    all metrics), `detectable` (the smallest true difference that this test sees 4 times in 5),
    `n` and a `verdict`: `better` or `worse` where `p_adjusted` says so; `tied` where the interval
    lies within `margin` both ways; else `cannot tell`. `samples` has those that changed most.
    Raises NotComparable where a suite of both is not the same, and where they share none.
    """
    pairs = between(candidate, baseline, confidence)
    found = {name: pairs.on(*name) for name in _names(pairs, only)}
    seen = {name: one for name, one in found.items() if one is not None}
    told = {".".join(name): _told(one, confidence) for name, one in seen.items()}
    adjusted = stats.holm([one["p"] for one in told.values()])
    for one, p in zip(told.values(), adjusted, strict=True):
        one["p_adjusted"] = p
        one["verdict"] = _verdict(one, confidence)
    return {
        "schema": SCHEMA,
        "confidence": confidence,
        "candidate": _side(candidate),
        "baseline": _side(baseline),
        "metrics": told,
        "samples": _samples(pairs, seen, shown),
        "not_compared": [
            *_only_one_has(pairs, only),
            *(
                f"{'.'.join(name)}: per token, and the sides have not one tokenizer; "
                "see bits_per_byte"
                for name in found
                if name not in seen
            ),
        ],
        "warnings": comparability.warnings(candidate.group, baseline.group),
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
    sides = ((pairs.candidate, pairs.baseline), (pairs.baseline, pairs.candidate))
    return [
        f"suite '{name}': only {group.label} has a result of it"
        for group, other in sides
        for name in sorted(set(group.hashes) - set(other.hashes))
        if not only or name in only
    ]


def _told(one: Evidence, confidence: float) -> dict[str, Any]:
    change = one.change()
    stderr = stats.stderr_of(change.ci_low, change.ci_high, confidence)
    return {
        "value": one.value,
        "baseline": one.baseline,
        "delta": change.value,
        "delta_ci_low": change.ci_low,
        "delta_ci_high": change.ci_high,
        "p": 1.0 if math.isnan(change.p) else change.p,
        "detectable": stats.minimum_detectable_effect(stderr, confidence),
        "margin": margin(one),
        "n": one.n,
        "higher_is_better": one.higher_is_better,
    }


def margin(one: Evidence) -> float:
    """Within this far of each other two figures are called tied: 0.02 of a share, else 5 %."""
    return SMALL_SHARE if one.kind == "share" else SMALL_PART * abs(one.baseline)


def _verdict(one: Mapping[str, Any], confidence: float) -> str:
    low, high = one["delta_ci_low"], one["delta_ci_high"]
    if one["p_adjusted"] < 1 - confidence and (low > 0 or high < 0):
        return "better" if (low > 0) == one["higher_is_better"] else "worse"
    return "tied" if -one["margin"] <= low and high <= one["margin"] else "cannot tell"


def _side(side: Side) -> dict[str, Any]:
    group = side.group
    return {
        "label": group.label,
        "model": group.plan["model"]["name"],
        "cells": [cell["id"] for cell in group.cells],
        "seeds": [cell["plan"]["seed"] for cell in group.cells],
        "cost": cost(group.cells),
    }


def _samples(
    pairs: Pairs, seen: Mapping[tuple[str, str], Evidence], shown: int
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Suite -> those that got worse and better most, by the suite's first metric."""
    firsts: dict[str, tuple[str, str]] = {}
    for name in seen:
        firsts.setdefault(name[0], name)
    return {suite: _most_changed(pairs, name, seen[name], shown) for suite, name in firsts.items()}


def _most_changed(
    pairs: Pairs, name: tuple[str, str], one: Evidence, shown: int
) -> dict[str, list[dict[str, Any]]]:
    mine, theirs = _per_sample(one.a), _per_sample(one.b)
    sign = 1 if one.higher_is_better else -1
    gains = {key: sign * (a - b) for key, a, b in zip(one.a.ids, mine, theirs, strict=True)}
    order = sorted(gains, key=lambda key: (gains[key], key))
    rows = [
        {row["id"]: row for row in pairs.rows(group, *name)[0]}
        for group in (pairs.candidate, pairs.baseline)
    ]
    values = [dict(zip(one.a.ids, side, strict=True)) for side in (mine, theirs)]

    def entry(key: str) -> dict[str, Any]:
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


def _per_sample(side: metric_summary.Pooled) -> list[float]:
    """A sample's score (over its denominator), the mean over seeds."""
    per = side.per or [[1.0] * len(side.ids)] * len(side.scores)
    return [
        sum(score[i] / (of[i] or 1.0) for score, of in zip(side.scores, per, strict=True))
        / len(side.scores)
        for i in range(len(side.ids))
    ]
