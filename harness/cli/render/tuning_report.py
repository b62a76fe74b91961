"""What `harness plan` and `harness run` say of the tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from harness.cli.render import numbers
from harness.planning.cell import Cell
from harness.planning.plan import Plan
from harness.record import Trial
from harness.results import store
from harness.runner.tuning import bracketing
from harness.runner.tuning.trials import folder_of, recorded_trials
from harness.system.console import console


def tuned_cells(plan: Plan) -> list[Cell]:
    """One cell of each search: the first seed's."""
    return list({cell.label: cell for cell in reversed(plan.cells) if cell.search}.values())[::-1]


def described(plan: Plan, out: Path) -> list[dict[str, Any]]:
    """The searches of a plan, for `harness plan --json`."""
    return [
        {
            "label": cell.label,
            **cell.search.as_record(),
            "most": cell.search.most,
            "recorded": recorded_trials(cell, out),
            "folder": str(folder_of(cell, out)),
        }
        for cell in tuned_cells(plan)
        if cell.search
    ]


def print_planned(plan: Plan, out: Path) -> None:
    """A line per method that is tuned, and one for those that are not."""
    searches = described(plan, out)
    for search in searches:
        click.echo(
            f"{search['label']}: {_counted(search)} trials of {search['steps']} steps, "
            f"{search['recorded']} recorded; {_space(search['space'])}"
        )
    untuned = [cell.label for cell in plan.cells if cell.budget.steps and not cell.search]
    if searches and untuned:
        labels = ", ".join(dict.fromkeys(untuned))
        click.echo(f"Not tuned, for the entry says what it takes: {labels}.")


def print_result(plan: Plan, out: Path) -> None:
    """What the trials chose, and the front where there are two objectives."""
    for cell in tuned_cells(plan):
        tuning = store.read_record(out / "cells" / f"{cell.id}.json")["plan"].get("tuning")
        if not tuning or tuning["chosen"] is None:
            continue
        trials, chosen = tuning["trials"], tuning["trials"][tuning["chosen"]]
        first = trials[0]["validation_loss"]
        click.echo(
            f"{cell.label}: {_values(chosen['options'])}, the best of "
            f"{len(trials)} trials: validation loss {chosen['validation_loss']:.4f}, "
            f"{'failed' if first is None else format(first, '.4f')} in the first; "
            f"{numbers.duration(tuning['seconds'])}"
        )
        if cell.search:
            for finding in bracketing.findings(cell.search, tuning):
                click.echo(f"{cell.label}: {finding}")
        if "front" in tuning:
            _print_front(cell.label, [trials[number] for number in tuning["front"]])


def _print_front(label: str, trials: Sequence[Trial]) -> None:
    from rich.table import Table

    grid = Table("trial", "options", "validation loss", "peak memory", title=f"Front of {label}")
    for trial in sorted(trials, key=_loss):
        grid.add_row(
            str(trial["number"] + 1),
            _values(trial["options"]),
            f"{_loss(trial):.4f}",
            numbers.size(trial["peak_memory_bytes"]),
        )
    console().print(grid)


def _loss(trial: Trial) -> float:
    loss = trial["validation_loss"]
    assert loss is not None  # a trial without a loss is on no front
    return loss


def _counted(search: Mapping[str, Any]) -> str:
    """`4`, or `up to 8`: more where the best of the planned ones lies at an edge."""
    planned, most = search["number_of_trials"], search["most"]
    return str(planned) if most == planned else f"up to {most}"


def _space(space: Mapping[str, Mapping[str, Any]]) -> str:
    """`lr 2e-05 to 0.01 (log), r one of 4, 8`."""
    return ", ".join(
        f"{option} one of {', '.join(map(str, where['choices']))}"
        if "choices" in where
        else f"{option} {where['low']} to {where['high']}{' (log)' if where['log'] else ''}"
        for option, where in space.items()
    )


def _values(options: Mapping[str, object]) -> str:
    """`lr=0.000213, r=8`."""
    return ", ".join(
        f"{key}={format(value, '.3g') if isinstance(value, float) else value}"
        for key, value in options.items()
    )
