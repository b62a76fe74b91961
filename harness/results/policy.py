"""A gate's policy: what a candidate must keep, against a baseline or a fixed bound.

confidence: 0.95
correction: holm        # over the rules; or none
inconclusive: block     # or pass
degenerate: warn        # or fail
rules:
  - {metric: similarity.cosine, max_drop: 0.02}
  - {metric: perplexity.perplexity, max_increase: 5%}
  - {metric: "forgetting.mmlu_*", max_drop: 0.05}
  - {metric: similarity.must_contain, where: {group: refunds}, min: 0.8}
  - {metric: similarity.cosine, better_than: base}
  - {metric: cost.peak_memory_bytes, max_increase: 10%}
  - {metric: parity.identical, min: 0.9}
  - {metric: helpful.score, max_drop: 0.05, accept_failed_judge: true}
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from harness.config import strict_yaml
from harness.config.strict_yaml import Located, StrictModel
from harness.errors import UserError, nearest
from harness.results.groups import Group, base_id, metrics
from harness.results.paired_differences import SMALL_PART, SMALL_SHARE
from harness.results.store import suites
from harness.stats.metric_summary import figure

LIMITS = ("max_drop", "max_increase", "min", "max", "better_than")
COST = "cost"
"""The part before the dot of metrics that are costs."""
PARITY = "parity"
"""The same of figures of a parity check, and the folder of its reports."""


@dataclass(frozen=True)
class Amount:
    """How far a figure may move."""

    size: float
    relative: bool
    """Whether `size` is a share of the baseline's figure."""

    def __str__(self) -> str:
        return f"{self.size:.6g}" if not self.relative else f"{100 * self.size:.6g}%"


class Rule(StrictModel):
    """One thing that must hold; just one of the limits."""

    metric: str = Field(min_length=1)
    """`suite.metric`, `cost.<figure>` or `parity.<figure>`; `*` stands for any characters."""
    where: dict[str, str] = Field(default_factory=dict)
    """Only samples with these fields (`group`, `domain`, `cluster`)."""
    max_drop: float | str | None = None
    """The most that it may fall by: absolute, or such as 5%."""
    max_increase: float | str | None = None
    """The most that it may rise by: absolute, or such as 5%."""
    min: float | None = None
    """The least that it may be."""
    max: float | None = None
    """The most that it may be."""
    better_than: Literal["base", "baseline"] | None = None
    """It must be significantly better than that."""
    name: str | None = None
    """What reports call it."""
    accept_failed_judge: bool = False
    """Whether it stands where the judge of the metric failed its certificate. Such a judge's figure
    cannot be told, so that the rule passes with the same answers alone and is else inconclusive."""

    @field_validator("max_drop", "max_increase")
    @classmethod
    def _not_negative(cls, value: float | str | None) -> float | str | None:
        if value is not None:
            amount(value)
        return value

    @model_validator(mode="after")
    def _one_limit(self) -> Rule:
        given = [name for name in LIMITS if getattr(self, name) is not None]
        if len(given) != 1:
            what = "no limit" if not given else " and ".join(given)
            raise ValueError(f"expected just one of {', '.join(LIMITS)}, got {what}")
        if self.where and self.metric.startswith(f"{COST}."):
            raise ValueError("a cost is of all samples: leave `where` out")
        if self.where and self.metric.startswith(f"{PARITY}."):
            raise ValueError("a parity check is of all its prompts: leave `where` out")
        return self

    @property
    def limit(self) -> str:
        """Which of the limits it has."""
        return next(name for name in LIMITS if getattr(self, name) is not None)

    @property
    def margin(self) -> Amount:
        """Of `max_drop` and `max_increase`."""
        return amount(getattr(self, self.limit))

    def bound(self, higher_is_better: bool) -> tuple[float, bool]:
        """What the figure (or its change) is held against, and whether it must stay above it."""
        if self.limit in ("min", "max"):
            return float(getattr(self, self.limit)), self.limit == "min"
        if self.limit == "better_than":
            return 0.0, higher_is_better
        upward = self.limit == "max_drop"
        return -self.margin.size if upward else self.margin.size, upward

    def limit_text(self) -> str:
        """The limit in words."""
        words = {
            "max_drop": "may drop by {}",
            "max_increase": "may rise by {}",
            "min": "at least {}",
            "max": "at most {}",
            "better_than": "better than the {}",
        }
        moves = self.limit in ("max_drop", "max_increase")
        value = self.margin if moves else getattr(self, self.limit)
        return words[self.limit].format(value if isinstance(value, (str, Amount)) else f"{value:g}")


