"""How a set of rows is named in an experiment file, and the section `data.mix`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from harness.config import columns
from harness.config.strict_yaml import StrictModel

Text = Annotated[str, Field(min_length=1)]


class Rows(StrictModel):
    """How rows are read, wherever they come from."""

    columns: dict[str, str] | None = None
    """Our column name to the source's own."""
    format: Literal["auto", "messages", "prompt", "instruction", "text"] = "auto"
    """How rows are written; auto decides by the columns."""
    split: Text = "train"
    """Of a Hub data set."""
    config: str | None = None
    """Of a Hub data set."""
    sample: int | None = Field(default=None, ge=1)
    """So many rows of the source, drawn with a fixed seed: sources are often sorted."""

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        columns.check_columns(value or {})
        return value


class Mix(Rows):
    """General rows that are blended into the training data."""

    source: Text
    """A bundled name, a file, a Hub id, or a short name of one (dolly, alpaca)."""
    share: float = Field(gt=0, lt=1)
    """Of the rows that training draws, those that come from the mix."""
    name: Text | None = None
    """In labels; by default the source's last part."""

    @field_validator("name")
    @classmethod
    def _short(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError(f"invalid name {value!r}: use letters, digits, '.', '_' and '-'")
        return value
