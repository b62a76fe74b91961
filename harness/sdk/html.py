"""Tables for a notebook: HTML in which every text is text."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from harness.system.console import printable

__all__ = ["figure", "table"]

LONGEST = 200
"""Characters of a text in a cell or a note."""


def table(heads: Sequence[str], lines: Iterable[Sequence[str]], notes: Iterable[str] = ()) -> str:
    """A table, and notes below it. No text in it is markup, and what hides is made visible."""
    rows = ("".join(f"<td>{_text(cell)}</td>" for cell in line) for line in lines)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    head = "".join(f"<th>{_text(cell)}</th>" for cell in heads)
    below = "".join(f"<div><small>{_text(note)}</small></div>" for note in notes)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"


def _text(text: str) -> str:
    short = text if len(text) <= LONGEST else text[:LONGEST] + " ..."
    return html.escape(printable(short))


def figure(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """`0.612 [0.571, 0.65]`; a dash where there is none."""
    if value is None:
        return "-"
    span = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
    return f"{value:.3g}{span}"
