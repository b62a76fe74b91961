"""`harness run`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from harness.api.executor import Executor
from harness.cli import options
from harness.cli.options import ExperimentOptions, MeasuringOptions
from harness.cli.render import leaderboard_table, tuning_report, why_report
from harness.cli.render.progress import progress
from harness.config.experiment import Experiment
from harness.planning.plan import Plan
from harness.results import store
from harness.runner.run import Outcome
from harness.sdk.running import execute, explain, load
from harness.system.console import console


@click.command("run")
@options.experiment
@options.measuring
@options.executor
@options.batch
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Cells at once, a free GPU (or a share of the cores) for each; default: 1.",
)
@click.option(
    "--split",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Workers that share the questions of one cell, where jobs are free. Figures are the same.",
)
@click.option(
    "--why", "explained", is_flag=True, help="Run nothing: say why each cell would run, or not."
)
@click.option("--tracker", "trackers", multiple=True, metavar="NAME", help="Report to it too.")
def command(
    measuring: MeasuringOptions,
    experiment: ExperimentOptions,
    executor: Executor,
    batch: int | None,
    jobs: int | None,
    split: int,
    explained: bool,
    trackers: Sequence[str],
) -> None:
    """Run an experiment FILE, or `quickstart`. What is recorded already is not run again."""
    if explained:
        _explain(load(experiment.experiment, experiment.overrides), measuring, experiment.methods)
        return
    sys.exit(
        run(
            load(experiment.experiment, experiment.overrides),
            measuring,
            executor,
            batch,
            methods=experiment.methods,
            trackers=trackers,
            jobs=jobs,
            split=split,
        )
    )


def run(
    experiment: Experiment,
    measuring: MeasuringOptions,
    executor: Executor,
    batch: int | None,
    *,
    methods: str = "",
    trackers: Sequence[str] = (),
    chat_template: str | None = None,
    jobs: int | None = None,
    split: int = 1,
) -> int:
    """Run an experiment's cells, show the leaderboard and return the exit code.

    `jobs` cells at once, None for one or as many as the executor runs; `split` workers for one cell
    where jobs are free; `batch` sequences at once, None for what memory allows; `methods` and
    `chat_template` as in `plan_of`; `trackers` in addition to those of the experiment.
    """
    screen = progress(json=measuring.as_json)
    with screen:
        finished = execute(
            experiment,
            measuring,
            executor,
            batch,
            methods=methods,
            trackers=trackers,
            chat_template=chat_template,
            jobs=jobs,
            split=split,
            screen=screen,
            note=_print_note,
        )
    _print_outcome(finished.plan, finished.outcome, finished.out, measuring.as_json)
    return finished.outcome.exit_code


def _explain(experiment: Experiment, measuring: MeasuringOptions, methods: str) -> None:
    screen = progress(json=measuring.as_json)
    with screen:
        reasons = explain(experiment, measuring, screen, methods=methods)
    why_report.print_reasons(reasons, measuring.as_json)


def _print_note(line: str) -> None:
    """On standard error, so that `--json` stays JSON."""
    click.echo(line, err=True)


def _print_outcome(plan: Plan, outcome: Outcome, out: Path, as_json: bool) -> None:
    if as_json:
        click.echo(leaderboard_table.render(outcome.board, "json"))
        return
    console().print(leaderboard_table.render(outcome.board))
    tuning_report.print_result(plan, out)
    before = len(outcome.skipped) - len(outcome.elsewhere)
    if outcome.elsewhere:
        click.echo(f"{len(outcome.elsewhere)} cells were run by other runs of {out} meanwhile.")
    if outcome.ran:
        click.echo(f"{len(outcome.ran)} cells ran, {before} were recorded already.")
    elif not outcome.elsewhere:
        click.echo(f"Nothing to do: all {before} cells are recorded in {out}.")
    for cell in outcome.failed:
        record = store.read_record(out / "cells" / f"{cell}.json")
        error = record["error"]
        assert error is not None  # its status is not ok
        click.echo(
            f"{cell}: {record['status']} in {error.get('phase') or 'its process'}: "
            f"{' '.join(error['message'].split())[:300]} (log: {out / 'logs' / cell}.log)",
            err=True,
        )
    click.echo(f"Leaderboard: {out / 'leaderboard.json'}")
