"""Runs a plan's cells through an executor and keeps the leaderboard beside their records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import asks, data_checks, memory, record, study
from harness.attempts import Observer, run_cell
from harness.cell import Cell, is_recorded
from harness.errors import CellFailed
from harness.plan import Plan
from harness.roles import Executor
from harness.tracking import Tracking
from harness.tuning import Tuner, chosen, failure

if TYPE_CHECKING:
    from harness.worker import Work


@dataclass(frozen=True)
class Outcome:
    """What a run did."""

    board: dict[str, Any]
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
) -> Outcome:
    """Run the cells that have no record yet; a failing one does not stop the others.

    A tuned cell's trials run before it, each once, and are told to `observe` alone, under a label
    that says so; `{"event": "trial", ...}` of the tuned cell says what came of each.

    `batch` is the most sequences that run at once while a cell is measured; None: what fits.
    `observe(cell, event)` is called for every event of every cell, `{"event": "skipped"}`,
    `{"event": "started", "plan": ...}` and `{"event": "recorded", "status": ..., "record": ...}`
    among them; `tracking` is told the same.
    """
    ran, skipped, failed = [], [], []
    if not all(is_recorded(out, cell) for cell in plan.cells):
        asks.module("lm-eval").check(plan.base.suites)
    if any(cell.search and not is_recorded(out, cell) for cell in plan.cells):
        study.check()

    def tell(cell: Cell, event: Mapping[str, Any]) -> None:
        observe(cell, event)
        if tracking is not None:
            tracking.event(cell.id, event)

    def run_trial(trial: Cell, folder: Path, title: str) -> None:
        shown = replace(trial, label=title)
        work = _trial_work(trial, folder, batch)
        run_cell(work, executor, lambda _, event: observe(shown, event))

    tuner = Tuner(out, run_trial, tell)

    def run_one(cell: Cell) -> str:
        if cell.search:
            found = tuner.tune(cell)
            if found["chosen"] is None:
                failed = failure(cell, found, out)
                record.write_record(out, failed)
                return failed.status
            cell = chosen(cell, found)
        return run_cell(_work(plan, cell, out, batch), executor, tell)

    for cell in plan.cells:
        if is_recorded(out, cell):
            skipped.append(cell.id)
            tell(cell, {"event": "skipped"})
            continue
        status = run_one(cell)
        ran.append(cell.id)
        if status != "ok":
            failed.append(cell.id)
        kept = record.read_record(out / "cells" / f"{cell.id}.json")
        tell(cell, {"event": "recorded", "status": status, "record": kept})
    board = write_leaderboard(plan, out, stale=bool(ran))
    return Outcome(board, tuple(ran), tuple(skipped), tuple(failed))


def write_leaderboard(plan: Plan, out: Path, *, stale: bool) -> dict[str, Any]:
    """The leaderboard of the plan's own cells; built anew where a cell ran."""
    file = out / "leaderboard.json"
    if not stale and file.is_file():
        board: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        same_cells = {c for row in board["rows"] for c in row["cells"]} == {
            c.id for c in plan.cells
        }
        if same_cells and board.get("rank_by") == plan.rank_by:
            return board
    from harness import leaderboard

    files = [out / "cells" / f"{cell.id}.json" for cell in plan.cells]
    stored = record.read_records(file for file in files if file.is_file())
    board = leaderboard.build(
        [s.data for s in stored], read_rows=record.rows_reader(stored), rank_by=plan.rank_by
    )
    board["rank_by"] = plan.rank_by
    record.write_json(file, board)
    return board


def _work(plan: Plan, cell: Cell, out: Path, batch: int | None) -> Work:
    """What the worker is told."""
    from harness.worker import Work

    base = None if cell is plan.base or not is_recorded(out, plan.base) else plan.base.id
    return Work(
        cell,
        out.resolve(),
        base,
        _same_training(cell, out),
        batch,
        warnings=data_checks.warnings(cell.data),
        predicted_bytes=memory.predict(cell).total if cell.data else None,
    )


def _trial_work(trial: Cell, folder: Path, batch: int | None) -> Work:
    """What the worker of a trial is told."""
    from harness.worker import Work

    return Work(trial, folder.resolve(), None, None, batch, trial=True)


def _same_training(cell: Cell, out: Path) -> Path | None:
    """An artifact in `out` of the same training for other suites."""
    for file in sorted((out / "artifacts").glob("*/training.json")):
        if json.loads(file.read_text(encoding="utf-8"))["training_id"] == cell.training_id:
            return file.parent.resolve()
    return None
