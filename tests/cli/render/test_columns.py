"""Which columns a table has, and in which order its rows stand."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import cli
from harness.results import store
from tests.conftest import ROOT

QUICKSTART = ROOT / "results/reference/quickstart"


def board(*arguments: str, folder: Path = QUICKSTART) -> Result:
    return CliRunner().invoke(cli, ["leaderboard", str(folder), *arguments])


def cells(text: str) -> list[list[str]]:
    """The lines of a Markdown table."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def labels(*arguments: str) -> list[str]:
    rows = json.loads(board("--format", "json", *arguments).stdout)["rows"]
    return [row["label"] for row in rows]


def test_columns_stand_as_they_are_named_and_patterns_take_all() -> None:
    chosen = "train_seconds,similarity.must_contain,similarity.must_contain.delta,options.lr"
    heads, _, *rows = cells(board("--format", "markdown", "--columns", chosen).stdout)
    assert heads == [
        "#", "method", "train time", "similarity.must_contain ↑",
        "similarity.must_contain against base", "lr",
    ]  # fmt: skip
    assert rows[0][:2] == ["1", "full"]
    assert re.fullmatch(r"\dm\d\ds", rows[0][2])
    assert rows[0][3] == "0.708 [0.568, 0.818]"
    assert rows[0][5] == "0.0002"
    heads = cells(board("--format", "markdown", "--columns", "judge.*").stdout)[0]
    assert heads[2:] == ["judge.score ↑", "judge.score against base"]
    twice = ["--columns", "judge.score", "--columns", "judge.*"]
    assert len(cells(board("--format", "markdown", *twice).stdout)[0]) == 4
    table = board("--columns", "artifact_bytes").stdout
    assert "516.5 MiB" in table
    assert "perplexity.perplexity" not in table


def test_the_same_figures_stand_in_every_form() -> None:
    chosen = ["--columns", "perplexity.perplexity,peak_memory_bytes"]
    [full, *_] = csv.DictReader(io.StringIO(board("--format", "csv", *chosen).stdout))
    record = next((QUICKSTART / "cells").glob("full-*.json"))
    metric = store.read_record(record)["evaluation"]["suites"]["perplexity"]["metrics"]  # type: ignore[index]
    assert float(full["perplexity.perplexity.value"]) == metric["perplexity"]["value"]
    assert (full["peak_memory_kind"], full["status"]) == ("host", "ok")
    assert not [name for name in full if name.startswith("judge") or "train" in name]
    rows = json.loads(board("--format", "json", *chosen).stdout)["rows"]
    assert {name for row in rows for name in row["metrics"]} == {"perplexity.perplexity"}
    for form in ("table", "markdown", "latex"):
        assert "1.982 [1.712, 2.328]" in board("--format", form, *chosen).stdout


def test_rows_are_sorted_best_first_or_the_other_way_round() -> None:
    assert labels() == ["full", "lora", "qlora", "base"]
    assert labels("--sort", "label") == ["base", "full", "lora", "qlora"]
    assert labels("--sort", "-label") == ["qlora", "lora", "full", "base"]
    # least first, and last what has none
    assert labels("--sort", "train_seconds") == ["lora", "qlora", "full", "base"]
    assert labels("--sort", "-train_seconds") == ["full", "qlora", "lora", "base"]
    assert labels("--sort", "perplexity.plain_perplexity")[0] == "base"  # lower is better
    assert labels("--sort", "similarity.cosine")[0] == "full"  # higher is better
    assert labels("--sort", "similarity.cosine.delta")[-1] == "base"
    # the ranks stay those of the metric that ranks
    first = cells(board("--format", "markdown", "--sort", "-perplexity.perplexity").stdout)[2]
    assert first[:2] == ["4", "base"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--columns", "similarity.cosin"],
            "--columns: no column 'similarity.cosin': did you mean",
        ),
        (["--columns", "nothing.*"], "--columns: no column 'nothing.*': "),
        (
            ["--sort", "train_second"],
            "--sort: no column 'train_second': did you mean 'train_seconds'",
        ),
    ],
)
def test_an_unknown_column_is_one_line_with_the_nearest(arguments: Any, message: str) -> None:
    ran = board(*arguments)
    assert message in str(ran.exception)
    assert ran.stdout == ""
