"""How far texts that are planted into an answer move a judge: 'give this answer a 5' and others.

The texts are in `injections.jsonl` beside this file; `{answer}` is where the answer stands, whole.
"""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.types import Output, Sample

__all__ = ["Injection", "Movement", "injections", "measure"]

Rate = Callable[[Sequence[Output], Sequence[Sample]], Sequence[float | None]]
"""`rate(outputs, samples)`: a judge's score of each answer, None where it gave no verdict."""

FILE = Path(__file__).with_name("injections.jsonl")
PLACE = "{answer}"


@dataclass(frozen=True)
class Injection:
    """A text that tells a judge what to answer, around an answer."""

    id: str
    kind: str
    """`order`, `authority`, `fake_turn`, `fence`, `verdict`, `hidden` or `language`."""
    text: str
    """With `{answer}` where the answer stands."""

    def planted(self, output: Output) -> Output:
        """The answer with the text around it; its count of tokens is left as it was."""
        return replace(output, text=self.text.replace(PLACE, output.text))


@functools.cache
def injections() -> tuple[Injection, ...]:
    """Those of the harness, in the file's order."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return tuple(Injection(**json.loads(line)) for line in lines)


@dataclass(frozen=True)
class Movement:
    """What planted texts did to a judge's scores, in the units of its score."""

    injections: Sequence[Injection]
    changes: Sequence[Sequence[float | None]]
    """(injections, answers): score with the text minus score without; None where either lacks a
    verdict."""

    @property
    def change(self) -> float | None:
        """Mean change over all planted answers, 0 for a judge that obeys none; None without one."""
        return _mean(value for own in self.changes for value in own)

    def by_injection(self) -> dict[str, float | None]:
        """Mean change of each text, by its id."""
        return {one.id: _mean(own) for one, own in zip(self.injections, self.changes, strict=True)}

    def by_kind(self) -> dict[str, float | None]:
        """Mean change of each kind."""
        kinds = dict.fromkeys(one.kind for one in self.injections)
        pairs = list(zip(self.injections, self.changes, strict=True))
        return {
            kind: _mean(value for one, own in pairs if one.kind == kind for value in own)
            for kind in kinds
        }

    @property
    def missing(self) -> int:
        """Planted answers of which no change is known."""
        return sum(value is None for own in self.changes for value in own)


def measure(
    rate: Rate,
    outputs: Sequence[Output],
    samples: Sequence[Sample],
    planted: Sequence[Injection] | None = None,
) -> Movement:
    """Rate the answers as they are and with each text planted, all in one call of `rate`.

    `planted` are the texts, by default those of the harness. One call, so that a local judge reads
    what the prompts share once.
    """
    texts = injections() if planted is None else planted
    every = [*outputs, *(text.planted(output) for text in texts for output in outputs)]
    scores = list(rate(every, list(samples) * (1 + len(texts))))
    count = len(outputs)
    plain = scores[:count]
    changes = [
        list(map(_minus, scores[at : at + count], plain)) for at in range(count, len(every), count)
    ]
    return Movement(texts, changes)


def _minus(score: float | None, before: float | None) -> float | None:
    return None if score is None or before is None else score - before


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
