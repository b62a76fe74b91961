"""`harness run`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import click

from harness.api.executor import Executor
from harness.cli import options
from harness.cli.commands.plan import load, plan_of, print_notes
from harness.cli.options import ExperimentOptions, MeasuringOptions
from harness.cli.render import leaderboard_table, tuning_report
from harness.cli.render.progress import progress
from harness.config.experiment import Experiment
from harness.errors import UserError
from harness.manager import plugins
from harness.planning.cell import is_recorded
from harness.planning.plan import Plan
from harness.results import store
from harness.runner import places
from harness.runner.places import Places
from harness.runner.run import Outcome, run_plan
from harness.runner.tracking import Tracking, chosen
from harness.system import hardware
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
@click.option("--tracker", "trackers", multiple=True, metavar="NAME", help="Report to it too.")
def command(
    measuring: MeasuringOptions,
    experiment: ExperimentOptions,
    executor: str,
    batch: int | None,
    jobs: int | None,
    trackers: Sequence[str],
) -> None:
    """Run an experiment FILE, or `quickstart`. What is recorded already is not run again."""
    sys.exit(
        run(
            load(experiment),
            measuring,
            executor,
            batch,
            methods=experiment.methods,
            trackers=trackers,
            jobs=jobs,
        )
    )


def run(
    experiment: Experiment,
    measuring: MeasuringOptions,
    executor: str,
    batch: int | None,
    *,
    methods: str = "",
    trackers: Sequence[str] = (),
    chat_template: str | None = None,
    jobs: int | None = None,
) -> int:
    """Run an experiment's cells, show the leaderboard and return the exit code.

    `jobs` cells at once, None for one or as many as the executor runs; `batch` sequences at once,
    None for what memory allows; `methods` and `chat_template` as in `plan_of`; `trackers` in
    addition to those of the experiment.
    """
    cell_executor = plugins().executors.get(executor)
    loaded_trackers = chosen(plugins(), experiment, trackers)
    screen = progress(json=measuring.as_json)
    with screen:
        plan = plan_of(experiment, measuring, screen, methods=methods, chat_template=chat_template)
        out = measuring.out or Path("results") / plan.experiment
        print_notes(plan, out)
        _check_writable(plan, out)
        screen.begin(len(plan.cells))
        tracking = Tracking(loaded_trackers, plan.experiment, out, _print_note)
        with _locked(plan, out), _places(plan, out, cell_executor, jobs) as held, tracking:
            cache = reusable_results(out)
            outcome = run_plan(
                plan, out, cell_executor, screen.observe, tracking, batch, cache, held
            )
    _print_outcome(plan, outcome, out, measuring.as_json)
    return outcome.exit_code


def _print_note(line: str) -> None:
    """On standard error, so that `--json` stays JSON."""
    click.echo(line, err=True)


def reusable_results(out: Path) -> Path | None:
    """The folder whose results folders may hold the same answers: `results/`, if `out` is in it.

    Elsewhere only `out` itself is searched: the user has not named the folders beside it.
    """
    results = Path("results").resolve()
    return results if out.resolve().parent == results else None


def _locked(plan: Plan, out: Path) -> AbstractContextManager[None]:
    """Hold `out` where a cell is to run, so that no two runs train the same one."""
    done = all(is_recorded(out, cell) for cell in plan.cells)
    return nullcontext() if done else store.held(out)


def _places(
    plan: Plan, out: Path, executor: Executor, jobs: int | None
) -> AbstractContextManager[Places | None]:
    """Where the workers run, held for this run; None where the executor decides.

    Raises UserError for a number of jobs that this executor or machine cannot run.
    """
    if not getattr(executor, "on_this_machine", False):
        if jobs is not None:
            raise UserError(
                f"--jobs: the executor '{executor.name}' says itself how many cells run at once: "
                "leave --jobs out"
            )
        return nullcontext()
    if all(is_recorded(out, cell) for cell in plan.cells):
        return nullcontext()
    return places.held(jobs or 1, hardware.facts(), _print_note)


def _check_writable(plan: Plan, out: Path) -> None:
    if all(is_recorded(out, cell) for cell in plan.cells):
        return
    for name in ("cells", "samples", "artifacts", "logs"):
        try:
            (out / name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=out / name):
                pass
        except OSError as error:
            place = f"--out {out}: cannot write {name}/ ({error.strerror})"
            raise UserError(f"{place}; name a folder to write to") from None


def _print_outcome(plan: Plan, outcome: Outcome, out: Path, as_json: bool) -> None:
    if as_json:
        click.echo(leaderboard_table.render(outcome.board, "json"))
        return
    console().print(leaderboard_table.render(outcome.board))
    tuning_report.print_result(plan, out)
    if not outcome.ran:
        click.echo(f"Nothing to do: all {len(outcome.skipped)} cells are recorded in {out}.")
    else:
        click.echo(f"{len(outcome.ran)} cells ran, {len(outcome.skipped)} were recorded already.")
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
