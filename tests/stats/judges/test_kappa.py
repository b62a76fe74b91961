"""Agreement and kappa against statsmodels, with tables on which they say nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.stats.judges import agreement, human_agreement, majority

TABLES = {
    "good": [[40, 5], [3, 52]],
    "weak": [[30, 20], [22, 28]],
    "against": [[5, 30], [25, 4]],
    "rare": [[2, 3], [4, 91]],
    "levels": [[20, 5, 1, 0], [4, 15, 6, 2], [1, 7, 18, 5], [0, 1, 4, 21]],
}


def labels_of(table: list[list[int]]) -> tuple[list[int], list[int]]:
    cells = [(i, j) for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    return [i for i, _ in cells], [j for _, j in cells]


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
@pytest.mark.parametrize("name", TABLES)
def test_kappa_and_its_error_are_those_of_statsmodels(name: str, weights: str | None) -> None:
    from statsmodels.stats.inter_rater import cohens_kappa

    table = TABLES[name]
    expected = cohens_kappa(np.array(table), wt=weights)
    result = agreement(*labels_of(table), weights=weights).kappa  # type: ignore[arg-type]
    assert result is not None
    n = result.n
    assert result.value == pytest.approx(expected.kappa)
    assert result.stderr == pytest.approx(expected.std_kappa * math.sqrt(n / (n - 1)))
    # never narrower than the delta method's, and not much wider
    assert result.ci_low <= max(-1, expected.kappa_low) + 1e-12
    assert result.ci_high >= min(1, expected.kappa_upp) - 1e-12
    assert result.ci_high - result.ci_low < 1.6 * (expected.kappa_upp - expected.kappa_low) + 0.05


def test_the_order_of_levels_counts_where_they_are_weighted() -> None:
    judge = ["poor", "fair", "good"] * 10
    near, far = ["fair", "fair", "good"] * 10, ["good", "fair", "good"] * 10
    levels = ["poor", "fair", "good"]
    of_near, of_far = (
        agreement(judge, person, weights="quadratic", levels=levels).kappa for person in (near, far)
    )
    assert of_near is not None
    assert of_far is not None
    assert of_near.value > of_far.value
    with pytest.raises(ValueError, match="'fair'"):
        agreement(judge, near, levels=["poor", "good"])


def test_a_judge_that_guesses_has_no_kappa_above_zero() -> None:
    rng = np.random.default_rng(0)
    result = agreement(rng.integers(0, 2, 300).tolist(), rng.integers(0, 2, 300).tolist())
    assert result.kappa is not None
    assert result.kappa.ci_low < 0 < result.kappa.ci_high


def test_agreeing_on_few_samples_is_not_certainty() -> None:
    few, many = ([0, 1] * 10, [0, 1] * 500)
    a, b = agreement(few, few).kappa, agreement(many, many).kappa
    assert a is not None
    assert b is not None
    assert a.value == b.value == 1
    assert a.ci_low < 0.75 < 0.98 < b.ci_low
    assert a.ci_high == 1


def test_a_judge_that_always_says_the_same_agrees_by_chance_alone() -> None:
    result = agreement([1] * 50, [1] * 30 + [0] * 20)
    assert result.share is not None
    assert result.share.value == 0.6
    assert result.kappa is not None
    assert result.kappa.value == 0
    assert result.kappa.ci_low < 0 < result.kappa.ci_high
    assert result.problem == "all verdicts are 1"


def test_labels_of_one_class_have_no_kappa() -> None:
    result = agreement([1] * 30 + [0] * 20, [1] * 50)
    assert result.kappa is None
    assert result.problem == "all labels are 1"
    assert agreement([None, 1], [1, None]).problem == "no sample has two labels"


def test_several_people_count_alike_and_may_leave_samples_out() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 400)

    def noisy(share: float) -> list[int | None]:
        labels = np.where(rng.random(400) < share, truth, 1 - truth)
        return [None if rng.random() < 0.2 else int(label) for label in labels]

    judge, people = noisy(0.7), [noisy(0.9), noisy(0.9), noisy(0.9)]
    among, with_judge = human_agreement(people), agreement(judge, *people)
    assert among.kappa is not None
    assert with_judge.kappa is not None
    alone = [agreement(judge, person).kappa for person in people]
    assert with_judge.kappa.value == pytest.approx(np.mean([k.value for k in alone if k]))
    assert with_judge.kappa.ci_high < among.kappa.ci_low
    assert human_agreement(people[:1]).kappa is None


def test_the_interval_of_a_mean_over_people_covers_it() -> None:
    """People judge the same samples: their kappas are not independent, and the interval knows."""
    rng, held, truth = np.random.default_rng(2), 0, 0.5 * 0.8
    for _ in range(400):
        good = rng.random(80) < 0.5
        judge = np.where(rng.random(80) < 0.75, good, ~good)
        people = [np.where(rng.random(80) < 0.9, good, ~good).tolist() for _ in range(3)]
        kappa = agreement(judge.tolist(), *people).kappa
        assert kappa is not None
        held += kappa.ci_low <= truth <= kappa.ci_high
    assert 0.93 <= held / 400 <= 0.995


def test_copies_of_a_sample_in_one_cluster_are_no_more_evidence() -> None:
    rng = np.random.default_rng(3)
    judge, person = rng.integers(0, 2, (2, 60)).tolist()
    names = list(range(60)) * 4
    once = agreement(judge, person).kappa
    copied = agreement(judge * 4, person * 4, clusters=names).kappa
    naive = agreement(judge * 4, person * 4).kappa
    assert once is not None
    assert copied is not None
    assert naive is not None
    assert copied.stderr == pytest.approx(once.stderr)
    assert (copied.ci_low, copied.ci_high) == pytest.approx((once.ci_low, once.ci_high), abs=0.01)
    assert naive.stderr < 0.6 * once.stderr


def test_a_tie_among_people_has_no_majority() -> None:
    people = [[1, 1, None, None], [1, 0, 0, None], [0, None, None, None]]
    assert majority(people) == [1, None, 0, None]
