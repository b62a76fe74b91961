"""Whether the chat template writes the conversations of an experiment, found before training.

A template decides by the roles of a conversation, so the first row of each sequence of roles is
rendered; the worker holds every row to the same checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.data.chat_templates import check_conversation, folder_renderer
from harness.data.readers import row_error
from harness.data.training_set import DataPlan, mixed_rows, training_rows
from harness.errors import UserError
from harness.evaluation.suite import Suite, rows_of, samples_of
from harness.types import Message, Row

__all__ = ["check_suites", "check_training"]

Renderer = Callable[[Sequence[Message], bool], str]


@dataclass(frozen=True)
class _Conversation:
    """Messages, and where they stand."""

    file: str
    line: int | None
    messages: Sequence[Message]
    answered: bool
    """Whether the assistant's turns count; else the messages are a prompt."""


def check_training(folder: Path, template: str | None, plan: DataPlan) -> None:
    """Raise DataError with file and line for a training row that the template cannot write.

    `folder` is the model's; `template` stands in for its own.
    """
    train, validation = training_rows(plan)
    aside = plan.validation if isinstance(plan.validation, str) else plan.source
    rows: dict[str, list[Row]] = {plan.source: list(train)}
    rows.setdefault(aside, []).extend(validation)
    if plan.mix:
        rows.setdefault(plan.mix.file, []).extend(mixed_rows(plan))
    found = (
        _Conversation(file, row.line, row.messages, True)
        for file, listed in rows.items()
        for row in listed
        if row.messages
    )
    _check(folder, template, found, marked=plan.loss == "assistant")


def check_suites(folder: Path, template: str | None, suites: Sequence[Suite]) -> None:
    """The same for the prompts of `generate` and the conversations of `perplexity` suites."""
    for suite in suites:
        _check(folder, template, _conversations(suite), marked=True)


def _conversations(suite: Suite) -> Iterator[_Conversation]:
    if suite["ask"] == "perplexity":
        for source, row in rows_of(suite):
            if row.messages:
                yield _Conversation(suite.sources[source], row.line, row.messages, True)
    elif suite["ask"] == "generate":
        (file,) = suite.sources.values()
        for sample in samples_of(suite):
            if sample.messages is not None:
                yield _Conversation(file, sample.line, sample.messages, False)
            elif suite["apply_chat_template"] is not False:
                turn = {"role": "user", "content": sample.prompt or ""}
                yield _Conversation(file, sample.line, [turn], False)


def _check(
    folder: Path, template: str | None, conversations: Iterator[_Conversation], *, marked: bool
) -> None:
    first: Mapping[object, _Conversation] = {
        (one.file, one.answered, *(message["role"] for message in one.messages)): one
        for one in reversed(list(conversations))
    }
    if not first:
        return
    render = folder_renderer(folder, template)
    if render is None:
        return
    for one in sorted(first.values(), key=lambda c: (c.file, c.line or 0)):
        try:
            check_conversation(render, one.messages, marked=marked and one.answered)
        except UserError as error:
            raise row_error(Path(one.file), one.line, str(error)) from None
        except Exception:  # what only transformers can render, it renders in the cell
            continue
