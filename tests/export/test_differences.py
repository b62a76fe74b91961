"""What differs between two forms of a model is named."""

from __future__ import annotations

import math

import pytest

from harness.export.differences import (
    answer_runs_on,
    first_difference,
    logprob_differences,
    prompt_difference,
    text_difference,
)


@pytest.mark.parametrize(
    ("ours", "theirs", "bos", "cause", "at"),
    [
        ([1, 5, 6], [1, 1, 5, 6], 1, "BOS doubled", 1),
        ([5, 6], [1, 5, 6], 1, "BOS added", 0),
        ([1, 5, 6], [5, 6], 1, "BOS missing", 0),
        ([5, 6], [1, 5, 6], None, "other tokens", 0),
        ([1, 5, 6], [1, 7, 6], 1, "other tokens", 1),
        ([1, 5, 6], [1, 5], 1, "other tokens", 2),
        ([1, 5], [1, 5, 6], 1, "other tokens", 2),
        ([9, 5], [5], 1, "other tokens", 0),
    ],
)
def test_a_prompts_other_tokens_have_a_cause(ours, theirs, bos, cause, at):
    found = prompt_difference(ours, theirs, bos)
    assert found is not None
    assert (found.cause, found.at) == (cause, at)
    assert prompt_difference(ours, ours, bos) is None


def test_texts_are_shown_from_a_little_before_they_part():
    ours = "<|im_start|>system\nYou help.<|im_end|>\n" + "a" * 100
    theirs = "<|im_start|>user\n" + "a" * 100
    said = text_difference(ours, theirs)
    assert said is not None
    assert "'<|im_start|>user" in said
    assert "'<|im_start|>system" in said
    assert "character 13 " in said
    assert text_difference(ours, ours) is None


def test_the_first_difference_of_a_beginning_is_its_end():
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 2], [1, 2, 3]) == 2
    assert first_difference([1, 2], [1, 3]) == 1


def test_an_answer_runs_on_only_where_ours_ended():
    assert answer_runs_on([1, 2], [1, 2, 3], ours_ended=True, theirs_ended=False)
    assert answer_runs_on([1, 2], [1, 2], ours_ended=True, theirs_ended=False)
    assert not answer_runs_on([1, 2], [1, 2], ours_ended=True, theirs_ended=True)
    assert not answer_runs_on([1, 2], [1, 2, 3], ours_ended=False, theirs_ended=True)
    assert not answer_runs_on([1, 2], [1, 4, 3], ours_ended=True, theirs_ended=False)


def test_log_probabilities_are_compared_in_nats():
    found = logprob_differences([(-1.0, -1.5), (-2.0, -1.9)])
    assert found.tokens == 2
    assert found.largest == pytest.approx(0.5)
    assert found.mean == pytest.approx(0.3)
    assert logprob_differences([(-1.0, math.nan)]).largest is None
    assert logprob_differences([(-math.inf, -math.inf)]).largest is None
    assert logprob_differences([]).mean == 0
