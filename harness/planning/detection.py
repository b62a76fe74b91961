"""What it would cost to know: an experiment's comparisons, planned by earlier records."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.api.task import Suite
from harness.errors import NotComparable, UserError, nearest
from harness.evaluation.suite import task_of
from harness.manager import Plugins, calling
from harness.planning.memory.predict import predict
from harness.planning.plan import Plan
from harness.record import Record
from harness.results import comparability, store
from harness.results.detection import comparisons, wall_clock
from harness.results.detection.plan import DetectionPlan
from harness.results.detection.plan import plan as plan_of
from harness.results.detection.wall_clock import Design
from harness.results.groups import Group, base_id, grouped
from harness.results.lookup import Arm, RecordSet
from harness.results.store import suites
from harness.types import ModelRef


@dataclass(frozen=True)
class Question:
    """What is asked, and where the earlier records are."""

    difference: float
    """In each metric's own unit; of a perplexity a part of it."""
    file: str
    """Of the experiment, as the user named it."""
    out: Path
    """The experiment's own results folder, which need not be there yet."""
    folders: Sequence[Path] = ()
    """More folders of records."""
    metrics: Sequence[str] = ()
    """Patterns of `suite.metric`; none: the first of each suite."""
    price_per_hour: float | None = None
    """In place of the experiment's."""


def detection_plan(plan: Plan, question: Question, plugins: Plugins) -> DetectionPlan:
    """What each comparison of the experiment tells, by records of the same suites and model.

    Raises UserError where there are none, and what reading them raises.
    """
    records = _records(plan, question)
    trained, notes = _trained(plan, records)
    hashes = {suite.name: suite.hash for suite in plan.suites}
    measured = [arm for arm in trained if _has_a_suite(arm.group, hashes)]
    if not measured:
        raise UserError(_refusal(plan, question, [arm.group for arm in trained]))
    chosen = _metrics(measured, question.metrics, hashes)
    missing = [name for name in hashes if name not in {suite for suite, _ in chosen}]
    if missing and not question.metrics:
        notes.append(f"no earlier record has {', '.join(missing)} as planned: left out")
    base = _base(plan, measured, records)
    if base is None:
        notes.append("no earlier record of the base: methods are compared with each other alone")

    def wanted(group: Group, suite: str, metric: str) -> bool:
        return (suite, metric) in chosen and hashes.get(suite) in _hashes(group, suite)

    varied, left_out = comparisons.varied(measured, base, wanted)
    if not varied:
        raise UserError(
            f"--detect: the records of {', '.join(arm.group.label for arm in measured)} have no "
            "difference to plan by: a metric of two samples and more, of a method and its base or "
            "of two methods"
        )
    groups = [arm.group for arm in measured]
    return plan_of(
        question.difference, varied, _design(plan, question, plugins, groups), [*notes, *left_out]
    )


def _records(plan: Plan, question: Question) -> RecordSet:
    """Finished records of the planned model."""
    own = [question.out] if any((question.out / "cells").glob("*.json")) else []
    places = [*own, *question.folders]
    stored = [
        one
        for one in store.read_records(places)
        if one.data["status"] == "ok" and _same_model(one.data, plan.base.model)
    ]
    return RecordSet(places, stored)


def _same_model(record: Record, model: ModelRef) -> bool:
    recorded = record["plan"]["model"]
    if model.content_hash and recorded.get("content_hash"):
        return recorded.get("content_hash") == model.content_hash
    return (recorded["name"], recorded.get("revision")) == (model.name, model.revision)


def _trained(plan: Plan, records: RecordSet) -> tuple[list[Arm], list[str]]:
    """The planned methods in earlier records, or else all methods there; and what is missing."""
    planned = {cell.label: cell for cell in plan.cells if cell.data is not None}
    ids = {cell.training_id for cell in plan.cells}

    def fit(group: Group) -> tuple[int, bool]:
        return len(group.cells), any(c["plan"].get("training_id") in ids for c in group.cells)

    best: dict[str, Group] = {}
    for group in records.groups:
        if group.label in planned or group.cells[0]["training"] is not None:
            known = best.get(group.label)
            if known is None or fit(group) > fit(known):
                best[group.label] = group
    missing = [label for label in planned if label not in best]
    if len(missing) < len(planned):
        best = {label: group for label, group in best.items() if label in planned}
    of = ", ".join(best)
    notes = [f"no earlier record of {', '.join(missing)}: planned by {of}"] if missing else []
    order = {label: number for number, label in enumerate(planned)}
    chosen = sorted(best.values(), key=lambda group: order.get(group.label, len(order)))
    return [Arm(group, records) for group in chosen], notes


