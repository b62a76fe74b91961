"""What seeds and samples cost, from the wall-clock of earlier records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.record import Record
from harness.results.detection.comparisons import Varied
from harness.results.gate import costs
from harness.results.groups import Group
from harness.results.store import suites


@dataclass(frozen=True)
class Design:
    """What an experiment plans."""

    seeds: int
    rows_trained: Mapping[str, int]
    """Label -> optimizer steps times rows of each."""
    predicted_seconds: Callable[[str], float | None]
    """Of a label's training steps by formula, where no record has measured them."""
    groups: Mapping[str, Sequence[str | None] | None]
    """Suite -> the group of each sample that it has, no limit; None: only a run can tell."""
    price_per_hour: float | None

    def available(self, one: Varied) -> int | None:
        """Samples of the metric that its suite has; in proportion where fields are not known."""
        groups = self.groups.get(one.suite)
        if groups is None:
            return None
        where = {"group": one.where} if isinstance(one.where, str) else one.where or {}
        if where.keys() - {"group"}:
            return max(one.samples, len(groups) * one.samples // one.suite_rows)
        of_metric = [group for group in groups if where.get("group", group) == group]
        return max(one.samples, len(of_metric))


@dataclass(frozen=True)
class Seconds:
    """Of all that a comparison needs, trained and measured from the start."""

    per_seed: float
    """Training, and all other samples of the planned suites."""
    per_seed_and_sample: float
    once: float
    once_per_sample: float
    """Of an untrained baseline, which has no seeds."""

    def of(self, seeds: int, samples: int) -> float:
        """Of so many seeds, each on so many samples of the metric."""
        of_seeds = seeds * (self.per_seed + self.per_seed_and_sample * samples)
        return of_seeds + self.once + self.once_per_sample * samples

    def more_samples(self, seeds: int, seconds: float) -> int:
        """Samples that can be measured in so many seconds."""
        each = seeds * self.per_seed_and_sample + self.once_per_sample
        return int(seconds / each) if each > 0 else 0


def seconds_of(one: Varied, design: Design) -> Seconds | None:
    """By the candidate's records and the baseline's; None where they have no seconds.

    A sample costs what `gate --plan` takes: seconds of evaluation over all samples of all suites.
    One more sample of a metric that is made of a part of its suite takes the suite's growth.
    """
    own = _arm(one.candidate.group, design, one.suite)
    other = _arm(one.baseline.group, design, one.suite)
    if own is None or other is None:
        return None
    growth = one.suite_rows / one.samples
    if one.trained_baseline:
        return Seconds(own[0] + other[0], growth * (own[1] + other[1]), 0.0, 0.0)
    return Seconds(own[0], growth * own[1], other[0], growth * other[1])


def _arm(group: Group, design: Design, suite: str) -> tuple[float, float] | None:
    """(seconds of a seed without the suite's samples, seconds of a sample)."""
    per_sample = costs(group)["seconds_per_sample"]
    training = _training_seconds(group, design)
    if per_sample is None or training is None:
        return None
    others = [
        sum(
            samples["rows"]
            for name, section in suites(cell).items()
            if name != suite and name in design.groups
            if (samples := section.get("samples"))
        )
        for cell in group.cells
    ]
    return training + per_sample * sum(others) / len(others), per_sample


def _training_seconds(group: Group, design: Design) -> float | None:
    """All phases of a training, its steps for as many rows as are planned; nothing of a search."""
    planned = design.rows_trained.get(group.label)
    if planned is None and all(cell["training"] is None for cell in group.cells):
        return 0.0
    known = [_seconds_of_cell(cell, planned) for cell in group.cells]
    measured = [seconds for seconds in known if seconds is not None]
    if not measured:
        return design.predicted_seconds(group.label)
    return sum(measured) / len(measured)


def _seconds_of_cell(cell: Record, planned_rows: int | None) -> float | None:
    phases = (cell["training"] or {}).get("phases", {})
    seconds = {name: phase["seconds"] for name, phase in phases.items() if phase["seconds"]}
    if "train" not in seconds:
        return None
    budget = cell["plan"].get("budget") or {}
    rows = budget.get("steps", 0) * budget.get("batch", 0)
    scale = planned_rows / rows if planned_rows and rows else 1.0
    return sum((scale if name == "train" else 1.0) * (of or 0.0) for name, of in seconds.items())


def hours_and_dollars(
    seconds: Seconds | None, seeds: int, samples: int, price: float | None
) -> tuple[float | None, float | None]:
    """Of a design; None where the records have no seconds, or nobody a price."""
    if seconds is None:
        return None, None
    hours = seconds.of(seeds, samples) / 3600
    return hours, None if price is None else hours * price


def recorded_price(groups: Sequence[Group]) -> float | None:
    """The first price per hour that a record has."""
    prices = (cell["plan"].get("price_per_hour") for group in groups for cell in group.cells)
    return next((price for price in prices if price is not None), None)
