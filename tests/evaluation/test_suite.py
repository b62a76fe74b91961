"""A suite's file is strict, and its hash changes with everything that its scores depend on."""

import json
from dataclasses import replace

import pytest

from harness.errors import ConfigError, UserError
from harness.evaluation.suite import find_suite
from harness.evaluation.tasks.sample_task import samples_of
from harness.manager import Plugins
from tests.conftest import write_jsonl, write_suites
from tests.evaluation.suite_files import BASE, PLUGINS, edit, load

NAMES = ["predicts", "answers", "picks", "tasks"]


@pytest.mark.parametrize("name", NAMES)
def test_a_hash_stays_and_does_not_depend_on_the_place(folder, tmp_path_factory, name):
    other = tmp_path_factory.mktemp("elsewhere")
    write_suites(other)
    assert load(folder, name).hash == load(folder, name).hash == load(other, name).hash
    assert load(folder, name).hash == load(folder, name, base=replace(BASE, name="x")).hash


@pytest.mark.parametrize(
    ("name", "file", "old", "new"),
    [
        ("answers", "asked.jsonl", "The lamp is here.", "The lamp is there."),
        ("answers", "asked.jsonl", "Is the lamp here?", "Is a lamp here?"),
        ("answers", "answers.yaml", "max_new_tokens: 8", "max_new_tokens: 9"),
        ("answers", "answers.yaml", "- rougeL\n", ""),
        ("answers", "answers.yaml", "version: 1", "version: 2"),
        ("picks", "choices.jsonl", '"answer": 2', '"answer": 1'),
        ("picks", "picks.yaml", "data:", 'prompt: "{question} =>"\ndata:'),
        ("predicts", "plain.jsonl", "by the door", "at the door"),
        ("predicts", "predicts.yaml", "plain: plain.jsonl", "prose: plain.jsonl"),
        ("tasks", "tasks/tiny_choice.yaml", "Question:", "Q:"),
        ("tasks", "tasks/tiny_choice.jsonl", '"answer": 2', '"answer": 1'),
        ("tasks", "tasks.yaml", "ask:", "num_fewshot: 1\nask:"),
    ],
)
def test_a_hash_changes_with_what_its_scores_depend_on(folder, name, file, old, new):
    before = load(folder, name).hash
    edit(folder, file, old, new)
    assert load(folder, name).hash != before


def test_a_hash_does_not_change_with_the_description(folder):
    before = load(folder, "answers").hash
    edit(folder, "answers.yaml", "ask:", "description: About kettles.\nask:")
    assert load(folder, "answers").hash == before


def test_a_hash_changes_with_a_scorers_version(folder):
    newer = Plugins(discover=False)
    scorer = newer.scorers.things["rougeL"]
    newer.scorers.things["rougeL"] = replace(scorer, version=scorer.version + 1)
    assert load(folder, "answers").hash != load(folder, "answers", plugins=newer).hash
    assert load(folder, "picks").hash == load(folder, "picks", plugins=newer).hash


def test_a_hash_changes_with_the_judges_model(folder):
    edit(
        folder,
        "answers.yaml",
        "ask:",
        "judge: {name: expected_score, rubric: Rate it.}\nask:",
    )
    other = replace(BASE, content_hash="1" * 64)
    assert load(folder, "answers").hash != load(folder, "answers", base=other).hash


