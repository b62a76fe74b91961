"""What a policy can decide with the samples at hand, and what it would take: before measuring.

A share's figures are exact sums over the score interval that the gate decides by; those of means
and perplexities follow from the paired spread that two records have shown. All are for a
candidate that is truly as good as the baseline.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from harness import stats
from harness.results import gate
from harness.results.lookup import Arm
from harness.results.paired_differences import Evidence
from harness.results.policy import COST, PARITY, Check, Loaded
from harness.stats import power

SCHEMA = 1
"""Version of a plan's layout."""

DISCORDANCES = (0.02, 0.05, 0.10)
"""Shares of samples that one arm has right and the other wrong."""


@dataclass(frozen=True)
class Needed:
    """Samples with which 4 of 5 equally good candidates pass, and what measuring them takes."""

    discordance: float | None
    """Share of samples on which the arms differ; None for what is no paired share."""
    observed: bool
    """Whether it is from these records."""
    samples: int
    hours: float | None
    dollars: float | None


@dataclass(frozen=True)
class RulePlan:
    """What one rule takes."""

    name: str
    limit: str
    n: int | None
    """Samples now; None for a cost and a figure of a parity check."""
    fewest: int | None
    """The fewest with which it can pass, every score the same; None where none would."""
    needed: Sequence[Needed]

    @property
    def can_pass(self) -> bool:
        """Whether the samples at hand are enough to pass without the very same answers."""
        return self.n is None or (self.fewest is not None and self.n >= self.fewest)


@dataclass(frozen=True)
class GatePlan:
    """What all rules of a policy take."""

    candidate: str
    baseline: str
    confidence: float
    seconds_per_sample: float | None
    """Of evaluation, of the candidate's record."""
    price_per_hour: float | None
    patterns: dict[str, int]
    """Pattern -> the number of rules that it stands for."""
    rules: Sequence[RulePlan]
    notes: Sequence[str]

    def to_json(self) -> dict[str, object]:
        """As plain data."""
        rules = [{**asdict(rule), "can_pass": rule.can_pass} for rule in self.rules]
        return {"schema": SCHEMA, **asdict(self), "rules": rules}


def plan(candidate: Arm, baseline: Arm, policy: Loaded | None) -> GatePlan:
    """What each rule takes. The baseline may stand for the candidate that is not there yet.

    Raises as `gate.decide` does.
    """
    pairs, policy, checks, notes = gate.prepared(candidate, baseline, policy)
    bases = gate.pairs_with_base(candidate, pairs, checks)
    seconds = gate.costs(candidate.group)["seconds_per_sample"]
    price = candidate.group.plan.get("price_per_hour")
    one = [cell["id"] for cell in candidate.group.cells] == [
        cell["id"] for cell in baseline.group.cells
    ]
    rates = (seconds, price)
    rules = []
    for check in checks:
        if check.suite in (COST, PARITY):
            rules.append(RulePlan(check.name, check.rule.limit_text(), None, None, ()))
            continue
        evidence = gate.evidence_for(check, pairs, bases)
        rules.append(_rule(check, evidence, rates, paired=not one))
    counts = Counter(check.rule.metric for check in checks if _is_pattern(check.rule.metric))
    return GatePlan(
        candidate.group.label,
        baseline.group.label,
        policy.policy.confidence,
        seconds,
        price,
        dict(counts),
        rules,
        notes,
    )


def _is_pattern(metric: str) -> bool:
    return any(character in metric for character in "*?[")


def _rule(
    check: Check,
    evidence: Evidence,
    rates: tuple[float | None, float | None],
    *,
    paired: bool,
) -> RulePlan:
    """What a rule on a suite's metric takes; `paired` where the arms are two, not one."""
    margin = gate.share_margin(check, evidence)
    requirements: list[tuple[float | None, bool, int | None]] = []
    if margin is not None and evidence.discordant:
        confidence = evidence.confidence
        only_a, only_b = evidence.discordant
        seen = (only_a + only_b) / evidence.n
        requirements = [(share, False, _equal(share, margin, confidence)) for share in DISCORDANCES]
        if paired:
            requirements.append((seen, True, _equal(seen, margin, confidence)))
    elif paired or check.rule.limit in ("min", "max"):
        requirements = [(None, True, _from_spread(check, evidence))]
    seconds, price = rates
    needed = []
    for share, observed, samples in requirements:
        if samples is not None:
            hours = None if seconds is None else samples * seconds / 3600
            dollars = None if hours is None or price is None else hours * price
            needed.append(Needed(share, observed, samples, hours, dollars))
    return RulePlan(
        check.name,
        check.rule.limit_text(),
        evidence.n,
        gate.fewest_samples(check, evidence),
        needed,
    )


def _equal(discordance: float, margin: float, confidence: float) -> int | None:
    return power.pairs_needed(discordance / 2, discordance / 2, -margin, confidence)


def _from_spread(check: Check, evidence: Evidence) -> int | None:
    """By the normal approximation, from the spread of what the limit is held against."""
    test, bound, upward, _ = gate.tested(check, evidence)
    room = test.value - bound if upward else bound - test.value
    distance = room if check.rule.limit in ("min", "max") else abs(bound)
    stderr = stats.stderr_of(test.ci_low, test.ci_high, evidence.confidence)
    if distance <= 0:
        return None
    return stats.samples_needed(stderr, evidence.n, distance, evidence.confidence, fewest=2)
