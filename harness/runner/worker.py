"""The child process of one cell: train, save, reopen, evaluate, record.

`python -m harness.runner.worker JOB.json` reports events as JSON lines on its standard output; what
libraries print goes to standard error. Whatever goes wrong becomes the record's status.
"""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

from harness.api.task import Suite
from harness.data.mix import Drawn
from harness.data.training_set import drawn_rows, training_rows
from harness.errors import CellFailed, HarnessError, PluginFault, is_out_of_memory
from harness.evaluation.cached_results import Sections
from harness.evaluation.contamination import leaks, leaks_of_rows
from harness.evaluation.evaluate import Measured, SuiteFailure, evaluate
from harness.evaluation.suite import task_of
from harness.manager import plugins
from harness.models import stored_quantization, trained_artifact
from harness.models.adapters import base_mismatch
from harness.models.language_model import import_bitsandbytes
from harness.models.trained_artifact import InvalidArtifact
from harness.planning.cell import Cell
from harness.record import Attempt, ErrorSection, Evaluation, Record, Status, Training, new_record
from harness.results import schema, store
from harness.results.artifact_hash import artifact_hash
from harness.runner import oom_retry
from harness.runner.oom_retry import Rung
from harness.system.child_process import begin
from harness.system.hardware import available_memory, free_memory
from harness.system.measure import MemoryWatch, Meter
from harness.training.diagnostics import findings
from harness.training.diagnostics.options import outside_usual
from harness.training.validation_loss import validation_loss
from harness.types import Artifact, Job, Row


@dataclass
class Work:
    """What a worker is told: one cell, and what is there already."""

    cell: Cell
    out: Path
    base: str | None
    """Id of the base's record, to compare with; None for the base itself."""
    reuse: Path | None = None
    """An artifact of the same training, made for another cell."""
    batch: int | None = None
    """Sequences that run at once while it is measured; None finds what memory allows."""
    trial: bool = False
    """Whether it is judged on the validation rows instead of suites."""
    rung: Rung = field(default_factory=Rung)
    """How training splits the batch, after attempts that ran out of memory."""
    failed: tuple[Attempt, ...] = ()
    """Those attempts, as the record's `training.ladder` tells them."""
    predicted_bytes: int | None = None
    """Peak memory that was predicted for the training, where somebody did."""
    warnings: tuple[str, ...] = ()
    """What is suspicious in the training data, and why it runs again where it was recorded."""
    shared: Path | None = None
    """Folder whose results folders may hold the same answers; None: only `out` is looked at."""


@dataclass
class _Running:
    """The state of the cell as it grows into a record."""

    work: Work
    emit: Any
    training: Meter = field(default_factory=Meter)
    evaluation: Meter = field(default_factory=Meter)
    notes: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    sections: Sections | None = None
    passes: dict[str, Any] | None = None
    trained: Training | None = None
    attempt: Attempt | None = None
    """This training, where it ran out of memory."""
    error: ErrorSection | None = None
    status: Status = "ok"

    @cached_property
    def rows(self) -> tuple[list[Row], list[Row]]:
        """Training and validation rows; empty where nothing is trained."""
        data = self.work.cell.data
        return training_rows(data) if data else ([], [])

    @cached_property
    def drawn(self) -> Drawn:
        """The rows that training gets, in order."""
        cell = self.work.cell
        count = cell.budget.steps * cell.budget.batch
        return drawn_rows(cell.data, *self.rows, count, cell.seed) if cell.data else Drawn([])

    @property
    def read(self) -> list[Row]:
        """What the model may have read in training."""
        return [*self.rows[0], *self.drawn.mixed]

    def warn(self, message: str) -> None:
        """A line for the record, told to the parent at once."""
        self.warnings.append(message)
        self.emit(event="warning", message=message)

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
            if self.status == "oom":
                self.error |= {
                    "available_bytes": available_memory(),
                    "predicted_bytes": self.work.predicted_bytes,
                }
        traceback.print_exception(error)
        # frames hold what did not fit into the memory, those of the errors before it too
        link: BaseException | None = error
        while link is not None:
            link.__traceback__, link = None, link.__context__

    @property
    def split(self) -> oom_retry.Split:
        """How this training split the batch, as it ran."""
        return oom_retry.Split(self.notes["micro_batch"], self.notes["gradient_checkpointing"])

    @property
    def trying(self) -> Training:
        """What the training measured so far, and the attempts before it."""
        training = cast("Training", {"phases": self.training.phases, **self.notes})
        return oom_retry.kept(training, self.work.failed, self.attempt)


