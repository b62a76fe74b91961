"""A cell's id is a hash of everything that its result depends on, and of nothing else."""

import json
from pathlib import Path

import pytest

from harness.config.experiment import load_experiment
from harness.data.training_set import training_rows
from harness.errors import ConfigError, UserError
from harness.manager import Plugins
from harness.planning.cell import budget_content, is_recorded
from harness.planning.plan import Settings, make_plan
from harness.record import new_record
from harness.results import store
from harness.runner.worker import Log, Work, _record
from harness.system.hardware import Gpu, Machine, TorchBuild, default_precision, facts
from tests.conftest import conversations, write_jsonl

PLUGINS = Plugins(discover=False)


def planned(small, **settings):
    return make_plan(load_experiment(small.file), PLUGINS, Settings(**settings))


def ids(small, **settings):
    """Label and seed -> cell id."""
    return {f"{c.label}-{c.seed}": c.id for c in planned(small, **settings).cells}


@pytest.fixture
def small(experiment):
    return experiment(methods=["base", {"name": "lora", "r": 4}])


def test_an_id_names_the_method_and_stays(small):
    first = ids(small)
    assert first == ids(small)
    assert first["lora-0"].startswith("lora-s0-")
    assert len(set(first.values())) == 2


def changed_data(small):
    rows = conversations()
    rows[3]["messages"][2]["content"] += " Really."
    write_jsonl(small.folder / "train.jsonl", rows)


def changed_suite(small):
    file = small.folder / "asked.jsonl"
    file.write_text(file.read_text().replace("is here", "was here"))


