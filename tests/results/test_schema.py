"""The schema of a record: generated from its types, and as strict as a record's readers need."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError
from harness.results import store
from harness.results.schema import schema, training_problem, validate

ROOT = Path(__file__).parents[2]
REFERENCE = sorted((ROOT / "results" / "reference").rglob("cells/*.json"))


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """A recorded cell that was trained and evaluated."""
    records = (json.loads(file.read_text()) for file in REFERENCE)
    return next(r for r in records if r["training"] and "loss_curve" in r["training"])


def _suite(record: dict[str, Any]) -> dict[str, Any]:
    return next(iter(record["evaluation"]["suites"].values()))


def _metric(record: dict[str, Any]) -> dict[str, Any]:
    return next(iter(_suite(record)["metrics"].values()))


def test_recorded_results_match_the_schema() -> None:
    assert REFERENCE
    for file in REFERENCE:
        validate(json.loads(file.read_text()), "record")


@pytest.mark.parametrize("key", ["schema", "id", "status", "plan", "training", "evaluation"])
def test_a_section_that_is_missing_is_refused(whole: dict[str, Any], key: str) -> None:
    with pytest.raises(HarnessError, match=key):
        validate({name: part for name, part in whole.items() if name != key}, "record")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda r: r.update(schema=2), r"\$\.schema"),
        (lambda r: r.update(id="../x"), r"\$\.id"),
        (lambda r: r.update(status="fine"), r"\$\.status"),
        (lambda r: r.update(status="oom"), r"\$\.error"),
        (lambda r: r.update(error={"type": "X", "message": "y"}), r"\$\.error"),
        (lambda r: r.update(warnings=[1]), r"\$\.warnings"),
        (lambda r: r.update(sha256="0"), r"\$\.sha256"),
        (lambda r: r["plan"].pop("method"), "method"),
        (lambda r: r["plan"].update(seed="0"), r"\$\.plan\.seed.*'integer', 'null'"),
        (lambda r: r["plan"].update(price_per_hour=-1), "price_per_hour"),
        (lambda r: r["plan"]["model"].pop("name"), "name"),
        (lambda r: r["training"].update(tokens=-1), "tokens"),
        (lambda r: r["training"].update(tokens="many"), "tokens.*'integer', 'null'"),
        (lambda r: r["training"].update(loss_curve="flat"), "loss_curve.*'array', 'null'"),
        (lambda r: r["training"].update(phases={"train": {}}), "seconds"),
        (lambda r: r["training"].update(ladder=[{"micro_batch": 0}]), "ladder"),
        (lambda r: r["training"].update(health=[{"name": "x"}]), r"\$\.training"),
        (lambda r: r["evaluation"]["suites"].update({"a/b": _suite(r)}), "a/b"),
        (lambda r: _suite(r).pop("hash"), "hash"),
        (lambda r: _suite(r)["samples"].update(sha256="x"), "sha256"),
        (lambda r: _metric(r).pop("stderr"), "stderr"),
        (lambda r: _metric(r).update(n=1.5), r"\.n"),
        (lambda r: _metric(r)["estimator"].update(kind="median"), "kind"),
        (lambda r: _metric(r)["estimator"].update(where={"domain": 1}), "where"),
        (lambda r: r["environment"].update(packages={"torch": 2}), "packages"),
    ],
)
def test_a_record_of_another_layout_is_refused(
    whole: dict[str, Any], change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    changed = copy.deepcopy(whole)
    change(changed)
    with pytest.raises(HarnessError, match=problem):
        validate(changed, "record")


def test_what_plugins_add_of_their_own_is_kept(whole: dict[str, Any]) -> None:
    changed = copy.deepcopy(whole)
    for part in (changed["training"], changed["plan"]["options"], _suite(changed)["notes"]):
        part["own"] = [{"anything": None}]
    validate(changed, "record")
    assert training_problem(changed["training"]) is None
    assert "loss_curve" in (training_problem({"loss_curve": "flat"}) or "")


def test_recorded_leaderboards_match_the_schema() -> None:
    boards = sorted((ROOT / "results" / "reference").rglob("leaderboard.json"))
    assert boards
    for file in boards:
        board = json.loads(file.read_text())
        validate(board, "leaderboard")
        for name, wrong in (("rows", [{}]), ("ranked_by", 1), ("schema", 2)):
            with pytest.raises(HarnessError, match=name):
                validate({**board, name: wrong}, "leaderboard")


def test_the_schemas_describe_their_sections() -> None:
    record = schema("record")
    for whole in (record, schema("leaderboard")):
        sections = [whole, *whole["$defs"].values()]
        assert all(section.get("description") for section in sections)
    assert "older versions" in record["properties"]["sha256"]["description"]
    assert store.schema("record") == record
