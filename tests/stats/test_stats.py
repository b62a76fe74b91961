"""Figures against closed forms and scipy; intervals by their coverage."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from harness import stats
from harness.stats import Kind, bootstrapping, proportions, student_t


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (1, 1), (3, 10), (50, 100), (399, 400), (20, 20)])
def test_share_has_wilsons_interval(hits: int, n: int) -> None:
    from scipy.stats import binomtest

    result = stats.estimate("share", [1] * hits + [0] * (n - hits))
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert result.value == pytest.approx(hits / n)
    assert (result.ci_low, result.ci_high) == pytest.approx((expected.low, expected.high))
    assert result.ci_low <= result.value <= result.ci_high
    assert result.n == n


@pytest.mark.parametrize(
    ("only_a", "only_b"), [(0, 0), (5, 0), (3, 9), (4, 4), (60, 45), (2600, 2400)]
)
def test_mcnemar_counts_half_of_what_was_seen(only_a: int, only_b: int) -> None:
    from scipy.stats import binom, binomtest

    a = [1] * only_a + [0] * only_b + [1, 0]
    b = [0] * only_a + [1] * only_b + [1, 0]
    n = only_a + only_b
    exact = binomtest(only_a, n).pvalue if n else 1.0
    seen = binom.pmf(only_a, n, 0.5) if n else 0.0
    expected = exact - seen if only_a != only_b else 1 - seen / 2 if n else 1.0
    assert stats.mcnemar(a, b) == pytest.approx(expected, rel=1e-3)
    result = stats.paired("share", a, b)
    assert result.p_exact == pytest.approx(expected, rel=1e-3)
    assert result.delta == pytest.approx((only_a - only_b) / len(a))


def test_mean_agrees_with_the_t_interval() -> None:
    from scipy.stats import t

    scores = np.random.default_rng(1).normal(3.0, 2.0, size=500)
    result = stats.estimate("mean", scores)
    stderr = scores.std(ddof=1) / math.sqrt(500)
    low, high = t.interval(0.95, 499, scores.mean(), stderr)
    assert result.value == pytest.approx(scores.mean())
    assert result.stderr == pytest.approx(stderr, rel=0.06)
    assert result.ci_low == pytest.approx(low, abs=0.15 * stderr)
    assert result.ci_high == pytest.approx(high, abs=0.15 * stderr)


def test_perplexity_is_weighted_by_tokens_not_averaged_over_samples() -> None:
    result = stats.estimate("exp_ratio", [10.0, 300.0], [10, 100])
    assert result.value == pytest.approx(math.exp(310 / 110))
    assert stats.estimate("ratio", [10.0, 300.0], [10, 100]).value == pytest.approx(310 / 110)
    # of two samples little is known: the interval reaches beyond both, and stays above zero
    assert 0 < result.ci_low < math.exp(1)
    assert result.ci_high > math.exp(3)


@pytest.mark.parametrize("kind", ["mean", "ratio", "exp_ratio"])
def test_95_percent_intervals_cover_the_truth_about_95_percent_of_the_time(kind: str) -> None:
    rng = np.random.default_rng(2)
    covered, trials = 0, 300
    for _ in range(trials):
        per = rng.integers(5, 50, size=80)
        scores = per * 0.7 + rng.normal(0, 4, size=80)
        truth = {"mean": 27 * 0.7, "ratio": 0.7, "exp_ratio": math.exp(0.7)}[kind]
        result = stats.estimate(kind, scores, per, draws=400)  # type: ignore[arg-type]
        covered += result.ci_low <= truth <= result.ci_high
    assert 0.90 <= covered / trials <= 0.985


def test_pairing_takes_out_what_is_hard_for_both() -> None:
    rng = np.random.default_rng(3)
    hardness = rng.normal(0, 5, size=200)
    a, b = hardness + rng.normal(0.5, 0.5, size=200), hardness + rng.normal(0, 0.5, size=200)
    result = stats.paired("mean", a, b)
    assert result.delta == pytest.approx((a - b).mean())
    assert 0 < result.ci_low < result.delta < result.ci_high
    assert result.p < 0.01
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


def test_swapped_arms_only_change_the_sign() -> None:
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
    result = stats.paired("mean", scores, scores)
    assert (result.delta, result.ci_low, result.ci_high, result.p) == (0, 0, 0, 1)


def test_draws_repeat_with_the_seed() -> None:
    scores = np.random.default_rng(7).random(40)
    assert stats.estimate("mean", scores) == stats.estimate("mean", scores)
    assert stats.estimate("mean", scores) != stats.estimate("mean", scores, seed=1)


def test_p_is_never_zero() -> None:
    result = stats.paired("mean", np.arange(50) + 10.0, np.arange(50) / 7, draws=100)
    assert result.p == pytest.approx(2 / 101)


def test_over_seeds_the_figure_is_the_mean_of_the_seeds_figures() -> None:
    rng = np.random.default_rng(8)
    scores, per = rng.random((3, 40)) * 9, rng.integers(1, 9, (3, 40))
    result = stats.estimate("exp_ratio", scores, per)
    alone = [stats.estimate("exp_ratio", *run).value for run in zip(scores, per, strict=True)]
    assert result.value == pytest.approx(np.mean(alone))
    assert result.ci_low < result.value < result.ci_high
    assert result.n == 40
    # against a base that ran once; shares of several seeds have no exact test
    shares = (rng.random((3, 40)) > 0.3).astype(int)
    difference = stats.paired("share", shares, shares[0])
    assert difference.delta == pytest.approx(shares.mean() - shares[0].mean())
    assert difference.p_exact is None


def test_one_sample_has_no_interval() -> None:
    result = stats.estimate("mean", [3.0])
    assert result.value == 3.0
    assert math.isnan(result.stderr)
    assert math.isnan(result.ci_low)
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


def test_arms_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="same samples"):
        stats.paired("mean", [1.0, 2.0], [1.0])


# ---- against scipy and statsmodels ---------------------------------------------------------------


def test_the_t_interval_agrees_with_scipy() -> None:
    from scipy.stats import t

    scores = np.random.default_rng(1).gamma(2, size=37)
    for confidence in (0.8, 0.95, 0.999):
        stderr = scores.std(ddof=1) / math.sqrt(37)
        expected = t.interval(confidence, 36, scores.mean(), stderr)
        assert stats.t_interval(scores, confidence) == pytest.approx(expected, abs=1e-9)
    assert all(map(math.isnan, stats.t_interval([1.0])))


def test_students_t_and_beta_agree_with_scipy() -> None:
    from scipy import special

    for df in (1, 2.5, 11, 99, 1e4):
        for p in (1e-6, 0.025, 0.3, 0.5, 0.9, 0.975, 1 - 1e-9):
            expected = special.stdtrit(df, p)
            assert student_t.t_quantile(p, df) == pytest.approx(expected, rel=1e-9, abs=1e-9)
        for t in (-3.0, 0.0, 1e-9, 0.7, 4.0, 60.0):
            expected = 2 * special.stdtr(df, -abs(t))
            assert student_t.t_two_sided(t, df) == pytest.approx(expected, rel=1e-9)
    for a, b in ((0.5, 0.5), (1, 30), (400, 1.0), (5000, 9000)):
        for p in (1e-9, 0.025, 0.6, 0.975):
            expected = special.betaincinv(a, b, p)
            assert student_t.beta_quantile(p, a, b) == pytest.approx(expected, rel=1e-8)


def test_holm_agrees_with_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(2)
    for n in (1, 2, 7, 40):
        p = rng.random(n) ** 3
        assert stats.holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-9)
    assert stats.holm([]) == []


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (1, 1), (3, 10), (50, 100), (399, 400)])
def test_the_exact_interval_of_a_share_agrees_with_scipy(hits: int, n: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(hits, n).proportion_ci(method="exact")
    assert stats.clopper_pearson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_clustered_errors_agree_with_statsmodels() -> None:
    import statsmodels.api as sm

    rng = np.random.default_rng(3)
    clusters = rng.integers(0, 23, size=200)
    scores = rng.normal(size=23)[clusters] + rng.normal(size=200)
    model = sm.OLS(scores, np.ones(200))
    fit = model.fit(cov_type="cluster", cov_kwds={"groups": clusters})
    names = [f"passage {i}" for i in clusters]
    assert stats.clustered_stderr(scores, names) == pytest.approx(fit.bse[0], abs=1e-9)
    # far wider than if questions did not hang together, and the bootstrap says so too
    plain = scores.std(ddof=1) / math.sqrt(200)
    assert fit.bse[0] > 2 * plain
    result = stats.estimate("mean", scores, clusters=names, draws=4000)
    assert result.stderr == pytest.approx(fit.bse[0], rel=0.08)


def test_the_detectable_difference_has_the_power_that_it_says() -> None:
    from statsmodels.stats.power import TTestPower

    needed = TTestPower().solve_power(effect_size=0.1, alpha=0.05, power=0.8)
    assert stats.minimum_detectable_effect(1 / math.sqrt(needed)) == pytest.approx(0.1, rel=0.01)
    assert stats.samples_needed(0.1, 100, 0.05) == pytest.approx(
        TTestPower().solve_power(effect_size=0.05, alpha=0.05, power=0.8), rel=0.01
    )
    assert stats.samples_needed(0.1, 100, 0.0) is None


# ---- what the intervals promise ------------------------------------------------------------------


def test_tangos_interval_is_the_published_one() -> None:
    # Fagerland, Lydersen & Laake, Statistics in Medicine 33 (2014) 2850: 1 and 7 of 21
    assert stats.tango(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=1e-3)
    low, high = stats.tango(7, 1, 21)
    assert (-high, -low) == pytest.approx(stats.tango(1, 7, 21))
    # nothing changed in 100 answers: still not proof that nothing does
    low, high = stats.tango(0, 0, 100)
    assert (low, high) == pytest.approx((-0.037, 0.037), abs=1e-3)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_p_and_interval_of_paired_shares_agree_on_zero(confidence: float) -> None:
    for only_a in range(24):
        for only_b in range(12):
            a = [1.0] * only_a + [0.0] * only_b + [1.0] * 30
            b = [0.0] * only_a + [1.0] * only_b + [1.0] * 30
            result = stats.paired_shares(a, b, confidence)
            assert result.ci_low <= result.delta <= result.ci_high
            outside = result.ci_low > 0 or result.ci_high < 0
            assert (result.p < 1 - confidence) == outside


@pytest.mark.parametrize("n", [5, 12, 30])
def test_intervals_of_few_samples_are_wide_enough(n: int) -> None:
    rng = np.random.default_rng(n)
    covered = 0
    for _ in range(400):
        result = stats.estimate("mean", rng.normal(size=n), draws=500)
        covered += result.ci_low <= 0 <= result.ci_high
    assert covered / 400 >= 0.93


def test_the_spread_between_seeds_is_in_the_interval() -> None:
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(300):
        seeds = rng.normal(0, 1, size=(4, 1))
        scores = seeds + rng.normal(0, 1, size=60) + rng.normal(0, 0.5, size=(4, 60))
        result = stats.estimate("mean", scores, draws=500)
        covered += result.ci_low <= 0 <= result.ci_high
    assert 0.90 <= covered / 300 <= 0.995


def test_a_share_without_exception_is_no_surer_over_several_seeds() -> None:
    """What does not vary cannot be resampled; the closed forms of one run know better."""
    none, all_of = np.zeros((3, 20)), np.ones((3, 20))
    for scores in (none, all_of):
        result = stats.estimate("share", scores)
        single = stats.wilson(scores[0].sum(), 20)
        assert (result.ci_low, result.ci_high) == pytest.approx(single)
    apart = stats.paired("share", none, none[0])
    assert (apart.ci_low, apart.ci_high) == pytest.approx(proportions.tango(0, 0, 20))
    assert (apart.delta, apart.p) == (0, 1)
    boot = bootstrapping.difference(*stats.bootstraps("share", [(none, None), (none[0], None)]))
    for limit in (0.02, 0.1, 0.2):
        p = bootstrapping.p_value(bootstrapping.shifted(boot, limit))
        assert p == pytest.approx(proportions.tango_p(none[0], none[0], -limit), abs=1e-3)


def test_a_share_stays_between_nothing_and_everything() -> None:
    rng = np.random.default_rng(5)
    result = stats.estimate("share", (rng.random((3, 30)) < 0.97).astype(float))
    assert 0.8 < result.ci_low < result.value < result.ci_high <= 1


@pytest.mark.parametrize("kind", ["mean", "share"])
def test_seeds_that_answer_as_the_base_differ_from_it_by_exactly_nothing(kind: Kind) -> None:
    base = (np.random.default_rng(2).random(57) < 0.289).astype(float)
    result = stats.paired(kind, np.stack([base] * 3), base)
    assert result.delta == 0
    assert result.p == 1
    if kind == "mean":
        assert (result.ci_low, result.ci_high) == (0, 0)


def test_looks_spend_what_there_is_and_no_more() -> None:
    shares = [0.032, 0.064, 0.128, 0.256, 0.512, 1.0]
    spent = stats.alpha_spending(0.05, shares)
    assert sum(spent) == pytest.approx(0.05)
    assert all(one > 0 for one in spent)


@pytest.mark.parametrize("kind", ["mean", "exp_ratio"])
def test_many_samples_are_drawn_as_few_are(kind: str) -> None:
    """Above 4,000 units counts are drawn independently: the same errors come out."""
    rng = np.random.default_rng(9)
    scores, per = rng.gamma(2, 10, size=6000), rng.integers(5, 50, size=6000)
    result = stats.estimate(kind, scores, per, draws=4000)  # type: ignore[arg-type]
    if kind == "mean":
        expected = scores.std(ddof=1) / math.sqrt(6000)
    else:
        ratio = scores.sum() / per.sum()
        spread = (scores - ratio * per).std(ddof=1) / math.sqrt(6000) / per.mean()
        expected = spread * math.exp(ratio)
    assert result.stderr == pytest.approx(expected, rel=0.05)


def numbers(figures: stats.Estimate | stats.Difference) -> list[float]:
    return [math.nan if value is None else value for value in dataclasses.astuple(figures)]


@pytest.mark.parametrize("kind", ["mean", "share", "ratio", "exp_ratio"])
@pytest.mark.parametrize("seeds", [(1,) * 8, (3,) * 8, (1, 2, 3, 1, 5, 2, 1, 1)])
@pytest.mark.parametrize("n", [1, 2, 40])
@pytest.mark.parametrize("clustered", [False, True])
def test_all_pairs_at_once_are_tested_as_each_is_alone(
    kind: Kind, seeds: tuple[int, ...], n: int, clustered: bool
) -> None:
    rng = np.random.default_rng(n)
    hard = rng.normal(size=n)
    arms: list[bootstrapping.Arm] = []
    for number, count in enumerate(seeds):
        scores = hard + rng.normal(0, 0.3, (count, n)) + 0.15 * number
        if number in (3, 4):  # the same answers
            scores = np.repeat(hard[None], count, axis=0)
        per = np.tile(1.0 + np.arange(n) % 5, (count, 1)) if "ratio" in kind else None
        arms.append(((scores > 0.3).astype(float) if kind == "share" else scores, per))
    clusters = [i // 3 for i in range(n)] if clustered else None
    # two arms of a kind have the same seeds: of more, what seeds add is estimated over all
    names = [tuple(range(10 * (i // 2), 10 * (i // 2) + seeds[i])) for i in range(len(seeds))]
    tests = stats.pairwise(kind, arms, clusters=clusters, seeds=names, draws=500)
    assert [(t.a, t.b) for t in tests] == list(itertools.combinations(range(len(seeds)), 2))
    for test in tests:
        (a, per_a), (b, per_b) = arms[test.a], arms[test.b]
        pair = (names[test.a], names[test.b])
        change = stats.paired(kind, a, b, per_a, per_b, clusters=clusters, draws=500, seeds=pair)
        estimate = stats.estimate(kind, a, per_a, clusters=clusters, draws=500)
        together = stats.estimate_with_difference(
            kind, (a, per_a), (b, per_b), clusters=clusters, draws=500, seeds=pair
        )
        np.testing.assert_allclose(numbers(together[0]), numbers(estimate), rtol=1e-12)
        np.testing.assert_allclose(numbers(together[1]), numbers(change), rtol=1e-9, atol=1e-12)
        if math.isnan(change.p):
            assert test.p == 1
        elif change.p > 2 / 501:
            assert test.p == pytest.approx(change.p, rel=1e-9)
        else:  # draws cannot resolve it: the t interval can
            assert test.p <= change.p


def test_perplexities_beyond_any_float_are_told_apart_or_not() -> None:
    arms: list[bootstrapping.Arm] = [
        (np.full((1, 9), nll) + np.arange(9) / 10, np.ones((1, 9))) for nll in (2.0, 2.0, 5.0, 900)
    ]
    tests = {(test.a, test.b): test.p for test in stats.pairwise("exp_ratio", arms)}
    assert tests[0, 1] == 1
    assert all(p < 0.001 for pair, p in tests.items() if pair != (0, 1))


# ---- seeds ---------------------------------------------------------------------------------------


def alike(
    rng: np.random.Generator, seeds: int, n: int, *, own: float, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Two methods of one quality on seeds that they share, `(seeds, n)` each."""
    shared = rng.normal(0, 0.5, (seeds, 1)) + rng.normal(size=n)
    a, b = (
        shared + rng.normal(0, own, (seeds, 1)) + rng.normal(0, noise, (seeds, n)) for _ in "ab"
    )
    return a, b


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("own", [0.0, 0.1])
def test_a_difference_paired_by_seeds_is_covered(seeds: int, own: float) -> None:
    rng, covered = np.random.default_rng(seeds), 0
    names = (range(seeds), range(seeds))
    for _ in range(300):
        a, b = alike(rng, seeds, 60, own=own, noise=0.5)
        result = stats.paired("mean", a, b, draws=400, seeds=names)
        covered += result.ci_low <= 0 <= result.ci_high
    assert covered / 300 >= 0.90


