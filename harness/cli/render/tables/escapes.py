"""Texts of models and strangers in Markdown, in a spreadsheet and in LaTeX: shown, never run."""

from __future__ import annotations

import re

from harness.system.console import printable

__all__ = ["clipped", "for_latex", "for_markdown", "for_spreadsheet", "short_name"]

LONGEST = 300
"""Characters of a text in a table that people read."""
LONGEST_NAME = 200
"""Characters of a label."""
LONGEST_CELL = 32_000
"""Characters of a spreadsheet's cell. Excel takes 32,767; the rest would be cells of their own."""

_FORMULA = re.compile(r"^(?=\s*[=+\-@＝＋－＠]|[\t\r\n])|(?:(?<=;)|(?<=\S\t))(?=[=+\-@＝＋－＠])")
"""Where a spreadsheet would begin a formula: a cell's start, and behind `;` or a tab within."""
_MENTION = re.compile(r"@(?=\w)")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"\dag{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_LATEX_SPECIAL = re.compile("-(?=-)|" + "|".join(map(re.escape, _LATEX)))


def clipped(text: str, longest: int = LONGEST) -> str:
    """`text` without its middle where it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters left out ... {text[-half:]}"


def short_name(text: str) -> str:
    """A label as a table's header, cut where it is long; control characters are escaped."""
    return printable(text if len(text) <= LONGEST_NAME else text[:LONGEST_NAME] + " ...")


def for_markdown(text: str, *, line_start: bool = False) -> str:
    """A text that Markdown shows as it is, on one line: no column, HTML, emphasis, link or mention.

    `line_start`: it begins a line, where `#` makes a heading and `-` a list.
    """
    text = printable(" ".join(clipped(text).splitlines()))
    text = re.sub(r"[\\|*`~]", r"\\\g<0>", text).replace("](", "]\\(").replace("][", "]\\[")
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MENTION.sub("@<!-- -->", text)  # GitHub would tell whoever is called so
    return re.sub(r"^[#+=-]", r"\\\g<0>", text) if line_start else text


def for_spreadsheet(cell: object) -> object:
    """A cell of a CSV file; a text that a spreadsheet would run has an apostrophe before it.

    Numbers stay numbers. Control characters are written as JSON escapes them.
    """
    if not isinstance(cell, str):
        return cell
    return _FORMULA.sub("'", printable(clipped(cell, LONGEST_CELL)))


def for_latex(text: str) -> str:
    """A text that LaTeX sets as it is, on one line."""
    text = printable(" ".join(clipped(text).splitlines()))
    return _LATEX_SPECIAL.sub(lambda match: _LATEX.get(match[0], "-{}"), text)
