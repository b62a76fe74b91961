"""`harness gate`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import options
from harness.cli.options import MeasuringOptions
from harness.cli.render import gate_plan_report, gate_report
from harness.errors import HarnessError, NotComparable, UserError
from harness.results import comparability, gate, lookup, policy, store
from harness.results.detection import gate_plan
from harness.sdk.comparing import gate as sdk_gate
from harness.system.hardware import no_collection

if TYPE_CHECKING:
    from harness.planning.cell import Cell
    from harness.runner.sequential_gate import Task
    from harness.types import Event


@dataclass(frozen=True)
class GateOptions:
    """What is compared, by which rules, and where the decision is written."""

    candidate: str
    baseline: str
    policy: Path | None
    results_folders: Sequence[Path]
    junit: Path | None
    summary: Path | None
    metrics: Path | None
    annotations: bool
    as_json: bool
    plan: bool = False


@dataclass(frozen=True)
class SequentialOptions:
    """With --until-decided: how CANDIDATE, a model, is opened and measured."""

    adapter: str | None
    load_in_4bit: bool
    precision: str
    limit: int | None
    suite_folders: Sequence[Path]
    mirror: Path | None
    batch: int | None


@click.command("gate")
@click.argument("candidate")
@click.option("--baseline", required=True, metavar="B", help="What it is compared with; or `base`.")
@click.option(
    "--policy",
    type=click.Path(path_type=Path),
    help="Rules. Default: each suite's first figure, by 0.02 of a share or else 5%.",
)
@options.results_folders
@click.option("--plan", is_flag=True, help="Only say what the samples at hand can decide.")
@click.option("--junit", type=click.Path(path_type=Path), help="Write JUnit XML here.")
@click.option("--summary", type=click.Path(path_type=Path), help="Write Markdown here.")
@click.option("--metrics", type=click.Path(path_type=Path), help="Write OpenMetrics here.")
@click.option(
    "--annotations",
    is_flag=True,
    envvar="GITHUB_ACTIONS",
    help="Print GitHub's `::error` and `::warning` lines; on in GitHub Actions.",
)
@options.as_json
@click.option(
    "--until-decided",
    is_flag=True,
    help="CANDIDATE is a model: measure until the rules decide.",
)
@options.adapter
@options.load_in_4bit
@options.precision
@options.limit
@options.suite_folders
@options.mirror
@options.batch
@options.collected(SequentialOptions)
@options.collected(GateOptions)
def command(given: GateOptions, sequential: SequentialOptions, until_decided: bool) -> None:
    """Whether CANDIDATE may be released: exit 0 pass, 1 worse, 3 cannot tell, 4 not comparable."""
    if not until_decided:
        _reject_sequential_options(click.get_current_context())
    if given.plan and (until_decided or given.junit or given.summary or given.metrics):
        raise UserError(
            "--plan decides nothing: leave --until-decided, --junit, --summary and --metrics out"
        )
    folders = options.existing_results(given.results_folders)
    if until_decided:
        rules = policy.load(given.policy) if given.policy else None
        sys.exit(report(_decide_on_model(given, sequential, rules, folders), given))
    if given.plan:
        return _plan(given, folders)
    gated = sdk_gate(given.candidate, given.baseline, policy_file=given.policy, results=folders)
    sys.exit(report(gated.decision, given))


def _plan(given: GateOptions, folders: Sequence[Path]) -> None:
    """What the samples at hand can decide."""
    rules = policy.load(given.policy) if given.policy else None
    with no_collection():
        candidate = lookup.find(given.candidate, folders)
        baseline = lookup.baseline(given.baseline, candidate, folders)
        _print_plan(gate_plan.plan(candidate, baseline, rules), given.as_json)


def _print_plan(planned: gate_plan.GatePlan, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(store.plain(planned.to_json()), indent=2, ensure_ascii=False))
        return
    for line in gate_plan_report.lines(planned):
        click.echo(line)
    for note in planned.notes:
        click.echo(f"Note: {gate_report.one_line(note)}", err=True)


def _reject_sequential_options(context: click.Context) -> None:
    """Raise UserError for an option of a measurement where only records are compared."""
    names = {field.name for field in fields(SequentialOptions)}
    typed = click.core.ParameterSource.COMMANDLINE
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is typed:
            raise UserError(f"{option.opts[0]} is for --until-decided, where CANDIDATE is a model")


def report(decision: gate.Decision, given: GateOptions) -> int:
    """Print the decision, write the reports that options name, and return the exit code."""
    if given.junit:
        _write(given.junit, gate_report.junit(decision), "--junit")
    if given.summary:
        _write(given.summary, gate_report.markdown(decision), "--summary")
    if given.metrics:
        _write(given.metrics, gate_report.openmetrics(decision), "--metrics")
    if given.annotations:
        for line in gate_report.github_annotations(decision):
            click.echo(line, err=True)
    if github := os.environ.get("GITHUB_STEP_SUMMARY"):
        _append(Path(github), gate_report.markdown(decision))
    if given.as_json:
        click.echo(json.dumps(store.plain(decision.to_json()), indent=2, ensure_ascii=False))
        return decision.exit_code
    for line in gate_report.lines(decision):
        click.echo(line)
    for warning in decision.warnings:
        click.echo(f"Note: {gate_report.one_line(warning)}", err=True)
    return decision.exit_code


def _decide_on_model(
    given: GateOptions,
    sequential: SequentialOptions,
    rules: policy.Loaded | None,
    folders: list[Path],
) -> gate.Decision:
    """The decision on a model, which is measured on no more samples than it needs."""
    from harness.runner import sequential_gate

    baseline = lookup.find(given.baseline, folders)
    _, checks = sequential_gate.checks_of(rules, baseline)
    suites = list(dict.fromkeys(check.suite for check in checks))
    cell = _cell_of(given.candidate, sequential, suites)
    for suite in cell.suites:
        if suite.judge:
            raise UserError(f"suite '{suite.name}' has a judge: leave --until-decided out")
        comparability.check_planned(suite, given.candidate, baseline.group)
    task = sequential_gate.Task(cell, given.baseline, folders, given.policy, sequential.batch)
    return _decide_in_child(task)


def _cell_of(name: str, sequential: SequentialOptions, suites: list[str]) -> Cell:
    """The cell that `harness eval` would measure."""
    from harness.cli.commands import eval as eval_command

    model = eval_command.ModelOptions(
        name,
        adapter=sequential.adapter,
        load_in_4bit=sequential.load_in_4bit,
        suites=suites,
        precision=sequential.precision,
    )
    measuring = MeasuringOptions(
        limit=sequential.limit,
        suite_folders=sequential.suite_folders,
        mirror=sequential.mirror,
        as_json=True,
    )
    model = replace(model, label=eval_command.default_label(model))
    return eval_command.planned(model, measuring).cells[-1]


def _decide_in_child(task: Task) -> gate.Decision:
    """Run the task in a child process and print each interim analysis on standard error."""
    from pydantic import TypeAdapter

    from harness.system import child_process

    event: Event = {}
    for event in child_process.events(
        "harness.runner.sequential_gate", TypeAdapter(type(task)).dump_json(task)
    ):
        if "interim" in event:
            click.echo(_interim_line(event["interim"]), err=True)
    if "error" in event:
        errors = {NotComparable.exit_code: NotComparable, UserError.exit_code: UserError}
        raise errors.get(event["exit_code"], HarnessError)(event["error"])
    return TypeAdapter(gate.Decision).validate_python(event["decision"])


def _interim_line(interim: Mapping[str, Any]) -> str:
    samples = [
        f"{count} of {interim['of'][suite]} of {suite}"
        for suite, count in interim["samples"].items()
    ]
    return f"{', '.join(samples)}: {interim['decided']} of {interim['rules']} rules decided"


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
