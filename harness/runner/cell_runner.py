"""Runs one cell in a worker process; retries after an OOM and records a worker that died."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from harness.api.executor import Executor
from harness.data import checks
from harness.errors import CellFailed, PluginFault, UserError
from harness.manager import calling, plugins
from harness.models import trained_artifact
from harness.planning.cell import Cell
from harness.record import Attempt, ErrorSection, Phase, Record, Status, Training, new_record
from harness.results import store
from harness.runner import oom_retry
from harness.system.hardware import available_memory
from harness.system.measure import Meter
from harness.system.workers import interruption
from harness.system.workers.stopping import Stopped
from harness.training import checkpoints
from harness.types import Event

if TYPE_CHECKING:
    from harness.runner.worker import Work

NEARLY_SPENT = 0.8
"""Share of memory in use above which a worker that dies of a signal counts as out of memory.
Libraries that do not check an allocation die of SIGSEGV or SIGBUS; the system sends SIGKILL."""

POSSIBLY_SPENT = 0.4
"""Share above which a crash may come of a lack of memory: one large allocation goes beyond the
limit from there, and what was in use before it is all that is known."""

SILENCE = 600.0
"""Seconds without an event after which that is told, once."""

SECONDS_TO_TELL = 5.0
"""That an executor gets to tell its worker to stop, before its events are closed."""

_SIGNALS = {9: "SIGKILL", 11: "SIGSEGV", 7: "SIGBUS"}

Observer = Callable[[Cell, Event], None]


def run_cell(work: Work, executor: Executor, report: Observer) -> str:
    """Run one cell, one rung lower after each OOM in its training; returns its record's status.

    A training that cannot fit is not tried: the record says `oom` and what would fit. A worker
    whose time, `budget.max_minutes`, is up is stopped, and the record says `error` and how to go
    on. Raises Stopped, and there is no record, where the run is interrupted or the worker was told
    to stop: the next run takes the cell up again.
    """
    if work.never_fits and not (work.reuse or _training(work.cell, work.out)):
        return _record_unfit(work, work.never_fits)
    while True:
        record = _attempt(work, executor, report)
        training = record["training"]
        attempts = training.get("ladder", []) if training else []
        ran_out = record["status"] == "oom" and len(attempts) > len(work.failed)
        cell = work.cell
        rung = _lower(cell, attempts[-1]) if ran_out else None
        if rung is None:
            if record["status"] != "error":  # the next run goes on where this one broke
                checkpoints.clear(work.out, cell.training_id)
            return record["status"]
        report(cell, {"event": "retry", **dataclasses.asdict(rung)})
        work = dataclasses.replace(work, rung=rung, failed=tuple(attempts))


def _lower(cell: Cell, attempt: Attempt) -> oom_retry.Rung | None:
    """The rung below a failed attempt, where the method can train on it."""
    rung = oom_retry.lower(attempt, cell.budget, cell.options)
    if rung is not None and rung.gradient_checkpointing:
        options = plugins().methods.get(cell.method).Options
        try:
            options.model_validate(rung.options(cell.options)).check(cell.budget.precision)
        except UserError:
            return None
    return rung


def _attempt(work: Work, executor: Executor, report: Observer) -> Record:
    """Run one worker and return the record that it wrote, or one that describes its death."""
    cell, out = work.cell, work.out
    log = out / "logs" / f"{cell.id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    file = out / "cells" / f"{cell.id}.json"
    before = file.stat().st_mtime_ns if file.is_file() else None
    end = _End()
    minutes = cell.budget.max_minutes
    with interruption.limited(minutes), job_file(work, log.with_suffix(".job")) as job:
        report(cell, {"event": "started", "log": str(log), "plan": cell.as_record()})
        with end.clock.phase("attempt"):
            try:
                with contextlib.closing(worker_events(executor, job, log)) as events:
                    for event in events:
                        _hear(cell, event, end, log, report)
                        if _must_close(end):
                            break
            except (PluginFault, CellFailed) as fault:
                end.fault = fault
        if file.is_file() and file.stat().st_mtime_ns != before:
            return _with_warnings(out, store.read_record(file), end.silences)
        if interruption.asked():
            raise Stopped
        if minutes is not None and interruption.out_of_time():
            end.limit = minutes
        elif end.stopped:
            raise Stopped
    _record_crash(work, end, log)
    return store.read_record(file)


@contextlib.contextmanager
def job_file(work: Work, job: Path) -> Generator[Path]:
    """The worker's task as a file, in the results folder, which the worker sees wherever it runs.

    One that a killed run left is the next one's.
    """
    store.write_text(job, _as_json(work).decode())
    try:
        yield job
    finally:
        with contextlib.suppress(OSError):
            job.unlink()


def _as_json(work: Work) -> bytes:
    """A task as its worker reads it.

    One thread at a time: Python's parser, by which pydantic finds the docstrings of fields, counts
    its depth for all threads together and fails where two parse at once (3.11).
    """
    from pydantic import TypeAdapter

    with _ONE_PARSES:
        content: bytes = TypeAdapter(type(work)).dump_json(work)
    return content


_ONE_PARSES = threading.Lock()


def _hear(cell: Cell, event: Event, end: _End, log: Path, report: Observer) -> None:
    """Take an event over and pass it on; where none has come for long, report that once."""
    if event["event"] != "idle":
        end.update(event)
        if event["event"] != "stopped":  # whoever ran the cell says so, once
            report(cell, event)
    elif not end.silences and time.monotonic() - end.heard > SILENCE:
        doing = f"in {end.phase} " if end.phase else ""
        end.silences.append(
            f"no sign of life for {SILENCE / 60:g} minutes {doing}(see {log}): nothing is stopped "
            "but by budget.max_minutes"
        )
        report(cell, {"event": "warning", "message": end.silences[-1]})


def _must_close(end: _End) -> bool:
    """Whether to close an executor's events: it has to end, and does not see to it itself."""
    seconds = interruption.wanted_for()
    return seconds is not None and not end.told and seconds > SECONDS_TO_TELL


