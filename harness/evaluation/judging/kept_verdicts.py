"""Verdicts in the cache, so that a suite that failed or was cut off asks nothing twice.

A verdict is known by all that it depends on: who is asked, and the whole question. Each is a file
of its own that is written as soon as the verdict is there, so that whatever ends the process loses
none that was paid for. No verdict, an error or an unclear answer is never kept: it is asked again.
"""

from __future__ import annotations

import contextlib
import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from harness.api.judge import Question, Reply
from harness.results.store import digest
from harness.system import hub

__all__ = ["CLEAR", "Kept", "KeptVerdicts"]

CLEAR = 0.5
"""Probability of all choices together from which a reply is kept: with less the judge would rather
have said something else, which may be for once."""

SCHEMA = 1


@dataclass(frozen=True)
class Kept:
    """A reply, and how it came about."""

    weights: Mapping[str, float]
    text: str = ""
    model: str = ""
    """Who answered, by the endpoint's own word."""
    by: str = ""
    """How it was read: `logprobs` or `samples`."""

    @property
    def reply(self) -> Reply:
        """What the judge gets."""
        return Reply(dict(self.weights), text=self.text)


class KeptVerdicts:
    """The verdicts of one judge."""

    def __init__(self, judge: Mapping[str, object], clear: float = CLEAR) -> None:
        """`judge` is what its verdicts depend on beside the question, as JSON values.

        Replies with less than `clear` on all choices together are not kept: none of a model that
        gives the same reply whenever it is asked need be left out.
        """
        self.clear = clear
        self.folder = hub.cache_dir() / "verdicts" / digest(judge)[:32]

    def find(self, question: Question) -> Kept | None:
        """The verdict on a question; None where none is kept, or its file is broken."""
        try:
            found = json.loads((self.folder / _name(question)).read_text(encoding="utf-8"))
            kept = Kept(found["weights"], found["text"], found["model"], found["by"])
            sound = found["schema"] == SCHEMA and self._is_clear(kept.weights, question)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return kept if sound else None

    def keep(self, question: Question, kept: Kept) -> None:
        """Write a verdict, unless it is unclear. A cache that cannot be written keeps nothing."""
        if not self._is_clear(kept.weights, question):
            return
        target = self.folder / _name(question)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        text = json.dumps({"schema": SCHEMA, **asdict(kept)})
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(target)

    def _is_clear(self, weights: Mapping[str, float], question: Question) -> bool:
        values = list(weights.values())
        known = set(weights) == set(question.choices) and all(map(math.isfinite, values))
        return known and math.fsum(values) >= self.clear


def _name(question: Question) -> str:
    """Of all that it asks; the texts themselves are in no file name and no file."""
    content = {
        "messages": [dict(message) for message in question.messages],
        "choices": list(question.choices),
        "start": question.start,
        "literal": question.literal,
    }
    return f"{digest(content)}.json"
