"""`harness parity` against a small model behind HTTP, with faults that are planted one by one."""

from __future__ import annotations

import copy
import json
import random
import shutil
from dataclasses import replace

import pytest

from harness.cli.main import cli
from harness.errors import UserError
from harness.export import merge_worker
from harness.parity import subject
from harness.types import Sample
from tests.conftest import CHATML
from tests.parity.conftest import WITH_BOS
from tests.parity.model_server import NAME, ModelServer

OTHER_TEMPLATE = WITH_BOS.replace("{{ message['role'] }}\n", "{{ message['role'] }}: ")

BOS = [
    ("llama.cpp", {"more_bos": 1}, "BOS doubled"),
    ("chat alone", {"more_bos": 1}, "BOS doubled"),
    ("vllm", {"template": CHATML}, "BOS missing"),
]


@pytest.fixture
def cell(trained):
    return subject.find("lora", [trained.out])


def names(report):
    return [cause["name"] for cause in report["causes"]]


@pytest.mark.parametrize("speaks", ["llama.cpp", "vllm", "chat alone"])
def test_the_same_model_is_the_same(parity, cell, speaks):
    with ModelServer(cell.artifact, speaks).running() as url:
        code, report = parity("--served", url, "--model", NAME)
    assert (code, names(report), report["verdict"]) == (0, ["same"], "same")
    figures = report["figures"]
    assert figures["identical"]["value"] == figures["reproduced"]["value"] == 1
    assert figures["identical"]["n"] == report["prompts"] == 8
    assert figures["identical"]["ci_low"] < 0.7  # of eight answers
    verdicts = report["suites"]["answers"]
    assert {verdict["verdict"] for verdict in verdicts.values()} == {"same"}
    assert set(verdicts) >= {"rougeL", "exact_match"}
    assert report["first_differences"] == []
    assert any("picks" in note for note in report["notes"])
    if speaks == "chat alone":
        assert "kl" not in figures
        assert any("no log-probabilities" in note for note in report["notes"])
    else:
        assert figures["max_difference"]["value"] < 1e-4
        assert figures["top1"]["value"] == 1
        assert figures["kl"]["value"] < 1e-6


@pytest.mark.parametrize("speaks", ["llama.cpp", "chat alone"])
def test_a_base_without_the_adapter_is_named(parity, cell, speaks):
    with ModelServer(cell.base, speaks).running() as url:
        code, report = parity("--served", url)
    assert (code, names(report)) == (1, ["adapter not applied"])
    assert report["verdict"] == "not the same"
    (first, *_) = report["first_differences"]
    assert first["gap"] > 0
    assert first["ours"] != first["theirs"]
    assert len(report["answers"]) <= 5
    assert report["answers"][0]["ours"] != report["answers"][0]["theirs"]


@pytest.mark.parametrize("speaks", ["llama.cpp", "vllm"])
def test_another_template_is_named_and_shown(parity, cell, speaks):
    with ModelServer(cell.artifact, speaks, template=OTHER_TEMPLATE).running() as url:
        code, report = parity("--served", url)
    assert code == 1
    assert names(report)[0] == "other chat template"
    assert "adapter not applied" not in names(report)
    shown = report["causes"][0]["shown"]
    assert shown["ours"] != shown["theirs"]
    if speaks == "llama.cpp":
        assert "system\n" in shown["ours"]
        assert "system: " in shown["theirs"]
    # its weights are the cell's, for our own token ids tell
    assert report["figures"]["max_difference"]["value"] < 1e-4


@pytest.mark.parametrize(("speaks", "fault", "name"), BOS)
def test_a_bos_that_is_doubled_or_missing_is_named(parity, cell, speaks, fault, name):
    with ModelServer(cell.artifact, speaks, **fault).running() as url:
        code, report = parity("--served", url)
    assert (code, names(report)[0]) == (1, name)


def test_a_missing_stop_is_named(parity, cell):
    with ModelServer(cell.artifact, runs_on=True).running() as url:
        code, report = parity("--served", url)
    assert (code, names(report)) == (1, ["stop token missing"])


def test_sampling_is_named(parity, cell):
    server = ModelServer(cell.artifact, random=random.Random(0))
    with server.running() as url:
        code, report = parity("--served", url)
    assert (code, names(report)) == (1, ["sampling not greedy"])


@pytest.mark.parametrize("refuses", [False, True])
def test_a_context_that_cuts_is_named(parity, cell, refuses):
    server = ModelServer(cell.artifact, refuses=refuses)
    lengths = sorted(len(server.ids(prompt.messages)) for prompt in subject.prompts(cell, 8))
    assert lengths[0] < lengths[-1]
    server.context = lengths[-1] - 2
    with server.running() as url:
        code, report = parity("--served", url)
    assert code == 1
    assert names(report)[0] == "truncated context"
    assert f"holds {server.context} tokens" in report["causes"][0]["because"]


