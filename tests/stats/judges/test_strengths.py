"""Bradley and Terry's strengths against a logistic regression of statsmodels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from harness.stats.judges import Comparison, bradley_terry


def contests(
    rng: np.random.Generator, strengths: dict[str, float], questions: int, tie: float = 0.2
) -> list[Comparison]:
    """Every pair on every question; the luck of an answer is in all its pairs."""
    found = []
    for q in range(questions):
        luck = dict(zip(strengths, rng.normal(0, 0.5, len(strengths)), strict=True))
        for a, b in itertools.combinations(strengths, 2):
            apart = strengths[a] + luck[a] - strengths[b] - luck[b]
            won = float(rng.random() < 1 / (1 + math.exp(-apart)))
            found.append(Comparison(f"q{q}", a, b, 0.5 if rng.random() < tie else won))
    return found


STRENGTHS = {"a": 0.6, "b": 0.1, "c": -0.2, "d": -0.5}


def test_strengths_and_errors_are_those_of_a_logistic_regression() -> None:
    import statsmodels.api as sm

    comparisons = contests(np.random.default_rng(0), STRENGTHS, 120)
    result = bradley_terry(comparisons)
    rows = list(result.rows)
    design = np.zeros((len(comparisons), len(rows)))
    for i, c in enumerate(comparisons):
        design[i, rows.index(c.a)], design[i, rows.index(c.b)] = 1, -1
    groups = [int(c.question[1:]) for c in comparisons]
    fit = sm.GLM([c.score for c in comparisons], design[:, 1:], family=sm.families.Binomial()).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )
    first = result.strengths[0].value
    for i, row in enumerate(rows[1:]):
        assert result.strengths[i + 1].value - first == pytest.approx(fit.params[i], abs=1e-6)
        change = result.difference(row, rows[0])
        half = (change.ci_high - change.ci_low) / 2
        t = 1.9801  # of 119 degrees of freedom
        assert half == pytest.approx(t * fit.bse[i] * math.sqrt(120 / 119), rel=1e-3)
    assert sum(s.value for s in result.strengths) == pytest.approx(0, abs=1e-9)


def test_rows_are_in_order_and_told_apart_where_they_differ() -> None:
    result = bradley_terry(contests(np.random.default_rng(1), STRENGTHS, 300))
    assert result.rows == ("a", "b", "c", "d")
    change = result.difference("a", "d")
    assert change.ci_low > 0
    assert change.p < 0.001
    assert result.win_rates[0].ci_low > 0.5 > result.win_rates[-1].ci_high
    back = result.difference("d", "a")
    assert (back.delta, back.ci_high) == pytest.approx((-change.delta, -change.ci_low))


def test_equal_rows_are_told_apart_about_one_time_in_twenty() -> None:
    rng, times = np.random.default_rng(2), 300
    equal = dict.fromkeys("abc", 0.0)
    told = sum(
        bradley_terry(contests(rng, equal, 60)).difference("a", "b").p < 0.05 for _ in range(times)
    )
    assert 0.02 <= told / times <= 0.085


def test_ties_alone_make_equal_rows() -> None:
    names = itertools.combinations("abc", 2)
    ties = [Comparison(f"q{i}", a, b, 0.5) for a, b in names for i in range(5)]
    assert [s.value for s in bradley_terry(ties).strengths] == pytest.approx([0, 0, 0])


def test_a_row_that_never_lost_has_no_strength() -> None:
    comparisons = [
        Comparison(f"q{i}", a, b, score)
        for i in range(6)
        for a, b, score in (("a", "b", 1.0), ("a", "c", 1.0), ("b", "c", float(i % 2)))
    ]
    with pytest.raises(ValueError, match="a never lost or tied against the other rows"):
        bradley_terry(comparisons)
    assert bradley_terry([*comparisons, Comparison("q1", "c", "a", 0.5)]).rows[0] == "a"


def test_two_groups_that_never_met_have_no_strengths() -> None:
    pairs = [("a", "b"), ("c", "d")]
    comparisons = [Comparison(f"q{i}", a, b, i % 2) for i in range(8) for a, b in pairs]
    with pytest.raises(ValueError, match="a, b never lost or tied"):
        bradley_terry(comparisons)


@pytest.mark.parametrize(
    ("comparison", "problem"),
    [
        (Comparison("q1", "a", "a", 1.0), "itself"),
        (Comparison("q1", "a", "b", 2.0), "not 0 to 1"),
        (Comparison("q1", "a", "b", math.nan), "not 0 to 1"),
    ],
)
def test_what_is_no_comparison_is_refused(comparison: Comparison, problem: str) -> None:
    others = [Comparison(f"q{i}", "a", "b", i % 2) for i in range(4)]
    with pytest.raises(ValueError, match=problem):
        bradley_terry([*others, comparison])
    with pytest.raises(ValueError, match="at least 2"):
        bradley_terry(others[:1])
