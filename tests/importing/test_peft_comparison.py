"""peft's comparison as a table of its own, of files in the shape that it writes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import cli
from harness.errors import UserError


def result(name: str, accuracy: float, *, old: bool = False, **changes: Any) -> dict[str, Any]:
    """One result; `old`: with the names of fields of its first years, and without forgetting."""
    memory = "cuda" if old else "accelerator"
    last: dict[str, Any] = {"step": 40, "test accuracy": accuracy, "train loss": 0.61}
    adapter = None if name.startswith("full") else {"peft_type": "LORA", "r": 4}
    return {
        "run_info": {
            "created_at": "2031-05-06T07:08:09+00:00",
            "total_time": 200.5,
            "experiment_name": name,
            "peft_branch": "main",
            "train_config": {
                "model_id": "some/model",
                "dtype": "bfloat16",
                "batch_size": 4,
                "max_steps": 40,
                "seed": 0,
                "optimizer_kwargs": {"lr": 0.0001},
            },
            "peft_config": adapter,
            "error_msg": "",
        },
        "train_info": {
            f"{memory}_memory_reserved_avg": 11 * 2**30,
            f"{memory}_memory_max": 22 * 2**30,
            f"{memory}_memory_reserved_99th": 17 * 2**30,
            "train_time": 100.0,
            "file_size": 36 * 2**20,
            "num_trainable_params": 9_175_040,
            "num_total_params": 3_000_000_000,
            "status": "success",
            "metrics": [
                {"step": 20, "valid accuracy": 0.25, "train loss": 0.8},
                last if old else {**last, "forgetting": 0.05},
            ],
            **changes,
        },
        "meta_info": {
            "package_info": {"peft-version": "0.15.0" if old else "0.20.0"},
            "system_info": {"gpu" if old else "accelerator": "Old GPU" if old else "New GPU"},
            "pytorch_info": "...",
        },
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three results: one of an older layout, one of full fine-tuning."""
    for name, content in {
        "lora": result("lora/rank4", 0.48),
        "old": result("ia3/default", 0.3, old=True),
        "full": result("full-finetuning/lr1", 0.52, train_time=90.0),
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def shown(folder: Path, *arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(
        cli, ["import", "peft", str(folder), *arguments]
    )


def rows(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(shown(folder, "--format", "json", *arguments).stdout)[
        "rows"
    ]
    return found


def test_fields_of_both_layouts_are_one_column(folder: Path) -> None:
    found = {row["experiment"]: row for row in rows(folder)}
    assert list(found) == ["full-finetuning/lr1", "lora/rank4", "ia3/default"]
    assert {row["memory_max_bytes"] for row in found.values()} == {22 * 2**30}
    assert found["lora/rank4"]["test_accuracy"] == 0.48
    assert found["lora/rank4"]["valid_accuracy"] == 0.25
    assert (found["lora/rank4"]["hardware"], found["ia3/default"]["hardware"]) == (
        "New GPU", "Old GPU",
    )  # fmt: skip
    assert found["ia3/default"]["forgetting"] is None
    assert found["full-finetuning/lr1"]["method"] == "full-finetuning"


def test_what_the_files_cannot_tell_stands_below(folder: Path) -> None:
    for form in ("table", "markdown", "latex"):
        text = " ".join(shown(folder, "--format", form).stdout.split())
        assert "22.0 GiB" in text
        assert "not by this harness: not comparable with its rows" in text
        assert "no figure has an interval" in text
        assert "one run each (seed 0): training noise is unknown" in text
        assert "one kind of hardware each: New GPU (2), Old GPU (1)" in text
        assert "not in every file, as its fields changed over time: forgetting" in text
    assert "Note: no samples are in the files" in shown(folder, "--format", "csv").stderr
    # what is alike is not complained of
    assert "models differ" not in shown(folder).stdout
    (folder / "old.json").unlink()
    assert "hardware each" not in shown(folder).stdout


def test_it_is_sorted_by_any_column(folder: Path) -> None:
    assert rows(folder, "--sort", "train_seconds")[0]["experiment"] == "full-finetuning/lr1"
    last = rows(folder, "--sort", "forgetting")[-1]
    assert last["experiment"] == "ia3/default"
    assert rows(folder, "--sort", "-test_accuracy")[0]["experiment"] == "ia3/default"
    refused = shown(folder, "--sort", "test_acuracy")
    assert "did you mean 'test_accuracy'" in str(refused.exception)


def test_files_that_cannot_be_read_are_named_and_the_rest_is_shown(folder: Path) -> None:
    text = (folder / "lora.json").read_text()
    (folder / "half.json").write_text(text[: len(text) // 2])
    (folder / "other.json").write_text('{"rows": []}')
    odd = result("odd/one", 0.5, num_trainable_params="many")
    (folder / "odd.json").write_text(json.dumps(odd))
    without = result("bare/one", 0.1, metrics=None)
    del without["meta_info"]
    (folder / "without.json").write_text(json.dumps(without))
    failed = result("broken/one", 0.2, status="failed")
    (folder / "failed.json").write_text(json.dumps(failed))
    ran = shown(folder, "--format", "markdown")
    assert ran.exit_code == 0
    lines = ran.stderr.splitlines()
    assert len(lines) == 3
    assert any("half.json:" in line and "broken JSON" in line for line in lines)
    assert any("other.json" in line and "not a result of peft's" in line for line in lines)
    assert any("odd.json: trainable_parameters: not of the kind" in line for line in lines)
    found = {row["experiment"]: row for row in rows(folder)}
    assert found["bare/one"]["test_accuracy"] is None
    assert "did not end well: broken/one" in ran.stdout
    for file in folder.glob("*.json"):
        file.unlink()
    assert isinstance(shown(folder).exception, UserError)


def test_names_are_shown_as_text(folder: Path) -> None:
    hostile = "=cmd()<script>\x1b[31m\u202e|`@me"
    (folder / "hostile.json").write_text(json.dumps(result(hostile, 0.9)))
    markdown = shown(folder, "--format", "markdown").stdout
    assert "<script" not in markdown
    assert "@me" not in markdown
    lines = list(csv.DictReader(io.StringIO(shown(folder, "--format", "csv").stdout)))
    assert lines[0]["experiment"].startswith("'=cmd()")
    assert lines[0]["test_accuracy"] == "0.9"
    for form in ("table", "markdown", "csv", "latex"):
        text = shown(folder, "--format", form).stdout
        assert "\x1b" not in text
        assert "\u202e" not in text
