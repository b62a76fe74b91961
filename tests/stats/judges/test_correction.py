"""Corrected rates and differences: closed forms, useless judges, and coverage of the truth."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from harness import stats
from harness.stats.judges import (
    Corrected,
    allowance_for_length,
    calibrate,
    calibration_of_counts,
    corrected_difference,
    corrected_difference_by_system,
    corrected_rate,
    difference_of_rates,
    equal_errors,
)

FAIR = calibration_of_counts(90, 10, 80, 20)
"""Sensitivity 0.9, specificity 0.8."""
USELESS = calibration_of_counts(60, 40, 45, 55)


def share(hits: int, n: int) -> stats.Estimate:
    return stats.estimate("share", [1] * hits + [0] * (n - hits))


def apart(only_a: int, only_b: int, n: int) -> stats.Difference:
    both = n - only_a - only_b
    return stats.paired(
        "share", [1] * only_a + [0] * only_b + [1] * both, [0] * only_a + [1] * only_b + [1] * both
    )


def test_a_rate_is_rogan_and_gladens() -> None:
    result = corrected_rate(share(55, 100), FAIR)
    assert result.value == pytest.approx((0.55 + 0.8 - 1) / (0.9 + 0.8 - 1))
    assert result.ci_low < result.value < result.ci_high
    assert (result.raw, result.n, result.labels) == (0.55, 100, 200)
    assert result.assumption == "errors as labelled"


def test_many_labels_of_a_judge_without_error_leave_the_raw_interval() -> None:
    sure = calibration_of_counts(10**7, 0, 10**7, 0)
    raw = share(55, 100)
    result = corrected_rate(raw, sure)
    assert (result.value, result.ci_low, result.ci_high) == pytest.approx(
        (raw.value, raw.ci_low, raw.ci_high), abs=1e-4
    )
    change = apart(20, 8, 100)
    corrected = corrected_difference(change, sure)
    assert (corrected.value, corrected.ci_low, corrected.ci_high) == pytest.approx(
        (change.delta, change.ci_low, change.ci_high), abs=1e-4
    )


def test_the_interval_covers_samples_and_labels() -> None:
    """Neither many samples nor many labels alone make a rate sure."""
    widths = {}
    for n in (100, 10_000):
        for times in (1, 100):
            own = calibration_of_counts(90 * times, 10 * times, 80 * times, 20 * times)
            result = corrected_rate(share(55 * n // 100, n), own)
            widths[n, times] = result.ci_high - result.ci_low
    assert widths[100, 1] > widths[10_000, 1] > 2 * widths[10_000, 100]
    assert widths[100, 1] > widths[100, 100] > 2 * widths[10_000, 100]


def test_with_many_of_both_it_is_the_delta_methods() -> None:
    own = calibration_of_counts(9000, 1000, 8000, 2000)
    result = corrected_rate(share(5500, 10_000), own)
    rate, youden = result.value, 0.7
    variance = 0.55 * 0.45 / 1e4 + rate**2 * 0.09 / 1e4 + (1 - rate) ** 2 * 0.16 / 1e4
    half = 1.96 * math.sqrt(variance) / youden
    assert result.ci_high - result.ci_low == pytest.approx(2 * half, rel=0.01)


def test_a_difference_is_the_verdicts_over_youdens_j_and_as_sure() -> None:
    for change in (apart(30, 10, 200), apart(22, 20, 200), apart(0, 0, 50)):
        result = corrected_difference(change, FAIR)
        assert result.value == pytest.approx(change.delta / 0.7)
        assert result.p == change.p
        assert (result.ci_low > 0) == (change.ci_low > 0)
        back = corrected_difference(
            stats.Difference(-change.delta, -change.ci_high, -change.ci_low, change.p, change.n),
            FAIR,
        )
        assert (back.ci_low, back.ci_high) == pytest.approx((-result.ci_high, -result.ci_low))


@pytest.mark.parametrize(
    "own",
    [
        USELESS,
        calibration_of_counts(10, 90, 20, 80),  # against the labels
        calibration_of_counts(100, 0, 0, 100),  # passes everything
        calibration_of_counts(40, 0, 0, 0),  # labels of one class
        calibration_of_counts(2, 1, 2, 1),
    ],
)
def test_a_useless_judge_tells_nothing(own) -> None:
    alone = corrected_rate(share(199, 200), own)
    change = corrected_difference(apart(150, 5, 200), own)
    for result, bounds in ((alone, (0, 1)), (change, (-1, 1))):
        assert (result.ci_low, result.ci_high) == bounds
        assert math.isnan(result.value)
        assert result.p == 1
        assert result.reason == own.problem is not None


def test_a_weak_judge_tells_less_than_a_good_one() -> None:
    weak = calibration_of_counts(65, 35, 60, 40)
    good = calibration_of_counts(95, 5, 95, 5)
    change = apart(40, 20, 200)
    of_weak, of_good = corrected_difference(change, weak), corrected_difference(change, good)
    assert of_weak.ci_high - of_weak.ci_low > 3 * (of_good.ci_high - of_good.ci_low)


def test_answers_that_are_judged_otherwise_than_the_labelled_ones_tell_nothing() -> None:
    """98 % pass, of a judge that passes 60 % of good answers: no rate explains that."""
    own = calibration_of_counts(60, 40, 90, 10)
    result = corrected_rate(share(196, 200), own)
    assert (result.ci_low, result.ci_high) == (0, 1)
    assert "not judged as the labelled ones" in str(result.reason)
    assert corrected_rate(share(120, 200), own).reason is None


@pytest.mark.parametrize("limit", [-0.2, 0.0, 0.05, 0.3])
def test_p_agrees_with_the_interval(limit: float) -> None:
    change = apart(34, 12, 200)
    level = 0.95
    result = corrected_difference(change, FAIR, limit=limit)
    assert (result.p < 1 - level) == (not result.ci_low <= limit <= result.ci_high)
    two = corrected_difference_by_system(
        share(120, 200), share(98, 200), change, FAIR, FAIR, limit=limit
    )
    assert (two.p < 1 - level) == (not two.ci_low <= limit <= two.ci_high)
    alone = corrected_rate(share(100, 200), FAIR, limit=limit)
    assert (alone.p < 1 - level) == (not alone.ci_low <= limit <= alone.ci_high)


def test_scores_become_shares_of_good_answers() -> None:
    """A judge that rates from 1 to 5, and never near its ends."""
    rng = np.random.default_rng(0)
    label = rng.random(300) < 0.5
    own = calibrate(2.8 + 0.6 * label + rng.normal(0, 0.3, 300), label * 1.0)
    good = rng.random(1000) < 0.7
    raw = stats.estimate("mean", 2.8 + 0.6 * good + rng.normal(0, 0.3, 1000))
    result = corrected_rate(raw, own)
    assert result.ci_low < 0.7 < result.ci_high
    assert result.ci_high - result.ci_low < 0.25


def test_seeds_and_clusters_are_in_the_interval() -> None:
    rng = np.random.default_rng(1)
    base = (rng.random((1, 200)) < 0.6) * 1.0
    runs = np.where(rng.random((3, 200)) < [[0.05], [0.1], [0.3]], 1 - base, base)
    several, one = stats.estimate("share", runs), stats.estimate("share", runs[0])
    assert several.ci_high - several.ci_low > one.ci_high - one.ci_low
    wide, narrow = corrected_rate(several, FAIR), corrected_rate(one, FAIR)
    assert wide.ci_high - wide.ci_low > narrow.ci_high - narrow.ci_low


def test_paired_verdicts_make_differences_by_system_surer() -> None:
    paired = corrected_difference_by_system(
        share(120, 200), share(100, 200), apart(22, 2, 200), FAIR, FAIR
    )
    crossed = corrected_difference_by_system(
        share(120, 200), share(100, 200), apart(70, 50, 200), FAIR, FAIR
    )
    assert paired.value == pytest.approx(crossed.value) == pytest.approx(0.1 / 0.7)
    assert paired.ci_high - paired.ci_low < crossed.ci_high - crossed.ci_low


def test_one_useless_judge_spoils_a_difference_by_system() -> None:
    change = apart(22, 2, 200)
    result = corrected_difference_by_system(share(120, 200), share(100, 200), change, FAIR, USELESS)
    assert (result.ci_low, result.ci_high, result.p) == (-1, 1, 1)
    assert result.reason == USELESS.problem


# ---- coverage ------------------------------------------------------------------------------------


def drawn_calibration(rng: np.random.Generator, labels: int, judge: tuple[float, float]):
    good = int(rng.binomial(labels, 0.5))
    passed, failed = rng.binomial(good, judge[0]), rng.binomial(labels - good, judge[1])
    return calibration_of_counts(
        int(passed), good - int(passed), int(failed), labels - good - int(failed)
    )


@pytest.mark.parametrize(
    ("n", "labels", "judge", "truth"),
    [
        (50, 50, (0.9, 0.8), 0.3),
        (200, 100, (0.9, 0.8), 0.9),
        (1000, 50, (0.95, 0.95), 0.1),
        (1000, 400, (0.8, 0.7), 0.5),
    ],
)
def test_a_corrected_rate_covers_the_truth(
    n: int, labels: int, judge: tuple[float, float], truth: float
) -> None:
    rng, held, naive, times = np.random.default_rng([n, labels]), 0, 0, 2000
    passing = truth * judge[0] + (1 - truth) * (1 - judge[1])
    for hits in rng.binomial(n, passing, times).tolist():
        low, high = stats.wilson(hits, n)
        raw = stats.Estimate(hits / n, 0.0, low, high, n)
        result = corrected_rate(raw, drawn_calibration(rng, labels, judge))
        held += result.ci_low <= truth <= result.ci_high
        naive += low <= truth <= high
    assert 0.93 <= held / times <= 0.97
    if n * abs(passing - truth) > 50:  # the negative control: where verdicts are biased
        assert naive / times < 0.5


def test_a_weak_judge_covers_too_and_never_makes_a_finding_of_nothing() -> None:
    rng, held, told, times = np.random.default_rng(5), 0, 0, 2000
    judge, n = (0.65, 0.6), 200
    for _ in range(times):
        a, b = rng.random((2, n)) < 0.5
        va, vb = (rng.random(n) < np.where(good, judge[0], 1 - judge[1]) for good in (a, b))
        low, high = stats.tango(int((va & ~vb).sum()), int((vb & ~va).sum()), n)
        raw = stats.Difference(float(va.mean() - vb.mean()), low, high, 0.5, n)
        result = corrected_difference(raw, drawn_calibration(rng, 100, judge))
        held += result.ci_low <= 0 <= result.ci_high
        told += result.ci_low > 0 or result.ci_high < 0
    assert held / times >= 0.93
    assert told / times <= 0.05


# ---- a judge whose errors depend on the system ---------------------------------------------------

SHORT, LONG = (0.85, 0.85), (0.97, 0.5)
"""Sensitivity and specificity of a judge that loves length, by the length of the answer."""


def verdicts(rng: np.random.Generator, good: np.ndarray, judge: tuple[float, float]) -> np.ndarray:
    return (rng.random(len(good)) < np.where(good, judge[0], 1 - judge[1])) * 1.0


def love_of_length(rng: np.random.Generator) -> dict[str, Corrected | stats.Difference]:
    """b - a of equally good systems; b's answers are the longer ones."""
    a, b = rng.random((2, 500)) < 0.6
    va, vb = verdicts(rng, a, SHORT), verdicts(rng, b, LONG)
    raw = stats.paired("share", vb, va)
    labels = [rng.random(100) < 0.5 for _ in range(2)]
    rated = [verdicts(rng, good, judge) for good, judge in zip(labels, (SHORT, LONG), strict=True)]
    of_a, of_b = (calibrate(v, good * 1.0) for v, good in zip(rated, labels, strict=True))
    both = calibrate(np.concatenate(rated), np.concatenate(labels) * 1.0)
    padded = stats.paired("share", verdicts(rng, labels[0], LONG), rated[0])
    allowance = allowance_for_length(padded, 2.0, 2.0)
    shares = [stats.estimate("share", v) for v in (vb, va)]
    return {
        "verdicts": raw,
        "one calibration": corrected_difference(raw, both),
        "allowance": corrected_difference(raw, both, allowance=allowance),
        "by system": corrected_difference_by_system(*shares, raw, of_b, of_a),
    }


