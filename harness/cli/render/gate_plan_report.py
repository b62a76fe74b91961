"""What a policy takes, for eyes: a line per rule, then what measuring costs."""

from __future__ import annotations

from harness.cli.render.gate_report import one_line
from harness.results.detection.gate_plan import GatePlan, Needed, RulePlan


def lines(plan: GatePlan) -> list[str]:
    """A line per pattern and per rule, then the totals."""
    patterns = [f"'{pattern}' is {count} rules" for pattern, count in plan.patterns.items()]
    cannot = sum(not rule.can_pass for rule in plan.rules)
    last = f"{len(plan.rules) - cannot} of {len(plan.rules)} rules can pass with these samples"
    if cannot:
        last += "; the others only if the answers are the same"
    if plan.seconds_per_sample is None:
        last += "; no hours: the record has no seconds of evaluation"
    return [one_line(text) for text in (*patterns, *map(_rule, plan.rules), last)]


def _rule(rule: RulePlan) -> str:
    start = f"{rule.name}, {rule.limit}"
    if rule.n is None:
        return f"{start}: one measurement, no samples"
    parts = [f"{rule.n} samples now"]
    parts.append("cannot be passed by an equal model" if rule.fewest is None else "")
    if rule.fewest is not None:
        parts[-1] = f"{rule.fewest} at least to pass"
    if rule.needed:
        parts.append(f"for 4 of 5 equal models {', '.join(map(_needed, rule.needed))}")
    elif rule.fewest is not None:
        parts.append("a record of another model would show how many")
    return f"{start}: {'; '.join(parts)}"


def _needed(needed: Needed) -> str:
    details = []
    if needed.discordance is not None:
        details.append(f"{100 * needed.discordance:.3g}% differ")
    if needed.observed:
        details.append("observed")
    if needed.hours is not None:
        hours = needed.hours
        details.append(f"{hours:.2g} h" if hours >= 1 else f"{60 * hours:.2g} min")
    if needed.dollars is not None:
        details.append(f"${needed.dollars:.2f}")
    return f"{needed.samples} ({', '.join(details)})" if details else str(needed.samples)
