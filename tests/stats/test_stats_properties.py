"""Statistics held against what must be true of all data, and against scipy and statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from harness import stats
from harness.stats import student_t

CONFIDENCE = st.sampled_from([0.8, 0.9, 0.95, 0.99])
SHARES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=80)
SCORE = st.floats(-1e3, 1e3, width=32)
SCORES = st.lists(st.tuples(SCORE, SCORE), min_size=2, max_size=30)
P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    """Successes, of so many."""
    n = draw(st.integers(1, 5000))
    return draw(st.integers(0, n)), n


@given(counts(), CONFIDENCE)
def test_intervals_of_a_proportion(count: tuple[int, int], confidence: float) -> None:
    successes, n = count
    for own, method in ((stats.wilson, "wilson"), (stats.clopper_pearson, "beta")):
        low, high = own(successes, n, confidence)
        assert 0 <= low <= successes / n <= high <= 1
        wanted = proportion_confint(successes, n, alpha=1 - confidence, method=method)
        assert (low, high) == pytest.approx(wanted, abs=1e-9)
        # what is counted the other way round is the mirror image
        mirrored = own(n - successes, n, confidence)
        assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-9)


@given(SHARES, CONFIDENCE, st.randoms(use_true_random=False))
def test_paired_shares(pairs: list[tuple[int, int]], confidence: float, random: object) -> None:
    a, b = map(list, zip(*pairs, strict=True))
    found = stats.paired("share", a, b, confidence=confidence)
    assert -1 <= found.ci_low <= found.delta <= found.ci_high <= 1
    other = stats.paired("share", b, a, confidence=confidence)
    mirrored = (-other.delta, -other.ci_high, -other.ci_low, other.p)
    assert (found.delta, found.ci_low, found.ci_high, found.p) == pytest.approx(mirrored, abs=1e-12)
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert stats.paired(
        "share", *map(list, zip(*shuffled, strict=True)), confidence=confidence
    ) == (found)
    only_a, only_b = a.count(1) - sum(map(min, a, b)), b.count(1) - sum(map(min, a, b))
    n, few = only_a + only_b, min(only_a, only_b)
    at = float(scipy.stats.binom.pmf(few, n, 0.5))
    below = 2 * float(scipy.stats.binom.cdf(few, n, 0.5)) - at
    by_score = 2 * float(scipy.stats.norm.sf(abs(only_a - only_b) / math.sqrt(n or 1)))
    wanted = max(below, by_score) if only_a != only_b else 1 - at / 2 if n else 1.0
    assert found.p == pytest.approx(wanted, abs=1e-9)
    # a test and its interval do not contradict each other
    assert (found.p >= 1 - confidence) <= (found.ci_low <= 0 <= found.ci_high)


@given(SCORES)
def test_paired_means(pairs: list[tuple[float, float]]) -> None:
    a, b = map(list, zip(*pairs, strict=True))
    found, other = (stats.paired("mean", *arms, draws=200) for arms in ((a, b), (b, a)))
    assert found.ci_low <= found.delta <= found.ci_high
    assert 0 <= found.p <= 1
    mirrored = (-other.delta, -other.ci_high, -other.ci_low, other.p)
    assert (found.delta, found.ci_low, found.ci_high, found.p) == pytest.approx(
        mirrored, rel=1e-6, abs=1e-9
    )
    assert found.delta == pytest.approx(float(np.mean(a) - np.mean(b)), rel=1e-9, abs=1e-9)
    same = stats.paired("mean", a, a, draws=200)
    assert (same.delta, same.p) == (0.0, 1.0)
    assert same.ci_low <= 0 <= same.ci_high


@given(SHARES, st.integers(2, 3))
def test_an_estimate_stays_inside_its_bounds(pairs: list[tuple[int, int]], seeds: int) -> None:
    runs = [[pair[seed % 2] for pair in pairs] for seed in range(seeds)]
    found = stats.estimate("share", runs, draws=200)
    assert found.value == pytest.approx(float(np.mean(runs)))
    if len(pairs) > 1:
        assert 0 <= found.ci_low <= found.value <= found.ci_high <= 1


@given(P_VALUES)
def test_holm(p_values: list[float]) -> None:
    adjusted = stats.holm(p_values)
    assert adjusted == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)
    assert all(raw <= own <= 1 for raw, own in zip(p_values, adjusted, strict=True))
    ordered = sorted(range(len(p_values)), key=p_values.__getitem__)
    in_order = [adjusted[place] for place in ordered]
    assert in_order == sorted(in_order)
    # another test more never makes a p value smaller
    assert all(x <= y + 1e-15 for x, y in zip(adjusted, stats.holm([*p_values, 0.5]), strict=False))


@given(st.floats(0.001, 0.999), st.floats(1, 1e6))
def test_quantiles_of_student_t(probability: float, df: float) -> None:
    own = student_t.t_quantile(probability, df)
    assert own == pytest.approx(scipy.stats.t.ppf(probability, df), rel=1e-6, abs=1e-9)
    assert own == pytest.approx(-student_t.t_quantile(1 - probability, df), rel=1e-6, abs=1e-9)


@given(st.lists(SCORE, min_size=2, max_size=40).filter(lambda x: np.std(x) > 1e-3), CONFIDENCE)
def test_the_t_interval(scores: list[float], confidence: float) -> None:
    wanted = scipy.stats.t.interval(
        confidence, len(scores) - 1, np.mean(scores), scipy.stats.sem(scores)
    )
    assert stats.t_interval(scores, confidence) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


@given(st.floats(1e-4, 0.2), st.lists(st.floats(0.01, 0.99), max_size=6, unique=True))
def test_alpha_is_spent_once(alpha: float, shares: list[float]) -> None:
    spent = stats.alpha_spending(alpha, [*sorted(shares), 1.0])
    assert math.fsum(spent) == pytest.approx(alpha)
    assert min(spent) >= 0
