"""From rows to token ids: the chat template, and the labels.

Training, perplexity and `harness plan --show-tokens` all use these functions, so what is trained
on, what is scored and what is shown are the same tokens.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from harness.data.chat_templates import answer_spans, render_messages, with_fixed_date
from harness.errors import UserError
from harness.system.security.time_limit import TEMPLATE_SECONDS, time_limit
from harness.types import Message, Row, Sample, ToolDefinitions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # torch.nn.CrossEntropyLoss's ignore_index


@dataclass(frozen=True)
class Encoded:
    """A row as token ids. `labels[i]` is `input_ids[i]`, or -100 where the loss ignores it."""

    input_ids: list[int]
    labels: list[int]
    cut: int = 0
    """Tokens truncated from the end to fit `max_length`."""
    framing: Sequence[bool] = ()
    """For each token, whether it is none of the row's own texts: the end token, and what a chat
    template writes around an answer."""


def encode_row(
    tokenizer: PreTrainedTokenizerBase,
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
    ending = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if row.messages is not None:
        try:
            ids, labels, framing = _conversation(tokenizer, row, chat_template, loss)
        except UserError as error:
            raise UserError(f"row {row.id}: {error}") from error
    elif row.text is not None:
        ids = [*encode_text(tokenizer, row.text), *ending]
        labels, framing = list(ids), _ended(ids, ending)
    else:
        before = encode_text(tokenizer, row.prompt or "")
        ids = [*before, *encode_after(tokenizer, row.completion or ""), *ending]
        labels, framing = [IGNORED] * len(before) + ids[len(before) :], _ended(ids, ending)
    if loss == "all":
        labels = list(ids)
    cut = max(0, len(ids) - max_length) if max_length else 0
    end = len(ids) - cut
    return Encoded(ids[:end], labels[:end], cut, framing[:end])


def _ended(ids: Sequence[int], ending: Sequence[int]) -> list[bool]:
    return [False] * (len(ids) - len(ending)) + [True] * len(ending)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, sample: Sample, chat_template: str | None = None
) -> list[int]:
    """Token ids that an answer to `sample` continues.

    Raises UserError where a plain prompt offers tools, which only a chat template can write.
    """
    if sample.messages is None:
        if sample.tools:
            raise UserError(
                f"sample {sample.id} offers tools and its prompt is plain text: they need a chat "
                "template (data.chat_template), and no `apply_chat_template: false`"
            )
        return encode_text(tokenizer, sample.prompt or "")
    text = render(
        tokenizer, sample.messages, chat_template, generation_prompt=True, tools=sample.tools
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    chat_template: str | None = None,
    *,
    generation_prompt: bool = False,
    tools: ToolDefinitions = None,
) -> str:
    """The conversation as text, through the chat template; dates are `chat_templates.DATE`.

    Raises UserError where the template refuses the conversation, or leaves out a message, a tool
    call or the tools.
    """
    if not (chat_template or tokenizer.chat_template):
        raise UserError(
            "the model has no chat template: set data.chat_template to a Jinja template, or give "
            "prompt/completion rows with data.format: prompt"
        )
    offered = [dict(tool) for tool in tools] if tools else None
    source = with_fixed_date(tokenizer.get_chat_template(chat_template, tools=offered))

    def call(given: Sequence[Any], generation_prompt: bool, tools: ToolDefinitions) -> str:
        with time_limit(TEMPLATE_SECONDS, "the chat template"):
            return str(
                tokenizer.apply_chat_template(
                    list(given),
                    tools=[dict(tool) for tool in tools] if tools else None,
                    chat_template=source,
                    add_generation_prompt=generation_prompt,
                    tokenize=False,
                )
            )

    return render_messages(
        call, messages, key=source, generation_prompt=generation_prompt, tools=tools
    )


# Plain texts, and texts that go on from others


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, **settings: Any) -> list[int]:
    """Token ids of a text that may be continued.

    With what the tokenizer puts before a text and without what some put after it: an end token
    belongs to no prompt, no context and no text that is scored.
    """
    ids = list(tokenizer(text, **settings)["input_ids"])
    end = [] if settings.get("add_special_tokens") is False else _traits(tokenizer).end
    return ids[: -len(end)] if end and ids[-len(end) :] == end else ids


def encode_after(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text that continues another: nothing is put before its first character.

    Tokenizers of the SentencePiece kind put a space before every text.
    """
    return _continued(tokenizer, text)[0]


