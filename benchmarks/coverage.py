"""How often intervals hold the truth, boards tell equal methods apart, and gates stop equal models.

    python benchmarks/coverage.py [--times 400] [intervals] [boards] [gates]

Prints a table for each part, from made-up scores with fixed seeds: one thread, some minutes. A
share comes with its exact 95 % interval. Scores are what a sample asks of every model, what a
method makes of it, what each answer adds, and what each training seed adds to all samples of a
method; the last is given in parts of the standard error that single answers cause.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness import stats
from harness.results.paired_differences import Evidence
from harness.runner.sequential_gate import FIRST
from harness.stats.bootstrapping import Arm
from harness.stats.metric_summary import Pooled

DRAWS = 400
"""Of each bootstrap; the harness itself draws more."""
ALPHA = 0.05


@dataclass(frozen=True)
class World:
    """Where the scores of equal methods come from."""

    n: int
    seeds: int
    own: Sequence[float]
    """Of each method: the deviation between its seeds, in standard errors of single answers."""
    main: float = 1.0
    """The deviation of what a method makes of a sample, in parts of a single answer's."""
    clusters: bool = False
    """Whether samples come in fours that are alike."""

    def scores(self, rng: np.random.Generator) -> np.ndarray:
        """(methods, seeds, samples), about zero; a single answer's deviation is 1."""
        methods = len(self.own)

        def samples(*shape: int) -> np.ndarray:
            if not self.clusters:
                return rng.normal(size=(*shape, self.n))
            alike = np.repeat(rng.normal(size=(*shape, self.n // 4)), 4, axis=-1)
            return (rng.normal(size=(*shape, self.n)) + alike) / math.sqrt(2)

        of_seeds = np.array(self.own)[:, None, None] * rng.normal(size=(methods, self.seeds, 1))
        # one seed cannot show what it does to all methods
        common = (self.seeds > 1) * rng.normal(size=(1, self.seeds, 1))
        return (
            samples(1, 1)
            + self.main * samples(methods, 1)
            + samples(methods, self.seeds)
            + of_seeds / math.sqrt(self.n)
            + common / math.sqrt(self.n)
        )

    @property
    def cluster_names(self) -> list[int] | None:
        return [i // 4 for i in range(self.n)] if self.clusters else None


KINDS: dict[stats.Kind, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]] = {
    "mean": lambda scores: (scores, None),
    "share": lambda scores: ((scores > 0).astype(float), None),
    "exp_ratio": lambda scores: _tokens(2 + scores / 4),
}
"""Scores and denominators of each kind of figure."""


def _tokens(nll: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.broadcast_to(5.0 + np.arange(nll.shape[-1]) * 7 % 45, nll.shape)
    return nll * tokens, tokens


def covered(kind: stats.Kind, world: World, times: int) -> int:
    """Out of `times`: paired intervals of two equal methods that hold zero."""
    rng, held = np.random.default_rng(world.n + world.seeds), 0
    names = (range(world.seeds), range(world.seeds))
    for _ in range(times):
        scores, per = KINDS[kind](world.scores(rng))
        a, b = ((scores[i], None if per is None else per[i]) for i in range(2))
        change = stats.paired(
            kind, a[0], b[0], a[1], b[1],
            clusters=world.cluster_names, draws=DRAWS, seeds=names,
        )  # fmt: skip
        held += change.ci_low <= 0 <= change.ci_high
    return held


def covered_alone(kind: stats.Kind, world: World, times: int) -> int:
    """Out of `times`: intervals of one method's figure that hold the true one."""
    rng, held = np.random.default_rng(world.n + world.seeds), 0
    truth = {"mean": 0.0, "share": 0.5}.get(kind, math.exp(2))
    for _ in range(times):
        scores, per = KINDS[kind](world.scores(rng)[0])
        estimate = stats.estimate(kind, scores, per, clusters=world.cluster_names, draws=DRAWS)
        held += estimate.ci_low <= truth <= estimate.ci_high
    return held


def told_apart(world: World, times: int) -> int:
    """Out of `times`: boards of equal methods on which any two are told apart."""
    rng, boards = np.random.default_rng(world.n), 0
    names = [tuple(range(world.seeds))] * len(world.own)
    for _ in range(times):
        arms: list[Arm] = [(scores, None) for scores in world.scores(rng)]
        tests = stats.pairwise("mean", arms, seeds=names, draws=DRAWS)
        boards += min(stats.holm([test.p for test in tests])) < ALPHA
    return boards


def stopped(n: int, discordant: float, times: int, *, interim: bool) -> int:
    """Out of `times`: gates with `max_drop: 0` that stop a model that is exactly as good.

    With `interim` analyses as `--until-decided` makes them, each at the alpha that it may spend.
    """
    rng, stops = np.random.default_rng(n), 0
    looks = [n]
    if interim:
        looks = [FIRST * 2**i for i in range(20) if FIRST * 2**i < n] + looks
    alphas = stats.alpha_spending(ALPHA, [look / n for look in looks])
    for _ in range(times):
        base = rng.random(n) < 0.6
        swapped = rng.random(n) < discordant
        candidate = np.where(swapped, rng.random(n) < 0.5, base)
        base = np.where(swapped, rng.random(n) < 0.5, base)
        for look, alpha in zip(looks, alphas, strict=True):
            a, b = (_pooled(scores[:look]) for scores in (candidate, base))
            change = Evidence("share", True, a, b, 1 - ALPHA).change()
            if change.value < 0 and change.p < alpha:
                stops += 1
                break
    return stops


def _pooled(scores: np.ndarray) -> Pooled:
    return Pooled([str(i) for i in range(len(scores))], [scores.astype(float).tolist()], None, None)


EQUAL, ONE, TWO = (1.0,) * 8, (1.0,) * 7 + (5.0,), (1.0,) * 6 + (5.0,) * 2
BOARDS = {
    "no spread between seeds": (0.0, EQUAL, 1.0),
    "seeds as wide as answers": (1.0, EQUAL, 1.0),
    "seeds alone": (5.0, EQUAL, 0.1),
    "one of eight 5 times as wide": (1.0, ONE, 1.0),
    "one 5 times as wide, seeds alone": (5.0, ONE, 0.1),
    "two 5 times as wide, seeds alone": (5.0, TWO, 0.1),
}
"""Name -> (deviation between seeds, of each method in parts of it, `World.main`)."""


def intervals(times: int) -> Iterator[str]:
    """Coverage of every kind of interval."""
    yield "| figure | samples | seeds | between seeds | alone | paired |"
    yield "|---|---|---|---|---|---|"
    for kind in KINDS:
        for seeds, own in ((1, 0.0), (2, 1.0), (3, 0.0), (3, 1.0), (3, 3.0), (5, 1.0)):
            for n, clusters in ((20, False), (100, False), (1000, False), (100, True)):
                world = World(n, seeds, (own, own), main=0.3, clusters=clusters)
                size = f"{n} in fours" if clusters else str(n)
                found = [share(of(kind, world, times), times) for of in (covered_alone, covered)]
                yield f"| {kind} | {size} | {seeds} | {own:g} | {' | '.join(found)} |"


def boards(times: int) -> Iterator[str]:
    """Boards of eight equal methods that tell any two apart: 5 % at most."""
    yield "| eight equal methods, 100 samples | 1 seed | 2 seeds | 3 seeds | 5 seeds |"
    yield "|---|---|---|---|---|"
    for name, (own, parts, main) in BOARDS.items():
        found = []
        for seeds in (1, 2, 3, 5):
            own_of = tuple(own * part for part in parts) if seeds > 1 else (0.0,) * len(parts)
            found.append(share(told_apart(World(100, seeds, own_of, main), times), times))
        yield f"| {name} | {' | '.join(found)} |"


def gates(times: int) -> Iterator[str]:
    """Gates that stop an equal model: 5 % at most."""
    yield "| equal accuracy, max_drop 0 | differ | all samples | --until-decided |"
    yield "|---|---|---|---|"
    for n in (78, 200, 533):
        for discordant in (0.1, 0.5):
            fixed, sequential = (
                share(stopped(n, discordant, times, interim=interim), times)
                for interim in (False, True)
            )
            yield f"| {n} | {discordant / 2:.0%} | {fixed} | {sequential} |"


def share(count: int, times: int) -> str:
    """In percent, with its exact interval."""
    low, high = stats.clopper_pearson(count, times)
    return f"{100 * count / times:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


PARTS = {"intervals": intervals, "boards": boards, "gates": gates}


def main() -> None:
    """Print the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--times", type=int, default=400)
    arguments = parser.parse_args()
    for name in arguments.parts or PARTS:
        started = time.process_time()
        print(f"\n{PARTS[name].__doc__} {arguments.times} times each.\n")
        for line in PARTS[name](arguments.times):
            print(line, flush=True)
        print(f"\n{time.process_time() - started:.0f} s of processor time")


if __name__ == "__main__":
    main()
