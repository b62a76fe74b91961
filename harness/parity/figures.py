"""Figures of what was seen: shares and distances with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import stats
from harness.parity.seen import Limits, Position, Seen

NAMES = ("identical", "top1", "kl", "mean_difference", "max_difference", "reproduced")
"""The figures, as rules of a gate name them after `parity.`."""


@dataclass(frozen=True)
class Figure:
    """A figure with its interval of 95 %, where it has one."""

    value: float
    ci_low: float | None
    ci_high: float | None
    n: int
    """Answers, or tokens."""


def figures(seen: Sequence[Seen]) -> dict[str, Figure]:
    """Those of NAMES that can be told.

    `identical`: share of the answers that are the same; `reproduced`: share of the cell's recorded
    answers that its model gives again here. Of the tokens that the form chose after our own
    prompts: `top1`, the share where both hold the same token likeliest; `kl`, `mean_difference`
    and `max_difference` in nats. Intervals of shares of answers are Wilson's, of tokens from a
    bootstrap over prompts, whose tokens hang together.
    """
    found = {
        "identical": _share([same(one) for one in _answered(seen)]),
        "reproduced": _share([one.ours.text == one.stored for one in seen if not one.ends]),
        "top1": _per_token(seen, lambda position: float(position.agrees), share=True),
        "kl": _per_token(seen, lambda position: position.kl),
        "mean_difference": _per_token(seen, difference),
    }
    largest = [difference(position) for position in positions(seen)]
    if largest:
        found["max_difference"] = Figure(max(largest), None, None, len(largest))
    return {name: figure for name in NAMES if (figure := found.get(name)) is not None}


def same(one: Seen) -> bool:
    """Whether both gave the same answer."""
    return one.theirs is not None and one.theirs.text == one.ours.text


def difference(position: Position) -> float:
    """Nats between the log-probabilities that both give a token."""
    return abs(position.ours - position.theirs)


def positions(seen: Sequence[Seen]) -> Iterator[Position]:
    """All tokens with finite log-probabilities of both."""
    for one in seen:
        yield from (p for p in one.positions if math.isfinite(p.ours) and math.isfinite(p.theirs))


def _share(of: Sequence[bool]) -> Figure | None:
    if not of:
        return None
    found = stats.estimate("share", [float(one) for one in of])
    return Figure(found.value, found.ci_low, found.ci_high, len(of))


def _per_token(
    seen: Sequence[Seen], value: Callable[[Position], float], *, share: bool = False
) -> Figure | None:
    each = [list(positions([one])) for one in seen]
    known = [its for its in each if its]
    if not known:
        return None
    sums = [math.fsum(map(value, its)) for its in known]
    counts = [float(len(its)) for its in known]
    found = stats.estimate("ratio", sums, counts)
    low, high = max(0.0, found.ci_low), found.ci_high
    return Figure(found.value, low, min(1.0, high) if share else high, int(sum(counts)))


def tied(one: Seen, limits: Limits) -> bool:
    """Whether an answer parts at a tie, where rounding within the limits flips it.

    The cell's model prefers its own token by no more than log-probabilities may differ on average.
    """
    return one.first is not None and abs(one.first.gap) <= limits.mean


def _answered(seen: Sequence[Seen]) -> list[Seen]:
    return [one for one in seen if one.theirs is not None and not one.ends]


def beyond(seen: Sequence[Seen], limits: Limits) -> list[str]:
    """Which figures are beyond their limits, in words; empty where all are within.

    Answers that part at a tie do not count as changed.
    """
    found = figures(seen)
    reasons = []
    changed = [one for one in _answered(seen) if not same(one) and not tied(one, limits)]
    if len(changed) > limits.changed * len(_answered(seen)):
        reasons.append(
            f"{len(changed)} of {len(_answered(seen))} answers changed, more than "
            f"{limits.changed:.0%}"
        )
    for name, limit, words in (
        ("mean_difference", limits.mean, "log-probabilities differ by {} nats on average"),
        ("max_difference", limits.largest, "a log-probability differs by {} nats"),
    ):
        if name in found and found[name].value > limit:
            reasons.append(words.format(f"{found[name].value:.3g}") + f", more than {limit:g}")
    return reasons


def to_json(found: Mapping[str, Figure]) -> dict[str, Any]:
    """As plain data."""
    return {name: dict(vars(figure)) for name, figure in found.items()}
