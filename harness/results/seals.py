"""Seals: the sha256 at the end of a record and of other JSON files, of everything else in them.

A seal is computed of the parsed content, which takes longer than parsing it. What was found to
match its seal is therefore known again by the sha256 of its bytes, in this process and, where a
folder holds many records, in the next ones too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from harness.system import hub

__all__ = ["digest", "is_intact", "is_sealed", "keep_checked", "sha256"]

MANY = 200
"""Files of a folder from which on those that match their seals are kept in the cache."""


def is_sealed(value: Mapping[str, object]) -> bool:
    """Whether the `sha256` of a value is that of everything else in it."""
    return value.get("sha256") == digest(value)


def digest(value: Mapping[str, object]) -> str:
    """sha256 of a JSON object without its `sha256`, whatever the order and spacing of its keys."""
    parts = {key: part for key, part in value.items() if key != "sha256"}
    return sha256(json.dumps(parts, sort_keys=True).encode())


def sha256(content: bytes) -> str:
    """sha256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def is_intact(file: Path, content: bytes, value: Mapping[str, object]) -> bool:
    """`is_sealed(value)`, of a value that was parsed from the `content` of `file`."""
    folder, own = file.parent, sha256(content)
    checked = _checked.get(folder)
    if checked is None:
        checked = _checked[folder] = _kept(folder)
    if own not in checked:
        if not is_sealed(value):
            return False
        checked[own] = False
    return True


def keep_checked(folder: Path) -> None:
    """Keep in the cache which contents of a folder's files match their seals, if there are many."""
    checked = _checked.get(folder, {})
    if len(checked) >= MANY and not all(checked.values()):
        hub.remember(_cache_file(folder), sorted(checked))
        _checked[folder] = dict.fromkeys(checked, True)


_checked: dict[Path, dict[str, bool]] = {}
"""Folder -> sha256 of the bytes of a file that matches its seal -> whether the cache has it."""


def _kept(folder: Path) -> dict[str, bool]:
    try:
        kept = json.loads(_cache_file(folder).read_text(encoding="utf-8"))
        return dict.fromkeys(map(str, kept), True)
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _cache_file(folder: Path) -> Path:
    name = sha256(str(folder.resolve()).encode())[:32]
    return hub.cache_dir() / "seals" / f"{name}.json"
