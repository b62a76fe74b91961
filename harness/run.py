"""Runs a plan's cells through an executor and keeps the leaderboard beside their records."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import asks, record, study
from harness.errors import CellFailed
from harness.plan import Cell, Plan, is_recorded
from harness.roles import Executor, Tracker
from harness.tuning import Tuner, chosen, failure
from harness.types import Record

KILLED = (-9, 137)
"""Exit codes of a process that the system killed, which on Linux is mostly for its memory."""

Observer = Callable[[Cell, Mapping[str, Any]], None]


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
    trackers: Sequence[Tracker] = (),
    batch: int | None = None,
) -> Outcome:
    """Run the cells that have no record yet; a failing one does not stop the others.

    A tuned cell's trials run before it, each once, and are told to `observe` alone, under a label
    that says so; `{"event": "trial", ...}` of the tuned cell says what came of each.

    `batch` is the most sequences that run at once while a cell is measured; None: what fits.
    `observe(cell, event)` is called for every event of every cell, `{"event": "skipped"}` and
    `{"event": "recorded", "status": ...}` among them.
    """
    ran, skipped, failed = [], [], []
    if not all(is_recorded(out, cell) for cell in plan.cells):
        asks.module("lm-eval").check(plan.base.suites)
    if any(cell.search and not is_recorded(out, cell) for cell in plan.cells):
        study.check()

    def tell(cell: Cell, event: Mapping[str, Any]) -> None:
        observe(cell, event)
        for tracker in trackers:
            tracker.event(cell.id, event)

    def run_trial(trial: Cell, folder: Path, title: str) -> None:
        shown = replace(trial, label=title)
        work = _trial_job(trial, folder, batch)
        _run_cell(trial, work, folder, executor, lambda _, event: observe(shown, event))

    tuner = Tuner(out, run_trial, tell)

    def run_cell(cell: Cell) -> str:
        if cell.search:
            found = tuner.tune(cell)
            if found["chosen"] is None:
                failed = failure(cell, found, out)
                record.write_record(out, failed)
                return failed.status
            cell = chosen(cell, found)
        return _run_cell(cell, _job(plan, cell, out, batch), out, executor, tell)

    for cell in plan.cells:
        if is_recorded(out, cell):
            skipped.append(cell.id)
            tell(cell, {"event": "skipped"})
            continue
        status = run_cell(cell)
        ran.append(cell.id)
        if status != "ok":
            failed.append(cell.id)
        tell(cell, {"event": "recorded", "status": status})
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


def _run_cell(cell: Cell, work: bytes, out: Path, executor: Executor, tell: Observer) -> str:
    """Run one cell and return the status of the record that it left."""
    log = out / "logs" / f"{cell.id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    file = out / "cells" / f"{cell.id}.json"
    before = file.stat().st_mtime_ns if file.is_file() else None
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.json"
        job.write_bytes(work)
        tell(cell, {"event": "started", "log": str(log)})
        for event in executor.run(job, log):
            code = event["code"] if event["event"] == "exit" else code
            tell(cell, event)
    if file.is_file() and file.stat().st_mtime_ns != before:
        return str(json.loads(file.read_text(encoding="utf-8"))["status"])
    return _record_crash(cell, out, code, log)


def _job(plan: Plan, cell: Cell, out: Path, batch: int | None) -> bytes:
    """What the worker is told, as JSON."""
    from pydantic import TypeAdapter

    from harness.worker import Work

    base = None if cell is plan.base or not is_recorded(out, plan.base) else plan.base.id
    work = Work(cell, out.resolve(), base, _same_training(cell, out), batch)
    return TypeAdapter(Work).dump_json(work)


def _trial_job(trial: Cell, folder: Path, batch: int | None) -> bytes:
    """What the worker of a trial is told."""
    from pydantic import TypeAdapter

    from harness.worker import Work

    return TypeAdapter(Work).dump_json(Work(trial, folder.resolve(), None, None, batch, True))


def _same_training(cell: Cell, out: Path) -> Path | None:
    """An artifact in `out` of the same training for other suites."""
    for file in sorted((out / "artifacts").glob("*/training.json")):
        if json.loads(file.read_text(encoding="utf-8"))["training_id"] == cell.training_id:
            return file.parent.resolve()
    return None


def _record_crash(cell: Cell, out: Path, code: int, log: Path) -> str:
    """A record for a worker that died without writing one."""
    status: Any = "oom" if code in KILLED else "error"
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
    why = "the system killed it, mostly for its memory" if status == "oom" else "see its log"
    record.write_record(
        out,
        Record(
            id=cell.id,
            status=status,
            plan=cell.as_record(),
            training=_training(cell, out),
            environment=record.environment(),
            error={
                "type": "WorkerDied",
                "message": f"the worker ended with exit code {code}: {why} ({log})",
                "phase": None,
                "traceback": tail,
            },
        ),
    )
    return str(status)


def _training(cell: Cell, out: Path) -> dict[str, Any] | None:
    """What the training measured, where the worker died after it."""
    file = out / "artifacts" / cell.id / "training.json"
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return kept["training"] if kept.get("training_id") == cell.training_id else None
