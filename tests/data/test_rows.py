from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.data.rows import load_rows, load_samples, rows_hash, split_rows, training_order
from harness.data.sources import resolve
from harness.errors import DataError
from harness.types import Row

USER = {"role": "user", "content": "Where is it?"}
ANSWER = {"role": "assistant", "content": "There."}
SYSTEM = {"role": "system", "content": "Be brief."}
GOOD_ROW = {"messages": [USER, ANSWER]}


def jsonl(tmp_path: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def turn(role: Any, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def said(read: Callable[[Path], object], source: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Training rows


def test_messages_keep_line_id_and_other_columns(tmp_path: Path) -> None:
    one = {"messages": [SYSTEM, USER, ANSWER], "facts": ["a"]}
    source = jsonl(tmp_path, one, "", {"messages": [USER, ANSWER], "id": 7})
    first, second = load_rows(source)
    assert first.messages == (SYSTEM, USER, ANSWER)
    assert (first.id, first.line, first.extra) == ("1", 1, {"facts": ["a"]})
    assert (second.id, second.line, second.extra) == ("7", 3, {})


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"instruction": "Q", "input": "", "output": "A"},
        {"instruction": "Q", "context": "", "response": "A"},
        {"prompt": [turn("user", "Q")], "completion": "A"},
        {"prompt": [turn("user", "Q")], "completion": [turn("assistant", "A")]},
    ],
)
def test_conversations_in_any_dress_become_messages(tmp_path: Path, row: Any) -> None:
    (loaded,) = load_rows(jsonl(tmp_path, row))
    assert loaded.messages == (turn("user", "Q"), turn("assistant", "A"))
    assert loaded.extra == {}


def test_an_instruction_takes_its_input_along(tmp_path: Path) -> None:
    (row,) = load_rows(jsonl(tmp_path, {"instruction": "Sum", "input": "1 2", "output": "3"}))
    assert row.messages is not None
    assert row.messages[0]["content"] == "Sum\n\n1 2"


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("prompt", "completion"), ("question", "answer"), ("prompt", "response")],
)
def test_prompt_and_completion(tmp_path: Path, prompt: str, completion: str) -> None:
    (row,) = load_rows(jsonl(tmp_path, {prompt: " [Q ", completion: " A"}))
    assert (row.prompt, row.completion, row.messages, row.extra) == (" [Q ", " A", None, {})


def test_text_rows_keep_their_spaces_and_lose_blank_ones(tmp_path: Path) -> None:
    (row,) = load_rows(jsonl(tmp_path, {"text": ""}, {"text": " = Title = \n"}, {"text": "  "}))
    assert (row.text, row.line) == (" = Title = \n", 2)


def test_columns_and_format_choose_what_is_read(tmp_path: Path) -> None:
    source = jsonl(tmp_path, {"text": "T", "q": "Q", "a": "A", "prompt": "other"})
    (row,) = load_rows(source, columns={"prompt": "q", "completion": "a"})
    assert (row.prompt, row.completion) == ("Q", "A")
    assert row.extra == {"text": "T", "prompt": "other"}
    assert load_rows(source, format="text")[0].text == "T"
    with pytest.raises(DataError, match=r"no column 'aa', which .* maps to 'completion'.*'a'"):
        load_rows(source, columns={"completion": "aa"})
    with pytest.raises(DataError, match="unknown column 'promt': did you mean 'prompt'"):
        load_rows(source, columns={"promt": "q"})
    with pytest.raises(DataError, match="unknown format 'txt': did you mean 'text'"):
        load_rows(source, format="txt")


