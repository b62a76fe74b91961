"""The columns of a leaderboard: what stands in each, what it is called, and how it orders rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from harness.cli.render import judge_doubts, numbers
from harness.cli.render.tables import escapes
from harness.errors import UserError, nearest

__all__ = [
    "Board",
    "Column",
    "Metric",
    "Row",
    "arrow",
    "chosen",
    "costs",
    "default",
    "delta",
    "doubted",
    "every",
    "failure",
    "metric_names",
    "narrowed",
    "of_metrics",
    "rank",
    "shown_names",
    "sorted_by",
    "titles",
    "value",
    "verdict",
]

DETAILED = 8
"""Metrics of a suite up to which each subject and domain has its line."""
LABEL = "label"
DELTA = ".delta"
"""Behind a metric's name: its difference to the base."""
_MEMORY = {"cuda": "peak GPU memory", "host": "peak host memory"}

Board = Mapping[str, Any]
"""A leaderboard, of `leaderboard.build`."""
Row = Mapping[str, Any]
Metric = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table with a row per row of the leaderboard."""

    name: str
    """What `--columns` and `--sort` call it."""
    title: str
    show: Callable[[Row], str]
    """Its cell for people."""
    key: Callable[[Row], Any]
    """What orders rows: a number or a text; None for a row that has none."""
    best_first: bool = False
    """Whether the highest stands first."""
    fields: Mapping[str, Callable[[Row], Any]] = field(default_factory=dict)
    """The columns of a spreadsheet: header -> the figure."""


def every(board: Board) -> list[Column]:
    """All columns that a table of the board can have; one name can have two, a kind of memory each.

    In order: each metric and its difference to the base, costs, options, then the rest.
    """
    rows = board["rows"]
    found = of_metrics(rows, metric_names(rows))
    options = dict.fromkeys(key for row in rows for key in row["options"])
    return [
        *found,
        *costs(rows),
        *(_of_option(key) for key in options),
        _plain("model", "model", lambda row: row["model"]),
        _plain("seeds", "seeds", lambda row: ", ".join(map(str, row["seeds"]))),
        _plain("status", "status", lambda row: row["status"]),
        _plain("cells", "cells", lambda row: ", ".join(row["cells"])),
        _ties(),
    ]


def default(board: Board) -> list[Column]:
    """The columns of a Markdown table where none are chosen."""
    rows = board["rows"]
    found = of_metrics(rows, shown_names(rows))
    return [*found, *costs(rows), _ties()]


def chosen(board: Board, patterns: Sequence[str]) -> list[Column]:
    """The columns that names or patterns (`forgetting.*`, `*.delta`) stand for, in that order.

    Raises UserError for one that stands for none.
    """
    known, found = every(board), []
    for pattern in patterns:
        same = [column for column in known if column.name == pattern]
        same = same or [column for column in known if fnmatchcase(column.name, pattern)]
        if not same:
            names = nearest(pattern, {column.name for column in known})
            raise UserError(f"--columns: no column '{pattern}': {names}")
        found += [column for column in same if column not in found]
    return found


def narrowed(board: Board, columns: Sequence[Column]) -> Board:
    """The board with no metrics but those of some columns."""
    names = {column.name.removesuffix(DELTA) for column in columns}
    rows = [
        {**row, "metrics": {key: of for key, of in row["metrics"].items() if key in names}}
        for row in board["rows"]
    ]
    return {**board, "rows": rows}


def sorted_by(board: Board, name: str) -> Board:
    """The board with its rows in the order of a column, best first; `-name` the other way round.

    `label` orders by name. Rows without the figure come last. Raises UserError for no such column.
    """
    wanted = name.removeprefix("-")
    known = [_plain(LABEL, LABEL, lambda row: row["label"]), *every(board)]
    column = next((column for column in known if column.name == wanted), None)
    if column is None:
        names = nearest(wanted, {column.name for column in known})
        raise UserError(f"--sort: no column '{wanted}': {names}")
    keys = [column.key(row) for row in board["rows"]]
    kept = [(key, row) for key, row in zip(keys, board["rows"], strict=True) if key is not None]
    if any(isinstance(key, str) for key, _ in kept):
        kept = [(str(key), row) for key, row in kept]
    backwards = column.best_first != name.startswith("-")
    kept.sort(key=lambda pair: pair[0], reverse=backwards)
    without = [row for key, row in zip(keys, board["rows"], strict=True) if key is None]
    return {**board, "rows": [*(row for _, row in kept), *without]}


# Kinds of columns


def of_metrics(rows: Sequence[Row], names: Sequence[str]) -> list[Column]:
    """Of each metric its value and its difference to the base."""
    return [column for name in names for column in _of_metric(rows, name)]


def _of_metric(rows: Sequence[Row], name: str) -> list[Column]:
    higher = _higher(rows, name)

    def figure(row: Row, key: str) -> Any:
        return row["metrics"].get(name, {}).get(key)

    def fields(keys: str) -> dict[str, Callable[[Row], Any]]:
        return {f"{name}.{key}": partial(figure, key=key) for key in keys.split()}

    return [
        Column(
            name,
            f"{name} {arrow(rows, name)}",
            lambda row: value(row, name),
            lambda row: figure(row, "value"),
            higher,
            fields("value stderr ci_low ci_high n higher_is_better"),
        ),
        Column(
            name + DELTA,
            f"{name} against base",
            lambda row: delta(row, name),
            lambda row: figure(row, "delta"),
            higher,
            fields("delta delta_ci_low delta_ci_high delta_p"),
        ),
    ]


def costs(rows: Sequence[Row]) -> list[Column]:
    """What rows cost; memory of the host and of a GPU never stand in one column."""
    found = [
        _cost("train_seconds", "train time", numbers.duration),
        _cost("evaluation_seconds", "eval time", numbers.duration),
    ]
    if any(row["cost"].get("tuning_seconds") is not None for row in rows):
        found.append(_cost("tuning_seconds", "tuning time", numbers.duration))
    for kind in _MEMORY:
        if any(row["cost"]["peak_memory_kind"] == kind for row in rows):
            found.append(_memory(kind))
    found += [
        _cost("trainable_parameters", "trainable", numbers.count),
        _cost("artifact_bytes", "artifact", numbers.size),
    ]
    if any(row["cost"].get("dollars") is not None for row in rows):
        found.append(_cost("dollars", "dollars", numbers.dollars))
    return found


def _cost(name: str, title: str, show: Callable[[Any], str]) -> Column:
    def figure(row: Row) -> Any:
        return row["cost"].get(name)

    return Column(name, title, lambda row: show(figure(row)), figure, fields={name: figure})


def _memory(kind: str) -> Column:
    name, of_kind = "peak_memory_bytes", "peak_memory_kind"

    def figure(row: Row) -> Any:
        return row["cost"][name] if row["cost"][of_kind] == kind else None

    fields: dict[str, Callable[[Row], Any]] = {
        key: lambda row, key=key: row["cost"][key]  # type: ignore[misc]
        for key in (name, of_kind)
    }
    return Column(name, _MEMORY[kind], lambda row: numbers.size(figure(row)), figure, fields=fields)


def _of_option(key: str) -> Column:
    def option(row: Row) -> Any:
        set_to = row["options"].get(key)
        simple = set_to is None or (
            isinstance(set_to, (int, float, str)) and not isinstance(set_to, bool)
        )
        return set_to if simple else str(set_to)

    def show(row: Row) -> str:
        set_to = option(row)
        return (
            "-" if set_to is None else f"{set_to:.3g}" if isinstance(set_to, float) else f"{set_to}"
        )

    name = f"options.{key}"
    return Column(name, key, show, option, fields={name: option})


def _ties() -> Column:
    return _plain("tied_with", "not told apart from", lambda row: ", ".join(row["tied_with"]))


def _plain(name: str, title: str, text: Callable[[Row], str]) -> Column:
    return Column(name, title, text, text, fields={name: text})


# Cells


def metric_names(rows: Sequence[Row]) -> list[str]:
    """Every metric of any row."""
    return list(dict.fromkeys(name for row in rows for name in row["metrics"]))


def shown_names(rows: Sequence[Row]) -> list[str]:
    """All metrics, or for a suite of many those that are not of a part of another."""
    metrics = {name: m for row in rows for name, m in row["metrics"].items()}
    sizes = Counter(name.partition(".")[0] for name in metrics)
    return [
        name
        for name in metric_names(rows)
        if sizes[name.partition(".")[0]] <= DETAILED or not _is_part(name, metrics)
    ]


def _is_part(name: str, metrics: Mapping[str, Metric]) -> bool:
    """A domain, or a task whose name begins with that of its group (`mmlu_anatomy`)."""
    where = metrics[name]["estimator"]["where"]
    if where is None or isinstance(where, Mapping):
        return where is not None
    groups = [g for g, m in metrics.items() if m["estimator"]["where"] is None]
    return any(name.startswith(f"{group}_") for group in groups)


def rank(row: Row) -> str:
    """Its place, or the best and the worst that it may have: `1-2`."""
    if row["rank"] is None:
        return "-"
    low, high = row.get("rank_range") or [row["rank"]] * 2
    return str(low) if low == high else f"{low}-{high}"


def titles(rows: Sequence[Row]) -> Callable[[Row], str]:
    """What names a row: its label, with the model where rows have several."""
    return partial(_title, several=len({row["model"] for row in rows}) > 1)


def _title(row: Row, several: bool) -> str:
    return escapes.short_name(f"{row['label']} ({row['model']})" if several else str(row["label"]))


def failure(row: Row) -> str:
    """` [oom]`; nothing of a row that is whole."""
    return "" if row["status"] == "ok" else f" [{row['status']}]"


def _higher(rows: Sequence[Row], name: str) -> bool:
    return next(
        bool(row["metrics"][name]["higher_is_better"]) for row in rows if name in row["metrics"]
    )


def arrow(rows: Sequence[Row], name: str) -> str:
    """Which way is better, and a mark where the metric's judge is to be doubted."""
    mark = f" {judge_doubts.MARK}" if doubted(rows, name) else ""
    return ("↑" if _higher(rows, name) else "↓") + mark


