"""Warnings about suspicious training data, before training: each with a name and a fix.

Rows that the budget truncates are reported by training itself, which has the tokenizer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.config.experiment import Experiment
from harness.data.near_duplicates import earlier_matches, jaccard, trigrams
from harness.data.text_normalization import matching_words, symbols
from harness.data.tool_calls.given import turn_text
from harness.data.training_set import DataPlan, training_rows
from harness.errors import nearest
from harness.types import Row

__all__ = ["Finding", "check_column", "check_rows", "findings", "warnings"]

FEW = 200
"""Fewer rows are mostly memorised within an epoch or two."""
NEAR_DUPLICATE = 0.8
"""Jaccard index of word trigrams at or above which two rows are near-duplicates."""
NEAR_DUPLICATE_ANSWERS = 0.5
"""The same for their answers."""
MAX_COMPARED = 20_000
"""Rows compared with each other; of a longer file the first (15,000 take some seconds)."""
MAX_IMBALANCE = 10
"""Largest ratio of a column's most frequent value to its rarest."""
NAMED = 5
"""Rows that a finding lists; the others are counted."""
_EMPTY = {"", "n a", "na", "nan", "nil", "none", "null", "tbd", "todo"}
"""Answers without content, in normalised words."""

Words = tuple[str, ...]
Pair = tuple[Row, Row]


@dataclass(frozen=True)
class Finding:
    """One suspicion about the training data."""

    name: str
    message: str
    """The number of rows, the first of them, and the fix."""
    count: int
    rows: tuple[str, ...] = ()
    """Ids of the first rows."""

    def __str__(self) -> str:
        return f"data.{self.name}: {self.message}"


def warnings(plan: DataPlan | None) -> tuple[str, ...]:
    """The findings about the data of a plan, as lines; computed once in a process."""
    if plan is None:
        return ()
    key = f"{plan.hash} {plan.balance}"
    if key not in _CACHE:
        _CACHE[key] = tuple(map(str, findings(plan)))
    return _CACHE[key]


_CACHE: dict[str, tuple[str, ...]] = {}


def findings(plan: DataPlan) -> list[Finding]:
    """The findings about the data of a plan."""
    return check_rows(*training_rows(plan), balance=plan.balance)


def check_rows(
    train: Sequence[Row], validation: Sequence[Row] = (), *, balance: str | None = None
) -> list[Finding]:
    """The findings about rows; `balance` is a column whose values should be about as frequent."""
    exact, near = _duplicates(train)
    checked = [
        _few_rows(train),
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
        _validation_rows(train, validation),
        _empty_answers(train),
        _imbalance(train, balance) if balance else None,
    ]
    return [finding for finding in checked if finding is not None]


def check_column(plan: DataPlan, experiment: Experiment) -> None:
    """Raises ConfigError where no row has the column `data.balance`."""
    if plan.balance is None:
        return
    columns = {name for row in training_rows(plan)[0] for name in row.extra}
    if plan.balance not in columns:
        message = f"no column '{plan.balance}' beside the texts of {Path(plan.source).name}"
        hint = nearest(plan.balance, columns)
        raise experiment.error(f"{message}: {hint}", "data", "balance")


def _few_rows(train: Sequence[Row]) -> Finding | None:
    if len(train) >= FEW:
        return None
    message = (
        f"only {_rows(len(train))} to train on, fewer than {FEW}: add rows, or take few steps and "
        "watch the validation loss"
    )
    return Finding("few_rows", message, len(train))


def _validation_rows(train: Sequence[Row], validation: Sequence[Row]) -> Finding | None:
    """Validation rows that are trained on, so that the validation loss is too low."""
    trained = {_words(row): row for row in reversed(train)}
    pairs = [(row, trained[_words(row)]) for row in validation if _words(row) in trained]
    return _pairs(
        "validation_rows",
        pairs,
        "for validation the same as one to train on",
        "remove them, or the validation loss flatters",
    )


