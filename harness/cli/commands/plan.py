"""`harness plan`: an experiment's cells, made for `harness run` and `harness eval` too."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from harness.cli import options
from harness.cli.options import ExperimentOptions, Finite, MeasuringOptions
from harness.cli.render import detection_report, tuning_report
from harness.cli.render.grid import print_grid
from harness.cli.render.memory_report import PredictionOptions, report
from harness.cli.render.progress import progress
from harness.data import checks
from harness.errors import UserError
from harness.manager import plugins
from harness.planning.cell import Cell, is_recorded
from harness.planning.detection import Question, detection_plan
from harness.planning.plan import Plan
from harness.results import store
from harness.results.detection.plan import DetectionPlan
from harness.runner.tracking import named
from harness.sdk.running import load, notes, plan_of
from harness.system import child_process
from harness.system.hardware import planning_for


@dataclass(frozen=True)
class DetectOptions:
    """What is to be told from zero, and where the earlier records are."""

    detect: float | None
    folders: Sequence[Path]
    metrics: Sequence[str]

    def check(self) -> None:
        """Raise UserError for options that --detect alone has."""
        for option, given in (("--from", self.folders), ("--metric", self.metrics)):
            if given and self.detect is None:
                raise UserError(f"{option} is for --detect D, the difference to be told from zero")


@click.command("plan")
@options.experiment
@options.measuring
@click.option(
    "--show-tokens", is_flag=True, help="Show training rows as tokens, what is trained on marked."
)
@click.option("--rows", type=click.IntRange(min=1), default=2, help="Rows for --show-tokens.")
@click.option("--memory", metavar="SIZE", help="Show what fits, such as into 24GB or 80GiB.")
@click.option(
    "--gpu",
    metavar="NAME",
    help="With --memory: plan for this GPU (A100, RTX 4090, T4 ...), not for this machine.",
)
@click.option(
    "--trace", is_flag=True, help="Run a step symbolically too, for each method: a minute or so."
)
@click.option("--price-per-hour", type=Finite(min=0), help="Of this machine, in dollars.")
@click.option(
    "--detect",
    type=Finite(min=0, min_open=True),
    metavar="D",
    help="Seeds and samples that tell a difference of D, by earlier records; 0.02 of a share, or "
    "of a perplexity as a part of it.",
)
@click.option(
    "--from",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --detect: more results folders.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="With --detect: suite.metric, or a pattern. Default: the first metric of each suite.",
)
@options.collected(DetectOptions)
@options.collected(PredictionOptions)
def command(
    prediction: PredictionOptions,
    detect: DetectOptions,
    measuring: MeasuringOptions,
    given: ExperimentOptions,
    show_tokens: bool,
    rows: int,
) -> None:
    """Show an experiment's cells, which are recorded, and predicted memory. Trains nothing.

    Peak memory and time are predicted by formula from the model's configuration, its tokenizer and
    the rows; --trace runs the real model's code without weights, for what is not quantised.
    --detect says what it would cost to know: whether another seed or more samples tell more.
    """
    if show_tokens and measuring.as_json:
        raise UserError("--show-tokens prints text: leave out --json")
    prediction.check()
    detect.check()
    experiment = load(given.experiment, given.overrides)
    with planning_for(prediction.machine()):
        with progress(json=measuring.as_json) as screen:
            plan = plan_of(experiment, measuring, screen, methods=given.methods)
        named(plugins(), experiment, ())
        out = measuring.out or Path("results") / plan.experiment
        detection = _detection(plan, out, given.experiment, detect, prediction)
        print_notes(plan, out)
        print_plan(plan, out, prediction, measuring.as_json, detection)
    if show_tokens:
        _print_tokens(plan, rows)


def print_notes(plan: Plan, out: Path) -> None:
    """What to be careful about, on standard error."""
    for note in notes(plan, out):
        click.echo(f"Note: {note}", err=True)


def _detection(
    plan: Plan, out: Path, file: str, detect: DetectOptions, prediction: PredictionOptions
) -> DetectionPlan | None:
    """What it would cost to know; None where that was not asked."""
    if detect.detect is None:
        return None
    price = prediction.price_per_hour
    question = Question(detect.detect, file, out, detect.folders, detect.metrics, price)
    return detection_plan(plan, question, plugins())


def print_plan(
    plan: Plan,
    out: Path,
    prediction: PredictionOptions,
    as_json: bool,
    detection: DetectionPlan | None = None,
) -> None:
    """Print a plan's cells, whether they are recorded, its tuning and predicted memory.

    `detection` is what it would cost to know, where that was asked.
    """
    cells = [_cell_document(cell, is_recorded(out, cell)) for cell in plan.cells]
    memory = report(plan.cells, prediction)
    lengths = {_length(cell, plan.epochs) for cell in plan.cells if cell.data and plan.epochs}
    warnings = dict.fromkeys(n for cell in plan.cells for n in checks.warnings(cell.data))
    notes = [*prediction.notes(), *sorted(lengths), *warnings]
    if as_json:
        for cell, predicted in zip(cells, memory.cells, strict=True):
            cell["memory"] = predicted.as_json()
        document = {
            "experiment": plan.experiment,
            "epochs": plan.epochs,
            "cells": cells,
            "tuning": tuning_report.described(plan, out),
            "advice": memory.advice,
            "notes": notes,
        }
        if detection is not None:
            document["detect"] = store.plain(detection.to_json())
        click.echo(json.dumps(document, indent=2))
    else:
        _print_cells(cells, out)
        tuning_report.print_planned(plan, out)
        memory.show()
        for note in notes:
            click.echo(f"Note: {note}")
        if detection is not None:
            detection_report.show(detection)


def _length(cell: Cell, epochs: float | None) -> str:
    assert cell.data is not None
    budget = cell.budget
    return (
        f"budget.epochs: {epochs:g} of {cell.data.rows} rows are {budget.steps} steps of "
        f"{budget.batch} rows"
    )


def _cell_document(cell: Cell, recorded: bool) -> dict[str, object]:
    return {
        "id": cell.id,
        "label": cell.label,
        "method": cell.method,
        "seed": cell.seed,
        "options": dict(cell.options),
        "model": cell.model.name,
        "precision": cell.budget.precision,
        "steps": cell.budget.steps,
        "rows": cell.data.rows if cell.data else 0,
        "suites": {suite.name: suite.hash for suite in cell.suites},
        "recorded": recorded,
    }


def _print_cells(cells: Sequence[dict[str, Any]], out: Path) -> None:
    rows = [
        [
            *(cell[key] for key in ("id", "method", "seed", "steps", "precision")),
            ", ".join(cell["suites"]),
            "yes" if cell["recorded"] else "no",
        ]
        for cell in cells
    ]
    print_grid(["cell", "method", "seed", "steps", "precision", "suites", "recorded"], rows)
    click.echo(f"{sum(not cell['recorded'] for cell in cells)} cells to run into {out}.")


def _print_tokens(plan: Plan, count: int) -> None:
    """Tokenise in a child process: this one never imports transformers."""
    from pydantic import TypeAdapter

    cell = next((c for c in plan.cells if c.data), None)
    if cell is None:
        raise UserError("--show-tokens: no method of this experiment trains")
    done = subprocess.run(
        child_process.command("harness.planning.show_tokens", str(count)),
        input=TypeAdapter(Cell).dump_json(cell),
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise UserError(f"--show-tokens: {''.join(reason) or 'the rows could not be tokenised'}")
