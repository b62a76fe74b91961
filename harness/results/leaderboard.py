"""The leaderboard: a pure function of records and their sample files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from harness import stats
from harness.errors import UserError, nearest
from harness.record import MetricSection, ReasoningFigures, Record
from harness.results.cost import cost, cost_range
from harness.results.groups import Group, ReadRows, answer_warnings, findings, grouped, metrics
from harness.results.leaderboard_layout import VERSION, Leaderboard, Row, RowMetric
from harness.results.store import plain, suites
from harness.stats import metric_summary
from harness.stats.answers import reasoning

__all__ = ["build"]

_ALPHA = 0.05
"""The chance of telling any two rows of a board apart that do not differ."""
_WORST_LAST = ("ok", "diverged", "oom", "error")


def build(
    records: Sequence[Record], *, read_rows: ReadRows, rank_by: str | None = None
) -> Leaderboard:
    """The leaderboard of some records.

    Seeds are one row: a metric's value is the mean over seeds, its interval and its delta to the
    base are computed anew from the samples that the seeds share; so is every metric of a record
    that has no seal. `rank_by` is `suite.metric`, by default the first metric of the plan's first
    suite that all rows may be compared on; rows without it come last, unranked. Rows are
    `tied_with` each other where their paired difference on it does not exclude zero. Figures per
    token neither rank nor tie rows of several tokenizers. Raises UserError for an unknown
    `rank_by`, and what `read_rows` raises.
    """
    by_id = {record["id"]: record for record in records}
    groups = grouped(by_id.values())
    rows = [_row(group, by_id, read_rows) for group in groups]
    chosen = _ranked_by(groups, rank_by)
    ranked_by = ".".join(chosen) if chosen else None
    order = _order(rows, ranked_by)
    pairs = _pairs(groups, rows, chosen, by_id, read_rows) if chosen else []
    ties = _ties(pairs)
    ranked, mixed = 0, chosen is not None and len(_tokenizers(groups, *chosen)) > 1
    for index in order:
        row = rows[index]
        if _value(row, ranked_by) is not None and not mixed:
            ranked += 1
            row["rank"] = ranked
        tied = ties.get(index, set())
        row["tied_with"] = [rows[other]["label"] for other in order if other in tied]
    _set_rank_ranges(rows, ranked_by, pairs)
    return {
        "schema": VERSION,
        "ranked_by": ranked_by,
        "rows": [rows[index] for index in order],
        "labels": _labels(by_id.values()),
        "incomparable": [
            *_incomparable([rows[index] for index in order]),
            *_other_tokenizers([groups[index] for index in order]),
        ],
    }


def _labels(cells: Iterable[Record]) -> dict[str, str]:
    """What a suite's figures must be read with, such as `self-judged`, by suite."""
    return {
        name: suite["notes"]["label"]
        for cell in cells
        for name, suite in suites(cell).items()
        if (suite.get("notes") or {}).get("label")
    }


def _row(group: Group, by_id: Mapping[str, Record], read_rows: ReadRows) -> Row:
    plan = group.plan
    row: Row = {
        "rank": None,
        "label": group.label,
        "model": plan["model"]["name"],
        "method": plan["method"],
        "options": plan["options"],
        "seeds": [cell["plan"]["seed"] for cell in group.cells],
        "cells": [cell["id"] for cell in group.cells],
        "status": max((cell["status"] for cell in group.cells), key=_WORST_LAST.index),
        "metrics": {
            f"{suite}.{metric}": _metric(group, suite, metric, by_id, read_rows)
            for suite, metric in group.metric_names()
        },
        "cost": cost(group.cells),
        "tied_with": [],
        "budget": plan.get("budget"),
        "mix": (plan.get("data") or {}).get("mix"),
        "suite_hashes": group.hashes,
    }
    if spread := cost_range(group.cells):
        row["cost_range"] = spread
    if health := list(dict.fromkeys(name for cell in group.cells for name in findings(cell))):
        row["health"] = health
    if lines := answer_warnings(group, read_rows):
        row["degenerate"] = lines
    if thought := _reasoning(group):
        row["reasoning"] = thought
    return row


