"""Answers by vLLM: held against this process's own, with a stub of vLLM's interface.

No vLLM was run: the stub has its names, keywords and results, and generates with transformers.
"""

import json
import re
import shutil
import sys

import pytest
from harness.plugins.models.vllm import open_model

from harness.config.experiment import load_experiment
from harness.errors import ConfigError, EnvironmentLack, UserError
from harness.manager import Plugins, plugins
from harness.planning.plan import Settings, make_plan
from harness.testing import MODEL_CHECKS, ModelTrial
from harness.types import Artifact, ModelRef
from tests.conftest import ROOT

STUB = ROOT / "tests/sample_plugins/vllm_stub"


@pytest.fixture
def vllm(monkeypatch):
    """The stub on the path."""
    monkeypatch.syspath_prepend(STUB)
    import vllm

    vllm.LLM.opened.clear()
    yield vllm
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]


@pytest.fixture
def opened(tiny_model):
    """`opened(engine=..., path=...)` is the tiny model, or an adapter on it."""

    def make(engine=None, path=None, batch=None, **fields):
        base = ModelRef("tiny", str(tiny_model))
        kind = "adapter" if path else "base"
        artifact = Artifact(kind, base, path=path and str(path), engine=engine, **fields)
        return plugins().open_model(artifact, batch)

    return make


@pytest.fixture(scope="session")
def lora(tiny_artifact, tmp_path_factory):
    """`lora(rank=24)` is the folder of a LoRA with random values."""
    from peft import LoraConfig, get_peft_model

    from harness.models.language_model import load_weights

    def saved(**fields):
        folder = tmp_path_factory.mktemp("adapters") / "mine"
        given = {"r": 4, "target_modules": ["q_proj", "v_proj"], **fields}
        config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **given)
        get_peft_model(load_weights(tiny_artifact), config).save_pretrained(folder)
        return folder

    return saved


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    return ModelTrial(open_model, tmp_path_factory.mktemp("trial"), engine="vllm")


@pytest.mark.parametrize("check", MODEL_CHECKS, ids=lambda check: check.__name__)
def test_it_is_a_model_as_suites_need_it(vllm, trial, check):
    check(trial)


PROMPTS = [[5, 9, 80], [7] * 40, [300, 12, 5, 9, 44, 2]]


def test_answers_are_those_of_the_passes(vllm, opened):
    own, theirs = opened(), opened("vllm")
    for cap in (1, 12):
        expected = own.generate(PROMPTS, max_new_tokens=cap)
        assert theirs.generate(PROMPTS, max_new_tokens=cap) == expected
    assert len(vllm.LLM.opened) == 1
    assert theirs.info()["engine"] == "vllm 0.33.0+stub"


def test_an_answer_ends_where_the_passes_end_it(vllm, opened):
    """The token that ended it is no part of it, and a long prompt loses its beginning."""
    own, theirs = opened(), opened("vllm")
    first = own.generate([PROMPTS[0]], max_new_tokens=4)[0].ids
    for model in (own, theirs._scores):
        model.end_ids = (*model.end_ids, first[2])
    prompts = [PROMPTS[0], [11] * 300]
    expected = own.generate(prompts, max_new_tokens=8)
    assert theirs.generate(prompts, max_new_tokens=8) == expected
    assert not expected[0].capped
    assert len(expected[0].ids) < 3
    assert expected[1].cut
    with pytest.raises(UserError, match="leaves no room for a prompt"):
        theirs.generate(prompts, max_new_tokens=10_000)


def test_log_likelihoods_are_the_passes_own_before_and_after_answers(vllm, opened):
    requests = [([5, 9], [80, 4]), ([5, 9], [11])]
    own, theirs = opened(), opened("vllm")
    expected = own.loglikelihood(requests)
    assert theirs.loglikelihood(requests) == expected
    theirs.generate(PROMPTS, max_new_tokens=2)
    assert theirs.loglikelihood(requests) == expected
    theirs.generate(PROMPTS, max_new_tokens=2)
    assert len(vllm.LLM.opened) == 2  # it made room in between
    theirs.close()
    assert theirs.text([5, 9]) == own.text([5, 9])


