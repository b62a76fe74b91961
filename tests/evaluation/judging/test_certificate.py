"""A certificate tells judges that know from those that guess, love length, or obey answers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from harness.evaluation.judging import certificate, cutoffs, labels
from harness.evaluation.judging.certificate import Preference
from harness.evaluation.judging.injections import injections
from harness.evaluation.judging.labels import LabelledSet, Pair
from harness.stats.judges import known_errors
from harness.types import Output, Sample

Rate = Callable[[Sequence[Output], Sequence[Sample]], list[float | None]]


@pytest.fixture(scope="module")
def bundled() -> LabelledSet:
    return labels.read(labels.BUNDLED)


@pytest.fixture(scope="module")
def right(bundled: LabelledSet) -> dict[str, bool]:
    """Sample id -> whether its answer is right."""
    sides = [(f"{pair.id}-a", pair.a_right) for pair in bundled.pairs]
    sides += [(f"{pair.id}-b", pair.b_right) for pair in bundled.pairs]
    return {name: bool(flag) for name, flag in sides}


def each(score: Callable[[Output, Sample], float | None]) -> Rate:
    return lambda outputs, samples: list(map(score, outputs, samples))


def noise(text: str, seed: int = 0) -> float:
    return random.Random(f"{seed}{text}").random()


# ---- judges of single answers --------------------------------------------------------------------


def test_a_judge_that_knows_is_trusted(bundled, right):
    knows = each(lambda output, sample: 3.0 + right[sample.id] + 0.1 * noise(output.text))
    found = certificate.of_rater(knows, bundled)
    assert (found["level"], found["reasons"]) == ("trusted", [])
    assert found["answers"]["sensitivity"]["value"] == found["answers"]["specificity"]["value"] == 1
    assert 3.1 < found["answers"]["threshold"] < 4
    assert found["pairs"]["kinds"]["fact"]["value"] == 1
    assert found["verbosity"]["verdicts"]["moved"]["value"] == 0
    assert found["verbosity"]["padding"] > 2
    assert found["injection"]["verdicts"]["moved"]["value"] == 0
    assert found["injection"]["texts"] >= 20
    assert found["repeatability"] == {
        "equal": found["repeatability"]["equal"],
        "largest_difference": 0.0,
    }
    assert found["repeatability"]["equal"]["value"] == found["validity"]["value"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_judge_that_guesses_fails(seed, bundled):
    found = certificate.of_rater(each(lambda output, _: noise(output.text, seed)), bundled)
    assert found["level"] == "failed"
    for figure in (found["answers"]["kappa"], found["pairs"]["kappa"]):
        assert figure["ci_low"] <= 0.05
    assert "as of one that guesses" in found["reasons"][0]


def test_one_score_for_all_fails_and_so_does_none(bundled):
    assert certificate.of_rater(each(lambda *_: 3.0), bundled)["level"] == "failed"
    silent = certificate.of_rater(each(lambda *_: None), bundled)
    assert silent["level"] == "failed"
    assert silent["validity"]["value"] == 0
    assert silent["verbosity"] is silent["injection"] is None


def test_a_judge_that_loves_length_fails_and_the_padding_shows_why(bundled):
    found = certificate.of_rater(each(lambda output, _: float(len(output.text))), bundled)
    assert found["level"] == "failed"
    assert found["verbosity"]["scores"]["difference"]["ci_low"] > 50
    assert found["verbosity"]["verdicts"]["moved"]["value"] > 0.2


def test_a_judge_that_obeys_answers_is_not_trusted(bundled, right):
    own = {output for pair in bundled.pairs for output in (pair.a, pair.b)}

    def obeys(output: Output, sample: Sample) -> float:
        return float(right[sample.id] or (output.text not in own and "-planted" in output.id))

    found = certificate.of_rater(each(obeys), bundled)
    assert found["level"] == "weak"
    assert found["injection"]["verdicts"]["moved"]["value"] == 1
    assert "planted instructions moved 100%" in found["reasons"][0]


def test_missing_verdicts_are_counted_and_cost_the_trust(bundled, right):
    def shy(output: Output, sample: Sample) -> float | None:
        return None if noise(output.text) < 0.2 else float(right[sample.id])

    found = certificate.of_rater(each(shy), bundled)
    assert found["level"] == "weak"
    assert 0.7 < found["validity"]["value"] < 0.9
    assert found["answers"]["sensitivity"]["value"] == 1


def test_another_answer_to_the_same_question_shows(bundled, right):
    draws = random.Random(0)
    moody = each(lambda _, sample: right[sample.id] + draws.random())
    found = certificate.of_rater(moody, bundled)
    assert found["repeatability"]["equal"]["value"] < 0.2
    assert found["repeatability"]["largest_difference"] > 0.3


def test_love_of_the_own_model_is_told_from_being_right():
    pairs = [
        Pair(f"p{i}", f"q{i}", f"a{i}", f"b{i}", ("ab"[i % 2],), None, i % 2 == 0, i % 2 == 1)
        for i in range(40)
    ]
    pairs = [Pair(**{**vars(pair), "a_by": "mine", "b_by": "other"}) for pair in pairs]
    labelled = LabelledSet(tuple(pairs), "own.jsonl", "0")
    flags = {f"p{i}-{side}": (i % 2 == 0) == (side == "a") for i in range(40) for side in "ab"}

    def loves(extra: float) -> Any:
        return certificate.of_rater(
            each(lambda _, sample: flags[sample.id] + extra * sample.id.endswith("a")),
            labelled,
            {"mine"},
        )["self_preference"]

    assert loves(0.5)["scores"]["value"] == pytest.approx(0.5)
    assert loves(0.0)["scores"]["value"] == pytest.approx(0.0)
    assert certificate.of_rater(each(lambda *_: 1.0), labelled)["self_preference"] is None


def test_without_right_and_wrong_the_pairs_decide(bundled, right):
    plain = [Pair(**{**vars(pair), "a_right": None, "b_right": None}) for pair in bundled.pairs]
    three = [Pair(**{**vars(pair), "labels": (*pair.labels, *pair.labels)}) for pair in plain]
    # scores that move a little with every text: no verdict is moved by that
    knows = each(lambda output, sample: right[sample.id] + 0.01 * noise(output.text))
    for pairs, people in ((plain, 1), (three, 2)):
        found = certificate.of_rater(knows, LabelledSet(tuple(pairs), "own.jsonl", "0"))
        assert found["answers"] is None
        assert found["pairs"]["kappa"]["value"] > 0.6
        assert found["level"] != "failed"
        assert found["injection"]["verdicts"]["moved"]["value"] == 0
        assert found["injection"]["scores"]["moved"]["value"] == 1
        assert (found["pairs"]["human_kappa"] is None) == (people == 1)


def test_its_errors_are_what_a_correction_takes(bundled, right):
    def errs(output: Output, sample: Sample) -> float:
        return float(right[sample.id] != (noise(output.text) < 0.2))

    found = certificate.of_rater(each(errs), bundled)
    for side in ("sensitivity", "specificity"):
        assert found["answers"][side]["value"] == pytest.approx(0.8, abs=0.08)
    known = known_errors(certificate.errors_of(found))
    assert known.level == "weak"
    assert known.calibration.problem is None
    assert known.calibration.youden.value == pytest.approx(0.6, abs=0.12)
    assert known.length.padding == found["verbosity"]["padding"]
    nothing = certificate.of_rater(each(lambda *_: None), bundled)
    assert known_errors(certificate.errors_of(nothing)).calibration.problem


# ---- judges of pairs -----------------------------------------------------------------------------


def prefers(score: Callable[[str, Sample], float], first: float = 0.0) -> Any:
    """By the scores of both texts, with so much added to what stands first."""

    def compare(outputs, samples, others):
        apart = [
            score(output.text, sample) - score(other, sample)
            for output, sample, other in zip(outputs, samples, others, strict=True)
        ]
        return [
            Preference(1 / (1 + math.exp(-x - first)), 1 / (1 + math.exp(-x + first)))
            for x in apart
        ]

    return compare


@pytest.fixture(scope="module")
def worth(bundled):
    """How good each text is, by its label; a text that is not of the set is as good as it holds."""
    known = {}
    for pair in bundled.pairs:
        a, b = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.5, 0.5)}[pair.labels[0]]
        known |= {pair.a: a, pair.b: b}

    def of(text, sample):
        own = (value for name, value in known.items() if name == text)
        inside = (value for name, value in known.items() if len(name) > 12 and name in text)
        return next(own, next(inside, 0.0))

    return of


def test_a_judge_of_pairs_that_knows_agrees_in_both_orders(bundled, worth):
    found = certificate.of_comparer(prefers(worth), bundled)
    assert found["pairs"]["agreement"]["value"] == 1
    assert found["pairs"]["scores"]["good"]["value"] == 1
    assert found["position"]["consistent"]["value"] == 1
    assert found["position"]["first"]["value"] == pytest.approx(0.5)
    assert found["injection"]["verdicts"]["moved"]["value"] == 0


def test_a_judge_of_places_fails_and_its_place_shows(bundled, worth):
    found = certificate.of_comparer(prefers(worth, first=5.0), bundled)
    assert found["level"] == "failed"
    assert found["position"]["consistent"]["value"] == 0
    assert found["position"]["first"]["value"] == 1
    assert set(found["pairs"]["kinds"]) == {pair.kind for pair in bundled.pairs}


def test_padding_wins_against_itself_with_a_judge_that_loves_length(bundled, worth):
    longer = certificate.of_comparer(prefers(lambda text, _: len(text) / 50), bundled)
    assert longer["verbosity"]["verdicts"]["difference"]["delta"] == pytest.approx(0.5)
    same = certificate.of_comparer(prefers(lambda text, _: 1.0), bundled)
    assert same["verbosity"]["verdicts"]["difference"]["delta"] == 0


# ---- cuts ----------------------------------------------------------------------------------------


def youden(scores: Any, right: Any, cut: Any) -> float:
    passed = scores >= cut
    return passed[right].mean() - passed[~right].mean()


def test_the_best_threshold_is_the_best_of_all():
    draws = np.random.default_rng(0)
    for _ in range(50):
        scores = draws.integers(0, 12, 30).astype(float)
        right = draws.random(30) < 0.5
        if right.all() or not right.any():
            continue
        found = cutoffs.best_threshold(scores, right.astype(object))
        best = max(youden(scores, right, cut) for cut in np.arange(-0.5, 13))
        assert youden(scores, right, found) == pytest.approx(best)


def test_cuts_that_are_cross_fitted_do_not_flatter():
    """On noise a fitted cut seems to separate, one that is fitted on others does not."""
    draws = np.random.default_rng(1)
    own, crossed = [], []
    for _ in range(60):
        scores, right = draws.random(40), draws.random(40) < 0.5
        flags = right.astype(object)
        own.append(youden(scores, right, cutoffs.best_threshold(scores, flags)))
        cuts = cutoffs.cross_fitted(cutoffs.best_threshold, scores, list(flags), range(40))
        crossed.append(youden(scores, right, cuts))
    assert np.mean(own) > 0.15
    assert abs(np.mean(crossed)) < 0.06


def test_a_margin_separates_ties_from_wins():
    differences = np.array([0.1, -0.1, 0.0, 0.05, 1.0, 2.0, -1.5, -1.0, math.nan])
    given = np.array(["tie", "tie", "tie", "tie", "a", "a", "b", "b", "a"], object)
    margin = cutoffs.best_margin(differences, given)
    assert 0.1 <= margin < 1.0
    assert cutoffs.outcome(differences, margin)[:8] == list(given[:8])
    assert cutoffs.outcome(differences, margin)[8] is None
    assert cutoffs.best_margin(differences[4:], given[4:]) == 0.0


def test_padding_keeps_the_answer_and_planted_texts_too():
    assert all("41 days" in certificate.padded("Within 41 days.", i) for i in range(5))
    output = Output("x", "Within 41 days.", 0, False)
    assert all("41 days" in text.planted(output).text for text in injections())


def test_what_float32_leaves_open_is_the_same_verdict(bundled):
    """Scores near a rounding edge, asked again in other company, are a few 1e-6 apart."""

    def jittered(size: float) -> certificate.Rate:
        calls = iter(range(100))

        def of(outputs, samples):
            turn = next(calls)
            return [0.0123449999 + size * turn * (i % 2) for i, _ in enumerate(outputs)]

        return of

    assert certificate.of_rater(jittered(2e-7), bundled)["repeatability"]["equal"]["value"] == 1
    # negative control: what is apart by a part in a hundred is another verdict
    assert certificate.of_rater(jittered(1e-4), bundled)["repeatability"]["equal"]["value"] < 1
