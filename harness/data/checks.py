"""What is suspicious in training data, found before training: named warnings with their mend.

Rows that the budget cuts are found by training itself, which has the tokenizer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config.experiment import Experiment
from harness.data.near_duplicates import earlier_matches, jaccard, trigrams
from harness.data.text_normalization import matching_words, symbols
from harness.data.training_set import DataPlan, training_rows
from harness.errors import nearest
from harness.types import Row

__all__ = ["Finding", "check_column", "check_rows", "findings", "warnings"]

FEW = 200
"""Fewer rows are mostly learnt by heart within an epoch or two."""
ALIKE = 0.8
"""Jaccard index of word trigrams from which on two rows are near duplicates."""
ANSWERS = 0.5
"""The same of their answers."""
WEIGHED = 20_000
"""Rows that are held against each other; of a longer file the first (15,000 take some seconds)."""
UNEVEN = 10
"""The most frequent value of a column may stand so many times as often as the rarest."""
NAMED = 5
"""Rows that a finding names; the others are counted."""
_EMPTY = {"", "n a", "na", "nan", "nil", "none", "null", "tbd", "todo"}
"""Answers that say nothing, in normalised words."""

Words = tuple[str, ...]
Pair = tuple[Row, Row]


@dataclass(frozen=True)
class Finding:
    """One suspicion about the training data."""

    name: str
    message: str
    """How many rows, the first of them, and how to mend it."""
    count: int
    rows: tuple[str, ...] = ()
    """Ids of the first rows."""

    def __str__(self) -> str:
        return f"data.{self.name}: {self.message}"


def warnings(plan: DataPlan | None) -> tuple[str, ...]:
    """What is suspicious in the data of a plan, as lines; found once in a process."""
    if plan is None:
        return ()
    key = f"{plan.hash} {plan.balance}"
    if key not in _KNOWN:
        _KNOWN[key] = tuple(map(str, findings(plan)))
    return _KNOWN[key]


_KNOWN: dict[str, tuple[str, ...]] = {}


def findings(plan: DataPlan) -> list[Finding]:
    """What is suspicious in the data of a plan."""
    return check_rows(*training_rows(plan), balance=plan.balance)


def check_rows(
    train: Sequence[Row], validation: Sequence[Row] = (), *, balance: str | None = None
) -> list[Finding]:
    """What is suspicious in some rows; `balance` is a column whose values should be even."""
    exact, near = _duplicates(train)
    found = [
        _few(train),
        _pairs(
            "duplicates",
            exact,
            "the same as an earlier one",
            "remove them, or a few rows weigh more than the others",
        ),
        _pairs(
            "near_duplicates",
            near,
            "nearly the same as an earlier one",
            "remove them, or vary them more",
        ),
        _seen(train, validation),
        _empty_answers(train),
        _uneven(train, balance) if balance else None,
    ]
    return [one for one in found if one is not None]


def check_column(plan: DataPlan, experiment: Experiment) -> None:
    """Raises ConfigError where no row has the column `data.balance`."""
    if plan.balance is None:
        return
    known = {name for row in training_rows(plan)[0] for name in row.extra}
    if plan.balance not in known:
        told = f"no column '{plan.balance}' beside the texts of {Path(plan.source).name}"
        raise experiment.error(f"{told}: {nearest(plan.balance, known)}", "data", "balance")


def _few(train: Sequence[Row]) -> Finding | None:
    if len(train) >= FEW:
        return None
    told = f"only {_rows(len(train))} to train on, fewer than {FEW}"
    return Finding(
        "few_rows", f"{told}: add rows, or take few steps and watch the validation loss", len(train)
    )


def _seen(train: Sequence[Row], validation: Sequence[Row]) -> Finding | None:
    """Validation rows that are trained on, so that the validation loss flatters."""
    known = {_words(row): row for row in reversed(train)}
    both = [(row, known[_words(row)]) for row in validation if _words(row) in known]
    told = "for validation the same as one to train on"
    return _pairs("validation_rows", both, told, "remove them, or the validation loss flatters")


def _empty_answers(train: Sequence[Row]) -> Finding | None:
    empty = [
        row for row in train if row.text is None and " ".join(_normalised(_answer(row))) in _EMPTY
    ]
    if not empty:
        return None
    told = f"{_rows(len(empty))} {_have(len(empty))} an answer that says nothing"
    message = f"{told} ({_named(empty)}): write the answers, or remove the rows"
    return Finding("empty_answers", message, len(empty), _ids(empty))


def _uneven(train: Sequence[Row], column: str) -> Finding | None:
    """The column's most frequent and rarest value, where they are too far apart."""
    values = Counter(str(row.extra.get(column)) for row in train)
    (most, often), (least, rarely) = values.most_common()[0], values.most_common()[-1]
    if often < UNEVEN * rarely:
        return None
    rare = [row for row in train if str(row.extra.get(column)) == least]
    message = (
        f"column '{column}' is uneven: {_rows(often)} of '{most}' and {_rows(rarely)} of '{least}' "
        f"({_named(rare)}), {often / rarely:.0f} times as many: add rows of the rare values, or "
        "remove some of the frequent"
    )
    return Finding("imbalance", message, often, _ids(rare))


