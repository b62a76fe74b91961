"""What earlier records say of a design that was then run: the reference board of three seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import pytest

from harness.results import lookup
from harness.results.detection import comparisons
from harness.results.groups import Group
from harness.results.lookup import Arm
from harness.results.paired_differences import between
from harness.stats.planned_test import PlannedTest
from tests.conftest import ROOT
from tests.results.test_reference_claims import sentences

METHODS = ROOT / "results/reference/methods"
RESULTS = ROOT / "results/README.md"
METRICS = [
    ("perplexity", "perplexity"),
    ("perplexity", "bits_per_byte"),
    ("perplexity", "plain_perplexity"),
    ("perplexity", "plain_bits_per_byte"),
    ("similarity", "cosine"),
    ("similarity", "cosine_own_minus_other"),
    ("similarity", "rougeL"),
    ("similarity", "rougeL_own_minus_other"),
    ("similarity", "must_contain"),
]
"""Whole suites' metrics that some method moves; results/README.md says what is left out."""


@dataclass(frozen=True)
class Predicted:
    """The half-width of an interval as it was predicted, and as it is."""

    metric: str
    comparison: str
    predicted: float
    actual: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.actual


def board() -> tuple[list[Arm], Arm]:
    """The trained methods, and the base."""
    arms = lookup.every(str(METHODS), [])
    base = next(arm for arm in arms if arm.group.label == "base")
    return [arm for arm in arms if not arm.group.label.startswith("base")], base


def with_seeds(arm: Arm, seeds: slice) -> Arm:
    return Arm(Group(arm.group.cells[seeds]), arm.records)


def actual(candidate: Arm, baseline: Arm, name: tuple[str, str]) -> float:
    """Half the interval that `compare` gives; of a perplexity that of its logarithm."""
    evidence = between(candidate, baseline, 0.95).on(*name)
    assert evidence is not None
    if evidence.kind == "exp_ratio":
        change = evidence.relative_change()
        return (math.log1p(change.ci_high) - math.log1p(change.ci_low)) / 2
    change = evidence.change()
    return (change.ci_high - change.ci_low) / 2


@pytest.fixture(scope="module")
def predicted() -> list[Predicted]:
    """Fitted on seeds 0 and 1 alone; of all methods against the base, and of all pairs."""
    trained, base = board()
    arms = {arm.group.label: arm for arm in trained}
    assert {len(arm.group.cells) for arm in arms.values()} == {3}
    two = [with_seeds(arm, slice(2)) for arm in arms.values()]
    varied, notes = comparisons.varied(two, base, lambda _, *name: name in METRICS)
    assert notes == []
    assert {one.seeds for one in varied} == {2}
    of_pairs = len(list(combinations(arms, 2)))
    assert len(varied) == len(METRICS) * (len(arms) + of_pairs)
    found = []
    for one in varied:
        label, other = one.candidate.group.label, one.baseline.group.label
        baseline = arms.get(other, base)
        test = PlannedTest(one.components, one.independent, one.kind == "share")
        found.append(
            Predicted(
                one.name,
                f"{label} - {other}",
                test.half_width(one.units, 3),
                actual(arms[label], baseline, (one.suite, one.metric)),
            )
        )
    return found


def report(found: Sequence[Predicted]) -> None:
    """Every prediction, and the median of each metric (pytest -s)."""
    for name in dict.fromkeys(one.metric for one in found):
        own = [one for one in found if one.metric == name]
        near = sum(abs(one.ratio - 1) <= 0.25 for one in own)
        middle = median(one.ratio for one in own)
        print(f"\n{name}: median {middle:.2f}, {near} of {len(own)} within 25 %")
        print(", ".join(f"{one.comparison} {one.ratio:.2f}" for one in own))


def told(found: Sequence[Predicted]) -> str:
    """The sentence of results/README.md."""
    off = median(abs(one.ratio - 1) for one in found)
    near = sum(abs(one.ratio - 1) <= 0.25 for one in found)
    return f"off by {off:.0%}".replace("%", " %") + f" in the median, {near} of {len(found)}"


def test_two_seeds_predict_the_width_that_three_have(predicted: list[Predicted]) -> None:
    against_base = [one for one in predicted if one.comparison.endswith(" - base")]
    report(against_base)
    medians = [
        median(one.ratio for one in against_base if one.metric == name)
        for name in {one.metric for one in against_base}
    ]
    words = f"each metric's median is between {min(medians):.2f} and {max(medians):.2f}"
    assert words in sentences(RESULTS)
    assert 0.75 < min(medians) < max(medians) < 1.25
    assert median(abs(one.ratio - 1) for one in against_base) < 0.25
    assert told(against_base) in sentences(RESULTS)


def test_two_seeds_of_two_methods_predict_it_for_most_pairs(predicted: list[Predicted]) -> None:
    """Two methods differ little, so what two seeds show of it is chance more often."""
    pairs = [one for one in predicted if not one.comparison.endswith(" - base")]
    report(pairs)
    assert median(abs(one.ratio - 1) for one in pairs) < 0.35
    assert told(pairs) in sentences(RESULTS)


def test_two_seeds_predict_the_width_of_the_third_alone() -> None:
    trained, base = board()
    two = [with_seeds(arm, slice(2)) for arm in trained]
    varied, _ = comparisons.varied(two, base, lambda _, *name: name in METRICS)
    thirds = {arm.group.label: with_seeds(arm, slice(2, 3)) for arm in trained}
    found = []
    for one in varied:
        if not one.trained_baseline:
            label = one.candidate.group.label
            test = PlannedTest(one.components, share=one.kind == "share")
            half = test.one_run_half_width(one.units)
            third = actual(thirds[label], base, (one.suite, one.metric))
            found.append(Predicted(one.name, f"{label} - base", half, third))
    report(found)
    assert median(abs(one.ratio - 1) for one in found) < 0.25
    assert told(found) in sentences(RESULTS)
