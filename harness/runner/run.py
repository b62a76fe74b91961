"""Runs a plan's cells through an executor and keeps the leaderboard beside their records."""

from __future__ import annotations

import sys
from collections.abc import Mapping
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
from harness.results import leaderboard_file, store
from harness.results.leaderboard_layout import Leaderboard
from harness.runner import bracketing, study
from harness.runner.cell_runner import Observer, run_cell
from harness.runner.in_flight import EventsInOrder, flight
from harness.runner.oom_retry import Rung
from harness.runner.places import Places
from harness.runner.tracking import Tracking
from harness.runner.tuning import Tuner, chosen, failure
from harness.system.gpu_check import check_device
from harness.system.hardware import available_memory
from harness.types import Event

if TYPE_CHECKING:
    from harness.runner.worker import Work


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    board: Leaderboard
    ran: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[str, ...]

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
) -> Outcome:
    """Run the cells that have no record yet; a failing one does not stop the others.

    The base runs first, then as many cells at once as there are `places` or, where those are
    None, as the executor's `concurrency`; `observe` and `tracking` are called in this thread only.

    A tuned cell's trials run before it, each once. Their events go to `observe` only, under the
    trial's label; `{"event": "trial", ...}` of the tuned cell has the result of each.

    A cell with an invalid record runs again: the old record is set aside and the new one has a
    warning. The same holds for the base if its answers, which other cells are compared with, are
    missing or changed.

    `batch` is the largest number of sequences that run at once in evaluation; None: what fits.
    Answers in other results folders under `shared` are reused; None: no other folder is read.
    `observe(cell, event)` is called for every event of every cell, `{"event": "skipped"}`,
    `{"event": "started", "plan": ...}` and `{"event": "recorded", "status": ..., "record": ...}`
    among them; `tracking` gets the same.
    """
    recorded, notices = _recorded(plan, out)
    cells = flight(executor, len(places) if places else None)
    tracked = None if tracking is None else EventsInOrder(plan.cells, tracking.event)
    statuses: dict[str, str] = {}

    def report(cell: Cell, event: Event) -> None:
        cells.deliver(observe, cell, event)
        if tracked is not None:
            cells.deliver(tracked.event, cell.id, event)

    def run_trial(trial: Cell, folder: Path, title: str) -> None:
        shown = replace(trial, label=title)
        work = _trial_work(trial, folder, batch)
        run_cell(work, executor, lambda _, event: cells.deliver(observe, shown, event))

    tuner = Tuner(out, run_trial, report)

    def run_one(cell: Cell) -> str:
        if cell.search:
            tuning = tuner.tune(cell)
            if tuning["chosen"] is None:
                failed = failure(cell, tuning, out)
                store.write_record(out, failed)
                return failed["status"]
            cell = chosen(cell, tuning)
        prediction = predict(cell) if cell.data else None
        work = _work(plan, cell, out, batch, shared, prediction)
        if prediction is not None and getattr(executor, "on_this_machine", False):
            work = _fitted(work, prediction)
        noticed = [notices[cell.id]] if cell.id in notices else []
        work = replace(work, warnings=(*work.warnings, *noticed))
        return run_cell(work, executor, report)

    def run_unrecorded(cell: Cell) -> None:
        if cell.id in recorded:
            report(cell, {"event": "skipped"})
            return
        if notice := store.set_aside(out, cell.id) or notices.get(cell.id):
            notices[cell.id] = notice
            report(cell, {"event": "warning", "message": notice})
        with places.one() if places else nullcontext():
            status = run_one(cell)
        kept = store.read_record(out / "cells" / f"{cell.id}.json")
        statuses[cell.id] = status
        report(cell, {"event": "recorded", "status": status, "record": kept})

    for together in _stages(plan):
        cells.run(together, run_unrecorded)
    board = write_leaderboard(plan, out, stale=bool(statuses))
    return _outcome(plan, board, statuses)


def _outcome(plan: Plan, board: Leaderboard, statuses: Mapping[str, str]) -> Outcome:
    in_order = [cell.id for cell in plan.cells]
    return Outcome(
        board,
        ran=tuple(id for id in in_order if id in statuses),
        skipped=tuple(id for id in in_order if id not in statuses),
        failed=tuple(id for id in in_order if statuses.get(id, "ok") != "ok"),
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
    lack = _lost_answers(out, plan.base) if plan.base.id in recorded else None
    if lack is None:
        return recorded, {}
    return recorded - {plan.base.id}, {plan.base.id: lack}


def _lost_answers(out: Path, base: Cell) -> str | None:
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
    files = [out / "cells" / f"{cell.id}.json" for cell in plan.cells]
    records = store.read_records(file for file in files if file.is_file())
    current = leaderboard_file.read(out, records, rank_by=plan.rank_by)
    if current is not None:
        return current
    board = leaderboard_file.build(None, records, rank_by=plan.rank_by)
    sealed = leaderboard_file.sealed(board, records, rank_by=plan.rank_by)
    file = out / leaderboard_file.NAME
    try:
        store.write_json(file, sealed)
    except OSError as error:
        if stale:
            raise UserError(f"{file}: {error.strerror}; make {out} writable") from None
        message = f"Note: {file} is not written ({error.strerror}); the table is right"
        print(message, file=sys.stderr)
    return sealed


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