CHANGES = {
    "an option": lambda s: s.write(methods=["base", {"name": "lora", "r": 8}]),
    "another option": lambda s: s.write(methods=["base", {"name": "lora", "r": 4, "dropout": 0.1}]),
    "a label": lambda s: s.write(methods=["base", {"name": "lora", "r": 4, "label": "lora-0"}]),
    "the data": changed_data,
    "the steps": lambda s: s.write(budget={**s.content["budget"], "steps": 3}),
    "the length": lambda s: s.write(budget={**s.content["budget"], "max_length": 64}),
    "the precision": lambda s: s.write(budget={**s.content["budget"], "precision": "bf16"}),
    "the validation rows": lambda s: s.write(data={**s.content["data"], "validation": 5}),
    "the loss": lambda s: s.write(data={**s.content["data"], "loss": "all"}),
    "a suite's data": changed_suite,
    "the suites": lambda s: s.write(suites=s.content["suites"][:2]),
    "a suite's settings": lambda s: s.write(suites=[{"name": "answers", "limit": 3}]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_an_id_changes_with(small, what):
    before = set(ids(small).values())
    CHANGES[what](small)
    after = {v for k, v in ids(small).items() if k.startswith("lora")}
    assert not after & before


def test_keys_that_came_later_leave_earlier_ids_alone(small):
    """Results are recorded under ids: a key at its default is not part of one."""
    before = ids(small)["lora-0"]
    budget = small.content["budget"]
    assert budget_content(planned(small).cells[1].budget) == {**budget, "micro_batch": None}
    assert ids(small.write(budget={**budget, "on_oom": "stop"}))["lora-0"] == before
    often = small.write(budget={**budget, "checkpoint_minutes": 5})
    assert ids(often)["lora-0"] == before
    assert planned(often).cells[1].budget.checkpoint_minutes == 5
    assert "checkpoint_minutes" not in planned(often).cells[1].as_record()["budget"]
    assert ids(small.write(budget={**budget, "group_by_length": True}))["lora-0"] == before
    assert ids(small.write(budget={**budget, "group_by_length": False}))["lora-0"] != before
    assert ids(small.write(budget={**budget, "micro_batch": "auto"}))["lora-0"] != before


def test_an_id_changes_with_the_seed_and_the_limit(small):
    before = ids(small)["lora-0"]
    assert before != ids(small, limit=2)["lora-0"]
    seeds = ids(small.write(seeds=[0, 1]))
    assert seeds["lora-0"] == before != seeds["lora-1"]


def test_an_id_changes_with_the_models_bytes(small, tiny_model, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    before = ids(small)
    assert ids(small.write(model=str(copy))) == before
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    assert not set(ids(small).values()) & set(before.values())


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another"},
        {"rank_by": "picks.acc"},
        {"data": {"validation": 4, "train": "train.jsonl"}},  # keys in another order
        {"methods": [{"r": 4, "name": "lora"}, "base"]},
    ],
    ids=["name", "rank_by", "key order", "method order"],
)
def test_an_id_does_not_change_with(small, change):
    before = ids(small)
    small.write(**change)
    assert ids(small) == before


def test_an_id_does_not_change_with_the_lines_of_the_file(small):
    before = ids(small)
    small.file.write_text("# a comment\n\n" + small.file.read_text())
    assert ids(small) == before


def test_training_is_shared_between_cells_that_differ_in_suites_alone(small):
    before = {c.label: c.training_id for c in planned(small).cells}
    assert {c.label: c.training_id for c in planned(small, limit=1).cells} == before
    small.write(suites=["picks"])
    assert {c.label: c.training_id for c in planned(small).cells} == before


def test_the_base_is_one_cell_whatever_the_seeds_and_the_steps(small):
    before = ids(small)["base-0"]
    small.write(seeds=[0, 1, 2], budget={**small.content["budget"], "steps": 9})
    found = ids(small)
    assert found["base-0"] == before
    assert len(found) == 4


def test_the_base_is_planned_first_even_where_it_is_not_named(small):
    before = ids(small)["base-0"]
    small.write(methods=[{"name": "lora", "r": 4}])
    plan = planned(small)
    assert [c.label for c in plan.cells] == ["base", "lora"]
    assert plan.base is plan.cells[0]
    assert plan.base.id == before
    small.write(methods=[{"name": "lora", "r": 4}, "base"])
    assert [c.label for c in planned(small).cells] == ["base", "lora"]


def test_a_quantised_base_is_a_row_beside_the_base(small):
    before = ids(small)["base-0"]
    four = {"name": "base", "quant_type": "nf4"}
    for methods in ([four], [four, "base"], [{"name": "base", "quant_type": "none"}, four]):
        small.write(methods=methods, seeds=[0, 1])
        plan = planned(small)
        assert [c.label for c in plan.cells] == ["base", "base-nf4"]
        assert plan.base is plan.cells[0]
        assert (plan.base.id, plan.base.options) == (before, {})
    small.write(methods=[four, {**four, "quant_type": "fp4"}, {**four, "label": "four"}])
    assert [c.label for c in planned(small).cells] == ["base", "base-nf4", "base-fp4", "four"]
    small.write(methods=["base", {"name": "qlora", "quant_type": "fp4"}])
    assert [c.label for c in planned(small).cells] == ["base", "qlora"]


def test_details_of_a_quantisation_that_is_not_asked_for_are_refused(small):
    small.write(methods=[{"name": "base", "double_quant": False}])
    with pytest.raises(UserError, match="double_quant is for 4 bits: set quant_type: nf4 too"):
        planned(small)


def test_no_other_row_takes_the_name_of_the_unchanged_model(small):
    for taken in ({"name": "base", "quant_type": "nf4"}, {"name": "lora"}):
        small.write(methods=[{**taken, "label": "base"}])
        with pytest.raises(
            UserError, match=rf"label 'base' is .*give the method '{taken['name']}'"
        ):
            planned(small)


def test_what_must_be_equal_is_equal_for_all_methods(small):
    small.write(methods=["full", "lora", "qlora"])
    cells = [c for c in planned(small).cells if c.data]
    assert len({(c.budget, c.data.hash, c.seed, c.chat_template) for c in cells}) == 1


def test_only_the_chosen_methods_are_planned(small):
    small.write(methods=["full", {"name": "lora", "label": "a"}, {"name": "lora", "label": "b"}])
    assert set(ids(small, methods=("a",))) == {"base-0", "a-0"}
    assert set(ids(small, methods=("lora", "full"))) == {"base-0", "full-0", "a-0", "b-0"}
    with pytest.raises(UserError, match=r"--methods: no 'lra' .* did you mean 'lora'"):
        planned(small, methods=("lra",))


def test_auto_precision_is_resolved_for_this_machine(small):
    small.write(budget={**small.content["budget"], "precision": "auto"})
    (precision,) = {c.budget.precision for c in planned(small).cells}
    assert precision == default_precision(facts())


@pytest.mark.parametrize(
    ("name", "capability", "precision", "instead"),
    [("Tesla T4", (7, 5), "bf16", "fp16, or to float32"), (None, None, "fp16", "float32")],
)
def test_a_precision_that_the_device_lacks_is_refused_with_its_line(
    small, monkeypatch, name, capability, precision, instead
):
    gpus = (Gpu(name, 16 << 30, capability),) if name else ()
    build = TorchBuild("2.13.0", "13.0" if name else None)
    machine = Machine(2, 8 << 30, "some", gpus=gpus, torch=build)
    monkeypatch.setattr("harness.planning.plan.facts", lambda: machine)
    small.write(model="nowhere", budget={**small.content["budget"], "precision": precision})
    lines = small.file.read_text(encoding="utf-8").splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "precision" in text)
    with pytest.raises(ConfigError, match=f":{line}: precision {precision}.*: set it to {instead}"):
        planned(small)


