"""`harness publish`: a model folder whose every figure is the record's, in others' own formats."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from jsonschema import Draft7Validator

from harness.errors import UserError
from harness.publishing import base_model, benchmarks, card, every_eval_ever
from harness.results.store import suites
from harness.types import ModelRef
from harness.verification import published
from harness.verification.suites_at_hand import SuitesAtHand
from tests.conftest import ROOT
from tests.publishing.conftest import Published

SCHEMAS = ROOT / "tests/publishing/every_eval_ever"


def validator(name: str) -> Draft7Validator:
    return Draft7Validator(json.loads((SCHEMAS / name).read_text(encoding="utf-8")))


# ---- the folder ----------------------------------------------------------------------------------


def test_it_holds_the_model_its_card_its_results_and_what_proves_them(adapter: Published) -> None:
    files = {f.relative_to(adapter.folder).as_posix() for f in adapter.folder.rglob("*")}
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= files
    assert {"README.md", "export.json", "publication.json"} <= files
    cells = {name for name in files if name.startswith("evaluation/cells/")}
    assert cells - {f"evaluation/cells/{adapter.cell}.json"} == {
        f"evaluation/cells/{adapter.told.base}.json"
    }
    assert f"evaluation/samples/{adapter.cell}/answers.jsonl.gz" in files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl", "training.json"))]
    config = json.loads((adapter.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == adapter.record["plan"]["model"]["name"]


def test_it_holds_for_a_sceptic(adapter: Published, at_hand: SuitesAtHand) -> None:
    verified, _ = published.check(adapter.folder, at_hand)
    assert (verified.report.verdict, verified.report.findings) == ("holds", [])
    assert verified.report.checked["figures"] > 100
    assert verified.report.checked["scores"] > 20
    assert verified.report.checked["artifacts"] == 1
    assert verified.report.checked["published texts"] == 3


# ---- the card ------------------------------------------------------------------------------------


def test_huggingface_hub_reads_the_card_and_its_figures_are_the_records(adapter: Published) -> None:
    from huggingface_hub import ModelCard

    read = ModelCard.load(adapter.folder / "README.md")
    assert read.data.license == "apache-2.0"
    assert read.data["library_name"] == "peft"
    headline = {
        f"{suite}.{next(iter(section['metrics']))}": next(iter(section["metrics"].values()))
        for suite, section in suites(adapter.record).items()
    }
    stated = {one.metric_name: one.metric_value for one in read.data.eval_results}
    assert stated == {
        name: metric["value"] for name, metric in headline.items() if metric["value"] is not None
    }
    assert len(stated) >= 3
    assert not any(one.verified or one.verify_token for one in read.data.eval_results)


def test_the_card_tells_all_that_a_reader_doubts(adapter: Published) -> None:
    text = (adapter.folder / "README.md").read_text(encoding="utf-8")
    for title in ("Results", "Forgetting", "Training", "Hardware and software", "Limits"):
        assert f"## {title}\n" in text
    record = adapter.record
    metric = suites(record)["answers"]["metrics"]["rougeL"]
    told = f"{card.figure(metric['value'])} [{card.figure(metric['ci_low'])}, "
    assert told in text
    assert "harness verify FOLDER --ask 20" in text
    assert record["plan"]["data"]["hash"] in text  # type: ignore[index]
    assert f'"{next(iter(record["plan"]["options"]))}"' in text
    assert record["environment"]["packages"]["peft"] in text  # type: ignore[operator]
    assert "verified" not in text.lower()


@pytest.mark.parametrize(
    "hostile",
    ["<script>alert(1)</script>", "a | b", "x\n# Title", "![x](http://e)", "\x1b[31m", "\u202e"],
)
def test_what_others_wrote_cannot_leave_its_place_in_the_card(
    hostile: str, adapter: Published
) -> None:
    record: Any = json.loads(json.dumps(adapter.record))
    record["warnings"] = [hostile]
    record["plan"]["data"]["name"] = hostile
    record["plan"]["label"] = hostile
    text = card.text(adapter.told, record, None)
    assert "<script>" not in text
    assert "\n# Title" not in text
    assert "![x](" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    table = [line for line in text.splitlines() if line.startswith("| data |")]
    assert len(table) == 1
    assert table[0].replace("\\|", "").count("|") == 3


# ---- the Hub's leaderboards ----------------------------------------------------------------------


def with_metric(adapter: Published, name: str, n: int) -> Any:
    record: Any = json.loads(json.dumps(adapter.record))
    share = {**suites(record)["picks"]["metrics"]["acc"], "n": n, "value": 0.375}
    record["evaluation"]["suites"]["tasks"]["metrics"][name] = share
    record["evaluation"]["suites"]["tasks"]["notes"] = {"num_fewshot": {name: 5}}
    return record


def test_a_whole_benchmark_is_in_the_hubs_own_form(adapter: Published) -> None:
    import dataclasses

    from huggingface_hub import parse_eval_result_entries

    record = with_metric(adapter, "gsm8k", 1319)
    told = dataclasses.replace(
        adapter.told,
        benchmarks=benchmarks.chosen(record, []),
        evaluated="2026-01-31",
        source_url="https://example.org/run",
    )
    ((name, text),) = benchmarks.files(told, record).items()
    assert name == ".eval_results/openai_gsm8k_gsm8k.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(text))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k", 37.5)
    assert (entry.date, entry.source_url) == ("2026-01-31", "https://example.org/run")
    assert str(entry.notes).startswith("5-shot, 1319 questions, 95% CI ")
    assert entry.verify_token is None
    assert "verif" not in text


def test_a_part_of_a_benchmark_is_in_the_card_alone(adapter: Published) -> None:
    assert benchmarks.chosen(with_metric(adapter, "gsm8k", 100), []) == ()
    assert benchmarks.chosen(with_metric(adapter, "mmlu", 14042), []) == ()
    assert not (adapter.folder / ".eval_results").exists()


def test_a_user_may_name_a_benchmark(adapter: Published) -> None:
    (one,) = benchmarks.chosen(adapter.record, ["picks.acc=cais/mmlu:all"])
    assert (one.metric, one.dataset, one.task_id) == ("picks.acc", "cais/mmlu", "all")
    with pytest.raises(UserError, match="is no share of right answers of the cell: did you mean"):
        benchmarks.chosen(adapter.record, ["picks.ac=cais/mmlu:all"])
    with pytest.raises(UserError, match=r"write SUITE.METRIC=OWNER/DATASET:TASK_ID"):
        benchmarks.chosen(adapter.record, ["picks.acc"])


# ---- Every Eval Ever -----------------------------------------------------------------------------


def test_every_eval_ever_records_are_valid_and_of_the_record(adapter: Published) -> None:
    home = adapter.folder / every_eval_ever.HOME
    (file,) = home.rglob("*[0-9a-f].json")
    aggregate = json.loads(file.read_text())
    assert list(validator("eval.schema.json").iter_errors(aggregate)) == []
    assert file.parent == home / "data/finetune-harness/shop/tiny-lora"
    detailed = aggregate["detailed_evaluation_results"]
    lines = (home / detailed["file_path"]).read_text().splitlines()
    assert detailed["total_rows"] == len(lines) > 20
    check = validator("instance_level_eval.schema.json")
    instances = [json.loads(line) for line in lines]
    assert [error for one in instances for error in check.iter_errors(one)] == []
    scores = {one["evaluation_result_id"]: one for one in aggregate["evaluation_results"]}
    for suite, section in suites(adapter.record).items():
        for name, metric in section["metrics"].items():
            if metric["value"] is None:
                continue
            told = scores.pop(f"{suite}.{name}")["score_details"]
            assert told["score"] == metric["value"]
            if metric["ci_low"] is not None:
                interval = told["uncertainty"]["confidence_interval"]
                assert interval["lower"] == metric["ci_low"]
            own = [
                o["evaluation"] for o in instances if o["evaluation_result_id"] == f"{suite}.{name}"
            ]
            if metric["estimator"]["kind"] == "share":
                assert sum(o["is_correct"] for o in own) / len(own) == pytest.approx(
                    metric["value"]
                )
    assert not scores


def test_the_schemas_would_find_a_wrong_record(adapter: Published) -> None:
    (file,) = (adapter.folder / every_eval_ever.HOME).rglob("*[0-9a-f].json")
    aggregate = json.loads(file.read_text())
    del aggregate["evaluation_results"][0]["metric_config"]["max_score"]
    assert list(validator("eval.schema.json").iter_errors(aggregate))


def test_reasoning_stands_apart_from_the_answer(adapter: Published) -> None:
    rows = {suite: [dict(row) for row in every] for suite, every in adapter.rows().items()}
    record = copy.deepcopy(adapter.record)
    suites(record)["answers"]["notes"]["reasoning"] = {"reasoned": 1}
    rows["answers"][0] |= {"output": "Yes.", "reasoning": "Let me see."}
    rows["answers"][1] |= {"output": "No.", "reasoning": ""}
    texts = every_eval_ever.files(adapter.told, record, rows)
    (aggregate,) = (json.loads(text) for name, text in texts.items() if name.endswith(".json"))
    (lines,) = (text for name, text in texts.items() if name.endswith(".jsonl"))
    instances = [json.loads(line) for line in lines.splitlines()]
    check = validator("instance_level_eval.schema.json")
    assert [error for one in instances for error in check.iter_errors(one)] == []
    own = [one["output"] for one in instances if one["evaluation_name"] == "answers"]
    assert own[:2] == [{"raw": ["Yes."], "reasoning_trace": ["Let me see."]}, {"raw": ["No."]}]
    assert list(validator("eval.schema.json").iter_errors(aggregate)) == []
    said = {
        one["evaluation_name"]: (one.get("generation_config") or {}).get("generation_args", {})
        for one in aggregate["evaluation_results"]
    }
    assert said["answers"]["reasoning"] is True
    assert not any("reasoning" in args for name, args in said.items() if name != "answers")


# ---- refusals ------------------------------------------------------------------------------------


def test_a_model_whose_licence_nobody_states_needs_one(
    publishing: Callable[..., Result], tmp_path: Path
) -> None:
    result = publishing("lora", "--to", tmp_path / "new")
    assert isinstance(result.exception, UserError)
    assert "the licence of" in str(result.exception)
    assert "--license apache-2.0" in str(result.exception)
    assert not (tmp_path / "new").exists()
    for arguments in (["--license", "Apache 2"], ["--license", "other"]):
        result = publishing("lora", "--to", tmp_path / "new", *arguments)
        assert isinstance(result.exception, UserError)


def test_the_licence_is_that_of_the_package_or_of_the_models_card(tmp_path: Path) -> None:
    known = base_model.license_of(ModelRef("smollm2-135m", "x"), None, None, None)
    assert (known.id, known.origin.split(",")[0]) == ("apache-2.0", "that of SmolLM2-135M-Instruct")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert base_model.license_of(ModelRef("m", str(tmp_path)), None, None, None).id == "mit"
    (tmp_path / "README.md").write_text("---\nlicense: [a, b\n---\n")
    with pytest.raises(UserError, match="not known here"):
        base_model.license_of(ModelRef("m", str(tmp_path)), None, None, None)


def test_a_folder_that_it_did_not_write_stays_as_it_is(
    publishing: Callable[..., Result], adapter: Published, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    result = publishing("lora", "--to", tmp_path / "mine", "--license", "mit")
    assert "not empty: name a folder" in str(result.exception)
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    result = publishing("full", "--to", adapter.folder, "--license", "mit")
    assert f"holds the publication of cell {adapter.cell}" in str(result.exception)


def test_what_trained_nothing_is_not_published(
    publishing: Callable[..., Result], tmp_path: Path
) -> None:
    result = publishing("base", "--to", tmp_path / "new", "--license", "mit")
    assert "trained nothing" in str(result.exception)


def test_an_artifact_that_is_not_the_evaluated_one_is_not_published(
    publishing: Callable[..., Result], finished: Any, tmp_path: Path
) -> None:
    name = finished.records()["lora-0"]["id"]
    results = tmp_path / "results"
    shutil.copytree(finished.out, results)
    (results / "artifacts" / name / "adapter_model.safetensors").write_bytes(b"another")
    to = ["--to", tmp_path / "new", "--license", "mit"]
    result = publishing("lora", *to, results=results)
    assert "adapter_model.safetensors changed since it was saved" in str(result.exception)
    (results / "artifacts" / name / "training.json").unlink()
    assert isinstance(publishing("lora", *to, results=results).exception, UserError)
    assert not (tmp_path / "new").exists()


def test_samples_that_changed_are_not_published(
    publishing: Callable[..., Result], finished: Any, tmp_path: Path
) -> None:
    name = finished.records()["lora-0"]["id"]
    shutil.copytree(finished.out, tmp_path / "results")
    (tmp_path / "results/samples" / name / "picks.jsonl.gz").write_bytes(b"")
    to = ["--to", tmp_path / "new", "--license", "mit"]
    result = publishing("lora", *to, results=tmp_path / "results")
    assert "changed since it was recorded" in str(result.exception)
    assert "--no-samples" in str(result.exception)


@pytest.mark.parametrize("option", [["--date", "soon"], ["--source-url", "javascript:x"]])
def test_options_are_checked_first(
    option: list[str], publishing: Callable[..., Result], tmp_path: Path
) -> None:
    result = publishing("lora", "--to", tmp_path / "new", "--license", "mit", *option)
    assert isinstance(result.exception, UserError)
    assert option[0] in str(result.exception)


# ---- hostile answers, and the command as it is typed ---------------------------------------------


def test_whatever_a_model_says_is_in_the_datastores_form(adapter: Published) -> None:
    rows = {suite: [dict(row) for row in every] for suite, every in adapter.rows().items()}
    hostile = '<script>\x00\ud800 \u202e\u2028\x1b[31m =cmd() "\n'
    for row in rows["answers"]:
        row["output"] = row["reference"] = hostile
    files = every_eval_ever.files(adapter.told, adapter.record, rows)
    (lines,) = (text for name, text in files.items() if name.endswith(".jsonl"))
    assert lines.isascii()
    instances = [json.loads(line) for line in lines.splitlines()]
    check = validator("instance_level_eval.schema.json")
    assert [error for one in instances for error in check.iter_errors(one)] == []
    said = [one["output"]["raw"] for one in instances if one["evaluation_name"] == "answers"]
    assert said
    assert all(raw == [hostile] for raw in said)


@pytest.mark.slow
def test_the_commands_publish_and_verify_as_they_are_typed(
    harness: Callable[..., Any], finished: Any, tmp_path: Path
) -> None:
    name, to = finished.records()["qlora-0"]["id"], tmp_path / "released"
    where = ["--results", finished.out]
    done = harness("publish", name, "--to", to, "--license", "mit", *where)
    assert done.code == 0, done.stderr
    assert f"Check it: harness verify {to}" in done.stdout
    again = harness("publish", name, "--to", to, "--license", "apache-2.0", *where)
    assert "Replaced the earlier publication" in again.stderr
    base = ["--base", finished.content["model"], "--suites", finished.folder]
    told = harness("verify", to, "--ask", 10, "--seed", 3, *base)
    assert told.code == 0, told.stdout + told.stderr
    assert "10 questions asked again" in told.stdout
    (to / "adapter_model.safetensors").write_bytes(b"another")
    told = harness("verify", to, "--suites", finished.folder, "--json")
    assert told.code == 1
    assert "adapter_model.safetensors" in [f["file"] for f in json.loads(told.stdout)["findings"]]
