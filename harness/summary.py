"""From per-sample scores to a record's metrics: the figure, its interval, its delta to the base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness import stats
from harness.types import Metric

__all__ = ["NO_DELTA", "Rows", "Scored", "estimator", "measure", "pool", "scored", "summarise"]

Rows = Sequence[Mapping[str, Any]]
"""Sample rows, as a sample file holds them."""

Scored = dict[str, tuple[float, "float | None"]]
"""Sample id -> (score, denominator or None)."""

NO_DELTA: Mapping[str, None] = {
    "delta": None,
    "delta_ci_low": None,
    "delta_ci_high": None,
    "delta_p": None,
}


def summarise(
    metrics: Sequence[Metric], rows: Rows, base_rows: Rows | None = None
) -> dict[str, dict[str, Any]]:
    """A suite's `metrics` section from its sample rows.

    Samples whose score is None or not finite are left out and counted (`left_out`). The delta to
    the base is on the samples that both have; its keys are null where there are none. `delta_p`
    is exact (McNemar) for a share, else from the bootstrap. Raises ValueError on a repeated id.
    """
    bases = [] if base_rows is None else [base_rows]
    return {
        metric.name: measure(estimator(metric), metric.higher_is_better, [rows], bases)
        for metric in metrics
    }


def estimator(metric: Metric) -> dict[str, Any]:
    """How a metric is computed, as its record keeps it."""
    return {
        "kind": metric.kind,
        "score": metric.score or metric.name,
        "per": metric.per,
        "where": metric.where,
    }


def measure(
    how: Mapping[str, Any], higher_is_better: bool, runs: Sequence[Rows], bases: Sequence[Rows]
) -> dict[str, Any]:
    """One metric over one or several runs (seeds), against one or several runs of the base.

    With several runs the figure is the mean of their figures on the samples they share.
    """
    tables = [scored(how, rows) for rows in runs]
    ids, scores, per = pool(tables)
    metric: dict[str, Any] = {
        "value": None,
        "stderr": None,
        "ci_low": None,
        "ci_high": None,
        "n": len(ids),
        "higher_is_better": higher_is_better,
        **NO_DELTA,
        "left_out": len(_eligible(how, runs)) - len(ids),
        "estimator": dict(how),
    }
    if ids:
        found = stats.estimate(how["kind"], scores, per)
        metric |= {
            "value": found.value,
            "stderr": found.stderr,
            "ci_low": found.ci_low,
            "ci_high": found.ci_high,
        }
    if bases:
        metric |= _delta(how, tables, [scored(how, rows) for rows in bases])
    return metric


def _delta(
    how: Mapping[str, Any], tables: Sequence[Scored], base_tables: Sequence[Scored]
) -> Mapping[str, float | None]:
    common = set(pool(tables)[0]) & set(pool(base_tables)[0])
    if not common:
        return NO_DELTA
    _, scores, per = pool(tables, common)
    _, base_scores, base_per = pool(base_tables, common)
    found = stats.paired(how["kind"], scores, base_scores, per, base_per)
    return {
        "delta": found.delta,
        "delta_ci_low": found.ci_low,
        "delta_ci_high": found.ci_high,
        "delta_p": found.p if found.p_exact is None else found.p_exact,
    }


def scored(how: Mapping[str, Any], rows: Rows) -> Scored:
    """The samples of `rows` that have the score (and denominator) that `how` asks for."""
    out: Scored = {}
    for row in rows:
        if how["where"] is not None and row.get("group") != how["where"]:
            continue
        score = _number(row, how["score"])
        per = None if how["per"] is None else _number(row, how["per"])
        if score is None or (how["per"] is not None and per is None):
            continue
        if row["id"] in out:
            raise ValueError(f"sample id {row['id']!r} occurs twice")
        out[row["id"]] = (score, per)
    return out


def pool(
    tables: Sequence[Scored], only: set[str] | None = None
) -> tuple[list[str], list[list[float]], list[list[float]] | None]:
    """Ids in every table (and in `only`), sorted; scores and denominators as (runs, samples)."""
    shared = set.intersection(*(set(table) for table in tables)) if tables else set()
    ids = sorted(shared if only is None else shared & only)
    scores = [[table[key][0] for key in ids] for table in tables]
    per = [[p for key in ids if (p := table[key][1]) is not None] for table in tables]
    return ids, scores, per if any(per) else None


def _eligible(how: Mapping[str, Any], runs: Sequence[Rows]) -> set[str]:
    where = how["where"]
    return {row["id"] for rows in runs for row in rows if where in (None, row.get("group"))}


def _number(row: Mapping[str, Any], key: str) -> float | None:
    value = row["scores"].get(key)
    return float(value) if value is not None and math.isfinite(value) else None
