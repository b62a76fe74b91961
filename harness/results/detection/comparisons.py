"""How the paired differences of earlier records vary: by samples, by training, by both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import NotComparable
from harness.results.groups import Group
from harness.results.lookup import Arm
from harness.results.paired_differences import Evidence, Pairs, between
from harness.results.store import suites
from harness.stats import Kind, variance_components
from harness.stats.bootstrapping import Floats
from harness.stats.variance_components import Components

Wanted = Callable[[Group, str, str], bool]
"""`wanted(group, suite, metric)`: whether the group's records of the metric count."""


@dataclass(frozen=True)
class Varied:
    """One metric of two arms in earlier records, and how their difference varied."""

    suite: str
    metric: str
    kind: Kind
    candidate: Arm
    baseline: Arm
    trained_baseline: bool
    components: Components
    """Of the difference; of a perplexity that of its logarithm."""
    independent: float | None
    """Of two trained arms: their variances of training together, were they drawn independently."""
    seeds: int
    """That the components are from."""
    units: int
    """What is independent: samples, or clusters of them."""
    samples: int
    suite_rows: int
    """All samples of the suite, of which this metric may be made of a part."""
    where: str | Mapping[str, str] | None
    """Which part: a group of the samples, or their fields."""

    @property
    def name(self) -> str:
        """`suite.metric`."""
        return f"{self.suite}.{self.metric}"


def varied(
    trained: Sequence[Arm], base: Arm | None, wanted: Wanted
) -> tuple[list[Varied], list[str]]:
    """Each trained arm against the base and against those after it, and what was left out.

    Raises UserError for sample files that are missing.
    """
    of_base = [(arm, base) for arm in trained] if base is not None else []
    found, notes = [], []
    for pairs, is_trained in ((of_base, False), (itertools.combinations(trained, 2), True)):
        alike, left_out = _all_of(pairs, wanted, is_trained)
        found += alike
        notes += left_out
    order = list(dict.fromkeys(one.name for one in found))
    return sorted(found, key=lambda one: order.index(one.name)), list(dict.fromkeys(notes))


def _all_of(
    arms: Iterable[tuple[Arm, Arm]], wanted: Wanted, trained_baseline: bool
) -> tuple[list[Varied], list[str]]:
    found, notes = [], []
    for candidate, baseline in arms:
        pairs = between(candidate, baseline, 0.95)
        for suite, metric in pairs.shared():
            if not all(wanted(arm.group, suite, metric) for arm in (candidate, baseline)):
                continue
            try:
                one = _varied(pairs, (candidate, baseline), suite, metric, trained_baseline)
            except NotComparable as error:
                notes.append(str(error))
                continue
            if one is not None:
                found.append(one)
    return found, notes


def _varied(
    pairs: Pairs, arms: tuple[Arm, Arm], suite: str, metric: str, trained_baseline: bool
) -> Varied | None:
    """None where nothing can be said: another tokenizer, or fewer than two units."""
    evidence = pairs.on(suite, metric)
    if evidence is None or evidence.units < 2:
        return None
    values = _differences(evidence, trained_baseline)
    return Varied(
        suite,
        metric,
        evidence.kind,
        *arms,
        trained_baseline,
        variance_components.components(values),
        _independent(evidence) if trained_baseline else None,
        len(values),
        evidence.units,
        evidence.n,
        _rows(arms[0], suite) or evidence.n,
        arms[0].group.metric(suite, metric)["estimator"]["where"],
    )


def _differences(evidence: Evidence, trained_baseline: bool) -> Floats:
    """Values of the difference, `(seeds, units)`: seed by seed of trained arms."""
    own, other = _values(evidence, 0), _values(evidence, 1)
    if not trained_baseline:
        return own - other.mean(axis=0)
    names, others = evidence.a.seeds or (), evidence.b.seeds or ()
    both = [seed for seed in names if seed in others]
    if len(both) > 1 or len(own) == len(other) == 1:
        first = [names.index(seed) for seed in both] or [0]
        second = [others.index(seed) for seed in both] or [0]
        return own[first] - other[second]
    few = min(len(own), len(other))  # trained with other seeds: independent, in any order
    return own[:few] - other[:few]


def _values(evidence: Evidence, arm: int) -> Floats:
    pooled = (evidence.a, evidence.b)[arm]
    return variance_components.unit_values(evidence.kind, *pooled.arm, clusters=pooled.clusters)


def _independent(evidence: Evidence) -> float | None:
    parts = [variance_components.components(_values(evidence, arm)).training for arm in (0, 1)]
    known = [max(0.0, part) for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def _rows(arm: Arm, suite: str) -> int | None:
    for cell in arm.group.cells:
        if suite in suites(cell) and (samples := suites(cell)[suite].get("samples")):
            return samples["rows"]
    return None
