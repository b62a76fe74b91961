"""Chat templates without transformers: rendering, omitted messages, the spans of answers.

The parent process checks conversations with these functions before anything is trained; the worker
uses the same ones through the tokenizer, so that both refuse the same conversations.
"""

from __future__ import annotations

import datetime
import functools
import json
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.data.template_forms import Form, Render, detect
from harness.errors import UserError
from harness.system.security.sandbox import limited
from harness.types import Message, ToolDefinitions

if TYPE_CHECKING:
    from jinja2 import Environment, Template
    from jinja2.parser import Parser

__all__ = [
    "DATE",
    "answer_spans",
    "check_conversation",
    "folder_renderer",
    "is_dated",
    "own_template",
    "render_messages",
    "with_fixed_date",
]

DATE = datetime.date(2024, 7, 26)
"""The date that `strftime_now` gives templates: results must not depend on the day of the run.
Llama 3's template has this date where it is given none."""

_CLOCK = "strftime_now"


def is_dated(template: str | None) -> bool:
    """Whether a template renders the current date."""
    return bool(template) and _CLOCK in str(template)


def with_fixed_date(template: str) -> str:
    """The template with `strftime_now` as a macro that formats `DATE`; others unchanged.

    transformers hands a template its own clock and passes no function through, so the template
    itself has to bring another one.
    """
    return _fixed_date_macro() + template if is_dated(template) else template


@functools.cache
def _fixed_date_macro() -> str:
    moment = datetime.datetime.combine(DATE, datetime.time())
    formats = [f"%{flag}{letter}" for flag in ("-", "") for letter in string.ascii_letters]
    values = {code: moment.strftime(code) for code in formats}
    filters = "".join(
        f"|replace({code!r},{value!r})" for code, value in values.items() if value != code
    )
    return f"{{%- macro {_CLOCK}(format) -%}}{{{{ format{filters} }}}}{{%- endmacro -%}}"


# Rendering


def render_messages(
    call: Render,
    messages: Sequence[Message],
    *,
    key: object,
    generation_prompt: bool = False,
    tools: ToolDefinitions = None,
) -> str:
    """The conversation as text, with every message's text and every tool call in it.

    Messages go to the template in the form that it takes (`template_forms`). `key` names the
    template for what is remembered of it. Raises UserError where the template refuses the
    conversation, leaves a message or a call out, or writes no `tools` where there are some.
    """
    given = detect(call, messages, key, tools).shaped(messages)
    try:
        return call(given, generation_prompt, tools)
    except _template_errors() as error:
        reason = _refusal(call, messages, error, generation_prompt, tools)
        raise UserError(reason) from error