def test_a_judge_that_loves_length_is_corrected_by_what_is_known_of_either_system() -> None:
    rng, times = np.random.default_rng(6), 200
    better = dict.fromkeys(love_of_length(rng), 0)
    for _ in range(times):
        for name, figure in love_of_length(rng).items():
            better[name] += figure.ci_low > 0
    assert better["verdicts"] > 0.95 * times
    # errors by class alone do not show it: the larger figure is as sure and as wrong
    assert better["one calibration"] > 0.95 * times
    assert better["allowance"] <= 0.05 * times
    assert better["by system"] <= 0.05 * times


def test_the_assumption_is_named_and_labels_of_both_systems_test_it() -> None:
    rng = np.random.default_rng(7)
    names = {k: v for k, v in love_of_length(rng).items() if isinstance(v, Corrected)}
    assert names["one calibration"].assumption == "equal errors"
    assert names["by system"].assumption == "errors by system"
    rejected = 0
    for _ in range(100):
        good = rng.random((2, 100)) < 0.5
        rated = [verdicts(rng, good[0], SHORT), verdicts(rng, good[1], LONG)]
        p = equal_errors(np.ravel(rated), good.ravel() * 1.0, ["a"] * 100 + ["b"] * 100).p
        rejected += p < 0.05
    assert rejected > 90


