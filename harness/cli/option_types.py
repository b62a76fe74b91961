"""Types of options that click has not."""

from __future__ import annotations

import math
from typing import Any

import click


class Finite(click.FloatRange):
    """A number in a range; `nan`, which is in every range by click's count, and `inf` are none."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Fails as click does, naming the option."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number
