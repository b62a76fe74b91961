"""A team's own labels of a suite's answers: which of them are good.

A row of the file (.jsonl, .json, .csv or .parquet) has the `id` of a sample of the suite, the
`answer` that was labelled and its `label`: `good` or `bad` (or true and false, 1 and 0). A further
`by` says who labelled it; the same answer may then stand once for each person, and the majority
counts. A label belongs to its answer and not to a model: whichever model gives that answer to that
sample, spaces at its ends apart, has the label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.data.readers import Record, read_records
from harness.errors import DataError, nearest
from harness.record import JudgeErrors
from harness.system.hub import file_sha256

__all__ = ["LABEL", "NOT_CERTIFIED", "AnswerLabels", "read"]

LABEL = "label"
"""Key of a label in a sample row's `scores`."""

NOT_CERTIFIED: JudgeErrors = {
    "level": "weak",
    "reason": "the judge has no certificate",
    "binary": False,
    "good": None,
    "bad": None,
}
"""Of a judge that labels of the suite alone correct."""

_NEEDS = "a labelled answer has id, answer and label"

_WORDS = {
    "good": 1.0,
    "bad": 0.0,
    "true": 1.0,
    "false": 0.0,
    "1": 1.0,
    "0": 0.0,
    "1.0": 1.0,
    "0.0": 0.0,
}

Answer = tuple[str, str]
"""A sample's id, and the answer's text."""


@dataclass(frozen=True)
class AnswerLabels:
    """The labels of one file."""

    file: Path
    sha256: str
    labels: Mapping[Answer, float]
    """1 good, 0 bad; answers on which as many people said either are left out."""
    lines: Mapping[Answer, int]
    """Where an answer stands first."""

    def of(self, sample: str, answer: str) -> float | None:
        """The label of an answer; None where it has none."""
        return self.labels.get((sample, answer.strip()))


def read(file: Path, samples: Collection[str]) -> AnswerLabels:
    """The labels of a file for a suite with samples of these ids.

    Raises DataError with file and line for an unknown sample, a label that is none, an answer that
    one person labelled twice, and with the file where all labels are the same.
    """
    votes: dict[Answer, dict[str, tuple[float, int]]] = {}
    lines: dict[Answer, int] = {}
    for record in read_records(file):
        answer = (_sample(record, samples), _text(record))
        label, person = _label(record), str(record.values.get("by") or "")
        earlier = votes.setdefault(answer, {})
        if person in earlier:
            before = earlier[person][1]
            raise record.error(
                f"{_short(answer[1])} to sample '{answer[0]}' is labelled on line {before}, too: "
                "keep one, or say who labelled each in a column 'by'"
            )
        earlier[person] = (label, record.line)
        lines.setdefault(answer, record.line)
    labels = {answer: chosen for answer, by in votes.items() if (chosen := _most(by)) is not None}
    kinds = set(labels.values())
    if len(kinds) < 2:
        shown = {1.0: "good", 0.0: "bad"}.get(next(iter(kinds), -1.0), "undecided")
        raise DataError(
            f"all {len(lines)} labelled answers are {shown}: label some of the other kind too",
            file=file,
        )
    return AnswerLabels(file, file_sha256(file), labels, lines)


def _most(by: Mapping[str, tuple[float, int]]) -> float | None:
    """What most people say; None where as many say either."""
    votes = Counter(label for label, _ in by.values())
    good, bad = votes[1.0], votes[0.0]
    return None if good == bad else float(good > bad)


def _sample(record: Record, samples: Collection[str]) -> str:
    value = record.values.get("id")
    if value is None or str(value) == "":
        raise record.without("id", _NEEDS)
    name = str(value)
    if name not in samples:
        few = len(samples) <= 10
        hint = nearest(name, samples) if few else f"it has {len(samples)}, such as '{min(samples)}'"
        raise record.error(f"the suite has no sample '{name}': {hint}")
    return name


def _text(record: Record) -> str:
    value = record.values.get("answer")
    if not isinstance(value, str):
        raise record.without("answer", _NEEDS)
    return value.strip()


def _label(record: Record) -> float:
    value = record.values.get("label")
    if value is None:
        raise record.without("label", _NEEDS)
    label = _WORDS.get(str(value).strip().lower())
    if label is None:
        raise record.error(f"a label must be good or bad, got {_short(str(value))}")
    return label


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