def test_a_folder_is_compared_in_this_process(parity, tiny_model, tmp_path, cell):
    prompt = Sample("lamp", prompt="The lamp")
    export = merge_worker.Task(cell.artifact, tmp_path, merge=True, samples=[prompt])
    merge_worker.carry_out(export, lambda **event: None)
    code, report = parity("--model", tmp_path)
    assert (code, names(report)) == (0, ["same"])
    assert report["form"]["engine"] == "transformers"
    assert report["figures"]["kl"]["value"] < 1e-6
    # the base's own folder, with a template that writes no BOS
    code, report = parity("--model", tiny_model)
    assert (code, names(report)) == (1, ["BOS missing", "adapter not applied"])


def test_limits_and_the_number_of_prompts_are_options(parity, cell):
    with ModelServer(cell.base).running() as url:
        code, report = parity(
            "--served", url, "--limit", 3, "--max-changed", 1, "--max-mean", 99,
            "--max-difference", 99,
        )  # fmt: skip
    assert report["prompts"] == 3
    assert report["beyond"] == []
    # the figures pass, and no limit lets another model pass for this one
    assert code == (0 if names(report) == ["same"] else 1)


def test_the_report_is_kept_beside_the_records(parity, cell, trained):
    with ModelServer(cell.artifact, answers_as="gpt-4").running() as url:
        code, report = parity("--served", url, "--limit", 2)
    assert code == 0
    assert any("answers as gpt-4" in note for note in report["notes"])
    files = list((trained.out / "parity").glob(f"{cell.id}-*.json"))
    assert report in [json.loads(file.read_text()) for file in files]
    assert str(trained.out) not in files[0].read_text()


def test_lines_for_people(here, trained, cell, capsys):
    with ModelServer(cell.base).running() as url, pytest.raises(SystemExit):
        cli.main(
            ["parity", "lora", "--served", url, "--results", str(trained.out), "--limit", "4"],
            standalone_mode=False,
        )
    told = capsys.readouterr().out
    assert "Cause: adapter not applied: " in told
    assert "NOT the same" in told
    assert "the suite is not at hand" in told


# ---- bad input -----------------------------------------------------------------------------------


def refused(trained, *arguments, cell="lora"):
    words = ["parity", cell, *map(str, arguments), "--results", str(trained.out)]
    with pytest.raises(UserError) as error:
        cli.main(words, standalone_mode=False)
    (line,) = str(error.value).splitlines()
    assert error.value.exit_code == 2
    return line


def test_a_server_that_is_down_or_has_another_model(here, trained, cell):
    server = ModelServer(cell.artifact)
    with server.running() as url:
        said = refused(trained, "--served", url, "--model", "other")
        assert "serves no model 'other'" in said
        assert NAME in said
        server.down = True
        assert "no question was answered" in refused(trained, "--served", url)
    assert "start it" in refused(trained, "--served", url)
    assert "is no URL" in refused(trained, "--served", "shop:1")


def test_a_context_that_holds_no_prompt(here, trained, cell):
    with ModelServer(cell.artifact, context=8).running() as url:
        said = refused(trained, "--served", url)
    assert "its context of 8 tokens holds none of the prompts" in said


def test_options_that_do_not_go_together(trained, tmp_path):
    assert "name what is shipped" in refused(trained)
    both = refused(trained, "--served", "http://a/v1", "--gguf", "a.gguf")
    assert "one form" in both
    assert "--model is for --served" in refused(trained, "--gguf", "a.gguf", "--model", "a")
    assert "--key is for --served" in refused(trained, "--model", "a", "--key", "K")
    assert "no cell 'nobody'" in refused(trained, "--model", "a", cell="nobody")


def test_a_cell_without_answers(trained, tmp_path, tiny_model):
    out = tmp_path / "out"
    shutil.copytree(trained.out, out)
    for file in out.glob("samples/*/answers.jsonl.gz"):
        file.unlink()
    small = replace(trained, folder=tmp_path)
    said = refused(small, "--model", tiny_model)
    assert "answers.jsonl.gz" in said


def test_a_cell_whose_suites_are_not_answered_in_words(cell):
    record = copy.deepcopy(cell.record)
    del record["evaluation"]["suites"]["answers"]
    with pytest.raises(UserError, match="no answers in its own words"):
        subject.prompts(replace(cell, record=record), 4)


def test_prompts_are_the_cells_own(cell):
    prompts = subject.prompts(cell, 100)
    assert len(prompts) == 8
    assert {prompt.most for prompt in prompts} == {24}
    assert all(prompt.messages and prompt.text is None for prompt in prompts)
    assert len(subject.prompts(cell, 3)) == 3
