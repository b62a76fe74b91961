"""The child that opens models for a parity check, and asks the form that is shipped.

`python -m harness.parity.worker` reads a Task from its standard input; the last line that it prints
has the result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.api.task import Suite
from harness.errors import HarnessError, UserError, is_out_of_memory
from harness.evaluation.embedding import Embedder
from harness.evaluation.suite import task_of
from harness.manager import plugins
from harness.parity import observing
from harness.parity.figures import beyond
from harness.parity.forms import Folder, Served, Shipped
from harness.parity.observing import Own, Prompt
from harness.parity.seen import Answer, Form, Limits, Seen
from harness.results.store import plain
from harness.system.child_process import Emit, begin
from harness.types import Artifact
from harness.verification.model_worker import Embedding


@dataclass(frozen=True)
class Task:
    """A cell's model, the form that is shipped, and what both are asked."""

    artifact: Artifact
    form: Form
    prompts: Sequence[Prompt]
    limits: Limits
    base: Artifact | None = None
    """The untouched base of a trained cell."""
    opened: Artifact | None = None
    """The form, where it is a folder."""
    suites: Sequence[Suite] = ()
    """Those at hand, whose scorers rate the form's answers."""
    key: str | None = None
    in_flight: int = 4
    timeout: float = 600.0
    batch: int | None = None


@dataclass(frozen=True)
class Result:
    """What came of a Task."""

    seen: Sequence[Seen]
    form: Form
    bos: int | None
    answered_by: Sequence[str]
    """Names that the form gave of who answered."""
    left_out: int
    """Prompts that are longer than the cell's own context."""
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    """Suite -> the form's answers as its sample rows, scored."""
    not_scored: Mapping[str, str]
    """Suite -> why it has no rows."""


def carry_out(task: Task, report: Emit) -> Result:
    """Ask both forms. Raises UserError where the form cannot be asked."""

    def say(phase: str) -> None:
        report(phase=phase)

    say("open the cell's model")
    with _opened(task.artifact, task.batch) as own:
        say(f"answer {len(task.prompts)} prompts")
        seen = observing.own_answers(own, task.prompts)
        if not seen:
            raise UserError("no prompt of the cell leaves room for an answer in its own context")
        seen += observing.with_endings(own, task.prompts, seen)
        bos = own.model.tokenizer.bos_token_id
        form = task.form
        if task.opened is None:
            shipped, form = _served(task, seen)
            seen, places, names = observing.with_theirs(own, task.prompts, seen, shipped, say)
            say("compare log-probabilities")
            seen = observing.with_positions(own, seen, places)
    if task.opened is not None:
        seen, places, names = _with_folder(task, task.opened, own, seen, say)
    if task.base is not None and (beyond(seen, task.limits) or not _certain(seen)):
        say("ask the untouched base")
        most = {(p.suite, p.row): p.most for p in task.prompts}
        with _opened(task.base, task.batch) as base:
            seen = observing.with_base(base, seen, places, most)
    say("score the answers")
    rows, not_scored = _scored(task.suites, seen)
    left_out = len(task.prompts) - sum(not one.ends for one in seen)
    return Result(seen, form, bos, sorted(names), left_out, rows, not_scored)


@contextlib.contextmanager
def _opened(artifact: Artifact, batch: int | None) -> Iterator[Own]:
    model = plugins().open_model(artifact, batch)
    try:
        yield Own(model)
    finally:
        model.close()


def _certain(seen: Sequence[Seen]) -> bool:
    """Whether log-probabilities tell, so that answers need not."""
    return any(one.positions for one in seen)


def _served(task: Task, seen: Sequence[Seen]) -> tuple[Shipped, Form]:
    """The server. Raises UserError where its context holds none of the prompts."""
    shipped = Served(task.form, key=task.key, in_flight=task.in_flight, timeout=task.timeout)
    form = shipped.server.described(task.form)
    shortest = min(len(one.prompt) for one in seen)
    if form.context is not None and form.context <= shortest:
        raise UserError(
            f"{form.where}: its context of {form.context} tokens holds none of the prompts (the "
            f"shortest has {shortest}): start it with a longer one"
        )
    return shipped, form


def _with_folder(
    task: Task, artifact: Artifact, closed: Own, seen: Sequence[Seen], say: observing.Say
) -> tuple[list[Seen], list[list[Any]], set[str]]:
    """Against a folder: one model is open at a time, for two may not fit."""
    say("open the folder's model")
    shipped = Folder(artifact, task.batch)
    try:
        asked, places, names = observing.with_theirs(closed, task.prompts, seen, shipped, say)
    finally:
        shipped.close()
    say("compare log-probabilities")
    with _opened(task.artifact, task.batch) as own:
        return observing.with_positions(own, asked, places), places, names


# ---- scores --------------------------------------------------------------------------------------


def _scored(
    suites: Sequence[Suite], seen: Sequence[Seen]
) -> tuple[dict[str, list[Mapping[str, Any]]], dict[str, str]]:
    """The form's answers by the suites' own scorers; (rows, why a suite has none)."""
    embedder, rows, not_scored = Embedder(), {}, {}
    for suite in suites:
        answered = [
            (one.row, one.theirs)
            for one in seen
            if one.suite == suite.name and one.theirs is not None and not one.ends
        ]
        given = [_row(row, answer) for row, answer in answered]
        try:
            rows[suite.name] = _rescored(suite, given, embedder)
        except Exception as error:  # a plugin's scorer
            not_scored[suite.name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return rows, not_scored


def _row(row: str, answer: Answer) -> dict[str, Any]:
    """An answer as a sample row that is to be scored."""
    return {
        "id": row,
        "output": answer.text,
        "tokens": len(answer.ids or ()),
        "capped": not answer.ended,
    }


def _rescored(
    suite: Suite, rows: Sequence[dict[str, Any]], embedder: Embedder
) -> list[Mapping[str, Any]]:
    here = suite.embedder is not None and Path(suite.embedder.path).is_dir()
    task, tools = task_of(suite, plugins()), Embedding(suite, embedder)
    try:
        again = task.rescore(suite, rows, tools, models=here)
    except UserError:  # a scorer that asks another model
        again = task.rescore(suite, rows, tools, models=False)
    return [dict(row) for row in again.rows] if again else []


def as_json(result: Result) -> dict[str, Any]:
    """As an event holds it; numbers that are none stay so."""
    return {**dataclasses.asdict(result), "rows": plain(result.rows)}


def main() -> int:
    """Carry out the Task on standard input."""
    from pydantic import TypeAdapter

    emit = begin()
    task = TypeAdapter(Task).validate_json(sys.stdin.read())
    try:
        result = carry_out(task, emit)
    except Exception as error:
        traceback.print_exception(error)
        emit(error=_message(error), exit_code=getattr(error, "exit_code", HarnessError.exit_code))
        return 1
    emit(result=as_json(result))
    return 0


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    if is_out_of_memory(error):
        return f"out of memory: {text}; close what else runs here"
    return text if isinstance(error, HarnessError) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    sys.exit(main())
