"""Measures a model in growing blocks until a policy is decided.

`python -m harness.runner.sequential_gate` reads a Task from its standard input.

Reads a Task as JSON on standard input; the last line that it prints is the decision. Each interim
analysis doubles the number of samples and spends its share of the policy's alpha
(`stats.alpha_spending`), for passing and for failing, so that repeated analyses cost no
confidence; one with too few samples to pass a rule spends nothing on passing it. The order of the
samples is drawn once from the baseline's, and answers are compared with the baseline's answers to
the same samples.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from harness import stats
from harness.api.task import Suite
from harness.errors import HarnessError, NotComparable
from harness.planning.cell import Cell as Planned
from harness.record import Record, SuiteSection, new_record
from harness.results import gate, lookup, policy, store
from harness.results.gate import Decision, Finding
from harness.results.groups import Group, base_id
from harness.results.lookup import Arm
from harness.results.paired_differences import Pairs
from harness.results.policy import Check, Loaded
from harness.results.store import suites
from harness.stats.metric_summary import TASK_WEIGHT, Rows
from harness.system.child_process import Emit, begin

FIRST = 32
"""Samples of each suite at the first interim analysis."""

CANDIDATE = "candidate"
"""Id of the record that grows."""


@dataclass
class Task:
    """The task of the child process."""

    cell: Planned
    """The candidate, as `harness eval` would measure it; its suites are those of the policy."""
    baseline: str
    folders: list[Path]
    policy: Path | None
    batch: int | None = None
    first: int = FIRST


@dataclass
class Growing:
    """The candidate's answers so far, beside the baseline's to the same samples."""

    planned: Planned
    baseline: Arm
    tokenizer_hash: str | None = None
    """Of the candidate; set before the first interim analysis."""
    rows: dict[str, list[dict[str, object]]] = field(init=False)
    """Suite -> rows."""
    order: dict[str, list[int]] = field(init=False)
    """Suite -> positions of all its samples, in the order in which they are taken."""

    def __post_init__(self) -> None:
        read, cell = self.baseline.records.read_rows, self.baseline.group.cells[0]
        names = [suite.name for suite in self.planned.suites]
        self._known = {name: {row["id"]: row for row in read(cell, name)} for name in names}
        self.rows = {name: [] for name in names}
        self.order = {
            name: random.Random(0).sample(range(len(known)), len(known))
            for name, known in self._known.items()
        }

    def taken(self, suite: str) -> int:
        """Number of samples answered so far."""
        return len(self.rows[suite])

    def total(self, suite: str) -> int:
        """Number of samples of the suite."""
        return len(self.order[suite])

    def next(self, suite: Suite, upto: int) -> Suite | None:
        """The suite with its next samples, up to `upto` in all; None if none are left."""
        block = self.order[suite.name][self.taken(suite.name) : upto]
        return replace(suite, picked=tuple(sorted(block))) if block else None

    def add(self, suite: Suite, rows: Rows) -> None:
        """Keep a block's answers. Raises NotComparable if they are not to the same questions."""
        for row in rows:
            theirs = self._known[suite.name].get(row["id"])
            if theirs is None or theirs.get("prompt") != row.get("prompt"):
                raise NotComparable(
                    f"suite '{suite.name}': the prompt of sample '{row['id']}' changes when it is "
                    "measured in blocks; if shots are drawn per question, set fixed_shots: true"
                )
            self.rows[suite.name].append(dict(row))

    def pairs(self, confidence: float) -> Pairs:
        """Candidate and baseline on the samples answered so far."""
        mine, read = self.cell, self.baseline.records.read_rows
        ids = {name: {row["id"] for row in rows} for name, rows in self.rows.items()}

        def rows_of(cell: Record, suite: str) -> Rows:
            if cell["id"] == CANDIDATE:
                return self.rows[suite]
            return [row for row in read(cell, suite) if row["id"] in ids[suite]]

        by_id = {**self.baseline.records.by_id, CANDIDATE: mine}
        partial = [name for name in self.rows if self.taken(name) < self.total(name)]
        return Pairs(Group([mine]), self.baseline.group, by_id, rows_of, confidence, partial)

    @cached_property
    def cell(self) -> Record:
        """The candidate's record, as far as a comparison needs it."""
        theirs = self.baseline.group.cells[0]
        base = base_id(theirs) or theirs["id"]
        sections: dict[str, SuiteSection] = {
            suite.name: {
                "hash": suite.hash,
                "parts": dict(suite.parts),
                "version": suite.version,
                "data_hash": suites(theirs)[suite.name].get("data_hash"),
                "metrics": suites(theirs)[suite.name]["metrics"],
            }
            for suite in self.planned.suites
        }
        return new_record(
            id=CANDIDATE,
            status="ok",
            plan=self.planned.as_record(),
            environment=store.environment(),
            evaluation={
                "suites": sections,
                "base": base,
                "tokenizer_hash": self.tokenizer_hash,
            },
        )


def decide(
    growing: Growing,
    rules: Loaded,
    checks: Sequence[Check],
    answer: Callable[[Suite], Rows],
    report: Callable[[Mapping[str, object]], None],
    first: int = FIRST,
) -> Decision:
    """Call `answer` with growing blocks until the policy is decided or no samples are left.

    `report` is called after each interim analysis. Raises what `answer` raises.
    """
    settled: dict[int, Finding] = {}
    could_pass: dict[int, int] = {}
    analyses: list[Mapping[str, object]] = []
    upto, before = first, 0
    while True:
        _grow(growing, checks, settled, answer, upto)
        findings = _interim_analysis(growing, rules, checks, settled, could_pass, before, upto)
        decision = gate.decision(growing.pairs(rules.policy.confidence), rules, findings)
        settled |= {i: finding for i, finding in enumerate(findings) if finding.verdict == "pass"}
        analyses.append(_progress(growing, decision))
        report(analyses[-1])
        if decision.verdict != "inconclusive" or _exhausted(growing, checks, settled):
            warnings = [*decision.warnings, *rules.notes]
            return replace(decision, looks=analyses, warnings=warnings)
        before, upto = upto, 2 * upto


