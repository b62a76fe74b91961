"""Whether a candidate may be released: a policy's rules, each with its evidence.

A rule passes where the whole interval clears its limit, fails where the figure is beyond the limit
with a p that Holm's correction leaves below 1 - confidence, and is inconclusive else. A gate passes
only if every rule does (an intersection-union test, which needs no correction: Berger,
Technometrics 24, 1982), so the correction is for failing alone: the chance that a candidate as good
as its limits is stopped by any rule is at most 1 - confidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

from harness import stats
from harness.errors import NotComparable
from harness.results import comparability
from harness.results.cost import cost
from harness.results.groups import Group
from harness.results.lookup import Side, base_of
from harness.results.paired_differences import Evidence, Limits, Pairs, between
from harness.results.policy import COST, Check, Loaded, default
from harness.results.store import suites

SCHEMA = 1
"""Version of a decision's layout."""

Verdict = Literal["pass", "fail", "inconclusive"]
EXIT: Mapping[Verdict, int] = {"pass": 0, "fail": 1, "inconclusive": 3}


@dataclass(frozen=True)
class Finding:
    """What became of one rule."""

    name: str
    limit: str
    """The rule's limit in words."""
    value: float | None
    baseline: float | None
    change: float | None
    """What the limit is held against: the difference (a share of the baseline's where the limit
    is one), or the candidate's own figure for `min` and `max`."""
    ci_low: float | None
    ci_high: float | None
    bound: float
    """The limit on the scale of `change`."""
    relative: bool
    """Whether `change` is a share of the baseline's figure."""
    n: int | None
    """Samples; None for a cost, which is one measurement."""
    p: float
    """Of being at the limit, where the figure is beyond it; else 1."""
    more_samples: int | None
    """How many more would likely decide it; None where it is decided, or none would."""
    verdict: Verdict
    title: str = ""
    """The rule's own name."""

    @property
    def sentence(self) -> str:
        """The evidence in one line."""
        return _sentence(self)


@dataclass(frozen=True)
class Decision:
    """What became of the gate."""

    candidate: str
    baseline: str
    confidence: float
    findings: Sequence[Finding]
    verdict: Verdict
    """Of the rules."""
    blocks: bool
    """Whether the candidate is stopped."""
    warnings: Sequence[str]
    looks: Sequence[Mapping[str, Any]] = ()
    """Of a gate that looks again as samples come in: `samples` of each suite, and the rules that
    are decided."""

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return EXIT[self.verdict] if self.blocks else 0

    def to_json(self) -> dict[str, object]:
        """As plain data."""
        report = {**asdict(self), "exit_code": self.exit_code}
        report["findings"] = [{**asdict(one), "sentence": one.sentence} for one in self.findings]
        return {"schema": SCHEMA, **report}


def decide(candidate: Side, baseline: Side, policy: Loaded | None) -> Decision:
    """Hold the candidate against a policy (by default `policy.default`).

    Raises NotComparable, ConfigError for a rule on an unknown metric, UserError for sample files
    that are missing or were changed.
    """
    policy = policy or default(baseline.group)
    pairs = between(candidate, baseline, policy.policy.confidence)
    groups = (pairs.candidate, pairs.baseline)
    # metrics of either side: one that a side lacks is an error of its own
    known = [name for group in groups for name in group.metric_names()]
    figures = dict.fromkeys(name for group in groups for name in costs(group))
    checks = policy.checks([*known, *((COST, name) for name in figures)])
    bases = pairs.against(base_of(candidate).group) if needs_base(checks) else None
    return decision(pairs, policy, [finding(check, pairs, bases) for check in checks])


def decision(pairs: Pairs, policy: Loaded, findings: Sequence[Finding]) -> Decision:
    """What the findings come to, with the policy's correction."""
    settings = policy.policy
    found = corrected(findings, settings.confidence, settings.correction == "holm")
    verdicts = {one.verdict for one in found}
    verdict: Verdict = "pass"
    if verdicts - {"pass"}:
        verdict = "fail" if "fail" in verdicts else "inconclusive"
    return Decision(
        pairs.candidate.label,
        pairs.baseline.label,
        settings.confidence,
        found,
        verdict,
        verdict == "fail" or (verdict == "inconclusive" and settings.inconclusive == "block"),
        [*comparability.warnings(pairs.candidate, pairs.baseline), *_unchecked(pairs, found)],
    )


