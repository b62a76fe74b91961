"""The leaderboard and its tables, from records written and read back on disk."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import stats
from harness.cli.render.leaderboard_table import render
from harness.errors import UserError
from harness.record import Status, new_record
from harness.results import leaderboard_file
from harness.results import store as records
from harness.results.leaderboard import build
from harness.stats import bootstrapping
from harness.stats.metric_summary import Score, estimator, pairwise, summarise
from harness.types import Metric
from tests.conftest import Ran

METRICS = [
    Metric("perplexity", False, "exp_ratio", score="nll", per="tokens"),
    Metric("right", True, "share"),
    Metric("retained", True, "retained", score="right"),
]
HARDNESS = np.random.default_rng(0).normal(0, 4, size=120)
GPU = {"name": "Some GPU", "memory_bytes": 2**34}


def rows_of(gain: float, seed: int = 0) -> list[dict[str, Any]]:
    """Answers of a model that is `gain` nats per token better than the base."""
    noise = np.random.default_rng([seed, round(1000 + gain * 1000)]).normal(0, 0.5, size=120)
    nll = 40 + HARDNESS - gain * 20 + noise
    return [
        {"id": f"q{i}", "scores": {"nll": nll[i], "tokens": 20, "right": int(nll[i] < 38)}}
        for i in range(120)
    ]


class Results:
    """A results folder that grows cell by cell."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def add(
        self,
        id: str,
        method: str,
        gain: float | None,
        *,
        base: str | None = None,
        status: Status = "ok",
        hash: str = "5" * 64,
        training: dict[str, Any] | None = None,
        environment: dict[str, Any] | None = None,
        section: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        **plan: Any,
    ) -> None:
        evaluation = None
        if gain is not None:
            rows = self.rows[id] = rows_of(gain, plan.get("seed", 0))
            metrics = summarise(METRICS, rows, self.rows[base] if base else None)
            samples = records.write_samples(self.out, id, "quiz", rows)
            suite = {"hash": hash, "metrics": metrics, "samples": samples, **(section or {})}
            phases = {
                "reload": {"seconds": 1.0, "peak_host_bytes": 700},
                "quiz": {"seconds": 2.5, "peak_host_bytes": 800, "peak_allocated_bytes": 80},
            }
            evaluation = {"phases": phases, "suites": {"quiz": suite}, "base": base}
            evaluation["tokenizer_hash"] = tokenizer
        whole_plan = {
            "model": {"name": "tiny", "content_hash": "c"},
            "method": method,
            "label": method,
            "options": {},
            "data": {"hash": "d"},
            "budget": {"steps": 3},
            "seed": 0,
            "suites": ["quiz"],
        }
        error = None if status == "ok" else {"type": "MemoryError", "message": "too big"}
        record = new_record(
            id=id,
            status=status,
            plan=whole_plan | plan,
            training=training,
            evaluation=evaluation,
            environment=environment or {},
            error=error,
        )
        records.write_record(self.out, record)

    def board(self, **options: Any) -> dict[str, Any]:
        stored = records.read_records([self.out])
        cells = [result.data for result in stored]
        board = build(cells, read_rows=records.rows_reader(stored), **options)
        records.validate(board, "leaderboard")
        # whatever the order in which the records come
        assert build(cells[::-1], read_rows=records.rows_reader(stored), **options) == board
        return board


def trained(seconds: float, host: int = 500, cuda: int | None = None) -> dict[str, Any]:
    return {
        "phases": {
            "load": {"seconds": 50, "peak_host_bytes": host + 1, "peak_allocated_bytes": cuda},
            "train": {"seconds": seconds, "peak_host_bytes": host, "peak_allocated_bytes": 10},
        },
        "trainable_parameters": 1_234_567,
        "artifact_bytes": 5 * 2**20,
    }


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """A base, two methods that are as good as each other, a better one, and one that failed."""
    results = Results(tmp_path / "results")
    results.add("b0", "base", 0.0)
    results.add("l0", "lora", 0.060, base="b0", training=trained(10))
    results.add("q0", "qlora", 0.061, base="b0", training=trained(20))
    results.add("f0", "full", 0.300, base="b0", training=trained(30))
    results.add("d0", "dora", None, status="oom", training=trained(1))
    return results


