"""The child process of one cell: train, save, reopen, evaluate, record.

`python -m harness.runner.worker JOB.json` reports events as JSON lines on its standard output; what
libraries print goes to standard error. Whatever goes wrong becomes the record's status. SIGTERM
ends it at its next safe point, without a record: the cell is taken up again by a later run.
"""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from harness.api.task import Suite
from harness.data.mix import Drawn
from harness.data.training_set import drawn_rows, training_rows
from harness.errors import CellFailed, HarnessError, PluginFault, is_out_of_memory
from harness.evaluation.blocks.kept_answers import Sharing
from harness.evaluation.blocks.resuming import Keeping
from harness.evaluation.cached_results import Sections
from harness.evaluation.contamination import leaks, leaks_of_rows
from harness.evaluation.evaluate import PHASES, Measured, SuiteFailure, evaluate, help_with
from harness.evaluation.judging.rows.opponents import Opponent
from harness.evaluation.served import model as served_model
from harness.evaluation.suite import task_of
from harness.manager import plugins
from harness.models import stored_quantization, trained_artifact
from harness.models.adapter_checks.base import other_base
from harness.models.adapter_checks.effect import NO_EFFECT
from harness.models.trained_artifact import InvalidArtifact
from harness.planning.cell import Cell
from harness.record import (
    Attempt,
    ErrorSection,
    Evaluation,
    Record,
    Served,
    Status,
    Training,
    new_record,
)
from harness.results import schema, store
from harness.results.artifact_hash import artifact_hash
from harness.runner import libraries, oom_retry
from harness.runner.oom_retry import Rung
from harness.system.child_process import begin
from harness.system.hardware import available_memory, free_memory, free_paged_state
from harness.system.measure import MemoryWatch, Meter, joined
from harness.system.workers import stopping
from harness.training import checkpoints
from harness.training.arithmetic import float32_precision_kept
from harness.training.diagnostics import findings
from harness.training.diagnostics.findings import PREFIX
from harness.training.diagnostics.options import outside_usual
from harness.training.validation_loss import validation_loss
from harness.types import Artifact, Job, Row

if TYPE_CHECKING:
    from harness.api.method import Method


@dataclass
class Work:
    """The task of a worker: one cell, and what can be reused."""

    cell: Cell
    out: Path
    base: str | None
    """Id of the base's record, to compare with; None for the base itself."""
    reuse: Path | None = None
    """An artifact of the same training, made for another cell."""
    batch: int | None = None
    """Sequences that run at once in evaluation; None: as many as memory allows."""
    trial: bool = False
    """Whether it is judged on the validation rows instead of suites."""
    rung: Rung = field(default_factory=Rung)
    """How training splits the batch, after attempts that ran out of memory."""
    failed: tuple[Attempt, ...] = ()
    """Those attempts, as in the record's `training.ladder`."""
    predicted_bytes: int | None = None
    """Predicted peak memory of the training; None if not predicted."""
    never_fits: str | None = None
    """Why no way to split the batch fits this machine, and what would; None where one may."""
    warnings: tuple[str, ...] = ()
    """Warnings on the training data, and why a recorded cell runs again."""
    opponents: dict[str, Opponent] = field(default_factory=dict)
    """Suite -> the cell whose stored answers its judge compares with."""
    shared: Path | None = None
    """Folder whose results folders may hold the same answers; None: only `out` is read."""
    sharing: str | None = None
    """Token of this attempt, where other workers may help with its suites."""
    helps_with: tuple[str, ...] = ()
    """Suites of which this worker computes blocks for another one, and records nothing."""


