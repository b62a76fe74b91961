"""The columns of rows: our names, and what a file may call them."""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import nearest

COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "messages": ("messages", "conversations"),
    "prompt": ("prompt", "question"),
    "completion": ("completion", "response", "answer"),
    "instruction": ("instruction",),
    "input": ("input", "context"),
    "output": ("output", "response"),
    "text": ("text",),
    "reference": ("reference", "completion", "response", "answer", "output"),
    "choices": ("choices",),
    "answer": ("answer", "answerKey"),
    "group": ("group", "domain", "topic", "subject"),
}
"""Our column names, and what a file may call them; the first that is there counts."""


def check_columns(columns: Mapping[str, str]) -> None:
    """ValueError where `columns` maps a name that is not one of ours."""
    for ours in columns:
        if ours not in COLUMNS:
            raise ValueError(f"unknown column '{ours}': {nearest(ours, COLUMNS)}")