def _refusal(
    call: Render,
    messages: Sequence[Message],
    error: Exception,
    generation_prompt: bool,
    tools: ToolDefinitions,
) -> str:
    """The template's error, with the fix of the conversation where it can be detected."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    fix = "set data.chat_template to a template that takes it"
    turns = [message for message in messages if message["role"] != "system"]
    if len(turns) < len(messages) and _takes(call, turns, generation_prompt, tools):
        return (
            f"the chat template refuses the system message ({reason}): put its text before the "
            f"first user message's, or {fix}"
        )
    if turns and turns[0]["role"] == "assistant":
        return (
            "the chat template refuses a conversation that begins with the assistant "
            f"({reason}): leave out its first message, or {fix}"
        )
    return f"the chat template refuses the conversation ({reason}): fix its turns, or {fix}"


def _takes(
    call: Render, messages: Sequence[Message], generation_prompt: bool, tools: ToolDefinitions
) -> bool:
    try:
        call(Form().shaped(messages), generation_prompt, tools)
    except Exception:
        return False
    return True


def _template_errors() -> tuple[type[Exception], ...]:
    """What an expression of a template raises: Jinja's own errors, and those of Python's values."""
    from jinja2 import TemplateError

    return TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError


# The spans of the answers


def answer_spans(
    render: Callable[[Sequence[Message], bool], str], messages: Sequence[Message], text: str
) -> list[tuple[int, int]]:
    """(start, end) of the assistant's turns in `text`: from the generation prompt to the end token.

    Found by rendering the conversation up to each turn, which works with every template that
    renders a conversation's beginning the same way whatever follows; others are refused. A first
    message of the assistant, which no prompt leads to, is context where the template cannot
    write the prompt of an empty conversation.
    """
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _opening(render, text) if i == 0 else render(messages[:i], True)
        if before is None:
            continue
        whole = render(messages[: i + 1], False)
        if not (text.startswith(before) and text.startswith(whole.rstrip())):
            raise UserError(
                f"the chat template rewrites earlier turns, so turn {i + 1} cannot be marked for "
                "training: set data.loss: all, or give data.chat_template a template that does not"
            )
        # The line break that many templates put after the end token is not the model's to write.
        spans.append((len(before), len(whole.rstrip())))
    return spans


def _opening(render: Callable[[Sequence[Message], bool], str], text: str) -> str | None:
    """The generation prompt of an empty conversation, where `text` begins with it."""
    try:
        before = render([], True)
    except Exception:
        return None
    return before if before and text.startswith(before) else None


def check_conversation(
    render: Callable[[Sequence[Message], bool], str], messages: Sequence[Message], *, marked: bool
) -> None:
    """Raise UserError where a template cannot render a conversation.

    With `marked` the spans of the assistant's turns must be detectable.
    """
    text = render(messages, messages[-1]["role"] != "assistant")
    if marked:
        answer_spans(render, messages, text)


# Templates of a model's folder


def own_template(folder: Path, *, tools: bool = False) -> str | None:
    """The chat template of a model's folder; None where it has none, or none that can be read.

    With `tools` the one named `tool_use`, where the folder has several.
    """
    file, other = folder / "chat_template.jinja", folder / _ADDITIONAL
    try:
        if tools and other.is_file():
            return other.read_text(encoding="utf-8")
        template = (
            file.read_text(encoding="utf-8")
            if file.is_file()
            else _tokenizer_config(folder).get("chat_template")
        )
    except (OSError, ValueError):
        return None
    if isinstance(template, list):  # several, by name
        entries = [entry for entry in template if isinstance(entry, dict)]
        named = {entry.get("name"): entry.get("template") for entry in entries}
        template = (tools and named.get("tool_use")) or named.get("default")
    return template if isinstance(template, str) else None


_ADDITIONAL = "additional_chat_templates/tool_use.jinja"


class FolderRenderer(Protocol):
    """Renders conversations as the model of a folder would be given them."""

    def __call__(
        self,
        messages: Sequence[Message],
        generation_prompt: bool,
        tools: ToolDefinitions = None,
    ) -> str:
        """The conversation as text, up to where the assistant answers if so wanted."""


def folder_renderer(folder: Path, chat_template: str | None) -> FolderRenderer | None:
    """Renders conversations with `chat_template`, else the folder's own, as transformers does.

    None where the folder has no template that this process can read.
    """
    if (chat_template or own_template(folder)) is None:
        return None
    special = _special_tokens(folder)

    @functools.cache
    def compiled(tools: bool) -> tuple[str, Template]:
        source = str(chat_template or own_template(folder, tools=tools))
        return source, _environment().from_string(with_fixed_date(source))

    from jinja2 import TemplateError

    try:
        compiled(False)
    except TemplateError:
        return None  # transformers reports why, with its own extensions

    def call(
        messages: Sequence[Mapping[str, object]], generation_prompt: bool, tools: ToolDefinitions
    ) -> str:
        return str(
            compiled(bool(tools))[1].render(
                messages=[dict(message) for message in messages],
                tools=list(tools) if tools else None,
                documents=None,
                add_generation_prompt=generation_prompt,
                **special,
            )
        )

    def render(
        messages: Sequence[Message], generation_prompt: bool, tools: ToolDefinitions = None
    ) -> str:
        key = (str(folder), compiled(bool(tools))[0])
        return render_messages(
            call, messages, key=key, generation_prompt=generation_prompt, tools=tools
        )

    return render


def check_template(source: str) -> None:
    """Raise UserError for an invalid chat template (with its line), or one without messages."""
    from jinja2 import TemplateSyntaxError
    from jinja2.meta import find_undeclared_variables

    environment, text = _environment(), with_fixed_date(source)
    try:
        environment.from_string(text)
        used = find_undeclared_variables(environment.parse(text))
    except TemplateSyntaxError as error:
        raise UserError(
            f"the chat template is invalid Jinja: {error.message} (its line {error.lineno})"
        ) from None
    except RecursionError:
        raise UserError("the chat template is nested too deep") from None
    if "messages" not in used:
        raise UserError("the chat template never uses `messages`: every prompt would be the same")


def _environment() -> Environment:
    """The Jinja environment that transformers compiles chat templates in."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what the assistant writes; the text is the block's."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: object, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = limited(ImmutableSandboxedEnvironment, "the chat template")(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment


def _tokenizer_config(folder: Path) -> Mapping[str, object]:
    file = folder / "tokenizer_config.json"
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return content if isinstance(content, dict) else {}


def _special_tokens(folder: Path) -> dict[str, str]:
    """`bos_token` and others by their names, as templates use them."""
    try:
        listed: Iterable[tuple[str, object]] = _tokenizer_config(folder).items()
    except (OSError, ValueError):
        return {}
    texts = {key: v.get("content") if isinstance(v, dict) else v for key, v in listed}
    return {k: v for k, v in texts.items() if k.endswith("_token") and isinstance(v, str)}
