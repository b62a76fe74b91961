"""What a page's tables and pictures are drawn from, as plain JSON: figures and their texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness import __version__
from harness.cli.render import numbers
from harness.cli.render.tables import columns
from harness.cli.report.samples import Answered
from harness.cli.report.titles import titles
from harness.record import Phase, Record
from harness.results.leaderboard_layout import Leaderboard, Row, RowMetric

__all__ = ["core"]

_UNITS = {"seconds": "seconds", "bytes": "bytes"}
"""What a column's name ends with -> the unit that a picture's axis is scaled by."""
_CURVES = ("loss", "validation_loss", "grad_norm", "learning_rate")


def core(
    board: Leaderboard, by_id: Mapping[str, Record], answered: Sequence[Answered]
) -> dict[str, Any]:
    """The leaderboard's figures with the texts that the terminal shows, and what the records have
    of each seed's training."""
    rows = board["rows"]
    named = zip(rows, titles(rows, by_id), strict=True)
    return {
        "harness": __version__,
        "rankedBy": board["ranked_by"],
        "metrics": _metrics(rows),
        "costs": [
            {"title": column.title, "unit": _UNITS.get(column.name.rpartition("_")[2], "")}
            for column in columns.costs(rows)
        ],
        "rows": [_row(row, title, rows) for row, title in named],
        "cells": [
            _cell(by_id[key], place) for place, row in enumerate(rows) for key in row["cells"]
        ],
        "suites": [one.as_core(answered) for one in answered],
    }


def _metrics(rows: Sequence[Row]) -> list[dict[str, Any]]:
    headlines = set(columns.shown_names(rows))
    return [
        {
            "name": name,
            "title": f"{name} {columns.arrow(rows, name)}",
            "higher": _first(rows, name)["higher_is_better"],
            "kind": _first(rows, name)["estimator"]["kind"],
            "headline": name in headlines,
            "doubted": columns.doubted(rows, name),
        }
        for name in columns.metric_names(rows)
    ]


def _first(rows: Sequence[Row], name: str) -> RowMetric:
    return next(row["metrics"][name] for row in rows if name in row["metrics"])


def _row(row: Row, title: str, rows: Sequence[Row]) -> dict[str, Any]:
    costs = columns.costs(rows)
    return {
        "title": title,
        "failure": columns.failure(row).strip(),
        "place": columns.rank(row),
        "rank": row["rank"],
        "tied": row["tied_with"],
        "trained": bool(row["cost"]["trainable_parameters"]),
        "seeds": row["seeds"],
        "figures": {name: _figure(row, name) for name in row["metrics"]},
        "costs": {of.title: {"value": of.key(row), "text": of.show(row)} for of in costs},
    }


def _figure(row: Row, name: str) -> dict[str, Any]:
    """A metric's value, interval and difference to the base, as numbers and as texts."""
    metric = row["metrics"][name]
    figure = {
        "value": metric["value"],
        "low": metric["ci_low"],
        "high": metric["ci_high"],
        "n": metric["n"],
        "text": columns.value(row, name),
    }
    if metric["delta"] is None:
        return figure
    return figure | {
        "delta": metric["delta"],
        "deltaLow": metric["delta_ci_low"],
        "deltaHigh": metric["delta_ci_high"],
        "deltaText": columns.delta(row, name),
        "verdict": columns.verdict(metric),
    }


# Of one seed


def _cell(record: Record, row: int) -> dict[str, Any]:
    training, evaluation = record["training"] or {}, record["evaluation"]
    measured = evaluation.get("phases") if evaluation else None
    return {
        "id": record["id"],
        "row": row,
        "seed": record["plan"]["seed"],
        "curves": _curves(training.get("loss_curve") or ()),
        "phases": [
            *_phases("training", training.get("phases") or {}),
            *_phases("evaluation", measured or {}),
        ],
    }


def _curves(points: Sequence[Any]) -> dict[str, list[tuple[float, float]]]:
    """Name -> (step, value) pairs, of what the points of a loss curve have."""
    numbered = [point for point in points if isinstance(point, dict) and _number(point.get("step"))]
    curves = {
        name: [(point["step"], point[name]) for point in numbered if _number(point.get(name))]
        for name in _CURVES
    }
    return {name: pairs for name, pairs in curves.items() if pairs}


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _phases(stage: str, phases: Mapping[str, Phase]) -> list[dict[str, Any]]:
    """Seconds and peak memory: on a GPU that of torch's allocator, else of the process."""
    return [
        {
            "stage": stage,
            "name": name,
            "seconds": phase.get("seconds"),
            "secondsText": numbers.duration(phase.get("seconds")),
            "gpu": phase.get("peak_allocated_bytes"),
            "gpuText": numbers.size(phase.get("peak_allocated_bytes")),
            "host": phase.get("peak_host_bytes"),
            "hostText": numbers.size(phase.get("peak_host_bytes")),
        }
        for name, phase in phases.items()
    ]