@dataclass(frozen=True)
class Pair:
    """A context and its continuation as token ids."""

    context: list[int]
    continuation: list[int]
    apart: bool = False
    """True where the tokenizer merges the end of one with the beginning of the other, so that
    the continuation was encoded on its own."""


def encode_pair(
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    continuation: str,
    encode: Callable[[str], Sequence[int]] | None = None,
) -> Pair:
    """A continuation's token ids after its context; at least one, and of its own text.

    The continuation's tokens are those that it adds to the context's. Where a token stands
    across the join (its text is part of both) that would leave out some of the continuation, or
    all of it, and the continuation is encoded on its own. Raises UserError where it has no token.
    """
    encode = encode or (lambda text: encode_text(tokenizer, text))
    before, whole = list(encode(context)), list(encode(context + continuation))
    if len(whole) > len(before) and whole[: len(before)] == before:
        return Pair(before, whole[len(before) :])
    after = encode_after(tokenizer, continuation)
    if not after:
        raise UserError(
            f"the tokenizer has no token for the continuation {continuation!r}, so it cannot be "
            "scored: leave it out, or change its text"
        )
    return Pair(before, after, apart=True)


@dataclass(frozen=True)
class _Traits:
    """What a tokenizer adds to every text."""

    end: list[int]
    """Ids that it appends."""
    spaced: bool
    """Whether it puts a space before a text."""


_TRAITS: WeakKeyDictionary[PreTrainedTokenizerBase, _Traits] = WeakKeyDictionary()


def _traits(tokenizer: PreTrainedTokenizerBase) -> _Traits:
    if tokenizer not in _TRAITS:
        bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        whole = list(tokenizer("a")["input_ids"])
        starts = [i for i in range(len(whole)) if whole[i : i + len(bare)] == bare]
        end = whole[starts[0] + len(bare) :] if bare and starts else []
        inside = list(tokenizer(f"{_ANCHOR}a", add_special_tokens=False)["input_ids"])
        _TRAITS[tokenizer] = _Traits(end, inside[-len(bare) :] != bare)
    return _TRAITS[tokenizer]


_ANCHOR = "\n"
"""Put before a text where the tokenizer treats the beginning of a text differently."""


def _continued(
    tokenizer: PreTrainedTokenizerBase, text: str, **settings: Any
) -> tuple[list[int], list[tuple[int, int]]]:
    """(ids, offsets) of a text that continues another; offsets only if requested."""
    settings["add_special_tokens"] = False
    offsets = bool(settings.get("return_offsets_mapping"))
    if _traits(tokenizer).spaced:
        anchor = list(tokenizer(_ANCHOR, add_special_tokens=False)["input_ids"])
        whole = tokenizer(_ANCHOR + text, **settings)
        ids, at = list(whole["input_ids"]), len(anchor)
        if ids[:at] == anchor and (len(ids) > at or not text):
            places = whole["offset_mapping"][at:] if offsets else []
            shift = len(_ANCHOR)
            return ids[at:], [(max(0, a - shift), max(0, b - shift)) for a, b in places]
    encoded = tokenizer(text, **settings)
    return list(encoded["input_ids"]), list(encoded["offset_mapping"]) if offsets else []


def end_tokens(
    tokenizer: PreTrainedTokenizerBase, chat_template: str | None, model_config: object
) -> list[int]:
    """Ids that end an answer: the tokenizer's, the model's, and the template's end of a turn."""
    ends = {tokenizer.eos_token_id}
    stated = getattr(model_config, "eos_token_id", None)
    ends.update(stated if isinstance(stated, (list, tuple)) else [stated])
    if chat_template or tokenizer.chat_template:
        turn = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        encoded = encode_row(tokenizer, Row("", messages=tuple(turn)), chat_template=chat_template)
        last = [i for i in encoded.labels if i != IGNORED][-1]
        if last in special_ids(tokenizer):
            ends.add(last)
    return sorted(i for i in ends if i is not None)


def document_prefix(tokenizer: PreTrainedTokenizerBase, chat_template: str | None) -> int | None:
    """The token after which a document is scored; None where the tokenizer has none for it.

    BOS, else EOS, else `<|endoftext|>`, each unless the chat template writes it inside a
    conversation: `<|im_start|>`, the BOS of SmolLM2-Instruct, begins every message, and after it
    comes a role and no prose. One that stands only before or after a whole conversation, as
    `<s>` does in Llama's, begins and ends documents.
    """
    inside = _inside_conversation(tokenizer, chat_template)
    special = special_ids(tokenizer)
    for token in (tokenizer.bos_token, tokenizer.eos_token, _SEPARATOR):
        if token is None or token in inside:
            continue
        number = tokenizer.convert_tokens_to_ids(token)
        # Without such a token the id is that of `<unk>`.
        if number in special and tokenizer.convert_ids_to_tokens(number) == token:
            return int(number)
    return None