def _unchecked(pairs: Pairs, findings: Sequence[Finding]) -> list[str]:
    """What rules on costs take from records that anybody may have changed."""
    groups = (pairs.candidate, pairs.baseline)
    loose = [g.label for g in groups if any("sha256" not in cell for cell in g.cells)]
    if loose and any(one.name.startswith(f"{COST}.") for one in findings):
        return [f"costs of {' and '.join(loose)} are unchecked: their records have no seal"]
    return []


def corrected(findings: Sequence[Finding], confidence: float, holm: bool) -> list[Finding]:
    """The findings with their p adjusted, and failed where it is below 1 - confidence."""
    p_values = [one.p for one in findings]
    adjusted = stats.holm(p_values) if holm else p_values
    return [_replaced(one, p, confidence) for one, p in zip(findings, adjusted, strict=True)]


def _replaced(one: Finding, p: float, confidence: float) -> Finding:
    if one.verdict == "pass":
        return replace(one, p=p)
    fails = p < 1 - confidence
    return replace(
        one,
        p=p,
        verdict="fail" if fails else "inconclusive",
        more_samples=None if fails else one.more_samples,
    )


def needs_base(checks: Sequence[Check]) -> bool:
    """Whether a rule compares with the base too."""
    return any(check.rule.better_than == "base" for check in checks)


def finding(check: Check, pairs: Pairs, bases: Pairs | None) -> Finding:
    """What one rule comes to, before any correction: passed, or inconclusive with its p."""
    if check.suite == COST:
        return _of_cost(check, pairs)
    against = bases if check.rule.better_than == "base" and bases else pairs
    return judge(check, _evidence(check, against))


def judge(check: Check, evidence: Evidence) -> Finding:
    """What a rule on a suite's metric comes to on some evidence, before any correction."""
    found, bound, upward, relative = _held(check, evidence)
    room_low = found.ci_low - bound if upward else bound - found.ci_high
    room = found.value - bound if upward else bound - found.value
    strict = check.rule.limit == "better_than"
    passes = room_low > 0 if strict else room_low >= 0
    beyond = room < 0 and not passes
    return Finding(
        name=check.name,
        limit=check.rule.limit_text(),
        value=evidence.value,
        baseline=None if check.rule.limit in ("min", "max") else evidence.baseline,
        change=found.value,
        ci_low=_plain(found.ci_low),
        ci_high=_plain(found.ci_high),
        bound=bound,
        relative=relative,
        n=evidence.n,
        p=found.p if beyond and not math.isnan(found.p) else 1.0,
        more_samples=None if passes else _more(found, evidence, room),
        verdict="pass" if passes else "inconclusive",
        title=check.rule.name or "",
    )


def _evidence(check: Check, pairs: Pairs) -> Evidence:
    suite, metric = check.suite, check.metric
    for side, other in (
        (pairs.candidate, pairs.baseline),
        (pairs.baseline, pairs.candidate),
    ):
        if not side.having(suite, metric):
            raise NotComparable(
                f"{side.label} has no {suite}.{metric} and {other.label} has: measure "
                f"{side.label} with the suite '{suite}' too"
            )
    found = pairs.on(suite, metric, check.rule.where)
    if found is None:
        where = f" where {check.rule.where}" if check.rule.where else ""
        raise NotComparable(
            f"{suite}.{metric}{where}: no samples to compare (per token, it needs one tokenizer)"
        )
    return found


def _held(check: Check, evidence: Evidence) -> tuple[Limits, float, bool, bool]:
    """The figure, its bound, whether it must stay above it, and whether it is relative."""
    rule = check.rule
    bound, upward = rule.bound(evidence.higher_is_better)
    if rule.limit in ("min", "max"):
        return evidence.alone(bound), bound, upward, False
    if rule.limit == "better_than":
        return evidence.change(), bound, upward, False
    relative = rule.margin.relative
    found = evidence.relative_change(bound) if relative else evidence.change(bound)
    if math.isnan(found.value):
        raise NotComparable(
            f"{check.name}: a percentage of {evidence.baseline:g} is no limit; give an absolute one"
        )
    return found, bound, upward, relative


