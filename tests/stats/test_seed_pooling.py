"""What seeds add to differences, of many arms with the same seeds; error rates on a small scale.

`benchmarks/coverage.py` has the same simulations, whole.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest

from harness import stats
from harness.stats import seed_pooling
from harness.stats.bootstrapping import Arm, bootstrap
from tests.conftest import ROOT

NAMES = (0, 1, 2)


@pytest.fixture(scope="module")
def simulated() -> ModuleType:
    """benchmarks/coverage.py."""
    file = ROOT / "benchmarks/coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_runs", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def arms_of(figures: np.ndarray, n: int = 50) -> list[Arm]:
    """Arms with these figures of their seeds, and nothing that differs between samples."""
    return [(np.repeat(row[:, None], n, axis=1), None) for row in figures]


def variances(figures: np.ndarray, a: int, b: int) -> tuple[tuple[float, int], ...]:
    """(variance, degrees of freedom) of each component of a - b."""
    names = [tuple(range(figures.shape[1]))] * len(figures)
    boots = bootstrap("mean", arms_of(figures), draws=200, seeds=names)
    found = seed_pooling.seeded(boots)
    one, other = found[a], found[b]
    assert one is not None
    assert other is not None
    return seed_pooling.difference(one, other).between_seeds


def test_the_pooled_error_is_that_of_the_analysis_of_variance() -> None:
    import pandas as pd
    from statsmodels.stats.anova import AnovaRM

    figures = np.random.default_rng(0).normal(size=(5, 4)) + np.arange(5)[:, None]
    long = pd.DataFrame(
        [(arm, seed, x) for (arm, seed), x in np.ndenumerate(figures)], columns=["a", "s", "x"]
    )
    table = AnovaRM(long, "x", "s", within=["a"]).fit().anova_table
    (pooled, df), *_ = variances(figures, 0, 1)
    error = pooled * 4 / 2  # of a difference of two means of 4
    assert df == table["Den DF"].iloc[0]
    assert 4 * figures.mean(axis=1).var(ddof=1) / error == pytest.approx(table["F Value"].iloc[0])


def test_an_arm_that_varies_more_is_unsure_itself_and_makes_no_other_so() -> None:
    rng = np.random.default_rng(1)
    figures = np.arange(8)[:, None] + rng.normal(0, 0.01, (8, 3))
    figures[7] += np.array([-3.0, 1.0, 2.0])
    tests = stats.pairwise("mean", arms_of(figures), seeds=[NAMES] * 8)
    adjusted = stats.holm([test.p for test in tests])
    for test, p in zip(tests, adjusted, strict=True):
        assert (p < 0.05) == (7 not in (test.a, test.b))
    # what it has of its own has the degrees of freedom of its own seeds
    (_, many), _, (own, few) = variances(figures, 0, 7)
    assert (many, few) == (12, 2)
    assert own == pytest.approx(figures[7].var(ddof=1) / 3, rel=0.05)


def test_what_all_have_in_common_on_a_seed_counts_against_a_base_that_ran_once() -> None:
    rng = np.random.default_rng(2)
    common = np.array([-1.0, 0.0, 1.0])
    figures = 0.5 + common + rng.normal(0, 0.01, (4, 3))
    arms = [*arms_of(figures), *arms_of(np.zeros((1, 1)))]
    tests = stats.pairwise("mean", arms, seeds=[NAMES] * 4 + [(0,)])
    assert all(test.p > 0.2 for test in tests if test.b == 4)
    figures[0] += 0.2  # the methods themselves are told apart all the same
    tests = stats.pairwise("mean", arms_of(figures), seeds=[NAMES] * 4)
    assert all(test.p < 0.01 for test in tests if test.a == 0)


@pytest.mark.parametrize(
    ("name", "seeds"),
    [("seeds alone", 2), ("seeds alone", 3), ("one 5 times as wide, seeds alone", 3)],
)
def test_boards_of_equal_methods_tell_none_apart(
    simulated: ModuleType, name: str, seeds: int
) -> None:
    own, parts, main = simulated.BOARDS[name]
    world = simulated.World(60, seeds, [own * part for part in parts], main)
    # of 50 boards at 5 % more than 7 are one case in 300
    assert simulated.told_apart(world, 50) <= 7


@pytest.mark.parametrize("kind", ["mean", "exp_ratio"])
def test_three_seeds_that_differ_little_more_than_their_answers_are_covered(
    simulated: ModuleType, kind: stats.Kind
) -> None:
    world = simulated.World(60, 3, (1.5, 1.5), main=0.0)
    assert simulated.covered(kind, world, 400) >= 400 * 0.92


@pytest.mark.parametrize("interim", [False, True])
def test_gates_seldom_stop_a_model_that_is_as_good(simulated: ModuleType, interim: bool) -> None:
    # of 300 gates at 5 % more than 25 are one case in 200
    assert simulated.stopped(200, 0.5, 300, interim=interim) <= 25
