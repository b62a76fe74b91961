"""What is suspicious in training data: each check on rows that have the fault, and none without."""

import json
from pathlib import Path

import pytest

from harness.config.experiment import load_experiment
from harness.data import checks
from harness.data.rows import load_rows
from harness.errors import ConfigError
from harness.manager import Plugins
from harness.planning.plan import Settings, make_plan
from tests.conftest import conversations, write_jsonl

SHOP = Path(__file__).parent.parent.parent / "harness/bundled/support-train.jsonl"


def talk(question, answer, **more):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


def varied(n):
    """Conversations of which no two are alike."""
    return [
        talk(f"What of {i * 7919} and {i * 104729}?", f"It is {i * 15485863}, of {i * 32452843}.")
        for i in range(1, n + 1)
    ]


@pytest.fixture
def check(tmp_path):
    def run(rows, validation=(), **options):
        files = [write_jsonl(tmp_path / name, part) for name, part in (("t.jsonl", rows),)]
        aside = load_rows(write_jsonl(tmp_path / "v.jsonl", validation)) if validation else []
        found = checks.check_rows(load_rows(files[0]), aside, **options)
        return {one.name: one for one in found}

    return run


def test_clean_rows_have_nothing(check):
    rows = [{**row, "kind": "ab"[i % 2]} for i, row in enumerate(varied(200))]
    assert check(rows, varied(210)[200:], balance="kind") == {}


def test_the_bundled_data_is_clean():
    assert checks.check_rows(load_rows(SHOP)) == []


def test_few_rows(check):
    found = check(varied(199))
    assert list(found) == ["few_rows"]
    assert str(found["few_rows"]).startswith(
        "data.few_rows: only 199 rows to train on, fewer than 200: add rows"
    )


def test_exact_duplicates_are_named_with_their_lines(check):
    rows = varied(200)
    found = check([*rows, rows[4], rows[9]])
    assert list(found) == ["duplicates"]
    assert found["duplicates"].count == 2
    told = "2 rows are the same as an earlier one (line 201 repeats line 5; line 202 repeats line"
    assert told in found["duplicates"].message


LONG = (
    "The parcel left the northern depot on Tuesday, crossed the river by the old ferry and was "
    "weighed twice before a clerk in green signed for it"
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (talk("Where is it?", LONG), talk("where is IT", f"{LONG}!")),
        (talk("Where is it?", LONG), talk("Where is it?", LONG.replace("green", "blue"))),
        (talk("Is it good?", "Yes"), talk("is it good", "yes.")),
    ],
)
def test_near_duplicates(check, one, other):
    found = check([*varied(200), one, other])
    assert list(found) == ["near_duplicates"]
    assert "1 row is nearly" in found["near_duplicates"].message
    assert "line 202 repeats line 201" in found["near_duplicates"].message


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (talk(f"{LONG}. When?", "On a Tuesday."), talk(f"{LONG}. Who signed?", "A green clerk.")),
        (talk("Is it good?", "Yes"), talk("Is it bad?", "No")),
        (talk("How was it?", "👍"), talk("How was it?", "👎")),
        (talk("Where is it?", LONG), talk("Where is it?", "It lies in a drawer upstairs.")),
    ],
)
def test_what_is_alike_in_part_is_no_duplicate(check, one, other):
    assert check([*varied(200), one, other]) == {}


def test_a_prompt_that_all_rows_share_makes_no_duplicates(check):
    rows = [talk(f"{LONG}. {row['messages'][0]['content']}", "Yes.") for row in varied(200)]
    assert check(rows) == {}


def test_rows_for_validation_that_are_trained_on(check):
    rows = varied(201)
    found = check(rows[:200], [rows[3], rows[200]])
    assert list(found) == ["validation_rows"]
    assert "line 1 repeats line 4" in found["validation_rows"].message


@pytest.mark.parametrize("answer", ["...", "…", "____", "N/A", "nan", "-", "TODO"])
def test_empty_answers(check, answer):
    found = check([*varied(200), talk("And this one?", answer)])
    assert list(found) == ["empty_answers"]
    assert "1 row has an answer that says nothing (line 201)" in found["empty_answers"].message


def test_an_uneven_column(check):
    kinds = ["open"] * 190 + ["closed"] * 10
    rows = [{**row, "kind": kind} for row, kind in zip(varied(200), kinds, strict=True)]
    found = check(rows, balance="kind")
    assert list(found) == ["imbalance"]
    assert "190 rows of 'open' and 10 rows of 'closed' (line 191," in found["imbalance"].message
    assert "19 times as many" in found["imbalance"].message


# ---- where they are told -------------------------------------------------------------------------


def test_a_plan_tells_them(experiment, harness):
    small = experiment(methods=["base", "lora"])
    rows = [{**row, "kind": "x"} for row in conversations()]
    write_jsonl(small.folder / "train.jsonl", [*rows, rows[0]])
    small.write(data={**small.content["data"], "validation": None, "balance": "kind"})
    told = json.loads(harness("plan", small.file, "--json").stdout)["notes"]
    assert [note.partition(":")[0] for note in told] == ["data.few_rows", "data.duplicates"]
    assert f"Note: {told[0]}" in harness("plan", small.file).stdout


def test_an_unknown_column_is_refused(experiment):
    small = experiment(methods=["lora"])
    rows = [{**row, "kind": "x"} for row in conversations()]
    write_jsonl(small.folder / "train.jsonl", rows)
    small.write(data={**small.content["data"], "balance": "kid"})
    with pytest.raises(ConfigError, match=r"yaml:\d+: no column 'kid' .*: did you mean 'kind'"):
        make_plan(load_experiment(small.file), Plugins(discover=False), Settings())


def test_a_record_holds_them_once(finished):
    for label in ("lora-0", "lora-1", "full-0"):
        told = [w for w in finished.records()[label]["warnings"] if w.startswith("data.")]
        assert [one.partition(":")[0] for one in told] == ["data.few_rows"]
    assert not [w for w in finished.records()["base-0"]["warnings"] if w.startswith("data.")]
