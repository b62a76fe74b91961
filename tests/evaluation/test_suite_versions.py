"""A suite that changed under the same version is reported before anything runs."""

import json
import shutil
from dataclasses import replace

import pytest

from harness.evaluation.suite_versions import changed, records_in
from harness.results.store import seal, write_json
from tests.evaluation.suite_files import BASE, edit, load


def record_of(suite, cell="lora-s0-ab12"):
    measured = {"content": suite.content, "version": suite.version}
    return {"id": cell, "evaluation": {"suites": {suite.name: measured}}}


# ---- the content of a suite ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["predicts", "answers", "picks", "tasks"])
def test_an_experiment_and_a_model_do_not_change_a_suites_content(folder, name):
    content = load(folder, name).content
    assert len(content) == 64
    assert load(folder, name, limit=2).content == content
    assert load(folder, name, {"limit": 3}).content == content
    assert load(folder, name, base=replace(BASE, content_hash="1" * 64)).content == content
    edit(folder, f"{name}.yaml", "version: 1", "version: 2\ndescription: About kettles.")
    assert load(folder, name).content == content


@pytest.mark.parametrize(
    ("name", "file", "old", "new"),
    [
        ("answers", "asked.jsonl", "The lamp is here.", "The lamp is there."),
        ("answers", "answers.yaml", "max_new_tokens: 8", "max_new_tokens: 9"),
        ("answers", "answers.yaml", "- rougeL\n", ""),
        ("picks", "choices.jsonl", '"answer": 2', '"answer": 1'),
        ("predicts", "plain.jsonl", "The rope stood by", "The rope stood at"),
        ("tasks", "tasks/tiny_choice.jsonl", '"answer": 2', '"answer": 1'),
        ("tasks", "tasks.yaml", "ask:", "num_fewshot: 1\nask:"),
    ],
)
def test_what_its_author_changes_changes_it_under_a_limit_too(folder, name, file, old, new):
    before = load(folder, name, limit=1).content
    edit(folder, file, old, new)
    assert load(folder, name, limit=1).content != before


def test_other_rows_of_an_experiment_are_not_the_suites_content(folder):
    assert load(folder, "answers", {"data": "choices.jsonl", "scorers": ["rougeL"]}).content == ""


# ---- the notice ----------------------------------------------------------------------------------


def test_a_changed_suite_is_reported_until_its_version_is_raised(folder):
    record = record_of(load(folder, "answers"))
    assert changed([load(folder, "answers")], [record]) == []
    edit(folder, "asked.jsonl", "The lamp is here.", "The lamp is there.")
    (notice,) = changed([load(folder, "answers"), load(folder, "picks")], [record])
    assert notice.startswith(
        "suite 'answers' changed since lora-s0-ab12 was recorded, but its version is still 1: raise"
    )
    edit(folder, "answers.yaml", "version: 1", "version: 2")
    assert changed([load(folder, "answers")], [record]) == []


def test_one_notice_counts_the_records(folder):
    before = load(folder, "answers")
    edit(folder, "asked.jsonl", "The lamp is here.", "The lamp is there.")
    records = [record_of(before, cell) for cell in ("base", "full", "lora")]
    (notice,) = changed([load(folder, "answers")], records)
    assert "since base and 2 more was recorded" in notice


@pytest.mark.parametrize(
    "record",
    [
        {"id": "x", "evaluation": None},
        {"id": "x", "evaluation": {"suites": {}}},
        {"id": "x", "evaluation": {"suites": {"answers": {"version": 1}}}},
    ],
)
def test_a_record_without_content_says_nothing(folder, record):
    assert changed([load(folder, "answers")], [record]) == []


def test_broken_files_and_missing_folders_hold_no_records(tmp_path):
    assert records_in(tmp_path) == []
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells/a.json").write_text("{")
    (tmp_path / "cells/b.json").write_text('{"id": "b"}')
    assert records_in(tmp_path) == []


# ---- the commands --------------------------------------------------------------------------------


@pytest.fixture
def stale(finished, tmp_path):
    """A finished experiment whose records measured another content of one suite."""
    folder = tmp_path / "stale"
    shutil.copytree(finished.folder, folder)
    for file in (folder / "out/cells").glob("*.json"):
        record = json.loads(file.read_text())
        record["evaluation"]["suites"]["answers"]["content"] = "f" * 64
        write_json(file, seal(record))
    return folder


@pytest.mark.parametrize("command", ["plan", "run"])
def test_run_and_plan_tell_of_it_beside_their_output(harness, stale, command):
    result = harness(command, stale / "experiment.yaml", "--out", stale / "out", "--json")
    assert result.code == 0
    assert json.loads(result.stdout)
    (note,) = result.stderr.splitlines()
    assert note.startswith("Note: suite 'answers' changed since base-s0-")
