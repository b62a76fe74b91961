"""A certificate in a suite, kept or named: in its hash, its record and the judge's figure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import stats
from harness.api.task import Suite
from harness.errors import ConfigError, UserError
from harness.evaluation.cached_results import Sections
from harness.evaluation.judging import certificates
from harness.results import store
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
    return certificates.keep(certificate_of(suite, base, labels) | changes)


def certificate_of(suite: Suite, base: ModelRef, labels: str = "a") -> dict[str, Any]:
    """What `harness judge certify` writes of the suite's judge."""
    scores = {"scores": {"good": mean(2.5), "bad": mean(1.5)}}
    return {
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


# ---- a certificate that a suite names ------------------------------------------------------------


def naming(shop: Path, judging_model: Path, **changes: Any) -> dict[str, Any]:
    """A judge with a certificate beside its suite."""
    judge = {**RUBRIC, "model": str(loving(judging_model, shop / "right", " 2"))}
    content = certificate_of(load(shop, judge), BASE) | changes
    (shop / "judge.json").write_text(json.dumps(content))
    return {**judge, "certificate": "judge.json"}


def test_a_named_certificate_goes_before_those_in_the_cache(
    shop: Path, judging_model: Path
) -> None:
    judge = naming(shop, judging_model)
    named = load(shop, judge)
    assert named.judge_certificate is not None
    certify(named, BASE, labels="b", level="failed", reasons=["kappa is 0.01"])
    assert load(shop, judge).hash == named.hash
    (shop / "moved.json").write_bytes((shop / "judge.json").read_bytes())
    assert load(shop, {**judge, "certificate": "moved.json"}).hash == named.hash
    assert load(shop, {**judge, "certificate": "moved.json"}).content == named.content
    # negative control: without its name the cache's is taken
    unnamed = load(shop, {key: value for key, value in judge.items() if key != "certificate"})
    assert unnamed.judge_certificate is not None
    assert unnamed.judge_certificate["labels"] == "b.jsonl"
    assert unnamed.hash != named.hash


def test_a_named_certificate_that_is_not_the_judges_is_refused_with_its_line(
    shop: Path, judging_model: Path
) -> None:
    judge = naming(shop, judging_model)
    load(shop, judge)
    place = r"judged\.yaml:\d+: "
    again = r"harness judge certify \S*judged\.yaml --out \S+\.json"
    with pytest.raises(ConfigError, match=rf"{place}there is no certificate \S+: make it: {again}"):
        load(shop, {**judge, "certificate": "nowhere.json"})
    other = {**judge, "criteria": RUBRIC["criteria"][:1]}
    with pytest.raises(ConfigError, match=rf"{place}.*another judge \(its options differ\)"):
        load(shop, other)
    elsewhere = {**judge, "model": str(loving(judging_model, shop / "wrong", " 1"))}
    with pytest.raises(ConfigError, match=r"another judge \(model right, here wrong\)"):
        load(shop, elsewhere)
    for text in (
        "{",
        "[]",
        json.dumps({**json.loads((shop / "judge.json").read_text()), "schema": 0}),
    ):
        (shop / "judge.json").write_text(text)
        with pytest.raises(ConfigError, match=rf"{place}.* is not a certificate of this version"):
            load(shop, judge)
    # what the lines say to run loads the suite without its certificate
    assert load(shop, judge, certified=False).judge_certificate is None


def test_a_certificate_of_a_judging_base_is_held_against_the_base(
    shop: Path, judging_model: Path
) -> None:
    base = shop / "base"
    loving(judging_model, base, " 2")
    model = ModelRef("base", str(base))
    content = certificate_of(load(shop, RUBRIC, base), model)
    (shop / "judge.json").write_text(json.dumps(content))
    judge = {**RUBRIC, "certificate": "judge.json"}
    assert load(shop, judge, base).judge_certificate is not None
    with pytest.raises(ConfigError, match=r"make it anew: harness judge certify .* --model MODEL"):
        load(shop, judge, judging_model)
    assert load(shop, judge).judge_certificate is None, "no base is known yet"


# ---- rows of an earlier run ----------------------------------------------------------------------


def sections(shop: Path) -> Sections:
    """What a worker keeps and reuses."""
    return Sections(shop / "out", "cell", None, "0" * 64, warn=lambda message: None)


def test_what_corrects_a_judge_asks_it_nothing_again(shop: Path, judging_model: Path) -> None:
    judge = {**RUBRIC, "model": str(loving(judging_model, shop / "right", " 2"))}
    plain = load(shop, judge)
    asked = result(plain, base_row(judging_model))
    first = sections(shop)
    first.reuse(plain)
    first.keep(plain, asked)
    labels = [
        {"id": row["id"], "answer": row["output"], "label": "good" if i < 4 else "bad"}
        for i, row in enumerate(asked.rows)
    ]
    write_jsonl(shop / "labels.jsonl", labels)
    certified = naming(shop, judging_model)
    both = {**certified, "labels": "labels.jsonl"}
    for judged in (certified, both, {**judge, "labels": "labels.jsonl"}, judge):
        suite, again = load(shop, judged), sections(shop)
        assert suite.rows_hash == plain.hash
        assert again.reuse(suite) == "cell"
        fresh = result(suite, base_row(judging_model))
        section = again.done["judged"]
        assert section["hash"] == suite.hash
        assert section["metrics"] == store.plain(summarise(fresh.metrics, fresh.rows))
        assert section["notes"] == store.plain(fresh.notes)
        rows = store.read_section(shop / "out/samples/cell/judged.json")[1]
        assert rows == fresh.rows
    # negative control: another question is asked
    assert sections(shop).reuse(load(shop, {**judge, "criteria": RUBRIC["criteria"][:1]})) is None


# ---- passes at the certificate's cut -------------------------------------------------------------


def test_scores_are_cut_into_passes_where_answers_were_labelled(
    shop: Path, judging_model: Path
) -> None:
    """All sixteen answers score 2: above the cut all pass, below it none does."""
    judge = {**RUBRIC, "model": str(loving(judging_model, shop / "right", " 2"))}
    suite = load(shop, judge)

    def score(threshold: float) -> Any:
        labelled = {
            "threshold": threshold,
            "sensitivity": vars(stats.estimate("share", [1] * 180 + [0] * 20)),
            "specificity": vars(stats.estimate("share", [1] * 160 + [0] * 40)),
        }
        certify(suite, BASE, answers=labelled)
        return figures(result(load(shop, judge), base_row(judging_model)))["score"]

    all_pass, none = score(1.5), score(2.5)
    assert (all_pass["correction"]["raw"], none["correction"]["raw"]) == (1, 0)
    # no answer of sixteen is no proof of a share of zero
    assert (none["value"], none["ci_low"]) == (0, 0)
    assert 0.15 < none["ci_high"] < 0.35
    assert none["correction"]["assumption"] == "errors at most as labelled"
    assert (all_pass["value"], all_pass["ci_high"]) == (1, 1)
    assert 0.6 < all_pass["ci_low"] < 0.95
