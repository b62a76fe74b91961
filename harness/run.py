"""Runs a plan's cells through an executor and keeps the leaderboard beside their records."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import asks, data_checks, ladder, record, study
from harness.errors import CellFailed
from harness.machine import available_memory
from harness.measure import Meter
from harness.plan import Cell, Plan, is_recorded
from harness.roles import Executor
from harness.tracking import Tracking
from harness.tuning import Tuner, chosen, failure
from harness.types import Record

if TYPE_CHECKING:
    from harness.worker import Work

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
        _run_cell(work, executor, lambda _, event: observe(shown, event))

    tuner = Tuner(out, run_trial, tell)

    def run_cell(cell: Cell) -> str:
        if cell.search:
            found = tuner.tune(cell)
            if found["chosen"] is None:
                failed = failure(cell, found, out)
                record.write_record(out, failed)
                return failed.status
            cell = chosen(cell, found)
        return _run_cell(_work(plan, cell, out, batch), executor, tell)

    for cell in plan.cells:
        if is_recorded(out, cell):
            skipped.append(cell.id)
            tell(cell, {"event": "skipped"})
            continue
        status = run_cell(cell)
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


def _run_cell(work: Work, executor: Executor, tell: Observer) -> str:
    """Run one cell, a rung lower after each OOM in its training; the status of its record."""
    while True:
        found = _attempt(work, executor, tell)
        attempts = (found["training"] or {}).get("ladder") or []
        ran_out = found["status"] == "oom" and len(attempts) > len(work.failed)
        cell = work.cell
        rung = ladder.lower(attempts[-1], cell.budget, cell.options) if ran_out else None
        if rung is None:
            return str(found["status"])
        tell(cell, {"event": "retry", **dataclasses.asdict(rung)})
        work = dataclasses.replace(work, rung=rung, failed=tuple(attempts))


def _attempt(work: Work, executor: Executor, tell: Observer) -> dict[str, Any]:
    """Run one worker and return the record that it left, or that tells of its death."""
    from pydantic import TypeAdapter

    cell, out = work.cell, work.out
    log = out / "logs" / f"{cell.id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    file = out / "cells" / f"{cell.id}.json"
    before = file.stat().st_mtime_ns if file.is_file() else None
    end = _End()
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.json"
        job.write_bytes(TypeAdapter(type(work)).dump_json(work))
        tell(cell, {"event": "started", "log": str(log), "plan": cell.as_record()})
        with end.clock.phase("attempt"):
            for event in executor.run(job, log):
                end.see(event)
                tell(cell, event)
    if not file.is_file() or file.stat().st_mtime_ns == before:
        _record_crash(work, end, log)
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


@dataclass
class _End:
    """What a worker was last heard of."""

    clock: Meter = field(default_factory=Meter)
    code: int = 0
    phase: str | None = None
    micro_batch: int | None = None

    def see(self, event: Mapping[str, Any]) -> None:
        """Keep what an event says of these."""
        if event["event"] == "exit":
            self.code = event["code"]
        elif event["event"] == "phase":
            self.phase = event["name"]
        self.micro_batch = event.get("micro_batch", self.micro_batch)


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


def _record_crash(work: Work, end: _End, log: Path) -> None:
    """A record for a worker that died without writing one."""
    cell, out = work.cell, work.out
    status: Any = "oom" if end.code in KILLED else "error"
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
    memory = {"available_bytes": available_memory(), "predicted_bytes": work.predicted_bytes}
    why = "the system killed it, mostly for its memory" if status == "oom" else "see its log"
    record.write_record(
        out,
        Record(
            id=cell.id,
            status=status,
            plan=cell.as_record(),
            training=_training(cell, out) or _killed_training(work, end, status, why),
            environment=record.environment(),
            warnings=data_checks.warnings(cell.data),
            error={
                "type": "WorkerDied",
                "message": f"the worker ended with exit code {end.code}: {why} ({log})",
                "phase": end.phase,
                "traceback": tail,
                **(memory if status == "oom" else {}),
            },
        ),
    )


def _killed_training(work: Work, end: _End, status: str, why: str) -> dict[str, Any] | None:
    """The attempts of a training that was not finished, the killed one among them."""
    cell = work.cell
    if not cell.budget.steps:
        return None
    notes = {
        "micro_batch": end.micro_batch or ladder.first_micro_batch(work.rung.budget(cell.budget)),
        "gradient_checkpointing": bool(
            work.rung.options(cell.options).get("gradient_checkpointing")
        ),
    }
    took = {name: {"seconds": one["seconds"]} for name, one in end.clock.phases.items()}
    died = ladder.failed_attempt(notes, phase=end.phase, error=why, phases=took)
    return ladder.kept({"phases": {}}, work.failed, died if status == "oom" else None)


def _training(cell: Cell, out: Path) -> dict[str, Any] | None:
    """What the training measured, where the worker died after it."""
    file = out / "artifacts" / cell.id / "training.json"
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return kept["training"] if kept.get("training_id") == cell.training_id else None
