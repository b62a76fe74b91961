"""What needs a model: some questions asked again, and scores that an embedder gives."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.api.task import Suite
from harness.errors import HarnessError, UserError
from harness.export import export
from harness.export.export import USUAL
from harness.publishing.publication import Publication
from harness.record import Record
from harness.results.artifact_hash import artifact_hash
from harness.results.store import Rows, suites
from harness.system import child_process
from harness.types import Artifact, ModelRef, Precision, SuiteResult
from harness.verification import answers
from harness.verification.comparing import same
from harness.verification.model_worker import Recorded, Task
from harness.verification.report import Report, shown
from harness.verification.suites_at_hand import base_of
from harness.verification.verify import Verified

Say = Callable[[str], None]
"""Says what is going on."""


@dataclass(frozen=True)
class Asking:
    """What is asked of which model."""

    questions: int
    seed: int
    cell: str | None = None
    """Id or the beginning of one; None: the only cell whose model is at hand."""
    base: str | None = None
    """The base, where the record does not lead to it."""
    mirror: Path | None = None
    batch: int | None = None


# Scores that an embedder gives


def rescore(verified: Verified, say: Say) -> None:
    """Have scores that need an embedder computed again from the recorded answers."""
    report, read = Report(""), verified.folder
    wanted = [
        Recorded(cell, suite, read.samples[cell, name])
        for (cell, name), suite in verified.suites.items()
        if suite.embedder is not None
    ]
    here = [one for one in wanted if Path(one.suite.embedder.path).is_dir()]  # type: ignore[union-attr]
    if len(here) < len(wanted):
        report.trusts("an embedder is not here, so its scores stand: harness models pull")
    for sentence in list(verified.report.trusted):
        if sentence.startswith(tuple(f"{one.suite.name}: the scores " for one in here)):
            del verified.report.trusted[sentence]
    result = _run(Task(rescored=here), say) if here else {"rescored": []}
    for one, rows in zip(here, result["rescored"], strict=True):
        section = suites(read.records[one.cell])[one.suite.name]
        again = SuiteResult(rows, ())
        within = answers.OF_MODELS
        answers.compare(one.suite.name, section, list(one.rows), again, report, within=within)
    report.checked.clear()  # questions and the other scores are counted already
    report.counts("samples embedded again", sum(len(one.rows) for one in here))
    verified.report.takes(report, verified.place)


# Questions asked again


def ask(verified: Verified, asking: Asking, told: Publication | None, say: Say) -> None:
    """Ask a cell's model some of the questions, drawn with a seed, and compare the answers.

    Raises UserError where the model is not at hand, or is not the one that was measured.
    """
    record = _cell(verified, asking, told)
    artifact = (
        recorded_model(verified.folder.path, record, asking)
        if told is None
        else _published(verified.folder.path.parent, told, record, asking)
    )
    drawn = _drawn(verified, record, asking)
    if not drawn:
        raise UserError(f"--ask: no suite of cell {record['id']} is at hand: name --suites DIR")
    result = _run(Task(artifact, list(drawn), batch=asking.batch), say)
    _compare(verified, record, drawn, result["asked"], artifact.precision)


def _cell(verified: Verified, asking: Asking, told: Publication | None) -> Record:
    """The record whose model is asked."""
    records = verified.folder.records
    name = asking.cell or (told.cell if told else None)
    if name is None:
        home = verified.folder.path / "artifacts"
        near = [cell for cell, record in records.items() if (home / cell).is_dir()]
    else:
        near = [c for c in records if c == name] or [c for c in records if c.startswith(name)]
    if len(near) != 1:
        known = ", ".join(records)
        which = "the models of none are" if not near else "of several models are"
        raise UserError(f"--ask: {which} here: name one with --cell, of {known}")
    if told is not None and near[0] != told.cell:
        raise UserError(f"--cell {near[0]}: the folder has the model of {told.cell} alone")
    return records[near[0]]


def recorded_model(folder: Path, record: Record, asking: Asking) -> Artifact:
    """The model of a cell in a results folder."""
    if record["training"]:
        file = folder / "cells" / f"{record['id']}.json"
        return export.source(str(file), [folder], asking.base, asking.mirror).artifact
    base = export.base_of(record, base_of(record["plan"]), asking.base, asking.mirror)
    return _same(Artifact("base", base, **_opening(record)), record)


def _opening(record: Record) -> dict[str, Any]:
    """How a plan opens its model."""
    budget, data = record["plan"].get("budget") or {}, record["plan"].get("data") or {}
    precision: Precision = budget.get("precision", "float32")
    return {"precision": precision, "chat_template": data.get("chat_template")}


def _same(artifact: Artifact, record: Record) -> Artifact:
    evaluation = record["evaluation"]
    if evaluation is None or evaluation.get("artifact_hash") != artifact_hash(artifact):
        raise UserError(
            f"the model of {record['id']} cannot be opened as it was measured: its hash "
            "is another; name a trained cell"
        )
    return artifact


def _published(folder: Path, told: Publication, record: Record, asking: Asking) -> Artifact:
    """The model in a published folder."""
    stated = told.artifact
    path = str(folder.resolve())
    if told.made == "merged":
        precision: Any = told.precision
        return Artifact("base", ModelRef(told.name, path), precision=precision)
    base = export.base_of(record, base_of(record["plan"]), asking.base, asking.mirror)
    kind: Any = told.made
    return Artifact(
        kind,
        base,
        path,
        quantization=stated["quantization"],
        precision=stated["precision"],
        chat_template=stated["chat_template"],
    )


def _drawn(verified: Verified, record: Record, asking: Asking) -> list[Suite]:
    """The suites at hand with the questions that are drawn, and nobody who rates the answers."""
    cell = record["id"]
    own = {
        name: suite
        for (of, name), suite in verified.suites.items()
        if of == cell and suite.settings.get("engine") is None  # another engine's are its own
    }
    every = [(name, at) for name in own for at in range(len(verified.folder.samples[cell, name]))]
    count = min(asking.questions, len(every))
    chosen: dict[str, list[int]] = {}
    for name, at in random.Random(asking.seed).sample(every, count):
        chosen.setdefault(name, []).append(at)
    return [
        dataclasses.replace(
            own[name], picked=tuple(sorted(places)), judge=None, judge_labels=None, scorers=()
        )
        for name, places in chosen.items()
    ]


def _compare(
    verified: Verified,
    record: Record,
    drawn: Sequence[Suite],
    asked: Mapping[str, Rows],
    precision: Precision,
) -> None:
    """Answers may differ where two were nearly as likely; log-probabilities by rounding."""
    limits, report = USUAL[precision], Report("")
    changed: list[tuple[str, str, str]] = []
    count = 0
    for suite in drawn:
        recorded = {row["id"]: row for row in verified.folder.samples[record["id"], suite.name]}
        file = (suites(record)[suite.name].get("samples") or {"file": suite.name})["file"]
        for row in asked[suite.name]:
            count += 1
            known = recorded.get(row["id"])
            if known is None:
                report.fails(file, f"sample {row['id']}", "was asked again, and is not recorded")
            elif known.get("prompt") != row.get("prompt"):
                report.trusts(f"{suite.name}: a prompt changes with the questions that are drawn")
            else:
                _numbers(file, known, row, limits.difference, report)
                if known.get("output") != row.get("output"):
                    told = f"{shown(known.get('output'))}, asked again {shown(row.get('output'))}"
                    changed.append((file, f"sample {row['id']}: output", told))
    allowed = max(1, math.floor(limits.changed * count))
    for file, place, told in changed if len(changed) > allowed else ():
        report.fails(file, place, f"stated {told}")
    if changed and len(changed) <= allowed:
        report.trusts(f"{len(changed)} of {count} answers asked again differ, by rounding at most")
    report.counts("questions asked again", count)
    report.trusts(
        f"of {count} questions asked again {allowed} answers may differ, and a log-probability by "
        f"{limits.difference:g} nats a token or a fiftieth, in {precision}"
    )
    verified.report.takes(report, verified.place)


def _numbers(
    file: str, known: Mapping[str, Any], row: Mapping[str, Any], nats: float, report: Report
) -> None:
    """Log-probabilities of choices, and a text's per token."""
    pairs = list(zip(known.get("logprobs") or (), row.get("logprobs") or (), strict=False))
    for at, (stated, again) in enumerate(pairs):
        if abs(stated - again) > max(nats, 0.02 * abs(stated)):
            place = f"sample {row['id']}: logprobs[{at}]"
            report.fails(file, place, stated=stated, recomputed=again)
    own, other = known["scores"], row["scores"]
    if "nll" in own and "tokens" in own:
        if not same(own["tokens"], other.get("tokens")):
            place = f"sample {row['id']}: scores.tokens"
            report.fails(file, place, stated=own["tokens"], recomputed=other.get("tokens"))
        elif abs(own["nll"] - other["nll"]) / max(1, own["tokens"]) > nats:
            place = f"sample {row['id']}: scores.nll"
            report.fails(file, place, stated=own["nll"], recomputed=other["nll"])


def _run(task: Task, say: Say) -> Mapping[str, Any]:
    """The child's result. Raises HarnessError with what it says of a failure."""
    from pydantic import TypeAdapter

    event: Mapping[str, Any] = {}
    request = TypeAdapter(Task).dump_json(task)
    for event in child_process.events("harness.verification.model_worker", request):
        if "phase" in event:
            say(f"{event['phase']} ...")
    if "error" in event:
        raise UserError(str(event["error"]))
    if "result" not in event:
        raise HarnessError("the child that opens models was killed: most often for want of memory")
    result: Mapping[str, Any] = event["result"]
    return result
