"""Proportions, alone and paired, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.student_t import beta_quantile, beta_share


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a proportion (E. B. Wilson, JASA 22, 1927)."""
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    share = successes / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * share * (1 - share) / n + z2**2 / (4 * n**2)) / (1 + z2 / n)
    # rounding must not push the bounds past the proportion itself
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a proportion (Clopper & Pearson, Biometrika 26, 1934)."""
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else beta_quantile(tail, successes, n - successes + 1)
    high = 1.0 if successes == n else beta_quantile(1 - tail, successes + 1, n - successes)
    return low, high


def mcnemar(scores_a: ArrayLike, scores_b: ArrayLike) -> float:
    """Two-sided p of paired 0/1 scores: `mid_p` of their discordant pairs."""
    only_a, only_b, _ = discordant(scores_a, scores_b)
    return mid_p(only_a, only_b)


@dataclass(frozen=True)
class PairedShares:
    """a - b of two proportions on the same samples, and its interval."""

    delta: float
    ci_low: float
    ci_high: float
    p: float
    """Mid-p McNemar."""


def paired_shares(
    scores_a: ArrayLike, scores_b: ArrayLike, confidence: float = 0.95
) -> PairedShares:
    """Difference of paired 0/1 scores, shape `(samples,)`: Tango's interval, McNemar's mid-p.

    With few discordant pairs the score interval excludes zero where the test does not reject, in
    10 of 40,000 tables of up to 400 discordant pairs at 95 %; it is drawn out to zero there, so
    that the two never contradict each other.
    """
    only_a, only_b, n = discordant(scores_a, scores_b)
    low, high = tango(only_a, only_b, n, confidence)
    p = mid_p(only_a, only_b)
    if p >= 1 - confidence:
        low, high = min(low, 0.0), max(high, 0.0)
    return PairedShares((only_a - only_b) / n, low, high, p)


def tango(only_a: int, only_b: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of p_a - p_b on `n` pairs, of which `only_a` and `only_b` are discordant.

    T. Tango, Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design, Statistics in Medicine 17, 1998.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    delta = (only_a - only_b) / n

    def bound(sign: int) -> float:
        inside, outside = delta, float(sign)
        for _ in range(60):
            middle = (inside + outside) / 2
            far = abs(_tango_z(only_a, only_b, n, middle)) > z
            inside, outside = (inside, middle) if far else (middle, outside)
        return inside

    return bound(-1), bound(1)


def tango_p(scores_a: ArrayLike, scores_b: ArrayLike, delta: float) -> float:
    """Two-sided p of p_a - p_b = delta, by the score that `tango` inverts."""
    return 2 * NormalDist().cdf(-abs(_tango_z(*discordant(scores_a, scores_b), delta)))


def clears(only_a: int, only_b: int, n: int, delta: float, confidence: float) -> bool:
    """Whether the interval that `tango` gives p_a - p_b lies above `delta`."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return _tango_z(only_a, only_b, n, delta) >= z


def score_p(successes: float, n: int, share: float) -> float:
    """Two-sided p of a proportion being `share`, by the score that `wilson` inverts."""
    distance = successes / n - share
    variance = share * (1 - share) / n
    if variance <= 0:
        return 1.0 if distance == 0 else 0.0
    return 2 * NormalDist().cdf(-abs(distance) / math.sqrt(variance))


def _tango_z(only_a: int, only_b: int, n: int, delta: float) -> float:
    """The score statistic of p_a - p_b = delta."""
    a = 2 * n
    b = -only_a - only_b + (2 * n - only_a + only_b) * delta
    c = -only_b * delta * (1 - delta)
    share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * share + delta * (1 - delta))
    distance = only_a - only_b - n * delta
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def discordant(scores_a: ArrayLike, scores_b: ArrayLike) -> tuple[int, int, int]:
    """Pairs that only a has, that only b has, and all pairs."""
    a, b = np.asarray(scores_a, float), np.asarray(scores_b, float)
    return int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum()), a.size


@lru_cache(maxsize=100_000)
def mid_p(only_a: int, only_b: int) -> float:
    """Two-sided mid-p of McNemar's test of so many discordant pairs on either side.

    A binomial test at 1/2 that counts half of what was seen: nearer to its nominal level than the
    exact test, and hardly ever above it. M. W. Fagerland, S. Lydersen & P. Laake, The McNemar test
    for binary matched-pairs data, BMC Medical Research Methodology 13:91, 2013. Never below the p
    of the score that `tango` inverts, so that the two agree at every confidence.
    """
    discordant, fewer = only_a + only_b, min(only_a, only_b)
    if discordant == 0:
        return 1.0
    log_seen = (
        math.lgamma(discordant + 1)
        - math.lgamma(fewer + 1)
        - math.lgamma(discordant - fewer + 1)
        - discordant * math.log(2)
    )
    if 2 * fewer == discordant:
        return 1 - math.exp(log_seen) / 2
    at_most = beta_share(0.5, discordant - fewer, fewer + 1)  # of the binomial distribution
    by_score = 2 * NormalDist().cdf(-abs(only_a - only_b) / math.sqrt(discordant))
    return max(2 * at_most - math.exp(log_seen), by_score)
