"""A comparison for eyes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from harness.cli.render import numbers
from harness.system.console import plain_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

STYLES = {"better": "green", "worse": "red", "tied": "cyan", "cannot tell": "dim"}
_WIDTH = 300
"""Characters of a prompt or an answer."""


def pair(told: Mapping[str, Any]) -> RenderableType:
    """Two sides: metrics, the samples that changed most, what each cost."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_metrics(told), Text(_legend(told)), Text()]
    parts += [Text(line) for line in _changed(told)]
    parts += [_costs(told)]
    parts += [Text(line) for line in (*told["not_compared"], *told["warnings"])]
    return Group(*parts)


def several(told: Mapping[str, Any]) -> RenderableType:
    """Several rows against one: a line per metric, a column per row; then groups of tied rows."""
    from rich.console import Group
    from rich.text import Text

    rows = told["rows"]
    grid = plain_table()
    grid.add_column(Text(f"metric, against {told['against']}"), overflow="fold")
    for row in rows:
        grid.add_column(Text(row["candidate"]["label"]), overflow="fold")
    for name in dict.fromkeys(name for row in rows for name in row["metrics"]):
        grid.add_row(name, *(_change(row["metrics"].get(name)) for row in rows))
    lines = [f"{group['rank']}. {', '.join(group['rows'])}" for group in told["groups"]]
    warnings = dict.fromkeys(line for row in rows for line in row["warnings"])
    ranks = [f"By {told['ranked_by']}; rows of a group are tied with its first:", *lines]
    return Group(grid, *map(Text, [*(ranks if lines else []), *warnings]))


def _metrics(told: Mapping[str, Any]) -> Table:
    from rich.text import Text

    grid = plain_table()
    labels = [told[side]["label"] for side in ("candidate", "baseline")]
    grid.add_column("metric", overflow="fold")
    for title in (*labels, "difference", "p", "can see", "n"):
        grid.add_column(Text(title), justify="right")
    grid.add_column("verdict", no_wrap=True)
    for name, one in told["metrics"].items():
        change = numbers.number(one["delta"], "+")
        change += numbers.span(one["delta_ci_low"], one["delta_ci_high"], "+")
        grid.add_row(
            f"{name} {'↑' if one['higher_is_better'] else '↓'}",
            numbers.number(one["value"]),
            numbers.number(one["baseline"]),
            change,
            f"{one['p_adjusted']:.2g}",
            numbers.number(one["detectable"]),
            str(one["n"]),
            Text(one["verdict"], style=STYLES[one["verdict"]]),
        )
    return grid


def _legend(told: Mapping[str, Any]) -> str:
    return (
        f"Difference: {told['candidate']['label']} minus {told['baseline']['label']} on the same "
        f"samples, with its {100 * told['confidence']:g} % interval. p: adjusted for the "
        f"{len(told['metrics'])} metrics (Holm). Can see: the smallest true difference that this "
        "test finds 4 times in 5."
    )


def _changed(told: Mapping[str, Any]) -> Iterable[str]:
    for suite, both in told["samples"].items():
        for way in ("worse", "better"):
            for one in both[way]:
                scores = f"{one['baseline_score']:.3g} -> {one['score']:.3g}"
                yield f"{suite}, {way}: {one['id']} ({scores})"
                yield from _texts(one, told)
                yield ""


def _texts(one: Mapping[str, Any], told: Mapping[str, Any]) -> Iterable[str]:
    named = (
        ("prompt", one["prompt"]),
        ("reference", one["reference"]),
        (told["baseline"]["label"], one["baseline_output"]),
        (told["candidate"]["label"], one["output"]),
    )
    for name, text in named:
        if text is not None:
            yield f"  {name}: {_short(text)}"


def _short(text: Any) -> str:
    """The last turn of a conversation; the end of a long prompt is what is asked."""
    plain = text[-1]["content"] if isinstance(text, list) and text else str(text)
    plain = " ".join(plain.split())
    return plain if len(plain) <= _WIDTH else "... " + plain[-_WIDTH:]


def _costs(told: Mapping[str, Any]) -> Table:
    grid = plain_table()
    for title in ("cost", told["candidate"]["label"], told["baseline"]["label"]):
        grid.add_column(title, justify="right" if title != "cost" else "left")
    shown = {
        "train_seconds": numbers.duration,
        "evaluation_seconds": numbers.duration,
        "peak_memory_bytes": numbers.size,
        "trainable_parameters": numbers.count,
        "artifact_bytes": numbers.size,
    }
    for key, show in shown.items():
        sides = [told[side]["cost"][key] for side in ("candidate", "baseline")]
        grid.add_row(key.replace("_", " "), *map(show, sides))
    return grid


def _change(one: Mapping[str, Any] | None) -> RenderableType:
    from rich.text import Text

    if one is None:
        return Text("-")
    span = numbers.span(one["delta_ci_low"], one["delta_ci_high"], "+")
    change = numbers.number(one["delta"], "+") + span
    return Text(change) + Text(f"\n{one['verdict']}", style=STYLES[one["verdict"]])