def test_all_file_kinds_give_the_same_rows(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"id": "a", "prompt": 'Say "x",\nplease', "completion": "x"}]
    rows.append({"id": "b", "prompt": "Ü\u2028 2", "completion": "y"})
    (tmp_path / "list.json").write_text(json.dumps(rows))
    (tmp_path / "data.json").write_text(json.dumps({"data": rows}))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    pq.write_table(pa.Table.from_pylist([GOOD_ROW]), tmp_path / "talk.parquet")
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8-sig") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    raw = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "rows.jsonl").write_text(raw, encoding="utf-8")
    expected = [(row["id"], row["prompt"], row["completion"]) for row in rows]
    hashes = set()
    for name in ("rows.jsonl", "list.json", "data.json", "rows.csv", "rows.parquet"):
        loaded = load_rows(tmp_path / name)
        assert [(row.id, row.prompt, row.completion) for row in loaded] == expected, name
        hashes.add(rows_hash(loaded))
    assert len(hashes) == 1
    assert load_rows(tmp_path / "talk.parquet")[0].messages == (USER, ANSWER)
    assert [row.line for row in load_rows(tmp_path / "rows.csv")] == [2, 4]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"messages": ', "not JSON"),
        ("[1]", "must be an object with columns, got a list"),
        ({"prompt": "Q"}, "no value for 'messages or conversations' (columns there: prompt)"),
        ({"messages": []}, "'messages' must be a list of messages, got a list, empty"),
        ({"messages": 3}, "'messages' must be a list of messages, got 3"),
        ({"messages": ["x"]}, "message 1 of 'messages' must be an object with role and content"),
        ({"messages": [{"role": "user"}]}, "message 1 of 'messages' has no content (there: role)"),
        ({"messages": [USER, turn("bot", "x")]}, "unknown role 'bot' (known: system, user, assis"),
        ({"messages": [USER, turn(3, "x")]}, "unknown role 3"),
        ({"messages": [USER, turn("assistant", " ")]}, "content of message 2 of 'messages' is emp"),
        ({"messages": [USER, turn("assistant", 3)]}, "must be text, got 3"),
        ({"messages": [USER, SYSTEM, ANSWER]}, "message 2 of 'messages' is a system message"),
        ({"messages": [USER]}, "the last message is the user's"),
        ({"messages": [ANSWER]}, "the assistant's answer is the only message: put a"),
        ({"messages": [USER, {**ANSWER, "tool_calls": [{}]}]}, "tool call 1 names no"),
        ({"messages": [USER, ANSWER], "id": 1.5}, "'id' must be text or a whole number, got 1.5"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(tmp_path: Path, row: Any, message: str) -> None:
    source = jsonl(tmp_path, GOOD_ROW, "", row)
    error = said(load_rows, source)
    assert error.startswith(f"{source}:3: ")
    assert message in error


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.jsonl", "", "the file has no rows"),
        ("rows.jsonl", '{"text": " "}', "every text is blank"),
        ("rows.jsonl", '{"foo": 1}', ":1: no known columns (there: foo): expected messages"),
        ("rows.txt", "x", "cannot read '.txt': .jsonl, .json, .csv, .parquet are read"),
        ("rows.json", '{"rows": []}', 'expected a list of objects or {"data": [...]}'),
        ("rows.json", '[{"text": "a"},\n{"text" "b"}]', ":2: not JSON"),
        ("rows.json", '[{"text": "a"}, 3]', ": row 2: must be an object"),
        ("rows.csv", "prompt,completion\na,b\n\nc\n", ":4: 1 cells where the header has 2"),
        ("rows.csv", "prompt,prompt\na,b\n", ":1: duplicate column 'prompt' in the header: rename"),
        ("rows.csv", "prompt,completion\na,\n", ":2: no value for 'completion or"),
        ("rows.csv", 'prompt,completion\na,"b\n', ":2: broken CSV"),
        ("rows.parquet", "PAR1 not", "not a readable parquet file"),
    ],
)
def test_wrong_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    source = tmp_path / name
    source.write_text(text)
    error = said(load_rows, source)
    assert error.startswith(str(source))
    assert message in error


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    jsonl(tmp_path, GOOD_ROW, name="support-train.jsonl")
    with pytest.raises(DataError, match=r"no such file: did you mean 'support-train.jsonl'"):
        load_rows(tmp_path / "support_train.jsonl")
    with pytest.raises(DataError, match="a folder, not a file"):
        load_rows(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    with pytest.raises(DataError, match="not UTF-8"):
        load_rows(tmp_path / "latin.jsonl")


# Samples


def test_a_last_assistant_message_is_the_reference(tmp_path: Path) -> None:
    source = jsonl(
        tmp_path,
        {"messages": [SYSTEM, USER, ANSWER], "must_contain": ["There"], "topic": "places"},
        {"messages": [USER], "reference": "Here."},
        {"messages": [USER], "id": "x"},
        name="test.jsonl",
    )
    first, second, third = load_samples(source)
    assert first.messages == (SYSTEM, USER)
    assert (first.reference, first.group, first.id) == ("There.", "places", "test-1")
    assert first.extra == {"must_contain": ["There"]}
    assert first.question == "Where is it?"
    assert (second.reference, third.reference, third.id) == ("Here.", None, "x")


def test_prompts_with_and_without_reference(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"question": "1+1?", "answer": "2"}]
    rows += [{"prompt": "Say x", "reference": "x"}, {"prompt": "Tell me"}]
    rows += [{"prompt": [SYSTEM, USER], "completion": "There."}]
    source = jsonl(tmp_path, *rows)
    samples = load_samples(source)
    assert [s.prompt for s in samples] == ["1+1?", "Say x", "Tell me", None]
    assert [s.reference for s in samples] == ["2", "x", None, "There."]
    assert samples[3].messages == (SYSTEM, USER)


