"""The negative control: answers scored against the references of other samples."""

import pytest

from harness import Sample, scorer
from harness.evaluation.tasks import negative_control
from harness.evaluation.tasks.generate import Generate
from harness.evaluation.tasks.negative_control import OTHERS
from harness.types import Output
from plugins.scorers.match import token_f1
from plugins.scorers.ngram import rouge_l
from tests.evaluation.test_scorer_config import load


def samples(references):
    return [Sample(f"s{i}", "?", reference=text) for i, text in enumerate(references)]


def differences(scorer, answers, asked, tools=None):
    """Own minus other of each answer."""
    outputs = [
        Output(sample.id, text, 1, False) for sample, text in zip(asked, answers, strict=True)
    ]
    own = scorer.rate(outputs, asked, tools)
    found = negative_control.means(scorer, outputs, negative_control.others(asked), tools, {})
    return negative_control.minus(own, found)


@pytest.mark.parametrize("scorer", [rouge_l, token_f1], ids=lambda one: one.name)
def test_one_answer_to_all_questions_is_worth_nothing_on_average(scorer):
    asked = samples(
        [f"Thanks for writing to us. Part {i} ships on day {i + 40}." for i in range(5)]
    )
    boilerplate = differences(scorer, ["Thanks for writing to us."] * 5, asked)
    assert sum(boilerplate) == pytest.approx(0, abs=1e-12)
    right = differences(scorer, [sample.reference for sample in asked], asked)
    assert min(right) > 0


@pytest.mark.parametrize("count", [2, 3, 5, 7, 40])
def test_every_sample_has_others_with_another_reference(count):
    asked = samples([f"answer {i}" for i in range(count)])
    for own, others in zip(asked, negative_control.others(asked), strict=True):
        assert len({other.id for other in others}) == len(others) == min(OTHERS, count - 1)
        assert own not in others


def test_a_reference_that_many_share_is_no_other_of_itself():
    asked = samples(["yes", "yes ", "yes", "yes", "no", "yes"])
    for own, others in zip(asked, negative_control.others(asked), strict=True):
        assert others
        assert all(other.reference.strip() != own.reference.strip() for other in others)


def test_one_sample_and_references_that_are_alike_have_no_control():
    assert negative_control.others(samples(["one"])) == [[]]
    assert negative_control.others(samples(["one", "one ", None])) == [[], [], []]


def test_a_sample_without_a_reference_is_left_out():
    asked = samples(["a", None, "b", " "])
    assert [[s.id for s in of] for of in negative_control.others(asked)] == [["s2"], [], ["s0"], []]


def test_which_scorers_have_a_control_is_inferred_or_said():
    def nearness(output: str, sample: Sample) -> float:
        return 1.0

    assert scorer("near", needs_reference=True)(nearness).controlled
    assert not scorer("right", needs_reference=True, kind="share")(nearness).controlled
    assert not scorer("polite")(nearness).controlled
    assert not scorer("costly", needs_reference=True, reference=False)(nearness).controlled
    assert scorer("loose", reference=True)(nearness).controlled


def test_a_suite_lists_the_control_beside_its_scorer(folder):
    suite = load(folder, ["rougeL", "exact_match", "token_f1"])
    names = ["rougeL", "rougeL_own_minus_other", "exact_match"]
    assert Generate().metrics(suite) == [*names, "token_f1", "token_f1_own_minus_other"]
    assert Generate().metrics(load(folder, ["rougeL"], limit=1)) == ["rougeL"]
    label = {"name": "exact_match", "label": "rougeL_other"}
    with pytest.raises(Exception, match="rougeL_other' is another scorer's negative control"):
        load(folder, ["rougeL", label])


def test_the_others_of_a_sample_do_not_hang_on_which_are_asked(folder):
    from dataclasses import replace

    suite = load(folder, ["rougeL"])
    picked = replace(suite, picked=(0,))
    every = negative_control.others(Generate()._all(suite))
    assert picked.pick(negative_control.others(Generate()._all(picked))) == every[:1]
