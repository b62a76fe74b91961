"""A comparison as tables in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from harness.cli.render import judge_doubts, numbers
from harness.cli.render.tables.escapes import clipped, short_name
from harness.system.console import plain_table, printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from harness.results.comparison import (
        ChangedSample,
        Comparison,
        MetricDifference,
        RowComparison,
        SeveralComparisons,
    )

STYLES = {"better": "green", "worse": "red", "tied": "cyan", "cannot tell": "dim"}
ARMS: tuple[Literal["candidate"], Literal["baseline"]] = ("candidate", "baseline")
_WIDTH = 300
"""Characters of a prompt or an answer."""
_NOTE = 2000
"""Characters of a line below a table."""


def pair(comparison: Comparison) -> RenderableType:
    """Two rows: metrics, the samples that changed most, what each cost."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_metrics(comparison), Text(_legend(comparison))]
    parts += [*map(Text, _judge_lines([comparison])), Text()]
    parts += [Text(line) for line in _changed(comparison)]
    parts += [_costs(comparison)]
    lines = (*comparison["not_compared"], *comparison["warnings"])
    parts += [Text(_note(line)) for line in lines]
    return Group(*parts)


def several(report: SeveralComparisons) -> RenderableType:
    """Several rows against one: a line per metric, a column per row; then groups of tied rows."""
    from rich.console import Group
    from rich.text import Text

    rows = report["rows"]
    grid = plain_table()
    grid.add_column(Text(f"metric, against {report['against']}"), overflow="fold")
    for row in rows:
        grid.add_column(Text(short_name(row["candidate"]["label"])), overflow="fold")
    for name in dict.fromkeys(name for row in rows for name in row["metrics"]):
        of_rows = [row["metrics"].get(name) for row in rows]
        doubted = any(metric is not None and "judge" in metric for metric in of_rows)
        mark = f" {judge_doubts.MARK}" if doubted else ""
        grid.add_row(name + mark, *map(_change, of_rows), style="dim" if doubted else None)
    lines = [
        f"{group['rank']}. {', '.join(map(short_name, group['rows']))}"
        for group in report["groups"]
    ]
    warnings = dict.fromkeys(line for row in rows for line in row["warnings"])
    ranks = [
        f"By {report['ranked_by']}; rows of a group are not told apart from its first:",
        *lines,
    ]
    return Group(
        grid, *map(Text, [*(ranks if lines else []), *_judge_lines(rows), *map(_note, warnings)])
    )


def _note(line: str) -> str:
    return printable(clipped(line, _NOTE))


def _judge_lines(rows: Sequence[RowComparison]) -> list[str]:
    """Why figures of weak and failed judges are dimmed."""
    return judge_doubts.lines(
        (name, judge_doubts.said(judge["level"], judge["reason"]))
        for row in rows
        for name, metric in row["metrics"].items()
        if (judge := metric.get("judge"))
    )


def _metrics(comparison: Comparison) -> Table:
    from rich.text import Text

    grid = plain_table()
    labels = [short_name(comparison[arm]["label"]) for arm in ARMS]
    grid.add_column("metric", overflow="fold")
    for title in (*labels, "difference", "p", "can see", "n"):
        grid.add_column(Text(title), justify="right")
    grid.add_column("verdict", no_wrap=True)
    for name, metric in comparison["metrics"].items():
        change = numbers.number(metric["delta"], "+")
        change += numbers.span(metric["delta_ci_low"], metric["delta_ci_high"], "+")
        doubted = "judge" in metric
        mark = f" {judge_doubts.MARK}" if doubted else ""
        grid.add_row(
            f"{name} {'↑' if metric['higher_is_better'] else '↓'}{mark}",
            numbers.number(metric["value"]),
            numbers.number(metric["baseline"]),
            change,
            f"{metric['p_adjusted']:.2g}",
            numbers.number(metric["detectable"]),
            str(metric["n"]),
            Text(metric["verdict"], style=STYLES[metric["verdict"]]),
            style="dim" if doubted else None,
        )
    return grid


def _legend(comparison: Comparison) -> str:
    labels = [short_name(comparison[arm]["label"]) for arm in ARMS]
    return (
        f"Difference: {labels[0]} minus {labels[1]} on the same samples, with its "
        f"{100 * comparison['confidence']:g} % interval. p: adjusted for the "
        f"{len(comparison['metrics'])} metrics (Holm). Can see: the smallest true difference that "
        "this test finds 4 times in 5."
    )


def _changed(comparison: Comparison) -> Iterable[str]:
    for suite, changed in comparison["samples"].items():
        for direction, samples in (("worse", changed["worse"]), ("better", changed["better"])):
            for sample in samples:
                scores = f"{sample['baseline_score']:.3g} -> {sample['score']:.3g}"
                yield f"{suite}, {direction}: {sample['id']} ({scores})"
                yield from _texts(sample, comparison)
                yield ""


def _texts(sample: ChangedSample, comparison: Comparison) -> Iterable[str]:
    texts = (
        ("prompt", sample["prompt"]),
        ("reference", sample["reference"]),
        (short_name(comparison["baseline"]["label"]), sample["baseline_output"]),
        (short_name(comparison["candidate"]["label"]), sample["output"]),
    )
    for name, text in texts:
        if text is not None:
            yield f"  {name}: {_short(text)}"


def _short(text: object) -> str:
    """The last turn of a conversation; of a long prompt the end, which has the question."""
    plain = text[-1]["content"] if isinstance(text, list) and text else str(text)
    plain = printable(" ".join(plain.split()))
    return plain if len(plain) <= _WIDTH else "... " + plain[-_WIDTH:]


def _costs(comparison: Comparison) -> Table:
    grid = plain_table()
    for title in ("cost", *(short_name(comparison[arm]["label"]) for arm in ARMS)):
        grid.add_column(title, justify="right" if title != "cost" else "left")
    costs = [comparison[arm]["cost"] for arm in ARMS]
    rows = {
        "train seconds": [numbers.duration(cost["train_seconds"]) for cost in costs],
        "evaluation seconds": [numbers.duration(cost["evaluation_seconds"]) for cost in costs],
        "peak memory bytes": [numbers.size(cost["peak_memory_bytes"]) for cost in costs],
        "trainable parameters": [numbers.count(cost["trainable_parameters"]) for cost in costs],
        "artifact bytes": [numbers.size(cost["artifact_bytes"]) for cost in costs],
    }
    for title, figures in rows.items():
        grid.add_row(title, *figures)
    return grid


def _change(metric: MetricDifference | None) -> RenderableType:
    from rich.text import Text

    if metric is None:
        return Text("-")
    span = numbers.span(metric["delta_ci_low"], metric["delta_ci_high"], "+")
    change = numbers.number(metric["delta"], "+") + span
    return Text(change) + Text(f"\n{metric['verdict']}", style=STYLES[metric["verdict"]])
