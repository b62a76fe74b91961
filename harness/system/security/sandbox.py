"""Jinja templates of strangers: in a sandbox, within a time limit, and without huge values.

Jinja's sandbox keeps a template from Python's internals and from long `range`s. It lets one loop
in another for ever, which the time limit ends, and compute what no time limit ends, for Python
heeds no signal within one operation: `9**(9**9)`, `'a' * 10**12`.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from harness.system.security.time_limit import TEMPLATE_SECONDS, time_limit

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

__all__ = ["LARGEST", "limited"]

LARGEST = 1_000_000
"""Characters, items or bits of a value that one operation of a template may make."""
_PADDING = ("center", "ljust", "rjust", "zfill", "expandtabs")
_WIDTH = re.compile(
    r"%[-+ #0]*(?:\*|\d{6,})|%[^%]{0,20}\.(?:\*|\d{6,})|\{[^{}]*:[^{}]*(?:\d{6,}|\{)"
)
"""In a text that formats: a width of six digits, or one that an argument tells."""


@cache
def limited(kind: type[SandboxedEnvironment], what: str) -> type[SandboxedEnvironment]:
    """A kind of sandbox whose templates render within TEMPLATE_SECONDS and make no huge value.

    `what` begins the sentence of the time limit's error. Templates raise SecurityError, a
    TemplateError, for a value beyond LARGEST.
    """
    from jinja2 import Template

    class Limited(Template):
        """Renders within the time limit."""

        def render(self, *args: Any, **kwargs: Any) -> str:
            with time_limit(TEMPLATE_SECONDS, what):
                return super().render(*args, **kwargs)

    class Environment(kind):  # type: ignore[misc, valid-type]
        """Checks operations that make values larger than their operands."""

        template_class = Limited
        intercepted_binops: ClassVar[frozenset[str]] = frozenset({"*", "**", "%"})

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            for name in ("center", "indent", "format"):
                self.filters[name] = _checked(self.filters[name], name)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _check(_size(operator, left, right))
            return super().call_binop(context, operator, left, right)

        # named as jinja2's own: a template's keywords may be called anything
        def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
            method = getattr(__obj, "__wrapped__", __obj)
            text, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
            if isinstance(text, str):
                _check_method(text, name, args)
            return super().call(__context, __obj, *args, **kwargs)

    return Environment


def _check(size: float) -> None:
    from jinja2.exceptions import SecurityError

    if size > LARGEST:
        raise SecurityError(f"a value larger than {LARGEST} characters, items or bits")


def _check_method(text: str, name: str, args: Sequence[Any]) -> None:
    """A method of a text: what it pads to, or the widths that it formats with."""
    if name in _PADDING:
        _check(_largest(args))
    elif name in ("format", "format_map") and _WIDTH.search(text):
        _check(math.inf)


def _checked(function: Any, name: str) -> Any:
    """A filter that pads to its argument, or whose value is a format."""

    @functools.wraps(function)
    def filtered(value: Any, *args: Any, **kwargs: Any) -> Any:
        if name == "format" and _WIDTH.search(str(value)):
            _check(math.inf)
        if name != "format":
            _check(_largest([*args, *kwargs.values()]))
        return function(value, *args, **kwargs)

    return filtered


def _largest(values: Iterable[Any]) -> int:
    return max((value for value in values if isinstance(value, int)), default=0)


def _size(operator: str, left: Any, right: Any) -> float:
    """About how large the value of an operation is: characters, items or bits."""
    if operator == "%":
        return math.inf if isinstance(left, str) and _WIDTH.search(left) else 0
    if operator == "**":
        whole = isinstance(left, int) and isinstance(right, int)
        return abs(left).bit_length() * abs(right) if whole else 0
    for many, times in ((left, right), (right, left)):
        if hasattr(many, "__len__") and isinstance(times, int):
            return len(many) * times
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() + right.bit_length()
    return 0
