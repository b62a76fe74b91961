"""Scorers of answers with a form: a final number, JSON, what a pattern finds."""

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal

from harness import Sample, Scorer, UserError, hookimpl, scorer, time_limit

MATCH_SECONDS = 5
"""For one answer: a pattern such as `(a+)+b` needs twice as long for each character more."""

_NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)\]])[-−])?"  # a sign, not the dash of 3-5
    r"(?:[$€£¥]\s?)?"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+)"
)


@scorer("final_number", kind="share", needs_reference=True)
def final_number(output: str, sample: Sample) -> float | None:
    """1 where the last number of the answer equals that of the reference (as for GSM8K).

    In a reference with `####` the number after it counts. Commas between thousands, currency
    signs, `%` and a full stop after the number do not count; 3.50 equals 3.5. None where the
    reference holds no number.
    """
    wanted = _last_number((sample.reference or "").rpartition("####")[2])
    return None if wanted is None else float(_last_number(output) == wanted)


def _last_number(text: str) -> Decimal | None:
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    value = Decimal(numbers[-1]["digits"].replace(",", ""))
    return -value if numbers[-1]["sign"] else value


@scorer("json_valid", kind="share", version=2)
def json_valid(output: str, sample: Sample, *, keys: list[str] | None = None) -> float:
    """1 where the answer, or the one fenced code block in it, is valid JSON (RFC 8259).

    A fence may stand on one line with the JSON, and lines may end in CR LF. With `keys` it must be
    an object that has them all.
    """
    valid, value = _parsed(output)
    if valid and keys:
        valid = isinstance(value, dict) and set(keys) <= set(value)
    return float(valid)


_FENCED = re.compile(
    r"^[ \t]*```(?:json\b)?[ \t]*(?:\n(.*?)^[ \t]*```|([^\n`][^\n]*?)```[ \t]*$)",
    re.S | re.M | re.I,
)
"""A fenced block of lines, or on one line."""


def _parsed(text: str) -> tuple[bool, object]:
    blocks = _FENCED.findall(text.replace("\r\n", "\n"))
    for candidate in [text, *("".join(block) for block in blocks if len(blocks) == 1)]:
        try:
            return True, json.loads(candidate, parse_constant=_refuse)
        except (ValueError, RecursionError):
            continue
    return False, None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _check_pattern(samples: Sequence[Sample], *, pattern: str) -> None:
    if not pattern:
        raise UserError("the pattern is empty, so every answer would match")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"the pattern {pattern!r} is no regular expression: {error}") from None


@scorer("regex", kind="share", check=_check_pattern)
def regex(output: str, sample: Sample, *, pattern: str) -> float:
    """1 where Python's regular expression `pattern` is found in the answer.

    Where the pattern has a group and the row a reference, the first group of the first match
    must also equal the reference, but for case and white space. `(?:...)` is no group; `(?i)`
    at the start ignores case.
    """
    with time_limit(MATCH_SECONDS, f"the pattern {pattern!r}, on the answer to {sample.id},"):
        match = re.search(pattern, output)
    if match is None:
        return 0.0
    if not match.re.groups or not (sample.reference or "").strip():
        return 1.0
    return float(_plain(match[1] or "") == _plain(sample.reference or ""))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


@hookimpl
def register_scorers(register: Callable[[Scorer], None]) -> None:
    """final_number, json_valid, regex."""
    for one in (final_number, json_valid, regex):
        register(one)