def _pairs(name: str, pairs: Sequence[Pair], what: str, mend: str) -> Finding | None:
    """A finding about rows that repeat other ones."""
    if not pairs:
        return None
    named = "; ".join(f"{_place(row)} repeats {_place(first)}" for row, first in pairs[:NAMED])
    more = f"; and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
    verb = "is" if len(pairs) == 1 else "are"
    message = f"{_rows(len(pairs))} {verb} {what} ({named}{more}): {mend}"
    return Finding(name, message, len(pairs), _ids([row for row, _ in pairs]))


# Duplicates


def _duplicates(rows: Sequence[Row]) -> tuple[list[Pair], list[Pair]]:
    """(exact, near): rows that repeat an earlier one, each with the first that it repeats."""
    first: dict[tuple[str, ...], Row] = {}
    exact, kept = [], []
    for row in rows:
        known = first.setdefault(_content(row), row)
        if known is row:
            kept.append(row)
        else:
            exact.append((row, known))
    kept = kept[:WEIGHED]
    near = _near_duplicates(
        [_words(row) for row in kept], [_normalised(_answer(row)) for row in kept]
    )
    return exact, [(kept[later], kept[earlier]) for earlier, later in near]


def _near_duplicates(texts: Sequence[Words], answers: Sequence[Words]) -> Iterator[tuple[int, int]]:
    """(earlier, later) for each text that nearly repeats an earlier one, as does its answer.

    The answers tell two questions about one passage from a repetition. Texts of boilerplate alone
    are compared whole.
    """
    first: dict[Words, int] = {}
    for later, matches in enumerate(earlier_matches(list(map(trigrams, texts)), ALIKE)):
        answer = trigrams(answers[later])
        repeated = {
            earlier for earlier in matches if jaccard(trigrams(answers[earlier]), answer) >= ANSWERS
        }
        repeated.add(first.setdefault(texts[later], later))
        if repeated != {later}:
            yield min(repeated), later


# Texts of a row


def _content(row: Row) -> tuple[str, ...]:
    turns = [part for turn in row.messages or () for part in (turn["role"], turn["content"])]
    return (*turns, *(text or "" for text in (row.prompt, row.completion, row.text)))


def _words(row: Row) -> Words:
    """What a row's user and assistant say, or its text, in normalised words."""
    said = [turn["content"] for turn in row.messages or () if turn["role"] != "system"]
    texts = [*said, *(text for text in (row.prompt, row.completion, row.text) if text)]
    return _normalised(" ".join(texts))


def _normalised(text: str) -> Words:
    # A blank to fill in is a line of `_`, which is a character of words.
    return (*matching_words(text.replace("_", " ")), *symbols(text))


def _answer(row: Row) -> str:
    return row.messages[-1]["content"] if row.messages else (row.completion or "")


def _place(row: Row) -> str:
    return f"row {row.id}" if row.line is None else f"line {row.line}"


def _named(rows: Sequence[Row]) -> str:
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return ", ".join(map(_place, rows[:NAMED])) + more


def _ids(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(row.id for row in rows[:NAMED])


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def _have(count: int) -> str:
    return "has" if count == 1 else "have"
