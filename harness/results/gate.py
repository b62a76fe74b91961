"""Whether a candidate may be released: a policy's rules, each with its evidence.

A rule passes where the whole interval clears its limit, and `max_drop` and `max_increase` where
both arms gave the same answers. It fails where the figure is beyond the limit with a p that Holm's
correction leaves below 1 - confidence, and is inconclusive else. A gate passes
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
from harness.results.cost import cost
from harness.results.groups import Group
from harness.results.leaderboard_layout import Cost
from harness.results.lookup import Arm, base_of
from harness.results.paired_differences import Evidence, FigureTest, Pairs, between
from harness.results.parity import rules as parity
from harness.results.policy import (
    COST,
    PARITY,
    Check,
    Loaded,
    default,
    refuse_failed_judges,
    without_retained,
)
from harness.results.store import suites
from harness.stats import power
from harness.stats.answers.degenerate_answers import MANY, Degenerate

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
    measurements: int | None = None
    """Of a cost: the fewest seeds of an arm; None for a metric."""
    seeds_range: tuple[float, float] | None = None
    """Of a cost: the least and the greatest of the candidate's seeds; None of one seed."""
    baseline_seeds_range: tuple[float, float] | None = None
    """The same of the baseline's."""
    gained: float | None = None
    """Of `retained`: samples that the base has wrong and the candidate right, the mean of seeds."""
    lost: float | None = None
    """The other way round."""
    identical: bool = False
    """Whether it passes because both arms gave the same answers, with the same scores."""
    more_samples_low: int | None = None
    """`more_samples` where as few samples differ as the interval of their share allows."""
    more_samples_high: int | None = None
    """The same of as many."""
    fewest: int | None = None
    """The fewest samples with which it can pass, every score the same; None where none would."""

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
    """The interim analyses of a sequential gate: `samples` of each suite, and the rules that are
    decided."""

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return EXIT[self.verdict] if self.blocks else 0

    def to_json(self) -> dict[str, object]:
        """As plain data."""
        report = {**asdict(self), "exit_code": self.exit_code}
        report["findings"] = [
            {**asdict(finding), "sentence": finding.sentence} for finding in self.findings
        ]
        return {"schema": SCHEMA, **report}


def decide(candidate: Arm, baseline: Arm, policy: Loaded | None) -> Decision:
    """Hold the candidate against a policy (by default `policy.default`).

    Raises NotComparable, ConfigError for a rule on an unknown metric, UserError for sample files
    that are missing or were changed.
    """
    pairs, policy, checks, notes = prepared(candidate, baseline, policy)
    bases = pairs_with_base(candidate, pairs, checks)
    reports = parity.last_reports(candidate, policy, checks)
    findings = [
        _parity_finding(check, reports) if check.suite == PARITY else assess(check, pairs, bases)
        for check in checks
    ]
    decided = decision(pairs, policy, findings)
    further = [*notes, *_too_few(findings), *parity.notes(reports)]
    return replace(decided, warnings=[*decided.warnings, *further])


def prepared(
    candidate: Arm, baseline: Arm, policy: Loaded | None
) -> tuple[Pairs, Loaded, list[Check], list[str]]:
    """The evidence on both, the policy with its checks, and notes on what has no rule.

    Raises as `decide` does.
    """
    policy = policy or default(baseline.group, candidate.group)
    pairs = between(candidate, baseline, policy.policy.confidence)
    groups = (pairs.candidate, pairs.baseline)
    # metrics of either arm: a separate error names the one that an arm lacks
    known = [name for group in groups for name in group.metric_names()]
    figures = dict.fromkeys(name for group in groups for name in costs(group))
    further = [*((COST, name) for name in figures), *parity.known(policy)]
    checks = policy.checks([*known, *further])
    checks, notes = without_retained(policy, checks, *groups)
    notes += refuse_failed_judges(policy, checks, groups)
    return pairs, policy, checks, [*policy.notes, *notes]


def pairs_with_base(candidate: Arm, pairs: Pairs, checks: Sequence[Check]) -> Pairs | None:
    """The candidate beside its base, where a rule compares with that."""
    return pairs.against(base_of(candidate).group) if needs_base(checks) else None


