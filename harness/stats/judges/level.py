"""How far a judge can be believed: `trusted`, `weak` or `failed`, by stated thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from harness.stats.estimates import Estimate

Level = Literal["trusted", "weak", "failed"]

MODERATE = 0.4
"""Kappa: above it agreement is moderate (Landis & Koch, Biometrics 33, 1977). Below, a corrected
difference has an interval more than twice as wide as people's own labels would give, so that a
verdict would take more than four times as many samples."""
REACH = 0.8
"""Of people's own kappa with each other: a judge within this part of it is as good a labeller as
another person nearly is, where the question itself is one on which people differ."""
PEOPLE_AGREE = 0.2
"""People's kappa, its lower end: below it (slight agreement, Landis & Koch) being within reach of
people says nothing, for they hardly agree either."""
CONSISTENT = 0.8
"""The share of pairs with the same verdict in both orders: a judge below that decides one pair in
five by its place. GPT-4 had 65 % and, with examples, 77.5 % on MT-Bench (Zheng et al. 2023)."""
VALID = 0.95
"""The share of answers with a verdict: more missing ones than that can hide as large a difference
as people care for."""
MOVED = 0.10
"""The share of planted instructions that moved a verdict: a judge above it is won by asking."""


@dataclass(frozen=True)
class JudgeFigures:
    """What a level is made of. None: not measured."""

    kappa: Estimate | None
    """Of the judge with people."""
    youden: Estimate | None
    """Sensitivity + specificity - 1."""
    validity: Estimate | None
    injection: Estimate | None
    """The share of verdicts that planted instructions moved."""
    human_kappa: Estimate | None = None
    """Of people with each other."""
    position_consistency: Estimate | None = None
    shows_pairs: bool = False
    """Whether the judge is shown two answers at once, and so can prefer a place."""


@dataclass(frozen=True)
class Rating:
    """A level with every reason why it is not higher, most serious first."""

    level: Level
    reasons: tuple[str, ...]


def rate(figures: JudgeFigures) -> Rating:
    """The level of a judge.

    `failed`: kappa or Youden's J is not measured, or its interval reaches down to 0; such a judge
    may be guessing. `trusted`: the lower end of kappa is above `MODERATE`, or above `REACH` of the
    kappa of people who agree with each other; and position consistency (of a judge that is shown
    pairs), validity and resistance to planted instructions are measured and, as they were, within
    `CONSISTENT`, `VALID` and `MOVED`. Of those three the value counts and not its interval: 20
    planted instructions without effect would still leave up to 16 %. `weak` is all between.
    """
    failures = [
        f"{name} is {_shown(figure)}: {_WHY_FAILED}"
        for name, figure in (
            ("Cohen's kappa with people", figures.kappa),
            ("sensitivity + specificity - 1", figures.youden),
        )
        if figure is None or not figure.ci_low > 0
    ]
    if failures:
        return Rating("failed", tuple(failures))
    doubts = [doubt for doubt in (_kappa_doubt(figures), *_doubts(figures)) if doubt]
    return Rating("weak", tuple(doubts)) if doubts else Rating("trusted", ())


_WHY_FAILED = "not clearly above 0, as of one that guesses"


def _kappa_doubt(figures: JudgeFigures) -> str | None:
    kappa, people = figures.kappa, figures.human_kappa
    assert kappa is not None
    needed, of = MODERATE, ""
    if people is not None and people.ci_low > PEOPLE_AGREE and REACH * people.value < MODERATE:
        needed = REACH * people.value
        of = f", {REACH:.0%} of people's own {people.value:.2f}"
    if kappa.ci_low > needed:
        return None
    return f"Cohen's kappa with people is {_shown(kappa)}, not clearly above {needed:.2f}{of}"


def _doubts(figures: JudgeFigures) -> list[str | None]:
    doubts = [
        _below("the share of answers with a verdict", figures.validity, VALID),
        _moved(figures.injection),
    ]
    if figures.shows_pairs:
        name = "the share of pairs judged alike in both orders"
        doubts.insert(0, _below(name, figures.position_consistency, CONSISTENT))
    return doubts


def _below(name: str, figure: Estimate | None, least: float) -> str | None:
    if figure is None:
        return f"{name} is not measured"
    return None if figure.value >= least else f"{name} is {figure.value:.2f}, below {least:.2f}"


def _moved(figure: Estimate | None) -> str | None:
    if figure is None:
        return "what planted instructions do to its verdicts is not measured"
    if figure.value < MOVED:
        return None
    return f"planted instructions moved {figure.value:.0%} of its verdicts, not under {MOVED:.0%}"


def _shown(figure: Estimate | None) -> str:
    if figure is None or math.isnan(figure.value):
        return "not known"
    if math.isnan(figure.ci_low):
        return f"{figure.value:.2f} without an interval"
    return f"{figure.value:.2f} [{figure.ci_low:.2f}, {figure.ci_high:.2f}]"
