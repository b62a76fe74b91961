"""What the scorers of tool calls say of answers in the forms in which models write calls."""

import json

import pytest

from harness import Sample, ToolCall, UserError, parse_tool_calls
from harness.evaluation.tasks import negative_control
from harness.manager import Plugins
from harness.types import Output

PLUGINS = Plugins(discover=False)
WEATHER = {"name": "weather", "arguments": {"city": "Oslo", "days": 3}}
PRICE = {"name": "price", "arguments": {"item": "tent"}}
REFERENCE = json.dumps([WEATHER])


def rate(name, answers, references):
    samples = [Sample(str(i), prompt="?", reference=text) for i, text in enumerate(references)]
    outputs = [Output(str(i), text, 1, False) for i, text in enumerate(answers)]
    return list(PLUGINS.scorers.get(name).rate(outputs, samples, None))


def both(answer, reference=REFERENCE):
    return [rate(name, [answer], [reference])[0] for name in ("tool_call", "tool_call_partial")]


FORMS = {
    "hermes": '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo", "days": 3}}\n'
    "</tool_call>",
    "words before": 'Let me see.\n<tool_call>{"name": "weather", "arguments": '
    '{"days": 3, "city": "Oslo"}}</tool_call><|im_end|>',
    "cut end tag": '<tool_call>{"name": "weather", "arguments": {"city": "Oslo", "days": 3}}',
    "llama": '{"name": "weather", "parameters": {"city": "Oslo", "days": 3.0}}',
    "llama tag": '<|python_tag|>{"name": "weather", "parameters": {"city": "Oslo", "days": 3}}'
    "<|eom_id|>",
    "mistral": '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo", "days": 3}, '
    '"id": "123456789"}]</s>',
    "mistral, newer": '[TOOL_CALLS]weather[ARGS]{"city": "Oslo", "days": 3}',
    "mistral, without special tokens": 'weather{"city": "Oslo", "days": 3}',
    "fence": '```json\n{"name": "weather", "arguments": {"city": "Oslo", "days": 3e0}}\n```',
    "fence with words": 'I call:\n```\n[{"name": "weather", "arguments": {"days": 3, '
    '"city": "Oslo"}}]\n```\nThen I see.',
    "list": '[{"name": "weather", "arguments": {"city": "Oslo", "days": 3}}]',
    "openai": '{"type": "function", "function": {"name": "weather", '
    '"arguments": "{\\"city\\": \\"Oslo\\", \\"days\\": 3}"}}',
    "escapes": '{"name": "weather", "arguments": {"city": "\\u004fslo", "days": 3}}',
}


@pytest.mark.parametrize("form", FORMS)
def test_a_call_counts_in_every_form(form):
    assert both(FORMS[form]) == [1, 1]
    assert both(FORMS[form], json.dumps([PRICE])) == [0, 0]  # another function


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "It is sunny.",
        "{",
        '{"city": "Oslo", "days": 3}',
        '{"name": "weather"}',  # an object with a name is no call
        '<tool_call>{"name": "weather", "arguments": {"city": "Os',
        "<tool_call>",
        "<tool_call></tool_call>",
        "[TOOL_CALLS]",
        "[TOOL_CALLS] weather",
        "<|python_tag|>weather.call(city='Oslo')",
        '{"name": "weather", "arguments": "city=Oslo"}',
        '{"name": "weather", "arguments": [3]}',
        '{"name": 3, "arguments": {}}',
        "[[[[", "[" * 100_000, '{"a":' * 100_000,
        '{"name": "weather", "arguments": {"days": 1e999999999999999999999}}',
        "null",
        "weather{",
        'weather("Oslo")',
        'Say {"name": "weather", "arguments": {"city": "Oslo", "days": 3}} aloud.',
    ],
)  # fmt: skip
def test_what_is_no_call_is_zero_and_no_fault(answer):
    assert both(answer) == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "equal"),
    [
        ('{"days": 3, "city": "Oslo"}', True),
        ('{"days": 3.00, "city": "Oslo"}', True),
        ('{"days": 0.3e1, "city": "Oslo"}', True),
        ('{"days": "3", "city": "Oslo"}', False),
        ('{"days": 3.0000000000000000001, "city": "Oslo"}', False),  # numbers are not rounded
        ('{"days": 3, "city": "oslo"}', False),
        ('{"days": 3, "city": "Oslo", "hour": null}', False),
        ('{"city": "Oslo"}', False),
    ],
)
def test_arguments_are_equal_as_json(arguments, equal):
    answer = f'<tool_call>{{"name": "weather", "arguments": {arguments}}}</tool_call>'
    assert rate("tool_call", [answer], [REFERENCE]) == [equal]


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": True}, {"a": 1}, False),
        ({"a": None}, {"a": False}, False),
        ({"a": None}, {"a": None}, True),
        ({"a": [1, {"b": 2, "c": 3}]}, {"a": [1.0, {"c": 3, "b": 2}]}, True),
        ({"a": [1, 2]}, {"a": [2, 1]}, False),  # lists have an order
        ({"a": {}}, {"a": []}, False),
    ],
)
def test_values_keep_their_kind(one, other, equal):
    assert (ToolCall("f", one) == ToolCall("f", other)) is equal
    assert ToolCall("f", one) != ToolCall("g", one)


