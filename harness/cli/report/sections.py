"""The parts of the page that are text: notes, judges, warnings, and how to do it again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.cli.render import judge_doubts, numbers
from harness.cli.render.tables import columns
from harness.cli.render.tables.notes import notes as below_the_table
from harness.cli.report import repeat
from harness.cli.report.markup import Markup, element, joined
from harness.cli.report.reading import Results
from harness.cli.report.titles import titles
from harness.record import Environment, JudgeErrors, MeanVerdict, Record
from harness.results.leaderboard_layout import Leaderboard, Row
from harness.results.store import suites, unsealed

__all__ = ["experiments", "judges", "notes", "warnings"]


def _lines(texts: Iterable[object]) -> Markup:
    return element("ul", *(element("li", text) for text in texts))


def notes(results: Results) -> Markup:
    """What the figures are to be read with, and what is not among them."""
    board = results.board
    every = columns.of_metrics(board["rows"], columns.metric_names(board["rows"]))
    said = [*below_the_table(board, every), *filter(None, [unsealed(results.stored)])]
    parts = [_lines(said)] if said else []
    if results.unfinished:
        parts += [element("h3", "Under way or broken off"), _lines(results.unfinished)]
    if results.unread:
        parts += [element("h3", "Not shown"), _lines(results.unread)]
    return joined(*parts)


# Judges


def judges(board: Leaderboard, by_id: Mapping[str, Record]) -> Markup:
    """Each figure that a judge gave, and beside it what its certificate says of the judge."""
    rows = board["rows"]
    lines = [
        line
        for name in columns.metric_names(rows)
        for row, title in zip(rows, titles(rows, by_id), strict=True)
        if (line := _judged(row, title, name, board)) is not None
    ]
    if not lines:
        return element("p", "No figure here is a judge's.")
    shown = [title for title in _JUDGED if any(line[title] != "-" for line in lines)]
    heads = (element("th", title, scope="col") for title in shown)
    table = element(
        "table",
        element("caption", "What each judge's certificate says, beside the figures it gave"),
        element("thead", element("tr", *heads)),
        element("tbody", *(_judged_line(line, shown) for line in lines)),
        class_="plain",
    )
    return element("div", table, class_="scrolled", tabindex=0, role="region", aria_label="Judges")


_JUDGED = (
    "metric", "row", "figure", "verdicts alone", "judge", "on good answers", "on bad answers",
    "of longer answers", "what the figure rests on",
)  # fmt: skip
_WRAPPED = ("judge", "what the figure rests on")


def _judged_line(line: Mapping[str, str], shown: Sequence[str]) -> Markup:
    first, *others = shown
    cells = (
        element("td", line[title], class_="wrapped" if title in _WRAPPED else None)
        for title in others
    )
    return element("tr", element("th", line[first], scope="row"), *cells)


def _judged(row: Row, title: str, name: str, board: Leaderboard) -> Mapping[str, str] | None:
    """A line of the table; None where no judge gave the figure."""
    metric = row["metrics"].get(name)
    label = board.get("labels", {}).get(name.partition(".")[0])
    if metric is None or ("judge" not in metric["estimator"] and label is None):
        return None
    judge: JudgeErrors | None = metric["estimator"].get("judge")
    correction: Mapping[str, Any] = metric.get("correction") or {}
    raw = correction.get("raw")
    cells = [
        f"{name} {columns.arrow(board['rows'], name)}",
        title,
        columns.value(row, name),
        "-" if raw is None else numbers.number(raw),
        _level(judge, label),
        _verdicts(judge and judge["good"]),
        _verdicts(judge and judge["bad"]),
        _length(judge),
        correction.get("reason") or correction.get("assumption") or "-",
    ]
    return dict(zip(_JUDGED, cells, strict=True))


def _level(judge: JudgeErrors | None, label: str | None) -> str:
    if judge is None:
        return f"no certificate; {label}"
    why = judge_doubts.said(judge["level"], judge["reason"])
    said = "trusted" if judge["level"] == "trusted" else why
    return f"{said}; {label}" if label else said


def _verdicts(mean: MeanVerdict | None) -> str:
    if mean is None:
        return "-"
    span = numbers.span(mean["ci_low"], mean["ci_high"])
    return f"{numbers.number(mean['value'])}{span} of {mean['n']}"


def _length(judge: JudgeErrors | None) -> str:
    bias = judge.get("length") if judge else None
    if bias is None:
        return "-"
    span = numbers.span(bias["ci_low"], bias["ci_high"], "+")
    return f"{numbers.number(bias['delta'], '+')}{span} at {bias['padding']:.1f} times the length"


# Warnings


def warnings(records: Iterable[Record]) -> Markup:
    """What each cell warned of, and why it failed."""
    parts = [
        joined(element("h3", record["id"]), _lines(said))
        for record in records
        if (said := [*_failure(record), *record["warnings"]])
    ]
    if not parts:
        return element("p", "No cell warned of anything: every health check passed.")
    return joined(*parts)


def _failure(record: Record) -> list[str]:
    error = record["error"]
    if error is None:
        return []
    return [f"{record['status']} in {error.get('phase') or 'its process'}: {error['message']}"]


# Again


def experiments(records: Sequence[Record]) -> Markup:
    """The command and the file that repeat the records, and the machines that they are from."""
    return joined(_files(records), _environments(records))


def _files(records: Sequence[Record]) -> Markup:
    parts = []
    for name, text in repeat.experiments(records).items():
        parts += [
            element("h3", f"{name}.yaml"),
            element("pre", f"harness run {name}.yaml", tabindex=0),
            element("pre", text, tabindex=0),
        ]
    hashes = {
        name: section["hash"] for record in records for name, section in suites(record).items()
    }
    pinned = [f"suite {name}: {of}" for name, of in hashes.items()]
    models = {
        plan["model"]["name"]: plan["model"].get("content_hash")
        for plan in (record["plan"] for record in records)
    }
    pinned += [f"model {name}: {of or 'not hashed'}" for name, of in models.items()]
    data = {
        str(of.get("name")): of.get("hash")
        for record in records
        if (of := record["plan"].get("data"))
    }
    pinned += [f"data {name}: {of}" for name, of in data.items()]
    why = joined(
        element("code", "harness plan"),
        " says of every cell that it is recorded where the same file meets the same contents:",
    )
    return joined(*parts, element("p", why), _lines(pinned))


def _environments(records: Iterable[Record]) -> Markup:
    alike: dict[str, tuple[Environment, list[str]]] = {}
    for record in records:
        key = json.dumps(record["environment"], sort_keys=True)
        alike.setdefault(key, (record["environment"], []))[1].append(record["id"])
    return joined(*(_environment(of, ids) for of, ids in alike.values()))


def _environment(environment: Environment, ids: Sequence[str]) -> Markup:
    gpu = environment.get("gpu")
    packages = environment.get("packages") or {}
    facts = {
        "Python": environment.get("python"),
        "platform": environment.get("platform"),
        "processor": f"{environment.get('cpu')}, {environment.get('cores')} cores",
        "memory": numbers.size(environment.get("memory_bytes")),
        "GPU": "none" if gpu is None else f"{gpu['name']}, {numbers.size(gpu['memory_bytes'])}",
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "cells": ", ".join(ids),
    }
    terms = (
        joined(element("dt", name), element("dd", value)) for name, value in facts.items() if value
    )
    return joined(element("h3", "Measured on"), element("dl", *terms))