def test_validation_rows_are_not_trained_on(small):
    data = planned(small).cells[1].data
    train, validation = training_rows(data)
    assert (len(train), len(validation)) == (data.rows, data.validation_rows) == (20, 4)
    assert not {r.id for r in train} & {r.id for r in validation}


def test_a_record_counts_only_where_it_is_ok(small):
    cell = planned(small).cells[1]
    file = small.out / "cells" / f"{cell.id}.json"
    assert not is_recorded(small.out, cell)
    file.parent.mkdir(parents=True)
    wrong = {"type": "X", "message": "broke"}
    for status, error in (("ok", None), ("error", wrong), ("diverged", wrong)):
        plan = cell.as_record()
        store.write_record(small.out, new_record(id=cell.id, status=status, plan=plan, error=error))
        assert is_recorded(small.out, cell) is (status == "ok")
    for content in (b"{", b"[]", b"null", b"\xff\x00", b"[" * 100_000):
        file.write_bytes(content)
        assert not is_recorded(small.out, cell)
        assert file.is_file()
        assert f"cells/{file.name}.invalid" in store.set_aside(small.out, cell.id)
        assert not file.exists()
    kept = {f.read_bytes() for f in file.parent.iterdir()}
    assert kept == {b"{", b"[]", b"null", b"\xff\x00", b"[" * 100_000}


def test_options_are_the_methods_own_with_their_defaults(small):
    options = planned(small).cells[1].options
    assert options["r"] == 4
    assert options["lr"] == 2e-4
    assert options["schedule"] == "cosine"


def test_the_command_prints_the_cells(harness, small):
    ran = harness("plan", small.file, "--out", small.out, "--json")
    assert ran.code == 0
    cells = json.loads(ran.stdout)["cells"]
    assert [(c["label"], c["recorded"]) for c in cells] == [("base", False), ("lora", False)]
    assert {c["id"] for c in cells} == set(ids(small).values())
    assert not small.out.exists()
    assert "2 cells to run" in harness("plan", small.file, "--out", small.out).stdout


@pytest.mark.slow
def test_the_command_shows_what_is_trained_on(harness, small):
    ran = harness("plan", small.file, "--show-tokens", "--rows", "1", "--out", small.out)
    assert ran.code == 0
    assert "coins.<|im_end|>]]" in ran.stdout
    assert ran.stdout.count("[[Yes, the") == 1