def test_an_allowance_grows_with_the_difference_in_length() -> None:
    padded = apart(30, 5, 100)
    low, high = allowance_for_length(padded, 2.0, 2.0)
    assert (low, high) == (0, pytest.approx(padded.ci_high))
    assert allowance_for_length(padded, 2.0, 4.0)[1] == pytest.approx(2 * high)
    assert allowance_for_length(padded, 2.0, 1.0) == (0, 0)
    shorter = allowance_for_length(padded, 2.0, 0.5)
    assert shorter == (pytest.approx(-padded.ci_high), 0)
    with pytest.raises(ValueError, match="above 1"):
        allowance_for_length(padded, 1.0, 2.0)
    # it widens towards what the judge would rate too high, and nowhere else
    change = apart(60, 20, 200)
    plain, allowed = (corrected_difference(change, FAIR, allowance=a) for a in ((0, 0), (0, 0.2)))
    assert allowed.ci_high == plain.ci_high
    assert allowed.ci_low <= 0 < plain.ci_low
    assert allowed.p > 0.05 > plain.p


def test_what_is_corrected_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        corrected_rate(share(5, 10), FAIR).value = 1.0  # type: ignore[misc]


# ---- answers that are worse than the labelled bad ones -------------------------------------------


def test_fewer_passes_than_of_bad_answers_bound_the_rate_by_what_good_ones_pass() -> None:
    """2 of 48 pass, of a judge that passes 20 % of bad answers and 90 % of good ones."""
    raw = share(2, 48)
    result = corrected_rate(raw, FAIR)
    assert (result.value, result.ci_low, result.reason) == (0, 0, None)
    assert result.assumption == "errors at most as labelled"
    # Fieller's limit is a little above that of a judge whose 90 % are sure
    assert raw.ci_high / 0.9 < result.ci_high < raw.ci_high / 0.9 + 0.01
    # negative control: as many as of bad answers are explained by the labels
    assert corrected_rate(share(10, 48), FAIR).assumption == "errors as labelled"


