"""What was seen of a cell's model and of the form that is shipped, prompt by prompt: plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.types import Precision


@dataclass(frozen=True)
class Answer:
    """What one of the two said."""

    text: str
    """Without special tokens and outer space."""
    ended: bool
    """Whether it came to an end by itself, and was not cut at the most tokens."""
    ids: tuple[int, ...] | None = None
    """Token ids without the end token; None where they are not known."""


@dataclass(frozen=True)
class Position:
    """One token that the shipped form chose, after our own prompt."""

    ours: float
    """Nats that the cell's model gives it."""
    theirs: float
    """Nats that the shipped form gives it."""
    agrees: bool
    """Whether the likeliest token is the same in both."""
    kl: float
    """Nats, of the cell's distribution from the form's: over the tokens that the form lists and
    the rest as one, so no more than the whole divergence."""
    base: float | None = None
    """Nats that the untouched base gives it; None where it was not asked."""
    chosen: bool = True
    """Whether it is the form's own likeliest token, which greedy decoding takes."""


@dataclass(frozen=True)
class FirstDifference:
    """Where two answers part."""

    at: int
    """Tokens that they have in common."""
    ours: str
    theirs: str
    gap: float
    """Nats by which the cell's model prefers its own token to the other; a tie is near 0."""


@dataclass(frozen=True)
class Seen:
    """One prompt, as both forms read and answered it."""

    suite: str
    row: str
    """Its id in the suite."""
    prompt: tuple[int, ...]
    """Token ids, as the cell was evaluated."""
    text: str
    """The same as text."""
    ours: Answer
    stored: str
    """The answer in the cell's sample file."""
    their_prompt: tuple[int, ...] | None = None
    """Token ids that the form makes of the same messages; None where it does not say."""
    their_text: str | None = None
    their_count: int | None = None
    """Tokens that the form counted; None where it does not say."""
    theirs: Answer | None = None
    """To the messages; None where the request failed."""
    failure: str | None = None
    """Why it failed."""
    too_long: bool = False
    """Whether it failed because the form's context does not hold the prompt."""
    again: Answer | None = None
    """To the same messages once more; None where they were not asked twice."""
    exact: Answer | None = None
    """To our own token ids; None where the form takes none."""
    base: Answer | None = None
    """The untouched base's answer; None where it was not asked."""
    positions: tuple[Position, ...] = ()
    """Of `exact`."""
    first: FirstDifference | None = None
    """Where `theirs` parts from `ours`; None where it does not."""
    ends: bool = False
    """Asked for its end alone, with room for a longer answer: it counts in no figure."""


@dataclass(frozen=True)
class Limits:
    """How far a form may be from the cell's model to be the same."""

    changed: float
    """Share of the answers."""
    mean: float
    """Nats, of the mean absolute difference of a token's log-probability."""
    largest: float
    """Nats, of the largest."""


USUAL: dict[Precision, Limits] = {
    "float32": Limits(0.05, 0.01, 0.1),
    "bf16": Limits(0.35, 0.1, 1.5),
    "fp16": Limits(0.35, 0.1, 1.5),
}
"""By the precision in which the cell was evaluated. A float32 cell on SmolLM2-135M and its merged
F16 file under llama.cpp differed by 0.001 nats on average and 0.01 at most, with 1 of 40 answers
changed, at a tie; Q8_0 by 0.04 and 0.24, with 4 of 12. In bf16 the same model is 0.02 and 0.13 from
float32, with 2 of 24."""

Kind = Literal["served", "gguf", "folder"]


@dataclass(frozen=True)
class Form:
    """The form that is shipped, by its own word."""

    kind: Kind
    name: str
    """The model's name, or its file or folder."""
    where: str
    """The server's address or the path."""
    quantisation: str | None = None
    """Such as Q8_0; None where it does not say."""
    engine: str | None = None
    context: int | None = None
    """Tokens; None where it does not say."""
    identity: str = ""
    """Hash of its bytes where they are at hand, else of its address and name."""
