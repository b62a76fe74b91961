"""How well a text is predicted: perplexity per token and bits per byte."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.api.model import Model
from harness.data.tokenization import IGNORED, Encoded, encode_row
from harness.evaluation.suite import Suite, rows_of
from harness.evaluation.tasks.protocol import Question, cluster, missing
from harness.types import Metric, Row, SuiteResult

Rows = Sequence[tuple[str, Row]]
"""(source, row)."""


@dataclass(frozen=True)
class _Kept:
    """One row between asking and answering."""

    source: str
    row: Row
    tokens: int
    """Of the whole row, context included."""
    pieces: int


def ask(suite: Suite, model: Model) -> Question:
    """One scored pair per run of counted tokens of each row.

    A conversation counts the assistant's tokens, a plain text all of them after a beginning-of-
    text token. A row longer than the model's length is scored piece by piece (`_pieces`), every
    token once.
    """
    stride = min(suite["stride"] or max(1, model.max_length // 2), model.max_length)
    kept, pairs = [], []
    for source, row in rows_of(suite):
        encoded = _encode(row, model)
        own = [
            piece
            for start, end in _runs(encoded.labels)
            for piece in _pieces(encoded.input_ids, start, end, model.max_length, stride)
        ]
        kept.append(_Kept(source, row, len(encoded.input_ids), len(own)))
        pairs += own
    return Question(pairs=pairs, keep=(kept, stride, model.max_length))


def metrics(suite: Suite) -> list[str] | None:
    """Two of the first source, and two with the name of each other source before them.

    Then the same two for each domain of a source, with `.` and its name after them.
    """
    return [metric.name for metric in _all_metrics(suite, rows_of(suite))]


def answer(suite: Suite, question: Question, tools: Any) -> SuiteResult:
    """Per row: negative log-likelihood (nats), tokens, bits and bytes of what was scored."""
    kept, stride, length = question.keep
    rows, at = [], 0
    for one in kept:
        rows.append(_row(one, question.scores[at : at + one.pieces], suite["cluster"]))
        at += one.pieces
    # The last token of a row is only predicted, so a row of `length` + 1 tokens fits.
    long = [one.source for one in kept if one.tokens > length + 1]
    notes: dict[str, Any] = {
        "context": length,
        "stride": stride,
        "longer_than_context": len(long),
        "sources": {
            source or "data": {
                "stride": stride,
                "longer_than_context": long.count(source),
                "domains": _domains([one.row for one in kept if one.source == source]),
            }
            for source in suite.sources
        },
    }
    every = [(one.source, one.row) for one in kept]
    return SuiteResult(rows, _all_metrics(suite, every), notes)


def _encode(row: Row, model: Model) -> Encoded:
    """Ids and labels of a row; what counts is never the first, which nothing predicts."""
    encoded = encode_row(model.tokenizer, row, chat_template=model.chat_template)
    ids, labels = list(encoded.input_ids), list(encoded.labels)
    if row.text is not None:
        # The end token that training appends to a plain text is no part of the text.
        if model.tokenizer.eos_token_id is not None:
            ids, labels = ids[:-1], labels[:-1]
        if ids[:1] == [model.prefix_token]:
            labels[0] = IGNORED
    if labels and labels[0] != IGNORED:
        ids, labels = [model.prefix_token, *ids], [IGNORED, *labels]
    return Encoded(ids, labels)


def _runs(labels: list[int]) -> list[tuple[int, int]]:
    """[start, end) of each run of counted tokens."""
    runs, start = [], None
    for i, label in enumerate([*labels, IGNORED]):
        if label != IGNORED and start is None:
            start = i
        if label == IGNORED and start is not None:
            runs.append((start, i))
            start = None
    return runs


def _pieces(
    ids: list[int], start: int, end: int, length: int, stride: int
) -> list[tuple[list[int], list[int]]]:
    """Pairs that score ids[start:end] once each, no pair longer than `length` + 1.

    The first piece ends where the model's length does; each later one is `stride` tokens with as
    much of what precedes them as fits (`stride` is at most `length`). `start` is at least 1.
    """
    pieces = []
    at = start
    while at < end:
        to = min(end, max(length + 1, at + stride))
        context = ids[max(0, to - length - 1) : at]
        pieces.append((context, ids[at:to]))
        at = to
    return pieces


def _row(kept: _Kept, scores: Any, clusters: str | None) -> dict[str, Any]:
    source, row = kept.source, kept.row
    unanswered = missing(score.logprob for score in scores)
    nll = None if unanswered else -sum(score.logprob for score in scores)
    text = row.text if row.text is not None else _answers(row)
    return {
        "id": f"{source}/{row.id}" if source else row.id,
        "group": source or None,
        "domain": _domain(row),
        **cluster(clusters, {"group": source, **row.extra}, row.id),
        "prompt": None,
        "reference": text,
        "output": None,
        **unanswered,
        "scores": {
            "nll": nll,
            "tokens": sum(len(score.token_logprobs) for score in scores),
            "bits": None if nll is None else nll / math.log(2),
            "bytes": len(text.encode()),
        },
    }


def _answers(row: Row) -> str:
    if row.messages is None:
        return row.completion or ""
    return "\n".join(m["content"] for m in row.messages if m["role"] == "assistant")


def _domain(row: Row) -> str | None:
    """The row's column `domain`, where it is a name."""
    found = row.extra.get("domain")
    return str(found) if isinstance(found, (str, int)) and str(found) else None


def _domains(rows: Sequence[Row]) -> dict[str, int]:
    """Domain -> its rows, in the order of first appearance."""
    found: dict[str, int] = {}
    for domain in filter(None, map(_domain, rows)):
        found[domain] = found.get(domain, 0) + 1
    return found


def _all_metrics(suite: Suite, rows: Rows) -> list[Metric]:
    found, by_domain = [], []
    for number, source in enumerate(suite.sources):
        prefix = f"{source}_" if number else ""
        group = {"group": source} if source else {}
        found += _pair(prefix, "", source or None)
        domains = _domains([row for of, row in rows if of == source])
        # A single row has no interval, and a column of one-row domains is no column of domains.
        if len(domains) > 1 and min(domains.values()) > 1:
            for domain, name in zip(domains, _names(domains), strict=True):
                by_domain += _pair(prefix, f".{name}", {**group, "domain": domain})
    return [*found, *by_domain]


def _pair(prefix: str, suffix: str, where: str | Mapping[str, str] | None) -> list[Metric]:
    return [
        Metric(f"{prefix}perplexity{suffix}", False, "exp_ratio", "nll", "tokens", where),
        Metric(f"{prefix}bits_per_byte{suffix}", False, "ratio", "bits", "bytes", where),
    ]


def _names(domains: Mapping[str, int]) -> list[str]:
    """Domains as parts of metric names: letters, digits, `_` and `-`, no two alike."""
    names: list[str] = []
    for domain in domains:
        plain = re.sub(r"[^\w-]+", "-", domain).strip("-") or "domain"
        name, number = plain, 1
        while name in names:
            number += 1
            name = f"{plain}-{number}"
        names.append(name)
    return names
