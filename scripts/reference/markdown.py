"""Markdown that GitHub and the site's builder read alike."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

CODE = re.compile(r"(``?[^`]+``?)")
"""Parts of a text in which nothing is escaped."""


def prose(docstring: str) -> str:
    """A docstring as paragraphs: without the indentation of its source, `<` outside code escaped.

    Lines that are indented are kept as they are: a code block.
    """
    paragraphs = inspect.cleandoc(docstring).split("\n\n")
    return "\n\n".join(
        _block(paragraph) if _is_drawn(paragraph) else _escaped(paragraph)
        for paragraph in paragraphs
    )


def _is_drawn(paragraph: str) -> bool:
    """Whether its lines must not flow into each other."""
    return any(line.startswith(("    ", "├", "│")) for line in paragraph.splitlines())


def _block(paragraph: str) -> str:
    return f"```text\n{inspect.cleandoc(paragraph)}\n```"


def _escaped(text: str) -> str:
    parts = CODE.split(text)
    return "".join(part if i % 2 else part.replace("<", "&lt;") for i, part in enumerate(parts))


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site's builder make it."""
    return re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; ValueError for a cell that a table cannot hold.

    A cell's line breaks become spaces.
    """
    lines = [list(head), ["---"] * len(head), *([" ".join(c.split()) for c in row] for row in rows)]
    broken = [cell for line in lines for cell in line if "|" in cell]
    if broken:
        raise ValueError(f"a table cannot hold the character | of: {broken[0]}")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fenced(text: str, language: str = "python") -> str:
    """A code block."""
    return f"```{language}\n{text}\n```"


def page(title: str, *parts: str) -> str:
    """A page of parts with empty lines between them."""
    note = "<!-- Made from the code by `make reference`: change the code. -->"
    return "\n\n".join([f"# {title}", note, *(part.strip("\n") for part in parts if part)]) + "\n"