def test_text_and_instruction_samples(tmp_path: Path) -> None:
    (text,) = load_samples(jsonl(tmp_path, {"text": ""}, {"text": "Once."}))
    assert (text.prompt, text.messages, text.reference, text.id) == (None, None, "Once.", "rows-2")
    row = {"instruction": "Sum", "input": "1 2", "output": "3"}
    (asked,) = load_samples(jsonl(tmp_path, row))
    assert asked.messages == ({"role": "user", "content": "Sum\n\n1 2"},)
    assert (asked.reference, asked.extra) == ("3", {})


ARC = {"text": ["radar", "sonar"], "label": ["1", "2"]}


@pytest.mark.parametrize(
    ("choices", "key", "answer", "index"),
    [
        (["4", "8", "12"], "answer", 0, 0),
        (["a", "b", "c"], "answer", "C", 2),
        (["a", "b", "c"], "answer", "b", 1),
        (["a", "b", "c"], "answer", "2", 2),
        (ARC, "answerKey", "2", 1),
        (json.dumps(["x", "y"]), "answer", "B", 1),
    ],
)
def test_multiple_choice(tmp_path: Path, choices: Any, key: str, answer: Any, index: int) -> None:
    row = {"question": "Which?", "subject": "s", "choices": choices, key: answer}
    (sample,) = load_samples(jsonl(tmp_path, row))
    assert sample.answer == index
    assert sample.choices is not None
    assert sample.reference == sample.choices[index]
    assert (sample.prompt, sample.group, sample.extra) == ("Which?", "s", {})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["a", "b"], "answer": 2}, "'answer' 2 is none of the 2 choices"),
        ({"choices": ["a", "b"], "answer": True}, "'answer' true is none of the 2 choices"),
        ({"choices": ["a", "b"]}, "no value for 'answer or answerKey'"),
        ({"choices": ["B", "A"], "answer": "A"}, "could mean several of the 2 choices"),
        ({"choices": ["3", "1", "2"], "answer": "1x"}, "is none of the 3 choices"),
        ({"choices": ["a"], "answer": 0}, "must be a list of two or more texts"),
        ({"choices": ["a", ""], "answer": 0}, "each of 'choices' must be a text, got \"\""),
        ({"choices": ARC, "answerKey": "3"}, "(labels: 1, 2)"),
        ({"choices": {"text": ["a"]}, "answer": 0}, "needs a `text` and a `label` list"),
    ],
)
def test_wrong_choices(tmp_path: Path, row: Any, message: str) -> None:
    source = jsonl(tmp_path, {"question": "Which?", **row})
    error = said(load_samples, source)
    assert error.startswith(f"{source}:1: ")
    assert message in error


