"""The leaderboard as a plain table of HTML: what a browser without JavaScript shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.cli.render.tables import columns
from harness.cli.report.markup import Markup, element, joined
from harness.cli.report.titles import titles
from harness.record import Record
from harness.results.leaderboard_layout import Leaderboard, Row

__all__ = ["table"]


def table(board: Leaderboard, by_id: Mapping[str, Record]) -> Markup:
    """A line per row: its place, its headline metrics with intervals and differences, its costs."""
    rows = board["rows"]
    names, costs = _names(board), columns.costs(rows)
    heading = ["#", "method", *(f"{name} {columns.arrow(rows, name)}" for name in names)]
    heads = [element("th", title, scope="col") for title in heading]
    heads += [element("th", cost.title, scope="col", class_="number") for cost in costs]
    lines = [
        element(
            "tr",
            element("td", columns.rank(row), class_="number"),
            element("th", title, columns.failure(row), scope="row"),
            *(_figure(row, name) for name in names),
            *(element("td", cost.show(row), class_="number") for cost in costs),
        )
        for row, title in zip(rows, titles(rows, by_id), strict=True)
    ]
    return element(
        "table",
        element("caption", _caption(board)),
        element("thead", element("tr", *heads)),
        element("tbody", *lines),
        class_="plain",
    )


def _names(board: Leaderboard) -> list[str]:
    """The metrics of the terminal's table, the one ranked by first."""
    names = columns.shown_names(board["rows"])
    by = board["ranked_by"]
    return [by, *(name for name in names if name != by)] if by in names else names


def _caption(board: Leaderboard) -> str:
    by = board["ranked_by"]
    ordered = f"Ordered by {by}. " if by else ""
    return (
        f"{ordered}Values with 95 % intervals; under them the paired difference to the base, "
        "with its interval."
    )


def _figure(row: Row, name: str) -> Markup:
    delta = columns.delta(row, name)
    verdict = columns.verdict(row["metrics"].get(name, {}))
    under: Sequence[object] = (element("br"), element("small", delta, class_=verdict or None))
    return element("td", joined(columns.value(row, name), *(under if delta else ())))
