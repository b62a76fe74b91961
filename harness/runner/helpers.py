"""Workers that help with the suites of a cell: they compute blocks which its own worker records.

A helper is a job as any other, in a place that no cell takes. It is lost without harm: what it did
not finish the cell's worker computes itself.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from harness.api.executor import Executor
from harness.errors import HarnessError
from harness.evaluation.blocks import kept_answers
from harness.evaluation.blocks.kept_answers import Sharing
from harness.planning.cell import Cell
from harness.results import store
from harness.runner.cell_runner import Observer, job_file, worker_events
from harness.runner.places import Places
from harness.system.workers.stopping import Stopped
from harness.types import Event

if TYPE_CHECKING:
    from harness.runner.worker import Work

__all__ = ["Helpers"]


class Helpers:
    """Up to so many workers beside a cell's own, from the moment that it evaluates to its end."""

    def __init__(self, work: Work, executor: Executor, places: Places | None, count: int) -> None:
        self.work = replace(work, sharing=uuid.uuid4().hex)
        """The cell's own task, which others may help with."""
        self._executor, self._places, self._count = executor, places, count
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Helpers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the helpers after the block that they are at, and remove what they kept too late."""
        self._over.set()
        assert self.work.sharing is not None
        Sharing(self.work.out, self.work.sharing).end()
        if kind is not None:
            return  # an interrupted run waits for no helper; its parent's end ends it
        for thread in self._threads:
            thread.join()
        record = store.stored(self.work.out, self.work.cell.id)
        evaluation = record["evaluation"] if record and record["status"] == "ok" else None
        if evaluation is not None and "artifact_hash" in evaluation:
            kept_answers.clear(self.work.out, evaluation["artifact_hash"])

    def heard(self, report: Observer) -> Observer:
        """Hands events on, and starts the helpers when the cell's worker can be helped."""

        def observe(cell: Cell, event: Event) -> None:
            if event["event"] == "shared" and not self._threads:
                self._start(tuple(event["suites"]))
            report(cell, event)

        return observe

    def _start(self, suites: tuple[str, ...]) -> None:
        for number in range(1, self._count + 1):
            thread = threading.Thread(target=self._help, args=(number, suites), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _help(self, number: int, suites: tuple[str, ...]) -> None:
        log = self.work.out / "logs" / f"{self.work.cell.id}-helper-{number}.log"
        work = replace(self.work, helps_with=suites, warnings=(), failed=())
        with self._place() as there, contextlib.suppress(HarnessError, Stopped, OSError):
            if there:
                self._run(work, log)

    def _run(self, work: Work, log: Path) -> None:
        with (
            job_file(work, log.with_suffix(".job")) as job,
            contextlib.closing(worker_events(self._executor, job, log)) as events,
        ):
            for _ in events:
                pass

    @contextmanager
    def _place(self) -> Iterator[bool]:
        if self._places is None:
            yield not self._over.is_set()
            return
        with self._places.spare(self._over) as there:
            yield there