def _empty_answers(train: Sequence[Row]) -> Finding | None:
    empty = [
        row for row in train if row.text is None and " ".join(_normalised(_answer(row))) in _EMPTY
    ]
    if not empty:
        return None
    message = (
        f"{_rows(len(empty))} {_have(len(empty))} an answer that says nothing ({_named(empty)}): "
        "write the answers, or remove the rows"
    )
    return Finding("empty_answers", message, len(empty), _ids(empty))


def _imbalance(train: Sequence[Row], column: str) -> Finding | None:
    """The column's most frequent and rarest value, where they are too far apart."""
    values = Counter(str(row.extra.get(column)) for row in train)
    (most, often), (least, rarely) = values.most_common()[0], values.most_common()[-1]
    if often < MAX_IMBALANCE * rarely:
        return None
    rare = [row for row in train if str(row.extra.get(column)) == least]
    message = (
        f"column '{column}' is uneven: {_rows(often)} of '{most}' and {_rows(rarely)} of '{least}' "
        f"({_named(rare)}), {often / rarely:.0f} times as many: add rows of the rare values, or "
        "remove some of the frequent"
    )
    return Finding("imbalance", message, often, _ids(rare))


def _pairs(name: str, pairs: Sequence[Pair], what: str, fix: str) -> Finding | None:
    """A finding about rows that repeat other rows."""
    if not pairs:
        return None
    named = "; ".join(f"{_place(row)} repeats {_place(first)}" for row, first in pairs[:NAMED])
    more = f"; and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
    verb = "is" if len(pairs) == 1 else "are"
    message = f"{_rows(len(pairs))} {verb} {what} ({named}{more}): {fix}"
    return Finding(name, message, len(pairs), _ids([row for row, _ in pairs]))


# Duplicates


def _duplicates(rows: Sequence[Row]) -> tuple[list[Pair], list[Pair]]:
    """(exact, near): rows that repeat an earlier one, each with the first that it repeats."""
    first: dict[tuple[str, ...], Row] = {}
    exact, kept = [], []
    for row in rows:
        earlier = first.setdefault(_content(row), row)
        if earlier is row:
            kept.append(row)
        else:
            exact.append((row, earlier))
    kept = kept[:MAX_COMPARED]
    near = _near_duplicates(
        [_words(row) for row in kept], [_normalised(_answer(row)) for row in kept]
    )
    return exact, [(kept[later], kept[earlier]) for earlier, later in near]


def _near_duplicates(texts: Sequence[Words], answers: Sequence[Words]) -> Iterator[tuple[int, int]]:
    """(earlier, later) for each text that nearly repeats an earlier one, as does its answer.

    Answers distinguish two questions about the same passage from a repetition. Texts of
    boilerplate alone are compared whole.
    """
    first: dict[Words, int] = {}
    for later, matches in enumerate(earlier_matches(list(map(trigrams, texts)), NEAR_DUPLICATE)):
        answer = trigrams(answers[later])
        repeated = {
            earlier
            for earlier in matches
            if jaccard(trigrams(answers[earlier]), answer) >= NEAR_DUPLICATE_ANSWERS
        }
        repeated.add(first.setdefault(texts[later], later))
        if repeated != {later}:
            yield min(repeated), later


# Texts of a row


def _content(row: Row) -> tuple[str, ...]:
    turns = [part for turn in row.messages or () for part in (turn["role"], turn_text(turn))]
    tools = json.dumps(row.tools, default=str) if row.tools else ""
    return (*turns, *(text or "" for text in (row.prompt, row.completion, row.text)), tools)


def _words(row: Row) -> Words:
    """A row's user and assistant turns, or its text, in normalised words."""
    turns = [turn_text(turn) for turn in row.messages or () if turn["role"] != "system"]
    texts = [*turns, *(text for text in (row.prompt, row.completion, row.text) if text)]
    return _normalised(" ".join(texts))


def _normalised(text: str) -> Words:
    # A blank to fill in is a line of `_`, which is a character of words.
    return (*matching_words(text.replace("_", " ")), *symbols(text))


def _answer(row: Row) -> str:
    return turn_text(row.messages[-1]) if row.messages else (row.completion or "")


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
