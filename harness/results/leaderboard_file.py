"""`leaderboard.json`: a leaderboard beside the records that it was derived from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from harness import __version__
from harness.errors import EnvironmentLack
from harness.results import store
from harness.results.leaderboard_layout import Leaderboard
from harness.results.store import Stored
from harness.system import hub

__all__ = ["NAME", "build", "read", "sealed", "sources"]

NAME = "leaderboard.json"
MANY = 200
"""Records of which the leaderboard is kept in the cache: it takes seconds to compute."""


def build(
    folder: Path | None, records: Sequence[Stored], *, rank_by: str | None = None
) -> Leaderboard:
    """The leaderboard of records; one that was kept where it is of these very ones.

    That is the one in their results folder or, of many records, in the cache, where it is put.
    Equals `leaderboard.build`, whose errors it raises.
    """
    kept = None if folder is None else read(folder, records, rank_by=rank_by)
    cached = _in_cache(records, rank_by) if len(records) >= MANY else None
    if kept is None and cached is not None:
        kept = _read(cached, records, rank_by)
    if kept is not None:
        kept.pop("rank_by", None)
        kept.pop("records", None)
        kept.pop("sha256", None)
        return kept
    from harness.results import leaderboard

    board = leaderboard.build(
        [stored.data for stored in records],
        read_rows=store.rows_reader(records),
        rank_by=rank_by,
    )
    if cached is not None:
        with suppress(OSError, EnvironmentLack):  # it only saves time
            hub.make_cache(cached.parent)
            store.write_json(cached, sealed(board, records, rank_by=rank_by))
    return board


def _in_cache(records: Sequence[Stored], rank_by: str | None) -> Path:
    """One file for the same cells, so that a changed record replaces its board."""
    cells = store.digest({"cells": sorted(one.id for one in records), "rank_by": rank_by})
    return hub.cache_dir() / "leaderboards" / f"{cells[:16]}.json"


def read(
    folder: Path, records: Sequence[Stored], *, rank_by: str | None = None
) -> Leaderboard | None:
    """The leaderboard in a results folder; None unless it is whole and of these records."""
    return _read(folder / NAME, records, rank_by)


def _read(file: Path, records: Sequence[Stored], rank_by: str | None) -> Leaderboard | None:
    try:
        board = json.loads(file.read_text(encoding="utf-8"))
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
