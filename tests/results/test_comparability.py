"""What a leaderboard may compare: the same data, one tokenizer, what ran whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from harness.cli.render.leaderboard_table import render
from harness.results import comparability
from harness.results import store as records
from harness.results.groups import grouped
from tests.results.test_leaderboard import Results, by_label, results, shown

__all__ = ["results"]  # a fixture


def test_what_was_reused_has_no_seconds_of_its_own(results: Results) -> None:
    results.add("b1", "base", 0.0, label="again", section={"reused": "b0"})
    board = results.board()
    cost = by_label(board)["again"]["cost"]
    assert cost["evaluation_seconds"] is None
    assert (cost["peak_memory_bytes"], cost["peak_memory_kind"]) == (None, None)
    line = next(x for x in str(render(board, "markdown")).splitlines() if "| again |" in x)
    header = str(render(board, "markdown")).splitlines()[0]
    columns = [cell.strip() for cell in header.split("|")]
    assert line.split("|")[columns.index("eval time")].strip() == "-"
    assert "again" in shown(board)
    # over seeds it is the mean of those that ran whole
    results.add("l1", "lora", 0.1, base="b0", seed=1, section={"reused": "x"})
    assert by_label(results.board())["lora"]["cost"]["evaluation_seconds"] == 3.5


def test_retained_over_seeds_is_counted_on_what_the_base_has_right(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add("b0", "base", 0.0)
    for seed in range(2):
        results.add(f"l{seed}", "lora", -0.1, base="b0", seed=seed)
        results.add(f"f{seed}", "full", 0.3, base="b0", seed=seed)
    rows = by_label(results.board())
    lora = rows["lora"]["metrics"]["quiz.retained"]
    right = {row["id"] for row in results.rows["b0"] if row["scores"]["right"]}
    kept = [
        sum(row["scores"]["right"] for row in results.rows[f"l{seed}"] if row["id"] in right)
        for seed in range(2)
    ]
    assert lora["n"] == len(right) > 0
    assert lora["value"] == pytest.approx(sum(kept) / 2 / len(right))
    assert lora["value"] == pytest.approx(np.mean(lora["per_seed"]))
    assert lora["ci_low"] < lora["value"] < lora["ci_high"]
    assert rows["base"]["metrics"]["quiz.retained"]["value"] is None
    by_it = results.board(rank_by="quiz.retained")
    assert [row["label"] for row in by_it["rows"]] == ["full", "lora", "base"]
    assert [row["rank"] for row in by_it["rows"]] == [1, 2, None]
    assert [row["tied_with"] for row in by_it["rows"]] == [[], [], []]
    (tmp_path / "cells" / "b0.json").unlink()
    alone = by_label(results.board())["lora"]["metrics"]["quiz.retained"]
    assert (alone["value"], alone["n"]) == (pytest.approx(lora["value"]), len(right))
    assert alone["ci_low"] is None


def two_tokenizers(out: Path) -> Results:
    results = Results(out)
    for model, tokenizer in (("ant", "1" * 64), ("bee", "2" * 64)):
        other = {"model": {"name": model, "content_hash": model}, "tokenizer": tokenizer}
        results.add(f"{model}-b", "base", 0.0, **other)
        results.add(f"{model}-l", "lora", 0.001, base=f"{model}-b", **other)
    return results


def test_perplexity_per_token_does_not_rank_models_of_several_tokenizers(tmp_path: Path) -> None:
    results = two_tokenizers(tmp_path)
    board = results.board()
    # what can be compared takes its place, and the sentence says why
    assert board["ranked_by"] == "quiz.right"
    assert [row["rank"] for row in board["rows"]] == [1, 2, 3, 4]
    (sentence,) = board["incomparable"]
    assert sentence.startswith("quiz.perplexity: per token, and ")
    assert "base (ant)" in sentence
    assert "lora (bee)" in sentence
    assert "bits_per_byte" in sentence
    assert sentence in str(render(board, "markdown"))
    ranked = results.board(rank_by="quiz.perplexity")
    assert [row["rank"] for row in ranked["rows"]] == [None] * 4
    ties = {row["cells"][0]: row["tied_with"] for row in ranked["rows"]}
    assert ties == {"ant-b": ["lora"], "ant-l": ["base"], "bee-b": ["lora"], "bee-l": ["base"]}


def test_models_of_one_tokenizer_are_ranked_by_perplexity(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for model in ("ant", "bee"):
        other = {"name": model, "content_hash": model}
        results.add(f"{model}-b", "base", 0.0, model=other, tokenizer="1" * 64)
    board = results.board()
    assert (board["ranked_by"], board["incomparable"]) == ("quiz.perplexity", [])
    assert [row["rank"] for row in board["rows"]] == [1, 2]
    assert board["rows"][0]["tied_with"] == ["base"]


def test_seeds_have_no_delta_to_a_base_of_another_tokenizer(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add("b0", "base", 0.0, tokenizer="1" * 64)
    for seed in range(2):
        results.add(f"l{seed}", "lora", 0.1, seed=seed, tokenizer="2" * 64)
        data = json.loads((tmp_path / "cells" / f"l{seed}.json").read_text())
        data["evaluation"]["base"] = "b0"
        records.write_json(tmp_path / "cells" / f"l{seed}.json", records.seal(data))
    metrics = by_label(results.board())["lora"]["metrics"]
    assert metrics["quiz.perplexity"]["delta"] is None
    assert metrics["quiz.right"]["delta"] is not None


def test_answers_to_other_data_are_neither_averaged_nor_tied(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.add("l0", "lora", 0.1, section={"data_hash": "a" * 64})
    results.add("l1", "lora", 0.1, seed=1, section={"data_hash": "b" * 64})
    results.add("q0", "qlora", 0.1, section={"data_hash": "a" * 64})
    board = results.board()
    ties = {row["cells"][0]: row["tied_with"] for row in board["rows"]}
    assert ties == {"l0": ["qlora"], "l1": [], "q0": ["lora"]}
    (sentence,) = board["incomparable"]
    assert "555555555555/bbbbbbbbbbbb" in sentence


@pytest.mark.parametrize(
    ("others", "warned"),
    [
        (
            "judge-2026-10",
            ["who judged suite 'quiz' differs: judge-2026-10 for lora, judge-2026-07"],
        ),
        ("judge-2026-07", []),
        (None, []),  # a judge in a process of the harness is part of the suite's hash
    ],
)
def test_another_model_behind_the_same_judge_is_a_warning(
    tmp_path: Path, others: str | None, warned: list[str]
) -> None:
    results = Results(tmp_path)
    for id, method, model in (("b0", "base", "judge-2026-07"), ("l0", "lora", others)):
        backend = {"backend": "endpoint", "answered_by": {model: 40}} if model else {}
        results.add(id, method, 0.0, section={"notes": {"judge": {"backend": backend}}})
    cells = [stored.data for stored in records.read_records([tmp_path])]
    every = {group.label: group for group in grouped(cells)}
    lines = comparability.warnings(every["lora"], every["base"])
    assert [line.removesuffix(" for base") for line in lines] == warned
