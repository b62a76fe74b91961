"""`harness judge certify`: a model's judge held against labels, kept in the cache, or refused."""

from __future__ import annotations

import json

import pytest

from harness.evaluation.judging import certificates, certify
from harness.manager import plugins
from harness.models.packaged import resolve_model
from tests.conftest import write_jsonl

THINGS = ("lamp", "bell", "pump", "map", "tent", "rope", "stove", "bag", "hat")
ROWS = [
    {
        "id": f"r{i}",
        "question": f"How many days may I keep the {thing}?",
        "reference": "You may keep it 41 days.",
        "a": f"You keep the {thing} 41 days.",
        "b": f"The {thing} is yours for {i + 2} days.",
        "label": ("a", "b", "tie")[i % 3],
        "a_right": i % 3 != 1,
        "b_right": i % 3 == 1,
    }
    for i, thing in enumerate(
        ("lamp", "bell", "pump", "map", "tent", "rope", "stove", "bag", "hat")
    )
]


@pytest.fixture
def own(tmp_path):
    return write_jsonl(tmp_path / "own.jsonl", ROWS)


def test_a_judge_of_a_model_gets_its_certificate_and_it_is_kept(harness, tiny_model, own, tmp_path):
    site = {"HARNESS_CACHE": str(tmp_path / "cache")}
    out = tmp_path / "certificate.json"
    options = ("--model", tiny_model, "--labels", own, "--out", out)
    ran = harness("judge", "certify", "expected_score", *options, env=site)
    assert ran.code == 0, ran.stderr
    found = json.loads(out.read_text())
    assert f"Level: {found['level']}" in ran.stdout
    assert "one person labelled each pair" in ran.stdout
    assert found["labels"]["pairs"] == 9
    assert found["judge"]["name"] == "expected_score"
    assert found["environment"]["packages"]["torch"]
    assert str(tmp_path) not in out.read_text()
    (kept,) = (tmp_path / "cache/certificates").rglob("*.json")
    assert json.loads(kept.read_text()) == found
    again = harness("judge", "certify", "expected_score", *options, "--json", env=site)
    same = json.loads(again.stdout)
    for key in ("pairs", "answers", "verbosity", "injection", "judge", "level"):
        assert same[key] == found[key]


def test_a_suite_with_a_judge_of_pairs_is_certified(harness, tiny_model, own, tmp_path):
    suite = tmp_path / "which.yaml"
    suite.write_text(
        f"name: which\nversion: 1\nask: generate\ndata: rows.jsonl\njudge:\n  name: pairwise\n"
        f"  model: {tiny_model}\n  rubric: The better answer has the right number.\n"
        "  least_mass: 1.0e-9\n"
    )
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "How long?", "reference": "41 days."}])
    site = {"HARNESS_CACHE": str(tmp_path / "cache")}
    ran = harness("judge", "certify", suite, "--labels", own, "--json", env=site)
    assert ran.code == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["asks"] == "two answers"
    assert 0 <= found["position"]["consistent"]["value"] <= 1


def test_the_newest_certificate_is_found_by_the_judges_hash(tmp_path, monkeypatch, tiny_model):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    model = resolve_model(str(tiny_model), mirror=None)
    suite = certify.suite_of("expected_score", plugins(), {"rubric": "Rate it."})
    other = certify.suite_of("expected_score", plugins(), {"rubric": "Rate it well."})
    own = certificates.judge_hash(suite, model, plugins())
    assert own != certificates.judge_hash(other, model, plugins())
    assert certificates.find(own) is None
    sheet = certificates.sheet(suite, model, plugins())
    for number, sha256 in enumerate("ab"):
        labels = {"sha256": sha256 * 64}
        certificates.keep({**sheet, "schema": 1, "labels": labels, "number": number})
    assert certificates.find(own)["number"] == 1
    assert certificates.find(own, "a" * 64)["number"] == 0
    assert certificates.find(own, "c" * 64) is None


def refused(ran) -> str:
    assert (ran.code, ran.stdout) == (2, "")
    return ran.error


def test_what_cannot_be_certified_is_refused_in_one_line(harness, tiny_model, own, tmp_path):
    certified = ("judge", "certify", "expected_score")
    one_class = write_jsonl(tmp_path / "one.jsonl", [{**row, "label": "a"} for row in ROWS])
    error = refused(harness(*certified, "--model", tiny_model, "--labels", one_class))
    assert "all 9 pairs are labelled 'a'" in error
    broken = write_jsonl(tmp_path / "broken.jsonl", [*ROWS, {"question": "When?", "label": "a"}])
    error = refused(harness(*certified, "--model", tiny_model, "--labels", broken))
    assert f"{broken}:10: no value for 'a'" in error
    error = refused(harness(*certified, "--model", "no-such-model", "--labels", own))
    assert "no-such-model" in error
    assert "say which model judges: --model MODEL" in refused(harness(*certified, "--labels", own))
    assert "no judge and no suite is called 'nobody'" in refused(
        harness("judge", "certify", "nobody")
    )
    error = refused(harness("judge", "certify", "rubric", "--model", tiny_model))
    assert "judge 'rubric': criteria: " in error
    error = refused(harness("judge", "certify", "similarity"))
    assert "the suite has no `judge:`" in error
    missing = tmp_path / "no" / "x.json"
    assert "there is no folder" in refused(harness(*certified, "--out", missing))
    bare = [{**row, "reference": None} for row in ROWS]
    plain = write_jsonl(tmp_path / "plain.jsonl", bare)
    suite = tmp_path / "levels.yaml"
    suite.write_text(
        "name: levels\nversion: 1\nask: generate\ndata: rows.jsonl\njudge:\n  name: rubric\n"
        "  criteria: [{name: fit, levels: {1: bad, 2: good}}]\n"
    )
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "How long?", "reference": "41 days."}])
    error = refused(harness("judge", "certify", suite, "--model", tiny_model, "--labels", plain))
    assert "sample r0 has no reference" in error
