"""Rates and differences corrected for a judge's errors, from its sensitivity and specificity.

A judge passes a share p of answers; of good ones it passes `good`, of bad ones `bad`. Then
p = rate good + (1 - rate) bad, and the true rate is (p - bad) / (good - bad) (Rogan & Gladen,
American Journal of Epidemiology 107, 1978; for judges Lee et al., How to correctly report
LLM-as-a-judge evaluations, arXiv 2511.21140). Verdicts may be scores: their means then stand for
the shares (Bella et al., Quantification via probability estimators, ICDM 2010), and the corrected
figure is the share of good answers all the same. Of two systems judged alike the difference is
(p_a - p_b) / (good - bad).

**Interval.** The delta method of the paper divides by an estimate of good - bad as if it were sure,
which fails just where a judge is weak. Here a rate is in the interval if the equation
p - bad - rate (good - bad) = 0 can hold with it (E. C. Fieller, JRSS B 16, 1954), by the limits of
p, good and bad, whose squared distances add up (MOVER: Zou & Donner, Statistics in Medicine 27,
2008; ratios: Donner & Zou, Statistics in Medicine 31, 2012). The limits are those of Wilson and
Tango, or a bootstrap's over seeds and clusters: so few labels, 50 right of 50, and paired verdicts
are covered as they are there. A judge whose good - bad is not clearly above zero lets every rate
hold: the interval is the whole range and says why.

Where no rate can hold, the answers are judged otherwise than the labelled ones were, and the
interval is the whole range, with one exception. A judge that passes fewer than of the labelled bad
answers knows these bad ones better. If it passes good answers as it did, or more of them, p is at
least rate good: the rate is from 0 to p / good, and the estimate 0, as Rogan & Gladen's is where it
would be below. A judge that passes more than of good answers has no such bound: it may have been
talked into it.

**Assumption.** That the judge errs on these answers as it did on the labelled ones, given that they
are good or bad. Of one system, it fails where the labels are of other answers. Of a difference with
one calibration for both, it fails where errors depend on the system: a judge that loves length
passes more bad answers of the wordier system, and dividing by good - bad only makes that bias
larger, whatever its sensitivity and specificity over both. No figure over both systems can show
it. What helps: labels of either system's answers, each with its own calibration
(`corrected_difference_by_system`), labels of the compared suite (`prediction_powered`), which
assume nothing of the judge, or an allowance for what the certificate measured (`allowance`).
`error_rates.equal_errors` tests the assumption where labels of both systems exist; it is too weak
to rely on alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal, NamedTuple

from harness.stats.estimates import Difference, Estimate
from harness.stats.judges.error_rates import Calibration
from harness.stats.power import stderr_of
from harness.stats.student_t import rising_root

Assumption = Literal[
    "errors as labelled",
    "errors at most as labelled",
    "equal errors",
    "errors by system",
    "random labels",
]
"""What a corrected figure rests on.

- `errors as labelled`: of one system; its answers are judged as the labelled ones were.
- `errors at most as labelled`: of a system of which fewer answers pass than of labelled bad ones,
  and of a difference to it: the judge fails good answers no more often than labelled ones.
