"""Rows that the suites of `harness suites new` share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

CHOICES: tuple[Mapping[str, object], ...] = (
    {"id": "ice", "question": "What is ice made of?", "choices": ["water", "sand"], "answer": 0},
    {
        "id": "legs",
        "question": "How many legs has a spider?",
        "choices": ["six", "eight", "ten"],
        "answer": 1,
    },
    {
        "id": "east",
        "question": "Where does the sun rise?",
        "choices": ["in the north", "in the west", "in the east"],
        "answer": "C",
    },
)


def jsonl(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as lines of JSON."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
