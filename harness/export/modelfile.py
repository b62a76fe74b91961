"""Ollama's Modelfile for a GGUF file: template, end of an answer, and greedy as evaluated.

Ollama writes prompts with a Go template and not with the model's own, which is Jinja. Where a
conversation's text is a fixed frame around each message, as in ChatML, the frames are read off
the model's template and hold for every conversation that was tried; else the Modelfile leaves the
template to Ollama, and says so. (Format: docs.ollama.com/modelfile, as of 2026.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.data.tokenization import render
from harness.errors import UserError
from harness.models.language_model import LanguageModel
from harness.system import llama_server

__all__ = ["FILE", "Frames", "frames_of", "go_template", "write"]

FILE = "Modelfile"
_MOST_CONTEXT = 8192
"""Tokens. Ollama takes 4,096 at most where none are named, and cuts in silence."""


@dataclass(frozen=True)
class Frames:
    """What a chat template writes around a message of each role, and around the whole."""

    before: Mapping[str, str]
    after: Mapping[str, str]
    no_system: str
    """What stands in the place of the system message of a conversation without one."""
    start: str
    """Before an answer that is to be written."""

    def text(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation, ready for an answer: what `go_template` says, in Python."""
        parts = [] if messages[0]["role"] == "system" else [self.no_system]
        for message in messages:
            role = message["role"]
            parts += [self.before[role], message["content"], self.after[role]]
        return "".join([*parts, self.start])


def write(folder: Path, files: Sequence[str], model: LanguageModel) -> dict[str, object]:
    """Write the Modelfile beside GGUF files, for the first; what it says, for the report."""
    facts = llama_server.facts(folder / files[0])
    frames = frames_of(model, _adds_bos(model) if facts.add_bos is None else facts.add_bos)
    ends = [model.tokenizer.convert_ids_to_tokens(token) for token in model.end_ids]
    lines = [f"FROM ./{files[0]}", *(f"# or: FROM ./{file}" for file in files[1:])]
    if frames is None:
        lines.append("# the chat template is no fixed frame around messages: Ollama takes its own")
    else:
        lines.append(f'TEMPLATE """{go_template(frames)}"""')
    # quotes within have no escape
    lines += [f'PARAMETER stop "{end}"' for end in ends if '"' not in end]
    context = min(model.max_length, _MOST_CONTEXT)
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]
    lines += [f"PARAMETER num_ctx {context}"]
    (folder / FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"file": FILE, "template": frames is not None, "stops": ends, "num_ctx": context}


def frames_of(model: LanguageModel, adds_bos: bool) -> Frames | None:
    """The frames of a model's chat template; None where it has none, or not such a one.

    With `adds_bos` without the BOS that a template writes first: the GGUF file has one put there.
    """
    if not (model.chat_template or model.tokenizer.chat_template):
        return None

    def rendered(messages: Sequence[Mapping[str, Any]], generation_prompt: bool) -> str:
        text = render(
            model.tokenizer, messages, model.chat_template, generation_prompt=generation_prompt
        )
        return text.removeprefix(model.tokenizer.bos_token or "") if adds_bos else text

    try:
        frames = _read_off(rendered)
        tried = all(frames.text(talk) == rendered(talk, True) for talk in _conversations())
    except (UserError, ValueError, KeyError):
        return None
    return frames if tried and '"""' not in go_template(frames) else None


def _adds_bos(model: LanguageModel) -> bool:
    bos = model.tokenizer.bos_token_id
    return bos is not None and model.tokenizer("a")["input_ids"][:1] == [bos]


_MARKS = ("\u2042one\u2042", "\u2042two\u2042", "\u2042three\u2042", "\u2042four\u2042")


def _read_off(rendered: Callable[[Sequence[Mapping[str, Any]], bool], str]) -> Frames:
    """Frames by what stands between and after the texts of a conversation.

    Raises ValueError where a text is not there as it is, once.
    """
    system, user, assistant, again = _MARKS
    talk = [
        {"role": "system", "content": system},
        {"role": "user", "content": user},
        {"role": "assistant", "content": assistant},
        {"role": "user", "content": again},
    ]
    before_system, rest = rendered(talk, False).split(system)
    system_to_user, rest = rest.split(user)
    user_to_assistant, rest = rest.split(assistant)
    assistant_to_user, after_user = rest.split(again)
    _, after_assistant = rendered(talk[:3], False).split(assistant)
    _, end = rendered(talk, True).split(again)
    before_user = assistant_to_user.removeprefix(after_assistant)
    before, _ = rendered(talk[1:2], True).split(user)
    return Frames(
        before={
            "system": before_system,
            "user": before_user,
            "assistant": user_to_assistant.removeprefix(after_user),
        },
        after={
            "system": system_to_user.removesuffix(before_user),
            "user": after_user,
            "assistant": after_assistant,
        },
        no_system=before.removesuffix(before_user),
        start=end.removeprefix(after_user),
    )


def _conversations() -> list[list[dict[str, str]]]:
    """Such as frames must hold for: with and without a system message, of one turn and of more."""
    turns = [
        {"role": "user", "content": "How much is it?"},
        {"role": "assistant", "content": "Ten euros.\nAnd shipping."},
        {"role": "user", "content": "<b>Really?</b> {{ 1 }}"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Fine"},
    ]
    system = {"role": "system", "content": "Be brief."}
    return [[*opening, *turns[:count]] for opening in ([], [system]) for count in (1, 3, 5)]


def go_template(frames: Frames) -> str:
    """The frames as Ollama's template, a text/template of Go over `.Messages`."""

    def literal(text: str) -> str:
        return text.replace("{{", '{{ "{{" }}')

    cases = "".join(
        f'{{{{ {"if" if role == "system" else "else if"} eq .Role "{role}" }}}}'
        f"{literal(frames.before[role])}{{{{ .Content }}}}{literal(frames.after[role])}"
        for role in ("system", "user", "assistant")
    )
    opening = f"{{{{ if not .System }}}}{literal(frames.no_system)}{{{{ end }}}}"
    return (
        f"{opening if frames.no_system else ''}"
        f"{{{{ range .Messages }}}}{cases}{{{{ end }}}}{{{{ end }}}}{literal(frames.start)}"
    )