@pytest.mark.parametrize(("rank", "most"), [(4, 8), (24, 32)])
def test_an_adapter_is_served_as_a_lora(vllm, opened, lora, rank, most):
    folder = lora(r=rank)
    expected = opened(path=folder).generate(PROMPTS, max_new_tokens=6)
    assert opened("vllm", folder).generate(PROMPTS, max_new_tokens=6) == expected
    assert expected != opened().generate(PROMPTS, max_new_tokens=6)
    assert vllm.LLM.opened[0]["max_lora_rank"] == most


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"use_dora": True}, "use_dora"), ({"modules_to_save": ["lm_head"]}, "modules_to_save")],
)
def test_an_adapter_that_vllm_cannot_serve_whole_is_refused(vllm, opened, lora, fields, named):
    with pytest.raises(UserError, match=rf"plain LoRA adapters: this one sets {named}; merge it"):
        opened("vllm", lora(**fields))


def test_weights_that_were_trained_are_opened_from_their_folder(vllm, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "weights")
    base = ModelRef("tiny", str(tiny_model))
    artifact = Artifact("weights", base, path=str(tmp_path / "weights"), engine="vllm")
    plugins().open_model(artifact).generate(PROMPTS, max_new_tokens=1)
    assert vllm.LLM.opened[0]["model"] == str(tmp_path / "weights")


# ---- plans and records ---------------------------------------------------------------------------


def plan_of(small):
    return make_plan(load_experiment(small.file), Plugins(discover=False), Settings())


def test_a_suite_that_generates_has_another_hash_and_others_keep_theirs(vllm, experiment):
    own = {suite.name: suite for suite in plan_of(experiment().write()).suites}
    theirs = {suite.name: suite for suite in plan_of(experiment(engine="vllm").write()).suites}
    changed = {name for name in own if own[name].hash != theirs[name].hash}
    assert changed == {"answers"}
    assert theirs["answers"].parts["engine"] == "vllm"
    assert "engine" not in own["answers"].parts


def test_one_suite_may_name_it(vllm, experiment):
    small = experiment(suites=["predicts", {"name": "answers", "engine": "vllm"}])
    plan = plan_of(small.write())
    assert [suite.settings.get("engine") for suite in plan.suites] == [None, "vllm"]


def test_without_vllm_it_is_said_before_anything_runs(experiment):
    with pytest.raises(EnvironmentLack, match="engine vllm is not installed: pip install vllm"):
        plan_of(experiment(engine="vllm").write())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"engine": "vlm"}, r"unknown engine 'vlm': .*vllm"),
        ({"methods": ["base", {"name": "qlora", "r": 4}]}, r"'qlora' quantises.*leave the engine"),
        ({"methods": ["base", "dora"]}, "dora trains no plain LoRA; merge it"),
        ({"model": {"served": "http://127.0.0.1:9/v1", "model": "m"}}, r"m at .* behind a server"),
    ],
)
def test_what_it_cannot_answer_for_is_refused_with_the_line(vllm, experiment, changes, told):
    small = experiment().write(**{"engine": "vllm", **changes})
    with pytest.raises(ConfigError, match=told) as caught:
        plan_of(small)
    lines = small.file.read_text().splitlines()
    place = re.match(rf"{re.escape(str(small.file))}:(\d+): ", str(caught.value))
    assert lines[int(place[1]) - 1].startswith("engine: ")


def test_records_say_who_answered_and_are_kept_apart(harness, experiment, tiny_model, tmp_path):
    small = experiment(suites=["predicts", "answers"]).write()
    given = ["eval", tiny_model, "--suites", small.folder, "--precision", "float32"]
    given += ["--suite", "predicts", "--suite", "answers"]
    cells = {}
    for name, engine in (("passes", []), ("vllm", ["--engine", "vllm"])):
        out = tmp_path / name
        ran = harness(*given, *engine, "--out", out, env={"PYTHONPATH": str(STUB)})
        assert ran.code == 0, ran.stderr
        (cells[name],) = (out / "cells").iterdir()
    own, theirs = (json.loads(file.read_text())["evaluation"] for file in cells.values())
    assert theirs["passes"]["engine"] == "vllm 0.33.0+stub"
    assert "engine" not in own["passes"]
    assert theirs["suites"]["answers"]["hash"] != own["suites"]["answers"]["hash"]
    assert theirs["suites"]["predicts"]["hash"] == own["suites"]["predicts"]["hash"]
    for suite in ("predicts", "answers"):  # the stub's arithmetic is the passes'
        assert values(theirs, suite) == values(own, suite)
    verified = harness("verify", tmp_path / "vllm", "--suites", small.folder)
    assert verified.code == 0, verified.stdout + verified.stderr
    compared = harness("compare", *cells.values())
    assert compared.code == 4
    assert re.search("suite 'answers' is not the same .*engine", compared.stderr)


def values(evaluation, suite):
    metrics = evaluation["suites"][suite]["metrics"]
    return {name: metric["value"] for name, metric in metrics.items()}
