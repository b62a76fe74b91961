"""Whether the tokens say what was meant: rows cut, nothing to learn, special tokens, ends."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.data.tokenization import IGNORED, Encoded, special_ids
from harness.training.diagnostics.findings import Finding
from harness.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "cut",
    "doubled",
    "end_not_learnt",
    "masked_ends",
    "no_beginning",
    "nothing_to_learn",
    "unknown_markers",
]

Rows = Mapping[str, Encoded]
"""Rows as tokens by the id of the row."""

_MARKER = re.compile(r"<\|[^|<>\s'\"{}]+\|>|<(?:start|end)_of_turn>")
"""How templates write a token that stands for no text. Others (`[INST]`) may be meant as text."""


def cut(rows: Rows, max_length: int) -> Finding | None:
    """`rows_cut`: rows longer than the budget's length, and what was lost."""
    cases = [key for key, row in rows.items() if row.cut]
    if not cases:
        return None
    lost = sum(row.cut for row in rows.values())
    total = lost + sum(len(row.input_ids) for row in rows.values())
    longest = max(len(row.input_ids) + row.cut for row in rows.values())
    return Finding(
        "rows_cut",
        f"{len(cases)} of {len(rows)} rows are longer than budget.max_length {max_length} and were "
        f"cut (first: row {cases[0]}): {lost} of {total} tokens ({lost / total:.1%}) are lost, "
        f"with the ends of those rows; {longest} keeps all",
    )


def nothing_to_learn(rows: Rows) -> Finding | None:
    """`no_loss_tokens`: rows that train nothing."""
    cases = [key for key, row in rows.items() if not _learnt(row)]
    if not cases:
        return None
    why = "raise budget.max_length" if rows[cases[0]].cut else "give them an answer, or drop them"
    return Finding(
        "no_loss_tokens",
        f"{len(cases)} of {len(rows)} rows have no token under the loss (first: row {cases[0]}): "
        f"{why}",
    )


def end_not_learnt(rows: Rows, tokenizer: PreTrainedTokenizerBase) -> Finding | None:
    """`end_not_learnt`: rows whose last token under the loss does not end an answer.

    Blanks after the end do not count, nor do rows that were cut.
    """
    ends = {tokenizer.eos_token_id, *special_ids(tokenizer)}
    last = {key: _last(row, tokenizer) for key, row in rows.items() if not row.cut and _learnt(row)}
    cases = [key for key, token in last.items() if token not in ends]
    if not cases:
        return None
    token = last[cases[0]]
    text = "" if token is None else tokenizer.decode([token])
    mend = (
        "give data.chat_template a template that closes the assistant's turn with "
        f"{tokenizer.eos_token!r}"
    )
    if tokenizer.eos_token is None:
        mend = "set eos_token in the model's tokenizer_config.json, for it has none"
    return Finding(
        "end_not_learnt",
        f"{len(cases)} of {len(rows)} rows end in {text!r} under the loss and not in an end token "
        f"(first: row {cases[0]}), so the model does not learn to stop: {mend}",
    )


def doubled(rows: Rows, tokenizer: PreTrainedTokenizerBase) -> list[Finding]:
    """`bos_doubled`, `eos_doubled`: a text that holds the token which is added to it."""
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    twice = {
        "bos": [k for k, row in rows.items() if row.input_ids[:2] == [begin, begin]],
        "eos": [k for k, row in rows.items() if _without_blanks(row, tokenizer)[-2:] == [end, end]],
    }
    where = {"bos": "begin", "eos": "end"}
    return [
        Finding(
            f"{name}_doubled",
            f"{len(keys)} of {len(rows)} rows {where[name]} with "
            f"{getattr(tokenizer, f'{name}_token')!r} twice (first: row {keys[0]}): it is added "
            "already, take it out of the text or of data.chat_template",
        )
        for name, keys in twice.items()
        if keys and getattr(tokenizer, f"{name}_token_id") is not None
    ]


def no_beginning(
    rows: Rows, sources: Mapping[str, Row], tokenizer: PreTrainedTokenizerBase
) -> Finding | None:
    """`bos_missing`: conversations without the token that the tokenizer begins a text with.

    The template writes a conversation's special tokens, so it is the template that lacks it.
    """
    begin = tokenizer.bos_token_id
    if begin is None or list(tokenizer("a")["input_ids"])[:1] != [begin]:
        return None
    talks = [key for key in rows if sources[key].messages is not None]
    cases = [key for key in talks if rows[key].input_ids[:1] != [begin]]
    if not cases:
        return None
    return Finding(
        "bos_missing",
        f"{len(cases)} of {len(talks)} conversations do not begin with {tokenizer.bos_token!r}, "
        f"with which the tokenizer begins a text (first: row {cases[0]}): begin "
        "data.chat_template with {{ bos_token }}",
    )


def unknown_markers(template: str | None, tokenizer: PreTrainedTokenizerBase) -> Finding | None:
    """`marker_unknown`: tokens that a template in place of the model's own writes as plain text."""
    if not template or template == tokenizer.chat_template:
        return None
    pieces = {
        marker: len(tokenizer(marker, add_special_tokens=False)["input_ids"])
        for marker in dict.fromkeys(_MARKER.findall(template))
    }
    markers = [marker for marker, count in pieces.items() if count > 1]
    if not markers:
        return None
    return Finding(
        "marker_unknown",
        f"data.chat_template writes {', '.join(map(repr, markers))}, which the tokenizer does not "
        f"know and splits into {pieces[markers[0]]} tokens: take the template that belongs to the "
        f"model, or its own tokens ({', '.join(tokenizer.all_special_tokens)})",
    )


def masked_ends(
    rows: Sequence[Encoded], labels: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase
) -> Finding | None:
    """`eos_masked`: ends under the loss that a batch made of `rows` does not count.

    `labels` are the batch's, (rows, length) or one packed row. Where padding is the end token,
    a collator that leaves padding out of the loss takes the answers' ends with it.
    """
    end = tokenizer.eos_token_id
    wanted = sum(token == end for row in rows for token in row.labels[1:])
    counted = sum(token == end for row in labels for token in row)
    if counted >= wanted:
        return None
    why = "the padding is that token too: " if tokenizer.pad_token_id == end else ""
    return Finding(
        "eos_masked",
        f"{wanted - counted} of {wanted} end tokens {tokenizer.eos_token!r} of the first batch are "
        f"left out of the loss, so the model does not learn to stop; {why}give the tokenizer "
        "another pad token, or leave the labels as they are when padding",
    )


def _learnt(row: Encoded) -> list[int]:
    """The tokens under the loss; the first of a row is never predicted."""
    return [label for label in row.labels[1:] if label != IGNORED]


def _without_blanks(row: Encoded, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens under the loss but for blanks at the end, such as a template's line break."""
    kept = _learnt(row)
    while kept and not str(tokenizer.decode([kept[-1]])).strip():
        kept.pop()
    return kept


def _last(row: Encoded, tokenizer: PreTrainedTokenizerBase) -> int | None:
    return next(iter(_without_blanks(row, tokenizer)[::-1]), None)
