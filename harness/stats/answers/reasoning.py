"""The reasoning before answers: what models write around it, and how much of it there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.record import ReasoningFigures
from harness.stats.metric_summary import Rows

MARKERS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""What models write before and after their reasoning."""


def marked(texts: Sequence[str]) -> list[str]:
    """Of each text that holds markers the end marker of the first pair that it holds."""
    found = (next((e for s, e in MARKERS if s in text or e in text), None) for text in texts)
    return [end for end in found if end is not None]


def advice(end: str) -> str:
    """What is wrong with scoring reasoning that `end` ends, and what to do about it."""
    return (
        f"which is scored as the answer: set `reasoning: {{end: '{end}'}}`, or `reasoning: none` "
        "where it is to be"
    )


def figures(rows: Rows) -> ReasoningFigures:
    """What the rows of a suite with `reasoning` come to: of answers that it was looked for in."""
    answered = [row for row in rows if "reasoning_tokens" in row and "missing" not in row]
    return _figures(
        answers=len(answered),
        reasoned=sum(bool(row["reasoning_tokens"]) for row in answered),
        unfinished=sum(bool(row["unfinished_reasoning"]) for row in answered),
        reasoning_tokens=sum(row["reasoning_tokens"] for row in answered),
        tokens=sum(row["tokens"] for row in answered),
    )


def pooled(notes: Iterable[Mapping[str, Any]]) -> ReasoningFigures | None:
    """The figures of all seeds together, of their suites' notes; None where none has any."""
    known = [of for note in notes if (of := note.get("reasoning")) and of["end"] is not None]
    counts = ("answers", "reasoned", "unfinished", "reasoning_tokens", "tokens")
    return _figures(**{key: sum(of[key] for of in known) for key in counts}) if known else None


def _figures(
    *, answers: int, reasoned: int, unfinished: int, reasoning_tokens: int, tokens: int
) -> ReasoningFigures:
    return {
        "answers": answers,
        "reasoned": reasoned,
        "unfinished": unfinished,
        "reasoning_tokens": reasoning_tokens,
        "tokens": tokens,
        "unfinished_share": unfinished / answers if answers else 0.0,
        "mean_tokens": reasoning_tokens / answers if answers else 0.0,
        "token_share": reasoning_tokens / tokens if tokens else 0.0,
    }
