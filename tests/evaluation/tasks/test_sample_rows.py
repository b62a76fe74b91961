"""The probability of the right choice, by hand."""

import math

import pytest

from harness.evaluation.tasks.sample_rows import right_probability


@pytest.mark.parametrize(
    ("logprobs", "right", "probability"),
    [
        ([-1.0, -1.0, -1.0, -1.0], [2], 0.25),  # a guess
        ([math.log(0.6), math.log(0.2)], [0], 0.75),
        ([math.log(0.6), math.log(0.2)], [1], 0.25),
        ([-2000.0, -2000.0 - math.log(3)], [0], 0.75),  # nothing underflows
        ([-5000.0, 0.0], [0], 0.0),
        ([math.log(0.5), math.log(0.3), math.log(0.2)], [0, 2], 0.7),
        ([math.log(0.5), math.log(0.3), math.log(0.2)], [0, 0], 0.5),
        ([-3.0], [0], 1.0),
        ([-1.0, math.nan], [0], None),
        ([-1.0, -math.inf], [0], None),
    ],
)
def test_right_probability(logprobs, right, probability):
    found = right_probability(logprobs, right)
    assert math.isnan(found) if probability is None else found == pytest.approx(probability)
