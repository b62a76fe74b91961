"""Rows with tool calls, in the forms in which data sets have them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.data.checks import check_rows
from harness.data.overlap import overlaps, row_ngrams
from harness.data.rows import load_rows, load_samples, rows_hash
from harness.errors import DataError

USER = {"role": "user", "content": "How is the weather in Oslo?"}
FUNCTION = {"name": "weather", "arguments": {"city": "Oslo", "days": 3}}
CALL = {"type": "function", "function": FUNCTION}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": '{"sky": "rain"}'}
ANSWER = {"role": "assistant", "content": "It rains."}
DEFINITION = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TOOL = {"type": "function", "function": DEFINITION}


def jsonl(tmp_path, *rows):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def read(tmp_path, row, **settings):
    (one,) = load_rows(jsonl(tmp_path, row), **settings)
    return one


def test_openai_rows_with_arguments_as_text_and_null_content(tmp_path):
    call = {"id": "call_1", **CALL, "function": {**FUNCTION, "arguments": json.dumps(
        FUNCTION["arguments"])}}  # fmt: skip
    turns = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {**RESULT, "tool_call_id": "call_1"},
        {"role": "assistant", "content": [{"type": "text", "text": "It rains."}]},
    ]
    row = read(tmp_path, {"messages": turns, "tools": [TOOL]})
    own = {**CALLS, "tool_calls": [{"id": "call_1", **CALL}]}
    assert row.messages == (USER, own, {**RESULT, "tool_call_id": "call_1"}, ANSWER)
    assert row.tools == (TOOL,)
    assert row.extra == {}


def test_sharegpt_rows_with_tools_as_text(tmp_path):
    turns = [
        {"from": "human", "value": USER["content"]},
        {"from": "function_call", "value": json.dumps(FUNCTION)},
        {"from": "observation", "value": RESULT["content"]},
        {"from": "gpt", "value": "It rains."},
    ]
    row = read(tmp_path, {"conversations": turns, "tools": json.dumps([DEFINITION])})
    assert row.messages == (USER, CALLS, RESULT, ANSWER)
    assert row.tools == (TOOL,)


def test_the_older_form_of_openai(tmp_path):
    older = {**FUNCTION, "arguments": json.dumps(FUNCTION["arguments"])}
    turns = [
        USER,
        {"role": "assistant", "content": None, "function_call": older},
        {"role": "function", "name": "weather", "content": RESULT["content"]},
        ANSWER,
    ]
    row = read(tmp_path, {"messages": turns})
    assert row.messages == (USER, CALLS, {**RESULT, "name": "weather"}, ANSWER)


@pytest.mark.parametrize("form", [json.dumps, lambda calls: calls], ids=["text", "list"])
def test_prompt_and_calls_become_a_conversation(tmp_path, form):
    row = {"query": USER["content"], "answers": form([FUNCTION]), "tools": form([DEFINITION])}
    columns = {"prompt": "query", "completion": "answers"}
    read_row = read(tmp_path, row, columns=columns)
    assert read_row.messages == (USER, CALLS)
    assert read_row.tools == (TOOL,)
    said = read(tmp_path, {**row, "answers": "I cannot."}, columns=columns)
    assert said.messages == (USER, {"role": "assistant", "content": "I cannot."})


def test_parquet_gives_no_argument_that_another_row_has(tmp_path):
    price = {"type": "function", "function": {"name": "price", "arguments": {"item": "tent"}}}
    rows = [
        {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]}
        for call in (CALL, price)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    one, other = load_rows(tmp_path / "rows.parquet")
    assert one.messages == (USER, CALLS)
    assert other.messages[1]["tool_calls"] == [price]


def test_several_calls_and_their_results(tmp_path):
    turns = [USER, {**CALLS, "tool_calls": [CALL, CALL]}, RESULT, RESULT, ANSWER]
    assert read(tmp_path, {"messages": turns}).messages == tuple(turns)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [USER, {**CALLS, "tool_calls": ["x"]}]}, "tool call 1 must be an object"),
        ({"messages": [USER, {**CALLS, "tool_calls": [{"name": " "}]}]}, "names no function"),
        (
            {"messages": [USER, {**CALLS, "tool_calls": [{"name": "f", "arguments": "{"}]}]},
            "message 2 of 'messages': the arguments of 'f' is not JSON",
        ),
        (
            {"messages": [USER, {**CALLS, "tool_calls": [{"name": "f", "arguments": [1]}]}]},
            "the arguments of 'f' must be an object",
        ),
        ({"messages": [USER, {"from": "function_call", "value": "w()"}]}, "the call is not JSON"),
        ({"messages": [USER, {"from": "function_call", "value": "[]"}]}, "calls that is empty"),
        ({"messages": [USER, RESULT, ANSWER]}, "message 2 of 'messages' answers a tool call, and"),
        ({"messages": [USER, CALLS, RESULT, RESULT, ANSWER]}, "message 4 of 'messages' answers a"),
        ({"messages": [{**USER, "tool_calls": [CALL]}, ANSWER]}, "only the assistant can call"),
        ({"messages": [USER, CALLS, RESULT]}, "the last message is the tool's"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "has no content"),
        ({"messages": [USER, ANSWER], "tools": "[{"}, "'tools': the text is not JSON"),
        ({"messages": [USER, ANSWER], "tools": {"name": "f"}}, "'tools': must be a list"),
        ({"messages": [USER, ANSWER], "tools": [{"type": "function"}]}, "function 1 must be an ob"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
                          ANSWER]},
            'has a part of type "image_url": only parts',
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}, ANSWER]},
            'has a part of type "input_audio": only parts',
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line_with_its_place(tmp_path, row, message):
    file = jsonl(tmp_path, {"messages": [USER, ANSWER]}, row)
    with pytest.raises(DataError) as caught:
        load_rows(file)
    assert str(caught.value).startswith(f"{file}:2: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sample_has_its_calls_as_reference(tmp_path):
    rows = [
        {"messages": [USER, CALLS], "tools": [TOOL], "level": "easy"},
        {"messages": [USER, CALLS, RESULT, ANSWER], "tools": [TOOL]},
        {"messages": [USER, CALLS, RESULT], "reference": "It rains."},
    ]
    called, answered, asked = load_samples(jsonl(tmp_path, *rows))
    assert called.messages == (USER,)
    assert json.loads(called.reference) == [FUNCTION]
    assert (called.tools, called.extra) == ((TOOL,), {"level": "easy"})
    assert answered.messages == (USER, CALLS, RESULT)
    assert answered.reference == asked.reference == "It rains."
    assert asked.tools is None
    prompt = {"prompt": USER["content"], "tools": [TOOL], "reference": [FUNCTION]}
    (plain,) = load_samples(jsonl(tmp_path, prompt))
    assert json.loads(plain.reference) == [FUNCTION]
    assert plain.tools == (TOOL,)


def test_calls_and_tools_count_in_the_hash_and_nothing_else_does(tmp_path):
    def hash_of(row):
        return rows_hash([read(tmp_path, row)])

    plain = hash_of({"messages": [USER, ANSWER]})
    assert plain == hash_of({"messages": [USER, ANSWER], "tools": None})
    other = {**CALL, "function": {**FUNCTION, "arguments": {"city": "Rome"}}}
    told = [
        plain,
        hash_of({"messages": [USER, ANSWER], "tools": [TOOL]}),
        hash_of({"messages": [USER, CALLS]}),
        hash_of({"messages": [USER, {**CALLS, "tool_calls": [other]}]}),
    ]
    assert len({*told}) == 4


def test_rows_that_differ_by_their_calls_are_no_duplicates(tmp_path):
    arguments = [{"city": city} for city in ("Oslo", "Rome", "Oslo")]
    turns = [
        [USER, {**CALLS, "tool_calls": [{"name": "weather", "arguments": one}]}]
        for one in arguments
    ]
    rows = load_rows(jsonl(tmp_path, *({"messages": row} for row in turns)))
    (found,) = [finding for finding in check_rows(rows) if finding.name == "duplicates"]
    assert found.count == 1
    assert found.rows == ("3",)
    assert "empty_answers" not in {finding.name for finding in check_rows(rows)}


def test_a_call_of_the_test_data_in_training_is_an_overlap(tmp_path):
    words = " ".join(f"word{i}" for i in range(14))
    long = {**CALLS, "tool_calls": [{"name": "note", "arguments": {"text": words}}]}
    (row,) = load_rows(jsonl(tmp_path, {"messages": [USER, long]}))
    assert len(row_ngrams(row)) > 1
    asked = {"role": "user", "content": "Write this down, please."}
    samples = load_samples(jsonl(tmp_path, {"messages": [asked, long, RESULT, USER]}))
    assert [overlap.kind for overlap in overlaps([row], samples)] == ["13-gram"]
