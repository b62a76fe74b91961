"""Runs a plan's cells through an executor and keeps the leaderboard beside their records."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api.executor import Executor
from harness.data import checks
from harness.errors import CellFailed, UserError
from harness.evaluation.judging.options import judge_of
from harness.evaluation.judging.rows.opponents import Opponent
from harness.evaluation.served.check import check_up
from harness.evaluation.suite import check_loading
from harness.manager import plugins
from harness.models import trained_artifact
from harness.planning.cell import Cell, is_recorded
from harness.planning.memory import fits
from harness.planning.memory.predict import Prediction, predict
from harness.planning.plan import Plan
from harness.record import Record
from harness.results import leaderboard_file, store
from harness.results.leaderboard_layout import Leaderboard
from harness.results.store import Stored
from harness.runner.cell_runner import Observer, run_cell
from harness.runner.helpers import Helpers
from harness.runner.in_flight import EventsInOrder, flight
from harness.runner.oom_retry import Rung
from harness.runner.places import Places
from harness.runner.sharing import Shared
from harness.runner.tracking import Tracking
from harness.runner.tuning import bracketing, study
from harness.runner.tuning.trials import Tuner, chosen, failure
from harness.system.gpu_check import check_device
from harness.system.hardware import available_memory
from harness.system.locks import FOLDER, Locks
from harness.system.workers import interruption
from harness.system.workers.stopping import Stopped
from harness.types import Event

if TYPE_CHECKING:
    from harness.runner.worker import Work


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    board: Leaderboard
    ran: tuple[str, ...]
    skipped: tuple[str, ...]
    """Recorded already, or by another run meanwhile."""
    failed: tuple[str, ...]
    elsewhere: tuple[str, ...] = ()
    """Those that another run of the folder ran while this one waited."""
    interrupted: bool = False
    """Whether it was told to stop before all were done."""

    @property
    def exit_code(self) -> int:
        """0, or 5 where a cell failed."""
        return CellFailed.exit_code if self.failed else 0


def run_plan(
    plan: Plan,
    out: Path,
    executor: Executor,
    observe: Observer,
    tracking: Tracking | None = None,
    batch: int | None = None,
    shared: Path | None = None,
    places: Places | None = None,
    workers: int = 1,
) -> Outcome:
    """Run the cells that have no record yet; a failing one does not stop the others.

    The base runs first, then as many cells at once as there are `places` or, where those are
    None, as the executor's `concurrency`; `observe` and `tracking` are called in this thread only.

    Other runs may be at work in `out`. What one of them is at is waited for when nothing else is
    left, and its record is taken over, whatever its status.

    A tuned cell's trials run before it, each once. Their events go to `observe` only, under the
    trial's label; `{"event": "trial", ...}` of the tuned cell has the result of each.

    A cell with an invalid record runs again: the old record is set aside and the new one has a
    warning. The same holds for the base if its answers, which other cells are compared with, are
    missing or changed. A cell that was measured when the base had failed is compared with it once
    the base is recorded.

    Where the run is interrupted (`system.workers.interruption`) or a worker was told to stop by
    someone else, no further cell starts. A worker that is told to stop leaves no record.

    Up to `workers` workers share the suites of one cell, where `places` are free or the executor
    decides; the events are those of the cell's own.

    `batch` is the largest number of sequences that run at once in evaluation; None: what fits.
    Answers in other results folders under `shared` are reused; None: no other folder is read.
    `observe(cell, event)` is called for every event of every cell, `{"event": "skipped"}`,
    `{"event": "waiting", "holder": ...}`, `{"event": "started", "plan": ...}` and
    `{"event": "recorded", "status": ..., "record": ...}` among them; `tracking` gets the same.
    """
    return _Run(plan, out, executor, observe, tracking, batch, shared, places, workers).outcome()


class _Run:
    """One run of a plan, which other runs of the same folder may be beside."""

    def __init__(
        self,
        plan: Plan,
        out: Path,
        executor: Executor,
        observe: Observer,
        tracking: Tracking | None,
        batch: int | None,
        shared: Path | None,
        places: Places | None,
        workers: int,
    ) -> None:
        self.workers = workers
        self.plan, self.out, self.executor = plan, out, executor
        self.batch, self.shared, self.places = batch, shared, places
        self._observe = observe
        self._tracked = None if tracking is None else EventsInOrder(plan.cells, tracking.event)
        self._folder = Shared(out, plan.cells)
        self._recorded, self._notices = _recorded(plan, out)
        self._cells = flight(executor, len(places) if places else None)
        self._tuner = Tuner(out, self._run_trial, self._report)
        self._stopped = False
        """Whether a worker has ended because it was told to, by this process or by another."""
        self._ran: dict[str, str] = {}
        """Cell id -> the status of its record, of those that ran here."""
        self._elsewhere: dict[str, str] = {}
        """The same of those that other runs have recorded meanwhile."""

    def outcome(self) -> Outcome:
        """Run what has no record yet, and write the leaderboard."""
        for together in _stages(self.plan):
            self._folder.run(self._cells, together, self._take, self._report, self._is_ending)
        if self._tracked is not None:
            self._tracked.flush()
        statuses = {**self._elsewhere, **self._ran}
        board = write_leaderboard(self.plan, self.out, stale=bool(statuses))
        in_order = [cell.id for cell in self.plan.cells]
        return Outcome(
            board,
            ran=tuple(id for id in in_order if id in self._ran),
            skipped=tuple(id for id in in_order if id not in self._ran),
            failed=tuple(id for id in in_order if statuses.get(id, "ok") != "ok"),
            elsewhere=tuple(id for id in in_order if id in self._elsewhere),
            interrupted=self._is_ending() and self._done() != set(in_order),
        )

    def _is_ending(self) -> bool:
        """Whether no further cell may start."""
        return self._stopped or interruption.asked()

    def _done(self) -> set[str]:
        return {*self._recorded, *self._elsewhere, *self._ran}

    def _report(self, cell: Cell, event: Event) -> None:
        self._cells.deliver(self._observe, cell, event)
        if self._tracked is not None:
            self._cells.deliver(self._tracked.event, cell.id, event)

    def _take(self, cell: Cell) -> None:
        """Run a cell that has no record. Raises Taken where another run is at it."""
        if cell.id in self._recorded:
            base = self.plan.base
            file = self.out / "cells" / f"{cell.id}.json"
            if not (is_recorded(self.out, base) and lacks_base(store.read_record(file), base)):
                self._report(cell, {"event": "skipped"})
                return
            self._notices[cell.id] = "compared with the base later: it had failed when this ran"
        if self._is_ending():
            return
        with self._folder.held(cell):
            found = self._folder.recorded_meanwhile(cell)
            if found is None:
                try:
                    self._run_held(cell)
                except Stopped:
                    self._stopped = True
                    self._report(cell, {"event": "stopped"})
            else:
                self._elsewhere[cell.id] = found["status"]
                self._report(cell, {"event": "skipped"})

    def _run_held(self, cell: Cell) -> None:
        if notice := store.set_aside(self.out, cell.id) or self._notices.get(cell.id):
            self._notices[cell.id] = notice
            self._report(cell, {"event": "warning", "message": notice})
        with self.places.one() if self.places else nullcontext():
            status = self._run_one(cell)
        kept = store.read_record(self.out / "cells" / f"{cell.id}.json")
        self._ran[cell.id] = status
        self._report(cell, {"event": "recorded", "status": status, "record": kept})

    def _run_one(self, cell: Cell) -> str:
        if cell.search:
            tuning = self._tuner.tune(cell)
            if tuning["chosen"] is None:
                failed = failure(cell, tuning, self.out)
                store.write_record(self.out, failed)
                return failed["status"]
            cell = chosen(cell, tuning)
        prediction = predict(cell) if cell.data else None
        work = _work(self.plan, cell, self.out, self.batch, self.shared, prediction)
        if prediction is not None and getattr(self.executor, "on_this_machine", False):
            work = _fitted(work, prediction)
        noticed = [self._notices[cell.id]] if cell.id in self._notices else []
        work = replace(work, warnings=(*work.warnings, *noticed))
        if self.workers == 1:
            return run_cell(work, self.executor, self._report)
        with Helpers(work, self.executor, self.places, self.workers - 1) as helpers:
            return run_cell(helpers.work, self.executor, helpers.heard(self._report))

    def _run_trial(self, trial: Cell, folder: Path, title: str) -> None:
        shown = replace(trial, label=title)
        work = _trial_work(trial, folder, self.batch)
        run_cell(
            work,
            self.executor,
            lambda _, event: self._cells.deliver(self._observe, shown, event),
        )


def _stages(plan: Plan) -> list[list[Cell]]:
    """What may run at once: the base, each cell that others are compared with, then the rest."""
    waited_for = [cell for cell in plan.cells if cell.id in plan.waited_for]
    before = [plan.base, *waited_for]
    return [*([cell] for cell in before), [cell for cell in plan.cells if cell not in before]]


def _recorded(plan: Plan, out: Path) -> tuple[set[str], dict[str, str]]:
    """Ids of the cells that need not run, and why a recorded cell must run again.

    Raises UserError if a library is missing that the remaining cells need, or if torch cannot use
    the GPU that they were planned for.
    """
    recorded = {cell.id for cell in plan.cells if is_recorded(out, cell)}
    left = [cell for cell in plan.cells if cell.id not in recorded]
    if any(cell.search for cell in left):
        study.check()
    if not left:
        return recorded, {}
    check_device()
    check_up(cell.served for cell in left if cell.served)
    check_loading(plan.suites, plugins())
    lack = lost_answers(out, plan.base) if plan.base.id in recorded else None
    if lack is None:
        return recorded, {}
    return recorded - {plan.base.id}, {plan.base.id: lack}


def lacks_base(record: Record, base: Cell) -> bool:
    """Whether a recorded cell was measured when the base had failed.

    Once that is recorded it runs again, by its artifact and its answers, which are there.
    """
    evaluation = record["evaluation"]
    return record["id"] != base.id and evaluation is not None and evaluation["base"] is None


def lost_answers(out: Path, base: Cell) -> str | None:
    """Why the recorded answers of the base are unusable; None if they are usable."""
    record = store.read_record(out / "cells" / f"{base.id}.json")
    try:
        for suite in store.suites(record):
            store.read_samples(out, record, suite)
    except UserError as error:
        problem = str(error).partition(";")[0].replace(f"{out}/", "")
        return f"the base is evaluated again: {problem}"
    return None


def write_leaderboard(plan: Plan, out: Path, *, stale: bool) -> Leaderboard:
    """The leaderboard of the plan's own cells, rebuilt unless it is of exactly these records.

    If nothing ran and it cannot be written, as in a read-only folder, it is still returned, with
    a warning on standard error.
    """
    found = _records(plan, out)
    if not found:  # interrupted before there was one
        return leaderboard_file.build(None, [])
    current = leaderboard_file.read(out, found, rank_by=plan.rank_by)
    if current is not None:
        return current
    file = out / leaderboard_file.NAME
    try:
        # read and written in one, so that of several runs the last one's holds what all recorded
        with Locks(out / FOLDER).waited_for("leaderboard", SECONDS_TO_WRITE):
            sealed = _board(plan, _records(plan, out))
            store.write_json(file, sealed)
            return sealed
    except OSError as error:
        if stale:
            raise UserError(
                f"{file}: {error.strerror}: free some space or make {out} writable, and run again; "
                "what is recorded is kept"
            ) from None
        message = f"Note: {file} is not written ({error.strerror}); the table is right"
        print(message, file=sys.stderr)
    return _board(plan, found)


SECONDS_TO_WRITE = 60
"""That another run may take to write the leaderboard before this one does not wait for it."""


def _records(plan: Plan, out: Path) -> list[Stored]:
    files = [out / "cells" / f"{cell.id}.json" for cell in plan.cells]
    return store.read_records(file for file in files if file.is_file())


def _board(plan: Plan, records: Sequence[Stored]) -> Leaderboard:
    board = leaderboard_file.build(None, records, rank_by=plan.rank_by)
    return leaderboard_file.sealed(board, records, rank_by=plan.rank_by)


def _work(
    plan: Plan,
    cell: Cell,
    out: Path,
    batch: int | None,
    shared: Path | None,
    prediction: Prediction | None,
) -> Work:
    """The task of a cell's worker."""
    from harness.runner.worker import Work

    base = None if cell is plan.base or not is_recorded(out, plan.base) else plan.base.id
    edges = bracketing.findings(cell.search, cell.tuned) if cell.search and cell.tuned else []
    return Work(
        cell,
        out.resolve(),
        base,
        _same_training(cell, out),
        batch,
        warnings=(*checks.warnings(cell.data), *map(str, edges), *cell.left_out),
        predicted_bytes=prediction.total if prediction else None,
        opponents=_opponents(plan, cell, out),
        shared=shared.resolve() if shared else None,
    )


