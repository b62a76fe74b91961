"""Tool calls and tool definitions of rows, in the forms in which they are given, as one form.

A turn that calls has `tool_calls`, a list of `{"type": "function", "function": {"name": ...,
"arguments": {...}}}` with an `id` where the row has one: OpenAI's form with the arguments as an
object. Its content is empty where the row has none. The answer to a call is a turn of the role
`tool`, with `tool_call_id` and `name` where the row has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.types import Message

__all__ = ["call_text", "calls_of", "read_calls", "read_tools", "turn_text", "without_nulls"]

Call = dict[str, Any]


def read_calls(turn: Mapping[str, Any], role: object, content: object) -> tuple[Call, ...]:
    """The calls of one turn of a row; none where it has none.

    Read are `tool_calls`, the older `function_call` of OpenAI and ShareGPT's role `function_call`,
    whose value is the JSON of a call or of a list of them. Raises ValueError with what is wrong.
    """
    if role == "function_call":
        calls = calls_of(_decoded(content, "the call"))
    elif turn.get("tool_calls"):
        calls = calls_of(_decoded(turn["tool_calls"], "`tool_calls`"))
    elif turn.get("function_call"):
        calls = calls_of(turn["function_call"])
    else:
        return ()
    if not calls:
        raise ValueError("a list of calls that is empty: name a function, or leave it out")
    return calls


def calls_of(value: object) -> tuple[Call, ...]:
    """A call, or a list of them, in the one form. Raises ValueError."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    return tuple(_call(one, at) for at, one in enumerate(listed, 1))


def _call(value: object, at: int) -> Call:
    form = '{"name": ..., "arguments": {...}}'
    if not isinstance(value, Mapping):
        raise ValueError(f"tool call {at} must be an object {form}")
    inner = value.get("function") if isinstance(value.get("function"), Mapping) else value
    assert isinstance(inner, Mapping)
    name = inner.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"tool call {at} names no function: write {form}")
    given = inner.get("arguments", inner.get("parameters"))
    if isinstance(given, str):
        given = _decoded(given, f"the arguments of '{name}'") if given.strip() else {}
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise ValueError(f"the arguments of '{name}' must be an object, by their names")
    own = {"id": value["id"]} if isinstance(value.get("id"), str) and value["id"] else {}
    return {**own, "type": "function", "function": {"name": name, "arguments": dict(given)}}


def read_tools(value: object) -> tuple[Mapping[str, Any], ...] | None:
    """The functions that a row offers, as OpenAI has them; None where it offers none.

    Each is `{"type": "function", "function": {...}}`, or what stands under `function` there.
    Raises ValueError with what is wrong.
    """
    if value is None or value == "":
        return None
    listed = _decoded(value, "the text")
    if not isinstance(listed, (list, tuple)):
        raise ValueError("must be a list of functions, each an object with `name`")
    tools: list[Mapping[str, Any]] = []
    for at, one in enumerate(listed, 1):
        inner = one.get("function", one) if isinstance(one, Mapping) else one
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise ValueError(f"function {at} must be an object with `name` and `parameters`")
        tools.append(one if "function" in one else {"type": "function", "function": one})
    return tuple(tools) or None


def without_nulls(value: object) -> Any:
    """A value of JSON without keys that are null.

    Columns of Parquet give every object all keys that any has.
    """
    if isinstance(value, Mapping):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, (list, tuple)) else value


def call_text(calls: Sequence[Mapping[str, Any]]) -> str:
    """Calls as the JSON text of a list of names and arguments: what a sample's reference is."""
    return json.dumps([call["function"] for call in calls], ensure_ascii=False)


def turn_text(message: Message) -> str:
    """All that a turn says: its content, and its calls as JSON."""
    calls = message.get("tool_calls")
    if not calls:
        return str(message["content"])
    return f"{message['content']}\n{call_text(calls)}".strip()


def _decoded(value: object, what: str) -> object:
    """A value that may be given as its JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is not JSON: {str(error) or 'nested too deep'}") from None