def doubted(rows: Sequence[Row], name: str) -> bool:
    """Whether the judge of the metric is to be doubted in any row."""
    return any(judge_doubts.doubt_of(row["metrics"].get(name, {})) for row in rows)


def value(row: Row, name: str) -> str:
    """`0.612 [0.571, 0.650]`."""
    metric = row["metrics"].get(name)
    if metric is None or metric["value"] is None:
        return "cannot tell" if metric and "correction" in metric else "-"
    return numbers.number(metric["value"]) + numbers.span(metric["ci_low"], metric["ci_high"])


def delta(row: Row, name: str, interval: bool = True) -> str:
    """`-1.2 [-1.5, -0.9] better`; the word stands only where the interval excludes zero."""
    metric = row["metrics"].get(name)
    if metric is None or metric["delta"] is None:
        return ""
    span = numbers.span(metric["delta_ci_low"], metric["delta_ci_high"], "+") if interval else ""
    return f"{numbers.number(metric['delta'], '+')}{span} {verdict(metric)}".rstrip()


def verdict(metric: Metric) -> str:
    """Better or worse than the base; empty where that is not told."""
    low, high = metric.get("delta_ci_low"), metric.get("delta_ci_high")
    if low is None or high is None or low <= 0 <= high:
        return ""
    return "better" if (low > 0) == metric["higher_is_better"] else "worse"
