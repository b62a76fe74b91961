"""Tool calls as models write them: the text of an answer read as names and arguments.

Every family writes calls in a form of its own, and a recorded answer no longer says which tokenizer
wrote it, nor has the special tokens around a call; so the forms are told apart by their text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

__all__ = ["ToolCall", "parse_tool_calls"]


@dataclass(frozen=True, eq=False)
class ToolCall:
    """One call: the function's name and its arguments by their names.

    Numbers are `Decimal`, so that none is rounded; two calls are equal where names and arguments
    are, whatever the order of keys and the form of numbers (`1`, `1.0` and `1e0` are equal; `true`
    and `"1"` are other values).
    """

    name: str
    arguments: Mapping[str, Any]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ToolCall):
            return NotImplemented
        return self.name == other.name and equal_json(self.arguments, other.arguments)

    __hash__ = None  # type: ignore[assignment]  # arguments are no keys


def equal_json(one: object, other: object) -> bool:
    """Whether two values of JSON are the same: keys have no order, numbers are compared exactly."""
    pairs = [(one, other)]  # no recursion: an answer may be nested deep
    while pairs:
        a, b = pairs.pop()
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            if a.keys() != b.keys():
                return False
            pairs += [(a[key], b[key]) for key in a]
        elif isinstance(a, list) and isinstance(b, list):
            if len(a) != len(b):
                return False
            pairs += zip(a, b, strict=True)
        elif isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
            if a is not b:
                return False
        elif a != b:
            return False
    return True


def parse_tool_calls(text: str) -> list[ToolCall | None]:
    """The calls in an answer, in their order; None for one that begins and cannot be read.

    Read are `<tool_call>{...}</tool_call>` (Hermes, Qwen), `[TOOL_CALLS]` before a list or before
    `name[ARGS]{...}` (Mistral), objects alone or apart by `;`, with or without `<|python_tag|>`
    (Llama 3), a list, and both in a fenced code block. A call is an object with `name` and with
    `arguments` or `parameters`, which may be an object or its JSON text, or such an object under
    `function`. Text beside marked or fenced calls is no part of them; bare JSON must be the whole
    answer. Empty where the answer calls nothing. Never raises.
    """
    for mark, read in _MARKED.items():
        if mark in text:
            return read(text)
    for candidate in (text, *_fenced(text)):
        calls = _json_calls(candidate, strict=True)
        if calls:
            return calls
    return _named(text.strip())


def _in_tags(text: str) -> list[ToolCall | None]:
    """Of each `<tool_call>`; a last one may be cut."""
    blocks = _TAGGED.findall(text)
    return [call for block in blocks for call in _json_calls(block) or [None]]


def _after_tool_calls(text: str) -> list[ToolCall | None]:
    """What follows each `[TOOL_CALLS]`."""
    parts = [part for part in text.split("[TOOL_CALLS]")[1:] if part.strip()]
    return [call for part in parts for call in _json_calls(part) or _named(part.strip()) or [None]]


def _after_python_tag(text: str) -> list[ToolCall | None]:
    """What follows `<|python_tag|>`."""
    return _json_calls(text.split("<|python_tag|>", 1)[1]) or [None]


_MARKED = {
    "<tool_call>": _in_tags,
    "[TOOL_CALLS]": _after_tool_calls,
    "<|python_tag|>": _after_python_tag,
}
_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|(?=<tool_call>)|\Z)", re.S)
_FENCE = re.compile(r"^[ \t]*```[\w]*[ \t]*\n(.*?)^[ \t]*```", re.S | re.M)
_ENDS = re.compile(r"<\|(?:eot_id|eom_id|im_end|end|endoftext)\|>|</s>")
"""Tokens that end an answer, where they were left in its text."""
_NAME = re.compile(r"([A-Za-z_][\w.-]*)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\])?\s*(?=\{)")
_DECODER = json.JSONDecoder(parse_float=Decimal, parse_int=Decimal)


def _fenced(text: str) -> list[str]:
    return _FENCE.findall(text.replace("\r\n", "\n"))


def _json_calls(text: str, *, strict: bool = False) -> list[ToolCall | None]:
    """Calls of a text that is JSON alone; empty where it is none.

    With `strict` an object needs arguments to be a call, for other JSON may have a name.
    """
    calls = [_call(value, strict) for value in _values(_ENDS.sub("", text))]
    return [] if strict and not all(calls) else calls


def _values(text: str) -> list[object]:
    """The values of a text of JSON objects or lists of them; none where it is no such text."""
    at, found = _skipped(text, 0), list[object]()
    while at < len(text):
        value, at = _decoded(text, at)
        if at < 0:
            return []
        found += value if isinstance(value, list) else [value]
        at = _skipped(text, at)
    return found


def _decoded(text: str, at: int) -> tuple[object, int]:
    """The value of JSON that begins at a place, and where it ends: -1 where there is none."""
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, ArithmeticError, RecursionError):
        return None, -1


def _skipped(text: str, at: int) -> int:
    """The place of the next character that is neither white space nor parts objects."""
    while at < len(text) and (text[at].isspace() or text[at] in ";,"):
        at += 1
    return at


def _call(value: object, strict: bool) -> ToolCall | None:
    """A value of JSON as a call; None where it is none."""
    if isinstance(value, Mapping) and isinstance(value.get("function"), Mapping):
        value = value["function"]
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        return None
    key = next((key for key in ("arguments", "parameters") if key in value), None)
    if key is None and (strict or set(value) - {"name", "id", "type"}):
        return None
    given = value[key] if key else None
    if isinstance(given, str) and given.strip():
        given = _decoded(given.strip(), 0)[0]
        given = "" if given is None else given
    elif given is None or given == "":
        given = {}
    return ToolCall(value["name"], given) if isinstance(given, Mapping) else None


def _named(text: str) -> list[ToolCall | None]:
    """Calls written `name{...}`, one after the other; empty where the text is none."""
    calls: list[ToolCall | None] = []
    text, at = _ENDS.sub("", text).rstrip(), 0
    while at < len(text):
        name = _NAME.match(text, at)
        arguments, at = _decoded(text, name.end()) if name else (None, -1)
        if name is None or not isinstance(arguments, Mapping):
            return []
        calls.append(ToolCall(name[1], arguments))
        at = _skipped(text, at)
    return calls
