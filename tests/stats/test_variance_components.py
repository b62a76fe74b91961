"""Components of variance come out as they went in, and a planned test does what its plan says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness import stats
from harness.stats.planned_test import PlannedTest
from harness.stats.variance_components import Components, components, unit_values

SEEDS, SAMPLES, TIMES = 3, 80, 300


def mean_of(found: list[Components]) -> tuple[float, float, float]:
    """Over repetitions, of estimates that are not cut off at zero."""
    rows = [(one.samples, one.training or 0.0, one.sample_by_seed or 0.0) for one in found]
    first, second, third = np.mean(rows, axis=0)
    return float(first), float(second), float(third)


def effects(
    rng: np.random.Generator, sizes: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal effects of samples, of seeds and of both, of these variances."""
    samples, training, both = (math.sqrt(size) for size in sizes)
    return (
        rng.normal(0, samples, SAMPLES),
        rng.normal(0, training, (SEEDS, 1)),
        rng.normal(0, both, (SEEDS, SAMPLES)),
    )


def test_of_means() -> None:
    rng, truth = np.random.default_rng(1), (0.04, 0.01, 0.02)
    found = [components(0.3 + sum(effects(rng, truth))) for _ in range(TIMES)]
    assert mean_of(found) == pytest.approx(truth, rel=0.15)


def test_of_a_difference_of_shares() -> None:
    """Right with probability p[q] + s of the seed; the base is right with p[q] too."""
    rng, found = np.random.default_rng(2), []
    for _ in range(TIMES):
        p = rng.uniform(0.3, 0.7, SAMPLES)
        right = rng.random((SEEDS, SAMPLES)) < p + rng.choice([-0.1, 0.1], (SEEDS, 1))
        base = rng.random((1, SAMPLES)) < p
        found.append(components(unit_values("share", right) - unit_values("share", base)))
    of_p, of_seed = 0.16 / 12, 0.01
    # the base is one draw: what it adds is the same under every seed
    of_base, of_answers = 0.25 - of_p, 0.25 - of_p - of_seed
    assert mean_of(found) == pytest.approx((of_base, of_seed, of_answers), rel=0.15)


def test_of_the_logarithm_of_perplexities() -> None:
    """Losses of texts of unequal length: each text counts by its tokens."""
    rng, truth, found = np.random.default_rng(3), (0.09, 0.01, 0.04), []
    for _ in range(TIMES):
        tokens = rng.integers(20, 60, SAMPLES)
        base = rng.normal(3, 0.5, SAMPLES)
        nll = (base - 0.5 + sum(effects(rng, truth))) * tokens
        per = np.tile(tokens, (SEEDS, 1))
        own = unit_values("exp_ratio", nll, per)
        assert own.mean(axis=1) == pytest.approx(nll.sum(axis=1) / tokens.sum())
        found.append(components(own - unit_values("exp_ratio", base * tokens, tokens)))
    weight = np.mean(np.arange(20, 60) ** 2) / np.mean(np.arange(20, 60)) ** 2
    assert mean_of(found) == pytest.approx((0.09 * weight, 0.01, 0.04 * weight), rel=0.15)


