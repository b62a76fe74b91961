"""Ranks that verdicts leave open: rows of one strength are seldom told apart, a better one is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from harness.stats.judges import Comparison, bradley_terry, ranking


def contests(rng: np.random.Generator, strengths: dict[str, float], questions: int):
    """Every pair on every question; the luck of an answer is in all its pairs."""
    for q in range(questions):
        luck = {row: s + rng.normal(0, 1) for row, s in strengths.items()}
        for a, b in itertools.combinations(strengths, 2):
            won = rng.random() < 1 / (1 + np.exp(luck[b] - luck[a]))
            yield Comparison(f"q{q}", a, b, 0.5 if rng.random() < 0.2 else float(won))


@pytest.mark.parametrize("questions", [8, 30])
def test_rows_of_one_strength_are_seldom_told_apart(questions: int) -> None:
    rng, told = np.random.default_rng(0), 0
    for _ in range(200):
        found = ranking([*contests(rng, dict.fromkeys("abc", 0.0), questions)])
        told += any(ranks != (1, 3) for ranks in found.ranks)
    assert told / 200 <= 0.07


def test_a_better_row_is_told_from_rows_that_are_not_told_apart() -> None:
    found = ranking([*contests(np.random.default_rng(1), {"a": 0, "b": 2, "c": 0}, 80)])
    assert found.fitted.rows[0] == "b"
    assert found.ranks == ((1, 1), (2, 3), (2, 3))
    assert found.unbeaten == ()


def every(score: float, questions: int) -> list[Comparison]:
    """Row a against b and c, which tie."""
    pairs = (("a", "b", score), ("a", "c", score), ("b", "c", 0.5))
    return [Comparison(f"q{q}", *pair) for q in range(questions) for pair in pairs]


def test_a_row_that_never_lost_is_first_once_there_are_questions_enough() -> None:
    with pytest.raises(ValueError, match="a never lost or tied"):
        bradley_terry(every(1.0, 20))
    found = ranking(every(1.0, 20))
    assert found.unbeaten == ("a",)
    assert found.ranks == ((1, 1), (2, 3), (2, 3))
    assert np.isfinite([one.ci_high for one in found.fitted.strengths]).all()
    assert ranking(every(1.0, 3)).ranks == ((1, 3),) * 3, "three wins may be luck"


def test_ties_alone_tell_nobody_apart() -> None:
    found = ranking(every(0.5, 9))
    assert found.ranks == ((1, 3),) * 3
    assert {one.value for one in found.fitted.strengths} == {0.0}
