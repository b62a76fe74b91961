"""`leaderboard.json`: a leaderboard beside the records that it was derived from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from harness import __version__
from harness.results import store
from harness.results.leaderboard_layout import Leaderboard
from harness.results.store import Stored

__all__ = ["NAME", "build", "read", "sealed", "sources"]

NAME = "leaderboard.json"


def build(
    folder: Path | None, records: Sequence[Stored], *, rank_by: str | None = None
) -> Leaderboard:
    """The leaderboard of records; the one in their results folder where it is of these very ones.

    Equals `leaderboard.build`, whose errors it raises.
    """
    kept = None if folder is None else read(folder, records, rank_by=rank_by)
    if kept is not None:
        kept.pop("rank_by", None)
        kept.pop("records", None)
        kept.pop("sha256", None)
        return kept
    from harness.results import leaderboard

    return leaderboard.build(
        [stored.data for stored in records],
        read_rows=store.rows_reader(records),
        rank_by=rank_by,
    )


def read(
    folder: Path, records: Sequence[Stored], *, rank_by: str | None = None
) -> Leaderboard | None:
    """The leaderboard in a results folder; None unless it is whole and of these records."""
    try:
        board = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(board, dict) or board.get("records") != sources(records, rank_by):
        return None
    return cast("Leaderboard", board) if store.is_sealed(board) else None


def sealed(
    board: Leaderboard, records: Sequence[Stored], *, rank_by: str | None = None
) -> Leaderboard:
    """What `leaderboard.json` holds: the board, what it is of, and a seal."""
    whole = {**board, "rank_by": rank_by, "records": sources(records, rank_by)}
    return cast("Leaderboard", store.seal(whole))


def sources(records: Sequence[Stored], rank_by: str | None) -> str:
    """sha256 of all that a leaderboard depends on, whatever the order of the records."""
    seals = [cell.data.get("sha256") or store.digest(cell.data) for cell in records]
    return store.digest(
        {"harness": __version__, "rank_by": rank_by, "records": sorted(map(str, seals))}
    )
