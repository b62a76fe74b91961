"""A suite's first samples on a model: `python -m harness.evaluation.trial`, a Trial on stdin.

The last line that it prints is JSON. Exits 2 with one line on standard error where the suite does
not run.
"""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
import traceback
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.api.task import Suite
from harness.errors import UserError
from harness.evaluation.judging.options import judge_of
from harness.evaluation.judging.panels.seats import each
from harness.evaluation.suite import task_of
from harness.hookspecs import hookimpl
from harness.manager import plugins
from harness.stats import metric_summary
from harness.system.child_process import reply_to_stdin
from harness.types import Artifact, Metric, ModelRef, SuiteResult

__all__ = ["Trial", "run"]


@dataclass
class Trial:
    """A suite, its first samples and the model to run them on."""

    suite: Suite
    samples: int
    """Samples of each source or task."""
    model: ModelRef | None
    """None for the tiny model."""


class _Watcher:
    """A plugin that keeps the first request to a model and changes nothing else."""

    def __init__(self) -> None:
        self.first: tuple[Sequence[int], Sequence[int]] | None = None
        """Token ids given, and those scored after them (none where an answer is generated)."""
        self.tokenizer: Any = None

    @hookimpl(wrapper=True)
    def open_model(self, artifact: Artifact) -> Generator[None, Any, Any]:
        """Watch the model that another plugin opens."""
        model = yield
        self.tokenizer = model.tokenizer
        generate, loglikelihood = model.generate, model.loglikelihood

        def watched_generate(
            prompts: Sequence[Sequence[int]], *rest: object, **named: object
        ) -> object:
            if self.first is None and len(prompts):
                self.first = (prompts[0], ())
            return generate(prompts, *rest, **named)

        def watched_loglikelihood(
            requests: Sequence[tuple[Sequence[int], Sequence[int]]], *rest: object, **named: object
        ) -> object:
            if self.first is None and len(requests):
                given, scored = requests[0]
                self.first = (given, scored)
            return loglikelihood(requests, *rest, **named)

        model.generate, model.loglikelihood = watched_generate, watched_loglikelihood
        return model

    def shown(self) -> dict[str, object] | None:
        """The text and length (tokens) of what was given, and of what was scored."""
        if self.first is None:
            return None
        given, scored = self.first
        return {
            "text": self._text(given),
            "tokens": len(given),
            "scored": self._text(scored) if scored else None,
            "scored_tokens": len(scored),
        }

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))


def run(trial: Trial) -> dict[str, object]:
    """`prompt`, `samples` (of the whole suite), `metrics`, `rows` and `warnings`.

    Raises UserError where the suite cannot be loaded or breaks.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = trial.model or _tiny(Path(folder))
        watcher = _Watcher()
        result = _evaluated(trial, model, watcher)
    return {
        "prompt": watcher.shown(),
        "samples": task_of(trial.suite, plugins()).count(trial.suite),
        "metrics": _metrics(trial.suite, result),
        "rows": [_shown(row, result.metrics) for row in result.rows],
        "warnings": list(result.warnings),
    }


def _evaluated(trial: Trial, model: ModelRef, watcher: _Watcher) -> SuiteResult:
    from harness.evaluation.evaluate import SuiteFailure, evaluate

    suite = trial.suite
    limit = min(trial.samples, suite.limit or trial.samples)
    settings = {**suite.settings, "limit": limit}
    if suite.judge and trial.model is None:  # random weights give no verdicts worth counting
        settings["judge"] = {**_mapping(settings["judge"]), "max_missing": 1.0}
    few = replace(_alone(suite), settings=settings)
    manager = plugins().manager
    manager.register(watcher)
    try:
        (measured,) = evaluate(
            Artifact("base", model), [few], lambda name: contextlib.nullcontext(), _silent
        )
    except Exception as error:
        raise _error(suite, error) from error
    finally:
        manager.unregister(watcher)
    if isinstance(measured.result, SuiteFailure):
        raise _error(suite, measured.result.error) from measured.result.error
    return measured.result


def _alone(suite: Suite) -> Suite:
    """With judges that compare with the base where they are to with a row of an experiment."""
    if suite.judge_row is None:
        return suite

    def options(one: Suite) -> dict[str, object]:
        judge = judge_of(one, plugins())
        comparing = judge.comparing() if judge is not None else None
        return comparing.options.model_dump(mode="json") if comparing else dict(one.judge_options)

    panel = tuple(
        replace(seat, judge_options=options(one))
        for seat, one in zip(suite.judge_panel, each(suite), strict=bool(suite.judge_panel))
    )
    return replace(suite, judge_row=None, judge_options=options(suite), judge_panel=panel)


def _mapping(value: object) -> Mapping[str, object]:
    assert isinstance(value, Mapping)
    return value


def _silent(**event: object) -> None:
    """Progress of three samples is not reported."""


def _error(suite: Suite, error: Exception) -> UserError:
    """The failure in one line, with the place in the code where it is not the user's input."""
    if isinstance(error, UserError):
        return error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return UserError(
        f"{suite.file}: the suite does not run: {type(error).__name__}: "
        f"{' '.join(str(error).split())} ({frame.filename}:{frame.lineno})"
    )


def _tiny(folder: Path) -> ModelRef:
    from harness.models.tiny import NAME, write_tiny_model

    write_tiny_model(folder)
    return ModelRef(NAME, str(folder))


def _shown(row: Mapping[str, Any], metrics: Sequence[Metric]) -> dict[str, object]:
    """The parts of a row that are shown; numbers that JSON cannot hold are None.

    Scores of a corpus are those of its answer alone.
    """
    alone = {
        metric.name: score.score
        for metric in metrics
        if metric.name in row.get("statistics", {})
        for score in metric_summary.scored(metric_summary.estimator(metric), [row]).values()
    }
    scores = {
        name: value if isinstance(value, (int, float)) and math.isfinite(value) else None
        for name, value in {**row["scores"], **alone}.items()
    }
    kept = {key: row.get(key) for key in ("id", "group", "output", "reference")}
    return {**kept, "scores": scores}


def _metrics(suite: Suite, result: SuiteResult) -> list[str]:
    named = task_of(suite, plugins()).metrics(suite)
    return named if named is not None else [metric.name for metric in result.metrics]


def main() -> int:
    """Run the trial on standard input."""
    from pydantic import TypeAdapter

    return reply_to_stdin(lambda asked: run(TypeAdapter(Trial).validate_json(asked)))


if __name__ == "__main__":
    sys.exit(main())