def _too_few(findings: Sequence[Finding]) -> list[str]:
    """One line on the rules that cannot pass with so few samples, whatever the candidate."""
    few = [f for f in findings if f.verdict != "pass" and f.fewest and (f.n or 0) < f.fewest]
    if not few:
        return []
    counts = [f"{finding.name} {finding.n} of {finding.fewest}" for finding in few[:3]]
    more = f" and {len(few) - 3} more" if len(few) > 3 else ""
    rules = "1 rule cannot" if len(few) == 1 else f"{len(few)} rules cannot"
    return [
        f"{rules} pass with so few samples unless the answers are the same ({', '.join(counts)}"
        f"{more}); `harness gate --plan` says what it takes"
    ]


def fewest_samples(check: Check, evidence: Evidence) -> int | None:
    """The fewest samples with which a rule can pass, every score the same; None where none would.

    Of a share it is what the score interval of samples that all agree takes.
    """
    if evidence.kind != "share":
        return None if check.rule.limit == "better_than" else 2
    margin = share_margin(check, evidence)
    if margin is None:  # a share of 0 or 1 is furthest from its limit
        limit, upward = check.rule.bound(evidence.higher_is_better)
        margin = 0.0 if check.rule.limit == "better_than" else (1 - limit if upward else limit)
    fewest = power.fewest_pairs(margin, evidence.confidence)
    return None if fewest is None else math.ceil(fewest * evidence.n / evidence.units)


def share_margin(check: Check, evidence: Evidence) -> float | None:
    """How far a share may move, absolute; None of another figure and of another limit."""
    if evidence.kind != "share" or check.rule.limit not in ("max_drop", "max_increase"):
        return None
    margin = check.rule.margin
    return margin.size * evidence.baseline if margin.relative else margin.size


def decision(pairs: Pairs, policy: Loaded, findings: Sequence[Finding]) -> Decision:
    """What the findings come to, with the policy's correction."""
    settings = policy.policy
    findings = corrected(findings, settings.confidence, settings.correction == "holm")
    if settings.degenerate == "fail":
        findings = [*findings, *map(_degenerate, pairs.degenerate())]
    verdicts = {finding.verdict for finding in findings}
    verdict: Verdict = "pass"
    if verdicts - {"pass"}:
        verdict = "fail" if "fail" in verdicts else "inconclusive"
    return Decision(
        pairs.candidate.label,
        pairs.baseline.label,
        settings.confidence,
        findings,
        verdict,
        verdict == "fail" or (verdict == "inconclusive" and settings.inconclusive == "block"),
        [*pairs.warnings(), *_unchecked(pairs, findings)],
    )


def _degenerate(one: Degenerate) -> Finding:
    """A rule that the answers broke."""
    return Finding(
        name=f"{one.suite}.degenerate.{one.name}",
        limit=f"none over {MANY:.0%} ({one.message})",
        value=one.share,
        baseline=None,
        change=one.share,
        ci_low=None,
        ci_high=None,
        bound=MANY,
        relative=False,
        n=None,
        p=0.0,
        more_samples=None,
        verdict="fail",
    )


def _unchecked(pairs: Pairs, findings: Sequence[Finding]) -> list[str]:
    """What rules on costs take from records that anybody may have changed."""
    groups = (pairs.candidate, pairs.baseline)
    loose = [g.label for g in groups if any("sha256" not in cell for cell in g.cells)]
    if loose and any(finding.name.startswith(f"{COST}.") for finding in findings):
        return [f"costs of {' and '.join(loose)} are unchecked: their records have no seal"]
    return []


def corrected(findings: Sequence[Finding], confidence: float, holm: bool) -> list[Finding]:
    """The findings with their p adjusted, and failed where it is below 1 - confidence."""
    p_values = [finding.p for finding in findings]
    adjusted = stats.holm(p_values) if holm else p_values
    return [_with_p(finding, p, confidence) for finding, p in zip(findings, adjusted, strict=True)]


