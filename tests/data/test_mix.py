"""General rows among the training rows: which, how many, where, and what the records say of it."""

import json

import pytest

from harness.config.experiment import load_experiment
from harness.data import mix
from harness.data.rows import sample_rows, training_order
from harness.data.training_set import drawn_rows, mixed_rows, training_rows
from harness.errors import ConfigError
from harness.manager import Plugins
from harness.planning.plan import Settings, make_plan
from harness.results import leaderboard, lookup, store
from harness.results.comparison import compare
from harness.types import Row
from tests.conftest import conversations, run_warm, write_experiment, write_jsonl

PLUGINS = Plugins(discover=False)
FACTS = [
    {"instruction": f"Name fact number {i} of the almanac.", "output": f"Fact {i} is about rivers."}
    for i in range(40)
]
MIX = {"source": "facts.jsonl", "share": 0.25}


def rows(n, kind="row"):
    turns = [({"role": "user", "content": f"{kind} {i}?"},) for i in range(n)]
    return [Row(f"{i}", messages=one) for i, one in enumerate(turns)]


def with_mix(experiment, given, **changes):
    small = experiment(methods=["base", "lora"], **changes)
    write_jsonl(small.folder / "facts.jsonl", FACTS)
    return small.write(data={**small.content["data"], "mix": given})


def planned(small, **settings):
    return make_plan(load_experiment(small.file), PLUGINS, Settings(**settings))


def cells(small):
    return {cell.label: cell for cell in planned(small).cells}


def test_a_sample_of_a_source_is_drawn_once_for_every_method_and_seed(experiment):
    small = with_mix(experiment, [MIX, {**MIX, "sample": 5, "name": "few"}], seeds=[0, 1])
    whole, few = (cells(small)[label].data for label in ("lora+facts-0.25", "lora+few-0.25"))
    assert (whole.mix.rows, few.mix.rows) == (40, 5)
    drawn = mixed_rows(few)
    assert drawn == sorted(drawn, key=lambda row: row.line)
    assert {row.line for row in drawn} != {1, 2, 3, 4, 5}  # files are often sorted
    assert whole.identity != few.identity
    train, validation = training_rows(whole)
    small.write(data={**small.content["data"], "sample": 10, "validation": 3})
    plans = {c.data.hash for c in planned(small).cells if c.label == "lora+few-0.25"}
    sampled = cells(small)["lora+few-0.25"].data
    assert plans == {sampled.hash}
    kept, aside = training_rows(sampled)
    assert {row.id for row in (*kept, *aside)} < {row.id for row in (*train, *validation)}
    assert (sampled.rows, sampled.validation_rows, sampled.as_record()["sample"]) == (7, 3, 10)


def test_a_smaller_sample_is_part_of_a_larger_and_one_of_none_is_told(experiment):
    small = with_mix(experiment, {**MIX, "sample": 1000})
    assert cells(small)["lora+facts-0.25"].data.mix.rows == 40
    every = rows(100)
    assert set(map(id, sample_rows(every, 10))) < set(map(id, sample_rows(every, 20)))
    small.write(data={**small.content["data"], "sample": 0})
    with pytest.raises(ConfigError, match=r"data\.sample"):
        planned(small)


# ---- the order -----------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.25, 1 / 3, 0.5, 0.9])
def test_every_stretch_holds_its_share(share):
    turns = mix.places(share, 400)
    for start in range(0, 390, 7):
        stretch = turns[start : start + 10]
        assert abs(sum(stretch) - 10 * share) <= 1
    for k in (1, 8, 60, 400):  # where training is cut short, too
        assert sum(turns[:k]) == int(share * k + 0.5)
        assert mix.places(share, k) == turns[:k]


