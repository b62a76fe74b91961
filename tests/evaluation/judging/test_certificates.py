"""A kept certificate in a suite: in its hash, its record and the judge's figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import stats
from harness.api.task import Suite
from harness.errors import UserError
from harness.evaluation.judging import certificates
from harness.stats.metric_summary import summarise
from harness.types import ModelRef
from tests.conftest import write_jsonl
from tests.evaluation.judging.planted import loving
from tests.evaluation.test_judge_options import PAIRWISE, PLUGINS, RUBRIC, base_row, load, result


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with sixteen questions, and an empty cache."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    asked = [
        {"id": f"s{i}", "prompt": f"How much is article {i}?", "reference": f"It is {i} euros."}
        for i in range(16)
    ]
    write_jsonl(tmp_path / "asked.jsonl", asked)
    return tmp_path


def mean(value: float) -> dict[str, Any]:
    """Of 200 scores around a value."""
    return vars(stats.estimate("mean", [value - 0.5, value + 0.5] * 100))


def certify(suite: Suite, base: ModelRef, labels: str = "a", **changes: Any) -> Path:
    """Keep a certificate of the judge: it rates good answers 2.5 on average, bad ones 1.5."""
    scores = {"scores": {"good": mean(2.5), "bad": mean(1.5)}}
    certificate = {
        **certificates.sheet(suite, base, PLUGINS),
        "schema": 1,
        "level": "trusted",
        "reasons": [],
        "labels": {"file": f"{labels}.jsonl", "sha256": labels * 64},
        "asks": "one answer",
        "answers": scores,
        "pairs": scores,
        "verbosity": None,
        "seconds": {"judge": 1.0},
    }
    return certificates.keep(certificate | changes)


BASE = ModelRef("tiny", "tiny", content_hash="0" * 64)


def figures(found: Any) -> Mapping[str, Any]:
    return summarise(found.metrics, found.rows)


def test_a_certificate_corrects_the_score_and_stands_in_the_record(
    shop: Path, judging_model: Path
) -> None:
    judge = {**RUBRIC, "model": str(loving(judging_model, shop / "right", " 2"))}
    plain = result(load(shop, judge), base_row(judging_model))
    certify(load(shop, judge), BASE)
    found = result(load(shop, judge), base_row(judging_model))
    score, before = figures(found)["score"], figures(plain)["score"]
    assert before["value"] == pytest.approx(2, abs=0.02)
    assert score["value"] == pytest.approx(before["value"] - 1.5, abs=0.02)
    assert score["ci_low"] < score["value"] < score["ci_high"]
    assert score["correction"]["raw"] == pytest.approx(before["value"])
    assert score["correction"]["level"] == "trusted"
    assert "correction" not in figures(found)["tone"]
    note: Any = found.notes["judge"]
    assert note["certificate"]["labels"] == "a.jsonl"
    assert len(note["certificate"]["sha256"]) == 64
    assert "label" not in found.notes
    # negative control: without one all is as it was, and a note says what to do
    assert "correction" not in before
    assert "certificate" not in plain.notes["judge"]  # type: ignore[operator]
    assert "`harness judge certify judged`" in str(plain.notes["label"])


def test_a_failed_judge_has_no_figure_but_the_reason(shop: Path, judging_model: Path) -> None:
    judge = {**RUBRIC, "model": str(loving(judging_model, shop / "right", " 2"))}
    certify(load(shop, judge), BASE, level="failed", reasons=["kappa is 0.01"])
    score = figures(result(load(shop, judge), base_row(judging_model)))["score"]
    assert score["value"] is None
    assert (score["ci_low"], score["ci_high"]) == (0, 1)
    assert "kappa is 0.01" in score["correction"]["reason"]


def test_what_a_certificate_says_is_in_the_suites_hash_and_how_long_it_took_is_not(
    shop: Path,
) -> None:
    plain = load(shop, RUBRIC)
    assert plain.judge_certificate is None
    assert "certificate" not in plain.parts
    certify(plain, BASE)
    certified = load(shop, RUBRIC)
    assert certified.parts["certificate"]
    certify(plain, BASE, seconds={"judge": 9.0}, environment={"cpu": "another"})
    assert load(shop, RUBRIC).hash == certified.hash
    certify(plain, BASE, level="weak", reasons=["kappa is 0.25"])
    assert len({plain.hash, certified.hash, load(shop, RUBRIC).hash}) == 3
    # negative control: of another judge, and of another judging model, it says nothing
    other = {**RUBRIC, "criteria": RUBRIC["criteria"][:1]}
    assert load(shop, other).judge_certificate is None
    assert load(shop, {**PAIRWISE}).judge_certificate is None
    assert load(shop, RUBRIC, shop / "elsewhere").judge_certificate is None


def test_labels_of_pairs_alone_correct_no_score_and_those_of_answers_come_first(
    shop: Path,
) -> None:
    suite = load(shop, RUBRIC)
    certify(suite, BASE, labels="b", answers=None)
    found: Any = load(shop, RUBRIC).judge_certificate
    assert found["errors"]["level"] == "weak"
    assert found["errors"]["good"] is found["errors"]["bad"] is None
    assert "no answers labelled right or wrong" in found["errors"]["reason"]
    certify(suite, BASE, labels="a")
    certify(suite, BASE, labels="c", answers=None)
    again: Any = load(shop, RUBRIC).judge_certificate
    assert (again["labels"], again["errors"]["good"]["value"]) == ("a.jsonl", 2.5)


def test_a_broken_certificate_is_one_line_before_anything_runs(shop: Path) -> None:
    file = certify(load(shop, RUBRIC), BASE)
    file.write_text("{")
    with pytest.raises(UserError, match="not a certificate: remove it and certify again") as caught:
        load(shop, RUBRIC)
    assert "\n" not in str(caught.value)
