"""The form in which a chat template takes a conversation, detected with words of our own.

Templates differ: content is a text or a list of parts, arguments of tool calls are an object or
its JSON text, a call's content is empty or null, ids of calls have nine characters or any number.
What a template takes is found by rendering words that occur nowhere else, and looking for them.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import UserError
from harness.types import Message, ToolDefinitions

__all__ = ["Form", "Render", "detect", "shape_of"]

Render = Callable[[Sequence[Mapping[str, object]], bool, ToolDefinitions], str]
"""`render(messages, generation_prompt, tools)`: the rendered text, unchanged."""

Shape = tuple[object, ...]


@dataclass(frozen=True)
class Form:
    """How messages are handed to a template."""

    parts: bool = False
    """Content as a list of parts."""
    text_arguments: bool = False
    """Arguments of calls as JSON text."""
    null: bool = False
    """Content of a call without text as null."""
    numbered: bool = False
    """Ids of calls as numbers of nine digits, in place of the row's."""

    def shaped(self, messages: Sequence[Message]) -> list[dict[str, object]]:
        """The messages in this form; each answer to a call with the name of what was called."""
        turns: list[dict[str, object]] = []
        waiting: list[tuple[object, Mapping[str, Any]]] = []
        count = itertools.count()
        for message in messages:
            turn = {**message, "content": self._content(message)}
            if message.get("tool_calls"):
                calls = [self._call(call, count) for call in message["tool_calls"]]
                own = [call.get("id") for call in message["tool_calls"]]
                turn["tool_calls"], waiting = calls, list(zip(own, calls, strict=True))
            elif message["role"] == "tool":
                turn |= _answered(waiting, message.get("tool_call_id"))
            turns.append(turn)
        return turns

    def _content(self, message: Message) -> object:
        text = message["content"]
        if message.get("tool_calls") and not text:
            return None if self.null else text
        return [{"type": "text", "text": text}] if self.parts else text

    def _call(self, call: Mapping[str, Any], count: Iterator[int]) -> dict[str, Any]:
        function = dict(call["function"])
        if self.text_arguments:
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        number = {"id": f"{next(count):09d}"} if self.numbered else {}
        return {**call, **number, "function": function}


def _answered(waiting: list[tuple[object, Mapping[str, Any]]], own: object) -> dict[str, object]:
    """Id and name of the call that a turn of the role `tool` answers, which waits no longer.

    The call with the row's `own` id, else the first.
    """
    if not waiting:
        return {}
    _, call = waiting.pop(next((i for i, (its, _) in enumerate(waiting) if own == its), 0))
    named: dict[str, object] = {"name": call["function"]["name"]}
    return {**named, "tool_call_id": call["id"]} if "id" in call else named


def shape_of(messages: Sequence[Message], tools: ToolDefinitions) -> Shape:
    """What of a conversation decides whether a template takes it."""
    return tuple(_turn_shape(message) for message in messages), bool(tools)


def _turn_shape(message: Message) -> Shape:
    calls = message.get("tool_calls", ())
    ids = tuple(len(call["id"]) if "id" in call else None for call in calls)
    # without calls the text is there
    return message["role"], not calls or bool(message["content"]), ids


_FORMS: dict[tuple[object, Shape], Form] = {}
"""Of a template and a conversation's shape."""


def detect(
    call: Render, messages: Sequence[Message], key: object, tools: ToolDefinitions = None
) -> Form:
    """The form that the template takes; `key` names the template for what is remembered of it.

    Raises UserError where it leaves out a message, a tool call or the definitions of tools.
    """
    at = (key, shape_of(messages, tools))
    if at not in _FORMS:
        _FORMS[at] = _form_of_words(call, _words(messages), _WORD_TOOLS if tools else None)
    return _FORMS[at]


