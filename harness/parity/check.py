"""A parity check from its request to its report."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, UserError
from harness.parity import figures as of_figures
from harness.parity import verdicts
from harness.parity.causes import Cause, causes, reading
from harness.parity.figures import Figure
from harness.parity.seen import USUAL, Form, Limits, Seen
from harness.parity.subject import Subject
from harness.results import store
from harness.results.parity import reports
from harness.system import child_process

if TYPE_CHECKING:
    from harness.parity.worker import Result, Task

Say = Callable[[str], None]
SHOWN = 5
"""Answers that part and are kept in the report with both texts."""
PASSES = {"same", "quantisation only"}
"""Causes with which a form may be within its limits."""


@dataclass(frozen=True)
class Parity:
    """What a check came to."""

    cell: str
    label: str
    form: Form
    limits: Limits
    causes: Sequence[Cause]
    figures: Mapping[str, Figure]
    suites: Mapping[str, Mapping[str, verdicts.Verdict]]
    first: Sequence[Mapping[str, Any]]
    """Of each answer that parts: suite, row, place, both tokens and the gap."""
    shown: Sequence[Mapping[str, Any]]
    """Some of these with both answers."""
    notes: Sequence[str]
    prompts: int
    beyond: Sequence[str]
    """Figures beyond their limits."""

    @property
    def same(self) -> bool:
        """Whether the form is the model that was measured, within the limits."""
        return not self.beyond and {cause.name for cause in self.causes} <= PASSES

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return 0 if self.same else 1


def limits_of(
    subject: Subject, changed: float | None, mean: float | None, largest: float | None
) -> Limits:
    """Those of the cell's precision, but for what is given."""
    usual = USUAL[subject.artifact.precision]
    return Limits(
        usual.changed if changed is None else changed,
        usual.mean if mean is None else mean,
        usual.largest if largest is None else largest,
    )


def run(task: Task, say: Say) -> Result:
    """What the worker saw. Raises HarnessError with what it says of a failure."""
    from pydantic import TypeAdapter

    from harness.parity.worker import Result

    event: Mapping[str, Any] = {}
    request = TypeAdapter(type(task)).dump_json(task)
    for event in child_process.events("harness.parity.worker", request):
        if "phase" in event:
            say(f"{event['phase']} ...")
    if "error" in event:
        kind = UserError if event["exit_code"] == UserError.exit_code else HarnessError
        raise kind(str(event["error"]))
    if "result" not in event:
        raise UserError("the child that opens models was killed: most often for want of memory")
    return TypeAdapter(Result).validate_python(event["result"])


def judged(
    subject: Subject, limits: Limits, result: Result, not_scored: Mapping[str, str]
) -> Parity:
    """The verdict on what was seen."""
    seen, form = result.seen, result.form
    figures = of_figures.figures(seen)
    named = causes(
        seen, limits, bos=result.bos, quantisation=form.quantisation, context=form.context
    )
    suites = {
        name: verdicts.of_suite(subject, name, rows) for name, rows in result.rows.items() if rows
    }
    parted = [one for one in seen if one.first is not None and not one.ends]
    return Parity(
        cell=subject.id,
        label=store.label(subject.record["plan"]),
        form=form,
        limits=limits,
        causes=named,
        figures=figures,
        suites=suites,
        first=[_first(one) for one in parted],
        shown=[_answers(one) for one in parted[:SHOWN]],
        notes=_notes(subject, result, figures, {**not_scored, **result.not_scored}),
        prompts=sum(not one.ends for one in seen),
        beyond=of_figures.beyond(seen, limits),
    )


def _first(one: Seen) -> dict[str, Any]:
    assert one.first is not None
    return {"suite": one.suite, "id": one.row, **vars(one.first)}


def _answers(one: Seen) -> dict[str, Any]:
    theirs = one.theirs.text if one.theirs else None
    return {"suite": one.suite, "id": one.row, "ours": one.ours.text, "theirs": theirs}


def _notes(
    subject: Subject,
    result: Result,
    figures: Mapping[str, Figure],
    not_scored: Mapping[str, str],
) -> list[str]:
    """What the figures do not say, and what to be careful about."""
    seen, notes = result.seen, []
    others = [name for name in result.answered_by if not _same_name(name, result.form.name)]
    if others:
        notes.append(
            f"the server answers as {', '.join(others)}, where {result.form.name} was asked for"
        )
    if "reproduced" in figures and figures["reproduced"].value < 1:
        share = figures["reproduced"]
        count = round((1 - share.value) * share.n)
        notes.append(
            f"{count} of {share.n} recorded answers are not what the cell's own model says here: "
            "another machine or library rounds otherwise"
        )
    if all(reading(one, result.bos) == "unknown" for one in seen):
        notes.append("the form does not say how it renders prompts: its template is not seen")
    if "kl" not in figures:
        notes.append(
            "the form gives no log-probabilities of our token ids: answers alone are judged"
        )
    if not any(one.ours.ended for one in seen):
        notes.append("no answer of the cell comes to an end: a missing stop cannot be told")
    if result.left_out:
        notes.append(f"{result.left_out} prompts are longer than the cell's own context")
    notes += [f"{suite}: not scored: {why}" for suite, why in not_scored.items()]
    others_of = [s for s in store.suites(subject.record) if s not in {one.suite for one in seen}]
    if others_of:
        notes.append(f"not asked, for their answers are no words: {', '.join(others_of)}")
    return notes


