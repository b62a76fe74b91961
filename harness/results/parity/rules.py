"""Rules of a gate on `parity.*`: a figure of the candidate's last parity check against a bound."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from harness import stats
from harness.errors import NotComparable
from harness.results.lookup import Arm
from harness.results.parity import reports
from harness.results.policy import PARITY, Check, Loaded

Reports = Mapping[str, Mapping[str, Any]]
"""Cell -> its last report."""


@dataclass(frozen=True)
class Held:
    """A figure held against a bound."""

    value: float
    ci_low: float | None
    ci_high: float | None
    n: int
    bound: float
    passes: bool
    """Whether the whole interval clears the bound; of a figure without one, whether it does."""
    p: float
    """Two-sided, of the figure being at the bound where it is beyond it; else 1."""


def known(policy: Loaded) -> list[tuple[str, str]]:
    """The figures that rules may name; none where no rule names one of a parity check."""
    wanted = any(rule.metric.startswith(f"{PARITY}.") for rule in policy.policy.rules)
    return [(PARITY, name) for name in reports.HIGHER_IS_BETTER] if wanted else []


def last_reports(candidate: Arm, policy: Loaded, checks: Sequence[Check]) -> Reports:
    """The last report of each of the candidate's cells, where a rule asks for one.

    Raises ConfigError with the command to run where a cell has none, or where a rule compares with
    a baseline, which was not shipped.
    """
    rules = [check for check in checks if check.suite == PARITY]
    if not rules:
        return {}
    for check in rules:
        if check.rule.limit not in ("min", "max"):
            raise policy.located.error(
                f"{check.name} is of the candidate alone: give `min` or `max`",
                (*check.path, check.rule.limit),
            )
    folders = dict.fromkeys(stored.folder for stored in candidate.records.stored)
    found = {}
    for cell in candidate.group.cells:
        own = reports.of_cell(list(folders), cell["id"])
        if not own:
            raise policy.located.error(
                f"{rules[0].name}: cell {cell['id']} has no parity report; run: harness parity "
                f"{cell['id']} --served URL (or --gguf FILE, or --model DIR)",
                (*rules[0].path, "metric"),
            )
        found[cell["id"]] = own[0]
    return found


def hold(check: Check, of: Reports) -> Held:
    """A rule on the last reports; of several cells the worst counts.

    Raises NotComparable where a report lacks the figure.
    """
    figures = []
    for cell, report in of.items():
        figure = reports.figure(report, check.metric)
        if figure is None:
            raise NotComparable(
                f"{check.name}: the parity report of {cell} has none, for {report['form']['name']} "
                "gave no log-probabilities; leave the rule out"
            )
        figures.append(figure)
    bound, upward = check.rule.bound(reports.HIGHER_IS_BETTER[check.metric])
    pick = min if upward else max
    return _held(pick(figures, key=lambda figure: float(figure["value"])), bound, upward)


def notes(of: Reports) -> list[str]:
    """What was checked and when, for a newer form may have been shipped since."""
    return [
        f"parity of {cell}: {report['form']['name']} at {report['at']}, "
        f"{', '.join(cause['name'] for cause in report['causes'])}"
        for cell, report in of.items()
    ]


def _held(figure: Mapping[str, Any], bound: float, upward: bool) -> Held:
    value, low, high = figure["value"], figure["ci_low"], figure["ci_high"]
    n = int(figure["n"])
    beyond = value < bound if upward else value > bound
    if low is None or high is None:
        return Held(value, None, None, n, bound, not beyond, 0.0 if beyond else 1.0)
    passes = low >= bound if upward else high <= bound
    return Held(value, low, high, n, bound, passes, _p(value, low, high, bound) if beyond else 1.0)


def _p(value: float, low: float, high: float, bound: float) -> float:
    """Two-sided, from the interval of 95 % that the report has, by the normal approximation."""
    stderr = stats.stderr_of(low, high, 0.95)
    if not stderr > 0 or math.isnan(stderr):
        return 0.0
    return 2 * (1 - NormalDist().cdf(abs(value - bound) / stderr))
