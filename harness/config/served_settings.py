"""What a file says of a model behind a server."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from harness.config.endpoint_settings import BaseUrl, BudgetSettings, KeyName, PriceSettings
from harness.config.strict_yaml import StrictModel

__all__ = ["ServedSettings"]


class ServedSettings(StrictModel):
    """A model behind an OpenAI-compatible server, or in a GGUF file that llama.cpp serves."""

    served: BaseUrl | None = None
    """The server's base URL, such as http://127.0.0.1:8000/v1."""
    gguf: str | None = Field(default=None, min_length=1)
    """In its place a GGUF file: llama.cpp is started with it on this machine, and stopped."""
    model: str | None = Field(default=None, min_length=1)
    """As the server lists it; may be left out where it lists one."""
    form: Literal["chat", "completions"] = "chat"
    """`chat`: the server renders conversations with its own template, as its users have it.
    `completions`: prompts are rendered here and sent as they are."""
    tokenizer: str | None = Field(default=None, min_length=1)
    """For `completions`: the model (alias, folder or Hub id) whose tokenizer and chat template make
    the prompts' token ids, so that figures compare with those of that model in this process."""
    prompt_logprobs: bool = False
    """Whether the server gives log-probabilities of prompts (`echo`, as vLLM does): perplexity and
    multiple choice are then asked as in this process. Needs `tokenizer`."""
    key: KeyName | None = None
    """NAME of the environment variable with the key; none where the server asks for none."""
    in_flight: int | None = Field(None, ge=1, le=1000)
    """Requests under way at once; by default 16, and 4 for `gguf`, whose slots they are."""
    context: int = Field(4096, ge=8)
    """For `gguf`: tokens of a prompt and its answer together, of each slot."""
    timeout: float = Field(600.0, gt=0)
    """Seconds for one answer."""
    budget: BudgetSettings = BudgetSettings()
    """The most that one cell may spend."""
    price: PriceSettings | None = None
    """Without it no cost in dollars is known."""

    @model_validator(mode="after")
    def _goes_together(self) -> ServedSettings:
        if (self.served is None) == (self.gguf is None):
            raise ValueError("give `served: URL` or `gguf: FILE`, and not both")
        if self.tokenizer is not None and self.form == "chat":
            raise ValueError(
                "tokenizer is for `form: completions`; in `chat` the server has its own"
            )
        if self.prompt_logprobs and self.tokenizer is None:
            raise ValueError(
                "prompt_logprobs needs `form: completions` and `tokenizer: MODEL`, whose token ids "
                "are scored"
            )
        if self.budget.dollars is not None and self.price is None:
            raise ValueError("a budget in dollars needs `price: {input: ..., output: ...}`")
        return self

    @property
    def identity(self) -> dict[str, object]:
        """What an answer depends on, but for the tokenizer's files and those of a GGUF."""
        return self.model_dump(
            mode="json", include={"served", "model", "form", "tokenizer", "prompt_logprobs"}
        )

    @property
    def at_once(self) -> int:
        """Requests under way at once."""
        return self.in_flight or (16 if self.gguf is None else 4)

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return self.served or Path(str(self.gguf)).name