def _with_p(finding: Finding, p: float, confidence: float) -> Finding:
    """The finding with its adjusted p, and failed where that is below 1 - confidence."""
    if finding.verdict == "pass":
        return replace(finding, p=p)
    fails = p < 1 - confidence
    return replace(
        finding,
        p=p,
        verdict="fail" if fails else "inconclusive",
        more_samples=None if fails else finding.more_samples,
        more_samples_low=None if fails else finding.more_samples_low,
        more_samples_high=None if fails else finding.more_samples_high,
    )


def needs_base(checks: Sequence[Check]) -> bool:
    """Whether a rule compares with the base too."""
    return any(check.rule.better_than == "base" for check in checks)


def assess(check: Check, pairs: Pairs, bases: Pairs | None) -> Finding:
    """What one rule comes to, before any correction: passed, or inconclusive with its p."""
    if check.suite == COST:
        return _assess_cost(check, pairs)
    against = bases if check.rule.better_than == "base" and bases else pairs
    finding = assess_evidence(check, evidence_for(check, pairs, bases))
    gained, lost = against.gained_and_lost(check.suite, check.metric, check.rule.where)
    return replace(finding, gained=gained, lost=lost)


def assess_evidence(check: Check, evidence: Evidence) -> Finding:
    """What a rule on a suite's metric comes to on some evidence, before any correction."""
    test, bound, upward, relative = tested(check, evidence)
    room_low = test.ci_low - bound if upward else bound - test.ci_high
    room = test.value - bound if upward else bound - test.value
    strict = check.rule.limit == "better_than"
    # the same answers are no worse, however few: no sampling stands between the two
    identical = evidence.identical and check.rule.limit in ("max_drop", "max_increase")
    passes = identical or (room_low > 0 if strict else room_low >= 0)
    beyond = room < 0 and not passes
    more = _More() if passes else _more_samples(check, test, evidence, room)
    alone = check.rule.limit in ("min", "max")
    sort: Literal["figure", "difference", "ratio"] = "ratio" if relative else "difference"
    low, high = evidence.shown(test, "figure" if alone else sort)
    return Finding(
        name=check.name,
        limit=check.rule.limit_text(),
        value=evidence.value,
        baseline=None if alone else evidence.baseline,
        change=test.value,
        ci_low=_plain(low),
        ci_high=_plain(high),
        bound=bound,
        relative=relative,
        n=evidence.n,
        p=test.p if beyond and not math.isnan(test.p) else 1.0,
        more_samples=more.likely,
        more_samples_low=more.low,
        more_samples_high=more.high,
        verdict="pass" if passes else "inconclusive",
        title=check.rule.name or "",
        identical=identical,
        fewest=fewest_samples(check, evidence),
    )


def evidence_for(check: Check, pairs: Pairs, bases: Pairs | None) -> Evidence:
    """The evidence that a rule on a suite's metric is held against; NotComparable without any."""
    return _evidence(check, bases if check.rule.better_than == "base" and bases else pairs)


def _evidence(check: Check, pairs: Pairs) -> Evidence:
    suite, metric = check.suite, check.metric
    for arm, other in (
        (pairs.candidate, pairs.baseline),
        (pairs.baseline, pairs.candidate),
    ):
        if not arm.having(suite, metric):
            raise NotComparable(
                f"{arm.label} has no {suite}.{metric} and {other.label} has: measure "
                f"{arm.label} with the suite '{suite}' too"
            )
    evidence = pairs.on(suite, metric, check.rule.where)
    if evidence is None:
        where = f" where {check.rule.where}" if check.rule.where else ""
        raise NotComparable(
            f"{suite}.{metric}{where}: no samples to compare (per token, it needs one tokenizer)"
        )
    return evidence


def tested(check: Check, evidence: Evidence) -> tuple[FigureTest, float, bool, bool]:
    """The test, its bound, whether the figure must stay above that, and whether it is relative."""
    rule = check.rule
    bound, upward = rule.bound(evidence.higher_is_better)
    if rule.limit in ("min", "max"):
        return evidence.alone(bound), bound, upward, False
    if rule.limit == "better_than":
        return evidence.change(), bound, upward, False
    relative = rule.margin.relative
    test = evidence.relative_change(bound) if relative else evidence.change(bound)
    if math.isnan(test.value):
        raise NotComparable(
            f"{check.name}: a percentage of {evidence.baseline:g} is no limit; give an absolute one"
        )
    return test, bound, upward, relative