def by_label(board: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in board["rows"]}


def test_rows_are_ranked_best_first_and_failures_last(results: Results) -> None:
    board = results.board()
    assert board["ranked_by"] == "quiz.perplexity"
    ranks = [(row["rank"], row["label"], row["status"]) for row in board["rows"]]
    assert ranks == [
        (1, "full", "ok"),
        (2, "qlora", "ok"),
        (3, "lora", "ok"),
        (4, "base", "ok"),
        (None, "dora", "oom"),
    ]
    assert board["incomparable"] == []
    full = board["rows"][0]["metrics"]["quiz.perplexity"]
    assert full["value"] == pytest.approx(math.exp(2 - 0.3), rel=0.05)
    assert full["delta_ci_low"] < full["delta"] < full["delta_ci_high"] < 0
    assert by_label(board)["base"]["metrics"]["quiz.perplexity"]["delta"] is None


def test_rows_are_tied_where_no_difference_tells_them_apart(
    results: Results,
) -> None:
    rows = by_label(results.board())
    assert {label: row["tied_with"] for label, row in rows.items()} == {
        "full": [],
        "lora": ["qlora"],
        "qlora": ["lora"],
        "base": [],
        "dora": [],
    }
    ranges = [row["rank_range"] for row in rows.values() if row["rank"]]
    assert ranges == [[1, 1], [2, 3], [2, 3], [4, 4]]
    assert "rank_range" not in rows["dora"]
    table = [line.split()[:2] for line in shown(results.board()).splitlines()]
    assert ["2-3", "qlora"] in table
    assert ["1", "full"] in table
    # paired: base and lora are distinguished although their own intervals overlap
    base, lora = (rows[label]["metrics"]["quiz.perplexity"] for label in ("base", "lora"))
    assert lora["ci_high"] > base["ci_low"]


def test_a_board_of_one_seed_says_what_its_intervals_leave_out(tmp_path: Path) -> None:
    sentence = "one seed: training noise is not in these intervals"
    results = Results(tmp_path)
    results.add("l0", "lora", 0.2, training=trained(30))
    assert shown(results.board()).count(sentence) == 1
    assert sentence in str(render(results.board(), "markdown"))
    results.add("l1", "lora", 0.3, seed=1, training=trained(30))
    assert sentence not in shown(results.board())


