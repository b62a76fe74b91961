"""From a judge's replies to scores, and when so many have no verdict that a suite fails."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from harness.api.judge import Judgement, NoVerdict, Reply
from harness.errors import CellFailed
from harness.evaluation.tasks.sample_rows import MISSING_BUDGET

__all__ = [
    "MOST_MISSING",
    "Verdict",
    "check_finite",
    "check_missing",
    "expected_verdict",
    "missing_counts",
]

MOST_MISSING = 0.1
"""The share of answers without a verdict beyond which a suite fails, where it says nothing."""


@dataclass(frozen=True)
class Verdict:
    """What one reply comes to."""

    value: float | None
    """None without a verdict."""
    mass: float | None
    """Probability of all choices together, 0 to 1; None where the reply has no weights."""
    missing: NoVerdict | None
    """Why there is no value; None where there is one."""


def expected_verdict(reply: Reply, values: Mapping[str, float], least_mass: float) -> Verdict:
    """The mean of the choices' values, weighted by their probabilities (G-Eval, arXiv 2303.16634).

    `values` has a number for each choice. A reply with less than `least_mass` on all choices
    together has no verdict: what the model would rather have said is none of them.
    """
    if reply.weights is None:
        return Verdict(None, None, reply.missing or "no_reply")
    mass = math.fsum(reply.weights[choice] for choice in values)
    missing = reply.missing
    if missing is None and not (mass >= least_mass and mass > 0):
        missing = "low_mass"
    if missing is not None:
        return Verdict(None, mass, missing)
    total = math.fsum(value * reply.weights[choice] for choice, value in values.items())
    return Verdict(total / mass, mass, None)


def missing_counts(judgement: Judgement) -> dict[str, int]:
    """Why answers have no verdict -> how many, the most frequent first."""
    return dict(Counter(reason for reason in judgement.missing if reason).most_common())


def check_missing(judgement: Judgement, most: float) -> str | None:
    """A warning that counts the answers without a verdict; None where each has one.

    Raises CellFailed where they are more than the share `most` of all: the rest is no fair picture.
    """
    counts, answers = missing_counts(judgement), len(judgement.scores)
    if not counts:
        return None
    told = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    message = f"the judge gave no verdict on {sum(counts.values())} of {answers} answers ({told})"
    if sum(counts.values()) > most * answers:
        raise CellFailed(
            f"{message}, more than {most:.0%}: take another judge, or set the judge's max_missing"
        )
    return message


def check_finite(judgement: Judgement) -> None:
    """Raise CellFailed where more answers could not be rated than may be missing."""
    broken, answers = judgement.not_finite, len(judgement.scores)
    if broken > MISSING_BUDGET * answers:
        raise CellFailed(
            f"the judge cannot rate {broken} of {answers} answers: its log-probabilities are not "
            "finite; look for NaN or infinity in its weights"
        )
