"""Paths that a user wrote, with help where a file is missing; folders that come and go."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_TIMES = 20
"""That a folder may be removed again before it is taken for impossible."""


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


def in_folder(folder: Path, make: Callable[[], T]) -> T:
    """What `make` gives, which makes a file in a folder that is made where it is missing.

    Other runs may remove the folder while it is empty, at any moment: `mkdir` itself fails where
    that comes between two of its looks. Raises OSError where the folder or the file cannot be made.
    """
    for _ in range(_TIMES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return make()
        except (FileNotFoundError, FileExistsError):
            if folder.is_file():
                raise
    return make()
