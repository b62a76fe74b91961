"""The child that opens models for a verification: it asks questions again, and embeds answers.

`python -m harness.verification.model_worker` reads a Task from its standard input; the last line
that it prints has the rows.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harness.api.task import Suite
from harness.errors import HarnessError
from harness.evaluation import evaluate
from harness.evaluation.embedding import Embedder
from harness.evaluation.suite import task_of
from harness.manager import plugins
from harness.results.store import plain
from harness.system.child_process import Emit, begin
from harness.types import Artifact
from harness.verification.answers import NoModels


@dataclass(frozen=True)
class Recorded:
    """Samples whose scores a scorer's model is to give again."""

    cell: str
    suite: Suite
    rows: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """What is asked again of which model, and which recorded samples are rescored."""

    artifact: Artifact | None = None
    asked: Sequence[Suite] = ()
    """With the picked questions, and nobody who rates the answers."""
    rescored: Sequence[Recorded] = ()
    batch: int | None = None


class Embedding(NoModels):
    """Tools whose only model is the embedder of a suite."""

    def __init__(self, suite: Suite, embedder: Embedder) -> None:
        self._suite, self._embedder = suite, embedder

    def embed(self, texts: Sequence[str]) -> Any:
        """(texts, dimensions) float32 unit vectors of the suite's embedder."""
        if self._suite.embedder is None:
            return super().embed(texts)
        return self._embedder.embed(self._suite.embedder, texts)


def carry_out(task: Task, report: Emit) -> dict[str, object]:
    """`asked`: rows by suite. `rescored`: rows of each, in the order of the task."""
    embedder = Embedder()
    rescored = []
    for one in task.rescored:
        report(phase=f"rescore {one.suite.name} of {one.cell}")
        tools = Embedding(one.suite, embedder)
        again = task_of(one.suite, plugins()).rescore(one.suite, one.rows, tools, models=True)
        rescored.append([dict(row) for row in again.rows] if again else [])
    return {"asked": _asked(task, report), "rescored": rescored}


def _asked(task: Task, report: Emit) -> dict[str, list[Mapping[str, Any]]]:
    if task.artifact is None:
        return {}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        report(phase=name)
        yield

    def progress(**event: object) -> None:
        report(progress=event)

    with evaluate.opened(task.artifact, phase, progress, task.batch) as bench:
        return {
            suite.name: [dict(row) for row in evaluate.rows(bench, suite, phase)]
            for suite in task.asked
        }


def main() -> int:
    """Carry out the Task on standard input."""
    from pydantic import TypeAdapter

    emit = begin()
    task = TypeAdapter(Task).validate_json(sys.stdin.read())
    try:
        result = carry_out(task, emit)
    except Exception as error:
        traceback.print_exception(error)
        text = " ".join(str(error).split())[:300]
        known = isinstance(error, HarnessError)
        emit(error=text if known else f"{type(error).__name__}: {text}")
        return 1
    emit(result=plain(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