@dataclass
class Log:
    """What the record holds beside figures: warnings and the error."""

    emit: Callable[..., None]
    """Reports an event to the parent."""
    predicted_bytes: int | None = None
    warnings: list[str] = field(default_factory=list)
    status: Status = "ok"
    error: ErrorSection | None = None

    def warn(self, message: str) -> None:
        """A line for the record, reported to the parent at once."""
        self.warnings.append(message)
        self.emit(event="warning", message=message)

    def fail(self, error: BaseException, phase: str | None) -> None:
        """Keep an error; the first one sets the status."""
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
                    "predicted_bytes": self.predicted_bytes,
                }
        traceback.print_exception(error)
        # frames keep what did not fit into memory alive, those of chained errors too
        link: BaseException | None = error
        while link is not None:
            link.__traceback__, link = None, link.__context__

    def phases(self, meter: Meter) -> Callable[[str], AbstractContextManager[None]]:
        """The meter's phases, reported to the parent as they start.

        The start of one is a safe point until a phase `train` has begun: after it, what was
        trained is on no disk before the artifact is sealed.
        """

        @contextmanager
        def phase(name: str) -> Iterator[None]:
            if "train" not in meter.phases and not meter.open:
                stopping.safe_point()
            self.emit(event="phase", name=name)
            with meter.phase(name):
                yield

        return phase


STOPPED = 143
"""Exit code of a worker that was told to stop: that of a process that SIGTERM ended."""


class TrainingRows:
    """The rows of a cell, each file read when it is first needed."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    @cached_property
    def _split(self) -> tuple[list[Row], list[Row]]:
        data = self._cell.data
        return training_rows(data) if data else ([], [])

    @property
    def validation(self) -> list[Row]:
        """Empty where nothing is trained."""
        return self._split[1]

    @cached_property
    def drawn(self) -> Drawn:
        """The rows that training gets, in order."""
        cell = self._cell
        count = cell.budget.steps * cell.budget.batch
        return drawn_rows(cell.data, *self._split, count, cell.seed) if cell.data else Drawn([])

    @property
    def seen(self) -> list[Row]:
        """The rows that the model may have seen in training."""
        return [*self._split[0], *self.drawn.mixed]


@dataclass
class Trained:
    """The result of a training."""

    artifact: Artifact | None
    """None if the training failed."""
    section: Training | None
    """What it measured, for the record; None if it measured nothing."""


def main(arguments: list[str]) -> int:
    """Run the cell of a job file. Returns 0 when its record says ok, 5 when it says another
    status, and STOPPED where it was told to stop and wrote no record."""
    stopping.on_request()
    emit = begin()
    try:
        return _run(Path(arguments[0]), emit)
    except stopping.Stopped:
        emit(event="stopped")
        return STOPPED


def _run(job: Path, emit: Callable[..., None]) -> int:
    MemoryWatch(lambda share: emit(event="memory", spent=share))
    from pydantic import TypeAdapter

    work = TypeAdapter(Work).validate_json(job.read_text(encoding="utf-8"))
    log, rows = Log(emit, work.predicted_bytes), TrainingRows(work.cell)
    if stored := stored_quantization.note(work.cell.model):
        log.warn(stored)
    stopping.safe_point()
    if work.helps_with:
        _help(work, log)
        return 0
    trained, evaluation = _train(work, rows, log), None
    if trained.artifact is not None:
        stopping.safe_point()
        free_paged_state()
        free_memory()  # what training still holds would count as evaluation's
        if work.trial:
            _judge(work, rows, log, trained)
        else:
            evaluation = _evaluate(work, rows, log, trained.artifact)
    _write(work, log, trained.section, evaluation)
    return 0 if log.status == "ok" else CellFailed.exit_code


def _write(work: Work, log: Log, training: Training | None, evaluation: Evaluation | None) -> None:
    """Write the record; if what was measured fits no record, one with that error."""
    try:
        store.write_record(work.out, _record(work, log, training, evaluation))
    except HarnessError as error:
        log.status = "ok"  # earlier errors are in the log: this one prevents a record
        log.fail(error, "record")
        bare = Log(log.emit, status=log.status, error=log.error)
        store.write_record(work.out, _record(work, bare, None, None))


def _record(
    work: Work, log: Log, training: Training | None, evaluation: Evaluation | None
) -> Record:
    return new_record(
        id=work.cell.id,
        status=log.status,
        plan=work.cell.as_record(),
        training=training,
        evaluation=evaluation,
        environment=store.environment(),
        # an artifact that is used again brings the warnings of its own training
        warnings=dict.fromkeys([*work.warnings, *log.warnings]),
        error=log.error,
    )


def status_of(error: BaseException) -> Status:
    """The record's status for an exception."""
    if isinstance(error, CellFailed):
        return error.status
    return "oom" if is_out_of_memory(error) else "error"


