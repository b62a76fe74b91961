"""Checks before training that the chat template can render an experiment's conversations.

A template decides by the roles of a conversation, its tool calls and whether it offers tools, so
the first row of each such shape is rendered; the worker checks every row in the same way.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.api.task import Conversation, Suite
from harness.data.chat_templates import check_conversation, folder_renderer
from harness.data.readers import row_error
from harness.data.template_forms import shape_of
from harness.data.training_set import DataPlan, mixed_rows, training_rows
from harness.errors import UserError
from harness.evaluation.suite import task_of
from harness.manager import Plugins, calling
from harness.types import Row

__all__ = ["check_suites", "check_training", "needs_template"]


def check_training(folder: Path, template: str | None, plan: DataPlan) -> None:
    """Raise DataError with file and line for a training row that the template cannot render.

    `folder` is the model's; `template` stands in for its own.
    """
    train, validation = training_rows(plan)
    validation_file = plan.validation if isinstance(plan.validation, str) else plan.source
    rows: dict[str, list[Row]] = {plan.source: list(train)}
    rows.setdefault(validation_file, []).extend(validation)
    if plan.mix:
        rows.setdefault(plan.mix.file, []).extend(mixed_rows(plan))
    conversations = (
        Conversation(file, row.line, row.messages, True, tools=row.tools)
        for file, listed in rows.items()
        for row in listed
        if row.messages
    )
    _check(folder, template, conversations, marked=plan.loss == "assistant")


def check_suites(
    folder: Path, template: str | None, suites: Sequence[Suite], plugins: Plugins
) -> None:
    """The same for what suites have the template write."""
    for suite in suites:
        _check(folder, template, _conversations(suite, plugins), marked=True)


def needs_template(suite: Suite, plugins: Plugins) -> bool:
    """Whether a suite cannot be run without a chat template."""
    return any(conversation.needs_template for conversation in _conversations(suite, plugins))


def _conversations(suite: Suite, plugins: Plugins) -> list[Conversation]:
    with calling(f"task '{suite.ask}'"):
        return list(task_of(suite, plugins).conversations(suite))


def _check(
    folder: Path, template: str | None, conversations: Iterable[Conversation], *, marked: bool
) -> None:
    first: Mapping[object, Conversation] = {
        (
            conversation.file,
            conversation.answered,
            shape_of(conversation.messages, conversation.tools),
        ): conversation
        for conversation in reversed(list(conversations))
    }
    if not first:
        return
    render = folder_renderer(folder, template)
    if render is None:
        return
    for conversation in sorted(first.values(), key=lambda c: (c.file, c.line or 0)):
        try:
            answered = marked and conversation.answered
            bound = functools.partial(render, tools=conversation.tools)
            check_conversation(bound, conversation.messages, marked=answered)
        except UserError as error:
            raise row_error(Path(conversation.file), conversation.line, str(error)) from None
        except Exception:  # what only transformers can render, it renders in the cell
            continue
