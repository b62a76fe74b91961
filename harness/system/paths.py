"""Paths that a user wrote: `~`, and what to say where no file is."""

from __future__ import annotations

import difflib
import os
from pathlib import Path


def expanded(name: str) -> Path:
    """A path whose `~` is the home folder; one of a user that is not there stays as it is."""
    return Path(os.path.expanduser(name))  # noqa: PTH111  # Path's own raises RuntimeError


def no_such_file(path: Path) -> str:
    """What to say of a missing file: its path and the nearest names in its folder."""
    folder = path.parent
    if not folder.is_dir():
        return f"{path}: no such file (there is no folder {folder})"
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if close:
        return f"{path}: no such file: did you mean {' or '.join(repr(name) for name in close)}?"
    there = [name for name in names if Path(name).suffix == path.suffix][:8]
    return f"{path}: no such file ({path.suffix or 'such'} files there: {', '.join(there) or '-'})"
