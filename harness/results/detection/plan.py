"""Which difference each comparison tells as it is planned, and the cheapest design that tells D."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from harness.results.detection.comparisons import Varied
from harness.results.detection.wall_clock import Design, Seconds, hours_and_dollars, seconds_of
from harness.stats.planned_test import PlannedTest
from harness.stats.power import POWER
from harness.stats.variance_components import Components

SCHEMA = 1
"""Version of the layout."""
CONFIDENCE = 0.95
MOST_SEEDS = 50
"""Seeds up to which a design is looked for."""


@dataclass(frozen=True)
class Choice:
    """So many seeds and samples, what they tell, and what they cost from the start."""

    seeds: int
    samples: int
    detectable: float | None
    """In the metric's unit; None where it cannot be said."""
    hours: float | None
    dollars: float | None


@dataclass(frozen=True)
class Shares:
    """Of the variance of the planned difference."""

    samples: float
    training: float
    sample_by_seed: float


@dataclass(frozen=True)
class Outlook:
    """What one metric of one comparison tells."""

    suite: str
    metric: str
    candidate: str
    baseline: str
    between_methods: bool
    """False where the baseline is the untouched base."""
    relative: bool
    """Whether differences are in parts of the baseline's figure (a perplexity)."""
    earlier_seeds: int
    """That the variance was split by; with one it was not."""
    available: int | None
    """Samples of this metric that the suite has; None: not known."""
    variance: Components
    """Of one sample and one seed; of a perplexity that of its logarithm."""
    shares: Shares | None
    """None where it was not split, and where no answer ever differed."""
    now: Choice
    """As planned."""
    one_run: float
    """The smallest difference that the interval of one training tells: without its noise."""
    cheapest: Choice | None
    """That tells D; None where none up to the suite's samples and 50 seeds does."""
    another_seed: Choice | None
    """Beside the planned ones, on the planned samples."""
    more_samples: Choice | None
    """For the same hours, as far as the suite has samples."""
    buys_more: Literal["seed", "samples"] | None
    """What lowers the detectable difference more for each hour."""
    samples_suffice: bool | None
    """Whether any number of samples tells D with the planned seeds."""
    seeds_suffice: bool | None
    """Whether any number of seeds tells D with the planned samples."""
    samples_needed: int | None
    """With the planned seeds, however many the suite has."""

    @property
    def name(self) -> str:
        """`suite.metric`."""
        return f"{self.suite}.{self.metric}"


@dataclass(frozen=True)
class DetectionPlan:
    """What it would cost to know, of every comparison."""

    difference: float
    price_per_hour: float | None
    seeds: int
    outlooks: Sequence[Outlook]
    notes: Sequence[str]

    def to_json(self) -> dict[str, object]:
        """As plain data."""
        return {
            "schema": SCHEMA,
            "difference": self.difference,
            "confidence": CONFIDENCE,
            "power": POWER,
            "price_per_hour": self.price_per_hour,
            "seeds": self.seeds,
            "comparisons": [asdict(outlook) for outlook in self.outlooks],
            "notes": list(self.notes),
        }


def plan(
    difference: float, compared: Sequence[Varied], design: Design, notes: Sequence[str] = ()
) -> DetectionPlan:
    """The outlook of every comparison on telling `difference`, in each metric's own unit."""
    outlooks = [_Planner(one, design, difference).outlook() for one in compared]
    return DetectionPlan(difference, design.price_per_hour, design.seeds, outlooks, notes)


