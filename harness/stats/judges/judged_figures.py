"""A judge's figures as a record shows them: which correction applies, and what it comes to.

What is known decides, never what comes out:

1. A judge that failed its certificate says nothing: every figure is unbounded.
2. Where at least `FEWEST` answers of every compared system are labelled, of single runs, the labels
   of the suite itself correct (`prediction_powered`): nothing is assumed of the judge.
3. Where answers of every system are labelled and each has good and bad ones among them, but systems
   are the mean of several runs, each system is corrected by its own labels, and the spread between
   runs stays in the interval.
4. Else the certificate corrects. For a difference that assumes equal errors of both systems; what
   the certificate measured of the judge's love of length is allowed for, by how long their answers
   are. Where a system's verdicts show that its answers are judged otherwise than the labelled ones,
   the two rates are subtracted, each with the assumption that is left to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.record import JudgeErrors, MeanVerdict
from harness.stats.estimates import Difference, Estimate
from harness.stats.judges.correction import (
    Assumption,
    Corrected,
    allowance_for_length,
    corrected_difference,
    corrected_difference_by_system,
    corrected_rate,
    difference_of_rates,
)
from harness.stats.judges.error_rates import Calibration, calibrate
from harness.stats.judges.level import Level
from harness.stats.judges.prediction_powered import FEWEST, powered_difference, powered_mean

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class LengthBias:
    """What the certificate measured of longer answers that are no better."""

    difference: Difference
    """Of verdicts: padded minus as they were."""
    padding: float
    """How many times as long the padded answers are, above 1."""


@dataclass(frozen=True)
class KnownErrors:
    """What is known of a judge, from its certificate; intervals are of 95 %."""

    calibration: Calibration | None
    level: Level
    reason: str = ""
    """Why the level is not higher."""
    length: LengthBias | None = None


@dataclass(frozen=True)
class Judged:
    """A system's verdicts on the samples of a suite."""

    raw: Estimate
    """Of the mean verdict, with what clusters and seeds add."""
    verdicts: Floats
    """`(runs, samples)`."""
    labels: Floats | None = None
    """People's, 1 good and 0 bad, of the same answers; NaN without one, None without any."""
    length: float | None = None
    """The mean length of its answers."""

    @property
    def labelled(self) -> int:
        """Answers with a label."""
        return 0 if self.labels is None else int((~np.isnan(self.labels)).sum())

    @property
    def own(self) -> Calibration | None:
        """The judge's errors on this system's labelled answers; None without labels."""
        if self.labels is None:
            return None
        clusters = None
        if len(self.verdicts) > 1:  # answers of several runs to one question
            clusters = list(np.tile(np.arange(self.verdicts.shape[1]), len(self.verdicts)))
        return calibrate(self.verdicts.ravel(), self.labels.ravel(), clusters=clusters)


def known_errors(written: JudgeErrors | None) -> KnownErrors | None:
    """What a record says of the judge of a metric; None where no judge is behind it."""
    if written is None:
        return None
    calibration = Calibration(
        _mean_verdict(written["good"]), _mean_verdict(written["bad"]), written["binary"]
    )
    length, bias = written.get("length"), None
    if length is not None and length["ci_low"] is not None and length["ci_high"] is not None:
        ends = (length["ci_low"], length["ci_high"])
        padded = Difference(length["delta"], *ends, math.nan, calibration.labels)
        bias = LengthBias(padded, length["padding"])
    return KnownErrors(calibration, written["level"], written["reason"], bias)


def _mean_verdict(written: MeanVerdict | None) -> Estimate | None:
    if written is None:
        return None
    stderr, low, high = (
        math.nan if end is None else end
        for end in (written["stderr"], written["ci_low"], written["ci_high"])
    )
    return Estimate(written["value"], stderr, low, high, written["n"])


def judged_rate(
    known: KnownErrors,
    system: Judged,
    *,
    clusters: Sequence[object] | None = None,
    limit: float = 0.0,
    confidence: float = 0.95,
) -> Corrected:
    """The share of good answers of one system; `p` is of its being at `limit`.

    `system.raw` is of this `confidence`.
    """
    if known.level == "failed":
        return _failed(known, (0.0, 1.0), system.raw.value, system.raw.n, "errors as labelled")
    how = _how([system])
    if how == "random labels":
        assert system.labels is not None
        return powered_mean(
            system.verdicts[0],
            system.labels[0],
            clusters=clusters,
            limit=limit,
            confidence=confidence,
        )
    if how == "errors by system" and system.own is not None:
        own = at_confidence(system.own, confidence)
        return corrected_rate(system.raw, own, limit=limit, confidence=confidence)
    if known.calibration is None or not known.calibration.labels:
        reason = _no_labels(known, [system])
        return _unknown((0.0, 1.0), system.raw.value, system.raw.n, "errors as labelled", reason)
    calibration = at_confidence(known.calibration, confidence)
    return corrected_rate(system.raw, calibration, limit=limit, confidence=confidence)