def test_of_clusters_the_unit_is_the_cluster() -> None:
    rng, found = np.random.default_rng(4), []
    names = [f"passage {i // 4}" for i in range(SAMPLES)]
    for _ in range(TIMES):
        samples, training, both = effects(rng, (0.04, 0.01, 0.02))
        passages = np.repeat(rng.normal(0, 0.3, SAMPLES // 4), 4)
        values = unit_values("mean", samples + passages + training + both, clusters=names)
        assert values.shape == (SEEDS, SAMPLES // 4)
        found.append(components(values))
    assert mean_of(found) == pytest.approx((0.09 + 0.04 / 4, 0.01, 0.02 / 4), rel=0.15)


def test_a_corpus_score_is_as_sure_as_the_bootstrap_has_it() -> None:
    """One seed's spread over samples: pseudo-values against draws of the statistics themselves."""
    rng = np.random.default_rng(7)
    ngrams = rng.integers(20, 60, (3, SAMPLES, 1)) - np.arange(6)
    matches = rng.binomial(ngrams, 0.4)
    statistics = np.stack([ngrams, ngrams + 2, matches], axis=-1).reshape(3, SAMPLES, 18)
    values = unit_values("corpus_chrf", statistics)
    figures = [stats.point_estimate("corpus_chrf", one[None]) for one in statistics]
    assert values.mean(axis=1) == pytest.approx(figures)
    spread = math.sqrt(components(values[:1]).samples / SAMPLES)
    drawn = stats.estimate("corpus_chrf", statistics[:1]).stderr
    assert spread == pytest.approx(drawn, rel=0.1)


def test_no_training_noise_is_none_on_average_and_one_seed_says_nothing() -> None:
    rng = np.random.default_rng(5)
    found = [components(sum(effects(rng, (0.04, 0.0, 0.02)))) for _ in range(TIMES)]
    assert any((one.training or 0.0) < 0 for one in found)
    assert abs(mean_of(found)[1]) < 0.02 / SAMPLES / 2
    assert min(one.truncated().training or 0.0 for one in found) == 0
    alone = components(rng.normal(size=(1, SAMPLES)))
    assert (alone.training, alone.sample_by_seed, alone.split) == (None, None, False)
    with pytest.raises(ValueError, match="one unit"):
        components(np.ones((3, 1)))


CASES = [
    (Components(1.0, 0.0, 0.2), 100, 2),
    (Components(1.0, 0.01, 0.2), 100, 3),
    (Components(1.0, 0.05, 0.2), 100, 3),
    (Components(0.1, 0.05, 0.1), 100, 5),
    (Components(1.0, 0.004, 0.2), 200, 8),
]


@pytest.mark.parametrize(("truth", "units", "seeds"), CASES)
def test_a_detectable_difference_is_outside_of_the_interval_4_times_in_5(
    truth: Components, units: int, seeds: int
) -> None:
    """By the intervals that `compare` and the leaderboard make."""
    rng, test, times = np.random.default_rng(6), PlannedTest(truth), 300
    difference, names = test.detectable(units, seeds), list(range(seeds))
    widths, detected = [], 0
    for _ in range(times):
        scores = (
            difference
            + rng.normal(0, math.sqrt(truth.samples), units)
            + rng.normal(0, math.sqrt(truth.training or 0.0), (seeds, 1))
            + rng.normal(0, math.sqrt(truth.sample_by_seed or 0.0), (seeds, units))
        )
        change = stats.paired("mean", scores, [[0.0] * units], draws=400, seeds=(names, [0]))
        detected += change.ci_low > 0
        widths.append((change.ci_high - change.ci_low) / 2)
    assert detected / times == pytest.approx(0.8, abs=0.08)
    assert test.half_width(units, seeds) == pytest.approx(np.mean(widths), rel=0.15)


def test_the_fewest_samples_are_the_fewest() -> None:
    test = PlannedTest(Components(1.0, 0.001, 0.2))
    for seeds in (3, 5, 10):
        units = test.units_needed(0.15, seeds)
        assert units is not None
        assert test.power(0.15, units, seeds) >= 0.8 > test.power(0.15, units - 1, seeds)
        assert test.units_needed(0.15, seeds, most=units - 1) is None
        assert test.units_needed(0.15, seeds, most=units) == units


def test_samples_alone_or_seeds_alone_may_never_suffice() -> None:
    of_training = PlannedTest(Components(0.1, 0.05, 0.1))
    assert not of_training.samples_suffice(0.1, 3)
    assert of_training.seeds_suffice(0.1, 200)
    assert of_training.units_needed(0.1, 3) is None
    assert of_training.units_needed(0.1, 60) is not None
    of_samples = PlannedTest(Components(1.0, 0.0001, 0.1))
    assert of_samples.samples_suffice(0.1, 3)
    assert not of_samples.seeds_suffice(0.1, 100)
    assert of_samples.detectable(100, 1000) > 0.1


def test_a_share_without_a_difference_has_the_score_intervals_width() -> None:
    alike = PlannedTest(Components(0.0, 0.0, 0.0), share=True)
    same = np.zeros((3, 20))
    change = stats.paired("share", same, same[:1])
    assert alike.half_width(20, 3) == pytest.approx(change.ci_high, abs=1e-3)
    assert alike.units_needed(0.02, 3) == pytest.approx(189, abs=1)
    assert alike.one_run_half_width(20) == pytest.approx(change.ci_high, abs=1e-3)


def test_two_seeds_of_two_methods_have_the_wider_of_paired_and_independent_draws() -> None:
    paired = PlannedTest(Components(1.0, 0.0, 0.1))
    apart = PlannedTest(Components(1.0, 0.0, 0.1), independent=0.1)
    assert apart.half_width(100, 2) > 2 * paired.half_width(100, 2)
    assert apart.half_width(100, 3) == paired.half_width(100, 3)
