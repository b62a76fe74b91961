"""Seals are computed once for a content; what changed is found all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.record import new_record
from harness.results import seals, store
from tests.results.test_store import PLAN

CELLS = 4


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder of a few records, which are many."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(seals, "MANY", CELLS)
    for number in range(CELLS):
        parts: dict[str, Any] = {"status": "error", "plan": PLAN, "environment": {}}
        error = {"type": "E", "message": "no", "phase": None, "traceback": []}
        cell = new_record(id=f"c{number}", training=None, evaluation=None, error=error, **parts)
        store.write_record(tmp_path / "out", cell)
    return tmp_path / "out"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The contents whose seals are computed from here on."""
    found: list[object] = []
    digest = seals.digest
    monkeypatch.setattr(seals, "digest", lambda value: (found.append(value), digest(value))[1])
    return found


def another_process() -> None:
    seals._checked.clear()
    store._records.clear()


def test_a_seal_is_computed_once_for_a_content(out: Path, computed: list[object]) -> None:
    another_process()
    before = store.read_records([out])
    assert len(computed) == CELLS
    another_process()
    assert store.read_records([out]) == before
    assert len(computed) == CELLS


def test_a_flipped_bit_is_found_whatever_is_kept_of_the_file(
    out: Path, computed: list[object]
) -> None:
    store.read_records([out])
    file = out / "cells/c1.json"
    text = file.read_text()
    file.write_text(text.replace('"message": "no"', '"message": "on"'))
    another_process()
    computed.clear()
    with pytest.raises(UserError, match=r"c1\.json: changed since it was written"):
        store.read_records([out])
    assert len(computed) == 1
    file.write_text(text)
    store.read_records([out])


@pytest.mark.parametrize("kept", ["", "{", "3", "[[1]]", '{"a": 1}', "[" * 100_000])
def test_a_cache_that_is_broken_costs_time_only(
    out: Path, computed: list[object], kept: str
) -> None:
    store.read_records([out])
    [file] = (out.parent / "cache/seals").iterdir()
    assert len(json.loads(file.read_text())) == CELLS
    file.write_text(kept)
    another_process()
    computed.clear()
    store.read_records([out])
    assert len(computed) == CELLS


def test_of_a_few_records_nothing_is_kept(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seals, "MANY", CELLS + 1)
    store.read_records([out])
    assert not (out.parent / "cache/seals").exists()