def _base(plan: Plan, trained: Sequence[Arm], records: RecordSet) -> Arm | None:
    """The base that the trained arms were compared with."""
    wanted = {base_id(cell) for arm in trained for cell in arm.group.cells} | {plan.base.id}
    bases = grouped(record for key, record in records.by_id.items() if key in wanted)
    hashes = {suite.name: suite.hash for suite in plan.suites}
    return max(
        (Arm(group, records) for group in bases),
        key=lambda arm: sum(hashes[name] in _hashes(arm.group, name) for name in hashes),
        default=None,
    )


def _hashes(group: Group, suite: str) -> set[str]:
    return {suites(cell)[suite]["hash"] for cell in group.cells if suite in suites(cell)}


def _has_a_suite(group: Group, hashes: Mapping[str, str]) -> bool:
    return any(planned in _hashes(group, name) for name, planned in hashes.items())


def _metrics(
    arms: Sequence[Arm], patterns: Sequence[str], hashes: Mapping[str, str]
) -> set[tuple[str, str]]:
    """(suite, metric) that are planned: by patterns, or the first of each suite.

    `retained` is none: it is a share of what the base has right, and the base has no figure.
    """
    known = {
        name: None
        for arm in arms
        for name in arm.group.metric_names()
        if hashes.get(name[0]) in _hashes(arm.group, name[0])
        and arm.group.metric(*name)["estimator"]["kind"] != "retained"
    }
    if not patterns:
        firsts: dict[str, tuple[str, str]] = {}
        for name in known:
            firsts.setdefault(name[0], name)
        return set(firsts.values())
    names = {".".join(name): name for name in known}
    chosen = set()
    for pattern in patterns:
        matching = fnmatch.filter(names, pattern)
        if not matching:
            raise UserError(
                f"--metric: no '{pattern}' with a difference: {nearest(pattern, names)}"
            )
        chosen |= {names[name] for name in matching}
    return chosen


def _refusal(plan: Plan, question: Question, trained: Iterable[Group]) -> str:
    """What is missing, and how to get it."""
    for group in trained:
        for suite in plan.suites:
            if suite.name in group.hashes:
                try:
                    comparability.check_planned(suite, "this plan", group)
                except NotComparable as error:
                    return f"--detect: {error}"
    names = ", ".join(suite.name for suite in plan.suites)
    places = " and ".join(map(str, (question.out, *question.folders)))
    return (
        f"--detect needs earlier records of {names} with {plan.base.model.name} trained, and "
        f"{places} has none: train two seeds first, `harness run {question.file} "
        "--set 'seeds=[0, 1]'`, or name the folder of some with --from DIR"
    )


def _design(plan: Plan, question: Question, plugins: Plugins, groups: Sequence[Group]) -> Design:
    cells = {cell.label: cell for cell in plan.cells if cell.data is not None}
    seeds = Counter(cell.label for cell in plan.cells if cell.data is not None)
    prices = (question.price_per_hour, plan.base.price_per_hour, wall_clock.recorded_price(groups))
    return Design(
        seeds=max(seeds.values(), default=1),
        rows_trained={
            label: cell.budget.steps * cell.budget.batch for label, cell in cells.items()
        },
        predicted_seconds=lambda label: predict(cells[label]).seconds if label in cells else None,
        groups={suite.name: _groups(suite, plugins) for suite in plan.suites},
        price_per_hour=next((price for price in prices if price is not None), None),
    )


def _groups(suite: Suite, plugins: Plugins) -> list[str | None] | None:
    """The group of each sample without any limit; None where only a run can tell."""
    task = task_of(suite, plugins)
    if not task.knows_samples:
        return None
    whole = replace(suite, settings={**suite.settings, "limit": None}, picked=None)
    with calling(f"task '{suite.ask}'"):
        return [sample.group for sample in task.samples(whole)]