def main(arguments: list[str]) -> int:
    """Run the cell of a job file. Returns 0 when its record says ok, else 5."""
    emit = begin()
    MemoryWatch(lambda share: emit(event="memory", spent=share))
    from pydantic import TypeAdapter

    work = TypeAdapter(Work).validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
    running = _Running(work, emit)
    if stored := stored_quantization.note(work.cell.model):
        running.warn(stored)
    artifact = _train(running)
    if artifact is not None:
        free_memory()  # what training still holds would count as evaluation's
        if work.trial:
            _judge(running, artifact)
        else:
            _evaluate(running, artifact)
    _write(running)
    return 0 if running.status == "ok" else CellFailed.exit_code


def _write(running: _Running) -> None:
    """Write the record; where what was measured fits none, one that says so."""
    cell = running.work.cell
    try:
        store.write_record(running.work.out, _record(running))
    except HarnessError as error:
        running.status = "ok"  # what broke before is in the log: this is what keeps a record away
        running.fail(error, "record")
        bare = new_record(
            id=cell.id,
            status=running.status,
            plan=cell.as_record(),
            environment=store.environment(),
            warnings=list(running.work.warnings),
            error=running.error,
        )
        store.write_record(running.work.out, bare)


def status_of(error: BaseException) -> Status:
    """The record's status for an exception."""
    if isinstance(error, CellFailed):
        return error.status
    return "oom" if is_out_of_memory(error) else "error"


def _train(running: _Running) -> Artifact | None:
    """The cell's artifact: found, or trained now; None where that failed."""
    work = running.work
    folder = work.out / "artifacts" / work.cell.id
    try:
        artifact = _found(running, folder)
        if artifact is None:
            artifact = _train_now(running, folder)
        running.warnings += leaks(running.read, work.cell.suites)
        return artifact
    except (Exception, SystemExit) as error:  # a method may call exit
        running.fail(error, running.training.failed)
        if running.status == "oom" and running.trained is None and "micro_batch" in running.notes:
            running.attempt = oom_retry.failed_attempt(
                running.split,
                phase=running.training.failed,
                error=str(error),
                phases=running.training.phases,
            )
        return None


def _found(running: _Running, folder: Path) -> Artifact | None:
    """An artifact of this very training, left by an earlier run or by another cell."""
    work = running.work
    for place in (folder, work.reuse):
        if place is None or not (place / trained_artifact.TRAINING_FILE).is_file():
            continue
        try:
            kept = trained_artifact.read(place)
            if kept.training_id != work.cell.training_id:
                continue
            trained_artifact.check_files(place, kept)
        except InvalidArtifact as error:
            problem = str(error).removeprefix(f"{place}: ")
            running.warn(f"the artifact in artifacts/{place.name} is not used: {problem}")
            continue
        if place != folder:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(place, folder, copy_function=_link)
        running.trained = kept.training
        running.warnings += kept.warnings
        return kept.opened_at(folder)
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
        import_bitsandbytes()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    job = _job(running, method, folder)
    # Not told to the parent: it knew them before the first cell.
    running.warnings += map(str, findings.keep(running.notes, outside_usual(job.options)))
    artifact: Artifact = method.train(job)
    if not isinstance(artifact, Artifact):
        raise PluginFault(
            f"method '{cell.method}': train() returned {repr(artifact)[:100]}: return an Artifact"
        )
    if not method.trains:
        if note := _other_base(artifact):
            running.warn(note)
        return artifact
    trained = running.trying
    if problem := schema.training_problem(store.plain(trained)):
        running.notes.clear()
        raise PluginFault(f"method '{cell.method}': its notes fit no record ({problem})")
    running.trained = trained
    if running.work.failed:
        running.warnings.append(oom_retry.warning(running.work.failed, running.split))
    trained_artifact.keep(folder, cell.training_id, running.trained, running.warnings, artifact)
    return artifact


def _other_base(artifact: Artifact) -> str | None:
    """A sentence where an adapter made elsewhere names another base than it is opened on."""
    if artifact.kind != "adapter" or artifact.path is None:
        return None
    return base_mismatch(artifact.path, artifact.opened)


def untrained(cell: Cell) -> Artifact:
    """What a method that trains nothing opens."""
    return _train_now(_Running(Work(cell, Path(), None), lambda **event: None), Path())


