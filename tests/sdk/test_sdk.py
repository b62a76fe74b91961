"""The Python API gives what the commands give, to pandas and to a notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import harness
from harness.cli.main import cli
from harness.errors import NotComparable, UserError
from harness.results import store
from tests.conftest import ROOT, Experiment

QUICKSTART = ROOT / "results/reference/quickstart"
PLANTED = "<img src=x onerror=alert(1)>\x1b[31m\u202e"


def printed(*arguments: object) -> Any:
    """The JSON that a command prints."""
    return json.loads(CliRunner().invoke(cli, [str(argument) for argument in arguments]).stdout)


def test_results_are_the_leaderboard_that_the_command_prints() -> None:
    results = harness.load_results(QUICKSTART)
    assert results.board == printed("leaderboard", QUICKSTART, "--format", "json")
    assert (results.problems, results.failed) == ([], [])
    by_answers = harness.load_results(QUICKSTART, rank_by="similarity.cosine")
    assert by_answers.board["ranked_by"] == "similarity.cosine"
    with pytest.raises(UserError, match=r"did you mean 'similarity\.cosine'"):
        harness.load_results(QUICKSTART, rank_by="similarity.cosin")


def test_a_frame_has_every_figure_with_its_interval() -> None:
    results = harness.load_results(QUICKSTART)
    frame = results.to_pandas()
    rows = results.board["rows"]
    assert len(frame) == sum(len(row["metrics"]) for row in rows)
    line = frame[(frame.label == "lora") & (frame.metric == "perplexity.perplexity")].iloc[0]
    metric = next(row for row in rows if row["label"] == "lora")["metrics"]["perplexity.perplexity"]
    for name in ("value", "ci_low", "ci_high", "n", "delta", "delta_ci_low", "delta_p"):
        assert line[name] == metric[name]  # type: ignore[literal-required]
    assert (line["rank_low"], line["rank_high"], line["seeds"]) == (2, 3, 1)
    assert line["train_seconds"] > 0


def test_samples_are_the_answers_behind_a_figure() -> None:
    results = harness.load_results(QUICKSTART)
    answers = results.samples("full", "similarity")
    assert len(answers) == 48
    rows = results.board["rows"]
    figure = next(row for row in rows if row["label"] == "full")["metrics"]
    share = figure["similarity.must_contain"]["value"]
    assert answers["scores.must_contain"].mean() == pytest.approx(share)
    with pytest.raises(UserError, match="no suite 'similarty'"):
        results.samples("full", "similarty")


def test_a_comparison_and_a_gate_are_those_of_the_commands() -> None:
    compared = harness.compare("full", "lora", results=[QUICKSTART])
    assert store.plain(compared.report) == printed(
        "compare", "full", "lora", "--results", QUICKSTART, "--json"
    )
    frame = compared.to_pandas()
    assert list(frame.metric) == list(compared.report["metrics"])
    policy = ROOT / "docs/gate-policy.yaml"
    codes = {}
    for label in ("full", "lora", "qlora"):
        gated = harness.gate(label, policy_file=policy, results=[QUICKSTART])
        codes[label] = gated.exit_code
        assert gated.passes == (gated.exit_code == 0)
        told = printed(
            *("gate", label, "--baseline", "base", "--results", QUICKSTART),
            *("--policy", policy, "--json"),
        )
        assert store.plain(gated.decision.to_json()) == told
        assert list(gated.to_pandas().verdict) == [one["verdict"] for one in told["findings"]]
    assert codes == {"full": 0, "lora": 3, "qlora": 1}
    with pytest.raises(UserError, match="no cell 'fool': did you mean 'full'"):
        harness.compare("fool", "lora", results=[QUICKSTART])
    old = str(ROOT / "results/reference/boilerplate/base")
    with pytest.raises(NotComparable):
        harness.compare(old, str(QUICKSTART / "base"))


def test_what_a_notebook_shows_is_text(tmp_path: Path) -> None:
    file = next((QUICKSTART / "cells").glob("lora-*.json"))
    record = json.loads(file.read_text())
    record["plan"]["label"] = PLANTED
    base = next((QUICKSTART / "cells").glob("base-*.json"))
    for content in (record, json.loads(base.read_text())):
        store.write_json(tmp_path / "cells" / f"{content['id']}.json", store.seal(content))
    (tmp_path / "samples").symlink_to(QUICKSTART / "samples")
    ours, theirs = str(tmp_path / "cells" / file.name), str(tmp_path / "base")
    for shown in (
        harness.load_results(tmp_path),
        harness.compare(ours, theirs),
        harness.gate(ours, theirs),
    ):
        page = shown._repr_html_()  # type: ignore[attr-defined]
        assert "<table>" in page
        assert "&lt;img src=x" in page
        assert "<img" not in page
        assert "<script" not in page
        assert "\x1b" not in page
        assert "\u202e" not in page
    (tmp_path / "cells" / "half<script>.json").write_text("{")
    page = harness.load_results(tmp_path)._repr_html_()
    assert "left out: " in page
    assert "<script" not in page


def test_a_run_is_what_the_command_runs(experiment: Callable[..., Experiment]) -> None:
    small = experiment(methods=["base"], suites=["picks"])
    results = harness.run(small.file, out=small.out, limit=4)
    assert [row["label"] for row in results.board["rows"]] == ["base"]
    assert results.board["ranked_by"] == "picks.acc"
    # what is recorded is not run again, whoever asks
    again = CliRunner().invoke(
        cli, ["run", str(small.file), "--out", str(small.out), "--limit", "4"]
    )
    assert "Nothing to do: all 1 cells are recorded" in again.stdout
    with pytest.raises(UserError, match="unknown key 'methodz'"):
        harness.run({**small.content, "methodz": []}, out=small.out)
    with pytest.raises(UserError, match="name a folder"):
        harness.evaluate("")


def test_the_names_are_there_without_loading_what_they_need() -> None:
    code = (
        "import sys, harness; harness.__all__; "
        "print([m for m in ('numpy', 'pandas', 'click', 'torch', 'yaml') if m in sys.modules]); "
        "harness.load_results; harness.compare; harness.gate; harness.run; "
        "print([m for m in ('pandas', 'click', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "docs/notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    done = NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    shown = [
        output["data"]["text/html"]
        for cell in done.cells
        for output in cell.get("outputs", ())
        if "text/html" in output.get("data", {})
    ]
    assert len(shown) == 5
    assert "perplexity.perplexity" in shown[0]
    assert "full against base: pass" in shown[-1]