def _opponents(plan: Plan, cell: Cell, out: Path) -> dict[str, Opponent]:
    """Suite -> the cell in `out` whose answers a judge compares with, where it has stored them."""
    found = {}
    for suite in cell.suites:
        judge = judge_of(suite, plugins())
        if judge is None or not (judge.asks_base or suite.judge_row):
            continue
        other = plan.base
        if suite.judge_row is not None:
            other = next(one for one in plan.cells if one.label == suite.judge_row)
        if other.id == cell.id:
            found[suite.name] = Opponent(str(out.resolve()), cell.id, own=True)
            continue
        record = store.stored(out, other.id)
        section = store.suites(record).get(suite.name) if record else None
        if section is not None and section["hash"] == suite.hash:
            found[suite.name] = Opponent(str(out.resolve()), other.id)
    return found


def _fitted(work: Work, prediction: Prediction) -> Work:
    """The task with what a prediction of memory says of this machine: where to begin, or not to."""
    cell, batch, memory = work.cell, work.cell.budget.batch, available_memory()
    if lack := fits.never(prediction, batch, memory):
        return replace(work, never_fits=lack)
    rows = fits.first_rows(cell, prediction, memory)
    if rows is None or rows == batch or cell.budget.on_oom == "stop":
        return work
    note = f"training began with micro_batch {rows}: {batch} rows at once are predicted not to fit"
    return replace(work, rung=Rung(rows), warnings=(*work.warnings, note))


def _trial_work(trial: Cell, folder: Path, batch: int | None) -> Work:
    """The task of a trial's worker."""
    from harness.runner.worker import Work

    return Work(trial, folder.resolve(), None, None, batch, trial=True)


def _same_training(cell: Cell, out: Path) -> Path | None:
    """An artifact in `out` of the same training, made for another cell; unchecked."""
    places = trained_artifact.with_training(out, cell.training_id)
    return next((place.resolve() for place in places if place.name != cell.id), None)