def test_a_draw_is_exact_seeded_and_keeps_the_order_of_the_training_rows():
    train, general = rows(50), rows(30, "general")
    drawn = mix.draw(train, [], general, 0.1, 200, seed=3)
    mixed = [row for row in drawn.rows if row.id.startswith("mix:")]
    assert (len(drawn.rows), len(mixed), len(drawn.mixed)) == (200, 20, 20)
    assert drawn == mix.draw(train, [], general, 0.1, 200, seed=3)
    assert drawn.rows != mix.draw(train, [], general, 0.1, 200, seed=4).rows
    own = [row.id for row in drawn.rows if row not in mixed]
    assert own == [train[i].id for i in training_order(50, 180, 3)]
    without = mix.draw(train, [], [], 0.0, 200, seed=3).rows
    assert [row.id for row in without][:180] == own
    assert mix.draw(train, [], general, 0.1, 60, seed=3).rows == drawn.rows[:60]


def test_a_small_mix_is_read_again_only_when_all_of_it_was():
    drawn = mix.draw(rows(50), [], rows(6, "general"), 0.5, 30, seed=0)
    mixed = [row.id for row in drawn.rows if row.id.startswith("mix:")]
    assert len(mixed) == 15
    assert len(set(mixed[:6])) == len(set(mixed[6:12])) == 6


def test_what_the_training_or_validation_data_has_is_left_out():
    long = " ".join(f"word{i}" for i in range(20))
    train, validation = [Row("1", text="What is a bell?")], [Row("2", text=f"before {long} after")]
    general = [
        Row("1", text="what IS a bell"),
        Row("2", text=f"other words, then {long}"),
        Row("3", text="What is a lamp?"),
    ]
    drawn = mix.draw(train, validation, general, 0.5, 8, seed=0)
    assert {row.text for row in drawn.mixed} == {"What is a lamp?"}
    assert drawn.left_out == 2


def test_ids_of_the_mix_are_none_of_the_training_rows():
    train = [Row("mix:1", text="one"), Row("mix:mix:1", text="two")]
    drawn = mix.draw(train, [], [Row("1", text="three")], 0.5, 4, seed=0)
    assert {row.id: row.text for row in drawn.rows}.keys() == {
        "mix:1",
        "mix:mix:1",
        "mix:mix:mix:1",
    }


# ---- the plan ------------------------------------------------------------------------------------


def test_a_list_trains_each_method_with_and_without(experiment):
    found = cells(with_mix(experiment, [None, MIX], seeds=[0, 1]))
    assert list(found) == ["base", "lora", "lora+facts-0.25"]
    assert found["base"].data is None
    assert found["lora"].data.mix is None
    assert len({cell.id for cell in found.values()}) == 3


def test_without_a_mix_ids_stay(experiment):
    before = cells(experiment(methods=["base", "lora"]))
    after = cells(with_mix(experiment, [None, MIX]))
    assert after["lora"].id == before["lora"].id
    assert after["lora"].training_id == before["lora"].training_id
    other = after["lora+facts-0.25"]
    assert other.training_id != before["lora"].training_id


def test_the_training_hash_knows_share_and_rows_and_not_the_name(experiment):
    def training(given, label):
        return cells(with_mix(experiment, given))[label].training_id

    first = training(MIX, "lora+facts-0.25")
    assert training({**MIX, "name": "general"}, "lora+general-0.25") == first
    assert training({**MIX, "share": 0.3}, "lora+facts-0.3") != first
    small = with_mix(experiment, MIX)
    write_jsonl(small.folder / "facts.jsonl", FACTS[:-1])
    assert cells(small)["lora+facts-0.25"].training_id != first


def test_all_methods_draw_the_same_and_validation_is_never_mixed(experiment):
    small = with_mix(experiment, MIX).write(methods=["base", "full", "lora"])
    full, lora = (cells(small)[f"{name}+facts-0.25"] for name in ("full", "lora"))
    train, validation = training_rows(full.data)
    drawn = [drawn_rows(cell.data, train, validation, 40, 0) for cell in (full, lora)]
    assert drawn[0] == drawn[1]
    assert len(drawn[0].mixed) == 10
    assert not {row.id for row in validation} & {row.id for row in drawn[0].rows}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("databricks/databricks-dolly-15k", "dolly"),
        ("dolly", "dolly"),
        ("some/where/rows.v2.jsonl", "rows.v2"),
        ("org/set@main", "set"),
    ],
)
def test_short_names(source, name):
    assert mix.short_name(source) == name