# Training


def _train(work: Work, rows: TrainingRows, log: Log) -> Trained:
    """The cell's artifact: reused from the same training, or trained now."""
    folder = work.out / "artifacts" / work.cell.id
    training = TrainingRun(work, rows, log)
    trained = Trained(None, None)
    try:
        trained = _reused(work, log, folder) or training.run(folder)
        log.warnings += leaks(rows.seen, work.cell.suites)
        return trained
    except (Exception, SystemExit) as error:  # a method may call exit
        log.fail(error, training.meter.failed)
        ran_out = log.status == "oom" and trained.section is None
        attempt = training.failed_attempt(str(error)) if ran_out else None
        return Trained(None, trained.section or training.section(attempt))


def _reused(work: Work, log: Log, folder: Path) -> Trained | None:
    """An artifact of the same training, from an earlier run or another cell; None without one."""
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
            log.warn(f"the artifact in artifacts/{place.name} is not used: {problem}")
            continue
        if place != folder:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(place, folder, copy_function=_link)
        log.warnings += kept.warnings
        return Trained(kept.opened_at(folder), kept.training)
    return None


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


class TrainingRun:
    """One training in this process: the job that the method gets, and its result."""

    def __init__(self, work: Work, rows: TrainingRows, log: Log) -> None:
        self.work, self.rows, self.log = work, rows, log
        self.meter = Meter()
        self.notes: dict[str, Any] = {}
        """The job's notes: figures of the recipe, and whatever the method adds."""
        self._finished: Training | None = None

    def run(self, folder: Path) -> Trained:
        """Train, and seal the artifact in `folder`."""
        cell = self.work.cell
        method = plugins().methods.get(cell.method)
        if method.trains:
            libraries.imported(libraries.TRAINING)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        job = self.job(method, folder)
        # Not reported to the parent, which has them from the plan.
        self.log.warnings += map(str, findings.keep(job.training, outside_usual(job.options)))
        with float32_precision_kept():
            artifact: Artifact = method.train(job)
        if not isinstance(artifact, Artifact):
            raise PluginFault(
                f"method '{cell.method}': train() returned {repr(artifact)[:100]}: "
                "return an Artifact"
            )
        if not method.trains:
            if note := _other_base(artifact):
                self.log.warn(note)
            return Trained(artifact, self.section())
        measured = self._measured()
        if problem := schema.training_problem(store.plain(measured)):
            self.notes.clear()
            raise PluginFault(f"method '{cell.method}': its notes fit no record ({problem})")
        self._finished = measured
        if self.work.failed:
            self.log.warnings.append(oom_retry.warning(self.work.failed, self._split()))
        warnings = self.log.warnings
        trained_artifact.keep(folder, cell.training_id, measured, warnings, artifact)
        checkpoints.clear(self.work.out, cell.training_id)
        return Trained(artifact, measured)

    def section(self, attempt: Attempt | None = None) -> Training | None:
        """What was measured so far, for the record; None if no phase began.

        `attempt` is this training, if it ran out of memory.
        """
        if self._finished is not None or not self.meter.phases:
            return self._finished
        return self._measured(attempt)

    def failed_attempt(self, error: str) -> Attempt | None:
        """This training as one that ran out of memory; None if it split no batch yet."""
        if self._finished is not None or "micro_batch" not in self.notes:
            return None
        return oom_retry.failed_attempt(
            self._split(), phase=self.meter.failed, error=error, phases=self.meter.phases
        )

    def _measured(self, attempt: Attempt | None = None) -> Training:
        training = cast("Training", {"phases": self.meter.phases, **self.notes})
        return oom_retry.kept(training, self.work.failed, attempt)

    def _split(self) -> oom_retry.Split:
        return oom_retry.Split(self.notes["micro_batch"], self.notes["gradient_checkpointing"])

    def job(self, method: Method, folder: Path) -> Job:
        """What the method gets."""
        cell, drawn = self.work.cell, self.rows.drawn
        budget = self.work.rung.budget(cell.budget)
        options = self.work.rung.options(cell.options)
        phase = self.log.phases(self.meter)
        progress = checkpoints.Progress(
            self.meter, self.notes, self.log.warnings, phase, self.log.warn
        )
        job = Job(
            model=cell.model,
            options=method.Options.model_validate(options),
            budget=budget,
            seed=cell.seed,
            train=drawn.rows,
            validation=self.rows.validation,
            folder=folder,
            chat_template=cell.chat_template,
            loss=cell.data.loss if cell.data else "assistant",
            phase=phase,
            report=lambda **event: self.log.emit(event="progress", **event),
            notes=self.notes,
            warn=self.log.warn,
            checkpoints=checkpoints.StoredCheckpoints(
                self.work.out,
                cell.training_id,
                progress,
                minutes=cell.budget.checkpoint_minutes,
            ),
        )
        if drawn.rows:
            job.training["micro_batch"] = budget.first_micro_batch
            job.training["gradient_checkpointing"] = bool(options.get("gradient_checkpointing"))
        if drawn.mixed:
            mixed = {row.id for row in drawn.mixed}
            draws = sum(row.id in mixed for row in drawn.rows)
            job.training["mix"] = {"draws": draws, "rows": len(mixed), "left_out": drawn.left_out}
        return job


