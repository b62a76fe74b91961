"""Krippendorff's alpha against his own example, and judges who agree, or roll dice."""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats.judges import krippendorff_alpha

N = None
EXAMPLE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]
"""Four observers, K. Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, part C."""


def test_the_published_example_has_its_published_value() -> None:
    found = krippendorff_alpha(EXAMPLE)
    assert found is not None
    assert found.value == pytest.approx(0.849, abs=0.0005)
    assert found.n == 11
    assert found.ci_low < found.value <= found.ci_high


def test_the_scale_of_the_values_does_not_matter() -> None:
    moved = [[None if v is None else 1e6 + 100.0 * v for v in own] for own in EXAMPLE]
    one, other = krippendorff_alpha(EXAMPLE), krippendorff_alpha(moved)
    assert one is not None
    assert other is not None
    assert other.value == pytest.approx(one.value)
    assert (other.ci_low, other.ci_high) == pytest.approx((one.ci_low, one.ci_high))


def test_judges_who_agree_have_one_and_dice_have_none() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=300)
    same = krippendorff_alpha([values, values, values])
    assert same is not None
    assert (same.value, same.ci_low) == pytest.approx((1.0, 1.0))
    dice = krippendorff_alpha(list(rng.normal(size=(3, 300))))
    assert dice is not None
    assert dice.ci_low < 0 < dice.ci_high


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Two judges that see the truth with noise of the same size: alpha is 1/2."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(100):
        truth = rng.normal(size=80)
        found = krippendorff_alpha(list(truth + rng.normal(size=(2, 80))))
        assert found is not None
        held += found.ci_low <= 0.5 <= found.ci_high
    assert held >= 88


@pytest.mark.parametrize(
    "judges",
    [[[1, 2, 3]], [[1, N, 3], [N, 2, N]], [[2, 2, 2], [2, 2, N]], [[1, N], [2, N]], [[], []]],
)
def test_without_two_samples_of_two_judges_that_differ_there_is_none(judges) -> None:
    assert krippendorff_alpha(judges) is None


def test_judges_of_unequal_samples_are_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"got \[1, 2\] values"):
        krippendorff_alpha([[1.0], [1.0, 2.0]])