def test_answers_that_leave_no_room_for_a_question_are_told_at_plan(experiment):
    small = experiment(suites=["picks", {"name": "answers", "max_new_tokens": 256}])
    said = (
        r"experiment\.yaml:\d+: suite 'answers': max_new_tokens: 256 leaves no room for a question "
        "in the context of 256 tokens"
    )
    with pytest.raises(UserError, match=said):
        planned(small)
    assert planned(small.write(suites=[{"name": "answers", "max_new_tokens": 255}]))
    task = small.folder / "tasks/tiny_choice.yaml"
    task.write_text(task.read_text() + "generation_kwargs: {until: [x], max_gen_toks: 300}\n")
    said = r"suite 'tasks': .*tiny_choice\.yaml: max_gen_toks: 300 leaves no room for a question"
    with pytest.raises(UserError, match=said):
        planned(small.write(suites=["tasks"]))
    task.write_text(task.read_text().replace("300", "30"))
    assert planned(small.write(suites=["tasks"]))


def test_a_record_says_each_warning_once(experiment):
    (cell, *_) = planned(experiment()).cells
    log = Log(lambda **event: None)
    log.warnings += ["two", "one", "two", "three"]  # an artifact that is used again has them too
    work = Work(cell, Path(), None, warnings=("one",))
    assert _record(work, log, None, None)["warnings"] == ["one", "two", "three"]


# ---- what the others are compared with -----------------------------------------------------------

FOUR = {"name": "base", "quant_type": "nf4"}
JUDGED = {"name": "answers", "judge": {"name": "expected_score", "rubric": "Rate it."}}


def test_the_base_can_be_the_row_in_4_bits_and_judges_as_it_is_opened(small):
    small.write(methods=["base", FOUR, "lora"], suites=["picks", JUDGED])
    before = {cell.label: cell for cell in planned(small).cells}
    small.write(methods=[FOUR, "lora"], suites=["picks", JUDGED], base="base-nf4")
    plan = planned(small)
    assert [cell.label for cell in plan.cells] == ["base-nf4", "lora"]
    assert plan.base.label == "base-nf4"
    picks, answers = plan.base.suites
    assert picks.hash == before["lora"].suites[0].hash
    assert answers.hash != before["lora"].suites[1].hash  # another judge
    assert answers.judge_quantization == {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    }
    # whatever is measured, it is compared with that row
    assert [c.label for c in planned(small, methods=("lora",)).cells] == ["base-nf4", "lora"]


def test_a_judge_is_quantised_as_its_suite_says(small):
    def judged(**changes):
        suite = {**JUDGED, "judge": {**JUDGED["judge"], **changes}}
        small.write(methods=["base"], suites=[suite])
        return planned(small).base.suites[0]

    plain, four, eight = judged(), judged(quant_type="nf4"), judged(quant_type="int8")
    assert plain.judge_quantization is None
    assert eight.judge_quantization == {"load_in_8bit": True}
    assert len({plain.hash, four.hash, eight.hash}) == 3
    with pytest.raises(UserError, match="quant_type"):
        judged(quant_type="nf5")


def test_a_base_that_no_row_is_called_is_refused(small):
    for name in ("base-nf4", "lora"):
        small.write(methods=["base", "lora"], base=name)
        with pytest.raises(UserError, match=rf"experiment.yaml:\d+: base '{name}': name the label"):
            planned(small)


def test_epochs_are_steps_over_the_rows_and_give_the_same_cells(small, harness):
    """24 rows, 4 of them for validation: 20 to train on."""
    budget = {k: v for k, v in small.content["budget"].items() if k != "steps"} | {"batch": 8}
    small.write(budget={**budget, "epochs": 1.5})
    by_epochs = planned(small)
    assert (by_epochs.epochs, by_epochs.cells[1].data.rows) == (1.5, 20)
    assert by_epochs.cells[1].budget.steps == 4  # 30 draws of 8
    found = ids(small)
    shown = harness("plan", small.file, "--out", small.out)
    assert "budget.epochs: 1.5 of 20 rows are 4 steps of 8 rows" in " ".join(shown.stdout.split())
    small.write(budget={**budget, "steps": 4})
    assert ids(small) == found
    small.write(budget={**budget, "epochs": 0.01})
    assert planned(small).cells[1].budget.steps == 1
    small.write(budget={**budget, "epochs": 10_000, "batch": 1}, data={"train": "train.jsonl"})
    assert planned(small).cells[1].budget.steps == 240_000