@pytest.mark.parametrize("limit", [0.0, 0.1, 0.16, 0.18, 0.5, 1.0])
def test_p_of_a_bounded_rate_agrees_with_its_interval(limit: float) -> None:
    result = corrected_rate(share(2, 48), FAIR, limit=limit)
    assert (result.p >= 0.05) == (result.ci_low <= limit <= result.ci_high)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.05])
def test_a_bounded_rate_covers_the_truth_where_bad_answers_are_easier(rate: float) -> None:
    """The judge passes good answers as labelled, and no bad one here where it passed 20 %."""
    rng = np.random.default_rng(5)
    bounded = []
    for _ in range(400):
        good = rng.random(60) < rate
        passed = good & (rng.random(60) < 0.9)
        result = corrected_rate(share(int(passed.sum()), 60), FAIR)
        if result.assumption == "errors at most as labelled":
            bounded.append(result.ci_low <= rate <= result.ci_high)
    assert len(bounded) > 200
    assert np.mean(bounded) > 0.95


def test_more_passes_than_of_good_answers_have_no_bound() -> None:
    """Or whoever talks a judge into it has the best model."""
    result = corrected_rate(share(48, 48), FAIR)
    assert result.reason is not None
    assert (result.ci_low, result.ci_high) == (0, 1)


def test_a_difference_of_rates_is_within_what_both_can_be() -> None:
    a, b = corrected_rate(share(30, 48), FAIR), corrected_rate(share(0, 48), FAIR)
    change = difference_of_rates(a, b, apart(30, 0, 48))
    assert change.value == pytest.approx(a.value - b.value)
    assert change.value <= a.value
    assert 0 < change.ci_low < a.ci_low
    assert change.ci_high == pytest.approx(a.ci_high)
    assert change.assumption == "errors at most as labelled"
    back = difference_of_rates(b, a, apart(0, 30, 48))
    assert (back.value, back.ci_low, back.ci_high) == pytest.approx(
        (-change.value, -change.ci_high, -change.ci_low)
    )
    # negative controls: an allowance that could explain it all, and a rate that nobody can tell
    allowed = difference_of_rates(a, b, apart(30, 0, 48), allowance=(0.0, 1.0))
    assert allowed.ci_low < 0
    untold = difference_of_rates(a, corrected_rate(share(48, 48), FAIR), apart(0, 18, 48))
    assert (untold.ci_low, untold.ci_high) == (-1, 1)
    assert untold.reason is not None