def test_a_short_name_is_found_in_the_mirror(experiment, tmp_path):
    hub = tmp_path / "hub"
    asked = [{"instruction": f"Why {i}?", "context": "", "response": "So."} for i in range(5)]
    write_jsonl(hub / "databricks/databricks-dolly-15k/train.jsonl", asked)
    small = with_mix(experiment, {"source": "dolly", "share": 0.1})
    (cell,) = (cell for cell in planned(small, mirror=hub).cells if cell.data)
    assert (cell.label, cell.data.mix.rows) == ("lora+dolly-0.1", 5)


BAD = {
    "a share of one": (
        {**MIX, "share": 1.0},
        r"experiment.yaml:\d+: data.mix.share: .*less than 1",
    ),
    "no source": ({"share": 0.1}, "missing key 'source' in data.mix"),
    "a misspelt key": (
        {**MIX, "shar": 0.1},
        "unknown key 'shar' in data.mix: did you mean 'share'",
    ),
    "a misspelt name": ({**MIX, "source": "dolli"}, r"yaml:\d+: no data 'dolli'.* mean 'dolly'"),
    "no file": ({**MIX, "source": "fact.jsonl"}, r"yaml:\d+: .*no such file.* mean 'facts.jsonl'"),
    "an empty list": ([], "data.mix: expected a mix, or a list of mixes and null"),
    "a text": ("dolly", r"yaml:\d+: data.mix: expected .*, got 'dolly'"),
    "the same twice": ([MIX, MIX], "two rows would be called 'base\\+facts-0.25'|'lora\\+facts"),
    "nothing new": (
        {**MIX, "source": "train.jsonl"},
        "every row of the mix 'train.jsonl' is in",
    ),
    "in a list": ([None, {**MIX, "share": 2.0}], "data.mix.1.share: .*less than 1"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_wrong_mix_is_refused(experiment, fault):
    given, told = BAD[fault]
    with pytest.raises(ConfigError, match=told) as raised:
        planned(with_mix(experiment, given))
    assert "\n" not in str(raised.value)


# ---- a run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_model, warm):
    """LoRA with and without a mix, in one experiment."""
    small = write_experiment(
        tmp_path_factory.mktemp("mix"),
        tiny_model,
        methods=["base", "lora"],
        budget={"steps": 4, "batch": 4, "max_length": 96, "precision": "float32"},
    )
    write_jsonl(small.folder / "facts.jsonl", [*FACTS, _as_fact(conversations()[0])])
    small = small.write(data={**small.content["data"], "mix": [None, MIX]})
    assert not run_warm(small, warm).failed
    return small


def _as_fact(row):
    return {"instruction": row["messages"][1]["content"], "output": "A copy of a training row."}


def test_the_record_says_what_was_mixed(run):
    told = run.records()["lora+facts-0.25-0"]
    kept = told["plan"]["data"]["mix"]
    assert {key: kept[key] for key in ("source", "share", "rows")} == {
        "source": "facts.jsonl",
        "share": 0.25,
        "rows": 41,
    }
    assert len(kept["hash"]) == 64
    assert str(run.folder) not in json.dumps(told["plan"])
    assert told["training"]["mix"]["draws"] == told["training"]["mix"]["rows"] == 4
    without = run.records()["lora-0"]
    assert without["plan"]["data"]["mix"] is None
    assert "mix" not in without["training"]
    assert without["training"]["loss_curve"] != told["training"]["loss_curve"]


def test_with_and_without_are_rows_of_one_leaderboard_and_two_sides(run):
    stored = store.read_records([run.out])
    found = leaderboard.build([one.data for one in stored], read_rows=store.rows_reader(stored))
    store.validate(found, "leaderboard")
    shares = {row["label"]: (row["mix"] or {}).get("share") for row in found["rows"]}
    assert shares == {"base": None, "lora": None, "lora+facts-0.25": 0.25}
    one, other = (lookup.find(name, [run.out]) for name in ("lora+facts-0.25", "lora"))
    assert compare(one, other)["metrics"]