def test_overrides_of_an_experiment_count(folder):
    suite = load(folder, "answers", {"limit": 3})
    assert len(samples_of(suite)) == 3
    assert suite.hash != load(folder, "answers").hash
    with pytest.raises(ConfigError, match="'version' cannot be set in an experiment"):
        load(folder, "answers", {"version": 3})
    with pytest.raises(ConfigError, match=r"unknown key 'limt'.*did you mean 'limit'"):
        load(folder, "answers", {"limt": 3})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("scorers:", "scorer:", r"answers\.yaml:6: unknown key 'scorer'.*did you mean 'scorers'"),
        ("version: 1", "version: one", r"answers\.yaml:2: version: expected a whole number"),
        ("version: 1\n", "", r"answers\.yaml:1: missing key 'version'"),
        ("ask: generate", "ask: talk", r"answers\.yaml:3: ask: expected .*'talk'"),
        ("name: answers", "name: other", r"answers\.yaml:1: .*'other' but its file answers\.yaml"),
        ("data: asked.jsonl\n", "", r"answers\.yaml:3: ask: generate needs `data:`"),
        ("data: asked.jsonl", "data: askd.jsonl", r"askd\.jsonl.*did you mean 'asked\.jsonl'"),
        ("- rougeL", "- rougel", r"unknown scorer 'rougel': did you mean 'rougeL'"),
        ("ask: generate", "ask: lm-eval", r"answers\.yaml:3: ask: lm-eval needs `tasks:`"),
        ("data: asked.jsonl", "data: {a: asked.jsonl}", r"answers\.yaml:4: several sources"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_place(folder, old, new, message):
    edit(folder, "answers.yaml", old, new)
    with pytest.raises(UserError, match=message) as error:
        load(folder, "answers")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../../x.jsonl", "linked.jsonl", "linked/x.jsonl", "absolute"])
def test_a_suites_file_names_nothing_outside_its_folder_and_an_experiment_may(folder, name):
    home = folder / "shop/suites"
    home.mkdir(parents=True)
    outside = write_jsonl(folder / "x.jsonl", [{"id": "a", "prompt": "x", "reference": "y"}])
    (home / "linked.jsonl").symlink_to(outside)
    (home / "linked").symlink_to(folder)
    suite = (folder / "answers.yaml").read_text()
    name = str(outside) if name == "absolute" else name
    (home / "answers.yaml").write_text(suite.replace("asked.jsonl", name))
    message = (
        rf"answers\.yaml:4: data: '{name}' leads out of the suite's folder .*let the experiment "
        r"name it \(suites: \[{name: answers, data: \.\.\.}\]\)"
    )
    with pytest.raises(ConfigError, match=message):
        load(home, "answers")
    assert len(samples_of(load(home, "answers", {"data": str(outside)}))) == 1, (
        "the user's own words"
    )
    outside.rename(home / "x.jsonl")
    (home / "here.jsonl").symlink_to("x.jsonl")
    (home / "answers.yaml").write_text(suite.replace("asked.jsonl", "here.jsonl"))
    assert len(samples_of(load(home, "answers"))) == 1, "a link that stays inside"


def test_an_unknown_judge_is_refused(folder):
    edit(folder, "answers.yaml", "ask:", "judge: {name: jury, rubric: Rate it.}\nask:")
    with pytest.raises(UserError, match="unknown judge 'jury'"):
        load(folder, "answers")


def test_neither_scorers_nor_a_judge_is_refused(folder):
    edit(folder, "answers.yaml", "scorers:\n- exact_match\n- rougeL\n", "")
    with pytest.raises(ConfigError, match="needs `scorers:` or a `judge:`"):
        load(folder, "answers")


def test_samples_of_one_id_are_refused(folder):
    rows = [{"id": "a", "prompt": "x", "reference": "y"}] * 2
    write_jsonl(folder / "asked.jsonl", rows)
    with pytest.raises(UserError, match=r"asked\.jsonl:2: duplicate id 'a'"):
        load(folder, "answers")


def test_a_folder_goes_before_a_registered_suite(folder, tmp_path):
    (folder / "judge.yaml").write_text("name: judge\n")
    assert find_suite("judge", plugins=PLUGINS, folders=[folder]) == folder / "judge.yaml"
    assert find_suite("judge", plugins=PLUGINS, folders=[]).parent != folder
    with pytest.raises(UserError, match=r"unknown suite 'juge': did you mean 'judge'"):
        find_suite("juge", plugins=PLUGINS, folders=[folder])


def test_a_suite_in_parquet_may_have_columns_that_json_has_no_types_for(folder):
    import datetime
    import decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "prompt": ["Is it?", "Was it?"],
        "reference": ["It is.", "It was."],
        "at": [datetime.datetime(2024, 1, day) for day in (1, 2)],
        "price": [decimal.Decimal("1.50")] * 2,
        "photo": [b"\x89PNG\xff"] * 2,
        "score": [float("nan")] * 2,
        "embedding": [[0.1, 0.2]] * 2,
    }
    pq.write_table(pa.table(columns), folder / "asked.parquet")
    edit(folder, "answers.yaml", "asked.jsonl", "asked.parquet")
    suite = load(folder, "answers")
    assert len(suite.hash) == len(load(folder, "picks").hash)
    first, _ = samples_of(suite)
    assert first.extra["at"] == "2024-01-01T00:00:00"
    assert first.extra["price"] == "1.50"
    assert first.extra["embedding"] == [0.1, 0.2]
    json.dumps(dict(first.extra))
