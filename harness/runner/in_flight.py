"""Cells in flight: one after another in this thread, or several at once in a thread each."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from harness.api.executor import Executor
from harness.errors import PluginFault
from harness.manager import calling, process_guarded
from harness.planning.cell import Cell
from harness.types import Event

STOP_TIMEOUT = 20
"""Seconds that workers get to end when a run is interrupted."""

Work = Callable[[Cell], None]


class Flight(Protocol):
    """Runs cells, and delivers their events in the thread that called `run`."""

    def run(self, cells: Sequence[Cell], work: Work) -> None:
        """Call `work(cell)` for each cell. Raises what one of them raises."""

    def deliver(self, call: Callable[..., None], *arguments: object) -> None:
        """Have `call(*arguments)` made in the thread of `run`; called while `work` runs."""


def flight(executor: Executor, at_once: int | None = None) -> Flight:
    """Runs `at_once` cells at once; None: the executor's `concurrency`, a whole number from 1.

    Raises PluginFault for any other value of that.
    """
    if at_once is not None:
        return Sequential() if at_once == 1 else Concurrent(at_once)
    source = f"executor '{executor.name}'"
    with calling(source):
        limit = executor.concurrency
    if not isinstance(limit, int) or limit < 1:
        raise PluginFault(f"{source}: concurrency is {limit!r}: make it 1 or more")
    return Sequential() if limit == 1 else Concurrent(limit)


class Sequential:
    """One cell after another, all in this thread."""

    def run(self, cells: Sequence[Cell], work: Work) -> None:
        """Call `work(cell)` for each cell, in order."""
        for cell in cells:
            work(cell)

    def deliver(self, call: Callable[..., None], *arguments: object) -> None:
        """Make the call at once."""
        call(*arguments)


class _Stopped(BaseException):
    """Raised in a cell's thread at its next event when the run ends; its worker is then ended."""


class Concurrent:
    """At most `limit` cells at once, in a thread each.

    Cells of one training are not in flight together, so that the later ones use the artifact of
    the first. When the run is interrupted or a cell raises, no further cell starts, and the
    threads of the others stop at their next event. Such a thread does not outlive this process.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._threads: dict[str, threading.Thread] = {}
        self._trainings: dict[str, str] = {}
        """Cell id -> training id, of those in flight."""

    def deliver(self, call: Callable[..., None], *arguments: object) -> None:
        """Have the call made by `run`, in the order of the deliveries."""
        if self._stopped.is_set():
            raise _Stopped
        self._calls.put(lambda: call(*arguments))

    def run(self, cells: Sequence[Cell], work: Work) -> None:
        """Call `work(cell)` for each cell in a thread; started in order."""
        waiting = list(cells)
        with process_guarded():
            try:
                while waiting or self._threads:
                    self._start(waiting, work)
                    self._calls.get()()
            finally:
                self._stop()

    def _start(self, waiting: list[Cell], work: Work) -> None:
        for cell in list(waiting):
            if len(self._threads) == self._limit:
                return
            if cell.training_id not in self._trainings.values():
                waiting.remove(cell)
                thread = threading.Thread(target=self._work, args=(cell, work), daemon=True)
                self._threads[cell.id] = thread
                self._trainings[cell.id] = cell.training_id
                thread.start()

    def _work(self, cell: Cell, work: Work) -> None:
        failure: BaseException | None = None
        try:
            work(cell)
        except BaseException as error:
            failure = error
        self._calls.put(lambda: self._end(cell, failure))

    def _end(self, cell: Cell, failure: BaseException | None) -> None:
        self._threads.pop(cell.id).join()
        del self._trainings[cell.id]
        if failure is not None:
            raise failure

    def _stop(self) -> None:
        if self._threads:
            self._stopped.set()
        for thread in self._threads.values():
            thread.join(STOP_TIMEOUT)


class EventsInOrder:
    """Reports the events of concurrent cells cell by cell, in the given order.

    Events of the first cell that has not ended are reported live; those of later cells are held
    back until the cells before them have ended.
    """

    def __init__(self, cells: Iterable[Cell], report: Callable[[str, Event], None]) -> None:
        self._kept: dict[str, list[Event]] = {cell.id: [] for cell in cells}
        self._report = report

    def event(self, cell: str, event: Event) -> None:
        """Keep an event, and report those of the cells that are due."""
        self._kept[cell].append(event)
        for first in list(self._kept):
            kept, self._kept[first] = self._kept[first], []
            for due in kept:
                self._report(first, due)
            if not any(due["event"] in _LAST for due in kept):
                return
            del self._kept[first]

    def flush(self) -> None:
        """Report what is held back, of an interrupted run whose first cells did not end."""
        for cell, kept in self._kept.items():
            for due in kept:
                self._report(cell, due)
            kept.clear()


_LAST = ("recorded", "skipped", "stopped")
"""The last event of a cell."""
