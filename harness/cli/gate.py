"""`harness gate`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.compare import results
from harness.cli.render import gate_report
from harness.errors import HarnessError, NotComparable, UserError
from harness.results import comparability, gate, lookup, policy, store
from harness.system.hardware import no_collection

if TYPE_CHECKING:
    from harness.planning.cell import Cell
    from harness.runner.sequential_gate import Task


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    candidate: str
    baseline: str
    policy: Path | None
    places: Sequence[Path]
    junit: Path | None
    summary: Path | None
    as_json: bool
    measuring: Mapping[str, Any] | None = None
    """With --until-decided: how CANDIDATE, a model, is opened and asked."""


def run(asked: Asked) -> int:
    """Decide and report; the exit code."""
    rules = policy.load(asked.policy) if asked.policy else None
    places = results(asked.places)
    if asked.measuring is not None:
        return report(_measured(asked, asked.measuring, rules, places), asked)
    with no_collection():
        candidate = lookup.find(asked.candidate, places)
        baseline = lookup.baseline(asked.baseline, candidate, places)
        decision = gate.decide(candidate, baseline, rules)
    return report(decision, asked)


def report(decision: gate.Decision, asked: Asked) -> int:
    """Print the decision, write what was asked for; the exit code."""
    if asked.junit:
        _write(asked.junit, gate_report.junit(decision), "--junit")
    if asked.summary:
        _write(asked.summary, gate_report.markdown(decision), "--summary")
    if github := os.environ.get("GITHUB_STEP_SUMMARY"):
        _append(Path(github), gate_report.markdown(decision))
    if asked.as_json:
        click.echo(json.dumps(store.plain(decision.to_json()), indent=2, ensure_ascii=False))
        return decision.exit_code
    for line in gate_report.lines(decision):
        click.echo(line)
    for warning in decision.warnings:
        click.echo(f"Note: {gate_report.one_line(warning)}", err=True)
    return decision.exit_code


def _measured(
    asked: Asked, how: Mapping[str, Any], rules: policy.Loaded | None, places: list[Path]
) -> gate.Decision:
    """The decision on a model that is measured only as far as it takes."""
    from harness.runner import sequential_gate

    baseline = lookup.find(asked.baseline, places)
    _, checks = sequential_gate.checks_of(rules, baseline)
    cell = _cell(asked.candidate, how, list(dict.fromkeys(check.suite for check in checks)))
    for suite in cell.suites:
        if suite["judge"]:
            raise UserError(f"suite '{suite.name}' has a judge: leave --until-decided out")
        comparability.check_planned(suite, asked.candidate, baseline.group)
    task = sequential_gate.Task(cell, asked.baseline, places, asked.policy, how["batch"])
    return _child(task)


def _cell(model: str, how: Mapping[str, Any], suites: list[str]) -> Cell:
    """The cell that `harness eval` would measure."""
    from harness.cli import eval as eval_

    options = {name: value for name, value in how.items() if name != "batch"}
    given = eval_.Given(
        model=model,
        base=None,
        label=None,
        suites=suites,
        out=None,
        template=None,
        as_json=True,
        **options,
    )
    return eval_.planned(replace(given, label=eval_.default_label(given))).cells[-1]


def _child(task: Task) -> gate.Decision:
    """Run the task in a child process and tell of its looks."""
    from pydantic import TypeAdapter

    from harness.system import child_process

    told: Mapping[str, Any] = {}
    for told in child_process.events(
        "harness.runner.sequential_gate", TypeAdapter(type(task)).dump_json(task)
    ):
        if "look" in told:
            click.echo(_look(told["look"]), err=True)
    if "error" in told:
        errors = {NotComparable.exit_code: NotComparable, UserError.exit_code: UserError}
        raise errors.get(told["exit_code"], HarnessError)(told["error"])
    return TypeAdapter(gate.Decision).validate_python(told["decision"])


def _look(look: Mapping[str, Any]) -> str:
    samples = [f"{n} of {look['of'][suite]} of {suite}" for suite, n in look["samples"].items()]
    return f"{', '.join(samples)}: {look['decided']} of {look['rules']} rules decided"


def _write(file: Path, text: str, option: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        store.write_text(file, text)
    except OSError as error:
        raise UserError(f"{option} {file}: {error.strerror}; name a file to write") from None


def _append(file: Path, text: str) -> None:
    try:
        with file.open("a", encoding="utf-8") as out:
            out.write(text + "\n")
    except OSError as error:
        raise UserError(f"GITHUB_STEP_SUMMARY {file}: {error.strerror}") from None
