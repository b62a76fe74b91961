"""Rows ranked by a judge, as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from harness.cli.render.grid import print_grid
from harness.cli.render.numbers import number, span


def print_ranking(ranking: Mapping[str, Any]) -> None:
    """A row for each row with its ranks, strength and verdicts; then what to know of them."""
    judge = ranking["judge"]
    click.echo(
        f"Judge {judge['name']} on {judge['model']['name']}: suite {ranking['suite']}, "
        f"{ranking['questions']} questions, each two rows in both orders"
    )
    columns = ["#", "row", "strength", "wins against a mean row", "won", "tied", "lost"]
    print_grid(columns, [_row(row) for row in ranking["rows"]])
    click.echo("Ranks are those that the differences leave open, at 5 % over all pairs (Holm).")
    if ranking["unbeaten"]:
        click.echo(
            f"{', '.join(ranking['unbeaten'])} never lost or tied against the other rows: a tie "
            "was added to each pair, without which the strength would be infinite"
        )
    consistency = judge.get("position_consistency")
    if consistency is not None:
        click.echo(f"Both orders agree on {consistency:.0%} of the pairs that differ.")
    if judge["level"] != "trusted":
        held = f"certified as {judge['level']}" if judge["level"] else "not certified"
        click.echo(f"The judge is {held}: `harness judge certify` measures its errors.")
    for warning in ranking["warnings"]:
        click.echo(f"Note: {warning}", err=True)


def _row(row: Mapping[str, Any]) -> list[object]:
    low, high = row["ranks"]
    figures = [_figure(row["strength"], "+"), _figure(row["win_rate"])]
    place = str(low) if low == high else f"{low}-{high}"
    return [place, row["label"], *figures, row["wins"], row["ties"], row["losses"]]


def _figure(figure: Mapping[str, Any], sign: str = "") -> str:
    return number(figure["value"], sign) + span(figure["ci_low"], figure["ci_high"], sign)
