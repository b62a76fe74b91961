"""Panels: several judges together, each one's word kept, the silent counted, and one hash."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import yaml

from harness.api.judge import Judge, Judgement
from harness.errors import CellFailed, ConfigError, UserError
from harness.evaluation.evaluate import SuiteFailure
from harness.evaluation.judging import certificates, certify
from harness.evaluation.judging.options import judge_of
from harness.evaluation.judging.panels import seats
from harness.evaluation.judging.panels.panel import AGREEMENT, Panel
from harness.evaluation.suite import check_loading
from harness.manager import plugins
from harness.stats.metric_summary import summarise
from harness.system.endpoint import client
from harness.types import Metric, ModelRef, Output, Sample
from tests.conftest import write_jsonl, write_suites
from tests.endpoint_server import Served, chat, error
from tests.evaluation.judging.test_certify import ROWS
from tests.evaluation.judging.test_endpoint_suites import results
from tests.evaluation.suite_files import PLUGINS, load

THREE = ("kind", "strict", "other")


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(client, "RETRIES", 0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


# ---- what judges say together --------------------------------------------------------------------


class Says(Judge):
    """A judge that says what it is told to."""

    name = "says"
    bounds = (1.0, 5.0)

    def __init__(self, scores, missing=(), preferred=None, fails=False):
        self.scores, self.missing, self.fails = scores, missing, fails
        self.rows = [
            {"preferred": {"first": first, "second": second}} for first, second in preferred or ()
        ]
        self.options = self.Options(rubric="Rate it.")

    def judge(self, outputs, samples, *, rubric, tools):
        if self.fails:
            raise CellFailed("the judge's endpoint gave no answer to 3 of 3 questions")
        return Judgement(self.scores, missing=self.missing, rows=self.rows)


class Tools:
    seat = None

    def sit(self, seat):
        self.seat = seat


def together(*judges, least=None) -> Judgement:
    panel = Panel(judges, [f"judge {i}" for i in range(len(judges))], least)
    count = len(judges[0].scores)
    outputs = [Output(str(i), "text", 1, False) for i in range(count)]
    samples = [Sample(str(i), prompt="?") for i in range(count)]
    return panel.judge(outputs, samples, rubric="", tools=Tools())


def test_the_score_is_the_mean_of_those_who_gave_one_if_they_are_enough():
    found = together(
        Says([1.0, 2.0, None, None], missing=[None, None, "empty", "empty"]),
        Says([3.0, None, 4.0, None], missing=[None, "refused", None, "refused"]),
        Says([5.0, 4.0, 5.0, 3.0]),
    )
    assert found.scores == [3.0, 3.0, 4.5, None]
    assert list(found.missing) == [None, None, None, "empty"]
    assert found.notes["missing_by_judge"] == {
        "judge 0": {"empty": 2},
        "judge 1": {"refused": 2},
        "judge 2": {},
    }
    assert [one["score"] for one in found.rows[1]["panel"].values()] == [2.0, None, 4.0]
    # of the distances 2, 4 and 2 the mean, in parts of 4
    assert found.more[AGREEMENT][0] == pytest.approx(1 - (8 / 3) / 4)
    assert found.more[AGREEMENT][3] is None
    alone = together(Says([1.0, None]), Says([None, None]), least=1)
    assert alone.scores == [1.0, None]


def test_judges_who_compare_vote_in_each_order():
    win, loss, first, second = (0.9, 0.8), (0.1, 0.3), (0.9, 0.1), (0.2, 0.9)
    tie = (0.5, 0.5)
    votes = [  # of three judges, and what they come to
        ((win, win, loss), 1.0),
        ((loss, loss, win), 0.0),
        ((win, loss, tie), 0.5),
        ((win, first, second), 1.0),
        ((first, first, win), 0.5),
        ((first, first, first), 0.5),
    ]
    scores = {win: 1.0, loss: 0.0, first: 0.5, second: 0.5, tie: 0.5}
    judges = [
        Says([scores[own[i]] for own, _ in votes], preferred=[own[i] for own, _ in votes])
        for i in range(3)
    ]
    found = together(*judges)
    assert found.scores == [come for _, come in votes]
    assert found.rows[0]["preferred"] == {
        "first": pytest.approx(2 / 3),
        "second": pytest.approx(2 / 3),
    }
    assert found.notes["position_consistency"] == pytest.approx(3 / 5)


def test_a_judge_that_fails_as_a_whole_is_silent_and_the_others_go_on():
    found = together(Says([1.0, 2.0]), Says([3.0, 2.0]), Says([0.0, 0.0], fails=True))
    assert found.scores == [2.0, 2.0]
    assert found.notes["missing_by_judge"]["judge 2"] == {"no_reply": 2}
    (line,) = found.warnings
    assert line.startswith("of the panel 'judge 2' gave no verdict: the judge's endpoint gave no")
    two = together(Says([1.0, 2.0]), Says([0.0, 0.0], fails=True))
    assert two.scores == [None, None]
    assert list(two.missing) == ["no_reply"] * 2


def test_judges_who_agree_have_an_alpha_of_one_and_dice_of_none():
    rng = np.random.default_rng(0)
    same = list(rng.uniform(1, 5, 60))
    alpha = together(Says(same), Says(same)).notes["agreement"]["krippendorff_alpha"]
    assert (alpha["value"], alpha["n"]) == (1.0, 60)
    dice = together(*(Says(list(rng.uniform(1, 5, 60))) for _ in range(3)))
    alpha = dice.notes["agreement"]["krippendorff_alpha"]
    assert alpha["ci_low"] < 0 < alpha["ci_high"]
    assert np.mean(dice.more[AGREEMENT]) < 0.8


def test_names_tell_the_judges_of_a_panel_apart():
    assert seats.labels([("rubric", "a"), ("rubric", "b")]) == ["a", "b"]
    assert seats.labels([("rubric", "a"), ("pairwise", "a")]) == ["rubric", "pairwise"]
    assert seats.labels([("r", "a"), ("p", "b")]) == ["r by a", "p by b"]
    assert seats.labels([("r", "a"), ("r", "a"), ("r", "b")]) == ["a", "a (2)", "b"]


# ---- in a suite ----------------------------------------------------------------------------------


def scored(request, nth=0):
    """Each model has a score that it gives."""
    word = {"kind": "5", "strict": "2", "other": "3"}[request.body["model"]]
    return chat(word, top=[[(word, 0.9), ("1", 0.1)]], model=request.body["model"])


@pytest.fixture
def served():
    with Served(scored).running() as server:
        server.models = list(THREE)
        yield server


@pytest.fixture
def panel(tmp_path, served):
    """`panel(*models)` writes the suite `judged`, whose judges the server has."""
    write_suites(tmp_path)

    def write(*models, judge=None, **changes):
        own = judge or {"name": "expected_score", "rubric": "Rate it."}
        members = [
            {**own, "endpoint": {"url": served.url, "model": model, "key": None}}
            if isinstance(model, str)
            else model
            for model in models or THREE
        ]
        suite = {
            "name": "judged",
            "version": 1,
            "ask": "generate",
            "data": "asked.jsonl",
            "max_new_tokens": 4,
            "judge": {"panel": members, **changes},
        }
        (tmp_path / "judged.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
        return tmp_path

    return write


def test_a_panel_of_endpoints_scores_a_suite(panel, served, tiny_artifact):
    suite = load(panel(), "judged")
    (result,) = results([suite], tiny_artifact)
    assert not isinstance(result, SuiteFailure), result
    own = {"kind": 4.6, "strict": 1.9, "other": 2.8}
    for row in result.rows:
        assert row["scores"]["score"] == pytest.approx(sum(own.values()) / 3)
        kept = {name: one["score"] for name, one in row["judge"]["panel"].items()}
        assert kept == pytest.approx(own)
    assert [metric.name for metric in result.metrics] == ["score", AGREEMENT]
    assert summarise(result.metrics, result.rows, None)[AGREEMENT]["value"] == pytest.approx(0.55)
    judge = result.notes["judge"]
    assert (judge["judge"], judge["model"]) == ("panel", "kind, strict, other")
    assert [one["backend"]["answered_by"] for one in judge["judges"]] == [{m: 8} for m in THREE]
    assert len(served.requests) == 24


def test_one_judge_that_is_down_costs_its_own_verdicts_alone(panel, served, tiny_artifact):
    served.told = lambda request, nth: (
        error(500) if request.body["model"] == "other" else scored(request)
    )
    (result,) = results([load(panel(), "judged")], tiny_artifact)
    assert {round(row["scores"]["score"], 6) for row in result.rows} == {3.25}
    judge = result.notes["judge"]
    assert judge["missing_by_judge"] == {"kind": {}, "strict": {}, "other": {"no_reply": 8}}
    assert any("of the panel 'other' gave no verdict" in line for line in result.warnings)
    (failed,) = results([load(panel(least=3), "judged")], tiny_artifact)
    assert isinstance(failed, SuiteFailure)
    assert "gave no verdict on 8 of 8 answers (8 no_reply)" in str(failed.error)


def test_a_pinned_model_of_a_panel_that_does_not_answer_fails_the_suite(
    panel, served, tiny_artifact
):
    pinned = {
        "name": "expected_score",
        "rubric": "Rate it.",
        "endpoint": {
            "url": served.url,
            "model": "other",
            "key": None,
            "model_answered": "other-2026",
        },
    }
    (failed,) = results([load(panel("kind", "strict", pinned), "judged")], tiny_artifact)
    assert isinstance(failed, SuiteFailure)
    assert "the model 'other' answered, and model_answered is 'other-2026'" in str(failed.error)


def test_models_in_this_process_and_elsewhere_compare_together(
    panel, served, tiny_artifact, judging_model
):
    """Two at endpoints that prefer what is longer, and the base, which says neither letter."""

    def longer(request, nth=0):
        told = dict(re.findall(r"Answer ([AB]):\n`+\n(.*?)\n`+", request.text, re.DOTALL))
        better = max(told, key=lambda letter: len(told[letter]))
        return chat(better, top=[[(better, 1.0)]])

    served.told = longer
    judge = {"name": "pairwise", "rubric": "The longer one.", "against": "reference"}
    local = {**judge, "model": str(judging_model), "least_mass": 0.9}
    (result,) = results(
        [load(panel("kind", "strict", local, judge=judge), "judged")], tiny_artifact
    )
    assert not isinstance(result, SuiteFailure), result
    for row in result.rows:
        longer_answer = len(row["output"]) > len(row["reference"])
        assert row["scores"]["win_rate"] == float(longer_answer)
        assert row["judge"]["preferred"] == dict.fromkeys(("first", "second"), float(longer_answer))
    judge_notes = result.notes["judge"]
    assert judge_notes["missing_by_judge"][judging_model.name] == {"low_mass": 8}
    assert judge_notes["position_consistency"] == 1.0


def test_the_hash_is_of_every_judge_and_of_how_many_must_speak(panel, served):
    plain = load(panel(), "judged")
    others = [
        load(panel("kind", "strict"), "judged"),
        load(panel("kind", "other", "strict"), "judged"),
        load(panel(least=1), "judged"),
        load(panel(judge={"name": "expected_score", "rubric": "Rate it well."}), "judged"),
    ]
    assert len({plain.hash, *(one.hash for one in others)}) == 5
    assert load(panel(max_missing=0.5), "judged").hash == plain.hash
    assert load(panel(least=2), "judged").hash == plain.hash, "more than half, as by default"
    assert (
        load(panel(), "judged", base=ModelRef("b", "b", content_hash="1" * 64)).hash == plain.hash
    )
    hashes = [certificates.judge_hash(one, None, plugins()) for one in (plain, *others)]
    assert len(set(hashes)) == 5
    assert isinstance(judge_of(plain, PLUGINS), Panel)


@pytest.mark.parametrize(
    ("models", "changes", "line", "says"),
    [
        (("kind",), {}, 7, "panel: needs at least 2"),
        (THREE, {"least": 4}, 6, "least is 4, and the panel has 3 judges"),
        (THREE, {"rubric": "x"}, 6, "'rubric' is of one judge: write it in those of the panel"),
        (THREE, {"model": "tiny"}, 6, "'model' is of one judge"),
        (("kind", {"name": "expected_score"}), {}, 14, "missing key 'rubric' in judge 'expected_"),
        (("kind", {"rubric": "x"}), {}, 14, "missing key 'name'"),
        (
            ("kind", {"name": "expected_score", "rubric": "x", "labels": "l.jsonl"}),
            {},
            6,
            "'labels' is of the panel as a whole",
        ),
        (
            ("kind", {"name": "pairwise", "rubric": "x"}),
            {},
            14,
            "judge 'pairwise' gives win_rate from 0 to 1 and 'expected_score' score from 1 to 5",
        ),
    ],
)
def test_what_makes_no_panel_is_one_line_with_its_place(panel, models, changes, line, says):
    folder = panel(*models, **changes)
    with pytest.raises(ConfigError) as caught:
        load(folder, "judged")
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert message.startswith(f"{folder / 'judged.yaml'}:{line}: ")


def test_a_model_of_a_panel_that_is_not_served_is_named_with_its_line(panel, served):
    folder = panel("kind", "stict")
    with pytest.raises(ConfigError, match=r"judged.yaml:\d+: the endpoint serves no model 'stict'"):
        check_loading([load(folder, "judged")], plugins())


def test_a_panel_is_certified_as_any_judge(panel, served, tmp_path):
    """It has one certificate, by the hash of all its judges, and its own votes."""

    better = {row[row["label"]] for row in ROWS if row["label"] != "tie"}

    def number(request, nth=0):
        """What people say, and A where they say nothing; the third judge says A of everything."""
        told = dict(re.findall(r"Answer ([AB]):\n`+\n(.*?)\n`+", request.text, re.DOTALL))
        right = [letter for letter, text in told.items() if any(one in text for one in better)]
        word = right[0] if right and request.body["model"] != "other" else "A"
        return chat(word, top=[[(word, 0.9)]])

    served.told = number
    judge = {"name": "pairwise", "rubric": "The right number."}
    suite = load(panel(judge=judge), "judged")
    request = certify.Request(suite, None, str(write_jsonl(tmp_path / "own.jsonl", ROWS)))
    found = certify.run(request)
    assert found["asks"] == "two answers"
    assert found["judge"]["name"] == "panel"
    assert found["judge"]["model"]["name"] == "kind, strict, other"
    assert found["pairs"]["agreement"]["value"] == 1.0
    assert found["position"]["consistent"]["value"] == pytest.approx(2 / 3)
    kept = certificates.find(certificates.judge_hash(suite, None, plugins()))
    assert json.dumps(kept["pairs"]) == json.dumps(found["pairs"])
    alone = {**judge, "endpoint": {"url": served.url, "model": "other", "key": None}}
    both = load(panel("kind", alone, judge=judge), "judged")
    assert certificates.find(certificates.judge_hash(both, None, plugins())) is None


def test_a_panel_with_the_base_among_its_judges_says_whom_it_needs(panel):
    base = {"name": "expected_score", "rubric": "Rate it."}
    suite = load(panel("kind", base), "judged")
    with pytest.raises(UserError, match=r"its judge is `base`.* say which with --model MODEL"):
        _ = certify.Request(suite, None, "labels.jsonl").judging
    model = ModelRef("m", "m", content_hash="2" * 64)
    assert certify.Request(suite, model, "labels.jsonl").judging == model
    assert [metric.name for metric in judge_of(suite, PLUGINS).metrics()] == ["score", AGREEMENT]
    assert Metric(AGREEMENT, True, bounds=(0.0, 1.0)) in judge_of(suite, PLUGINS).metrics()
