"""HTML whose texts cannot be anything but text."""

from __future__ import annotations

import html

from harness.system.console import printable

__all__ = ["Markup", "element", "joined"]


_EMPTY = ("br", "hr", "meta")


class Markup(str):
    """A piece of HTML. Every other string is text, and is escaped where it is put into one."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """`<tag attribute="...">children</tag>`; children are Markup or text, None is left out.

    An attribute's underscores are hyphens but for the last (`class_`); True has no value, and None
    and False leave it out.
    """
    named = "".join(
        _attribute(name, value)
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    inner = joined(*(child for child in children if child is not None))
    return Markup(f"<{tag}{named}>" if tag in _EMPTY else f"<{tag}{named}>{inner}</{tag}>")


def joined(*children: object) -> Markup:
    """Markup and texts one after another."""
    return Markup(
        "".join(child if isinstance(child, Markup) else _text(child) for child in children)
    )


def _attribute(name: str, value: object) -> str:
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{_text(value)}"'


def _text(value: object) -> str:
    """Control characters and halves of surrogate pairs are written out."""
    return html.escape(printable(str(value)))
