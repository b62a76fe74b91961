"""A tokenizer whose tokens are the bytes of UTF-8, for a model whose own is not at hand.

Its token ids are a text as it is, so that nothing is lost between the ids that suites make and the
text that a server is sent. Its chat template marks the messages of a conversation, which is read
back from the ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.types import Message

__all__ = ["MOST", "Conversation", "conversation", "write"]

MOST = 10**9
"""Its length, in tokens: bytes say nothing of the context of a model that has other tokens."""

_ROLE, _CONTENT, _ANSWER, _CALLS, _TOOLS = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd4", "\ufdd5"
"""Noncharacters of Unicode, which are for a program's own use and stand in no text."""
_END = "\ufdd3"
_TEMPLATE = (
    f"{{% if tools %}}{_TOOLS}{{{{ tools | tojson }}}}{{% endif %}}"
    f"{{% for message in messages %}}{_ROLE}{{{{ message['role'] }}}}"
    f"{_CONTENT}{{{{ message['content'] }}}}"
    f"{{% if message['tool_calls'] %}}{_CALLS}{{{{ message['tool_calls'] | tojson }}}}{{% endif %}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{_ANSWER}{{% endif %}}"
)


def write(folder: Path, *, chat: bool) -> None:
    """Write the tokenizer's files and a config.json; with `chat` the template too."""
    vocabulary = {character: byte for byte, character in enumerate(_alphabet())}
    end = {
        "id": len(vocabulary),
        "content": _END,
        "special": True,
        **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
    }
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    tokenizer = {
        "version": "1.0",
        "added_tokens": [end],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": _END,
        "clean_up_tokenization_spaces": False,
        "model_max_length": MOST,
        **({"chat_template": _TEMPLATE} if chat else {}),
    }
    files = {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": settings,
        "config.json": {"max_position_embeddings": MOST},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=True), encoding="utf-8")


@dataclass(frozen=True)
class Conversation:
    """Messages in the form of OpenAI's API, and the tools that are offered."""

    messages: list[Message]
    tools: list[Mapping[str, Any]]


def conversation(text: str) -> Conversation | None:
    """What a rendered conversation was rendered from; None for a text that is none."""
    if not text.startswith((_ROLE, _TOOLS)):
        return None
    offered, *turns = text.removesuffix(_ANSWER).split(_ROLE)
    tools = json.loads(offered.removeprefix(_TOOLS)) if offered else []
    messages: list[Message] = []
    open_calls: list[str] = []
    for turn in turns:
        role, _, rest = turn.partition(_CONTENT)
        content, _, called = rest.partition(_CALLS)
        message: dict[str, Any] = {"role": role, "content": content}
        if called:
            message["tool_calls"] = _with_ids(json.loads(called), len(messages))
            open_calls = [call["id"] for call in message["tool_calls"]]
        if role == "tool" and open_calls:
            message["tool_call_id"] = open_calls.pop(0)
        messages.append(message)
    return Conversation(messages, tools)


def _with_ids(calls: Sequence[Mapping[str, Any]], turn: int) -> list[dict[str, Any]]:
    """Calls as the API has them: with ids, and arguments as JSON text."""
    found = []
    for number, call in enumerate(calls):
        function = dict(call.get("function") or call)
        arguments = function.get("arguments")
        if not isinstance(arguments, str):
            function["arguments"] = json.dumps(arguments, ensure_ascii=False)
        found.append({"id": f"call_{turn}_{number}", "type": "function", "function": function})
    return found


def _alphabet() -> list[str]:
    """The character that stands for each byte in byte-level vocabularies, as GPT-2 has them.

    Printable ones of Latin-1 stand for themselves, the others for characters from U+0100 on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
