"""The child process of one cell: train, save, reopen, evaluate, record.

`python -m harness.worker JOB.json` reports events as JSON lines on its standard output; what
libraries print goes to standard error. Whatever goes wrong becomes the record's status.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import record, summary
from harness.errors import CellFailed
from harness.evaluate import SuiteFailure, evaluate
from harness.manager import plugins
from harness.measure import Meter
from harness.plan import Cell
from harness.training_data import training_rows
from harness.types import Artifact, Job, Record, Status, SuiteResult

TRAINING_FILE = "training.json"
"""Beside an artifact: what its training measured, so that it is never trained twice."""


@dataclass
class Work:
    """What a worker is told: one cell, and what is there already."""

    cell: Cell
    out: Path
    base: str | None
    """Id of the base's record, to compare with; None for the base itself."""
    reuse: Path | None = None
    """An artifact of the same training, made for another cell."""


@dataclass
class _Running:
    """The state of the cell as it grows into a record."""

    work: Work
    emit: Any
    training: Meter = field(default_factory=Meter)
    evaluation: Meter = field(default_factory=Meter)
    notes: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    suites: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    status: Status = "ok"

    def fail(self, error: BaseException, phase: str | None) -> None:
        """Remember what broke; the first status stands."""
        if self.status == "ok":
            self.status = status_of(error)
            self.error = {
                "type": type(error).__name__,
                "message": str(error) or type(error).__name__,
                "phase": phase,
                "traceback": traceback.format_exception(error)[-8:],
            }
        traceback.print_exception(error)


def main(arguments: list[str]) -> int:
    """Run the cell of a job file. Returns 0 when its record says ok, else 5."""
    emit = _event_stream()
    from pydantic import TypeAdapter

    work = TypeAdapter(Work).validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
    _one_gpu()
    _quiet_libraries()
    running = _Running(work, emit)
    artifact = _train(running)
    if artifact is not None:
        _free_memory()
        _evaluate(running, artifact)
    record.write_record(work.out, _record(running))
    return 0 if running.status == "ok" else CellFailed.exit_code


def _free_memory() -> None:
    """What training still holds would count as evaluation's."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def status_of(error: BaseException) -> Status:
    """The record's status for an exception."""
    if isinstance(error, CellFailed):
        return error.status  # type: ignore[return-value]
    memory = ("out of memory", "not enough memory", "can't allocate memory", "Cannot allocate")
    if isinstance(error, MemoryError) or any(text in str(error) for text in memory):
        return "oom"
    return "error"


def _train(running: _Running) -> Artifact | None:
    """The cell's artifact: found, or trained now; None where that failed."""
    work = running.work
    folder = work.out / "artifacts" / work.cell.id
    try:
        artifact = _found(running, folder)
        if artifact is None:
            artifact = _train_now(running, folder)
        return artifact
    except Exception as error:
        running.fail(error, running.training.failed)
        return None


def _found(running: _Running, folder: Path) -> Artifact | None:
    """An artifact of this very training, left by an earlier run or by another cell."""
    work = running.work
    for place in (folder, work.reuse):
        file = place / TRAINING_FILE if place else None
        if place is None or file is None or not file.is_file():
            continue
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["training_id"] != work.cell.training_id:
            continue
        if place != folder:
            shutil.copytree(place, folder, copy_function=_link, dirs_exist_ok=True)
        running.trained = kept["training"]
        running.warnings += kept["warnings"]
        return _artifact(kept["artifact"], folder)
    return None


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _train_now(running: _Running, folder: Path) -> Artifact:
    cell = running.work.cell
    method = plugins().methods.get(cell.method)
    if method.trains:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    artifact: Artifact = method.train(_job(running, method, folder))
    if not method.trains:
        return artifact
    running.trained = {"phases": running.training.phases, **running.notes}
    record.write_json(
        folder / TRAINING_FILE,
        {
            "training_id": cell.training_id,
            "training": running.trained,
            "warnings": running.warnings,
            "artifact": dataclasses.asdict(artifact),
        },
    )
    return artifact


def _artifact(kept: Mapping[str, Any], folder: Path) -> Artifact:
    from pydantic import TypeAdapter

    return TypeAdapter(Artifact).validate_python({**kept, "path": str(folder)})


