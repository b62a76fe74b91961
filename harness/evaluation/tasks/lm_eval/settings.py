"""What a suite with `ask: lm-eval` may say."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from harness.api.task import Suite, SuiteSettings
from harness.config.reasoning import Reasoning


class LmEvalSettings(SuiteSettings):
    """A suite with `ask: lm-eval`."""

    tasks: list[str] = Field(default_factory=list)
    """Names of tasks, tags or groups."""
    include_path: str | None = None
    """A folder of task files, beside the YAML."""
    limits: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """`limit` for single tasks, or for each task of a group."""
    trust_task_code: bool = False
    """Whether the task files in `include_path` may run Python (`!function`, scripts as metrics)."""
    run_unsafe_code: bool = False
    """Whether tasks may run code that the model writes, as HumanEval and MBPP do: on this machine,
    with your rights."""
    num_fewshot: int | None = Field(None, ge=0)
    """Examples before each question; by default the task's own number."""
    fixed_shots: bool = False
    """The first shots for every question, as MMLU has them; else the task's own way, which for
    most tasks draws others for each question."""
    apply_chat_template: bool | None = None
    """Whether a prompt that is plain text becomes a user's turn; by default not."""
    reasoning: Reasoning | None = None
    """What ends a thinking model's reasoning in answers that tasks have it write; a task's stop
    strings then count in what follows. No experiment sets it for the suite."""
    max_gen_toks: int | None = Field(None, ge=1, le=1_000_000)
    """Tokens after which such an answer is cut, in place of the tasks' own."""

    def capped(self, limit: int) -> LmEvalSettings:
        """These settings with no more samples of any task than `limit`."""
        update: dict[str, object] = {"limit": min(limit, self.limit or limit)}
        if self.limits:  # a copy counts what is updated as set
            update["limits"] = {task: min(limit, own) for task, own in self.limits.items()}
        return self.model_copy(update=update)


def settings_of(suite: Suite) -> LmEvalSettings:
    """The suite's settings, typed."""
    return LmEvalSettings.model_validate(suite.settings)
