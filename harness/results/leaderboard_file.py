"""`leaderboard.json`: a leaderboard beside the records that it was derived from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import __version__
from harness.results import store
from harness.results.store import Stored

__all__ = ["NAME", "build", "read", "sealed"]

NAME = "leaderboard.json"
_OF_THE_FILE = ("rank_by", "records", "sha256")


def build(
    folder: Path | None, records: Sequence[Stored], *, rank_by: str | None = None
) -> dict[str, Any]:
    """The leaderboard of records; the one in their results folder where it is of these very ones.

    Equals `leaderboard.build`, whose errors it raises.
    """
    kept = None if folder is None else read(folder, records, rank_by=rank_by)
    if kept is not None:
        return {key: part for key, part in kept.items() if key not in _OF_THE_FILE}
    from harness.results import leaderboard

    return leaderboard.build(
        [stored.data for stored in records],
        read_rows=store.rows_reader(records),
        rank_by=rank_by,
    )


def read(
    folder: Path, records: Sequence[Stored], *, rank_by: str | None = None
) -> dict[str, Any] | None:
    """The leaderboard in a results folder; None unless it is whole and of these records."""
    try:
        board = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(board, dict) or board.get("records") != _sources(records, rank_by):
        return None
    return board if store.is_sealed(board) else None


def sealed(
    board: dict[str, Any], records: Sequence[Stored], *, rank_by: str | None = None
) -> dict[str, Any]:
    """What `leaderboard.json` holds: the board, what it is of, and a seal."""
    return store.seal({**board, "rank_by": rank_by, "records": _sources(records, rank_by)})


def _sources(records: Sequence[Stored], rank_by: str | None) -> str:
    """sha256 of all that a leaderboard hangs on, whatever the order of the records."""
    seals = [cell.data.get("sha256") or store.digest(cell.data) for cell in records]
    return store.digest(
        {"harness": __version__, "rank_by": rank_by, "records": sorted(map(str, seals))}
    )
