"""What `harness run --why` says: of each cell whether it would run, why, and from where on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import click

from harness.planning.differences import Difference
from harness.runner.why import Reason

LONGEST = 80
"""Characters of a value."""


def print_reasons(reasons: Sequence[Reason], as_json: bool) -> None:
    """Print them for people, or as JSON: an object a cell."""
    if as_json:
        rows = [{"runs": one.runs, **dataclasses.asdict(one)} for one in reasons]
        click.echo(json.dumps(rows, indent=2))
        return
    for one in reasons:
        click.echo(f"{one.cell}: {'runs' if one.runs else 'does not run'}: {one.why}")
        for difference in one.differences:
            click.echo(f"    {_line(difference)}")
        for line in one.goes_on:
            click.echo(f"    {line}")
    count = sum(one.runs for one in reasons)
    click.echo(f"{count} of {len(reasons)} cells would run.")


def _line(difference: Difference) -> str:
    return f"{difference.what}: {_value(difference.before)} -> {_value(difference.now)}"


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
