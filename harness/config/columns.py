"""The columns of rows: canonical names, and their accepted aliases in files."""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import nearest

COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "messages": ("messages", "conversations"),
    "tools": ("tools",),
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
"""Canonical column name -> accepted aliases; the first that a file has counts."""


def check_columns(columns: Mapping[str, str]) -> None:
    """Raise ValueError where `columns` maps an unknown column name."""
    for name in columns:
        if name not in COLUMNS:
            raise ValueError(f"unknown column '{name}': {nearest(name, COLUMNS)}")
