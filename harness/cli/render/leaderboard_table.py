"""The leaderboard for eyes and for spreadsheets: terminal, Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.cli.render import judge_doubts, numbers
from harness.errors import UserError, nearest
from harness.system.console import plain_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from harness.results.leaderboard_layout import Cost

__all__ = ["FORMATS", "render"]

METHODS_PER_BLOCK = 3
"""Methods side by side in the terminal: metrics stay readable in 100 columns."""
DETAILED = 8
"""Metrics of a suite up to which each subject and domain has its line."""

_STYLES = {"better": "green", "worse": "red", "": "dim"}
_MEMORY = {"cuda": "peak GPU memory", "host": "peak host memory"}
_CSV_FIELDS = (
    "value stderr ci_low ci_high n higher_is_better delta delta_ci_low delta_ci_high delta_p"
)

Board = Mapping[str, Any]
"""A leaderboard, of `leaderboard.build`."""
Row = Mapping[str, Any]
Metric = Mapping[str, Any]


def render(board: Board, format: str = "table") -> RenderableType:
    """`board` as `table`, `markdown`, `csv` or `json`.

    Everything but `table` is a str. Raises UserError for another format.
    """
    if format not in FORMATS:
        raise UserError(f"no format '{format}': {nearest(format, FORMATS)}")
    return FORMATS[format](board)


# Terminal


def _terminal(board: Board) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    rows = board["rows"]
    names = _shown_names(rows)
    parts: list[RenderableType] = [_ranking(board)]
    if len(names) > 1:
        for start in range(0, len(rows), METHODS_PER_BLOCK):
            block = rows[start : start + METHODS_PER_BLOCK]
            parts += [Text(), _metrics_block(block, rows, names)]
    notes = _notes(board)
    parts += [Text(line) for line in (["", *notes] if notes else [])]
    return Group(*parts)


def _ranking(board: Board) -> Table:
    """The metric ranked by, with its difference to the base under it, and what a row cost."""
    from rich.text import Text

    rows, by = board["rows"], board["ranked_by"]
    table = plain_table()
    table.add_column("#", justify="right")
    table.add_column("method", overflow="fold")
    if by is not None:
        style = "dim" if _doubted(rows, by) else ""
        header = Text(f"{by} {_arrow(rows, by)}\nagainst base")
        table.add_column(header, no_wrap=True, style=style, header_style=style)
    columns = _cost_columns(rows)
    for title in columns:
        table.add_column(title.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in rows:
        cells: list[RenderableType] = [_rank(row), Text(_title(row, rows) + _failure(row))]
        if by is not None:
            cells.append(_figure(row, by))
        table.add_row(*cells, *(show(row) for show in columns.values()))
    return table


def _metrics_block(block: Sequence[Row], rows: Sequence[Row], names: Sequence[str]) -> Table:
    """Metrics as lines, methods as columns."""
    from rich.text import Text

    table = plain_table()
    table.add_column("metric", overflow="fold")
    for row in block:
        table.add_column(Text(_title(row, rows)), overflow="fold")
    for name in names:
        line = Text(f"{name} {_arrow(rows, name)}")
        style = "dim" if _doubted(rows, name) else None
        table.add_row(line, *(_figure(row, name) for row in block), style=style)
    return table


def _figure(row: Row, name: str) -> Text:
    """Value and interval; under them the difference to the base in its colour."""
    from rich.text import Text

    value, delta = Text(_value(row, name)), _delta(row, name, interval=False)
    style = _STYLES[_verdict(row["metrics"].get(name, {}))]
    return value + Text(f"\n{delta}", style=style) if delta else value


def _notes(board: Board) -> list[str]:
    """What to read the figures with: rows not told apart, labels such as self-judged, suites."""
    labels = [f"{suite}: {label}" for suite, label in board.get("labels", {}).items()]
    rows = board["rows"]
    left_out = len(_metric_names(rows)) - len(_shown_names(rows))
    more = [f"{left_out} figures of single subjects and domains are in --format csv and json"]
    ties = [*_tie_lines(rows), *_seed_lines(rows), *_cost_lines(rows)]
    warned = [*_health_lines(rows), *_degenerate_lines(rows), *_judge_lines(rows)]
    return [*ties, *warned, *labels, *board["incomparable"], *(more if left_out else [])]


def _cost_lines(rows: Sequence[Row]) -> list[str]:
    """How costs spread over seeds, which is no interval; nothing of rows with one measurement."""
    kinds = {
        "train time": ("train_seconds", numbers.duration),
        "peak memory": ("peak_memory_bytes", lambda value: numbers.size(round(value))),
    }
    lines = []
    for what, (name, show) in kinds.items():
        ranges = [
            f"{_title(row, rows)} {show(of[0])} to {show(of[1])}"
            for row in rows
            if (of := row.get("cost_range", {}).get(name))
        ]
        lines += [f"{what} of single seeds: {', '.join(ranges)}"] if ranges else []
    return lines


def _health_lines(rows: Sequence[Row]) -> list[str]:
    return [
        f"{_title(row, rows)}: its training was warned of {', '.join(row['health'])} "
        "(warnings in its record)"
        for row in rows
        if row.get("health")
    ]


def _degenerate_lines(rows: Sequence[Row]) -> list[str]:
    return [f"{_title(row, rows)}: {line}" for row in rows for line in row.get("degenerate", ())]


def _judge_lines(rows: Sequence[Row]) -> list[str]:
    """Why figures of weak and failed judges are dimmed."""
    return judge_doubts.lines(
        (name, judge_doubts.doubt_of(row["metrics"][name]))
        for name in _shown_names(rows)
        for row in rows
        if name in row["metrics"]
    )


def _doubted(rows: Sequence[Row], name: str) -> bool:
    """Whether the judge of the metric is to be doubted in any row."""
    return any(judge_doubts.doubt_of(row["metrics"].get(name, {})) for row in rows)


def _tie_lines(rows: Sequence[Row]) -> list[str]:
    lines, listed = [], set()
    for row in rows:
        others = [label for label in row["tied_with"] if (label, row["label"]) not in listed]
        listed |= {(row["label"], label) for label in others}
        if others:
            lines.append(f"{row['label']} is not told apart from {', '.join(others)}")
    return lines


def _seed_lines(rows: Sequence[Row]) -> list[str]:
    trained = [row for row in rows if row["cost"]["trainable_parameters"]]
    one = bool(trained) and all(len(row["seeds"]) == 1 for row in trained)
    return ["one seed: training noise is not in these intervals"] if one else []


# Text formats


def _markdown(board: Board) -> str:
    rows = board["rows"]
    columns: dict[str, Callable[[Row], str]] = {
        "#": _rank,
        "method": lambda row: _title(row, rows) + _failure(row),
    }
    for name in _shown_names(rows):
        columns[f"{name} {_arrow(rows, name)}"] = lambda row, name=name: _value(row, name)  # type: ignore[misc]
        columns[f"{name} against base"] = lambda row, name=name: _delta(row, name)  # type: ignore[misc]
    columns |= _cost_columns(rows)
    columns["not told apart from"] = lambda row: ", ".join(row["tied_with"])
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[show(row) for show in columns.values()] for row in rows]
    table = "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)
    return "\n\n".join([table, *map(_escaped_line, _notes(board))]) + "\n"


def _escaped(text: str) -> str:
    """A text that Markdown shows as it is: no column, no HTML, no emphasis, no link or image."""
    text = " ".join(text.splitlines())
    text = re.sub(r"[\\|*`]", r"\\\g<0>", text).replace("](", "]\\(").replace("][", "]\\[")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _escaped_line(text: str) -> str:
    """The same at the start of a line, where `#` makes a heading and `-` a list."""
    return re.sub(r"^[#+=~-]", r"\\\g<0>", _escaped(text))


def _csv(board: Board) -> str:
    rows = board["rows"]
    names = _metric_names(rows)
    fields = _CSV_FIELDS.split()
    costs = list(dict.fromkeys(key for row in rows for key in row["cost"]))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = [
        "rank",
        "rank_low",
        "rank_high",
        "label",
        "model",
        "method",
        "options",
        "seeds",
        "status",
    ]
    metric_columns = [f"{name}.{key}" for name in names for key in fields]
    writer.writerow(map(_no_formula, [*columns, *metric_columns, *costs, "tied_with", "cells"]))
    for row in rows:
        options = json.dumps(row["options"], sort_keys=True)
        seeds = ";".join(map(str, row["seeds"]))
        low, high = row.get("rank_range") or [row["rank"]] * 2
        line = [row["rank"], low, high, row["label"], row["model"], row["method"], options, seeds]
        metrics = [row["metrics"].get(name, {}).get(key) for name in names for key in fields]
        cost = [row["cost"].get(key) for key in costs]
        ends = [";".join(row["tied_with"]), ";".join(row["cells"])]
        writer.writerow(map(_no_formula, [*line, row["status"], *metrics, *cost, *ends]))
    return out.getvalue()


def _no_formula(cell: object) -> object:
    """A text that a spreadsheet would run, with an apostrophe before it, which it does not show."""
    formula = isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{cell}" if formula else cell


def _json(board: Board) -> str:
    return json.dumps(board, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: Mapping[str, Callable[[Board], RenderableType]] = {
    "table": _terminal,
    "markdown": _markdown,
    "csv": _csv,
    "json": _json,
}
"""Format -> how to render it."""


# What the terminal and Markdown share


def _cost_columns(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    columns: dict[str, Callable[[Row], str]] = {
        "train time": lambda row: numbers.duration(row["cost"]["train_seconds"]),
        "eval time": lambda row: numbers.duration(row["cost"]["evaluation_seconds"]),
    }
    if any(row["cost"].get("tuning_seconds") is not None for row in rows):
        columns["tuning time"] = lambda row: numbers.duration(row["cost"].get("tuning_seconds"))
    for kind, title in _MEMORY.items():
        if any(row["cost"]["peak_memory_kind"] == kind for row in rows):
            columns[title] = lambda row, kind=kind: _memory(row["cost"], kind)  # type: ignore[misc]
    columns["trainable"] = lambda row: numbers.count(row["cost"]["trainable_parameters"])
    columns["artifact"] = lambda row: numbers.size(row["cost"]["artifact_bytes"])
    if any(row["cost"].get("dollars") is not None for row in rows):
        columns["dollars"] = lambda row: numbers.dollars(row["cost"].get("dollars"))
    return columns


def _metric_names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row["metrics"]))


def _shown_names(rows: Sequence[Row]) -> list[str]:
    """All metrics, or for a suite of many those that are not of a part of another."""
    metrics = {name: m for row in rows for name, m in row["metrics"].items()}
    sizes = Counter(name.partition(".")[0] for name in metrics)
    return [
        name
        for name in _metric_names(rows)
        if sizes[name.partition(".")[0]] <= DETAILED or not _is_part(name, metrics)
    ]


def _is_part(name: str, metrics: Mapping[str, Metric]) -> bool:
    """A domain, or a task whose name begins with that of its group (`mmlu_anatomy`)."""
    where = metrics[name]["estimator"]["where"]
    if where is None or isinstance(where, Mapping):
        return where is not None
    groups = [g for g, m in metrics.items() if m["estimator"]["where"] is None]
    return any(name.startswith(f"{group}_") for group in groups)


def _rank(row: Row) -> str:
    """Its place, or the best and the worst that it may have: `1-2`."""
    if row["rank"] is None:
        return "-"
    low, high = row.get("rank_range") or [row["rank"]] * 2
    return str(low) if low == high else f"{low}-{high}"


def _title(row: Row, rows: Sequence[Row]) -> str:
    """The label, with the model where rows have several."""
    several = len({other["model"] for other in rows}) > 1
    return f"{row['label']} ({row['model']})" if several else str(row["label"])


def _failure(row: Row) -> str:
    return "" if row["status"] == "ok" else f" [{row['status']}]"


def _arrow(rows: Sequence[Row], name: str) -> str:
    """Which way is better, and a mark where the metric's judge is to be doubted."""
    higher = next(
        row["metrics"][name]["higher_is_better"] for row in rows if name in row["metrics"]
    )
    mark = f" {judge_doubts.MARK}" if _doubted(rows, name) else ""
    return ("↑" if higher else "↓") + mark


def _value(row: Row, name: str) -> str:
    metric = row["metrics"].get(name)
    if metric is None or metric["value"] is None:
        return "cannot tell" if metric and "correction" in metric else "-"
    return numbers.number(metric["value"]) + numbers.span(metric["ci_low"], metric["ci_high"])


def _delta(row: Row, name: str, interval: bool = True) -> str:
    """`-1.2 [-1.5, -0.9] better`; the word stands only where the interval excludes zero."""
    metric = row["metrics"].get(name)
    if metric is None or metric["delta"] is None:
        return ""
    span = numbers.span(metric["delta_ci_low"], metric["delta_ci_high"], "+") if interval else ""
    return f"{numbers.number(metric['delta'], '+')}{span} {_verdict(metric)}".rstrip()


def _verdict(metric: Metric) -> str:
    low, high = metric.get("delta_ci_low"), metric.get("delta_ci_high")
    if low is None or high is None or low <= 0 <= high:
        return ""
    return "better" if (low > 0) == metric["higher_is_better"] else "worse"


def _memory(cost: Cost, kind: str) -> str:
    return numbers.size(cost["peak_memory_bytes"]) if cost["peak_memory_kind"] == kind else "-"
