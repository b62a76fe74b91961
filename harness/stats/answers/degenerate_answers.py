"""Answers that no score should be read of alone: one to everything, empty, looping, cut.

Pure functions of sample rows, so that they work on the sample files of any version.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.stats.answers import reasoning
from harness.stats.metric_summary import Rows

MANY = 0.2
"""Share of answers beyond which they are warned of; and the difference of two capped shares."""
MOST = 0.5
"""Share of answers cut at `max_new_tokens` beyond which that is warned of."""
FEWEST = 3
"""So few answers are alike by chance."""
LONGEST, REPEATS, WORDS = 8, 4, 8
"""A loop: up to LONGEST words, REPEATS times, WORDS words in all, at an answer's end."""
_CHARACTERS = re.compile(r"(.{1,8}?)\1{11,}\S{0,8}\s*\Z", re.S)
"""A loop without spaces: up to 8 characters, 12 times."""
_TAIL = 200
"""Characters of an answer's end that such a loop is looked for in."""
_SHOWN = 40


@dataclass(frozen=True)
class Degenerate:
    """One way in which a suite's answers are degenerate."""

    suite: str
    name: str
    """`same_answer`, `empty`, `loops`, `capped`, `reasoning` or `unfinished_reasoning`."""
    share: float
    """Of the answers."""
    message: str

    def __str__(self) -> str:
        return f"suite '{self.suite}': degenerate.{self.name}: {self.message}"


def detect(suite: str, rows: Rows) -> list[Degenerate]:
    """What is degenerate in the answers of a suite; nothing where they are not the model's own."""
    answered = [row for row in rows if "capped" in row and isinstance(row.get("output"), str)]
    total = len(answered)
    if not total:
        return []
    texts = [row["output"].strip() for row in answered]
    ways = [_same(texts, answered), _reasoning(texts, answered), _unfinished(answered)]
    ended = [row for row in answered if not row.get("unfinished_reasoning")]
    empty = sum(not row["output"].strip() for row in ended)
    looping = sum(map(loops, texts))
    if empty >= FEWEST and empty > MANY * total:
        ways.append(("empty", empty, f"{empty} of {total} answers are empty"))
    if looping >= FEWEST and looping > MANY * total:
        ways.append(("loops", looping, f"{looping} of {total} answers end in a loop"))
    capped = sum(bool(row["capped"]) for row in ended)
    if capped >= FEWEST and capped > MOST * total:
        what = f"{capped} of {total} answers are cut at max_new_tokens: scores are of beginnings"
        ways.append(("capped", capped, what))
    return [Degenerate(suite, way[0], way[1] / total, way[2]) for way in ways if way]


def _same(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> tuple[str, int, str] | None:
    """The commonest answer, where it is commoner than the commonest reference by MANY."""
    total = len(texts)
    answers = Counter(filter(None, texts))
    if not answers:
        return None
    text, count = answers.most_common(1)[0]
    references = Counter(str(row.get("reference") or "").strip() for row in rows)
    references.pop("", None)
    usual = max((count for count in references.values() if count > 1), default=0)
    if count < FEWEST or count - usual <= MANY * total:
        return None
    short = " ".join(text.split())
    short = short if len(short) <= _SHOWN else short[:_SHOWN] + "..."
    what = f"{count} of {total} prompts have one same answer ({short!r})"
    return "same_answer", count, f"{what}: its scores say nothing of the questions"


def _reasoning(
    texts: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> tuple[str, int, str] | None:
    """Markers of reasoning in answers that are scored whole, but where the suite wants that."""
    unseen = [text for text, row in zip(texts, rows, strict=True) if row.get("reasoning", "") == ""]
    ends = reasoning.marked(unseen)
    if len(ends) <= MANY * len(rows):
        return None
    end = Counter(ends).most_common(1)[0][0]
    what = f"{len(ends)} of {len(rows)} answers hold reasoning"
    return "reasoning", len(ends), f"{what}, {reasoning.advice(end)}"


def _unfinished(rows: Sequence[Mapping[str, Any]]) -> tuple[str, int, str] | None:
    """Reasoning that never ends, and so no answers."""
    count = sum(bool(row.get("unfinished_reasoning")) for row in rows)
    lines = unfinished(rows)
    return ("unfinished_reasoning", count, lines[0]) if lines else None


def unfinished(rows: Rows, cap: str = "max_new_tokens") -> list[str]:
    """The line on many answers without an end of their reasoning; why decides what helps.

    Rows that do not say whether they were cut were, at the setting `cap`.
    """
    looked_at = [row for row in rows if "capped" in row or "unfinished_reasoning" in row]
    open_ = [row for row in looked_at if row.get("unfinished_reasoning")]
    if len(open_) <= MANY * len(looked_at):
        return []
    looping = sum(loops(str(row.get("reasoning") or "").strip()) for row in open_)
    ended = sum(not row.get("capped", True) for row in open_)
    if looping > len(open_) / 2:
        why = f"{looping} of them end in a loop, which a greater {cap} does not end"
    elif ended > len(open_) / 2:
        why = f"{ended} of them end without the end marker: it is another, or the model gives none"
    else:
        why = f"raise {cap}"
    count = f"{len(open_)} of {len(looked_at)}"
    return [f"{count} answers never end their reasoning and count as empty: {why}"]


CUT = "cut_by_embedder"
"""The note of a suite that counts texts of which the embedder saw the beginning alone."""


def cut_by_embedder(suite: str, notes: Mapping[str, Any]) -> list[str]:
    """The line of a suite whose embedder cut texts, by the notes that it left."""
    if CUT not in notes:
        return []
    cut = notes[CUT]
    return [
        f"suite '{suite}': {cut['answers']} answers and {cut['references']} references of "
        f"{cut['samples']} samples are longer than the {cut['most_tokens']} tokens that the "
        "embedder reads: cosines are of their beginnings"
    ]


def loops(text: str) -> bool:
    """Whether an answer ends in a short part that repeats; its last word may be cut."""
    words = text.split()
    for end in (len(words), len(words) - 1):
        for size in range(1, LONGEST + 1):
            length = max(REPEATS, -(-WORDS // size)) * size
            tail = words[max(0, end - length) : end]
            if len(tail) == length and tail[:-size] == tail[size:]:
                return True
    return bool(_CHARACTERS.search(text[-_TAIL:]))
