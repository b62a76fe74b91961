"""How well a text is predicted: perplexity per token and bits per byte."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from harness.api.model import LogLikelihood, Model
from harness.api.task import (
    Conversation,
    Need,
    Requests,
    Resolver,
    Resources,
    Suite,
    SuiteExample,
    Task,
    TaskTools,
)
from harness.api.tools import Tools
from harness.config.strict_yaml import Located
from harness.data.rows import load_rows
from harness.data.tokenization import IGNORED, Encoded, document_prefix, encode_row
from harness.data.tool_calls.given import turn_text
from harness.errors import DataError
from harness.evaluation.tasks.examples import jsonl
from harness.evaluation.tasks.sample_rows import cluster, missing
from harness.evaluation.tasks.sample_task import DataSettings, plain, require_data
from harness.hookspecs import hookimpl
from harness.types import Metric, Row, Sample, SuiteResult

Rows = Sequence[tuple[str, Row]]
"""(source, row)."""


EXAMPLE = """\
ask: perplexity  # how well the answers are predicted
data: {name}.jsonl  # rows with messages (the assistant's turns count), or with text
"""

EXAMPLE_ROWS = (
    ("hello", "Hello, is anybody there?", "Yes, how can I help you?"),
    ("thanks", "Thank you for the quick delivery.", "You are welcome, enjoy your new lamp."),
    ("broken", "The lamp arrived broken.", "I am sorry. A new one is on its way to you."),
)
"""Id, question and answer."""


@dataclass(frozen=True)
class _EncodedRow:
    """A row, and how it was encoded."""

    source: str
    row: Row
    tokens: int
    """Of the whole row, context included."""
    pieces: int
    """Pairs that were asked of it."""
    framing: Sequence[bool]
    """For each counted token, whether it is none of the row's own text (`Encoded.framing`)."""
    bytes: int
    """UTF-8 bytes of the text whose tokens are counted."""


@dataclass(frozen=True)
class _State:
    """What is kept between `requests` and `score`."""

    rows: Sequence[_EncodedRow]
    stride: int
    """Tokens."""
    length: int
    """Of the model's context, in tokens."""
    prefix: str | None
    """The token before a document, None where there is none."""


class PerplexitySettings(DataSettings):
    """A suite with `ask: perplexity`."""

    stride: int | None = Field(None, ge=1)
    """Tokens by which the window moves on over a text that is longer than the model's context; by
    default half of the context."""


