"""How well a text is predicted: perplexity per token and bits per byte."""

from __future__ import annotations

import math
from typing import Any

from harness.asks import Question
from harness.suite import Suite, rows_of
from harness.tokens import IGNORED, Encoded, encode_row
from harness.types import Metric, Row, SuiteResult


def ask(suite: Suite, model: Any) -> Question:
    """One scored pair per run of counted tokens of each row.

    A conversation counts the assistant's tokens, a plain text all of them after a beginning-of-
    text token. A row longer than the model's length is scored piece by piece (`_pieces`).
    """
    stride = max(1, model.max_length // 2)
    kept, pairs = [], []
    for source, row in rows_of(suite):
        encoded = _encode(row, model)
        own = [
            piece
            for start, end in _runs(encoded.labels)
            for piece in _pieces(encoded.input_ids, start, end, model.max_length, stride)
        ]
        kept.append((source, row, encoded, len(own)))
        pairs += own
    return Question(pairs=pairs, keep=(kept, stride))


def metrics(suite: Suite) -> list[str] | None:
    """Two of the first source, and two with the name of each other source before them."""
    return [metric.name for metric in _all_metrics(suite)]


def answer(suite: Suite, question: Question, tools: Any) -> SuiteResult:
    """Per row: negative log-likelihood (nats), tokens, bits and bytes of what was scored."""
    kept, stride = question.keep
    rows, at, long = [], 0, 0
    for source, row, encoded, count in kept:
        own = question.scores[at : at + count]
        at += count
        long += len(encoded.input_ids) > tools.model.max_length
        rows.append(_row(source, row, encoded, own))
    return SuiteResult(
        rows=rows,
        metrics=_all_metrics(suite),
        notes={"stride": stride, "longer_than_context": long},
    )


def _encode(row: Row, model: Any) -> Encoded:
    encoded = encode_row(model.tokenizer, row, chat_template=model.chat_template)
    if row.text is None:
        return encoded
    # The end token that training appends to a plain text is no part of the text.
    ids = [model.prefix_token, *encoded.input_ids[:-1]]
    if ids[1:2] == ids[:1]:
        ids = ids[1:]
    return Encoded(ids, [IGNORED, *ids[1:]])


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

    The first piece fills the model's length; each later one is `stride` tokens with as much of
    what precedes them as fits.
    """
    pieces = []
    at = start
    while at < end:
        to = min(end, max(length, at + stride) if at < length else at + stride)
        context = ids[max(0, to - length - 1) : at]
        pieces.append((context, ids[at:to]))
        at = to
    return pieces


def _row(source: str, row: Row, encoded: Encoded, scores: Any) -> dict[str, Any]:
    nll = -sum(score.logprob for score in scores)
    text = row.text if row.text is not None else _answers(row)
    return {
        "id": f"{source}/{row.id}" if source else row.id,
        "group": source or None,
        "domain": row.extra.get("domain"),
        "prompt": None,
        "reference": text,
        "output": None,
        "scores": {
            "nll": nll,
            "tokens": sum(len(score.token_logprobs) for score in scores),
            "bits": nll / math.log(2),
            "bytes": len(text.encode()),
        },
    }


def _answers(row: Row) -> str:
    if row.messages is None:
        return row.completion or ""
    return "\n".join(m["content"] for m in row.messages if m["role"] == "assistant")


def _all_metrics(suite: Suite) -> list[Metric]:
    return [m for number, s in enumerate(suite.sources) for m in _metrics(s, number == 0)]


def _metrics(source: str, headline: bool) -> list[Metric]:
    prefix = "" if headline else f"{source}_"
    where = source or None
    return [
        Metric(f"{prefix}perplexity", False, "exp_ratio", "nll", "tokens", where),
        Metric(f"{prefix}bits_per_byte", False, "ratio", "bits", "bytes", where),
    ]