def _reasoning(group: Group) -> dict[str, ReasoningFigures]:
    """How much of the answers is reasoning, by suite."""
    notes: dict[str, list[Mapping[str, Any]]] = {}
    for cell in group.cells:
        for suite, section in suites(cell).items():
            notes.setdefault(suite, []).append(section.get("notes") or {})
    found = {suite: reasoning.pooled(every) for suite, every in notes.items()}
    return {suite: figures for suite, figures in found.items() if figures is not None}


def _metric(
    group: Group, suite: str, metric: str, by_id: Mapping[str, Record], read_rows: ReadRows
) -> RowMetric:
    cells = group.having(suite, metric)
    own = [_own(cell, suite, metric, by_id, read_rows) for cell in cells]
    values = [section["value"] for section in own]
    if len(cells) == 1:
        return {**own[0], "per_seed": values}
    bases = group.bases(suite, metric, by_id)
    pooled = _measured(own[0], cells, bases, suite, read_rows)
    if not bases:
        # the base's samples are not at hand: what depends on them has no interval
        pooled["delta"] = _mean_of([section["delta"] for section in own])
        if own[0]["estimator"]["kind"] == "retained":
            pooled["value"], pooled["n"] = _mean_of(values), min(section["n"] for section in own)
    return {**pooled, "per_seed": values}


def _own(
    cell: Record, suite: str, metric: str, by_id: Mapping[str, Record], read_rows: ReadRows
) -> MetricSection:
    """A cell's metric: as its record says where that is sealed, else from samples at hand."""
    section = metrics(cell, suite)[metric]
    if "sha256" in cell:  # checked when it was read
        return section
    return _measured(section, [cell], Group([cell]).bases(suite, metric, by_id), suite, read_rows)


def _measured(
    recorded: MetricSection,
    cells: Sequence[Record],
    bases: Sequence[Record],
    suite: str,
    read_rows: ReadRows,
) -> MetricSection:
    """The metric that a record has, computed from the samples of some cells."""
    measured = metric_summary.measure(
        recorded["estimator"],
        recorded["higher_is_better"],
        [read_rows(cell, suite) for cell in cells],
        [read_rows(base, suite) for base in bases],
        seeds=([cell["plan"]["seed"] for cell in cells], [base["plan"]["seed"] for base in bases]),
    )
    # as records hold them: of one sample there is no error, and no NaN either
    return cast("MetricSection", plain(measured))