_WORD_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "QzxToolWvj",
            "description": "Says what is asked.",
            "parameters": {
                "type": "object",
                "properties": {"QzxArgumentWvj": {"type": "string", "description": "What."}},
                "required": ["QzxArgumentWvj"],
            },
        },
    }
]


def _words(messages: Sequence[Message]) -> list[Message]:
    """A conversation of the same shape, of words that occur nowhere else."""
    words: list[Message] = []
    for i, message in enumerate(messages):
        calls = message.get("tool_calls")
        word = {**message, "content": "" if calls and not message["content"] else f"Qzx{i}Wvj"}
        if calls:
            word["tool_calls"] = [
                {**call, "function": {"name": f"Qzx{i}n{j}Wvj", "arguments": _argument(i, j)}}
                for j, call in enumerate(calls)
            ]
        words.append(word)
    return words


def _argument(i: int, j: int) -> dict[str, str]:
    return {f"Qzx{i}k{j}Wvj": f"Qzx{i}v{j}Wvj"}


_AS_PYTHON_SHOWS = re.compile(r"""['"]type['"]: ?['"]text['"]""")
"""Of a template that writes any content as Python shows it, and has not read the parts."""
_SPOILT = re.compile(r"""'Qzx\d+[kv]|\\+"Qzx\d+[kv]""")
"""Arguments as Python shows them, or JSON in a text of JSON."""


def _form_of_words(call: Render, words: Sequence[Message], tools: ToolDefinitions) -> Form:
    missing: dict[Form, list[int]] = {}
    spoilt: list[Form] = []
    for form in _forms(words):
        try:
            text = call(form.shaped(words), False, tools)
        except Exception:  # rendering the conversation itself reports why
            continue
        if form.parts and _AS_PYTHON_SHOWS.search(text):
            continue
        lost = [i for i, word in enumerate(words) if _is_lost(words, i, word, text)]
        if lost:
            missing[form] = lost
            continue
        if tools and "QzxToolWvj" not in text:
            raise UserError(
                "the chat template leaves out the definitions of the tools: set "
                "data.chat_template to a template that writes `tools`, or remove them from the row"
            )
        if not _SPOILT.search(text):
            return form
        spoilt.append(form)
    if spoilt:
        return spoilt[0]
    plain = [lost for form, lost in missing.items() if not form.parts]
    if plain:
        raise UserError(_left_out(words, plain[0][0]))
    return Form()


def _forms(words: Sequence[Message]) -> list[Form]:
    """The forms to try, the usual first."""
    both = (False, True)
    if not any(word.get("tool_calls") for word in words):
        return [Form(parts) for parts in both]
    return [Form(*choice) for choice in itertools.product(both, repeat=4)]


def _is_lost(words: Sequence[Message], i: int, word: Message, text: str) -> bool:
    """Whether the text lacks something of a message that a template must write."""
    return (_is_required(words, i) and word["content"] not in text) or _lacks_call(word, text)


def _is_required(messages: Sequence[Message], i: int) -> bool:
    """Whether a template must render the content of message `i`: earlier answers may be dropped."""
    return messages[i]["role"] != "assistant" or i == len(messages) - 1


def _lacks_call(word: Message, text: str) -> bool:
    functions = [call["function"] for call in word.get("tool_calls", ())]
    parts = [[f["name"], *f["arguments"], *f["arguments"].values()] for f in functions]
    return any(part not in text for listed in parts for part in listed)


def _left_out(words: Sequence[Message], i: int) -> str:
    """The message for what a template leaves out of message `i`."""
    role = words[i]["role"]
    if words[i].get("tool_calls"):
        return (
            f"the chat template leaves out the assistant's tool call, or its text beside the call "
            f"(message {i + 1}): set data.chat_template to a template that writes `tool_calls`"
        )
    return (
        f"the chat template leaves out the {role}'s message (message {i + 1}): "
        + (
            "put its text before the first user message's, "
            if role == "system"
            else "it writes neither texts nor parts, "
        )
        + "or set data.chat_template to a template that writes it"
    )
