"""Figures against closed forms and scipy; intervals by their coverage."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from harness import stats


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (1, 1), (3, 10), (50, 100), (399, 400), (20, 20)])
def test_share_has_wilsons_interval(hits: int, n: int) -> None:
    from scipy.stats import binomtest

    found = stats.estimate("share", [1] * hits + [0] * (n - hits))
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert found.value == pytest.approx(hits / n)
    assert (found.ci_low, found.ci_high) == pytest.approx((expected.low, expected.high))
    assert found.ci_low <= found.value <= found.ci_high
    assert found.n == n


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0, 0), (5, 0), (3, 9), (4, 4), (60, 45), (2600, 2400), (9000, 0)]
)
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    from scipy.stats import binomtest

    a = [1] * only_a + [0] * only_b + [1, 0]
    b = [0] * only_a + [1] * only_b + [1, 0]
    n = only_a + only_b
    expected = binomtest(only_a, n).pvalue if n else 1.0
    assert stats.mcnemar(a, b) == pytest.approx(expected, rel=1e-8)
    found = stats.paired("share", a, b)
    assert found.p_exact == pytest.approx(expected, rel=1e-8)
    assert found.delta == pytest.approx((only_a - only_b) / len(a))


def test_mean_agrees_with_the_t_interval() -> None:
    from scipy.stats import t

    scores = np.random.default_rng(1).normal(3.0, 2.0, size=500)
    found = stats.estimate("mean", scores)
    stderr = scores.std(ddof=1) / math.sqrt(500)
    low, high = t.interval(0.95, 499, scores.mean(), stderr)
    assert found.value == pytest.approx(scores.mean())
    assert found.stderr == pytest.approx(stderr, rel=0.06)
    assert found.ci_low == pytest.approx(low, abs=0.15 * stderr)
    assert found.ci_high == pytest.approx(high, abs=0.15 * stderr)


def test_perplexity_is_weighted_by_tokens_not_averaged_over_samples() -> None:
    found = stats.estimate("exp_ratio", [10.0, 300.0], [10, 100])
    assert found.value == pytest.approx(math.exp(310 / 110))
    assert stats.estimate("ratio", [10.0, 300.0], [10, 100]).value == pytest.approx(310 / 110)
    # two samples: a draw holds the first twice, the second twice, or both
    assert found.ci_low == pytest.approx(math.exp(1))
    assert found.ci_high == pytest.approx(math.exp(3))


@pytest.mark.parametrize("kind", ["mean", "ratio", "exp_ratio"])
def test_95_percent_intervals_cover_the_truth_about_95_percent_of_the_time(kind: str) -> None:
    rng = np.random.default_rng(2)
    covered, trials = 0, 300
    for _ in range(trials):
        per = rng.integers(5, 50, size=80)
        scores = per * 0.7 + rng.normal(0, 4, size=80)
        truth = {"mean": 27 * 0.7, "ratio": 0.7, "exp_ratio": math.exp(0.7)}[kind]
        found = stats.estimate(kind, scores, per, draws=400)  # type: ignore[arg-type]
        covered += found.ci_low <= truth <= found.ci_high
    assert 0.90 <= covered / trials <= 0.985


def test_pairing_takes_out_what_is_hard_for_both() -> None:
    rng = np.random.default_rng(3)
    hardness = rng.normal(0, 5, size=200)
    a, b = hardness + rng.normal(0.5, 0.5, size=200), hardness + rng.normal(0, 0.5, size=200)
    found = stats.paired("mean", a, b)
    assert found.delta == pytest.approx((a - b).mean())
    assert 0 < found.ci_low < found.delta < found.ci_high
    assert found.p < 0.01
    # apart, the two intervals overlap by far
    assert stats.estimate("mean", a).ci_low < stats.estimate("mean", b).ci_high
    # the pairing is by order: shuffled, the difference drowns
    shuffled = stats.paired("mean", a, rng.permutation(b))
    assert shuffled.ci_low < 0 < shuffled.ci_high


def test_no_difference_is_rejected_about_one_time_in_twenty() -> None:
    rng = np.random.default_rng(4)
    rejected = 0
    for _ in range(300):
        a, b = rng.normal(size=(2, 60))
        rejected += stats.paired("mean", a, b, draws=400).p < 0.05
    assert 0.015 <= rejected / 300 <= 0.1


def test_swapped_sides_only_change_the_sign() -> None:
    rng = np.random.default_rng(5)
    a, b, per = rng.random(50), rng.random(50), rng.integers(1, 9, 50)
    there = stats.paired("exp_ratio", a, b, per, per)
    back = stats.paired("exp_ratio", b, a, per, per)
    assert (there.delta, there.ci_low, there.ci_high) == pytest.approx(
        (-back.delta, -back.ci_high, -back.ci_low)
    )
    assert there.p == back.p


def test_a_model_against_itself_differs_by_nothing() -> None:
    scores = np.random.default_rng(6).random(30)
    found = stats.paired("mean", scores, scores)
    assert (found.delta, found.ci_low, found.ci_high, found.p) == (0, 0, 0, 1)


def test_draws_repeat_with_the_seed() -> None:
    scores = np.random.default_rng(7).random(40)
    assert stats.estimate("mean", scores) == stats.estimate("mean", scores)
    assert stats.estimate("mean", scores) != stats.estimate("mean", scores, seed=1)


def test_p_is_never_zero() -> None:
    found = stats.paired("mean", np.arange(50) + 10.0, np.arange(50) / 7, draws=100)
    assert found.p == pytest.approx(2 / 101)


def test_over_seeds_the_figure_is_the_mean_of_the_seeds_figures() -> None:
    rng = np.random.default_rng(8)
    scores, per = rng.random((3, 40)) * 9, rng.integers(1, 9, (3, 40))
    found = stats.estimate("exp_ratio", scores, per)
    alone = [stats.estimate("exp_ratio", *one).value for one in zip(scores, per, strict=True)]
    assert found.value == pytest.approx(np.mean(alone))
    assert found.ci_low < found.value < found.ci_high
    assert found.n == 40
    # against a base that ran once; shares of several seeds have no exact test
    shares = (rng.random((3, 40)) > 0.3).astype(int)
    difference = stats.paired("share", shares, shares[0])
    assert difference.delta == pytest.approx(shares.mean() - shares[0].mean())
    assert difference.p_exact is None


def test_one_sample_has_no_interval() -> None:
    found = stats.estimate("mean", [3.0])
    assert found.value == 3.0
    assert math.isnan(found.stderr)
    assert math.isnan(found.ci_low)
    difference = stats.paired("mean", [3.0], [1.0])
    assert difference.delta == 2.0
    assert math.isnan(difference.ci_high)
    assert math.isnan(difference.p)


@pytest.mark.parametrize(
    ("kind", "scores", "per", "message"),
    [
        ("mean", [], None, "samples"),
        ("mean", [1.0, math.nan], None, "finite"),
        ("mean", [1.0, math.inf], None, "finite"),
        ("ratio", [1.0], [math.nan], "finite"),
        ("share", [0, 0.5], None, "0 or 1"),
        ("ratio", [1.0], None, "needs `per`"),
        ("ratio", [1.0, 2.0], [1.0], "shape"),
        ("ratio", [1.0, 2.0], [0, 0], "sum to zero"),
        ("exp_ratio", [1.0, 2.0], [3, -1], "negative"),
    ],
)
def test_wrong_scores_are_refused(
    kind: stats.Kind, scores: list[float], per: list[float] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        stats.estimate(kind, scores, per)


def test_sides_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="same samples"):
        stats.paired("mean", [1.0, 2.0], [1.0])


def test_as_many_questions_as_mmlu_has_are_no_burden() -> None:
    a, b = np.random.default_rng(9).integers(0, 2, size=(2, 14_000))
    start = time.perf_counter()
    stats.paired("share", a, b)
    assert time.perf_counter() - start < 3  # about 0.4 s on one free core
