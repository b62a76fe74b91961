"""Paths that a user wrote: `~` is expanded, and a missing file has a helpful message."""

from __future__ import annotations

import difflib
import os
from pathlib import Path


def expanded(name: str) -> Path:
    """A path whose `~` is the home folder; the `~name` of an unknown user stays as it is."""
    return Path(os.path.expanduser(name))  # noqa: PTH111  # Path's own raises RuntimeError


def no_such_file(path: Path) -> str:
    """The message for a missing file: its path and the nearest names in its folder."""
    folder = path.parent
    if not folder.is_dir():
        return f"{path}: no such file (there is no folder {folder})"
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    matches = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if matches:
        return f"{path}: no such file: did you mean {' or '.join(repr(name) for name in matches)}?"
    alternatives = [name for name in names if Path(name).suffix == path.suffix][:8]
    listing = ", ".join(alternatives) or "-"
    return f"{path}: no such file ({path.suffix or 'such'} files there: {listing})"
