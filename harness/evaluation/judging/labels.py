"""Answer pairs that people labelled: what a judge is certified on.

A row of a labelled set has a `question`, two answers `a` and `b`, and who is better: `label` (`a`,
`b` or `tie`) or, where several people labelled it, `labels`, a list of one each. Further columns
may be missing: `id`; the `reference`; `a_right` and `b_right`, whether an answer says what it must
and nothing wrong; the `kind` of pair; and the models that answered, `a_by` and `b_by`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from harness.data.readers import Record, read_records
from harness.errors import DataError
from harness.system.hub import file_sha256

__all__ = ["BUNDLED", "Choice", "LabelledSet", "Pair", "read"]

BUNDLED = Path(__file__).parent.parent.parent / "bundled" / "judge-pairs.jsonl"
"""Pairs on the bundled support questions, written for this project."""

Choice = Literal["a", "b", "tie"]
"""The better of two answers."""


_NEEDS = "a labelled pair has question, a, b and label"


@dataclass(frozen=True)
class Pair:
    """Two answers to one question, and what people say of them."""

    id: str
    question: str
    a: str
    b: str
    labels: tuple[Choice, ...]
    """One of each person, in the order of the row."""
    reference: str | None = None
    a_right: bool | None = None
    b_right: bool | None = None
    kind: str = "all"
    a_by: str | None = None
    """The model that gave the answer, or the base that it was trained from; None where it is not
    known, or a person wrote it."""
    b_by: str | None = None


@dataclass(frozen=True)
class LabelledSet:
    """The pairs of one file, and what the file is."""

    pairs: tuple[Pair, ...]
    file: str
    sha256: str

    @property
    def people(self) -> int:
        """How many labelled each pair; the fewest of any pair."""
        return min(len(pair.labels) for pair in self.pairs)

    @property
    def has_right(self) -> bool:
        """Whether answers are labelled right or wrong, too."""
        return any(pair.a_right is not None or pair.b_right is not None for pair in self.pairs)


def read(file: Path) -> LabelledSet:
    """The labelled set of a file (.jsonl, .json, .csv or .parquet).

    Raises DataError with file and line for a row that is wrong, and for a set that can certify
    nobody: one class of label alone, or right answers alone.
    """
    pairs = [_pair(record) for record in read_records(file)]
    _check_ids(pairs, file)
    _check_people(pairs, file)
    _check_classes(pairs, file)
    return LabelledSet(tuple(pairs), str(file), file_sha256(file))


def _pair(record: Record) -> Pair:
    labels = _labels(record)
    return Pair(
        id=_optional(record, "id") or str(record.line),
        question=_text(record, "question"),
        a=_text(record, "a"),
        b=_text(record, "b"),
        labels=labels,
        reference=_optional(record, "reference"),
        a_right=_flag(record, "a_right"),
        b_right=_flag(record, "b_right"),
        kind=_optional(record, "kind") or "all",
        a_by=_optional(record, "a_by"),
        b_by=_optional(record, "b_by"),
    )


def _labels(record: Record) -> tuple[Choice, ...]:
    several, one = record.values.get("labels"), record.values.get("label")
    given = one if several is None else several
    if given is None:
        raise record.without("label", _NEEDS)
    listed = given if isinstance(given, list) else [given]
    strange = [label for label in listed if label not in get_args(Choice)]
    if strange or not listed:
        shown = repr(strange[0])[:60] if strange else "an empty list"
        raise record.error(f"a label must be a, b or tie, got {shown}")
    return tuple(cast(Choice, label) for label in listed)


def _text(record: Record, name: str) -> str:
    value = record.values.get(name)
    if value is None:
        raise record.without(name, _NEEDS)
    if not isinstance(value, str) or not value.strip():
        raise record.error(f"'{name}' must be a text that is not empty, got {repr(value)[:60]}")
    return value


def _optional(record: Record, name: str) -> str | None:
    value = record.values.get(name)
    return None if value is None or value == "" else str(value)


def _flag(record: Record, name: str) -> bool | None:
    """A truth value; a .csv has it as a word."""
    value = record.values.get(name)
    words = {"true": True, "false": False, "1": True, "0": False}
    if value is None or value == "":
        return None
    known = value if isinstance(value, bool) else words.get(str(value).strip().lower())
    if known is None:
        raise record.error(f"'{name}' must be true or false, got {repr(value)[:60]}")
    return known


def _check_ids(pairs: Sequence[Pair], file: Path) -> None:
    (name, count), *_ = Counter(pair.id for pair in pairs).most_common(1)
    if count > 1:
        raise DataError(f"the id '{name}' stands {count} times: make ids unique", file=file)


def _check_people(pairs: Sequence[Pair], file: Path) -> None:
    counts = Counter(len(pair.labels) for pair in pairs)
    if len(counts) > 1:
        raise DataError(
            f"pairs have {min(counts)} to {max(counts)} labels: give each as many, one a person",
            file=file,
        )


def _check_classes(pairs: Sequence[Pair], file: Path) -> None:
    labels = {label for pair in pairs for label in pair.labels}
    if len(labels) == 1:
        raise DataError(
            f"all {len(pairs)} pairs are labelled '{labels.pop()}', so that any judge could agree: "
            "label pairs of another outcome too",
            file=file,
        )
    flags = {flag for pair in pairs for flag in (pair.a_right, pair.b_right) if flag is not None}
    if len(flags) == 1:
        right = "right" if flags.pop() else "wrong"
        raise DataError(
            f"all labelled answers are {right}: label some of the other kind too", file=file
        )
