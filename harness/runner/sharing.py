"""Cells of a folder that several runs share: each takes those that no other run is at.

What another run is at is waited for once there is nothing else left, and then taken over from its
record, or run here where that run died without one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.planning.cell import Cell
from harness.record import Record
from harness.results import store
from harness.runner.cell_runner import Observer
from harness.runner.in_flight import Flight
from harness.system.locks import FOLDER, Locks, Taken

__all__ = ["POLL", "Shared"]

POLL = 1.0
"""Seconds between two looks at whether another run has let go of a cell."""


class Shared:
    """A results folder as this run found it, and what it holds of it."""

    def __init__(self, out: Path, cells: Iterable[Cell]) -> None:
        self._out = out
        self._found = {cell.id: self._state(cell.id) for cell in cells}
        self.locks = Locks(out / FOLDER)

    @contextmanager
    def held(self, cell: Cell) -> Iterator[None]:
        """Hold a cell and all that share its training, which the second of them uses again.

        Raises Taken where another run is at one of them.
        """
        with self.locks.held(cell.training_id[:32]):
            yield

    def recorded_meanwhile(self, cell: Cell) -> Record | None:
        """The record that another run has written of a cell since this one began, if it has."""
        if self._state(cell.id) == self._found[cell.id]:
            return None
        return store.stored(self._out, cell.id)

    def run(
        self,
        flight: Flight,
        cells: Sequence[Cell],
        take: Callable[[Cell], None],
        report: Observer,
        is_ending: Callable[[], bool],
    ) -> None:
        """Call `take(cell)` for each cell, and again later for those where it raises Taken.

        Nothing more is waited for where `is_ending()`.

        `report(cell, {"event": "waiting", "holder": ...})` says in words whose end is waited for.
        """
        told: dict[str, str] = {}
        waiting = list(cells)
        while waiting and not is_ending():
            taken: dict[str, str] = {}

            def attempt(cell: Cell, taken: dict[str, str] = taken) -> None:
                try:
                    take(cell)
                except Taken as other:
                    taken[cell.id] = other.holder

            flight.run(waiting, attempt)
            waiting = [cell for cell in waiting if cell.id in taken]
            for cell in waiting:
                if told.get(cell.id) != taken[cell.id]:
                    told[cell.id] = taken[cell.id]
                    report(cell, {"event": "waiting", "holder": taken[cell.id]})
            if waiting:
                time.sleep(POLL)

    def _state(self, cell_id: str) -> tuple[int, ...] | None:
        """What tells one record file of a cell from the next; None where there is none."""
        try:
            facts = (self._out / "cells" / f"{cell_id}.json").stat()
        except OSError:
            return None
        return facts.st_ino, facts.st_size, facts.st_mtime_ns
