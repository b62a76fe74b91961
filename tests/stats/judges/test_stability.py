"""The same verdict in either order, again, and on changed words."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness import stats
from harness.stats.judges import position_consistency, repeatability, shift, validity

NONE = math.nan


def test_a_judge_that_takes_the_first_answer_is_never_consistent() -> None:
    result = position_consistency([1] * 40, [0] * 40)
    assert result is not None
    assert result.consistent.value == 0
    assert result.consistent.ci_high < 0.1
    assert result.first.value == 1


def test_a_judge_that_reads_is_consistent_and_prefers_no_place() -> None:
    rng = np.random.default_rng(0)
    better = rng.integers(0, 2, 100).astype(float)
    result = position_consistency(better, better)
    assert result is not None
    assert result.consistent.value == 1
    assert result.consistent.ci_low == pytest.approx(stats.wilson(100, 100)[0])
    assert result.first.value == 0.5


def test_pairs_without_a_verdict_in_one_order_are_left_out() -> None:
    result = position_consistency([1, 1, NONE, 0.5], [1, NONE, 0, 0])
    assert result is not None
    assert (result.consistent.n, result.consistent.value) == (2, 0.5)
    assert position_consistency([NONE], [1]) is None


def test_repeats_that_agree() -> None:
    same = repeatability([[1, 2, 3] * 10] * 3)
    assert same is not None
    assert same.value == 1
    assert same.ci_low < 1
    rng = np.random.default_rng(1)
    coin = repeatability(rng.integers(0, 2, (4, 300)).tolist())
    assert coin is not None
    assert coin.ci_low < 0.5 < coin.ci_high


def test_a_missing_verdict_is_no_repeat() -> None:
    result = repeatability([["good", "bad", None], ["good", None, None]])
    assert result is not None
    assert (result.value, result.n) == (0.5, 2)
    assert repeatability([["good"]]) is None


def test_padding_that_moves_verdicts_shows_and_its_direction() -> None:
    before = [0] * 50 + [1] * 50
    after = [1] * 20 + [0] * 30 + [1] * 50
    result = shift(before, after)
    assert result is not None
    assert result.moved.value == 0.2
    assert result.difference.delta == 0.2
    assert result.difference.ci_low > 0
    still = shift(before, before)
    assert still is not None
    assert (still.moved.value, still.difference.delta) == (0, 0)
    assert still.moved.ci_high > 0.02


def test_a_verdict_that_is_lost_has_moved() -> None:
    result = shift([1, 1, 0, NONE], [1, NONE, 0, 1])
    assert result is not None
    assert result.moved.value == pytest.approx(1 / 3)
    assert result.difference.n == 2


def test_scores_move_by_more_than_they_may() -> None:
    result = shift([3.0, 4.0, 2.5], [3.1, 5.0, 2.5], by=0.5)
    assert result is not None
    assert result.moved.value == pytest.approx(1 / 3)


def test_validity_is_the_share_with_a_verdict() -> None:
    assert validity([1, NONE, 0, 1]).value == 0.75
    with pytest.raises(ValueError, match="scores"):
        validity([])
