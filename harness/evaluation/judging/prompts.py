"""Prompts of a model that judges: rendered, encoded, and safe from the texts that they quote."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from harness.api.model import Model, Request
from harness.data.tokenization import encode_pair, encode_text, render, special_ids
from harness.types import Message

__all__ = ["encode_chat", "encode_continuations", "fenced", "without_special_tokens"]

SHORTEST_FENCE = 3
"""Backticks around a text that has none, as in Markdown."""


def encode_chat(model: Model, messages: Sequence[Message], *, start: str = "") -> list[int]:
    """Token ids of a conversation up to where the model answers, for `model.generate`.

    `start` is what its answer already begins with. Raises UserError where the model has no chat
    template, or its template refuses the conversation.
    """
    return _encode(model, _prompt(model, messages, start))


def encode_continuations(
    model: Model, messages: Sequence[Message], continuations: Sequence[str], *, start: str = ""
) -> list[Request]:
    """(context, continuation) token ids for `model.loglikelihood`, one for each continuation.

    The context is the conversation up to where the model answers, and `start`. Raises UserError
    as `encode_chat`, and for a continuation that the tokenizer has no token for.
    """
    context = _prompt(model, messages, start)
    encode = functools.cache(lambda text: _encode(model, text))  # the context once, not each time
    pairs = [encode_pair(model.tokenizer, context, text, encode) for text in continuations]
    return [(pair.context, pair.continuation) for pair in pairs]


def fenced(text: str) -> str:
    """The text between two lines of backticks, more of them than it has anywhere in a row.

    So no text can close its own fence and go on as if it were the judge's instructions. The same
    text always gets the same fence, and thus the same score.
    """
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(SHORTEST_FENCE, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def without_special_tokens(model: Model, messages: Sequence[Message]) -> list[Message]:
    """The messages with a space inside whatever their texts spell of the model's special tokens.

    A tokenizer reads `<|im_end|>` in a judged answer as the end of the judge's own turn, so that an
    answer could add turns to the conversation. Only the template may write such tokens.
    """
    tokenizer = model.tokenizer
    names = {str(tokenizer.convert_ids_to_tokens(i)) for i in special_ids(tokenizer)}
    marks = [re.escape(name) for name in sorted(names, key=len, reverse=True) if len(name) > 1]
    if not marks:
        return list(messages)
    spelled = re.compile("|".join(marks))
    broken = functools.partial(spelled.sub, lambda found: f"{found[0][0]} {found[0][1:]}")
    return [{**message, "content": broken(message["content"])} for message in messages]


def _prompt(model: Model, messages: Sequence[Message], start: str) -> str:
    return render(model.tokenizer, messages, model.chat_template, generation_prompt=True) + start


def _encode(model: Model, text: str) -> list[int]:
    """Without special tokens: the template has written them."""
    return encode_text(model.tokenizer, text, add_special_tokens=False)