def _job(running: _Running, method: Any, folder: Path) -> Job:
    cell, drawn = running.work.cell, running.drawn
    budget = running.work.rung.budget(cell.budget)
    options = running.work.rung.options(cell.options)
    if drawn.rows:
        running.notes["micro_batch"] = budget.first_micro_batch
        running.notes["gradient_checkpointing"] = bool(options.get("gradient_checkpointing"))
    if drawn.mixed:
        mixed = {row.id for row in drawn.mixed}
        draws = sum(row.id in mixed for row in drawn.rows)
        told = {"draws": draws, "rows": len(mixed), "left_out": drawn.left_out}
        running.notes["mix"] = told
    return Job(
        model=cell.model,
        options=method.Options.model_validate(options),
        budget=budget,
        seed=cell.seed,
        train=drawn.rows,
        validation=running.rows[1],
        folder=folder,
        chat_template=cell.chat_template,
        loss=cell.data.loss if cell.data else "assistant",
        phase=_phases(running, running.training),
        report=lambda **event: running.emit(event="progress", **event),
        notes=running.notes,
        warn=running.warn,
    )


def _judge(running: _Running, artifact: Artifact) -> None:
    """A trial's loss on the validation rows, beside what its training measured."""
    cell, meter = running.work.cell, running.evaluation
    assert running.trained is not None
    assert cell.data is not None
    try:
        with _phases(running, meter)("validation loss"):
            found = validation_loss(
                artifact,
                running.rows[1],
                max_length=cell.budget.max_length,
                loss=cell.data.loss,
                batch=running.work.batch,
                progress=lambda done, total: running.emit(event="progress", done=done, total=total),
            )
        spent = meter.phases["validation loss"]["seconds"]
        running.trained["validation"] = {**found, "seconds": spent}
    except (Exception, SystemExit) as error:
        running.fail(error, meter.failed)


def _evaluate(running: _Running, artifact: Artifact) -> None:
    """Every suite that is not kept already; each is written as soon as it is scored."""
    work, meter = running.work, running.evaluation
    report = partial(running.emit, event="progress")
    try:
        sections = running.sections = Sections(
            out=work.out,
            cell_id=work.cell.id,
            base=work.base,
            artifact_hash=artifact_hash(artifact),
            shared=work.shared,
            warn=running.warnings.append,
        )
        left = [suite for suite in work.cell.suites if _missing(running, sections, suite)]
        phases = _phases(running, meter)
        ran = evaluate(artifact, left, phases, report, work.batch) if left else ()
        for measured in ran:
            _keep(running, sections, measured)
    except (Exception, SystemExit) as error:
        running.fail(error, meter.failed)


def _missing(running: _Running, sections: Sections, suite: Suite) -> bool:
    """Whether the suite has to run: its answers are not kept anywhere."""
    try:
        cell = sections.reuse(suite)
    except Exception as error:
        running.fail(error, suite.name)
        return False
    if cell is not None:
        running.emit(event="reused", suite=suite.name, cell=cell)
    return cell is None


def _keep(running: _Running, sections: Sections, measured: Measured) -> None:
    name, result = measured.suite.name, measured.result
    sections.tokenizer_hash = measured.tokenizer_hash
    running.passes = dict(measured.passes)
    if isinstance(result, SuiteFailure):
        running.fail(result.error, result.phase)
        return
    try:
        sections.keep(measured.suite, result)
        if not task_of(measured.suite, plugins()).knows_samples:
            running.warnings += leaks_of_rows(running.read, name, result.rows)
    except Exception as error:
        running.fail(error, name)


def _record(running: _Running) -> Record:
    cell = running.work.cell
    training = running.trained
    if training is None and running.training.phases:
        training = running.trying
    sections = running.sections
    evaluation: Evaluation | None = None
    if sections is not None and (running.evaluation.phases or sections.done):
        done = sections.done
        evaluation = {
            "phases": running.evaluation.phases,
            "suites": {s.name: done[s.name] for s in cell.suites if s.name in done},
            "base": running.work.base,
            "artifact_hash": sections.artifact_hash,
            "tokenizer_hash": sections.tokenizer_hash,
            "passes": running.passes,
        }
    return new_record(
        id=cell.id,
        status=running.status,
        plan=cell.as_record(),
        training=training,
        evaluation=evaluation,
        environment=store.environment(),
        # an artifact that was found brings the warnings of its own training, said again now
        warnings=list(dict.fromkeys([*running.work.warnings, *running.warnings])),
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