@dataclass(frozen=True)
class _More:
    """Further samples that would likely decide a rule, and their range."""

    likely: int | None = None
    low: int | None = None
    high: int | None = None


def _more_samples(check: Check, test: FigureTest, evidence: Evidence, room: float) -> _More:
    """How many more decide 4 times in 5, were the difference just what was seen.

    Of paired shares by the score interval at the discordance seen, and at the ends of its own
    interval; of other figures by the normal approximation, whose range is that of the variance (a
    normal one's logarithm has the standard error sqrt(2 / (n - 1))).
    """
    if evidence.discordant and check.rule.limit not in ("min", "max"):
        return _more_pairs(check, evidence, evidence.discordant)
    stderr = stats.stderr_of(test.ci_low, test.ci_high, evidence.confidence)
    wide = math.exp(1.96 * math.sqrt(2 / max(1, evidence.units - 1)) / 2)
    likely, low, high = (
        stats.samples_needed(stderr * factor, evidence.n, room, evidence.confidence)
        for factor in (1.0, 1 / wide, wide)
    )
    if likely is None or low is None or high is None:
        return _More()
    return _More(*(max(1, needed - evidence.n) for needed in (likely, low, high)))


def _more_pairs(check: Check, evidence: Evidence, discordant: tuple[int, int]) -> _More:
    """Of paired shares: at the discordance seen, and at the ends of its interval."""
    _, upward = check.rule.bound(evidence.higher_is_better)
    for_it, against = discordant if upward else discordant[::-1]
    n, bound = evidence.n, -(share_margin(check, evidence) or 0.0)
    delta, seen = (for_it - against) / n, (for_it + against) / n
    if delta < bound:  # here the samples have to show a failure
        delta, bound = -delta, -bound
    needed = [
        power.pairs_needed(
            (share + delta) / 2, max(0.0, share - delta) / 2, bound, evidence.confidence
        )
        for share in (seen, *stats.wilson(for_it + against, n, evidence.confidence))
        if share >= abs(delta)
    ]
    known = [max(1, count - n) for count in needed if count is not None]
    return _More(known[0], min(known), max(known)) if known else _More()


def costs(group: Group) -> dict[str, float | None]:
    """The figures that a rule on `cost.` may name; `seconds_per_sample` is of evaluation."""
    figures = cost(group.cells)
    counts = [
        sum(samples["rows"] for suite in suites(cell).values() if (samples := suite.get("samples")))
        for cell in group.cells
    ]
    seconds, mean_count = figures["evaluation_seconds"], sum(counts) / len(counts)
    per_sample = seconds / mean_count if seconds and mean_count else None
    described = ("peak_memory_kind", "tokens_per_pass")  # no figures, but how one came about
    known = {name: figure for name, figure in figures.items() if name not in described}
    return {**cast("dict[str, float | None]", known), "seconds_per_sample": per_sample}


def _check_peaks(check: Check, pairs: Pairs, alone: bool) -> None:
    """Raise NotComparable for a peak on a GPU that is its evaluation's.

    Passes take as many tokens as the card's free memory allows: of what was not trained the peak
    says how much was free. Two such peaks compare where their passes were of one size.
    """
    arms = [pairs.candidate] if alone else [pairs.candidate, pairs.baseline]
    of_passes = [cost(arm.cells) for arm in arms]
    sizes = {figures.get("tokens_per_pass") for figures in of_passes}
    evaluated = [
        arm for arm, figures in zip(arms, of_passes, strict=True) if _is_of_passes(figures)
    ]
    if evaluated and (alone or len(sizes) > 1 or None in sizes):
        raise NotComparable(
            f"{check.name}: {evaluated[0].label} was not trained, so its peak is that of its "
            "passes, whose size follows the card's free memory; leave the rule out"
        )


def _is_of_passes(figures: Cost) -> bool:
    return "tokens_per_pass" in figures