PAIR = {"prompt": "Q", "completion": "A", "id": "1"}
ASK = {"messages": [USER], "id": "one"}


@pytest.mark.parametrize(
    ("first", "change", "message"),
    [
        (PAIR, {"completion": ""}, "'completion' is empty"),
        (PAIR, {"completion": 3}, "'completion' must be text, got 3"),
        (PAIR, {"completion": None}, "no value for 'completion or response or answer'"),
        (PAIR, {"prompt": [USER, ANSWER], "completion": [USER]}, "the last message is the user's"),
        (PAIR, {"id": "1"}, "duplicate id '1': first in line 1"),
        (ASK, {"messages": [SYSTEM]}, "a sample needs a user message"),
        (ASK, {"messages": [ANSWER]}, "a sample needs a user message"),
        (ASK, {"reference": " "}, "'reference' is empty"),
        (ASK, {"topic": [1]}, "'topic' must be text, got a list"),
        (ASK, {"id": "one"}, "duplicate id 'one': first in line 1"),
    ],
)
def test_a_wrong_second_row(tmp_path: Path, first: Any, change: Any, message: str) -> None:
    source = jsonl(tmp_path, first, {**first, "id": "2", **change})
    assert f"{source}:2: {message}" in said(load_rows if first is PAIR else load_samples, source)


# Where data lies


def test_resolve_prefers_bundled_names_then_files(tmp_path: Path) -> None:
    bundled = {"support": tmp_path / "in" / "the" / "package.jsonl"}
    own = jsonl(tmp_path, GOOD_ROW, name="mine.jsonl")
    jsonl(tmp_path, GOOD_ROW, name="support")
    assert resolve("support", base=tmp_path, bundled=bundled) == bundled["support"]
    assert resolve("mine.jsonl", base=tmp_path, bundled=bundled) == own
    assert resolve(str(own), base=Path("/nowhere"), bundled=bundled) == own
    with pytest.raises(DataError, match=r"no data 'suport': .*did you mean 'support'"):
        resolve("suport", base=tmp_path, bundled=bundled)
    with pytest.raises(DataError, match=r"no such file: did you mean 'mine.jsonl'"):
        resolve("mien.jsonl", base=tmp_path, bundled=bundled)


MIRROR = """
cais/mmlu/anatomy/test.jsonl cais/mmlu/law/test.jsonl openai/gsm8k/main/train.jsonl
flat/set/train-00000-of-00001.parquet data/set/data/train-00000-of-00001.parquet
org/both/default/test.jsonl org/both/extra/test.jsonl
many/shards/train-00000-of-00002.jsonl many/shards/train-00001-of-00002.jsonl
"""


def test_resolve_in_a_mirror(tmp_path: Path) -> None:
    mirror = tmp_path / "hub"
    for name in MIRROR.split():
        jsonl(mirror, GOOD_ROW, name=name)

    def find(name: str, split: str = "train", config: str | None = None) -> str:
        path = resolve(name, base=tmp_path, bundled={}, mirror=mirror, split=split, config=config)
        return path.relative_to(mirror).as_posix()

    assert find("openai/gsm8k") == "openai/gsm8k/main/train.jsonl"
    assert find("cais/mmlu", "test", "law") == "cais/mmlu/law/test.jsonl"
    assert find("flat/set") == "flat/set/train-00000-of-00001.parquet"
    assert find("flat/set", config="default") == "flat/set/train-00000-of-00001.parquet"
    assert find("data/set") == "data/set/data/train-00000-of-00001.parquet"
    assert find("org/both@main", "test") == "org/both/default/test.jsonl"
    for name, split, config, message in (
        ("cais/mmlu", "test", None, "several configs: set `config` to one of anatomy, law"),
        ("cais/mmlu", "test", "anatomi", "no config 'anatomi' in .*did you mean 'anatomy'"),
        ("cais/mmlu", "tset", "law", "no split 'tset' in .*did you mean 'test'"),
        ("cais/mmul", "test", None, "no 'cais/mmul' in the mirror .*did you mean 'cais/mmlu'"),
        ("many/shards", "train", None, "in several files: join train-00000-of-00002.jsonl"),
    ):
        with pytest.raises(DataError, match=message):
            find(name, split, config)


