"""Every metric of every record, computed again from the samples by what computed it first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from harness.record import MetricSection, Record, SuiteSection
from harness.results.groups import base_id, identity
from harness.results.store import Rows, plain, suites
from harness.stats import metric_summary
from harness.verification.comparing import differences, leaves
from harness.verification.folder import Folder
from harness.verification.report import Report

OF_BASE = ("delta", "delta_ci_low", "delta_ci_high", "delta_p", "gained", "lost", "correction")
"""Parts of a metric that need the base's samples."""


def check(folder: Folder, report: Report) -> None:
    """Hold each record's metrics against its samples and its base's."""
    for record, suite, section, rows in folder.measured():
        file = f"cells/{record['id']}.json"
        try:
            found, complete = _recomputed(folder, record, suite, section, rows)
        except Exception as error:  # a changed file may hold anything
            where = section.get("samples") or {"file": file}
            report.fails(where["file"], problem=f"no figure can be computed of it ({error})")
            continue
        if not complete:
            _without_base(folder, record, suite, section, report)
        for name, metric in section["metrics"].items():
            _compare(file, f"{suite}.{name}", metric, found[name], report, complete=complete)


def _recomputed(
    folder: Folder, record: Record, suite: str, section: SuiteSection, rows: Rows
) -> tuple[Mapping[str, MetricSection], bool]:
    """The metrics again, and whether the base's samples were there where they are needed."""
    base, same_tokens, complete = _base(folder, record, suite, section)
    metrics = metric_summary.metrics_of(section["metrics"])
    found = metric_summary.summarise(metrics, rows, base, same_tokens=same_tokens)
    return cast("Mapping[str, MetricSection]", plain(found)), complete


def _base(
    folder: Folder, record: Record, suite: str, section: SuiteSection
) -> tuple[Rows | None, bool, bool]:
    """The base's samples, whether its figures per token compare, and whether all was there."""
    name = base_id(record)
    if name is None:
        return None, True, True
    rows = folder.samples.get((name, suite))
    if rows is None or _another(folder.records[name], suite, section):
        return None, True, False
    theirs, own = _tokenizer(folder.records[name]), _tokenizer(record)
    return rows, theirs in (None, own), True


def _tokenizer(record: Record) -> str | None:
    evaluation = record["evaluation"]
    return evaluation.get("tokenizer_hash") if evaluation else None


def _another(base: Record, suite: str, section: SuiteSection) -> bool:
    """Whether the base's suite of that name is another one, with which nothing compares."""
    return identity(suites(base)[suite]) != identity(section)


def _without_base(
    folder: Folder, record: Record, suite: str, section: SuiteSection, report: Report
) -> None:
    """Name the figures that need the samples of a base, and why they have none."""
    base, file = base_id(record) or "", f"cells/{record['id']}.json"
    names = [
        name
        for name, metric in section["metrics"].items()
        if metric["delta"] is not None or (metric["value"] is not None and _retained(metric))
    ]
    known = folder.records.get(base)
    if names and known is not None and suite in suites(known) and _another(known, suite, section):
        told = f"stated for {', '.join(names)}, though {base} has another suite of that name"
        report.fails(file, f"{suite}: differences to the base", told)
    elif names and known is not None and suite not in suites(known):
        told = f"stated for {', '.join(names)}, though {base} has no such suite"
        report.fails(file, f"{suite}: differences to the base", told)
    elif names:
        what = f"{suite}: differences to the base of {', '.join(names)}"
        report.cannot(file, what, f"the samples of the base {base} are not there")


def _retained(metric: MetricSection) -> bool:
    return metric["estimator"]["kind"] == "retained"


def _compare(
    file: str,
    name: str,
    stated: MetricSection,
    found: MetricSection,
    report: Report,
    *,
    complete: bool,
) -> None:
    left_out = () if complete else OF_BASE
    if not complete and _retained(stated):
        return
    said, again = (
        {key: value for key, value in metric.items() if key not in left_out}
        for metric in (stated, found)
    )
    for path, one, other in differences(said, again):
        report.fails(file, f"{name}.{path}", stated=one, recomputed=other)
    report.counts("figures", leaves(said) - leaves(said["estimator"]))