class Perplexity(Task[PerplexitySettings]):
    """Scores the tokens of each row."""

    name = "perplexity"
    Settings = PerplexitySettings

    def check(self, settings: PerplexitySettings, located: Located) -> None:
        """Rows must be named."""
        require_data(settings, located)

    def resolve(self, settings: PerplexitySettings, resolver: Resolver) -> Resources:
        """The files of rows."""
        return Resources(sources=resolver.rows(settings.data or {}))

    def content(self, suite: Suite) -> list[tuple[str, dict[str, object]]]:
        """(source, row). Raises DataError for two rows with one id."""
        rows = rows_of(suite)
        seen: set[str] = set()
        for source, row in rows:
            key = f"{source}/{row.id}"
            if key in seen:
                raise DataError(f"two rows have the id '{key}'", file=suite.file)
            seen.add(key)
        return [(source, plain(row)) for source, row in rows]

    def dependencies(self, suite: Suite) -> Mapping[str, object]:
        """The rules for what stands before a document and which bits are an answer's, for its rows.

        Before a document stood BOS once, a chat mark or not; and an answer's bits were also those
        of its end token, which has no bytes. Figures by two rules are not compared.
        """
        rows = [row for _, row in rows_of(suite)]
        rules = {}
        if any(map(_is_document, rows)):
            rules["document_prefix"] = "no chat mark"
        if any(row.text is None for row in rows):
            rules["bits"] = "of the answers' own text"
        return rules

    def samples(self, suite: Suite) -> list[Sample]:
        """Rows with all their texts, under the ids of their sample rows."""
        return [_as_sample(source, row) for source, row in rows_of(suite)]

    def conversations(self, suite: Suite) -> Iterator[Conversation]:
        """Rows of messages."""
        for source, row in rows_of(suite):
            if row.messages:
                file = suite.sources[source]
                yield Conversation(file, row.line, row.messages, True, tools=row.tools)

    def needs(self, suite: Suite) -> frozenset[Need]:
        """Log-probabilities of every token."""
        return frozenset({"texts"})

    def metrics(self, suite: Suite) -> list[str]:
        """Two of the first source, and two with the name of each other source before them.

        Then the same two for each domain of a source, with `.` and its name after them.
        """
        return [metric.name for metric in _all_metrics(suite, rows_of(suite))]

    def example(self, name: str) -> SuiteExample:
        """Three short conversations with a shop."""
        rows = [
            {
                "id": key,
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ],
            }
            for key, question, answer in EXAMPLE_ROWS
        ]
        return SuiteExample(EXAMPLE.format(name=name), {f"{name}.jsonl": jsonl(rows)})

    def requests(self, suite: Suite, model: Model) -> Requests:
        """One scored pair per run of counted tokens of each row.

        A conversation counts the assistant's tokens, a plain text all of them after the token that
        begins a document (`document_prefix`), or all but its first without one. A row longer than
        the model's length is scored piece by piece (`_pieces`), every token once.
        """
        stride = self.settings(suite).stride or max(1, model.max_length // 2)
        stride = min(stride, model.max_length)
        prefix = document_prefix(model.tokenizer, model.chat_template)
        encoded_rows, pairs = [], []
        for source, row in rows_of(suite):
            encoded = _encode(row, model, prefix)
            own = [
                piece
                for start, end in _runs(encoded.labels)
                for piece in _pieces(encoded.input_ids, start, end, model.max_length, stride)
            ]
            framing = [
                framed
                for label, framed in zip(encoded.labels, encoded.framing, strict=True)
                if label != IGNORED
            ]
            unscored = _unscored(row, encoded, model) if prefix is None else 0
            scored = _bytes(row, len(_runs(encoded.labels))) - unscored
            length = len(encoded.input_ids)
            encoded_rows.append(_EncodedRow(source, row, length, len(own), framing, scored))
            pairs += own
        begins = None if prefix is None else model.tokenizer.convert_ids_to_tokens(prefix)
        return Requests(pairs=pairs, state=_State(encoded_rows, stride, model.max_length, begins))

    def score(self, suite: Suite, requests: Requests, tools: TaskTools) -> SuiteResult:
        """Per row: negative log-likelihood (nats) and number of the counted tokens, and bits and
        bytes of its own text: without the end token, and what a template writes around an answer.
        """
        state: _State = requests.state
        rows, at = [], 0
        for row in state.rows:
            rows.append(_row(row, requests.scores[at : at + row.pieces], suite.cluster))
            at += row.pieces
        sources = [(row.source, row.row) for row in state.rows]
        return SuiteResult(rows, _all_metrics(suite, sources), _notes(suite, state))

    def rescore(
        self, suite: Suite, rows: Sequence[Mapping[str, Any]], tools: Tools, *, models: bool
    ) -> SuiteResult:
        """The texts; their log-probabilities are the model's alone."""
        recorded, every = {row["id"] for row in rows}, rows_of(suite)
        known = [
            {**_text_row(source, row, suite.cluster), "scores": {}}
            for source, row in every
            if _id(source, row) in recorded
        ]
        return SuiteResult(known, _all_metrics(suite, every))


def rows_of(suite: Suite) -> list[tuple[str, Row]]:
    """(source, row), the first `limit` of each source."""
    return suite.pick(
        [
            (source, row)
            for source, file in suite.sources.items()
            for row in load_rows(Path(file))[: suite.limit]
        ]
    )


def _as_sample(source: str, row: Row) -> Sample:
    return Sample(
        id=_id(source, row),
        messages=row.messages,
        prompt=row.prompt,
        reference=row.completion if row.text is None else row.text,
        group=source,
        extra=row.extra,
        tools=row.tools,
    )


def _id(source: str, row: Row) -> str:
    return f"{source}/{row.id}" if source else row.id


def _notes(suite: Suite, state: _State) -> dict[str, object]:
    documents = any(_is_document(row.row) for row in state.rows)
    # The last token of a row is only predicted, so a row of `length` + 1 tokens fits.
    long = [row.source for row in state.rows if row.tokens > state.length + 1]
    return {
        "context": state.length,
        **({"document_prefix": state.prefix} if documents else {}),
        "stride": state.stride,
        "longer_than_context": len(long),
        "sources": {
            source or "data": {
                "stride": state.stride,
                "longer_than_context": long.count(source),
                "domains": _domains([row.row for row in state.rows if row.source == source]),
            }
            for source in suite.sources
        },
    }


def _is_document(row: Row) -> bool:
    """Whether a row's text begins with what is scored: nothing of it stands before."""
    return row.messages is None and not row.prompt


def _encode(row: Row, model: Model, prefix: int | None) -> Encoded:
    """Ids and labels of a row; what counts is never the first, which nothing predicts."""
    tokenizer = model.tokenizer
    encoded = encode_row(tokenizer, row, chat_template=model.chat_template)
    # The end token that training appends to a plain text is no part of the text.
    if row.text is not None and tokenizer.eos_token_id is not None:
        encoded = _part(encoded, slice(None, -1))
    if not _is_document(row):
        if encoded.labels and encoded.labels[0] != IGNORED:
            encoded = _after(model.prefix_token, encoded)
        return encoded
    # What the tokenizer puts before every text gives way to what begins a document.
    if encoded.input_ids[:1] in ([tokenizer.bos_token_id], [prefix]):
        encoded = _part(encoded, slice(1, None))
    if prefix is not None:
        return _after(prefix, encoded)
    labels = [IGNORED, *encoded.labels[1:]][: len(encoded.labels)]
    return replace(encoded, labels=labels)


def _part(encoded: Encoded, part: slice) -> Encoded:
    return Encoded(encoded.input_ids[part], encoded.labels[part], framing=encoded.framing[part])


def _after(token: int, encoded: Encoded) -> Encoded:
    """The row after a token that does not count."""
    ids, labels = [token, *encoded.input_ids], [IGNORED, *encoded.labels]
    return Encoded(ids, labels, framing=[True, *encoded.framing])


def _unscored(row: Row, encoded: Encoded, model: Model) -> int:
    """UTF-8 bytes of a document's first token; 0 where it is a part of a character."""
    if not _is_document(row) or not encoded.input_ids:
        return 0
    first = model.text(encoded.input_ids[:1])
    return len(first.encode()) if _texts(row)[0].startswith(first) else 0


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


def _row(
    encoded: _EncodedRow, scores: Sequence[LogLikelihood], clusters: str | None
) -> dict[str, object]:
    source, row = encoded.source, encoded.row
    unanswered = missing(score.logprob for score in scores)
    logprobs = [logprob for score in scores for logprob in score.token_logprobs]
    own = [p for p, framed in zip(logprobs, encoded.framing, strict=True) if not framed]
    nll = None if unanswered else -sum(score.logprob for score in scores)
    return {
        **_text_row(source, row, clusters),
        "output": None,
        **unanswered,
        "scores": {
            "nll": nll,
            "tokens": len(logprobs),
            "bits": None if unanswered else -sum(own) / math.log(2),
            "bytes": encoded.bytes,
        },
    }


def _text_row(source: str, row: Row, clusters: str | None) -> dict[str, object]:
    """The part of a sample row that is the suite's, whatever the model."""
    return {
        "id": _id(source, row),
        "group": source or None,
        "domain": _domain(row),
        **cluster(clusters, {"group": source, **row.extra}, row.id),
        "prompt": None,
        "reference": "\n".join(_texts(row)),
    }


def _texts(row: Row) -> list[str]:
    """What is scored of a row: its text, its completion, or each of its answers."""
    if row.messages is None:
        return [(row.completion or "") if row.text is None else row.text]
    return [turn_text(message) for message in row.messages if message["role"] == "assistant"]


def _bytes(row: Row, counted: int) -> int:
    """UTF-8 bytes of a row's last `counted` texts: a first one without a prompt is context."""
    texts = _texts(row)
    return sum(len(text.encode()) for text in texts[len(texts) - counted :])


def _domain(row: Row) -> str | None:
    """The row's column `domain`, where it is a name."""
    domain = row.extra.get("domain")
    return str(domain) if isinstance(domain, (str, int)) and str(domain) else None


def _domains(rows: Sequence[Row]) -> dict[str, int]:
    """Domain -> its rows, in the order of first appearance."""
    return dict(Counter(filter(None, map(_domain, rows))))


def _all_metrics(suite: Suite, rows: Rows) -> list[Metric]:
    by_source, by_domain = [], []
    for number, source in enumerate(suite.sources):
        prefix = f"{source}_" if number else ""
        group = {"group": source} if source else {}
        by_source += _pair(prefix, "", source or None)
        domains = _domains([row for of, row in rows if of == source])
        # A single row has no interval, and a column of one-row domains is no column of domains.
        if len(domains) > 1 and min(domains.values()) > 1:
            for domain, name in zip(domains, _names(domains), strict=True):
                by_domain += _pair(prefix, f".{name}", {**group, "domain": domain})
    return [*by_source, *by_domain]


def _pair(prefix: str, suffix: str, where: str | Mapping[str, str] | None) -> list[Metric]:
    return [
        Metric(
            f"{prefix}perplexity{suffix}", False, "exp_ratio", "nll", "tokens", where, (1, None)
        ),
        Metric(f"{prefix}bits_per_byte{suffix}", False, "ratio", "bits", "bytes", where, (0, None)),
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


@hookimpl
def register_tasks(register: Callable[[Any], None]) -> None:
    """`ask: perplexity`."""
    register(Perplexity())
