"""A model behind a server in an experiment and in `harness eval`: what compares, what does not."""

from __future__ import annotations

import importlib.util
import json

import pytest

from harness.models.language_model import open_artifact
from tests import tiny_gguf
from tests.conftest import run_harness
from tests.endpoint_server import MODEL
from tests.model_server import ServedModel

SUITES = ("predicts", "answers", "picks", "tasks")


@pytest.fixture(scope="module")
def server(tiny_artifact):
    with ServedModel(open_artifact(tiny_artifact)).running() as running:
        yield running


@pytest.fixture
def evaluated(experiment, server, tiny_model, tmp_path, monkeypatch):
    """`evaluated("--completions")` measures the tiny model and the served one beside it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    written = experiment()

    def run(*options, model=tiny_model, out="out"):
        named = [word for suite in SUITES for word in ("--suite", suite)]
        given = [model] if model else []
        return run_harness(
            *("eval", *given, "--served", server.url, *options, *named, "--precision", "float32"),
            *("--suites", written.folder, "--out", tmp_path / out),
        )

    return run


def records(out):
    found = [json.loads(file.read_text()) for file in (out / "cells").glob("*.json")]
    return {record["plan"]["label"]: record for record in found}


def figures(record):
    return {
        f"{suite}.{name}": metric["value"]
        for suite, section in record["evaluation"]["suites"].items()
        for name, metric in section["metrics"].items()
    }


def test_with_log_probabilities_of_prompts_every_figure_is_that_of_this_process(
    evaluated, tmp_path
):
    done = evaluated("--completions", "--prompt-logprobs")
    assert done.code == 0, done.stderr
    found = records(tmp_path / "out")
    own, behind = figures(found["base"]), figures(found[MODEL])
    assert set(behind) == set(own)
    for name, value in own.items():
        if not name.endswith(".retained"):  # of the base itself there is none
            assert behind[name] == pytest.approx(value, abs=1e-4), name
    suites = {label: record["evaluation"]["suites"] for label, record in found.items()}
    for suite in SUITES:
        assert suites["base"][suite]["hash"] == suites[MODEL][suite]["hash"]
    told = found[MODEL]["evaluation"]["served"]
    assert told["form"] == "completions"
    assert told["requests"] > 30
    rows = json.loads((tmp_path / "out" / "leaderboard.json").read_text())["rows"]
    row = next(row for row in rows if row["label"] == MODEL)
    assert row["cost"]["peak_memory_bytes"] is None


def test_what_is_asked_otherwise_is_kept_apart(evaluated, server, tmp_path):
    done = evaluated()
    assert done.code == 0, done.stderr
    assert "suite 'predicts' is left out" in done.stderr
    found = records(tmp_path / "out")
    suites = {label: record["evaluation"]["suites"] for label, record in found.items()}
    assert set(suites[MODEL]) == {"answers", "picks", "tasks"}
    asked = {name: section["parts"]["asked"] for name, section in suites[MODEL].items()}
    assert asked == {"answers": "chat", "picks": "chat, letters", "tasks": "chat, letters"}
    assert set(suites[MODEL]["picks"]["metrics"]) == {"acc", "probability"}
    assert any("'predicts' is left out" in line for line in found[MODEL]["warnings"])
    compared = run_harness("compare", MODEL, "base", "--results", tmp_path / "out")
    assert compared.code == 4
    assert "asked is 'chat' and None" in compared.error
    verified = run_harness("verify", tmp_path / "out", "--suites", tmp_path)
    assert verified.code == 0, verified.stdout
    assert "not at hand" not in verified.stdout
    asked_before = len(server.requests)
    assert evaluated().code == 0
    assert len(server.requests) == asked_before  # what is recorded is not asked again


def test_a_served_model_is_measured_alone(evaluated, tmp_path):
    done = evaluated(model=None, out="alone")
    assert done.code == 0, done.stderr
    (record,) = records(tmp_path / "alone").values()
    assert record["plan"]["model"]["name"].startswith(f"{MODEL} at http://127.0.0.1:")
    assert record["plan"]["label"] == MODEL


def test_an_experiment_names_where_its_model_is_served(experiment, server, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    written = experiment().write(model={"served": server.url}, data=None, suites=["answers"])
    done = run_harness("run", written.file, "--out", written.out)
    assert done.code == 0, done.stderr
    (record,) = written.records().values()
    assert set(record["evaluation"]["suites"]) == {"answers"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"methods": ["base", "lora"]}, "'lora' trains a model of this process"),
        ({"methods": [{"name": "base", "quant_type": "nf4"}]}, "quantises a model of this process"),
        ({"suites": ["predicts"]}, "log-probabilities of texts"),
        ({"model": {"served": "ftp://x"}}, "is no URL"),
        ({"model": {"served": "http://127.0.0.1:9/v1"}}, "no OpenAI-compatible server answers"),
        ({"model": {"served": "http://127.0.0.1:9/v1", "form": "chatty"}}, "form"),
        ({"model": {"serve": "http://127.0.0.1:9/v1"}}, "serve"),
    ],
)
def test_what_cannot_be_asked_is_one_line_before_anything_runs(
    experiment, server, monkeypatch, changes, says
):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    written = experiment().write(**{"model": {"served": server.url}, **changes})
    done = run_harness("run", written.file, "--out", written.out)
    assert done.code == 2
    assert says in done.error
    assert not (written.out / "cells").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--key", "A_KEY"], "--key is for a model behind a server"),
        (["--completions"], "--completions is for a model behind a server"),
        (["--served", "http://127.0.0.1:9/v1", "--adapter", "x"], "--adapter is for a model in"),
        (["--served", "http://127.0.0.1:9/v1", "--gguf", "x.gguf"], "not both"),
        ([], "name a MODEL"),
    ],
)
def test_options_that_do_not_go_together(options, says):
    done = run_harness("eval", *options)
    assert done.code == 2
    assert says in done.error


def test_a_gguf_file_is_served_meanwhile_and_answers_as_its_weights_do(
    experiment, tiny_model, tmp_path, monkeypatch
):
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("llama.cpp's server is not installed")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    written, file = experiment(), tiny_gguf.write(tmp_path / "tiny.gguf", tiny_model)
    given = ("--suites", written.folder, "--suite", "answers", "--out", tmp_path / "out")
    done = run_harness(
        *("eval", tiny_model, "--gguf", file, "--completions", "--precision", "float32", *given)
    )
    assert done.code == 0, done.stderr
    found = records(tmp_path / "out")
    assert figures(found["tiny"]) == pytest.approx(figures(found["base"]), abs=1e-6)
    told = found["tiny"]["evaluation"]["served"]
    assert (told["gguf"], told["url"]) == ("tiny.gguf", None)
    file.write_bytes(file.read_bytes()[:-1000])
    cut = run_harness("eval", "--gguf", file, *given)
    assert cut.code == 2
    assert "truncated" in cut.stderr
