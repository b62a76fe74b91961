"""From rows to token ids: the chat template, and which tokens count.

Training, perplexity and `harness plan --show-tokens` all use these functions, so what is trained
on, what is scored and what is shown are the same tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import UserError
from harness.types import Message, Row, Sample

IGNORED = -100  # torch.nn.CrossEntropyLoss's ignore_index


@dataclass(frozen=True)
class Encoded:
    """A row as token ids. `labels[i]` is `input_ids[i]`, or -100 where it does not count."""

    input_ids: list[int]
    labels: list[int]
    cut: int = 0
    """Tokens that `max_length` took off the end."""


def encode_row(
    tokenizer: Any,
    row: Row,
    *,
    max_length: int | None = None,
    loss: str = "assistant",
    chat_template: str | None = None,
) -> Encoded:
    """Token ids and labels of a row.

    `loss="assistant"` counts the answers of a conversation with their end token, the completion
    after a prompt, and all of a plain text; `"all"` counts every token. Raises UserError where
    the tokenizer has no chat template for a conversation.
    """
    if row.messages is not None:
        ids, labels = _conversation(tokenizer, row.messages, chat_template)
    elif row.text is not None:
        ids = [*tokenizer(row.text)["input_ids"], tokenizer.eos_token_id]
        labels = list(ids)
    else:
        before = list(tokenizer(row.prompt)["input_ids"])
        after = tokenizer(row.completion, add_special_tokens=False)["input_ids"]
        ids = [*before, *after, tokenizer.eos_token_id]
        labels = [IGNORED] * len(before) + ids[len(before) :]
    if loss == "all":
        labels = list(ids)
    cut = max(0, len(ids) - max_length) if max_length else 0
    end = len(ids) - cut
    return Encoded(ids[:end], labels[:end], cut)


def encode_prompt(tokenizer: Any, sample: Sample, chat_template: str | None = None) -> list[int]:
    """Token ids that an answer to `sample` continues."""
    if sample.messages is None:
        return list(tokenizer(sample.prompt or "")["input_ids"])
    text = render(tokenizer, sample.messages, chat_template, generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def render(
    tokenizer: Any,
    messages: Sequence[Message],
    chat_template: str | None = None,
    *,
    generation_prompt: bool = False,
) -> str:
    """The conversation as text, through the chat template."""
    if not (chat_template or tokenizer.chat_template):
        raise UserError(
            "the model has no chat template: set data.chat_template to a Jinja template, or give "
            "prompt/completion rows with data.format: prompt"
        )
    return str(
        tokenizer.apply_chat_template(
            [dict(m) for m in messages],
            chat_template=chat_template,
            add_generation_prompt=generation_prompt,
            tokenize=False,
        )
    )


def end_tokens(tokenizer: Any, chat_template: str | None, model_config: Any) -> list[int]:
    """Ids that end an answer: the tokenizer's, the model's, and the template's end of a turn."""
    found = {tokenizer.eos_token_id}
    stated = getattr(model_config, "eos_token_id", None)
    found.update(stated if isinstance(stated, (list, tuple)) else [stated])
    if chat_template or tokenizer.chat_template:
        turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        encoded = encode_row(tokenizer, Row("", messages=tuple(turn)), chat_template=chat_template)
        last = [i for i in encoded.labels if i != IGNORED][-1]
        if last in tokenizer.all_special_ids:
            found.add(last)
    return sorted(i for i in found if i is not None)


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 of what turns text into ids: figures per token need it to be equal.

    The backend's own serialisation without padding and truncation, which calls may set; where
    there is no backend, the vocabulary. The ids that begin and end a text count too.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        told: Any = sorted(tokenizer.get_vocab().items())
    else:
        told = {**json.loads(backend.to_str()), "padding": None, "truncation": None}
    special = [getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk")]
    text = json.dumps([type(tokenizer).__name__ if backend is None else "", told, special])
    return hashlib.sha256(text.encode()).hexdigest()


def _conversation(
    tokenizer: Any, messages: Sequence[Message], chat_template: str | None
) -> tuple[list[int], list[int]]:
    text = render(tokenizer, messages, chat_template)
    spans = _answer_spans(tokenizer, messages, chat_template, text)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(encoded["input_ids"])
    labels = [
        token if any(start <= a and b <= end for start, end in spans) else IGNORED
        for token, (a, b) in zip(ids, encoded["offset_mapping"], strict=True)
    ]
    return ids, labels


def _answer_spans(
    tokenizer: Any, messages: Sequence[Message], chat_template: str | None, text: str
) -> list[tuple[int, int]]:
    """Where the assistant's turns stand in `text`: from the generation prompt to the end token.

    Found by rendering the conversation up to each turn, which works with every template that
    renders a conversation's beginning the same way whatever follows; others are refused.
    """
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = render(tokenizer, messages[:i], chat_template, generation_prompt=True)
        whole = render(tokenizer, messages[: i + 1], chat_template)
        if not (text.startswith(before) and text.startswith(whole.rstrip())):
            raise UserError(
                f"the chat template rewrites earlier turns, so turn {i + 1} cannot be marked for "
                "training: set data.loss: all, or give data.chat_template a template that does not"
            )
        # The line break that many templates put after the end token is not the model's to write.
        spans.append((len(before), len(whole.rstrip())))
    return spans