def test_pairing_by_seeds_takes_out_what_the_seeds_share() -> None:
    a, b = alike(np.random.default_rng(1), 3, 60, own=0.02, noise=0.1)
    names = (0, 1, 2)
    for kind, per in (("mean", None), ("exp_ratio", np.ones_like(a))):

        def width(theirs: tuple[int, ...] | None, kind: Kind = kind, per: object = per) -> float:
            change = stats.paired(kind, a, b, per, per, seeds=(names, theirs))  # type: ignore[arg-type]
            return change.ci_high - change.ci_low

        assert width(names) < width(None) / 4
        assert width((0, 1, 3)) == width(None)  # other seeds are other draws
    # two seeds may lie close together by chance: joint draws are no narrower than independent ones
    two = stats.paired("mean", a[:2], b[:2], seeds=((0, 1), (0, 1)))
    independent = stats.paired("mean", a[:2], b[:2])
    assert two.ci_high - two.ci_low >= independent.ci_high - independent.ci_low


def test_seeds_that_are_not_named_once_each_are_refused() -> None:
    with pytest.raises(ValueError, match="2 names for 3 seeds"):
        stats.paired("mean", np.eye(3), np.eye(3), seeds=((0, 1), (0, 1, 2)))


def test_noise_of_single_answers_is_counted_once() -> None:
    """Shares of three seeds that differ in their answers alone, against a base that ran once."""
    rng, covered, widths, true = np.random.default_rng(4), 0, [], []
    for _ in range(300):
        right = rng.random(200) < 0.5
        runs = np.where(rng.random((3, 200)) < 0.1, ~right, right).astype(float)
        result = stats.paired("share", runs, right.astype(float), draws=400)
        covered += result.ci_low <= 0 <= result.ci_high
        widths.append(result.ci_high - result.ci_low)
        true.append(result.delta)
    assert covered / 300 >= 0.90
    assert np.median(widths) < 1.5 * 2 * 1.96 * np.std(true)


def test_clusters_that_differ_say_how_sure_a_paired_share_is() -> None:
    rng, covered, widths = np.random.default_rng(6), 0, []
    clusters = [i // 4 for i in range(80)]
    for _ in range(300):
        hard = np.repeat(rng.normal(size=20), 4)
        a, b = ((hard + rng.normal(0, 0.25, 80) > 0).astype(float) for _ in "ab")
        result = stats.paired("share", a, b, clusters=clusters, draws=400)
        covered += result.ci_low <= 0 <= result.ci_high
        widths.append(result.ci_high - result.ci_low)
    assert covered / 300 >= 0.90
    assert np.median(widths) < 0.25  # of 20 clusters that all agree: 0.32