def _other_base(artifact: Artifact) -> str | None:
    """A warning if an external adapter names another base than it is opened on; else None."""
    if artifact.kind != "adapter" or artifact.path is None:
        return None
    return other_base(Path(artifact.path), artifact.opened)


def untrained(cell: Cell) -> Artifact:
    """The artifact of a method that trains nothing."""
    log = Log(lambda **event: None)
    trained = TrainingRun(Work(cell, Path(), None), TrainingRows(cell), log).run(Path())
    assert trained.artifact is not None
    return trained.artifact


# Evaluation


def _judge(work: Work, rows: TrainingRows, log: Log, trained: Trained) -> None:
    """A trial's loss on the validation rows, beside what its training measured."""
    cell, meter = work.cell, Meter()
    assert trained.artifact is not None
    assert trained.section is not None
    assert cell.data is not None
    try:
        with log.phases(meter)("validation loss"):
            loss = validation_loss(
                trained.artifact,
                rows.validation,
                max_length=cell.budget.max_length,
                loss=cell.data.loss,
                batch=work.batch,
                progress=lambda done, total: log.emit(event="progress", done=done, total=total),
            )
        seconds = meter.phases["validation loss"]["seconds"]
        trained.section["validation"] = {**loss, "seconds": seconds}
    except (Exception, SystemExit) as error:
        log.fail(error, meter.failed)