def _same_name(one: str, other: str) -> bool:
    """A server may answer with a path or a tag where a bare name was asked."""
    names = {Path(name).name.removesuffix(":latest") for name in (one, other)}
    return len(names) == 1


# ---- the report ----------------------------------------------------------------------------------


def to_json(parity: Parity) -> dict[str, Any]:
    """As the report file holds it, with its seal."""
    report = {
        "schema": reports.SCHEMA,
        "at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cell": parity.cell,
        "label": parity.label,
        "form": dict(vars(parity.form)),
        "verdict": "same" if parity.same else "not the same",
        "exit_code": parity.exit_code,
        "causes": [dict(vars(cause)) for cause in parity.causes],
        "prompts": parity.prompts,
        "figures": of_figures.to_json(parity.figures),
        "limits": dict(vars(parity.limits)),
        "beyond": list(parity.beyond),
        "suites": parity.suites,
        "first_differences": list(parity.first),
        "answers": list(parity.shown),
        "notes": list(parity.notes),
    }
    return store.seal(store.plain(report))


def write(subject: Subject, report: Mapping[str, Any]) -> Path:
    """Keep a report in the cell's results folder, one a cell and form."""
    identity = str(report["form"]["identity"])
    return store.write_json(reports.file_of(subject.home, subject.id, identity), report)


def identity_of(*parts: str) -> str:
    """A hash that stands for a form whose bytes are not at hand."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def lines(parity: Parity) -> list[str]:
    """The report for people."""
    form = parity.form
    engine = ", ".join(filter(None, [form.engine, form.quantisation]))
    told = [
        f"{parity.cell} ({parity.label}) against {form.name}" + (f" ({engine})" if engine else "")
    ]
    told += [f"  {parity.prompts} prompts of the cell's own suites through both"]
    told += [f"  {line}" for line in map(_figure_line, parity.figures.items()) if line]
    for suite, metrics in parity.suites.items():
        for metric, verdict in metrics.items():
            told.append(f"  {suite}.{metric}: {_verdict_line(verdict)}")
    if parity.first:
        told.append(f"  {len(parity.first)} answers part; the first of them:")
        told += [f"    {_parting_line(one)}" for one in parity.first[:SHOWN]]
    for number, cause in enumerate(parity.causes):
        told.append(f"{'Cause' if not number else 'Also'}: {cause.name}: {cause.because}")
        if cause.shown:
            told.append(f"    evaluated: {cause.shown['ours']!r}")
            told.append(f"    shipped:   {cause.shown['theirs']!r} ({cause.shown['difference']})")
    told += [f"Note: {note}" for note in parity.notes]
    beyond = f" ({'; '.join(parity.beyond)})" if parity.beyond else ""
    told.append("The same model, within the limits." if parity.same else f"NOT the same{beyond}.")
    return told


_WORDS = {
    "identical": "answers that are the same",
    "top1": "tokens whose likeliest is the same",
    "kl": "divergence of a token (KL, nats)",
    "mean_difference": "mean difference of a log-probability (nats)",
    "max_difference": "largest difference (nats)",
}


def _figure_line(of: tuple[str, Figure]) -> str:
    name, figure = of
    if name not in _WORDS:
        return ""
    interval = "" if figure.ci_low is None else f" [{figure.ci_low:.3g}, {figure.ci_high:.3g}]"
    return f"{_WORDS[name]}: {figure.value:.3g}{interval} of {figure.n}"


def _verdict_line(verdict: verdicts.Verdict) -> str:
    return (
        f"{verdict['value']:.3g} against {verdict['measured']:.3g}, {verdict['delta']:+.3g} "
        f"[{verdict['delta_ci_low']:+.3g}, {verdict['delta_ci_high']:+.3g}]: {verdict['verdict']}"
    )


def _parting_line(one: Mapping[str, Any]) -> str:
    return (
        f"{one['suite']} {one['id']}: after {one['at']} tokens {one['ours']!r}, shipped "
        f"{one['theirs']!r}, {one['gap']:.2g} nats apart"
    )
