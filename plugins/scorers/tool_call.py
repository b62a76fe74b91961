"""Scorers of tool calls: whether an answer calls what the reference calls."""

from collections.abc import Callable, Sequence
from typing import Any

from harness import Sample, Scorer, ToolCall, UserError, hookimpl, parse_tool_calls, scorer

_MARKS = ("{", "[", "<tool_call>", "<|python_tag|>")
"""What a reference begins with that should be calls."""


def _check_calls(samples: Sequence[Sample]) -> None:
    for sample in samples:
        reference = (sample.reference or "").strip()
        calls = parse_tool_calls(reference)
        if None in calls or (not calls and reference != "[]" and reference.startswith(_MARKS)):
            raise UserError(
                f"sample {sample.id}: the reference {reference[:60]!r} is no tool call: write "
                '[{"name": ..., "arguments": {...}}], or [] where nothing is to be called'
            )


@scorer("tool_call", kind="share", needs_reference=True, check=_check_calls, reference=True)
def tool_call(output: str, sample: Sample) -> float:
    """1 where the answer calls the reference's functions with the reference's arguments.

    Names are equal and arguments are equal as JSON: the order of keys and the form of a number
    (`5`, `5.0`) do not count, `"5"` is another value. Several calls may come in any order; one
    more, one less or one that cannot be read is wrong. Where the reference is a text or `[]`,
    nothing is to be called. How an answer may write its calls is in `harness.parse_tool_calls`.
    """
    made, wanted = _calls(output, sample)
    if len(made) != len(wanted) or None in made:
        return 0.0
    left = list(made)
    for call in wanted:
        if call not in left:
            return 0.0
        left.remove(call)
    return 1.0


@scorer(
    "tool_call_partial",
    needs_reference=True,
    check=_check_calls,
    reference=True,
    bounds=(0.0, 1.0),
)
def tool_call_partial(output: str, sample: Sample) -> float:
    """F1 of the names and arguments that the answer's calls share with the reference's, 0 to 1.

    A call is its name and each of its arguments; an argument counts where it stands in a call of
    the same name with an equal value. Calls are paired so that most is shared. A call that cannot
    be read counts as one part that is wrong. Where nothing is to be called, as `tool_call`.
    """
    made, wanted = _calls(output, sample)
    parts = sum(map(_parts, made)), sum(map(_parts, wanted))
    if not wanted or not made:
        return float(not wanted and not made)
    return 2 * _shared(made, wanted) / sum(parts)


def _calls(output: str, sample: Sample) -> tuple[list[ToolCall | None], list[ToolCall | None]]:
    """The answer's calls and the reference's."""
    return parse_tool_calls(output), parse_tool_calls(sample.reference or "")


def _parts(call: ToolCall | None) -> int:
    return 1 + len(call.arguments) if call else 1


def _shared(made: Sequence[ToolCall | None], wanted: Sequence[ToolCall | None]) -> int:
    """The parts that calls share, with each paired to at most one so that it is the most."""
    from scipy.optimize import linear_sum_assignment

    shared: list[list[int]] = [[_in_both(one, other) for other in wanted] for one in made]
    pairs = zip(*linear_sum_assignment(shared, maximize=True), strict=True)
    return sum(shared[i][j] for i, j in pairs)


def _in_both(one: ToolCall | None, other: ToolCall | None) -> int:
    if one is None or other is None or one.name != other.name:
        return 0
    return 1 + sum(_same(key, one, other) for key in one.arguments)


def _same(key: str, one: ToolCall, other: ToolCall) -> bool:
    values: list[Any] = [call.arguments.get(key) for call in (one, other)]
    return key in other.arguments and ToolCall("", {key: values[0]}) == ToolCall(
        "", {key: values[1]}
    )


@hookimpl
def register_scorers(register: Callable[[Scorer], None]) -> None:
    """tool_call, tool_call_partial."""
    for one in (tool_call, tool_call_partial):
        register(one)