def _evaluate(work: Work, rows: TrainingRows, log: Log, artifact: Artifact) -> Evaluation | None:
    """Evaluate each suite without stored answers; each is written as soon as it is scored."""
    meter = Meter()
    sharing = Sharing(work.out, work.sharing) if work.sharing else None
    keeping = Keeping(work.out, log.warn, sharing)
    report = partial(log.emit, event="progress")
    sections: Sections | None = None
    passes: dict[str, Any] | None = None
    behind: Served | None = None
    try:
        sections = Sections(
            out=work.out,
            cell_id=work.cell.id,
            base=work.base,
            opponents=work.opponents,
            artifact_hash=artifact_hash(artifact),
            # what a server holds today may be another model tomorrow
            shared=None if work.cell.served else work.shared,
            others=work.cell.served is None,
            warn=log.warnings.append,
        )
        left = [suite for suite in work.cell.suites if _missing(sections, suite, log)]
        if sharing is not None and left:
            sharing.begin()
            log.emit(event="shared", suites=[suite.name for suite in left])
        if left and not work.cell.served:
            libraries.imported(libraries.OPENING)
        how = (log.phases(meter), report, work.batch, work.opponents, keeping)
        for measured in evaluate(artifact, left, *how) if left else ():
            passes = dict(measured.passes)
            _doubt(measured, log)
            behind = passes.pop("served", None)
            _keep(sections, measured, rows, log)
    except (Exception, SystemExit) as error:
        log.fail(error, meter.failed)
    finally:
        if sharing is not None:
            sharing.end()
    if sections is None or not (meter.phases or sections.done):
        return None
    done = sections.done
    for kind, cost in keeping.costs().items():
        meter.phases[PHASES[kind]] = joined(meter.phases.get(PHASES[kind]), cost)
    evaluation: Evaluation = {
        "phases": meter.phases,
        "suites": {s.name: done[s.name] for s in work.cell.suites if s.name in done},
        "base": work.base,
        "artifact_hash": sections.artifact_hash,
        "tokenizer_hash": sections.tokenizer_hash,
        "passes": passes,
    }
    if behind is not None:
        log.warnings += served_model.warnings(behind)
        evaluation["served"] = behind
    if (resumed := keeping.resumed()) is not None:
        evaluation["resumed"] = resumed
    if all(suite.name in done for suite in work.cell.suites):
        keeping.clear(sections.artifact_hash)  # each suite is stored
    return evaluation if meter.phases else _with_cost_before(work, evaluation)


def _with_cost_before(work: Work, evaluation: Evaluation) -> Evaluation:
    """Of suites that were all stored: with what the cell's own record says of measuring them."""
    before = store.stored(work.out, work.cell.id)
    measured = before["evaluation"] if before is not None else None
    if measured is None or measured["artifact_hash"] != evaluation["artifact_hash"]:
        return evaluation
    suites = {name: {**section} for name, section in evaluation["suites"].items()}
    for section in suites.values():
        if section.get("reused") == work.cell.id:
            del section["reused"]
    new = {"suites": suites, "base": evaluation["base"]}
    return cast("Evaluation", {**measured, **new})


def _help(work: Work, log: Log) -> None:
    """Compute blocks of suites for the worker that records them, until it needs no more."""
    artifact: Artifact | None = None
    if plugins().methods.get(work.cell.method).trains:
        reused = _reused(work, log, work.out / "artifacts" / work.cell.id)
        artifact = reused.artifact if reused else None
    else:
        artifact = untrained(work.cell)
    if artifact is None or work.sharing is None:
        return
    keeping = Keeping(work.out, log.warn, Sharing(work.out, work.sharing), helps=True)
    suites = [suite for suite in work.cell.suites if suite.name in work.helps_with]
    report = partial(log.emit, event="progress")
    with suppress(stopping.Stopped):
        help_with(artifact, suites, log.phases(Meter()), report, work.batch, keeping)


def _doubt(measured: Measured, log: Log) -> None:
    """What is doubtful about the model, once; not where its training has said it already."""
    said = any(line.startswith(f"{PREFIX}loss_not_falling") for line in log.warnings)
    for line in measured.doubts:
        if line not in log.warnings and not (said and line.startswith(NO_EFFECT)):
            log.warn(line)


def _missing(sections: Sections, suite: Suite, log: Log) -> bool:
    """Whether the suite must run: its answers are stored nowhere."""
    try:
        cell = sections.reuse(suite)
    except Exception as error:
        log.fail(error, suite.name)
        return False
    if cell is not None:
        log.emit(event="reused", suite=suite.name, cell=cell)
    return cell is None


def _keep(sections: Sections, measured: Measured, rows: TrainingRows, log: Log) -> None:
    name, result = measured.suite.name, measured.result
    sections.tokenizer_hash = measured.tokenizer_hash
    if isinstance(result, SuiteFailure):
        log.fail(result.error, result.phase)
        return
    try:
        sections.keep(measured.suite, result)
        if not task_of(measured.suite, plugins()).knows_samples:
            log.warnings += leaks_of_rows(rows.seen, name, result.rows)
    except Exception as error:
        log.fail(error, name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
