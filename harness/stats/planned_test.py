"""The power of a test that is yet to be made, on so many samples and seeds.

The test is the one that `bootstrapping.interval` makes: zero is outside of an interval whose error
is put together from samples and seeds, each with its own t. With few seeds their spread is itself
a matter of chance, and so is the interval's width: the power is the mean over that chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from harness.stats import power as power_of_intervals
from harness.stats.bootstrapping import Floats, beyond_answers
from harness.stats.power import POWER
from harness.stats.student_t import t_quantile
from harness.stats.variance_components import Components

_POINTS = 40
_MANY = 10**9
"""Units above which nobody plans."""


@dataclass(frozen=True)
class PlannedTest:
    """A two-sided test of a paired difference whose components of variance are known."""

    components: Components
    """With their training part, but for `one_run`."""
    independent: float | None = None
    """Of two trained arms: the variance of training of both, drawn independently. With two seeds
    the wider of paired and independent draws holds."""
    share: bool = False
    """Whether samples that all agree have the score interval of a share."""
    confidence: float = 0.95

    def half_width(self, units: float, seeds: int) -> float:
        """The interval's expected half-width; units may be infinite, seeds are two or more."""
        return float(self._half_widths(units, seeds).mean())

    def power(self, difference: float, units: float, seeds: int) -> float:
        """The chance that a true difference of this size, above zero, is told from zero."""
        stderr = math.sqrt(sum(self.components.parts(units, seeds)))
        widths = self._half_widths(units, seeds)
        if stderr == 0:
            return float((widths <= difference).mean())
        reach = [(difference - width) / (stderr * math.sqrt(2)) for width in widths.tolist()]
        return sum(1 + math.erf(z) for z in reach) / (2 * len(reach))

    def detectable(self, units: float, seeds: int) -> float:
        """The smallest true difference that is told from zero with a power of 0.8."""
        stderr = math.sqrt(sum(self.components.parts(units, seeds)))
        low, high = 0.0, float(self._half_widths(units, seeds).max()) + 8 * stderr
        for _ in range(40):
            middle = (low + high) / 2
            enough = self.power(middle, units, seeds) >= POWER
            low, high = (low, middle) if enough else (middle, high)
        return high

    def units_needed(self, difference: float, seeds: int, most: float = math.inf) -> int | None:
        """The fewest units, up to `most`, that tell a difference; None where none do."""
        most = min(most, _MANY)
        if most < 2 or self.power(difference, most, seeds) < POWER:
            return None
        low, high = 1, 2
        while self.power(difference, high, seeds) < POWER:
            low, high = high, min(2 * high, int(most))
        while high - low > 1:
            middle = (low + high) // 2
            enough = self.power(difference, middle, seeds) >= POWER
            low, high = (low, middle) if enough else (middle, high)
        return high

    def one_run_half_width(self, units: int) -> float:
        """The half-width of a single training's interval, which holds nothing of its noise."""
        of_samples, _, both = self.components.parts(units, 1)
        t = _t_of_units((1 + self.confidence) / 2, units)
        half = t * math.sqrt((of_samples + both) * _inflation(units))
        return max(half, self._all_agree(units)) if self.share else half

    def one_run(self, units: int) -> float:
        """The difference that the interval of a single training detects, as `compare` has it."""
        half = self.one_run_half_width(units)
        stderr = power_of_intervals.stderr_of(-half, half, self.confidence)
        return power_of_intervals.minimum_detectable_effect(stderr, self.confidence)

    def samples_suffice(self, difference: float, seeds: int) -> bool:
        """Whether any number of samples tells the difference with so many seeds."""
        return self.power(difference, math.inf, seeds) >= POWER

    def seeds_suffice(self, difference: float, units: int) -> bool:
        """Whether any number of seeds tells the difference with so many samples."""
        stderr = math.sqrt(self.components.parts(units, 1)[0] * _inflation(units))
        t = t_quantile((1 + self.confidence) / 2, units - 1) + NormalDist().inv_cdf(POWER)
        return max(t * stderr, self._floor(units)) <= difference

    def _half_widths(self, units: float, seeds: int) -> Floats:
        """Half-widths, `(points,)`, over the chance that few seeds lie close together or apart."""
        own, probability = self.components.truncated(), (1 + self.confidence) / 2
        training, both = own.training or 0.0, (own.sample_by_seed or 0.0) / units
        t_seeds = t_quantile(probability, seeds - 1)
        spreads = ((training + both) * _chi_square(seeds - 1)).tolist()
        seen = np.array([beyond_answers(spread, both, seeds - 1) for spread in spreads])
        if seeds == 2 and self.independent is not None:
            seen = np.maximum(seen, max(0.0, self.independent))
        answers = (own.samples / units + both / seeds) * _t_of_units(probability, units) ** 2
        squares = _inflation(units) * (answers + seen / seeds * t_seeds**2)
        return np.maximum(np.sqrt(squares), self._floor(units))

    def _floor(self, units: float) -> float:
        """The half-width of a share's score interval of units that all agree; else zero."""
        own = self.components.truncated()
        if not self.share or own.samples or own.training or own.sample_by_seed:
            return 0.0
        return self._all_agree(units)

    def _all_agree(self, units: float) -> float:
        z2 = NormalDist().inv_cdf((1 + self.confidence) / 2) ** 2
        return z2 / (units + z2)


def _inflation(units: float) -> float:
    """The factor by which draws of few units vary too little."""
    return 1.0 if math.isinf(units) else units / (units - 1)


def _t_of_units(probability: float, units: float) -> float:
    if units > 10_000:
        return NormalDist().inv_cdf(probability)
    return t_quantile(probability, units - 1)


@lru_cache(maxsize=200)
def _chi_square(df: int) -> Floats:
    """Equally likely values of chi-square over its degrees of freedom, mean 1: `(points,)`.

    Exact for 1 and 2; else Wilson & Hilferty (PNAS 17, 1931).
    """
    shares = [(i + 0.5) / _POINTS for i in range(_POINTS)]
    normal = NormalDist()
    if df == 1:
        values = [normal.inv_cdf((1 + share) / 2) ** 2 for share in shares]
    elif df == 2:
        values = [-2 * math.log(1 - share) for share in shares]
    else:
        part = 2 / (9 * df)
        values = [
            df * max(0.0, 1 - part + normal.inv_cdf(share) * math.sqrt(part)) ** 3
            for share in shares
        ]
    array = np.array(values)
    scaled: Floats = array / array.mean()
    return scaled