def test_several_calls_in_any_order():
    two = json.dumps([WEATHER, PRICE])
    calls = [f"<tool_call>{json.dumps(call)}</tool_call>" for call in (PRICE, WEATHER)]
    assert both("\n".join(calls), two) == [1, 1]
    assert both("; ".join(json.dumps(call) for call in (WEATHER, PRICE)), two) == [1, 1]
    # 3 parts (name, city, days) of 3 + 5 are shared twice over
    assert both(calls[1], two) == [0, pytest.approx(2 * 3 / (3 + 5))]
    assert both("\n".join(calls)) == [0, pytest.approx(2 * 3 / (5 + 3))]  # one too many
    assert both(calls[0] * 2, json.dumps([PRICE, PRICE])) == [1, 1]
    assert both(calls[0] * 2, json.dumps([PRICE])) == [0, pytest.approx(2 * 2 / (4 + 2))]
    assert both(calls[1] + "<tool_call>{", REFERENCE) == [0, pytest.approx(2 * 3 / (4 + 3))]


def test_partial_credit_is_for_names_and_for_each_argument():
    answer = json.dumps({"name": "weather", "arguments": {"city": "Rome", "days": 3}})
    assert both(answer) == [0, pytest.approx(2 * 2 / 6)]
    answer = json.dumps({"name": "weather", "arguments": {}})
    assert both(answer) == [0, pytest.approx(2 * 1 / 4)]
    # paired so that most is shared: the first answer belongs to the second reference
    wanted = [{"name": "f", "arguments": {"a": 1, "b": 1}}, {"name": "f", "arguments": {"a": 2}}]
    made = [{"name": "f", "arguments": {"a": 2}}, {"name": "f", "arguments": {"a": 1, "b": 1}}]
    assert both(json.dumps(made), json.dumps(wanted)) == [1, 1]


def test_where_nothing_is_to_be_called_a_call_is_wrong():
    for reference in ("[]", "I cannot do that."):
        assert both("I am not able to.", reference) == [1, 1]
        assert both(FORMS["hermes"], reference) == [0, 0]
        assert both("<tool_call>{", reference) == [0, 0]


@pytest.mark.parametrize(
    "reference",
    ['{"name": "weather"}', "[1]", '[{"name": "w", "arguments": ', "<tool_call>x", "{}"],
)
def test_a_reference_that_is_broken_is_refused(reference):
    for name in ("tool_call", "tool_call_partial"):
        check = PLUGINS.scorers.get(name).check
        with pytest.raises(UserError, match=r"sample a: the reference .* is no tool call: write"):
            check([Sample("a", prompt="?", reference=reference)])
        check([Sample("a", prompt="?", reference=text) for text in (REFERENCE, "[]", "No.")])


def test_against_the_references_of_others_an_answer_scores_nothing():
    wanted = [json.dumps([{"name": "f", "arguments": {"a": i}}]) for i in range(10)]
    samples = [Sample(str(i), prompt="?", reference=text) for i, text in enumerate(wanted)]
    outputs = [Output(sample.id, sample.reference, 1, False) for sample in samples]
    others = negative_control.others(samples)
    scorer = PLUGINS.scorers.get("tool_call")
    assert scorer.controlled
    assert negative_control.means(scorer, outputs, others, None, {}) == [0.0] * 10


def test_names_of_calls_are_read_in_their_order():
    text = '[TOOL_CALLS]a[ARGS]{"x": 1}[TOOL_CALLS]b[CALL_ID]k3[ARGS]{}'
    assert [(call.name, dict(call.arguments)) for call in parse_tool_calls(text)] == [
        ("a", {"x": 1}),
        ("b", {}),
    ]
