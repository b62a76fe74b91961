"""What corrects a judge's verdicts in a suite's result: its certificate, and labels of its answers.

Verdicts do not depend on either, so that rows of an earlier run are corrected without being asked
for again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

from harness.api.task import Suite
from harness.evaluation.judging import answer_labels
from harness.evaluation.judging.answer_labels import LABEL, AnswerLabels
from harness.evaluation.judging.panels.seats import each
from harness.record import JudgeErrors
from harness.types import Metric, SuiteResult

__all__ = ["SCORE", "content", "correct"]

SCORE = "score"
"""Of a judge that rates single answers: what labels of answers correct."""

_LABELLED = "labelled_answers"
"""How many answers have a label, among a suite's notes."""

_NO_LABEL = "no answer here has a label"


def content(suite: Suite, labels: AnswerLabels | None) -> dict[str, object]:
    """What corrected figures depend on beside their rows, for the suite's hash."""
    certificate = suite.judge_certificate
    named = {"certificate": certificate["sha256"]} if certificate else {}
    return {**named, **({"labels": labels.sha256} if labels else {})}


def correct(
    suite: Suite, figure: str, labels: AnswerLabels | None, result: SuiteResult
) -> SuiteResult:
    """The result with the suite's own certificate and labels, in the place of any others.

    `figure` is the judge's first metric, which a certificate is of.
    """
    errors = suite.judge_certificate["errors"] if suite.judge_certificate else None
    known = cast("JudgeErrors | None", errors)
    rows = [_labelled(row, labels) for row in result.rows]
    return dataclasses.replace(
        result,
        rows=rows,
        metrics=[_corrected(metric, figure, known, labels) for metric in result.metrics],
        notes=_notes(suite, labels, result.notes, rows),
        warnings=_warnings(suite, labels, result.warnings, rows),
    )


def _labelled(row: Mapping[str, Any], labels: AnswerLabels | None) -> dict[str, Any]:
    """A sample row with what people say of its answer among its scores, where they do."""
    scores = {name: score for name, score in row["scores"].items() if name != LABEL}
    if labels is not None:
        scores[LABEL] = labels.of(row["id"], row["output"] or "")
    return {**row, "scores": scores}


def _corrected(
    metric: Metric, figure: str, errors: JudgeErrors | None, labels: AnswerLabels | None
) -> Metric:
    known = errors if metric.name == figure else None
    if labels is None or metric.name != SCORE:
        return dataclasses.replace(metric, judge=known, label="")
    return dataclasses.replace(metric, judge=known or answer_labels.NOT_CERTIFIED, label=LABEL)


def _notes(
    suite: Suite,
    labels: AnswerLabels | None,
    notes: Mapping[str, object],
    rows: list[dict[str, Any]],
) -> dict[str, object]:
    """The notes, with which certificate and how many labels corrected."""
    found = {key: value for key, value in notes.items() if key not in (_LABELLED, "label")}
    told = cast("Mapping[str, object]", found["judge"])
    judge = {key: value for key, value in told.items() if key != "certificate"}
    if (certificate := suite.judge_certificate) is not None:
        judge["certificate"] = {key: certificate[key] for key in ("sha256", "labels")}
    found["judge"] = judge
    if labels is not None:
        found[_LABELLED] = sum(row["scores"][LABEL] is not None for row in rows)
    read_with = ["self-judged, by the base of what is judged"] if judge["self_judged"] else []
    read_with += [] if certificate or labels else [_not_certified(suite)]
    return {**found, "label": "; ".join(read_with)} if read_with else found


def _warnings(
    suite: Suite,
    labels: AnswerLabels | None,
    warnings: Sequence[str],
    rows: list[dict[str, Any]],
) -> list[str]:
    """The warnings, with one where no label is of these answers; that of earlier labels goes."""
    head = f"suite '{suite.name}': {_NO_LABEL}"
    kept = [warning for warning in warnings if not warning.startswith(head)]
    if labels is None or any(row["scores"][LABEL] is not None for row in rows):
        return kept
    file, count = labels.file.name, len(labels.labels)
    return [
        *kept,
        f"{head} of {file}, which labels {count} others: they do not correct this row; "
        "label answers as its sample file has them",
    ]


def _not_certified(suite: Suite) -> str:
    """What measures a judge whose errors are in no figure yet."""
    named = all(one.judge_model or one.judge_endpoint for one in each(suite))
    who = "" if named else " --model MODEL"
    return f"not corrected: `harness judge certify {suite.name}{who}` measures the judge's errors"
