"""Training rows that a suite asks for are named, whatever the suite's way of asking."""

import pytest

from harness.data.rows import load_rows
from harness.evaluation.contamination import leaks, leaks_of_rows, samples_from_rows
from harness.evaluation.suite import Where, load_suite
from harness.manager import Plugins
from harness.types import ModelRef, Row, Sample
from tests.conftest import conversations, write_jsonl, write_suites

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"


@pytest.fixture
def load(tmp_path):
    write_suites(tmp_path)
    return lambda name: load_suite(
        tmp_path / f"{name}.yaml",
        {},
        plugins=Plugins(discover=False),
        base_model=ModelRef("tiny", "tiny", content_hash="0" * 64),
        where=Where(),
    )


def test_a_leak_names_sample_row_line_and_kind(load, tmp_path):
    train = load_rows(
        write_jsonl(
            tmp_path / "train.jsonl",
            [
                {"id": "shop-1", "prompt": "Anything new?", "completion": "No."},
                {"id": "shop-2", "prompt": "is the LAMP here", "completion": "Yes."},
            ],
        )
    )
    assert leaks(train, [load("answers"), load("picks"), load("predicts")]) == [
        "suite 'answers': 1 sample overlaps with training rows, so its scores may flatter "
        "(1 pair: sample lamp and row shop-2 (line 2), same prompt)"
    ]
    assert leaks([], [load("answers")]) == []


def test_a_choice_suites_question_leaks(load):
    train = [Row("7", prompt="Which colour has the tent?", completion="Blue", line=7)]
    (warning,) = leaks(train, [load("picks")])
    assert "sample choices-3 and row 7 (line 7), same prompt" in warning


def test_conversations_and_texts_of_a_perplexity_suite_leak(load, tmp_path):
    write_jsonl(tmp_path / "plain.jsonl", [{"text": "Nothing."}, {"text": f"Once {LONG}."}])
    messages = conversations()[4]["messages"]
    train = [Row("a", messages=tuple(messages), line=1), Row("b", text=LONG, line=2)]
    (warning,) = leaks(train, [load("predicts")])
    assert "2 samples overlap" in warning
    assert "sample chats/2 and row a (line 1), same prompt" in warning
    assert "sample plain/2 and row b (line 2), 13-gram" in warning


def test_ten_pairs_are_named_and_all_are_counted(load, tmp_path):
    samples = [{"id": f"s{i}", "prompt": f"Is it {i}?", "reference": "Yes."} for i in range(14)]
    write_jsonl(tmp_path / "asked.jsonl", samples)
    train = [Row(f"r{i}", prompt=f"Is it {i}?", completion="No.", line=i) for i in range(12)]
    (warning,) = leaks(train, [load("answers")])
    assert "12 samples overlap" in warning
    assert "(12 pairs: sample s0 and row r0" in warning
    assert "sample s9 and row r9" in warning
    assert "s10" not in warning
    assert warning.endswith("; and 2 more)")


def test_rows_that_only_a_run_can_tell(load):
    train = [Row("a", prompt="Which colour has the bell?", completion="Red", line=3)]
    rows = [
        {"id": "t/1", "prompt": "Which colour has the bell?", "reference": 0},
        {"id": "t/2", "prompt": [{"role": "user", "content": "Hello"}], "reference": LONG},
    ]
    (warning,) = leaks_of_rows(train, "tasks", rows)
    assert warning.startswith("suite 'tasks': 1 sample overlaps")
    assert "sample t/1 and row a (line 3)" in warning
    assert leaks(train, [load("tasks")]) == []
    assert samples_from_rows(rows) == [
        Sample("t/1", prompt="Which colour has the bell?"),
        Sample("t/2", messages=({"role": "user", "content": "Hello"},), reference=LONG),
    ]
    assert leaks_of_rows(train, "tasks", [{"id": "t/3", "prompt": None, "reference": None}]) == []


def test_a_record_names_the_leaks_of_its_suites(finished):
    records = finished.records()
    for label in ("full-0", "lora-0", "lora-1", "qlora-0"):
        warnings = [w for w in records[label]["warnings"] if w.startswith("suite ")]
        (leak,) = [w for w in warnings if "overlap with training rows" in w]
        assert leak.startswith("suite 'predicts': ")
        assert "same prompt" in leak
    assert not any("overlap" in warning for warning in records["base-0"]["warnings"])