def _grow(
    growing: Growing,
    checks: Sequence[Check],
    settled: Mapping[int, Finding],
    answer: Callable[[Suite], Rows],
    upto: int,
) -> None:
    """Answer more samples of every suite that an open rule reads."""
    wanted = {check.suite for i, check in enumerate(checks) if i not in settled}
    for suite in growing.planned.suites:
        block = growing.next(suite, upto) if suite.name in wanted else None
        if block is not None:
            growing.add(suite, answer(block))


def _interim_analysis(
    growing: Growing,
    rules: Loaded,
    checks: Sequence[Check],
    settled: Mapping[int, Finding],
    could_pass: dict[int, int],
    before: int,
    upto: int,
) -> list[Finding]:
    """Each rule at the alpha that this analysis may spend; settled findings stay as they are.

    An analysis of too few samples to pass a rule spends nothing on passing it. `could_pass` holds
    the samples of each rule's last one that had enough, and is brought up to date.
    """
    findings = []
    for number, check in enumerate(checks):
        if number in settled:
            findings.append(settled[number])
            continue
        alpha = 1 - rules.policy.confidence
        total = growing.total(check.suite)
        failing = _share(before, upto, total)
        pairs = growing.pairs(1 - alpha * _share(could_pass.get(number, 0), upto, total))
        bases = _against_base(growing, pairs) if gate.needs_base([check]) else None
        finding = gate.assess(check, pairs, bases)
        if finding.fewest is None or finding.fewest <= (finding.n or 0):
            could_pass[number] = upto
        # on the scale of the whole alpha, which Holm's correction works on
        findings.append(replace(finding, p=min(1.0, finding.p / failing)))
    return findings


def _share(before: int, upto: int, total: int) -> float:
    """The part of alpha that an analysis of `upto` samples may spend after one of `before`."""
    share = stats.alpha_spending(1.0, [min(before, total) / total, min(upto, total) / total])[-1]
    return share if share > 0 else 1e-9  # its samples ran out at an earlier analysis


def _against_base(growing: Growing, pairs: Pairs) -> Pairs:
    base = lookup.base_of(Arm(Group([growing.cell]), growing.baseline.records))
    return pairs.against(base.group)


def _exhausted(growing: Growing, checks: Sequence[Check], settled: Mapping[int, Finding]) -> bool:
    left = {check.suite for i, check in enumerate(checks) if i not in settled}
    return all(growing.taken(suite) == growing.total(suite) for suite in left)


def _progress(growing: Growing, decision: Decision) -> dict[str, object]:
    """An item of `Decision.looks`: samples answered, and rules decided."""
    return {
        "samples": {name: len(rows) for name, rows in growing.rows.items()},
        "of": {name: growing.total(name) for name in growing.rows},
        "decided": sum(finding.verdict != "inconclusive" for finding in decision.findings),
        "rules": len(decision.findings),
    }


def checks_of(rules: Loaded | None, baseline: Arm) -> tuple[Loaded, list[Check]]:
    """The policy and its rules on the baseline's metrics.

    Raises ConfigError for a rule that no block of samples can decide.
    """
    group = baseline.group
    rules = rules or policy.default(group)
    for number, rule in enumerate(rules.policy.rules):
        if rule.metric.startswith(f"{policy.PARITY}."):
            raise rules.located.error(
                "a parity check is of a cell that was measured: leave --until-decided out",
                ("rules", number),
            )
        if rule.metric.startswith(f"{policy.COST}."):
            raise rules.located.error(
                "a cost is known only once everything is measured: leave --until-decided out",
                ("rules", number),
            )
    checks = rules.checks(group.metric_names())
    checks, notes = policy.without_retained(rules, checks, group, group)
    rules = replace(rules, notes=[*rules.notes, *notes])
    for check in checks:
        estimator = group.metric(check.suite, check.metric)["estimator"]
        if estimator["per"] == TASK_WEIGHT:
            raise rules.located.error(
                f"{check.name} averages over tasks, which a block of samples has in part: use "
                f"{check.name.removesuffix('.macro')}",
                check.path,
            )
    return rules, checks


def main() -> int:
    """Measure and decide; prints interim analyses and the decision as JSON lines."""
    from pydantic import TypeAdapter

    emit = begin()
    task = TypeAdapter(Task).validate_json(sys.stdin.read())
    try:
        decision = _measured(task, emit)
    except HarnessError as error:
        emit(error=str(error), exit_code=error.exit_code)
        return error.exit_code
    emit(decision=store.plain(dataclasses.asdict(decision)))
    return 0


def _measured(task: Task, emit: Emit) -> Decision:
    from harness.evaluation.evaluate import opened, rows
    from harness.runner.worker import untrained

    baseline = lookup.find(task.baseline, task.folders)
    rules, checks = checks_of(policy.load(task.policy) if task.policy else None, baseline)
    growing = Growing(task.cell, baseline)

    def phase(name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    with opened(untrained(task.cell), phase, lambda **event: None, task.batch) as bench:
        growing.tokenizer_hash = bench.tokenizer_hash
        return decide(
            growing,
            rules,
            checks,
            lambda suite: rows(bench, suite, phase),
            lambda interim: emit(interim=interim),
            task.first,
        )


if __name__ == "__main__":
    sys.exit(main())