_SEPARATOR = "<|endoftext|>"
"""What GPT-2 and many tokenizers since put between documents, under whichever role or none."""


def _inside_conversation(tokenizer: PreTrainedTokenizerBase, chat_template: str | None) -> str:
    """A question and its answer through the chat template, without a token around the whole.

    Empty without a template, the template itself where it takes no such conversation.
    """
    template = chat_template or tokenizer.chat_template
    if not template:
        return ""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        text = render(tokenizer, turns, chat_template).strip()
    except UserError:
        return str(template)
    for mark in filter(None, (tokenizer.bos_token, tokenizer.eos_token, _SEPARATOR)):
        text = text.removeprefix(mark).removesuffix(mark)
    return text


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of the special tokens: those with a role, and those that were only added as special."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 of the tokenizer's rules: metrics per token are comparable only where it is equal.

    The backend's own serialisation without padding and truncation, which calls may set; where
    there is no backend, the vocabulary. The ids that begin and end a text count too.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content: object = sorted(tokenizer.get_vocab().items())
    else:
        content = {**json.loads(backend.to_str()), "padding": None, "truncation": None}
    special = [getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk")]
    text = json.dumps([type(tokenizer).__name__ if backend is None else "", content, special])
    return hashlib.sha256(text.encode()).hexdigest()


def _conversation(
    tokenizer: PreTrainedTokenizerBase,
    row: Row,
    chat_template: str | None,
    loss: str,
) -> tuple[list[int], list[int], list[bool]]:
    """Ids, labels and `Encoded.framing`; with `loss="all"` answers are not located."""
    messages = row.messages or ()

    def rendered(some: Sequence[Message], generation_prompt: bool) -> str:
        return render(
            tokenizer,
            some,
            chat_template,
            generation_prompt=generation_prompt,
            tools=row.tools,
        )

    text = rendered(messages, False)
    spans = [(0, len(text))] if loss == "all" else answer_spans(rendered, messages, text)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, places = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    starts = [start for start, _ in spans]
    if any(a < start < b for start in starts for a, b in places):
        ids, places = _in_pieces(tokenizer, text, starts)
    # A token that begins in an answer is generated by the model, even if it also ends a turn.
    labels = [
        token if any(start <= a and (b <= end or a < end) for start, end in spans) else IGNORED
        for token, (a, b) in zip(ids, places, strict=True)
    ]
    if loss == "all":
        return ids, labels, [False] * len(ids)
    answers = [message for message in messages if message["role"] == "assistant"]
    # a first message of the assistant may have no span
    pairs = zip(answers[len(answers) - len(spans) :], spans, strict=True)
    contents = [_content_span(text, answer, span) for answer, span in pairs]
    framing = [not any(a < end and b > start for start, end in contents) for a, b in places]
    return ids, labels, framing


def _content_span(text: str, message: Message, span: tuple[int, int]) -> tuple[int, int]:
    """Where in an assistant's turn the answer's own text is; all of it where it was rewritten.

    A template may write an end token after it, an empty line of thought before it, or strip it.
    Of a tool call the whole turn is: the marks around a call make it one.
    """
    if message.get("tool_calls"):
        return span
    answer = message["content"]
    for wanted in (answer, answer.strip()):
        at = text.find(wanted, *span)
        if at >= 0:
            return at, at + len(wanted)
    return span


def _in_pieces(
    tokenizer: PreTrainedTokenizerBase, text: str, starts: Sequence[int]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and offsets of a text that is cut where answers begin, as prompts are at evaluation.

    Otherwise a token across the border of a prompt and its answer would count for neither, and
    the prompts of evaluation would be token sequences that training never contained.
    """
    bounds = sorted({0, *starts, len(text)})
    ids: list[int] = []
    places: list[tuple[int, int]] = []
    for start, end in itertools.pairwise(bounds):
        piece = text[start:end]
        if start:
            own, offsets = _continued(tokenizer, piece, return_offsets_mapping=True)
        else:
            encoded = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
            own, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
        ids += own
        places += [(a + start, b + start) for a, b in offsets]
    return ids, places