def _with_warnings(out: Path, record: Record, warnings: list[str]) -> Record:
    """A worker's record, with what this process has to add."""
    if not warnings:
        return record
    added = {**record, "warnings": [*record["warnings"], *warnings]}
    return store.read_record(store.write_record(out, cast("Record", added)))


def worker_events(executor: Executor, job: Path, log: Path) -> Generator[Event]:
    """The events that an executor yields. Raises PluginFault where it fails or yields no event."""
    source = f"executor '{executor.name}'"
    with calling(source):
        reported = iter(executor.run(job, log))
    try:
        while True:
            with calling(source):
                event = next(reported, None)
            if event is None:
                return
            kind = event.get("event") if isinstance(event, Mapping) else None
            if not isinstance(kind, str) or not _EVENTS.get(kind, frozenset()) <= set(event):
                raise PluginFault(f"{source} yielded {repr(event)[:200]}, which is not an event")
            yield event
    finally:
        if isinstance(reported, Generator):
            reported.close()


_EVENTS = {
    "exit": {"code"},
    "phase": {"name"},
    "warning": {"message"},
    "memory": {"spent"},
    "progress": frozenset[str](),
    "stopping": {"seconds"},
}
"""Event -> the keys that this module and the live screen read from it."""


@dataclass
class _End:
    """The last known state of a worker, from its events."""

    clock: Meter = field(default_factory=Meter)
    code: int | None = None
    """Exit code; None where the executor did not report it."""
    phase: str | None = None
    micro_batch: int | None = None
    spent: float = 0.0
    """The largest share of memory that it had in use, from 0 to 1."""
    fault: PluginFault | CellFailed | None = None
    """Why the executor did not run it to its end, if it did not."""
    told: bool = False
    """Whether the executor has told it to go on to its next safe point."""
    stopped: bool = False
    """Whether it ended there."""
    limit: float | None = None
    """The minutes that it had, where they were up."""
    heard: float = field(default_factory=time.monotonic)
    """When its last event came."""
    silences: list[str] = field(default_factory=list)
    """Warnings that no event has come for long."""

    @property
    def kind(self) -> str:
        """The type of the record's error."""
        if self.limit is not None:
            return "TimeLimit"
        return "WorkerDied" if self.fault is None else type(self.fault).__name__

    @property
    def signal(self) -> str | None:
        """The signal that ended it, if it is one that a lack of memory can cause."""
        code = self.code or 0
        return _SIGNALS.get(-code if code < 0 else code - 128)

    @property
    def status(self) -> Literal["oom", "error"]:
        """The status of the record."""
        ran_out = self.limit is None and self.signal and self.spent >= NEARLY_SPENT
        return "oom" if ran_out else "error"

    @property
    def cause(self) -> str:
        """Why it died, as far as known, and how to fix it."""
        share = f"{self.spent:.0%} of its memory in use"
        if self.status == "oom":
            return f"{self.signal} with {share}"
        if self.signal == "SIGKILL":
            return (
                f"it was killed from outside (SIGKILL) with {share}: check what else runs on this "
                "machine and the kernel's log (dmesg), then run again"
            )
        if self.signal:
            maybe = ", possibly out of memory" if self.spent >= POSSIBLY_SPENT else ""
            smaller = "lower budget.micro_batch, or " if maybe else ""
            return (
                f"a library crashed ({self.signal}) with {share}{maybe}: the log has the Python "
                f"stack; {smaller}run again, and if it crashes again reinstall the library at the "
                "top of that stack"
            )
        return "see its log"

    def message(self, cause: str, log: Path) -> str:
        """The record's error message."""
        if self.limit is not None:
            doing = f" in {self.phase}" if self.phase else ""
            return (
                f"stopped{doing} after budget.max_minutes ({self.limit:g}): give it more, as with "
                f"--set budget.max_minutes={2 * self.limit:g}, or leave the limit out; the next "
                f"run goes on from what is finished ({log})"
            )
        if self.fault is not None:
            return str(self.fault)
        if self.code is None:
            return f"the executor ended without the worker's exit code: {cause} ({log})"
        return f"the worker ended with exit code {self.code}: {cause} ({log})"

    def update(self, event: Event) -> None:
        """Take over what an event reports."""
        self.heard = time.monotonic()
        if event["event"] == "exit":
            self.code = event["code"]
        elif event["event"] in ("stopping", "stopped"):
            self.told = True
            self.stopped = event["event"] == "stopped"
        elif event["event"] == "phase":
            self.phase = event["name"]
        elif event["event"] == "memory":
            self.spent = max(self.spent, event["spent"])
        self.micro_batch = event.get("micro_batch", self.micro_batch)