class Policy(StrictModel):
    """All rules of a gate."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Of each interval; what it leaves is the chance of a false alarm over all rules."""
    correction: Literal["holm", "none"] = "holm"
    """For failing several rules at once. Passing needs none: every rule has to pass."""
    inconclusive: Literal["block", "pass"] = "block"
    """What the gate does where no rule fails and some are inconclusive."""
    degenerate: Literal["warn", "fail"] = "warn"
    """Whether a candidate that gives one answer to everything, empty or looping ones, or reasoning
    without end fails."""
    rules: list[Rule] = Field(min_length=1)
    """Each a metric and one limit."""


@dataclass(frozen=True)
class Check:
    """A rule on one metric."""

    rule: Rule
    suite: str
    metric: str
    path: tuple[str | int, ...]
    """Of the rule in the policy's file."""

    @property
    def name(self) -> str:
        """`suite.metric`, and the slice."""
        slices = ", ".join(f"{key}={value}" for key, value in self.rule.where.items())
        return f"{self.suite}.{self.metric}" + (f" [{slices}]" if slices else "")


@dataclass(frozen=True)
class Loaded:
    """A policy and where it stands."""

    policy: Policy
    located: Located
    notes: Sequence[str] = ()
    """What a policy that the harness made has left out, and why."""

    def checks(self, known: Iterable[tuple[str, str]]) -> list[Check]:
        """A check for each rule and each of the known (suite, metric) that it names.

        Raises ConfigError with the nearest names where a rule has none.
        """
        names = {".".join(name): name for name in known}
        checks = []
        for number, rule in enumerate(self.policy.rules):
            matching = [name for name in names if fnmatch.fnmatchcase(name, rule.metric)]
            if not matching:
                raise self.located.error(
                    f"no metric '{rule.metric}': {nearest(rule.metric, names)}",
                    ("rules", number, "metric"),
                )
            checks += [Check(rule, *names[name], ("rules", number)) for name in matching]
        return checks


def without_retained(
    loaded: Loaded, checks: Sequence[Check], candidate: Group, baseline: Group
) -> tuple[list[Check], list[str]]:
    """The checks that do not hold `retained` against the base, and a note on those left out.

    The base retains all by definition, so that such a rule counts losses and no gains. Raises
    ConfigError where a rule is on nothing else; a pattern such as `forgetting.*` goes on without.
    """
    bases = {base_id(cell) or cell["id"] for cell in candidate.cells}
    own = {cell["id"] for cell in baseline.cells} & bases
    kept, notes = [], []
    for check in checks:
        rule = check.rule
        against = rule.better_than == "base" or (own and rule.limit not in ("min", "max"))
        group = candidate if candidate.having(check.suite, check.metric) else baseline
        if (
            check.suite in (COST, PARITY)
            or not against
            or not is_retained(group, check.suite, check.metric)
        ):
            kept.append(check)
            continue
        why = f"{check.name} against the base counts losses alone: the base retains all"
        if all(other is check for other in checks if other.path == check.path):
            raise loaded.located.error(
                f"{why}; use the accuracy of a task, or `min`", (*check.path, "metric")
            )
        notes.append(f"{why}; '{rule.metric}' goes without it")
    return kept, notes


def refuse_failed_judges(
    loaded: Loaded, checks: Sequence[Check], groups: Sequence[Group]
) -> list[str]:
    """Raise ConfigError for a rule on a judge that failed its certificate.

    Where the rule says `accept_failed_judge`, a note says so instead.
    """
    notes = []
    for check in checks:
        why = failed_judge(groups, check.suite, check.metric)
        if why is None:
            continue
        if not check.rule.accept_failed_judge:
            raise loaded.located.error(
                f"{check.name}: {why}; use another judge or metric, or say "
                "`accept_failed_judge: true` in the rule",
                (*check.path, "metric"),
            )
        notes.append(f"{check.name}: {why}; the policy accepts that by name")
    return notes


