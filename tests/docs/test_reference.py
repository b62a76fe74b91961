"""docs/reference/ says what the code says, the same on every machine."""

from __future__ import annotations

import re

import pytest

from harness import hookspecs
from harness.results.policy import Rule
from harness.results.schema import schema
from scripts.reference import api, keys
from scripts.reference.pages import FOLDER, pages
from tests.conftest import ROOT

WRITTEN = {file.name: file.read_text("utf-8") for file in FOLDER.glob("*.md")}


def test_the_pages_are_what_the_code_says() -> None:
    assert pages() == WRITTEN, "run `make reference`"


def test_a_changed_docstring_and_a_changed_signature_make_a_page_stale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hookspecs.register_methods, "__doc__", "Something else.")
    assert api.hooks() != WRITTEN["hooks.md"]
    monkeypatch.undo()
    assert api.hooks() == WRITTEN["hooks.md"]
    monkeypatch.setattr(hookspecs, "register_methods", hookspecs.register_scorers)
    assert api.hooks() != WRITTEN["hooks.md"]


def test_every_hook_and_every_key_of_a_rule_stands_in_its_page() -> None:
    for name in ("register_methods", "register_datasets", "open_model"):
        assert f"### {name}\n\n```python\ndef {name}(" in WRITTEN["hooks.md"]
    for key in Rule.model_fields:
        assert f"| `{key}` |" in WRITTEN["policy.md"]


def test_a_key_without_a_meaning_is_refused() -> None:
    record = schema("record")
    assert keys.of_schema(record)
    record["properties"]["id"].pop("description")  # type: ignore[index]
    with pytest.raises(keys.Undescribed, match=r"the whole\.id"):
        keys.of_schema(record)


def test_nothing_of_this_machine_stands_in_a_page() -> None:
    here = re.compile(rf"\b0x[0-9a-f]{{6,}}|{re.escape(str(ROOT))}")
    assert here.search(f"<object at 0x7f00aa> {ROOT}")
    assert not [name for name, text in WRITTEN.items() if here.search(text)]