# Order and identity

SPLIT_3 = ["3", "5", "24", "32", "46"]
ORDER_0 = [3, 5, 1, 2, 0, 4, 6, 5, 0, 1, 6, 4, 3, 2, 1, 6, 3]


def rows(n: int) -> list[Row]:
    return [Row(str(i), text=f"text {i}", line=i) for i in range(n)]


def test_split_is_stable_complete_and_in_order() -> None:
    train, aside = split_rows(rows(50), 0.1, seed=3)
    assert (len(train), len(aside)) == (45, 5)
    assert sorted(int(row.id) for row in train + aside) == list(range(50))
    assert [int(row.id) for row in aside] == sorted(int(row.id) for row in aside)
    assert split_rows(rows(50), 0.1, seed=3) == (train, aside)
    assert split_rows(rows(50), 5, seed=3) == (train, aside)
    assert split_rows(rows(50), 0.1, seed=4)[1] != aside
    assert len(split_rows(rows(4), 0.01, seed=0)[1]) == 1
    # The very rows: a change here would move every recorded result.
    assert [row.id for row in aside] == SPLIT_3


@pytest.mark.parametrize(("n", "validation"), [(1, 0.1), (5, 5), (5, 9), (5, 0.95), (0, 1)])
def test_split_refuses_to_leave_a_side_empty(n: int, validation: float | int) -> None:
    with pytest.raises(DataError, match="cannot hold out"):
        split_rows(rows(n), validation, seed=0)


def test_training_order_shows_every_row_once_per_epoch() -> None:
    order = training_order(7, 17, seed=0)
    assert len(order) == 17
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7))
    assert order[:7] != order[7:14]
    assert training_order(7, 9, seed=0) == order[:9]
    assert training_order(7, 17, seed=1) != order
    assert training_order(7, 0, seed=0) == []
    assert order == ORDER_0


def test_hash_is_of_content_and_order_only() -> None:
    base = rows_hash(rows(3))
    renamed = [Row(f"x{r.id}", text=r.text, extra={"a": 1}) for r in rows(3)]
    assert rows_hash(renamed) == base
    assert rows_hash(rows(3)[::-1]) != base
    assert rows_hash([Row("0", prompt="a", completion="b")]) != rows_hash([Row("0", text="ab")])
    swapped = Row("0", messages=(ANSWER, USER))
    assert rows_hash([swapped]) != rows_hash([Row("0", messages=(USER, ANSWER))])
    same = Row("0", messages=({"content": "There.", "role": "assistant"}, USER))
    assert rows_hash([swapped]) == rows_hash([same])


def test_half_a_surrogate_pair_is_refused_with_its_line(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(
        '{"text": "whole \\ud83d\\ude00"}\n{"text": "cut \\ud83d"}\n', encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"rows\.jsonl:2: 'text' holds the lone surrogate"):
        load_rows(source)


def test_null_keys_beside_a_message_are_as_absent(tmp_path: Path) -> None:
    answer = {"role": None, "from": "gpt", "content": "Four.", "tool_calls": None}
    (row,) = load_rows(jsonl(tmp_path, {"messages": [turn("user", "How many?"), answer]}))
    assert row.messages == (turn("user", "How many?"), turn("assistant", "Four."))
