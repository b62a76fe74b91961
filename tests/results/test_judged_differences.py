"""A judge's verdicts between two arms: the error of the judge is in what compare and gate see."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from harness import stats
from harness.record import Estimator, JudgeErrors
from harness.results.paired_differences import Evidence
from harness.stats import metric_summary
from harness.types import Metric

JUDGE = (0.9, 0.8)
"""Sensitivity and specificity."""


def mean_verdict(hits: int, n: int) -> Any:
    return vars(stats.estimate("share", [1] * hits + [0] * (n - hits)))


GOOD: JudgeErrors = {
    "level": "trusted",
    "reason": "",
    "binary": True,
    "good": mean_verdict(180, 200),
    "bad": mean_verdict(40, 200),
}
USELESS: JudgeErrors = {**GOOD, "level": "weak", "bad": mean_verdict(178, 200)}
FAILED: JudgeErrors = {**GOOD, "level": "failed", "reason": "kappa is 0.01 [-0.1, 0.1]"}


def how(judge: JudgeErrors | None, label: str = "") -> Estimator:
    return metric_summary.estimator(Metric("verdict", True, kind="share", judge=judge, label=label))


def rows(
    rng: np.random.Generator, rate: float, n: int = 400, labelled: int = 0, words: int = 5
) -> list[dict[str, Any]]:
    good = rng.random(n) < rate
    verdict = rng.random(n) < np.where(good, JUDGE[0], 1 - JUDGE[1])
    return [
        {
            "id": f"s{i:04}",
            "output": "word " * words,
            "scores": {
                "verdict": float(verdict[i]),
                "people": float(good[i]) if i < labelled else None,
            },
        }
        for i in range(n)
    ]


def evidence(
    estimator: Estimator, own: list[dict[str, Any]], other: list[dict[str, Any]]
) -> Evidence:
    a, b = (metric_summary.pool([metric_summary.scored(estimator, arm)]) for arm in (own, other))
    within = metric_summary.bounds(estimator)
    return Evidence("share", True, a, b, 0.95, bounds=within, how=estimator)


A, B = (
    rows(np.random.default_rng(0), 0.7, labelled=80),
    rows(np.random.default_rng(1), 0.4, labelled=80),
)


def test_a_metric_is_corrected_and_keeps_what_the_verdicts_say() -> None:
    section = metric_summary.measure(how(GOOD), True, [A], [B])
    plain = metric_summary.measure(how(None), True, [A], [B])
    correction = section["correction"]
    assert correction["raw"] == plain["value"]
    assert correction["raw_delta"] == plain["delta"]
    assert (correction["assumption"], correction["delta_assumption"]) == (
        "errors as labelled",
        "equal errors",
    )
    assert correction["labels"] == 400
    assert section["value"] == pytest.approx((plain["value"] - 0.2) / 0.7)
    assert section["delta"] == pytest.approx(plain["delta"] / 0.7)
    assert section["ci_low"] < 0.7 < section["ci_high"]
    assert section["ci_high"] - section["ci_low"] > plain["ci_high"] - plain["ci_low"]
    assert "correction" not in plain


def test_labels_in_the_sample_rows_come_first() -> None:
    section = metric_summary.measure(how(GOOD, "people"), True, [A], [B])
    correction = section["correction"]
    assert correction["assumption"] == correction["delta_assumption"] == "random labels"
    assert correction["labels"] == 80
    assert section["ci_low"] < 0.7 < section["ci_high"]
    assert section["delta_ci_low"] < 0.3 < section["delta_ci_high"]


@pytest.mark.parametrize("judge", [USELESS, FAILED])
def test_a_useless_or_failed_judge_has_no_figure_but_a_reason(judge: JudgeErrors) -> None:
    section = metric_summary.measure(how(judge), True, [A], [B])
    assert section["value"] is section["delta"] is None
    assert (section["ci_low"], section["ci_high"]) == (0, 1)
    assert (section["delta_ci_low"], section["delta_ci_high"]) == (-1, 1)
    assert section["delta_p"] == 1
    assert section["correction"]["reason"]
    # negative control: the verdicts alone are sure
    assert metric_summary.measure(how(None), True, [A], [B])["delta_ci_low"] > 0


def test_a_metric_comes_back_from_its_section() -> None:
    section = metric_summary.measure(how(GOOD, "people"), True, [A], [])
    [metric] = metric_summary.metrics_of({"verdict": section})
    assert metric_summary.estimator(metric) == how(GOOD, "people")


def test_what_compare_and_gate_decide_by_has_the_judges_error() -> None:
    raw, judged = evidence(how(None), A, B).change(), evidence(how(GOOD), A, B).change()
    assert judged.value == pytest.approx(raw.value / 0.7)
    assert judged.ci_high - judged.ci_low > raw.ci_high - raw.ci_low
    assert judged.p == raw.p
    useless = evidence(how(USELESS), A, B)
    for limit in (-0.5, 0.0, 0.1):
        test = useless.change(limit)
        assert (test.ci_low, test.ci_high, test.p) == (-1, 1, 1)
    assert useless.alone(0.1).p == 1
    assert not math.isnan(useless.value)


@pytest.mark.parametrize("limit", [-0.05, 0.0, 0.2, 0.35])
def test_p_and_interval_agree_at_every_limit(limit: float) -> None:
    for estimator in (how(GOOD), how(GOOD, "people")):
        both = evidence(estimator, A, B)
        for test in (both.change(limit), both.alone(limit)):
            assert (test.p < 0.05) == (not test.ci_low <= limit <= test.ci_high)
        relative = both.relative_change(limit)
        assert (relative.p < 0.05) == (not relative.ci_low <= limit <= relative.ci_high)


def test_ranks_of_rows_under_a_useless_judge_are_all_tied() -> None:
    arms = {
        i: ([metric_summary.scored(how(USELESS), arm)], None) for i, arm in enumerate((A, B, A))
    }
    assert {test.p for test in metric_summary.pairwise(how(USELESS), arms)} == {1}
    told = metric_summary.pairwise(how(GOOD), arms)
    assert [test.p < 0.001 for test in told] == [True, False, True]


def test_several_seeds_are_in_a_judged_difference() -> None:
    rng = np.random.default_rng(3)
    runs = [rows(rng, rate) for rate in (0.75, 0.6, 0.45)]
    spread = metric_summary.measure(how(GOOD), True, runs, [B])
    alike = metric_summary.measure(how(GOOD), True, [rows(rng, 0.6) for _ in range(3)], [B])
    assert spread["ci_high"] - spread["ci_low"] > 1.5 * (alike["ci_high"] - alike["ci_low"])


def test_longer_answers_get_what_the_certificate_says_that_length_is_worth() -> None:
    loving: JudgeErrors = {
        **GOOD,
        "length": {"delta": 0.3, "ci_low": 0.2, "ci_high": 0.4, "padding": 2.0},
    }
    long = rows(np.random.default_rng(4), 0.65, words=10)
    short = rows(np.random.default_rng(5), 0.35, words=5)
    assert evidence(how(GOOD), long, short).change().ci_low > 0
    assert evidence(how(loving), long, short).change().ci_low < 0
    alike = rows(np.random.default_rng(4), 0.65, words=5)
    assert evidence(how(loving), alike, short).change().ci_low > 0
