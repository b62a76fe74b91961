"""What a file may say of an OpenAI-compatible endpoint, whether its model judges or is measured."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from harness.config.strict_yaml import StrictModel
from harness.system.endpoint.client import url_fault
from harness.system.endpoint.spending import Budget, Price

__all__ = ["BaseUrl", "BudgetSettings", "KeyName", "PriceSettings"]


class BudgetSettings(StrictModel):
    """The most that one cell may spend on an endpoint."""

    requests: int | None = Field(default=None, ge=1)
    """Sent, those tried again included."""
    tokens: int | None = Field(default=None, ge=1)
    """Read and written."""
    dollars: float | None = Field(default=None, gt=0)
    """By `price`, which it needs."""

    def as_budget(self) -> Budget:
        """What the client takes."""
        return Budget(**self.model_dump())


class PriceSettings(StrictModel):
    """Dollars for a million tokens."""

    input: float = Field(ge=0)
    """Of what is read."""
    output: float = Field(ge=0)
    """Of what is written."""

    def as_price(self) -> Price:
        """What the client takes."""
        return Price(self.input, self.output)


def _base_url(url: str) -> str:
    if fault := url_fault(url):
        # What is wrong with it may be that it holds a password.
        raise ValueError(f"the endpoint's url {fault}")
    return url.rstrip("/")


def _key_name(name: str) -> str:
    """The value is not shown: it may be a key."""
    if not (name.isidentifier() and name.isascii() and name.isupper()):
        raise ValueError(
            "key takes the NAME of an environment variable, in capitals such as "
            "OPENAI_API_KEY, and never the key itself"
        )
    return name


BaseUrl = Annotated[str, AfterValidator(_base_url)]
"""The URL before `/chat/completions`, such as https://api.openai.com/v1."""
KeyName = Annotated[str, AfterValidator(_key_name)]
"""The name of the environment variable that holds a key."""
