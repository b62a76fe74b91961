"""Strengths of three or more rows from pairwise verdicts (R. A. Bradley & M. E. Terry, 1952).

Row i beats row j with the chance 1 / (1 + exp(s_j - s_i)); a tie counts as half a win for either.
Strengths sum to zero and are fitted by maximum likelihood (Biometrika 39, 1952), with Newton's
method. Verdicts on one question hang together: its answers are in several pairs. So the covariance
is the sandwich over questions (Liang & Zeger, Biometrika 73, 1986) with the factor G / (G - 1) for
G questions, and the intervals are of t with G - 1 degrees of freedom.

A fit exists only where no group of rows never loses (or ties) against the rest (L. R. Ford,
American Mathematical Monthly 64, 1957): then its strength over the others is infinite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.stats.estimates import Difference, Estimate
from harness.stats.student_t import t_quantile, t_two_sided

Floats = NDArray[np.floating[Any]]
_STEPS = 100


class Comparison(NamedTuple):
    """One verdict on two rows' answers to a question."""

    question: str
    a: str
    b: str
    score: float
    """Of a: 1 a win, 0.5 a tie, 0 a loss."""


@dataclass(frozen=True)
class BradleyTerry:
    """Fitted strengths, in the order of `rows`, best first."""

    rows: tuple[str, ...]
    strengths: tuple[Estimate, ...]
    """On the logit scale, zero the mean row; `n` are its comparisons."""
    win_rates: tuple[Estimate, ...]
    """The fitted chance of winning against a mean row (strength zero)."""
    covariance: Floats
    """Of the strengths, `(rows, rows)`."""
    questions: int

    def difference(self, a: str, b: str, confidence: float = 0.95) -> Difference:
        """Strength of a minus b; `n` are questions."""
        i, j = self.rows.index(a), self.rows.index(b)
        delta = self.strengths[i].value - self.strengths[j].value
        c = self.covariance
        stderr = math.sqrt(max(0.0, c[i, i] + c[j, j] - 2 * c[i, j]))
        half = t_quantile((1 + confidence) / 2, self.questions - 1) * stderr
        p = t_two_sided(delta / stderr, self.questions - 1) if stderr else float(delta == 0)
        return Difference(delta, delta - half, delta + half, p, self.questions)


def bradley_terry(comparisons: Sequence[Comparison], confidence: float = 0.95) -> BradleyTerry:
    """Strengths of all rows that `comparisons` name.

    Raises ValueError on fewer than two rows or questions, on a score outside of 0 to 1, on a row
    against itself, and where rows are not connected: who never lost to whom is in the message.
    """
    rows = sorted({row for c in comparisons for row in (c.a, c.b)})
    place = {row: i for i, row in enumerate(rows)}
    names = {name: i for i, name in enumerate(dict.fromkeys(c.question for c in comparisons))}
    _check(comparisons, rows, len(names))
    a = np.array([place[c.a] for c in comparisons])
    b = np.array([place[c.b] for c in comparisons])
    score = np.array([c.score for c in comparisons], float)
    question = np.array([names[c.question] for c in comparisons])
    apart = unbeaten(rows, a, b, score)
    if apart:
        raise ValueError(
            f"no strengths: {', '.join(apart)} never lost or tied against the other rows; compare "
            "more questions, or leave them out"
        )
    strengths = _fit(a, b, score, len(rows))
    covariance = _sandwich(a, b, score, question, strengths)
    order = np.argsort(-strengths, kind="stable")
    t = t_quantile((1 + confidence) / 2, len(names) - 1)
    estimates, rates = [], []
    for i in order:
        value, stderr = float(strengths[i]), math.sqrt(max(0.0, covariance[i, i]))
        low, high = value - t * stderr, value + t * stderr
        n = int(((a == i) | (b == i)).sum())
        estimates.append(Estimate(value, stderr, low, high, n))
        rate, rate_low, rate_high = _chance(np.array([value, low, high])).tolist()
        rates.append(Estimate(rate, rate * (1 - rate) * stderr, rate_low, rate_high, n))
    return BradleyTerry(
        tuple(rows[i] for i in order),
        tuple(estimates),
        tuple(rates),
        covariance[np.ix_(order, order)],
        len(names),
    )


def unbeaten(
    rows: Sequence[str], a: NDArray[np.int64], b: NDArray[np.int64], score: Floats
) -> list[str]:
    """The rows of a group that never lost or tied against any other; empty where there is none."""
    count = len(rows)
    reached = np.eye(count, dtype=bool)  # [i, j]: i lost to j, or to one that lost to j ...
    reached[b[score > 0], a[score > 0]] = True
    reached[a[score < 1], b[score < 1]] = True
    for middle in range(count):
        reached |= reached[:, middle][:, None] & reached[middle]
    for i in range(count):
        group = reached[i]  # everyone that i lost to: nobody outside has beaten them
        if not group.all():
            return [row for row, inside in zip(rows, group, strict=True) if inside]
    return []


def _check(comparisons: Sequence[Comparison], rows: Sequence[str], questions: int) -> None:
    if len(rows) < 2 or questions < 2:
        raise ValueError(f"got {len(rows)} rows on {questions} questions: at least 2 of each")
    for c in comparisons:
        if c.a == c.b:
            raise ValueError(f"{c.a} is compared with itself on {c.question}")
        if not 0 <= c.score <= 1:
            raise ValueError(f"the score of {c.a} on {c.question} is {c.score}, not 0 to 1")


def _chance(difference: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(difference / 2))  # the logistic function, without overflow


def _fit(a: NDArray[np.int64], b: NDArray[np.int64], score: Floats, count: int) -> Floats:
    strengths = np.zeros(count)
    for _ in range(_STEPS):
        chance = _chance(strengths[a] - strengths[b])
        gradient = np.bincount(a, score - chance, count) - np.bincount(b, score - chance, count)
        step = np.linalg.solve(_information(a, b, chance, count), gradient)
        step *= min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))  # far steps overshoot
        strengths += step
        if np.abs(step).max() < 1e-10:
            break
    return strengths - strengths.mean()


def _information(a: NDArray[np.int64], b: NDArray[np.int64], chance: Floats, count: int) -> Floats:
    """Fisher's, `(rows, rows)`, plus ones: strengths sum to zero."""
    weight = chance * (1 - chance)
    pairs = np.zeros((count, count))
    np.add.at(pairs, (a, b), weight)
    pairs += pairs.T
    information: Floats = np.diag(pairs.sum(axis=1)) - pairs + 1.0
    return information


def _sandwich(
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    score: Floats,
    question: NDArray[np.int64],
    strengths: Floats,
) -> Floats:
    count, groups = len(strengths), int(question.max()) + 1
    chance = _chance(strengths[a] - strengths[b])
    scores = np.zeros((groups, count))
    np.add.at(scores, (question, a), score - chance)
    np.add.at(scores, (question, b), chance - score)
    inverse = np.linalg.inv(_information(a, b, chance, count))
    centre = np.eye(count) - 1 / count
    bread = centre @ inverse @ centre
    covariance: Floats = bread @ (scores.T @ scores) @ bread * groups / (groups - 1)
    return covariance
