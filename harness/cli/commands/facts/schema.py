"""`harness schema`."""

from __future__ import annotations

import json

import click

from harness.results import store


@click.command("schema")
@click.argument("name", type=click.Choice(["record", "leaderboard"]))
def command(name: str) -> None:
    """Print the JSON Schema of a record or a leaderboard."""
    click.echo(json.dumps(store.schema(name), indent=2))
