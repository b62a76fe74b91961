"""Few labels and many verdicts of one suite: the figures, their coverage, and a judge that errs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness import stats
from harness.stats.judges import powered_difference, powered_mean, random_labels


def some(rng: np.random.Generator, values: np.ndarray, count: int) -> np.ndarray:
    """`values` of `count` random samples, NaN elsewhere."""
    labels = np.full(len(values), np.nan)
    chosen = rng.permutation(len(values))[:count]
    labels[chosen] = values[chosen]
    return labels


def judged(rng: np.random.Generator, good: np.ndarray, judge: tuple[float, float]) -> np.ndarray:
    return (rng.random(len(good)) < np.where(good, judge[0], 1 - judge[1])) * 1.0


def test_the_weight_of_verdicts_is_the_power_tuning_of_ppi_plus_plus() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1, 400)
    verdict = truth + rng.normal(0, 1, 400)
    label = some(rng, truth, 80)
    known = ~np.isnan(label)
    n, others = 80, 320
    y, f, rest = label[known], verdict[known], verdict[~known]
    tuning = np.cov(y, f)[0, 1] / ((1 + n / others) * f.var(ddof=1))
    expected = y.mean() + tuning * (rest.mean() - f.mean())
    result = powered_mean(verdict, label)
    assert result.value == pytest.approx(expected)
    assert result.tuning == pytest.approx(tuning * (1 + n / others))
    assert (result.n, result.labels, result.assumption) == (400, 80, "random labels")


def test_a_good_judge_is_worth_many_labels_and_a_useless_one_none() -> None:
    rng = np.random.default_rng(1)
    good = rng.random(1000) < 0.6
    label = some(rng, good * 1.0, 100)
    widths = {}
    for name, judge in {"good": (0.97, 0.97), "none": (0.5, 0.5), "against": (0.1, 0.1)}.items():
        result = powered_mean(judged(rng, good, judge), label)
        assert result.ci_low < good.mean() < result.ci_high
        widths[name] = result.ci_high - result.ci_low
    alone = stats.estimate("share", label[~np.isnan(label)])
    assert widths["good"] < 0.6 * (alone.ci_high - alone.ci_low)
    assert widths["none"] == pytest.approx(alone.ci_high - alone.ci_low, rel=0.1)
    assert widths["against"] == pytest.approx(alone.ci_high - alone.ci_low, rel=0.1)


def test_the_worst_bias_of_a_judge_leaves_the_figure_alone() -> None:
    """Verdicts that pass nearly everything of b and nearly nothing of a."""
    rng = np.random.default_rng(2)
    a, b = rng.random((2, 600)) < 0.5
    va, vb = judged(rng, a, (0.4, 0.95)), judged(rng, b, (0.99, 0.3))
    la = some(rng, a * 1.0, 150)
    lb = np.where(np.isnan(la), np.nan, b)
    assert stats.paired("share", va, vb).ci_high < -0.3
    result = powered_difference(va, la, vb, lb)
    assert result.ci_low < a.mean() - b.mean() < result.ci_high
    assert result.raw < -0.3


@pytest.mark.parametrize(
    ("n", "labels", "judges"),
    [
        (200, 50, ((0.9, 0.8), (0.9, 0.8))),
        (1000, 200, ((0.65, 0.6), (0.65, 0.6))),
        (500, 100, ((0.85, 0.85), (0.97, 0.5))),  # loves length, and b's answers are long
    ],
)
def test_intervals_cover_the_truth_whatever_the_judge(
    n: int, labels: int, judges: tuple[tuple[float, float], tuple[float, float]]
) -> None:
    rng, times = np.random.default_rng([n, labels]), 1000
    alone = apart = told = 0
    for _ in range(times):
        a, b = rng.random((2, n)) < 0.6
        va, vb = (judged(rng, good, judge) for good, judge in zip((a, b), judges, strict=True))
        la = some(rng, a * 1.0, labels)
        lb = np.where(np.isnan(la), np.nan, b)
        one, change = powered_mean(va, la), powered_difference(va, la, vb, lb)
        alone += one.ci_low <= 0.6 <= one.ci_high
        apart += change.ci_low <= 0 <= change.ci_high
        told += change.p < 0.05
    assert 0.93 <= alone / times <= 0.975
    assert 0.93 <= apart / times <= 0.975
    assert told / times <= 0.065
    assert told == times - apart  # p and the interval agree


def test_labels_of_different_samples_of_either_system_serve_too() -> None:
    rng = np.random.default_rng(3)
    hardness = rng.random(800)
    a, b = hardness < 0.7, hardness < 0.5
    va, vb = judged(rng, a, (0.9, 0.9)), judged(rng, b, (0.9, 0.9))
    result = powered_difference(va, some(rng, a * 1.0, 150), vb, some(rng, b * 1.0, 120))
    assert result.labels == 270
    assert 0 < result.ci_low < 0.2 < result.ci_high


def test_levels_and_scores_are_means() -> None:
    rng = np.random.default_rng(4)
    truth = rng.integers(1, 6, 500).astype(float)
    verdict = 0.5 * truth + rng.normal(1, 0.5, 500)
    result = powered_mean(verdict, some(rng, truth, 60), limit=3.0)
    assert result.ci_low < truth.mean() < result.ci_high
    assert 0 < result.p <= 1
    assert result.value > 1.5


def test_copies_in_clusters_are_no_more_evidence() -> None:
    rng = np.random.default_rng(5)
    good = rng.random(200) < 0.5
    verdict, label = judged(rng, good, (0.9, 0.8)), some(rng, good * 1.0, 60)
    once = powered_mean(verdict, label, clusters=list(range(200)))
    four = powered_mean(np.tile(verdict, 4), np.tile(label, 4), clusters=list(range(200)) * 4)
    assert four.stderr == pytest.approx(once.stderr, rel=0.05)


def test_labels_without_an_exception_are_not_certainty() -> None:
    verdict = np.ones(500)
    label = np.full(500, np.nan)
    label[:40] = 1.0
    result = powered_mean(verdict, label)
    assert result.value == 1
    assert result.ci_low == pytest.approx(stats.wilson(40, 40)[0])
    zeros = np.where(np.isnan(label), np.nan, 0.0)
    equal = powered_difference(verdict, label, verdict, label)
    assert (equal.value, equal.p) == (0, 1)
    assert equal.ci_low < -0.02 < 0.02 < equal.ci_high
    assert powered_difference(verdict, label, 1 - verdict, zeros).ci_low > 0.9


def test_few_labels_tell_nothing() -> None:
    label = np.full(100, np.nan)
    label[:9] = 1.0
    result = powered_mean(np.ones(100), label)
    assert (result.ci_low, result.ci_high, result.p) == (0, 1, 1)
    assert result.reason == "9 labels are fewer than 10"
    change = powered_difference(np.ones(100), label, np.ones(100), label)
    assert (change.ci_low, change.ci_high) == (-1, 1)
    levels = np.where(np.isnan(label), np.nan, 4.0)
    assert powered_mean(np.ones(100), levels).ci_high == math.inf


def test_labels_of_picked_answers_are_noticed() -> None:
    rng = np.random.default_rng(6)
    good = rng.random(400) < 0.5
    verdict = judged(rng, good, (0.9, 0.9))
    worst = np.full(400, np.nan)
    failed = np.flatnonzero(verdict == 0)[:60]
    worst[failed] = good[failed]
    assert random_labels(verdict, worst) < 0.001
    by_chance = [random_labels(verdict, some(rng, good * 1.0, 60)) < 0.05 for _ in range(400)]
    assert 0.02 <= np.mean(by_chance) <= 0.085


def test_what_is_no_verdict_must_be_left_out_before() -> None:
    with pytest.raises(ValueError, match="finite"):
        powered_mean([1.0, math.nan], [1.0, 0.0])
    with pytest.raises(ValueError, match="differ in shape"):
        powered_mean([1.0, 0.0], [1.0])
