"""Sensitivity, specificity and the test of equal errors, against closed forms and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.stats import wilson
from harness.stats.judges import calibrate, calibration_of_counts, equal_errors
from harness.stats.judges.error_rates import chi_squared_tail

VERDICTS = [1] * 45 + [0] * 5 + [1] * 12 + [0] * 28
TRUTHS = [1] * 50 + [0] * 40


def test_sensitivity_and_specificity_have_wilsons_interval() -> None:
    result = calibrate(VERDICTS, TRUTHS)
    assert result.sensitivity is not None
    assert result.specificity is not None
    assert (result.sensitivity.value, result.specificity.value) == (0.9, 0.7)
    found = (result.sensitivity.ci_low, result.sensitivity.ci_high)
    assert found == pytest.approx(wilson(45, 50))
    found = (result.specificity.ci_low, result.specificity.ci_high)
    assert found == pytest.approx(wilson(28, 40))
    assert result.labels == 90
    assert result.problem is None
    assert calibration_of_counts(45, 5, 28, 12) == result


def test_youdens_j_is_newcombes_difference_of_two_shares() -> None:
    from statsmodels.stats.proportion import confint_proportions_2indep

    youden = calibrate(VERDICTS, TRUTHS).youden
    assert youden is not None
    expected = confint_proportions_2indep(45, 50, 12, 40, method="newcomb", compare="diff")
    assert youden.value == pytest.approx(0.6)
    assert (youden.ci_low, youden.ci_high) == pytest.approx(expected)


def test_scores_are_calibrated_by_their_means() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    result = calibrate(3 + labels + rng.normal(0, 0.5, 200), labels)
    assert result.youden is not None
    assert result.youden.ci_low < 1 < result.youden.ci_high
    assert result.sensitivity is None
    assert result.specificity is None
    assert result.problem is None


@pytest.mark.parametrize(
    ("verdicts", "labels", "problem"),
    [
        ([1, 0, 1], [1, 1, 1], "all 3 labelled answers are good"),
        ([1, 0, 1], [0, 0, 0], "all 3 labelled answers are bad"),
        ([math.nan, 1], [1, math.nan], "no labelled answer has a verdict"),
        ([1, 0, 1, 0], [1, 1, 0, 0], "say nothing for sure: sensitivity"),
        ([1, 1, 1, 1] * 20, [1, 1, 0, 0] * 20, "say nothing for sure"),
        ([0.5, 0.1, 0.3], [1, 0, 0], "one label is too few"),
    ],
)
def test_labels_that_cannot_correct_say_why(
    verdicts: list[float], labels: list[float], problem: str
) -> None:
    assert problem in str(calibrate(verdicts, labels).problem)


def test_labels_are_bad_or_good() -> None:
    with pytest.raises(ValueError, match=r"0 \(bad\) or 1 \(good\)"):
        calibrate([1, 0], [5, 1])


def test_answers_in_clusters_are_less_than_as_many_alone() -> None:
    alone = calibrate(VERDICTS, TRUTHS).youden
    names = [i // 5 for i in range(90)]
    together = calibrate(VERDICTS, TRUTHS, clusters=names).youden
    assert alone is not None
    assert together is not None
    assert together.ci_high - together.ci_low > alone.ci_high - alone.ci_low


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("statistic", [0.0, 0.3, 2.0, 9.0, 40.0])
def test_chi_squared_is_scipys(statistic: float, df: int) -> None:
    from scipy.stats import chi2

    assert chi_squared_tail(statistic, df) == pytest.approx(chi2.sf(statistic, df), rel=1e-9)


def test_equal_errors_are_rejected_where_one_systems_bad_answers_pass() -> None:
    truths = ([1] * 40 + [0] * 40) * 2
    alike = ([1] * 34 + [0] * 6 + [1] * 6 + [0] * 34) * 2
    flattered = alike[:80] + [1] * 39 + [0] * 1 + [1] * 24 + [0] * 16
    names = ["a"] * 80 + ["b"] * 80
    assert equal_errors(alike, truths, names).p == 1
    result = equal_errors(flattered, truths, names)
    assert result.p < 0.001
    assert result.df == 2
    assert math.isnan(equal_errors(alike[:80], truths[:80], names[:80]).p)


def test_equal_errors_is_pearsons_test() -> None:
    from scipy.stats import chi2_contingency

    verdicts = [1] * 30 + [0] * 10 + [1] * 20 + [0] * 20
    result = equal_errors(verdicts, [1] * 80, ["a"] * 40 + ["b"] * 40)
    expected = chi2_contingency([[30, 10], [20, 20]], correction=False).statistic
    assert result.statistic == pytest.approx(expected * 79 / 80)
    assert result.df == 1


def test_a_judge_that_errs_alike_is_rejected_about_one_time_in_twenty() -> None:
    rng, rejected = np.random.default_rng(4), 0
    for _ in range(1000):
        truth = rng.random(120) < 0.5
        verdict = rng.random(120) < np.where(truth, 0.85, 0.25)
        p = equal_errors(verdict * 1.0, truth * 1.0, ["a", "b", "c"] * 40).p
        rejected += p < 0.05
    assert 0.03 <= rejected / 1000 <= 0.07


def test_scores_that_all_agree_are_not_certain() -> None:
    """Ten good answers rated 5 and ten bad ones rated 1: another may be rated otherwise."""
    few, many = (calibrate([5] * n + [1] * n, [1] * n + [0] * n) for n in (10, 200))
    for result in (few, many):
        assert result.good is not None
        assert result.good.value == 5
    assert few.good is not None
    assert many.good is not None
    assert few.good.ci_low < 4 < 4.9 < many.good.ci_low