def _mean_of(values: Sequence[float | None]) -> float | None:
    """None where one of them is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


# Ranks and ties


def _ranked_by(groups: Sequence[Group], rank_by: str | None) -> tuple[str, str] | None:
    """The suite and the metric to rank by; None where no row has a metric at all."""
    known = {".".join(name): name for group in groups for name in group.metric_names()}
    if rank_by is not None:
        if rank_by not in known:
            raise UserError(f"cannot rank by '{rank_by}': {nearest(rank_by, known)}")
        return known[rank_by]
    planned = [name for group in groups for name in group.plan.get("suites", ())]
    names = [name for suite in planned for name in known.values() if name[0] == suite]
    names += known.values()
    comparable = (name for name in names if len(_tokenizers(groups, *name)) < 2)
    return next(comparable, names[0] if names else None)


def _value(row: Row, metric: str | None) -> float | None:
    section = row["metrics"].get(metric or "")
    return section["value"] if section else None


def _order(rows: Sequence[Row], ranked_by: str | None) -> list[int]:
    """Indices of rows, best first, rows without the metric last."""

    def place(index: int) -> tuple[bool, float, str, str]:
        row, value = rows[index], _value(rows[index], ranked_by)
        section = row["metrics"].get(ranked_by or "")
        sign = -1 if section and section["higher_is_better"] else 1
        return value is None, sign * (value or 0.0), row["label"], row["cells"][0]

    return sorted(range(len(rows)), key=place)


def _pairs(
    groups: Sequence[Group],
    rows: Sequence[Row],
    chosen: tuple[str, str],
    by_id: Mapping[str, Record],
    read_rows: ReadRows,
) -> list[stats.PairTest]:
    """Every pair of rows that may be compared, by their indices, with adjusted p."""
    suite, metric = chosen
    ranked_by = ".".join(chosen)
    alike: dict[tuple[str, str], dict[int, metric_summary.Arm]] = {}
    for index, (group, row) in enumerate(zip(groups, rows, strict=True)):
        if _value(row, ranked_by) is not None:
            how = row["metrics"][ranked_by]["estimator"]
            cells = group.having(suite, metric)
            tables = metric_summary.tables(
                how,
                [read_rows(cell, suite) for cell in cells],
                [read_rows(base, suite) for base in group.bases(suite, metric, by_id)],
            )
            tokenizer = group.tokenizer if metric_summary.per_token(how) else ""
            alike.setdefault((row["suite_hashes"][suite], tokenizer), {})[index] = (
                tables,
                group.seeds(suite, metric),
            )
    tests: list[stats.PairTest] = []
    for arms in alike.values():
        how = rows[next(iter(arms))]["metrics"][ranked_by]["estimator"]
        tests += metric_summary.pairwise(how, arms)
    return tests


def _ties(pairs: Iterable[stats.PairTest]) -> dict[int, set[int]]:
    """Index of a row -> indices of the rows that it is not told apart from."""
    ties: dict[int, set[int]] = {}
    for pair in pairs:
        if not _apart(pair):
            ties.setdefault(pair.a, set()).add(pair.b)
            ties.setdefault(pair.b, set()).add(pair.a)
    return ties


def _apart(pair: stats.PairTest) -> bool:
    return pair.p < _ALPHA and pair.delta != 0


def _set_rank_ranges(
    rows: Sequence[Row], ranked_by: str | None, pairs: Iterable[stats.PairTest]
) -> None:
    """The places that ranked rows may have: behind all that are better, before all worse."""
    ranked = [row for row in rows if row["rank"] is not None]
    for row in ranked:
        row["rank_range"] = [1, len(ranked)]
    for pair in filter(_apart, pairs):
        first, second = rows[pair.a], rows[pair.b]
        if ranked_by is not None and first["rank"] is not None and second["rank"] is not None:
            higher = first["metrics"][ranked_by]["higher_is_better"]
            better, worse = (first, second) if (pair.delta > 0) == higher else (second, first)
            worse["rank_range"][0] += 1
            better["rank_range"][1] -= 1


def _incomparable(rows: Sequence[Row]) -> list[str]:
    sentences = []
    for suite in dict.fromkeys(name for row in rows for name in row["suite_hashes"]):
        labels: dict[str, list[str]] = {}
        for row in rows:
            if suite in row["suite_hashes"]:
                labels.setdefault(row["suite_hashes"][suite], []).append(row["label"])
        if len(labels) > 1:
            parts = [f"{', '.join(of)} ({_short(key)})" for key, of in labels.items()]
            sentences.append(
                f"suite '{suite}' is not the same for {' and '.join(parts)}: "
                "its figures must not be compared between them"
            )
    return sentences


def _tokenizers(groups: Sequence[Group], suite: str, metric: str) -> dict[str, list[Group]]:
    """Tokenizer -> the groups with a metric per token; empty for another metric."""
    by_tokenizer: dict[str, list[Group]] = {}
    for group in groups:
        for cell in group.having(suite, metric)[:1]:
            if metric_summary.per_token(metrics(cell, suite)[metric]["estimator"]):
                by_tokenizer.setdefault(group.tokenizer, []).append(group)
    return by_tokenizer


def _other_tokenizers(groups: Sequence[Group]) -> list[str]:
    """A sentence for each set of rows that figures per token must not be compared between."""
    names: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for group in groups for name in group.metric_names()):
        parts = _tokenizers(groups, *name)
        if len(parts) > 1:
            labels = " and ".join(", ".join(group.title for group in of) for of in parts.values())
            names.setdefault(labels, []).append(".".join(name))
    return [
        f"{', '.join(of)}: per token, and {rows} are not known to have one tokenizer, so these "
        "are neither ranked nor tied by it; compare bits_per_byte"
        for rows, of in names.items()
    ]


def _short(identity: str) -> str:
    return "/".join(part[:12] for part in identity.split("/"))