def judged_difference(
    known: KnownErrors,
    a: Judged,
    b: Judged,
    raw: Difference,
    *,
    clusters: Sequence[object] | None = None,
    limit: float = 0.0,
    confidence: float = 0.95,
) -> Corrected:
    """a - b of two systems' shares of good answers, on the same samples; `raw` is the verdicts'."""
    if known.level == "failed":
        return _failed(known, (-1.0, 1.0), raw.delta, raw.n, "equal errors")
    how = _how([a, b])
    if how == "random labels":
        assert a.labels is not None
        assert b.labels is not None
        return powered_difference(
            a.verdicts[0],
            a.labels[0],
            b.verdicts[0],
            b.labels[0],
            clusters=clusters,
            limit=limit,
            confidence=confidence,
        )
    if how == "errors by system":
        of_a, of_b = (
            at_confidence(system.own or Calibration(None, None), confidence) for system in (a, b)
        )
        return corrected_difference_by_system(
            a.raw, b.raw, raw, of_a, of_b, limit=limit, confidence=confidence
        )
    if known.calibration is None or not known.calibration.labels:
        return _unknown((-1.0, 1.0), raw.delta, raw.n, "equal errors", _no_labels(known, [a, b]))
    calibration = at_confidence(known.calibration, confidence)
    allowance = _allowance(known.length, a.length, b.length)
    rate_a, rate_b = (corrected_rate(one.raw, calibration, confidence=confidence) for one in (a, b))
    if (youden := calibration.youden) and (_beyond(rate_a) or _beyond(rate_b)):
        of_answers = (allowance[0] / youden.value, allowance[1] / youden.value)
        return difference_of_rates(
            rate_a, rate_b, raw, allowance=of_answers, limit=limit, confidence=confidence
        )
    return corrected_difference(
        raw, calibration, allowance=allowance, limit=limit, confidence=confidence
    )


def _beyond(rate: Corrected) -> bool:
    """Whether no share of good answers would have such verdicts with the labelled errors."""
    return rate.reason is not None or rate.assumption == "errors at most as labelled"


def at_confidence(calibration: Calibration, confidence: float) -> Calibration:
    """A calibration of 95 % with limits as far out as another confidence asks for.

    Distances are taken to grow as the normal distribution's do; scores have no range to stay in.
    """
    times = NormalDist().inv_cdf((1 + confidence) / 2) / NormalDist().inv_cdf(0.975)

    def scaled(part: Estimate | None) -> Estimate | None:
        if part is None or times == 1:
            return part
        low, high = (part.value + times * (end - part.value) for end in (part.ci_low, part.ci_high))
        if calibration.binary:
            low, high = max(0.0, low), min(1.0, high)
        return replace(part, ci_low=low, ci_high=high)

    return replace(calibration, good=scaled(calibration.good), bad=scaled(calibration.bad))


def _how(systems: Sequence[Judged]) -> Assumption:
    single = all(len(system.verdicts) == 1 for system in systems)
    if single and min(system.labelled for system in systems) >= FEWEST:
        return "random labels"
    own = [system.own for system in systems]
    if all(one is not None and one.good and one.bad for one in own) and (
        min(system.labelled for system in systems) >= FEWEST
    ):
        return "errors by system"
    return "equal errors" if len(systems) > 1 else "errors as labelled"


def _allowance(
    bias: LengthBias | None, of_a: float | None, of_b: float | None
) -> tuple[float, float]:
    if bias is None or not of_a or not of_b or not math.isfinite(bias.difference.ci_low):
        return 0.0, 0.0
    return allowance_for_length(bias.difference, bias.padding, of_a / of_b)


def _no_labels(known: KnownErrors, systems: Sequence[Judged]) -> str:
    fewest = min(system.labelled for system in systems)
    why = known.reason or "the judge has no certificate"
    return f"{why}, and {fewest} labelled answers are fewer than the {FEWEST} that a figure takes"


def _unknown(
    bounds: tuple[float, float], raw: float, n: int, assumption: Assumption, reason: str
) -> Corrected:
    return Corrected(math.nan, math.nan, *bounds, 1.0, n, 0, raw, assumption, reason)


def _failed(
    known: KnownErrors, bounds: tuple[float, float], raw: float, n: int, assumption: Assumption
) -> Corrected:
    reason = f"the judge failed its certificate: {known.reason or 'no figures'}"
    labels = known.calibration.labels if known.calibration else 0
    return Corrected(math.nan, math.nan, *bounds, 1.0, n, labels, raw, assumption, reason)
