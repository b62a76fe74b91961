"""Records and samples of any content come back, and no flipped bit of a file is overlooked."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError
from harness.results import seals, store
from tests.results.test_store import ROWS, result

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | TEXT | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(TEXT, VALUES, max_size=5)


@pytest.fixture(scope="module", autouse=True)
def at_once() -> Iterator[None]:
    """Nothing waits for the disk: there are many files, and no power cut."""
    with mock.patch.object(os, "fsync"):
        yield


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a record and its samples."""
    folder = tmp_path_factory.mktemp("properties")
    store.write_record(folder, result(folder))
    return folder


@given(OBJECTS)
def test_a_sealed_value_comes_back(out: Path, value: dict[str, Any]) -> None:
    sealed = store.seal(value)
    assert store.is_sealed(sealed)
    file = store.write_json(out / "value.json", sealed)
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found == store.plain(found) == sealed
    assert store.is_sealed(found)
    # whatever the order of keys
    assert store.is_sealed(dict(reversed(found.items())))
    assert store.seal(found)["sha256"] == sealed["sha256"]


@given(OBJECTS, TEXT.filter(lambda key: key != "sha256"), VALUES)
def test_a_changed_value_breaks_its_seal(value: dict[str, Any], key: str, other: Any) -> None:
    sealed = store.seal(value)
    changed = {**sealed, key: store.plain(other)}
    # True and 1 are equal to Python, and not to JSON
    same = json.dumps(changed, sort_keys=True) == json.dumps(sealed, sort_keys=True)
    assert store.is_sealed(changed) == same


@given(OBJECTS)
def test_what_is_plain_is_json_without_nan(value: dict[str, Any]) -> None:
    plain = store.plain(value)
    text = json.dumps(plain, allow_nan=False)
    assert json.loads(text) == plain == store.plain(plain)
    lost = sum(isinstance(v, float) and not math.isfinite(v) for v in value.values())
    assert [plain[k] for k, v in value.items() if isinstance(v, float)].count(None) == lost


@given(st.data())
def test_any_flipped_bit_of_a_record_is_found(out: Path, data: st.DataObject) -> None:
    file = out / "cells/a1b2.json"
    content, whole = file.read_bytes(), json.loads(file.read_bytes())
    at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    flipped = bytearray(content)
    flipped[at] ^= 1 << bit
    other = out / "flipped.json"
    other.write_bytes(flipped)
    seals._checked.clear()
    try:
        found = store.read_record(other)
    except UserError:
        return
    assert found == whole  # such as 1e-05 and 1E-05


@given(st.data())
def test_any_flipped_bit_of_samples_is_found(out: Path, data: st.DataObject) -> None:
    record = store.read_record(out / "cells/a1b2.json")
    file = out / "samples/a1b2/quiz.jsonl.gz"
    content = file.read_bytes()
    at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    flipped = bytearray(content)
    flipped[at] ^= 1 << bit
    try:
        file.write_bytes(flipped)
        with pytest.raises(UserError, match="changed since it was recorded"):
            store.read_samples(out, record, "quiz")
    finally:
        file.write_bytes(content)
    assert store.read_samples(out, record, "quiz") == ROWS


@given(st.lists(OBJECTS, max_size=5))
def test_rows_come_back(out: Path, rows: list[dict[str, Any]]) -> None:
    samples = store.write_samples(out, "a1b2", "any", rows)
    record: Any = {"id": "a1b2", "evaluation": {"suites": {"any": {"samples": samples}}}}
    assert store.read_samples(out, record, "any") == store.plain(rows)
    assert store.write_samples(out, "a1b2", "any", rows) == samples