def _job(running: _Running, method: Any, folder: Path) -> Job:
    from harness.data import training_order

    cell = running.work.cell
    train, validation = training_rows(cell.data) if cell.data else ([], [])
    draws = cell.budget.steps * cell.budget.batch
    order = training_order(len(train), draws, cell.seed) if train else []
    _warn_of_leaks(running, train)
    return Job(
        model=cell.model,
        options=method.Options.model_validate(cell.options),
        budget=cell.budget,
        seed=cell.seed,
        train=[train[i] for i in order],
        validation=validation,
        folder=folder,
        chat_template=cell.chat_template,
        loss=cell.data.loss if cell.data else "assistant",
        phase=_phases(running, running.training),
        report=lambda **event: running.emit(event="progress", **event),
        notes=running.notes,
        warn=running.warnings.append,
    )


def _warn_of_leaks(running: _Running, train: Any) -> None:
    """Training rows that a suite asks for, so that its scores would flatter."""
    from harness.overlap import overlaps
    from harness.suite import samples_of

    for suite in running.work.cell.suites if train else ():
        if suite["ask"] not in {"generate", "choice"}:
            continue
        found = overlaps(train, samples_of(suite))
        if found:
            first = found[0]
            running.warnings.append(
                f"suite '{suite.name}': {len({o.sample_id for o in found})} samples overlap with "
                f"training rows (first: sample {first.sample_id}, training row {first.row_id}, "
                f"{first.kind})"
            )


def _evaluate(running: _Running, artifact: Artifact) -> None:
    work = running.work
    meter = running.evaluation
    try:
        results = evaluate(
            artifact,
            work.cell.suites,
            _phases(running, meter),
            lambda **event: running.emit(event="progress", **event),
        )
    except Exception as error:
        running.fail(error, meter.failed)
        return
    for suite in work.cell.suites:
        result = results[suite.name]
        if isinstance(result, SuiteFailure):
            running.fail(result.error, suite.name)
            continue
        try:
            running.suites[suite.name] = _summarised(running, suite, result)
        except Exception as error:
            running.fail(error, suite.name)


def _summarised(running: _Running, suite: Any, result: SuiteResult) -> dict[str, Any]:
    """Write the sample file; the record's section of one suite."""
    work = running.work
    samples = record.write_samples(work.out, work.cell.id, suite.name, result.rows)
    running.warnings += result.warnings
    return {
        "hash": suite.hash,
        "version": suite["version"],
        "metrics": summary.summarise(result.metrics, result.rows, _base_rows(running, suite)),
        "samples": samples,
        "notes": dict(result.notes),
    }


def _base_rows(running: _Running, suite: Any) -> list[dict[str, Any]] | None:
    """The base's rows of the same suite, where the base measured the same content."""
    work = running.work
    if work.base is None:
        return None
    base = record.read_record(work.out / "cells" / f"{work.base}.json")
    theirs = ((base["evaluation"] or {}).get("suites") or {}).get(suite.name)
    if theirs is None or theirs["hash"] != suite.hash:
        running.warnings.append(f"suite '{suite.name}': the base has no result to compare with")
        return None
    return record.read_samples(work.out, base, suite.name)


def _record(running: _Running) -> Record:
    cell = running.work.cell
    training = running.trained
    if training is None and running.training.phases:
        training = {"phases": running.training.phases, **running.notes}
    evaluation = None
    if running.evaluation.phases:
        evaluation = {
            "phases": running.evaluation.phases,
            "suites": running.suites,
            "base": running.work.base,
        }
    return Record(
        id=cell.id,
        status=running.status,
        plan=cell.as_record(),
        training=training,
        evaluation=evaluation,
        environment=record.environment(),
        warnings=running.warnings,
        error=running.error,
    )


def _phases(running: _Running, meter: Meter) -> Any:
    """The meter's phases, told to the parent as they start."""

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        running.emit(event="phase", name=name)
        with meter.phase(name):
            yield

    return phase


def _event_stream() -> Any:
    """Keep standard output for events; whatever else is printed goes to standard error."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def emit(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")

    return emit


def _one_gpu() -> None:
    """The first visible GPU only: Trainer would spread over several and multiply the batch."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[0]


def _quiet_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "warning")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