def _more(found: Limits, evidence: Evidence, room: float) -> int | None:
    stderr = stats.stderr_of(found.ci_low, found.ci_high, evidence.confidence)
    needed = stats.samples_needed(stderr, evidence.n, room, evidence.confidence)
    return None if needed is None else needed - evidence.n


def costs(group: Group) -> dict[str, float | None]:
    """The figures that a rule on `cost.` may name; `seconds_per_sample` is of evaluation."""
    figures = cost(group.cells)
    counts = [
        sum(samples["rows"] for suite in suites(cell).values() if (samples := suite.get("samples")))
        for cell in group.cells
    ]
    seconds, mean_count = figures["evaluation_seconds"], sum(counts) / len(counts)
    per_sample = seconds / mean_count if seconds and mean_count else None
    known = {name: figure for name, figure in figures.items() if name != "peak_memory_kind"}
    return {**cast("dict[str, float | None]", known), "seconds_per_sample": per_sample}


def _of_cost(check: Check, pairs: Pairs) -> Finding:
    """One measurement, so no interval: it passes or fails."""
    # tuning and dollars are figures of only those that were tuned or have a price
    mine = costs(pairs.candidate).get(check.metric)
    theirs = costs(pairs.baseline).get(check.metric)
    rule = check.rule
    if rule.limit == "better_than":
        raise NotComparable(f"{check.name}: a cost takes max_increase or max, not better_than")
    alone = rule.limit in ("min", "max")
    if mine is None or (theirs is None and not alone):
        if mine is not None:
            raise NotComparable(
                f"{check.name}: {pairs.baseline.label} has none; name another baseline, or give "
                "the rule `max`"
            )
        raise NotComparable(f"{check.name}: {pairs.candidate.label} has none; leave the rule out")
    bound, upward = rule.bound(higher_is_better=False)
    change, relative = float(mine), False
    if not alone:
        assert theirs is not None
        relative = rule.margin.relative
        if relative and theirs == 0:
            raise NotComparable(
                f"{check.name}: a percentage of 0 is no limit; give an absolute one"
            )
        change = mine / theirs - 1 if relative else mine - theirs
    passes = change >= bound if upward else change <= bound
    return Finding(
        name=check.name,
        limit=rule.limit_text(),
        value=float(mine),
        baseline=None if alone or theirs is None else float(theirs),
        change=change,
        ci_low=None,
        ci_high=None,
        bound=bound,
        relative=relative,
        n=None,
        p=1.0 if passes else 0.0,
        more_samples=None,
        verdict="pass" if passes else "inconclusive",
        title=rule.name or "",
    )


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def _sentence(one: Finding) -> str:
    def figure(value: float | None, sign: str = "") -> str:
        if value is None:
            return "unknown"
        return f"{100 * value:{sign}.2f}%" if one.relative and sign else f"{value:{sign}.5g}"

    parts = [f"{figure(one.value)}"]
    if one.baseline is not None:
        parts[0] += f" against {figure(one.baseline)}"
        parts.append(f"{figure(one.change, '+')}{_interval(one, figure)}")
    elif one.n is not None:
        parts[0] += _interval(one, figure)
    parts.append(f"limit {one.limit}")
    if one.n is not None:
        parts.append(f"{one.n} samples")
    if one.verdict == "inconclusive" and one.n is not None:
        more = "no number of samples would" if one.more_samples is None else ""
        parts.append(more or f"about {one.more_samples} more samples would decide")
    return ", ".join(parts)


def _interval(one: Finding, figure: Callable[..., str]) -> str:
    if one.n is None:
        return ""
    sign = "+" if one.baseline is not None else ""
    return f" ({figure(one.ci_low, sign)} to {figure(one.ci_high, sign)})"
