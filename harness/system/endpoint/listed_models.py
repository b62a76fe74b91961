"""The models that a server lists, and which of them a name means."""

from __future__ import annotations

import difflib
from collections.abc import Collection

_SHOWN = 8
"""Models of a list that are named."""


def listed_as(model: str, listed: Collection[str]) -> str | None:
    """The name that a server lists a model under; None where it lists no such model.

    Ollama lists `name:latest` and serves it as `name` too.
    """
    return next((name for name in (model, f"{model}:latest") if name in listed), None)


def nearest_listed(model: str, listed: Collection[str]) -> str:
    """A hint of which model was meant; hosts list hundreds of them."""
    if not listed:
        return "it lists none"
    close = difflib.get_close_matches(model, listed, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return f"{hint}(served: {', '.join(sorted(listed)[:_SHOWN])}{more})"