def _record_crash(work: Work, end: _End, log: Path) -> None:
    """A record for a worker that died without writing one."""
    cell, out = work.cell, work.out
    status, cause = end.status, end.cause
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    tail = text.splitlines()[-12:]
    error: ErrorSection = {
        "type": end.kind,
        "message": end.message(cause, log),
        "phase": end.phase,
        "traceback": tail,
    }
    if status == "oom":
        error |= {"available_bytes": available_memory(), "predicted_bytes": work.predicted_bytes}
    store.write_record(
        out,
        new_record(
            id=cell.id,
            status=status,
            plan=cell.as_record(),
            training=_training(cell, out) or _killed_training(work, end, status, cause),
            environment=store.environment(),
            warnings=[*checks.warnings(cell.data), *end.silences],
            error=error,
        ),
    )


def _record_unfit(work: Work, why: str) -> Status:
    """A record for a training that was not begun, as it cannot fit."""
    store.write_record(
        work.out,
        new_record(
            id=work.cell.id,
            status="oom",
            plan=work.cell.as_record(),
            training=None,
            evaluation=None,
            environment=store.environment(),
            warnings=work.warnings,
            error={
                "type": "DoesNotFit",
                "message": why,
                "phase": None,
                "traceback": [],
                "available_bytes": available_memory(),
                "predicted_bytes": work.predicted_bytes,
            },
        ),
    )
    return "oom"


def _killed_training(work: Work, end: _End, status: str, cause: str) -> Training | None:
    """The attempts of an unfinished training, including the one that was killed."""
    cell = work.cell
    if not cell.budget.steps:
        return None
    split = oom_retry.Split(
        end.micro_batch or work.rung.budget(cell.budget).first_micro_batch,
        bool(work.rung.options(cell.options).get("gradient_checkpointing")),
    )
    phases: dict[str, Phase] = {
        name: {"seconds": phase["seconds"]} for name, phase in end.clock.phases.items()
    }
    died = oom_retry.failed_attempt(split, phase=end.phase, error=cause, phases=phases)
    return oom_retry.kept({"phases": {}}, work.failed, died if status == "oom" else None)


def _training(cell: Cell, out: Path) -> Training | None:
    """What the training measured, if the worker died after it."""
    return trained_artifact.training_of(out / "artifacts" / cell.id, cell.training_id)
