"""A model whose weights are not finite has no answers: its suites fail, and a few missing samples
have no scores and are reported."""

import json
import math
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest
import yaml

from harness.api.model import LogLikelihood
from harness.errors import CellFailed
from harness.evaluation.evaluate import SuiteFailure, evaluate
from harness.evaluation.suite import Where, load_suite
from harness.evaluation.tasks.choice import Choice
from harness.evaluation.tasks.sample_rows import NOT_FINITE, missing, within_budget
from harness.manager import Plugins
from harness.stats.metric_summary import summarise
from harness.types import Artifact, ModelRef, SuiteResult
from tests.conftest import run_warm, write_suites

JUDGED = {
    "name": "judged",
    "version": 1,
    "ask": "generate",
    "data": "asked.jsonl",
    "max_new_tokens": 4,
    "judge": {"name": "expected_score", "rubric": "Rate it."},
}


@pytest.fixture(scope="module")
def broken_model(tiny_model, tmp_path_factory):
    """The tiny model with a NaN in the last layer's norm, so that every logit is NaN."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("broken") / "nan"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A suite of each way of asking, and one with a judge."""
    place = tmp_path_factory.mktemp("suites")
    write_suites(place)
    (place / "judged.yaml").write_text(yaml.safe_dump(JUDGED, sort_keys=False))
    return place


def loaded(folder, name, model, **changes):
    return load_suite(
        folder / f"{name}.yaml",
        changes,
        plugins=Plugins(discover=False),
        base_model=ModelRef("tiny", str(model)),
        where=Where(),
    )


def result_of(suite, model):
    artifact = Artifact("base", ModelRef("tiny", str(model)))
    silent = {"phase": lambda name: nullcontext(), "report": lambda **event: None}
    (measured,) = evaluate(artifact, [suite], **silent)
    return measured.result


@pytest.mark.parametrize("name", ["answers", "predicts", "picks", "tasks"])
def test_no_way_of_asking_takes_nan_for_an_answer(folder, broken_model, name):
    result = result_of(loaded(folder, name, broken_model), broken_model)
    assert isinstance(result, SuiteFailure)
    assert isinstance(result.error, CellFailed)
    assert f"samples have no answer ({NOT_FINITE}), more than 5%" in str(result.error)
    assert "look for NaN or infinity in the weights" in str(result.error)


def test_a_judge_whose_weights_are_not_finite_is_an_error_and_gives_no_score(
    folder, tiny_model, broken_model
):
    judge = {**JUDGED["judge"], "model": str(broken_model)}
    result = result_of(loaded(folder, "judged", tiny_model, judge=judge), tiny_model)
    assert isinstance(result, SuiteFailure)
    assert isinstance(result.error, CellFailed)
    assert "the judge cannot rate 8 of 8 answers" in str(result.error)


def test_the_record_of_a_model_that_is_not_finite_is_an_error(experiment, broken_model, warm):
    small = experiment(suites=["picks"]).write(model=str(broken_model))
    assert run_warm(small, warm).failed
    (record,) = small.records().values()
    assert record["status"] == "error"
    assert "8 of 8 samples have no answer" in record["error"]["message"]
    assert record["evaluation"]["suites"] == {}


def test_a_sample_without_an_answer_has_no_scores_and_is_no_output(folder, tiny_model, tokenizer):
    suite = loaded(folder, "picks", tiny_model)

    class Model:
        pass

    Model.tokenizer = tokenizer
    requests = Choice().requests(suite, Model)
    good = LogLikelihood(logprob=-1.0, greedy=False, token_logprobs=(-1.0,), cut=False)
    scores = [good] * len(requests.pairs)
    scores[4] = replace(good, logprob=math.nan)  # of the second sample
    requests.scores = scores
    result = Choice().score(suite, requests, None)
    first, second = result.rows[:2]
    assert first["scores"]["acc"] in (0.0, 1.0)
    assert second["scores"] == {"acc": None, "acc_norm": None, "probability": None}
    assert second["output"] is None
    assert second["missing"] == NOT_FINITE
    metric = summarise(result.metrics, result.rows)["acc"]
    assert (metric["n"], metric["left_out"]) == (7, 1)


def test_acc_norm_is_per_character_as_lm_evals(tmp_path, tiny_model, tokenizer):
    """Per byte the Cyrillic choice would win: 16 bytes, 8 characters."""
    write_suites(tmp_path)
    choices = ["\u0434\u043e\u0440\u043e\u0433\u043e\u0439\u0435", "cheapest"]
    row = {"id": "one", "question": "What?", "choices": choices, "answer": 1}
    (tmp_path / "choices.jsonl").write_text(json.dumps(row) + "\n")
    suite = loaded(tmp_path, "picks", tiny_model)
    assert Choice().dependencies(suite) == {"acc_norm": "characters"}

    class Model:
        pass

    Model.tokenizer = tokenizer
    requests = Choice().requests(suite, Model)
    good = LogLikelihood(logprob=-8.0, greedy=False, token_logprobs=(-8.0,), cut=False)
    requests.scores = [replace(good, logprob=-9.0), good]
    (row,) = Choice().score(suite, requests, None).rows
    assert row["scores"]["acc_norm"] == 1


@pytest.mark.parametrize(("missing", "fails"), [(0, False), (5, False), (6, True)])
def test_a_few_missing_samples_are_reported_and_more_than_5_percent_fail(missing, fails):
    rows = [{"id": str(i), "scores": {"acc": 1.0}} for i in range(100 - missing)]
    rows += [
        {"id": f"m{i}", "missing": NOT_FINITE, "scores": {"acc": None}} for i in range(missing)
    ]
    result = SuiteResult(rows, [])
    if fails:
        with pytest.raises(CellFailed, match="6 of 100 samples have no answer"):
            within_budget("quiz", result)
        return
    expected = f"suite 'quiz': 5 of 100 samples have no answer ({NOT_FINITE}); they have no scores"
    assert list(within_budget("quiz", result).warnings) == ([expected] if missing else [])


def test_infinity_is_no_log_probability_either():
    assert missing([-1.0, -math.inf])
    assert not missing([-1.0, -2.0])
    assert missing([], finite=False)
