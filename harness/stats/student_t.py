"""Student's t and the beta distribution, without the half second of importing scipy."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

_TINY = 1e-300
_TERMS = 500


@lru_cache(maxsize=10_000)
def t_quantile(probability: float, df: float) -> float:
    """The quantile of Student's t with `df` degrees of freedom."""
    if probability == 0.5:
        return 0.0
    if probability < 0.5:
        return -t_quantile(1 - probability, df)
    tail = 2 * (1 - probability)
    if (quantile := _halley_quantile(tail, probability, df)) is not None:
        return quantile
    high = 1.0
    while t_two_sided(high, df) > tail:
        high *= 2
    return _root(lambda t: tail - t_two_sided(t, df), 0.0, high)


def _halley_quantile(tail: float, probability: float, df: float) -> float | None:
    """The quantile by Halley's method, from the normal one; None where that does not settle.

    It takes 3 steps where halving an interval takes 55.
    """
    t = NormalDist().inv_cdf(probability)
    t += (t**3 + t) / (4 * df)  # Abramowitz & Stegun 26.7.5, its first term
    log_front = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    for _ in range(10):
        density = math.exp(log_front - (df + 1) / 2 * math.log1p(t * t / df))
        newton = (tail - t_two_sided(t, df)) / (2 * density)
        step = newton / (1 + newton * (df + 1) * t / (df + t * t) / 2)
        t -= step
        if not 0 < t < 1e6:
            return None
        if abs(step) <= 1e-9 * t:  # the next step is of the order of its cube
            return t
    return None


def t_two_sided(t: float, df: float) -> float:
    """The chance of a t statistic at least as far from zero (Abramowitz & Stegun 26.5.27)."""
    return beta_share(df / (df + t * t), df / 2, 0.5)


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The quantile of the beta distribution."""
    return _root(lambda x: beta_share(x, a, b) - probability, 0.0, 1.0)


def beta_share(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), the beta distribution's share below x.

    By its continued fraction (Abramowitz & Stegun 26.5.8), evaluated with Lentz's method on the
    side of the mean where it converges fast.
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_share(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / (a * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    value, c, d = 1.0, 1.0, 0.0
    for i in range(1, _TERMS):
        m = i // 2
        if i % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + term * d or _TINY)
        c = 1 + term / c or _TINY
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function is zero."""
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if f(middle) > 0 else (middle, high)
    return (low + high) / 2


def rising_root(f: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising and nearly straight function is zero: the nearer end where it is not between.

    The Illinois method (Dowell & Jarratt, BIT 11, 1971), to 1e-9 of the interval.
    """
    f_low, f_high = f(low), f(high)
    if f_low >= 0 or f_high <= 0:
        return low if f_low >= 0 else high
    width, side, middle = high - low, 0, low
    for _ in range(100):
        before, middle = middle, (low * f_high - high * f_low) / (f_high - f_low)
        value = f(middle)
        if value == 0 or abs(middle - before) <= 1e-9 * width:
            break
        if value > 0:
            high, f_high = middle, value
            f_low, side = (f_low / 2 if side > 0 else f_low), 1
        else:
            low, f_low = middle, value
            f_high, side = (f_high / 2 if side < 0 else f_high), -1
    return middle