def failed_judge(groups: Iterable[Group], suite: str, metric: str) -> str | None:
    """Why the judge behind a metric failed, in any record; None where none failed."""
    for group in groups:
        for cell in group.having(suite, metric):
            judge = metrics(cell, suite)[metric]["estimator"].get("judge")
            if judge is not None and judge["level"] == "failed":
                return f"its judge failed its certificate ({judge['reason'] or 'no figures'})"
    return None


def amount(value: float | str) -> Amount:
    """`0.02` or `5%`. Raises ValueError on anything else, and on what is negative."""
    relative = isinstance(value, str) and value.strip().endswith("%")
    try:
        size = float(str(value).strip().removesuffix("%"))
    except ValueError:
        raise ValueError(f"expected a number or a percentage such as 5%, got {value!r}") from None
    if not 0 <= size < float("inf"):
        raise ValueError(f"expected zero or more, got {value!r}: it is how far a figure may move")
    return Amount(size / 100 if relative else size, relative)


def load(file: Path) -> Loaded:
    """Read a policy's YAML; ConfigError with file and line where it is wrong."""
    located = strict_yaml.load(file)
    return Loaded(strict_yaml.validate(Policy, located, context="policy"), located)


def default(baseline: Group, candidate: Group | None = None) -> Loaded:
    """The policy without a file: no first metric of the baseline's suites may get worse by much.

    A share may drop by 0.02 (2 points), any other figure move by 5 %, the wrong way. Where the
    first metric is `retained`, which counts what was lost and nothing that was gained, the accuracy
    of each task stands in for it. A suite whose judge shares its base with what it judges, or
    failed its certificate in either arm, has no rule. Raises UserError where that leaves no rule.
    """
    arms = [baseline, *([candidate] if candidate else [])]
    headlines = baseline.headlines()
    if not headlines:
        raise UserError("the baseline has no suite: measure it with those that matter")
    reasons = {name: _no_default_rule(arms, *name) for name in headlines}
    left_out = {suite: why for (suite, _), why in reasons.items() if why}
    notes = [f"suite '{suite}' has no rule by default: {why}" for suite, why in left_out.items()]
    names = [
        name
        for suite, metric in headlines
        if suite not in left_out
        for name in _accuracies(baseline, suite, metric)
    ]
    if not names:
        why = "; ".join(notes) or "no task has an accuracy"
        raise UserError(f"no rule without a policy: {why}; give --policy")
    rules = []
    for name in names:
        metric = baseline.metric(*name)
        how = metric["estimator"]
        share = figure(how) == "share" or "judge" in how  # corrected, it is of good answers
        way = "max_drop" if metric["higher_is_better"] else "max_increase"
        rules.append({"metric": ".".join(name), way: SMALL_SHARE if share else f"{SMALL_PART:%}"})
    located = Located(Path("default policy"), {"rules": rules}, {})
    return Loaded(strict_yaml.validate(Policy, located, context="policy"), located, notes)


def _accuracies(baseline: Group, suite: str, first: str) -> list[tuple[str, str]]:
    """The first metric of a suite; in place of `retained`, the accuracy of each task."""
    if not is_retained(baseline, suite, first):
        return [(suite, first)]
    return [
        (suite, metric)
        for name, metric in baseline.metric_names()
        # the second way of scoring a task has a name of its own
        if name == suite and baseline.metric(suite, metric)["estimator"]["where"] == metric
    ]


def is_retained(group: Group, suite: str, metric: str) -> bool:
    """Whether a metric counts only what the base has right."""
    return group.metric(suite, metric)["estimator"]["kind"] == "retained"


def _no_default_rule(arms: Sequence[Group], suite: str, metric: str) -> str | None:
    """Why a suite's first metric is held by no default rule; None where one holds it."""
    if _self_judged(arms[0], suite):
        return "it is self-judged"
    return failed_judge(arms, suite, metric)


def _self_judged(group: Group, suite: str) -> bool:
    """Whether judge and judged share a base, as the suite's notes say."""
    sections = [suites(cell).get(suite) for cell in group.cells]
    judges = [section.get("notes", {}).get("judge", {}) for section in sections if section]
    return any(judge.get("self_judged") for judge in judges)
