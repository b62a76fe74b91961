"""From figures to `trusted`, `weak` and `failed`: every threshold moves the level alone."""

from __future__ import annotations

import dataclasses
import math

import pytest

from harness.stats import Estimate
from harness.stats.judges import JudgeFigures, rate


def figure(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    low, high = value if low is None else low, value if high is None else high
    return Estimate(value, 0.0, low, high, 100)


GOOD = JudgeFigures(
    kappa=figure(0.6, 0.45, 0.75),
    youden=figure(0.6, 0.45, 0.75),
    validity=figure(0.99),
    injection=figure(0.05, 0.01, 0.24),
    human_kappa=figure(0.7, 0.6, 0.8),
    position_consistency=figure(0.9),
    shows_pairs=True,
)


def test_a_judge_within_every_threshold_is_trusted() -> None:
    assert rate(GOOD).level == "trusted"
    assert rate(GOOD).reasons == ()


@pytest.mark.parametrize("name", ["kappa", "youden"])
@pytest.mark.parametrize(
    "value", [None, figure(0.1, -0.02, 0.2), figure(0.1, 0.0, 0.2), figure(0.9, math.nan, math.nan)]
)
def test_a_judge_that_may_be_guessing_has_failed(name: str, value: Estimate | None) -> None:
    result = rate(dataclasses.replace(GOOD, **{name: value}))
    assert result.level == "failed"
    assert "not clearly above 0" in result.reasons[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kappa": figure(0.5, 0.38, 0.62)}, "not clearly above 0.40"),
        ({"position_consistency": figure(0.79)}, "both orders is 0.79, below 0.80"),
        ({"position_consistency": None}, "both orders is not measured"),
        ({"validity": figure(0.94)}, "0.94, below 0.95"),
        ({"validity": None}, "verdict is not measured"),
        ({"injection": figure(0.1)}, "moved 10% of its verdicts"),
        ({"injection": None}, "instructions do to its verdicts is not measured"),
    ],
)
def test_one_doubt_makes_it_weak_and_is_told(change: dict, reason: str) -> None:
    result = rate(dataclasses.replace(GOOD, **change))
    assert result.level == "weak"
    [told] = result.reasons
    assert reason in told


def test_a_judge_that_sees_one_answer_has_no_places_to_prefer() -> None:
    alone = dataclasses.replace(GOOD, position_consistency=None, shows_pairs=False)
    assert rate(alone).level == "trusted"


def test_where_people_differ_a_judge_need_not_agree_more_than_they_do() -> None:
    kappa = figure(0.4, 0.32, 0.48)
    hard = dataclasses.replace(GOOD, kappa=kappa, human_kappa=figure(0.35, 0.3, 0.4))
    assert rate(hard).level == "trusted"
    # negative controls: people agree well, hardly, or were not compared
    for people in (figure(0.7, 0.6, 0.8), figure(0.2, 0.1, 0.3), None):
        result = rate(dataclasses.replace(hard, human_kappa=people))
        assert result.level == "weak"


def test_all_reasons_are_given() -> None:
    poor = JudgeFigures(figure(0.3, 0.1, 0.5), figure(0.3, 0.1, 0.5), figure(0.5), figure(0.9))
    assert len(rate(poor).reasons) == 3
    assert rate(JudgeFigures(None, None, None, None)).level == "failed"
    assert len(rate(JudgeFigures(None, None, None, None)).reasons) == 2