def test_a_board_says_how_costs_spread_over_seeds(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for seed, seconds in enumerate((30, 33, 42)):
        results.add(f"l{seed}", "lora", 0.2, seed=seed, training=trained(seconds))
    results.add("f0", "full", 0.2, training=trained(50))
    board = results.board()
    by_label = {row["label"]: row for row in board["rows"]}
    assert by_label["lora"]["cost"]["train_seconds"] == 35
    assert by_label["lora"]["cost_range"]["train_seconds"] == [30, 42]
    assert "cost_range" not in by_label["full"]
    line = "train time of single seeds: lora 30.0s to 42.0s"
    assert line in shown(board)
    assert line in str(render(board, "markdown"))


def test_equal_methods_are_seldom_told_apart_anywhere_on_a_board() -> None:
    how = estimator(Metric("x", True))
    rng, boards = np.random.default_rng(3), 0
    for _ in range(80):
        hard = rng.normal(size=60)
        arms = {
            key: ([{str(i): Score(v, None, None) for i, v in enumerate(scores)}], None)
            for key, scores in enumerate(hard + rng.normal(size=(8, 60)))
        }
        boards += any(test.p < 0.05 for test in pairwise(how, arms))
    assert boards <= 12  # 4 expected at most; 39 % of boards without the adjustment


def test_another_metric_ranks_the_other_way_round(results: Results) -> None:
    board = results.board(rank_by="quiz.right")
    assert board["ranked_by"] == "quiz.right"
    values = [row["metrics"]["quiz.right"]["value"] for row in board["rows"] if row["metrics"]]
    assert values == sorted(values, reverse=True)
    with pytest.raises(UserError, match=r"'quiz\.wright'.*did you mean 'quiz\.right'"):
        results.board(rank_by="quiz.wright")


def test_seeds_are_one_row_with_an_interval_over_their_shared_samples(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for seed in range(3):
        results.add(f"b{seed}", "base", 0.0, seed=seed)
        training = trained(10 + seed, host=500 + seed)
        results.add(f"l{seed}", "lora", 0.1, base=f"b{seed}", seed=seed, training=training)
    board = results.board()
    lora = by_label(board)["lora"]
    assert (lora["seeds"], lora["cells"]) == ([0, 1, 2], ["l0", "l1", "l2"])
    metric = lora["metrics"]["quiz.perplexity"]
    nll = np.array(
        [[row["scores"]["nll"] for row in results.rows[f"l{seed}"]] for seed in range(3)]
    )
    alone = np.exp(nll.sum(axis=1) / (120 * 20))
    assert metric["per_seed"] == pytest.approx(alone)
    assert metric["value"] == pytest.approx(alone.mean())
    assert metric["n"] == 120
    base = [[row["scores"]["nll"] for row in results.rows[f"b{seed}"]] for seed in range(3)]
    tokens = np.full((3, 120), 20)
    # samples are ordered by id in the leaderboard
    order = np.argsort([f"q{i}" for i in range(120)])
    own, other, names = nll[:, order], np.array(base)[:, order], (0, 1, 2)
    expected = stats.paired("exp_ratio", own, other, tokens, tokens, seeds=(names, names))
    assert metric["delta"] == pytest.approx(expected.delta)
    assert metric["delta_ci_low"] == pytest.approx(expected.ci_low)
    assert lora["cost"]["train_seconds"] == pytest.approx(11)
    assert lora["cost"]["peak_memory_bytes"] == 503


def test_seeds_whose_base_is_not_at_hand_keep_a_delta_without_interval(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add("b0", "base", 0.0)
    for seed in range(2):
        results.add(f"l{seed}", "lora", 0.1, base="b0", seed=seed)
    (tmp_path / "cells" / "b0.json").unlink()
    metric = by_label(results.board())["lora"]["metrics"]["quiz.perplexity"]
    assert metric["delta"] < 0
    assert metric["delta_ci_low"] is metric["delta_ci_high"] is None


def test_a_failed_seed_shows_in_its_row(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add("l0", "lora", 0.1)
    results.add("l1", "lora", None, status="diverged", seed=1)
    results.add("l2", "lora", None, status="error", seed=2)
    [row] = results.board()["rows"]
    assert (row["status"], row["seeds"], row["rank"]) == ("error", [0, 1, 2], 1)
    assert len(row["metrics"]["quiz.perplexity"]["per_seed"]) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"label": "lora-high"},
        {"options": {"r": 64}},
        {"budget": {"steps": 9}},
        {"data": {"hash": "e"}},
        {"model": {"name": "tiny", "content_hash": "other bytes"}},
    ],
)
def test_what_differs_in_the_plan_is_another_row(tmp_path: Path, other: dict[str, Any]) -> None:
    results = Results(tmp_path)
    results.add("l0", "lora", 0.1)
    results.add("l1", "lora", 0.1, seed=1, **other)
    assert len(results.board()["rows"]) == 2


def test_figures_of_a_changed_suite_are_neither_averaged_nor_tied(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add("l0", "lora", 0.1)
    results.add("l1", "lora", 0.1, seed=1, hash="6" * 64)
    results.add("q0", "qlora", 0.1)
    board = results.board()
    assert sorted(row["seeds"] for row in board["rows"] if row["label"] == "lora") == [[0], [1]]
    old = next(row for row in board["rows"] if row["cells"] == ["l0"])
    new = next(row for row in board["rows"] if row["cells"] == ["l1"])
    assert (old["tied_with"], new["tied_with"]) == (["qlora"], [])
    [sentence] = board["incomparable"]
    assert "suite 'quiz'" in sentence
    assert "666666666666" in sentence
    assert sentence in render(board, "markdown")


def test_cost_is_of_the_memory_that_was_used(results: Results) -> None:
    results.add("g0", "gpu", 0.2, training=trained(5, cuda=9000), environment={"gpu": GPU})
    costs = {label: row["cost"] for label, row in by_label(results.board()).items()}
    assert costs["lora"] == {
        "train_seconds": 10.0,
        "evaluation_seconds": 3.5,
        "peak_memory_bytes": 501,
        "peak_memory_kind": "host",
        "trainable_parameters": 1_234_567,
        "artifact_bytes": 5 * 2**20,
    }
    # nothing was trained: the peak of evaluation
    assert costs["base"]["train_seconds"] is None
    assert (costs["base"]["peak_memory_bytes"], costs["base"]["peak_memory_kind"]) == (800, "host")
    assert (costs["gpu"]["peak_memory_bytes"], costs["gpu"]["peak_memory_kind"]) == (9000, "cuda")


def test_a_leaderboard_of_failures_alone_has_no_ranks(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add("l0", "lora", None, status="oom")
    board = results.board()
    assert board["ranked_by"] is None
    assert board["rows"][0]["rank"] is None
    assert "lora [oom]" in shown(board)
    assert "lora [oom]" in render(board, "markdown")


def test_a_figure_in_a_record_without_a_seal_comes_from_its_samples(
    results: Results, harness: Callable[..., Ran]
) -> None:
    results.add("l1", "lora", 0.061, base="b0", training=trained(10), seed=1)
    honest = results.board()
    assert harness("leaderboard", results.out).stderr == ""
    for name in ("l0", "b0", "q0"):  # a seed of two, the base, a row of one cell
        file = results.out / "cells" / f"{name}.json"
        record = json.loads(file.read_text())
        del record["sha256"]
        for metric in record["evaluation"]["suites"]["quiz"]["metrics"].values():
            metric.update(value=0.001, ci_low=0.0005, ci_high=0.002)
        file.write_text(json.dumps(record))
    assert results.board() == honest
    shown = harness("leaderboard", results.out, "--format", "json")
    assert json.loads(shown.stdout) == honest
    assert shown.stderr.startswith("Note: without a seal, as an older version wrote it: b0 and 2")


def test_edited_samples_stop_the_leaderboard(results: Results) -> None:
    records.write_samples(results.out, "l0", "quiz", rows_of(0.9))
    with pytest.raises(UserError, match="changed since it was recorded"):
        results.board()


def test_the_board_of_many_records_is_kept_until_one_of_them_changes(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    honest = results.board()

    def kept() -> Any:
        return leaderboard_file.build(None, records.read_records([results.out]))

    assert kept() == honest
    assert not (tmp_path / "cache").exists()  # few records are soon computed
    monkeypatch.setattr(leaderboard_file, "MANY", 2)
    assert kept() == honest
    shutil.rmtree(results.out / "samples" / "q0")
    assert kept() == honest  # the samples were not read again
    records.write_samples(results.out, "q0", "quiz", results.rows["q0"])
    results.add("l0", "lora", 0.9, base="b0", training=trained(10))
    changed = kept()
    assert changed == results.board() != honest
    assert len(list((tmp_path / "cache/leaderboards").iterdir())) == 1
    (file,) = (tmp_path / "cache/leaderboards").iterdir()
    file.write_text(file.read_text().replace("lora", "lara", 1))
    assert kept() == changed  # what is not as it was sealed is computed anew


# Tables


def shown(board: dict[str, Any], width: int = 100) -> str:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=width).print(render(board))
    return out.getvalue()


def test_the_terminal_table_is_whole_in_100_columns(results: Results) -> None:
    for number in range(4):
        results.add(f"x{number}", "lora", 0.1, label=f"lora-rank-{number}", training=trained(70))
    text = shown(results.board())
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100
    for label in ("base", "full", "dora [oom]", "lora-rank-3"):
        assert label in text
    squeezed = " ".join(text.split())
    assert "qlora is not told apart from lora" in squeezed
    assert "1m10s" in text
    assert "1.2M" in text
    assert "VRAM" not in text


def test_memory_is_called_what_it_is(results: Results) -> None:
    host_only = render(results.board(), "markdown")
    assert "peak host memory" in host_only
    assert "GPU" not in host_only
    results.add("g0", "gpu", 0.2, training=trained(5, cuda=3 * 2**30), environment={"gpu": GPU})
    both = render(results.board(), "markdown")
    header, _, *lines = both.splitlines()
    columns = [cell.strip() for cell in header.split("|")]
    of_gpu = next([c.strip() for c in line.split("|")] for line in lines if "| gpu |" in line)
    assert of_gpu[columns.index("peak GPU memory")] == "3.0 GiB"
    assert of_gpu[columns.index("peak host memory")] == "-"


def test_only_what_excludes_zero_is_called_better_or_worse(results: Results) -> None:
    results.add("w0", "worse", -0.2, base="b0")
    results.add("s0", "same", 0.001, base="b0")
    board = results.board()
    same = by_label(board)["same"]["metrics"]["quiz.perplexity"]
    assert same["delta_ci_low"] < 0 < same["delta_ci_high"]
    lines = {
        line.split("|")[2].strip(): line
        for line in render(board, "markdown").splitlines()
        if "|" in line
    }

    def verdict(label: str) -> str:
        return lines[label].split("|")[4].split("]")[1].strip()

    assert verdict("full") == "better"
    assert verdict("worse") == "worse"
    assert verdict("same") == ""


def test_csv_holds_every_figure_apart(results: Results) -> None:
    board = results.board()
    lines = list(csv.DictReader(io.StringIO(str(render(board, "csv")))))
    assert [line["label"] for line in lines] == [row["label"] for row in board["rows"]]
    full = board["rows"][0]
    for key in ("value", "ci_low", "ci_high", "delta", "delta_ci_high"):
        metric = full["metrics"]["quiz.perplexity"]
        assert float(lines[0][f"quiz.perplexity.{key}"]) == metric[key]
    assert float(lines[0]["train_seconds"]) == 30
    assert lines[0]["peak_memory_kind"] == "host"
    assert lines[-1]["quiz.perplexity.value"] == ""
    assert lines[1]["tied_with"] == "lora"


def test_json_is_the_board_itself(results: Results) -> None:
    board = results.board()
    assert json.loads(str(render(board, "json"))) == board
    with pytest.raises(UserError, match="did you mean 'markdown'"):
        render(board, "markdwn")


def test_two_models_have_rows_of_their_own(results: Results) -> None:
    results.add("z0", "lora", 0.1, model={"name": "other|model", "content_hash": "z"})
    board = results.board()
    assert "lora (other\\|model)" in str(render(board, "markdown"))
    assert "lora (tiny)" in shown(board)


def test_a_suite_of_many_subjects_shows_its_totals_and_the_spreadsheet_all(
    results: Results,
) -> None:
    board = results.board()
    for row in board["rows"]:
        if "quiz.right" not in row["metrics"]:
            continue
        total = row["metrics"]["quiz.right"]
        row["metrics"] |= {"forget.mmlu": total, "forget.arc": total}
        for number in range(15):
            estimator = {**total["estimator"], "where": f"mmlu_subject{number}"}
            row["metrics"][f"forget.mmlu_subject{number}"] = {**total, "estimator": estimator}
    text = shown(board)
    assert "forget.mmlu " in text
    assert "forget.arc " in text
    assert "mmlu_subject" not in text
    assert "15 figures of single subjects and domains" in " ".join(text.split())
    assert "forget.mmlu_subject7.value" in str(render(board, "csv"))


def test_dollars_are_of_all_phases_at_the_plans_price(results: Results) -> None:
    assert "dollars" not in by_label(results.board())["lora"]["cost"]
    results.add("p0", "paid", 0.2, training=trained(3600, host=1), price_per_hour=2.5)
    board = results.board()
    paid = by_label(board)["paid"]["cost"]
    seconds = 3600 + paid["evaluation_seconds"]
    assert paid["dollars"] >= 2.5 * seconds / 3600
    assert "dollars" in render(board, "markdown")
    heads, *lines = render(board, "csv").splitlines()
    assert "dollars" in heads.split(",")
    assert all(len(row) == len(heads.split(",")) for row in csv.reader(lines))


def test_labels_run_nothing_in_a_spreadsheet_and_draw_nothing_in_markdown(
    results: Results,
) -> None:
    label = "=HYPERLINK(1)"
    results.add("e0", label, 0.1)
    drawn = "a|b <img src=x> ![i](http://x) *c* `d` \\"
    results.add("m0", drawn, 0.1)
    board = results.board()
    lines = list(csv.DictReader(io.StringIO(str(render(board, "csv")))))
    assert f"'{label}" in [line["label"] for line in lines]
    assert all(not cell.startswith("=") for line in lines for cell in line.values())
    text = str(render(board, "markdown"))
    escaped = r"a\|b &lt;img src=x&gt; ![i]\(http://x) \*c\* \`d\` \\"
    row = next(line for line in text.splitlines() if escaped in line)
    assert row.startswith("| ")
    assert "<img" not in text
    assert "](" not in text.replace(r"]\(", "")
    for line in (line for line in text.splitlines() if "is not told apart from" in line):
        assert not line.startswith("=")


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@x", "\t=1"])
def test_what_a_spreadsheet_runs_is_a_text_and_numbers_stay_numbers(
    results: Results, cell: str
) -> None:
    board = results.board()
    board["rows"][0]["label"] = cell
    lines = list(csv.DictReader(io.StringIO(str(render(board, "csv")))))
    assert lines[0]["label"] == f"'{cell}"
    deltas = [line["quiz.perplexity.delta"] for line in lines]
    assert any(delta.startswith("-") and float(delta) < 0 for delta in deltas)


@pytest.mark.parametrize("rank_by", ["quiz.perplexity", "quiz.right"])
def test_work_grows_with_rows_and_not_with_their_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank_by: str
) -> None:
    """Of 4, 8 and 12 labels of two seeds: bootstraps in equal steps, each sample file read once."""
    resampled, read = [], []
    resample, read_bytes = bootstrapping._resampled_sums, Path.read_bytes

    def counted(*arguments: Any) -> Any:
        resampled.append(arguments)
        return resample(*arguments)

    def noted(path: Path) -> bytes:
        read.append(path)
        return read_bytes(path)

    monkeypatch.setattr(bootstrapping, "_resampled_sums", counted)
    monkeypatch.setattr(Path, "read_bytes", noted)
    counts = []
    for labels in (4, 8, 12):
        results = Results(tmp_path / str(labels))
        results.add("b", "base", 0.0)
        for number in range(labels):
            for seed in (0, 1):
                name = f"label{number}"
                results.add(f"{name}-{seed}", name, number / 50, base="b", seed=seed)
        resampled.clear()
        read.clear()
        stored = records.read_records([results.out])
        build([s.data for s in stored], read_rows=records.rows_reader(stored), rank_by=rank_by)
        counts.append(len(resampled))
        # a record and a sample file of each cell
        assert sorted(map(str, read)) == sorted({str(path) for path in read})
        assert len(read) == 2 * (2 * labels + 1)
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0


def test_a_leaderboard_on_disk_is_used_for_its_own_records_alone(results: Results) -> None:
    stored = records.read_records([results.out])
    built = results.board()
    marked = leaderboard_file.sealed({**built, "labels": {"quiz": "from the file"}}, stored)
    file = records.write_json(results.out / "leaderboard.json", marked)

    def board(**options: Any) -> dict[str, Any]:
        return leaderboard_file.build(results.out, stored[::-1], **options)

    assert board() == {**built, "labels": {"quiz": "from the file"}}
    assert board(rank_by="quiz.right")["labels"] == {}  # ranked by something else
    records.write_json(file, {**marked, "labels": {"quiz": "forged"}})
    assert board() == built  # its seal is broken
    records.write_json(file, marked)
    results.add("e0", "extra", 0.2, base="b0", training=trained(5))
    stored = records.read_records([results.out])
    assert board() == results.board()  # a record more
    file.unlink()
    assert board() == results.board()