class _Planner:
    """Plans one metric of one comparison. Differences inside are those of the test's scale."""

    def __init__(self, one: Varied, design: Design, difference: float) -> None:
        self.one, self.design = one, design
        self.relative = one.kind == "exp_ratio"
        self.difference = math.log1p(difference) if self.relative else difference
        self.seconds: Seconds | None = seconds_of(one, design)
        self.test = PlannedTest(one.components, one.independent, one.kind == "share", CONFIDENCE)
        self.available = design.available(one)

    @property
    def _tells(self) -> bool:
        """Whether the variance is known well enough to plan by it."""
        own = self.one.components.truncated()
        return own.split and (
            self.test.share or bool(own.samples or own.training or own.sample_by_seed)
        )

    def outlook(self) -> Outlook:
        one, seeds, tells = self.one, self.design.seeds, self._tells
        now = self._choice(seeds, one.samples)
        several = tells and seeds > 1
        another = self._choice(seeds + 1, one.samples) if tells else None
        more = self._more_samples(now, another)
        return Outlook(
            suite=one.suite,
            metric=one.metric,
            candidate=one.candidate.group.label,
            baseline=one.baseline.group.label,
            between_methods=one.trained_baseline,
            relative=self.relative,
            earlier_seeds=one.seeds,
            available=self.available,
            variance=one.components.truncated(),
            shares=self._shares(seeds) if tells else None,
            now=now,
            one_run=self._in_unit(self.test.one_run(one.units)),
            cheapest=self._cheapest() if tells else None,
            another_seed=another,
            more_samples=more,
            buys_more=self._buys_more(now, another, more),
            samples_suffice=self.test.samples_suffice(self.difference, seeds) if several else None,
            seeds_suffice=self.test.seeds_suffice(self.difference, one.units) if tells else None,
            samples_needed=self._samples_needed(seeds) if several else None,
        )

    def _choice(self, seeds: int, samples: int) -> Choice:
        """A design, and what it tells: nothing with one seed, whose interval lacks training."""
        tells = seeds > 1 and self._tells
        detectable = self.test.detectable(self._units(samples), seeds) if tells else None
        hours, dollars = hours_and_dollars(self.seconds, seeds, samples, self.design.price_per_hour)
        in_unit = None if detectable is None else self._in_unit(detectable)
        return Choice(seeds, samples, in_unit, hours, dollars)

    def _shares(self, seeds: int) -> Shares | None:
        parts = self.one.components.parts(self.one.units, seeds)
        total = sum(parts)
        return Shares(*(part / total for part in parts)) if total else None

    def _cheapest(self) -> Choice | None:
        """The design that costs least; where hours are not known, that of the fewest seeds."""
        best: tuple[float, int, int] | None = None
        most = math.inf if self.available is None else self._units(self.available)
        for seeds in range(2, MOST_SEEDS + 1):
            units = self.test.units_needed(self.difference, seeds, most)
            if units is None:
                continue
            samples = self._samples(units)
            cost = seeds if self.seconds is None else self.seconds.of(seeds, samples)
            if best is None or cost < best[0]:
                best = (cost, seeds, samples)
            if self.seconds is None or self.seconds.of(seeds + 1, 0) >= best[0]:
                break
        return None if best is None else self._choice(best[1], best[2])

    def _samples_needed(self, seeds: int) -> int | None:
        units = self.test.units_needed(self.difference, seeds)
        return None if units is None else self._samples(units)

    def _more_samples(self, now: Choice, another: Choice | None) -> Choice | None:
        """What the hours of another seed buy in samples; None where the suite has no more."""
        if another is None or now.seeds < 2 or self.seconds is None:
            return None
        spare = self.seconds.of(another.seeds, another.samples) - self.seconds.of(
            now.seeds, now.samples
        )
        more = now.samples + self.seconds.more_samples(now.seeds, spare)
        if self.available is not None:
            more = min(more, self.available)
        return self._choice(now.seeds, more) if more > now.samples else None

    def _buys_more(
        self, now: Choice, another: Choice | None, more: Choice | None
    ) -> Literal["seed", "samples"] | None:
        if another is None or (now.seeds > 1 and self.seconds is None):
            return None
        if more is None:
            return "seed"
        seed, samples = (_gain_per_hour(now, choice) for choice in (another, more))
        return "seed" if seed >= samples else "samples"

    def _units(self, samples: int) -> float:
        return samples * self.one.units / self.one.samples

    def _samples(self, units: int) -> int:
        return math.ceil(units * self.one.samples / self.one.units)

    def _in_unit(self, difference: float) -> float:
        return math.expm1(difference) if self.relative else difference


def _gain_per_hour(now: Choice, choice: Choice) -> float:
    assert now.detectable is not None
    assert choice.detectable is not None
    assert now.hours is not None
    assert choice.hours is not None
    return (now.detectable - choice.detectable) / max(choice.hours - now.hours, 1e-12)