- `equal errors`: of two systems with one calibration: the judge errs alike on both.
- `errors by system`: each system's answers are judged as its own labelled ones were.
- `random labels`: the labelled answers are a random part of the suite's; nothing of the judge.
"""


@dataclass(frozen=True)
class Corrected:
    """A figure corrected for the errors of its judge."""

    value: float
    """In its range; NaN where the judge says nothing."""
    stderr: float
    """Of a normal interval as wide; NaN where it is unbounded."""
    ci_low: float
    ci_high: float
    p: float
    """Two-sided, of the figure being at the limit asked for (0); agrees with the interval."""
    n: int
    """Samples."""
    labels: int
    """Labelled answers that the correction is made of."""
    raw: float
    """By the verdicts alone."""
    assumption: Assumption
    reason: str | None = None
    """Why it cannot be told, where the interval is the whole range."""
    tuning: float | None = None
    """Of prediction-powered inference: the weight of the verdicts."""


_Facts = tuple[float, int, int, Assumption]
"""By the verdicts alone, samples, labelled answers, and what the figure rests on."""


class _Term(NamedTuple):
    """A coefficient and the estimate that it is of, with its limits."""

    coefficient: float
    value: float
    low: float
    high: float


class _Balance(NamedTuple):
    """Two sides of an equation apart: by how much, and how far that reaches either way."""

    value: float
    below: float
    above: float


def corrected_rate(
    raw: Estimate, calibration: Calibration, *, limit: float = 0.0, confidence: float = 0.95
) -> Corrected:
    """The share of good answers, from the mean verdict `raw`; `p` is of its being at `limit`.

    `raw` and `calibration` are of the same confidence.
    """
    problem = calibration.problem or _no_interval(raw.ci_low)
    if problem:
        return _unknown(
            (0.0, 1.0), raw.value, raw.n, calibration.labels, "errors as labelled", problem
        )
    good, bad = _both(calibration)

    def balance(rate: float) -> _Balance:
        return _apart(
            _Term(1.0, raw.value, raw.ci_low, raw.ci_high),
            _Term(-rate, good.value, good.ci_low, good.ci_high),
            _Term(rate - 1, bad.value, bad.ci_low, bad.ci_high),
        )

    found = _solved(
        balance,
        (raw.value - bad.value) / (good.value - bad.value),
        (0.0, 1.0),
        limit=limit,
        confidence=confidence,
        facts=(raw.value, raw.n, calibration.labels, "errors as labelled"),
    )
    if found.reason and calibration.binary and raw.value < bad.value:
        return _at_most_as_labelled(raw, calibration, limit=limit, confidence=confidence)
    return found


def _at_most_as_labelled(
    raw: Estimate, calibration: Calibration, *, limit: float, confidence: float
) -> Corrected:
    """The share of good answers, where a judge passes fewer than of the labelled bad ones."""
    good, _ = _both(calibration)

    def balance(rate: float) -> _Balance:
        return _apart(
            _Term(1.0, raw.value, raw.ci_low, raw.ci_high),
            _Term(-rate, good.value, good.ci_low, good.ci_high),
        )

    def reach(rate: float) -> float:
        apart = balance(rate)
        return -apart.above - apart.value

    most = rising_root(reach, 0.0, 1.0) if reach(1.0) > 0 else 1.0
    at_limit = balance(limit)
    return Corrected(
        0.0,
        stderr_of(0.0, most, confidence),
        0.0,
        most,
        # every rate up to raw / good explains the verdicts
        1.0 if at_limit.value >= 0 else _p(at_limit, confidence),
        raw.n,
        calibration.labels,
        raw.value,
        "errors at most as labelled",
    )


def difference_of_rates(
    a: Corrected,
    b: Corrected,
    raw: Difference,
    *,
    allowance: tuple[float, float] = (0.0, 0.0),
    limit: float = 0.0,
    confidence: float = 0.95,
) -> Corrected:
    """a - b of two corrected rates of one calibration, one of them beyond what it allows for.

    Their limits are put together as those of independent figures: answers of both systems to the
    same questions, and errors of the same calibration, go the same way and would narrow it.
    `allowance` is that of `corrected_difference`, as a share of answers. Whole range where one of
    the rates cannot be told.
    """
    reason = a.reason or b.reason
    if reason:
        return _unknown((-1.0, 1.0), raw.delta, raw.n, a.labels, "equal errors", reason)
    apart = _widened(_subtracted(a, b, 0.0), allowance)
    facts: _Facts = (raw.delta, raw.n, a.labels, "errors at most as labelled")
    return _difference(apart, limit=limit, confidence=confidence, facts=facts)


def corrected_difference(
    raw: Difference,
    calibration: Calibration,
    *,
    allowance: tuple[float, float] = (0.0, 0.0),
    limit: float = 0.0,
    confidence: float = 0.95,
) -> Corrected:
    """a - b of two systems' shares of good answers, from the paired difference of verdicts.

    One calibration for both: that the judge errs alike on both is assumed. `allowance` is the range
    of what the judge may rate a above b for another reason than being good (see
    `allowance_for_length`); every difference in it counts as possible.
    """
    problem = calibration.problem or _no_interval(raw.ci_low)
    if problem:
        return _unknown((-1.0, 1.0), raw.delta, raw.n, calibration.labels, "equal errors", problem)
    good, bad = _both(calibration)

    def balance(delta: float) -> _Balance:
        apart = _apart(
            _Term(1.0, raw.delta, raw.ci_low, raw.ci_high),
            _Term(-delta, good.value, good.ci_low, good.ci_high),
            _Term(delta, bad.value, bad.ci_low, bad.ci_high),
        )
        return _widened(apart, allowance)

    found = _solved(
        balance,
        raw.delta / (good.value - bad.value),
        (-1.0, 1.0),
        limit=limit,
        confidence=confidence,
        facts=(raw.delta, raw.n, calibration.labels, "equal errors"),
    )
    if limit or any(allowance) or found.reason:
        return found
    # what divides by something above zero is zero exactly where the verdicts do not differ
    return replace(found, p=raw.p)


def corrected_difference_by_system(
    a: Estimate,
    b: Estimate,
    raw: Difference,
    of_a: Calibration,
    of_b: Calibration,
    *,
    limit: float = 0.0,
    confidence: float = 0.95,
) -> Corrected:
    """a - b of two systems' shares of good answers, each with its own calibration.

    `a` and `b` are mean verdicts, `raw` their paired difference. The limits of both rates are put
    together with the correlation of the paired verdicts (Zou & Donner 2008, eq. 10). That errors
    in both calibrations go the same way where labels are of the same questions is left out: it
    would narrow the interval.
    """
    labels = of_a.labels + of_b.labels
    rates = [
        corrected_rate(share, own, confidence=confidence) for share, own in ((a, of_a), (b, of_b))
    ]
    reason = next((rate.reason for rate in rates if rate.reason), None)
    if reason:
        return _unknown((-1.0, 1.0), raw.delta, raw.n, labels, "errors by system", reason)
    first, second = rates
    shared = _correlation((a, of_a, first), (b, of_b, second), raw, confidence)
    facts: _Facts = (raw.delta, raw.n, labels, "errors by system")
    apart = _subtracted(first, second, shared)
    return _difference(apart, limit=limit, confidence=confidence, facts=facts)


def allowance_for_length(padded: Difference, padding: float, lengths: float) -> tuple[float, float]:
    """How far a judge may rate a above b for its length: an `allowance` of `corrected_difference`.

    `padded` is the certificate's difference of verdicts, padded minus as it was, of the same
    answers made `padding` times as long; `lengths` is the mean length of a's answers over b's. The
    bias is taken to grow with the logarithm of the length, both ends of its interval count, and
    zero is always in the range. Raises ValueError where `padding` is not above 1 or `lengths` not
    above 0.
    """
    if padding <= 1 or lengths <= 0:
        raise ValueError(f"padding must be above 1 and lengths above 0, got {padding}, {lengths}")
    times = math.log(lengths) / math.log(padding)
    ends = (times * padded.ci_low, times * padded.ci_high)
    return min(0.0, *ends), max(0.0, *ends)


def _both(calibration: Calibration) -> tuple[Estimate, Estimate]:
    assert calibration.good is not None
    assert calibration.bad is not None
    return calibration.good, calibration.bad


def _no_interval(low: float) -> str | None:
    return "one sample has no interval" if math.isnan(low) else None


def _unknown(
    bounds: tuple[float, float],
    raw: float,
    n: int,
    labels: int,
    assumption: Assumption,
    reason: str,
) -> Corrected:
    return Corrected(math.nan, math.nan, *bounds, 1.0, n, labels, raw, assumption, reason)


def _apart(*terms: _Term) -> _Balance:
    """The sum of coefficient times estimate, with the distances of its limits (MOVER)."""
    value = below = above = 0.0
    for factor, estimate, low, high in terms:
        down, up = (low, high) if factor >= 0 else (high, low)
        value += factor * estimate
        below += (factor * (estimate - down)) ** 2
        above += (factor * (up - estimate)) ** 2
    return _Balance(value, math.sqrt(below), math.sqrt(above))


def _solved(
    balance: Callable[[float], _Balance],
    value: float,
    bounds: tuple[float, float],
    *,
    limit: float,
    confidence: float,
    facts: _Facts,
) -> Corrected:
    """Where zero is within the limits of `balance`.

    Both limits fall all the way where good - bad is clearly above zero.
    """
    raw, n, labels, assumption = facts
    least, most = bounds

    def lower(x: float) -> float:
        apart = balance(x)
        return apart.below - apart.value

    def upper(x: float) -> float:
        apart = balance(x)
        return -apart.above - apart.value

    if lower(most) < 0 or upper(least) > 0:
        reason = (
            f"the mean verdict, {raw:.2f}, is beyond what the labels allow for any share of good "
            "answers: these answers are not judged as the labelled ones were"
        )
        return _unknown(bounds, raw, n, labels, assumption, reason)
    low, high = rising_root(lower, least, most), rising_root(upper, least, most)
    inside = min(max(value, least), most)
    low, high = min(low, inside), max(high, inside)
    p = _p(balance(limit), confidence)
    stderr = stderr_of(low, high, confidence)
    return Corrected(inside, stderr, low, high, p, n, labels, raw, assumption)


def _p(apart: _Balance, confidence: float) -> float:
    """Two-sided p of both sides being equal: below 1 - confidence where zero is beyond a limit."""
    reach = apart.below if apart.value > 0 else apart.above
    if apart.value == 0:
        return 1.0
    if reach == 0:
        return 0.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return 2 * NormalDist().cdf(-z * abs(apart.value) / reach)


def _subtracted(a: Corrected, b: Corrected, correlation: float) -> _Balance:
    """a - b of two rates, with the distances of its limits (Zou & Donner 2008, eq. 10)."""
    below = _joint(a.value - a.ci_low, b.ci_high - b.value, correlation)
    above = _joint(a.ci_high - a.value, b.value - b.ci_low, correlation)
    return _Balance(a.value - b.value, below, above)


def _widened(apart: _Balance, allowance: tuple[float, float]) -> _Balance:
    """Whatever is allowed for counts in full: it is a bias, no spread."""
    least, most = allowance
    return _Balance(apart.value, apart.below + max(0.0, most), apart.above + max(0.0, -least))


def _difference(apart: _Balance, *, limit: float, confidence: float, facts: _Facts) -> Corrected:
    """A difference of shares, from -1 to 1, with its distances as limits."""
    raw, n, labels, assumption = facts
    low, high = max(-1.0, apart.value - apart.below), min(1.0, apart.value + apart.above)
    p = _p(apart._replace(value=apart.value - limit), confidence)
    stderr = stderr_of(low, high, confidence)
    return Corrected(apart.value, stderr, low, high, p, n, labels, raw, assumption)


def _joint(first: float, second: float, correlation: float) -> float:
    return math.sqrt(max(0.0, first**2 + second**2 - 2 * correlation * first * second))


def _correlation(
    first: tuple[Estimate, Calibration, Corrected],
    second: tuple[Estimate, Calibration, Corrected],
    raw: Difference,
    confidence: float,
) -> float:
    """Of the two corrected rates: that of the paired verdicts, less what calibrations add."""
    together = (
        first[0].stderr ** 2
        + second[0].stderr ** 2
        - stderr_of(raw.ci_low, raw.ci_high, confidence) ** 2
    ) / 2
    spread = _delta_stderr(*first) * _delta_stderr(*second)
    return min(1.0, max(-1.0, together / spread)) if spread else 0.0


def _delta_stderr(share: Estimate, calibration: Calibration, rate: Corrected) -> float:
    """Of a corrected rate by the delta method, times good - bad."""
    good, bad = _both(calibration)
    parts = (share.stderr, rate.value * good.stderr, (1 - rate.value) * bad.stderr)
    return math.hypot(*parts)
