"""The samples of a leaderboard's rows: questions once, and every row's answers beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.cli.report.blocks import json_block
from harness.cli.report.markup import Markup
from harness.record import Estimator, Record
from harness.results.groups import identity, metrics
from harness.results.leaderboard_layout import Row
from harness.results.store import Rows, suites

__all__ = ["Answered", "answered", "blocks"]

PER_BLOCK = 250
"""Samples in a block: what a browser opens to show one of them."""
_QUESTION = ("id", "group", "domain", "prompt", "tools", "reference", "choices")
_PER_SAMPLE = ("mean", "share", "ratio", "exp_ratio", "retained")
_SHARES = ("share", "retained")
_LEFT_OUT = ("id", "doc_hash")
_DIGITS = 6
"""Of a score: a page is to be read; the sample files have the rest."""


@dataclass
class Answered:
    """One version of a suite, and the rows of the leaderboard that answered it."""

    suite: str
    version: str
    """What must be equal for answers to be held against each other."""
    scores: list[dict[str, Any]]
    """Scores of single samples: name, what it is divided by, which way is better, if 0 or 1."""
    cells: dict[int, Record] = field(default_factory=dict)
    """Place of a row -> its first seed that has samples, whose answers are shown."""
    questions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Sample id -> what was asked."""

    def as_core(self, others: Sequence[Answered]) -> dict[str, Any]:
        """What the page knows of it before a block is opened."""
        several = sum(other.suite == self.suite for other in others) > 1
        return {
            "name": f"{self.suite} ({self.version[:8]})" if several else self.suite,
            "scores": self.scores,
            "rows": {place: cell["plan"]["seed"] for place, cell in self.cells.items()},
            "size": len(self.questions),
            "perBlock": PER_BLOCK,
        }


def answered(
    rows: Sequence[Row],
    by_id: Mapping[str, Record],
    samples: Mapping[tuple[str, str], Rows],
) -> list[Answered]:
    """Each version of each suite that rows have samples of."""
    found: dict[tuple[str, str], Answered] = {}
    for place, row in enumerate(rows):
        for cell in (by_id[key] for key in row["cells"]):
            for suite, section in suites(cell).items():
                if (cell["id"], suite) not in samples:
                    continue
                key = (suite, identity(section))
                one = found.setdefault(key, Answered(*key, _scores(cell, suite)))
                if place not in one.cells:
                    one.cells[place] = cell
                    _add_questions(one, samples[cell["id"], suite])
    return list(found.values())


def _add_questions(one: Answered, rows: Rows) -> None:
    for row in rows:
        if row["id"] not in one.questions:
            one.questions[row["id"]] = {
                key: row[key] for key in _QUESTION if row.get(key) is not None
            }


def _scores(cell: Record, suite: str) -> list[dict[str, Any]]:
    """The scores that the suite's metrics are made of, in the order of the metrics, each once."""
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    for metric in metrics(cell, suite).values():
        how = metric["estimator"]
        if how["kind"] in _PER_SAMPLE:
            name = how["score"] if how["per"] is None else f"{how['score']} per {_one(how['per'])}"
            found.setdefault(
                (how["score"], how["per"]),
                {
                    "name": name,
                    "score": how["score"],
                    "per": how["per"],
                    "higher": metric["higher_is_better"],
                    "share": how["kind"] in _SHARES,
                },
            )
    return list(found.values())


def _one(plural: str) -> str:
    return plural.removesuffix("s")


def blocks(
    suites_of_rows: Sequence[Answered], samples: Mapping[tuple[str, str], Rows]
) -> Iterator[Markup]:
    """The blocks of all samples.

    `ids-S` has the ids of suite S, `values-S-R` the scores of row R sample by sample,
    `questions-S-N` and `answers-S-R-N` the N-th `PER_BLOCK` questions and a row's answers to them.
    """
    for number, one in enumerate(suites_of_rows):
        ids = list(one.questions)
        yield json_block(f"ids-{number}", ids)
        for at, part in _parts(list(one.questions.values())):
            yield json_block(f"questions-{number}-{at}", part)
        for place, cell in one.cells.items():
            rows = {row["id"]: row for row in samples[cell["id"], one.suite]}
            own = [rows.get(key) for key in ids]
            yield json_block(f"values-{number}-{place}", [_values(one, row) for row in own])
            answers = [row and _answer(row, one.questions[row["id"]]) for row in own]
            for at, part in _parts(answers):
                yield json_block(f"answers-{number}-{place}-{at}", part)


def _parts(items: Sequence[Any]) -> Iterator[tuple[int, Sequence[Any]]]:
    for at, start in enumerate(range(0, len(items), PER_BLOCK)):
        yield at, items[start : start + PER_BLOCK]


def _values(one: Answered, row: Mapping[str, Any] | None) -> list[float | None] | None:
    """A sample's scores, as `scores` of its suite names them."""
    if row is None:
        return None
    return [_value(row.get("scores") or {}, score) for score in one.scores]


def _value(scores: Mapping[str, Any], score: Mapping[str, Any] | Estimator) -> float | None:
    value, per = scores.get(score["score"]), score["per"]
    of = 1.0 if per is None else scores.get(per)
    if not isinstance(value, (int, float)) or not isinstance(of, (int, float)) or not of:
        return None
    return float(_rounded(value / of))


def _answer(row: Mapping[str, Any], question: Mapping[str, Any]) -> dict[str, Any]:
    """What a row answered, its scores, and whatever else the task noted, such as log-probabilities.

    A prompt or a reference stands here only where it is not the question's.
    """
    return {
        key: _rounded(value)
        for key, value in row.items()
        if key not in _LEFT_OUT and value is not None and question.get(key) != value
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
