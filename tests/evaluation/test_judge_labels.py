"""A team's own labels in a suite: refused by line, in its hash, and in the judge's figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, DataError
from harness.stats.metric_summary import summarise
from tests.conftest import write_jsonl
from tests.evaluation.judging.planted import loving
from tests.evaluation.test_judge_options import PAIRWISE, RUBRIC, base_row, load, result

QUESTIONS = [f"How much is article {i}?" for i in range(16)]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with sixteen questions."""
    asked = [
        {"id": f"s{i}", "prompt": question, "reference": f"It is {i} euros."}
        for i, question in enumerate(QUESTIONS)
    ]
    write_jsonl(tmp_path / "asked.jsonl", asked)
    return tmp_path


def label(folder: Path, answers: list[tuple[str, str]], good: int) -> dict[str, Any]:
    """Labels of these answers, the first `good` of them good; the judge with them."""
    rows = [
        {"id": name, "answer": text, "label": "good" if i < good else "bad"}
        for i, (name, text) in enumerate(answers)
    ]
    write_jsonl(folder / "labels.jsonl", rows)
    return {**RUBRIC, "labels": "labels.jsonl"}


def test_labels_are_in_the_rows_and_correct_the_score(
    shop: Path, judging_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    right = loving(judging_model, tmp_path_factory.mktemp("judge") / "right", " 2")
    judge = {**RUBRIC, "model": str(right)}
    plain = result(load(shop, judge), base_row(judging_model))
    answers = [(row["id"], row["output"]) for row in plain.rows]
    written = {**label(shop, answers, 4), "model": str(right)}
    found = result(load(shop, written), base_row(judging_model))
    assert [row["scores"]["label"] for row in found.rows] == [1.0] * 4 + [0.0] * 12
    assert found.notes["labelled_answers"] == 16
    assert not [warning for warning in found.warnings if "labels" in warning]
    metrics = summarise(found.metrics, found.rows)
    score, before = metrics["score"], summarise(plain.metrics, plain.rows)["score"]
    # the judge finds every answer right; the figure is what people say
    assert before["value"] == pytest.approx(2, abs=0.02)
    assert score["value"] == pytest.approx(0.25, abs=0.02)
    assert score["ci_low"] < 0.25 < score["ci_high"] < 1
    assert score["correction"]["raw"] == pytest.approx(before["value"])
    assert score["correction"]["assumption"] == "random labels"
    assert "correction" not in metrics["tone"]
    assert "correction" not in before


def test_labels_of_other_answers_alone_are_told(
    shop: Path, judging_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    right = loving(judging_model, tmp_path_factory.mktemp("judge") / "right", " 2")
    others = [("s0", "Of another model."), ("s1", "Of it, too.")]
    judge = {**label(shop, others, 1), "model": str(right)}
    found = result(load(shop, judge), base_row(judging_model))
    assert found.notes["labelled_answers"] == 0
    (warning,) = [warning for warning in found.warnings if "labels" in warning]
    assert "no answer here has a label of labels.jsonl, which labels 2 others" in warning


def test_labels_are_part_of_the_hash_and_their_place_is_not(shop: Path) -> None:
    plain = load(shop, RUBRIC).hash
    answers = [("s0", "1 euro"), ("s1", "2 euros")]
    judge = label(shop, answers, 1)
    labelled = load(shop, judge).hash
    (shop / "moved.jsonl").write_bytes((shop / "labels.jsonl").read_bytes())
    assert load(shop, {**judge, "labels": "moved.jsonl"}).hash == labelled
    other = load(shop, label(shop, answers[::-1], 1)).hash
    assert len({plain, labelled, other}) == 3


def test_labels_that_are_not_the_suite_s_are_refused_before_anything_runs(shop: Path) -> None:
    unknown = label(shop, [("s0", "1 euro"), ("t1", "2 euros")], 1)
    with pytest.raises(DataError, match=r"labels\.jsonl:2: the suite has no sample 't1'"):
        load(shop, unknown)
    with pytest.raises(DataError, match="all 2 labelled answers are good"):
        load(shop, label(shop, [("s0", "1 euro"), ("s1", "2 euros")], 2))
    with pytest.raises(DataError, match="nowhere"):
        load(shop, {**RUBRIC, "labels": "nowhere.jsonl"})
    compares = label(shop, [("s0", "1 euro"), ("s1", "2 euros")], 1)
    with pytest.raises(ConfigError, match="judge 'pairwise' rates no single answer"):
        load(shop, {**PAIRWISE, "labels": compares["labels"]})
