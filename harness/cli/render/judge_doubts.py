"""Judges that are weak or failed, in tables: dimmed, marked, and with the reason below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["MARK", "doubt_of", "lines", "said"]

MARK = "†"
"""Behind the name of a metric whose judge is to be doubted, and before the reason."""

_WORDS = {
    "weak": "its judge is weak",
    "failed": "its judge failed its certificate",
    "trusted": "it cannot be told",
}


def doubt_of(section: Mapping[str, Any]) -> str | None:
    """Why a metric of a leaderboard is to be doubted for its judge; None where it is not."""
    judge = section.get("estimator", {}).get("judge")
    if judge is None:
        return None
    level, correction = judge["level"], section.get("correction") or {}
    untold = correction.get("reason") or correction.get("delta_reason")
    if level == "trusted":
        return said(level, untold) if untold else None
    reasons = [judge["reason"], untold if level != "failed" else None]
    return said(level, "; ".join(dict.fromkeys(filter(None, reasons))))


def said(level: str, reason: str | None) -> str:
    """A level in words, and why."""
    return f"{_WORDS[level]}: {reason}" if reason else _WORDS[level]


def lines(doubts: Iterable[tuple[str, str | None]]) -> list[str]:
    """A line for each metric and reason, once; of (metric, reason)."""
    return list(dict.fromkeys(f"{MARK} {name}: {why}" for name, why in doubts if why))
