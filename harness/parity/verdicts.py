"""Per suite: the form's scores beside the recorded ones, on the same samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import TypedDict

from harness.parity.subject import Subject
from harness.results.paired_differences import Evidence
from harness.results.store import suites
from harness.stats import metric_summary

CONFIDENCE = 0.95


class Verdict(TypedDict):
    """A metric of the form, and its difference from what was measured."""

    value: float
    measured: float
    """Of the cell, on the same samples."""
    delta: float
    delta_ci_low: float
    delta_ci_high: float
    p: float
    n: int
    higher_is_better: bool
    verdict: str
    """`same` where all scores are equal, `worse` or `better` where the interval is clear of zero,
    else `no difference shown`."""


def of_suite(subject: Subject, suite: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Verdict]:
    """By metric; those that only a judge or another model gives are left out.

    Tested as `harness compare` does.
    """
    asked = {row["id"] for row in rows}
    stored = [r for r in subject.records.read_rows(subject.record, suite) if r["id"] in asked]
    given = [{**row, "scores": row.get("scores") or {}} for row in rows]
    found = {}
    for name, section in suites(subject.record)[suite]["metrics"].items():
        how = section["estimator"]
        if how["kind"] == "retained" or "judge" in how:
            continue
        tables = [metric_summary.scored(how, side) for side in (given, stored)]
        a, b = metric_summary.common(tables[:1], tables[1:])
        if not a.ids:
            continue
        evidence = Evidence(
            metric_summary.figure(how),
            section["higher_is_better"],
            a,
            b,
            CONFIDENCE,
            bounds=metric_summary.bounds(how),
            how=how,
        )
        found[name] = _verdict(evidence)
    return found


def _verdict(evidence: Evidence) -> Verdict:
    test = evidence.change()
    low, high = evidence.shown(test, "difference")
    words = "no difference shown"
    if evidence.a.arm == evidence.b.arm:
        words = "same"
    elif test.ci_low > 0 or test.ci_high < 0:
        words = "better" if (test.value > 0) == evidence.higher_is_better else "worse"
    return {
        "value": evidence.value,
        "measured": evidence.baseline,
        "delta": test.value,
        "delta_ci_low": low,
        "delta_ci_high": high,
        "p": test.p,
        "n": evidence.n,
        "higher_is_better": evidence.higher_is_better,
        "verdict": words,
    }
