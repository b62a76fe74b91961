"""In what two forms of a model differ, as pure functions of texts, token ids and log-probabilities.

`ours` is the model that was measured, `theirs` the form that is shipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "LogprobDifferences",
    "PromptDifference",
    "answer_runs_on",
    "first_difference",
    "logprob_differences",
    "prompt_difference",
    "text_difference",
]

PromptCause = Literal["BOS doubled", "BOS added", "BOS missing", "other tokens"]
_SHOWN = 30
"""Characters that are shown from where two texts part."""
_BEFORE = 12
"""Characters that are shown before that."""


@dataclass(frozen=True)
class PromptDifference:
    """Why a prompt has other token ids."""

    cause: PromptCause
    at: int
    """Index of the first token that differs."""
    said: str
    """In words, such as `token 1 stands before it twice`."""


def prompt_difference(
    ours: Sequence[int], theirs: Sequence[int], bos: int | None
) -> PromptDifference | None:
    """How the token ids of one prompt differ; None where they do not. `bos`: the token, if any."""
    mine, its = list(ours), list(theirs)
    if mine == its:
        return None
    if bos is not None and its == [bos, *mine]:
        if mine[:1] == [bos]:
            return PromptDifference("BOS doubled", 1, f"BOS, token {bos}, stands before it twice")
        return PromptDifference("BOS added", 0, f"BOS, token {bos}, is put before it")
    if bos is not None and mine == [bos, *its]:
        return PromptDifference("BOS missing", 0, f"BOS, token {bos}, does not stand before it")
    at = first_difference(mine, its)
    assert at is not None
    here, there = (f"token {ids[at]}" if at < len(ids) else "no token" for ids in (mine, its))
    return PromptDifference("other tokens", at, f"its token {at + 1} is {there}, not {here}")


def text_difference(ours: str, theirs: str) -> str | None:
    """Where two texts part, both shown from a little before; None where they are equal."""
    at = first_difference(ours, theirs)
    if at is None:
        return None
    return f"{_shown(theirs, at)} instead of {_shown(ours, at)}, from character {at + 1} on"


def _shown(text: str, at: int) -> str:
    begin, end = max(0, at - _BEFORE), at + _SHOWN
    return f"{'...' if begin else ''}{text[begin:end]!r}{'...' if end < len(text) else ''}"


def first_difference(ours: Sequence[object], theirs: Sequence[object]) -> int | None:
    """The first index at which two sequences differ or one of them has ended; None: they do not."""
    for at, (mine, its) in enumerate(zip(ours, theirs, strict=False)):
        if mine != its:
            return at
    return None if len(ours) == len(theirs) else min(len(ours), len(theirs))


def answer_runs_on(
    ours: Sequence[int], theirs: Sequence[int], *, ours_ended: bool, theirs_ended: bool
) -> bool:
    """Whether an answer goes on, or is cut by a limit, where ours came to its end.

    Ids without the end token. So an answer looks where the end token is not known as such.
    """
    begins_alike = list(theirs[: len(ours)]) == list(ours)
    return ours_ended and begins_alike and (len(theirs) > len(ours) or not theirs_ended)


@dataclass(frozen=True)
class LogprobDifferences:
    """How far log-probabilities of the same tokens are from each other."""

    tokens: int
    largest: float | None
    """Nats; None where one is no number."""
    mean: float | None
    """Nats, of the absolute differences."""


def logprob_differences(pairs: Iterable[tuple[float, float]]) -> LogprobDifferences:
    """Of pairs of log-probabilities in nats, one a token; without any they are 0."""
    differences = [abs(ours - theirs) for ours, theirs in pairs]
    if not all(map(math.isfinite, differences)):
        return LogprobDifferences(len(differences), None, None)
    mean = math.fsum(differences) / max(1, len(differences))
    return LogprobDifferences(len(differences), max(differences, default=0.0), mean)
