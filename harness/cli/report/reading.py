"""Reads whatever can be read of results folders, and says why the rest cannot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UserError
from harness.results import leaderboard_file, store
from harness.results.leaderboard_layout import Leaderboard
from harness.results.store import Rows, Stored, suites

__all__ = ["Results", "nothing", "read", "unfinished"]


@dataclass(frozen=True)
class Results:
    """The records that can be shown, their leaderboard, and what is left out."""

    stored: Sequence[Stored]
    board: Leaderboard
    samples: Mapping[tuple[str, str], Rows]
    """(cell, suite) -> rows, of the sample files that can be read."""
    unread: Sequence[str] = ()
    """A sentence for each file that is not shown, and for each whose samples are not."""
    unfinished: Sequence[str] = ()
    """A sentence for each cell that has finished suites and no record yet."""


def read(folders: Sequence[Path], rank_by: str | None = None) -> Results:
    """The results of some folders.

    A record that is broken or of another layout is named in `unread`; so is one whose samples
    cannot be read, which is left out where its row's figures need them. Raises UserError where a
    folder has no records, none can be read or one cell has two, and for an unknown `rank_by`.
    """
    kept, unread = store.read_usable(folders)
    samples: dict[tuple[str, str], Rows] = {}
    without = {one.id: why for one in kept if (why := _read_samples(one, samples))}
    one_folder = folders[0] if len(folders) == 1 else None
    try:
        board = leaderboard_file.build(one_folder, kept, rank_by=rank_by)
        ends = "its figures are shown, these answers are not"
    except UserError:
        if not without:
            raise
        kept = [each for each in kept if each.id not in without]
        if not kept:
            raise UserError(f"no record has its samples: {'; '.join(without.values())}") from None
        board = leaderboard_file.build(None, kept, rank_by=rank_by)
        ends = "ranks need them: the record is left out"
    unread += [f"{why}; {ends}" for why in without.values()]
    return Results(kept, board, samples, unread, unfinished(folders))


def _read_samples(one: Stored, samples: dict[tuple[str, str], Rows]) -> str | None:
    """Read the samples of a record's suites; why the first of them cannot be, or None."""
    problem = None
    for suite in suites(one.data):
        try:
            samples[one.id, suite] = store.read_samples(one.folder, one.data, suite)
        except UserError as error:
            problem = problem or str(error)
        except (OSError, ValueError, EOFError) as error:
            why = f"the samples of '{suite}' are broken ({type(error).__name__})"
            problem = problem or f"cell {one.id}: {why}"
    return problem


def nothing(reason: str, folders: Sequence[Path]) -> Results:
    """The results of folders that have no record yet."""
    board: Leaderboard = {"schema": 1, "ranked_by": None, "rows": [], "incomparable": []}
    return Results([], board, {}, [reason], unfinished(folders))


def unfinished(folders: Iterable[Path]) -> list[str]:
    """A sentence for each cell that is under way, or that broke off: it has a log, or samples."""
    found = []
    for folder in folders:
        begun = {file.stem for file in (folder / "logs").glob("*.log")}
        begun |= {place.name for place in (folder / "samples").glob("*/")}
        for cell in sorted(begun):
            if not (folder / "cells" / f"{cell}.json").exists():
                done = sorted(file.stem for file in (folder / "samples" / cell).glob("*.json"))
                suites_done = ", ".join(done) or "none"
                found.append(f"{cell}: no record yet; finished suites: {suites_done}")
    return found