def _assess_cost(check: Check, pairs: Pairs) -> Finding:
    """One measurement, so no interval: it passes or fails."""
    # tuning and dollars are figures of only those that were tuned or have a price
    mine = costs(pairs.candidate).get(check.metric)
    theirs = costs(pairs.baseline).get(check.metric)
    rule = check.rule
    if rule.limit == "better_than":
        raise NotComparable(f"{check.name}: a cost takes max_increase or max, not better_than")
    alone = rule.limit in ("min", "max")
    if check.metric == "peak_memory_bytes":
        _check_peaks(check, pairs, alone)
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
        measurements=_fewest_seeds(pairs, alone),
        seeds_range=_range_of_seeds(pairs.candidate, check.metric),
        baseline_seeds_range=None if alone else _range_of_seeds(pairs.baseline, check.metric),
    )


def _parity_finding(check: Check, reports: parity.Reports) -> Finding:
    """What a rule on the last parity check comes to, before any correction."""
    held = parity.hold(check, reports)
    return Finding(
        name=check.name,
        limit=check.rule.limit_text(),
        value=held.value,
        baseline=None,
        change=held.value,
        ci_low=held.ci_low,
        ci_high=held.ci_high,
        bound=held.bound,
        relative=False,
        n=held.n if held.ci_low is not None else None,
        p=held.p,
        more_samples=None,
        verdict="pass" if held.passes else "inconclusive",
        title=check.rule.name or "",
    )


def _range_of_seeds(group: Group, metric: str) -> tuple[float, float] | None:
    """The least and the greatest cost of a seed; None where fewer than two have one."""
    each = [costs(Group([cell])).get(metric) for cell in group.cells]
    known = [value for value in each if value is not None]
    return (min(known), max(known)) if len(known) > 1 else None


def _fewest_seeds(pairs: Pairs, alone: bool) -> int:
    groups = (pairs.candidate,) if alone else (pairs.candidate, pairs.baseline)
    return min(len(group.cells) for group in groups)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def _sentence(finding: Finding) -> str:
    def figure(value: float | None, sign: str = "") -> str:
        if value is None:
            return "unknown"
        return f"{100 * value:{sign}.2f}%" if finding.relative and sign else f"{value:{sign}.5g}"

    parts = [f"{figure(finding.value)}"]
    if finding.baseline is not None:
        parts[0] += f" against {figure(finding.baseline)}"
        interval = "" if finding.identical else _interval(finding, figure)
        parts.append(f"{figure(finding.change, '+')}{interval}")
    elif finding.n is not None:
        parts[0] += _interval(finding, figure)
    parts.append(f"limit {finding.limit}")
    if finding.n is not None:
        same = f"all {finding.n} scores are identical"
        parts.append(same if finding.identical else f"{finding.n} samples")
    if finding.gained is not None and finding.lost is not None:
        parts.append(f"{finding.gained:.3g} gained and {finding.lost:.3g} lost of the base's")
    if finding.measurements is not None:
        parts.append(_of_seeds(finding, figure))
    if finding.verdict == "inconclusive" and finding.n is not None:
        more = "no number of samples would" if finding.more_samples is None else ""
        likely = f"about {finding.more_samples} more samples would decide"
        between = f" (from {finding.more_samples_low} to {finding.more_samples_high})"
        parts.append(more or likely + between)
    return ", ".join(parts)


def _of_seeds(finding: Finding, figure: Callable[..., str]) -> str:
    """How a cost spreads over seeds, which is no interval: so few values give none."""
    ranges = [
        f"{name} seeds from {figure(of[0])} to {figure(of[1])}"
        for name, of in (
            ("the candidate's", finding.seeds_range),
            ("the baseline's", finding.baseline_seeds_range),
        )
        if of is not None
    ]
    return " and ".join([*(["one measurement"] if finding.measurements == 1 else []), *ranges])


def _interval(finding: Finding, figure: Callable[..., str]) -> str:
    if finding.n is None:
        return ""
    sign = "+" if finding.baseline is not None else ""
    return f" ({figure(finding.ci_low, sign)} to {figure(finding.ci_high, sign)})"
