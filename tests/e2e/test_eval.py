"""`harness eval`: what was trained elsewhere opens as it was trained and joins a leaderboard."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.api.method import Method
from harness.cli.commands.eval import ModelOptions, evaluate, experiment_of
from harness.cli.options import MeasuringOptions
from harness.config.experiment import load_experiment
from harness.errors import ConfigError, UserError
from harness.manager import Plugins
from harness.models import adapters
from harness.models.language_model import open_artifact
from harness.planning.plan import Settings, make_plan
from harness.runner.run import run_plan
from harness.types import Artifact, ModelRef
from tests.conftest import CHATML, run_warm

SUITES = ("predicts", "answers", "picks", "tasks")
DEFAULT = MeasuringOptions(limit=1)


@pytest.fixture(scope="module")
def plan_of(finished, tiny_model):
    """`plan_of(adapter=...)`: what `harness eval` would run, with the suites of `finished`."""

    def make(model=tiny_model, chat_template=None, **options):
        options = {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
        options = {"suites": SUITES, "precision": "float32", **options}
        experiment = experiment_of(ModelOptions(str(model), **options))
        settings = Settings(suite_folders=(finished.folder,), chat_template=chat_template)
        return make_plan(experiment, Plugins(discover=False), settings)

    return make


@pytest.fixture(scope="module")
def trained(finished):
    """Label -> the folder that the harness's own training left."""
    ids = {label: one["id"] for label, one in finished.records().items()}
    return {label: finished.out / "artifacts" / cell for label, cell in ids.items()}


@pytest.fixture(scope="module")
def adapter(tiny_model, tiny_artifact, tmp_path_factory):
    """An adapter that nobody trained, as peft saves it."""
    return saved_adapter(tiny_artifact, tmp_path_factory.mktemp("adapters") / "mine")


def saved_adapter(artifact, folder, **settings):
    from peft import LoraConfig, get_peft_model

    from harness.models.language_model import load_weights

    config = LoraConfig(
        task_type="CAUSAL_LM",
        init_lora_weights=False,
        **{"r": 4, "target_modules": "all-linear", **settings},
    )
    get_peft_model(load_weights(artifact), config).save_pretrained(folder)
    return folder


def figures(record):
    """Suite -> metric -> value and what it is compared to the base with."""
    keys = ("value", "ci_low", "ci_high", "n", "delta", "delta_ci_low", "delta_ci_high")
    return {
        suite: {
            name: {k: one[k] for k in keys} for name, one in told["metrics"].items() if one["n"]
        }
        for suite, told in record["evaluation"]["suites"].items()
    }


# ---- the same figures ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(finished, trained, plan_of, tiny_model, warm, tmp_path_factory):
    """Label -> record of the harness's own artifacts, measured anew in a folder of their own."""
    out = tmp_path_factory.mktemp("anew") / "results"
    plans = [
        plan_of(adapter=trained["lora-0"], label="lora"),
        plan_of(adapter=trained["qlora-0"], load_in_4bit=True, label="qlora"),
        plan_of(trained["full-0"], base=tiny_model, label="full"),
    ]
    for plan in plans:
        outcome = run_plan(plan, out, warm, lambda cell, event: None)
        assert not outcome.failed, [file.read_text() for file in (out / "logs").iterdir()]
    found = [json.loads(file.read_text()) for file in (out / "cells").iterdir()]
    return {"out": out} | {one["plan"]["label"]: one for one in found}


@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_figures_are_those_of_the_cell_that_trained_it(finished, measured, method):
    own, again = finished.records()[f"{method}-0"], measured[method]
    assert again["plan"]["method"] == "external"
    assert not any("reused" in told for told in again["evaluation"]["suites"].values())
    assert figures(again) == figures(own)
    assert figures(again) != figures(measured["base"])
    assert again["evaluation"]["base"] == measured["base"]["id"]


def test_a_base_that_two_folders_measured_is_one_row(harness, finished, measured):
    theirs = finished.out / "cells" / f"{measured['base']['id']}.json"
    shown = harness("leaderboard", theirs, measured["out"], "--format", "json")
    assert shown.code == 0, shown.stderr
    rows = json.loads(shown.stdout)["rows"]
    assert theirs.read_text() != (measured["out"] / "cells" / theirs.name).read_text()
    assert sum(row["method"] == "base" for row in rows) == 1
    assert {row["label"] for row in rows if row["method"] == "external"} == {
        "lora",
        "qlora",
        "full",
    }


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def run_eval(warm, tiny_model, tmp_path):
    """`run_eval(adapter=...)` runs the command in this process; exit code and label -> record."""
    out = tmp_path / "out"

    def run(
        model=tiny_model, suites=("perplexity",), measuring=DEFAULT, chat_template=None, **options
    ):
        given = ModelOptions(str(model), suites=suites, precision="float32", **options)
        code = evaluate(given, replace(measuring, out=out), warm, None, chat_template)
        found = [json.loads(one.read_text()) for one in (out / "cells").iterdir()]
        return code, {one["plan"]["label"]: one for one in found}

    return run


def test_a_record_joins_an_experiments_leaderboard(
    harness, run_eval, finished, tiny_model, adapter, tmp_path, capsys
):
    out = tmp_path / "out"
    shutil.copytree(finished.out, out)
    measuring = MeasuringOptions(suite_folders=(finished.folder,), as_json=True)
    code, _ = run_eval(adapter=str(adapter), suites=SUITES, measuring=measuring)
    assert code == 0
    board = json.loads(capsys.readouterr().out)
    assert {row["label"]: row["method"] for row in board["rows"]} == {
        "base": "base",
        "mine": "external",
    }
    mine = next(row for row in board["rows"] if row["label"] == "mine")
    base = next(row for row in board["rows"] if row["label"] == "base")
    assert {name.split(".")[0] for name in base["metrics"]} == set(SUITES)
    measured = [name for name, one in base["metrics"].items() if one["value"] is not None]
    assert all(mine["metrics"][name]["delta"] is not None for name in measured)
    suites = [part for name in SUITES for part in ("--suite", name)]
    again = harness(
        *("eval", tiny_model, "--adapter", adapter, "--suites", finished.folder, *suites),
        *("--precision", "float32", "--out", out),
    )
    assert (again.code, again.stderr) == (0, "")
    assert "Nothing to do: all 2 cells are recorded" in again.stdout
    rows = json.loads(harness("leaderboard", out, "--format", "json").stdout)["rows"]
    assert {row["label"] for row in rows} == {"base", "full", "lora", "qlora", "mine"}
    assert len({row["model"] for row in rows}) == 1


def test_what_does_not_fit_is_recorded_with_its_reason(run_eval, adapter, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(adapter, broken)
    file = broken / adapters.WEIGHTS
    save_file({k: v[:, :-1].contiguous() for k, v in load_file(file).items()}, file)
    code, records = run_eval(adapter=str(broken))
    assert code == 5
    assert {label: one["status"] for label, one in records.items()} == {
        "base": "ok",
        "broken": "error",
    }
    assert re.search("the adapter broken does not fit .*size mismatch", capsys.readouterr().err)


def test_a_template_of_the_users_own_is_used(run_eval, tiny_model_without_template, tmp_path):
    file = tmp_path / "chatml.jinja"
    file.write_text(CHATML)
    code, records = run_eval(tiny_model_without_template, chat_template=file)
    assert code == 0
    assert records["base"]["evaluation"]["suites"]["perplexity"]["metrics"]["perplexity"]["n"] == 1


def test_wrong_input_is_one_line_and_nothing_is_written(harness, tiny_model, adapter, tmp_path):
    ran = harness("eval", adapter, "--out", tmp_path / "out")
    assert ran.code == 2
    assert f"it is an adapter, not a model: harness eval BASE --adapter {adapter}" in ran.error
    ran = harness("eval", tiny_model, "--adapter", tiny_model, "--out", tmp_path / "out")
    assert ran.code == 2
    assert "has no adapter_config.json: it is a whole model" in ran.error
    assert not (tmp_path / "out").exists()


# ---- cells ---------------------------------------------------------------------------------------


def labels(plan):
    return [(cell.method, cell.label) for cell in plan.cells]


def test_a_model_alone_is_its_own_base(finished, plan_of):
    assert [cell.id for cell in plan_of().cells] == [finished.records()["base-0"]["id"]]
    assert labels(plan_of(label="theirs")) == [("base", "theirs")]


def test_the_untouched_model_is_the_base_of_what_is_given(plan_of, trained, tiny_model, adapter):
    base = ("base", "base")
    assert labels(plan_of(adapter=adapter)) == [base, ("external", "mine")]
    assert labels(plan_of(load_in_4bit=True)) == [base, ("external", "tiny-4bit")]
    full = trained["full-0"]
    compared = plan_of(full, base=tiny_model)
    assert labels(compared) == [base, ("external", full.name)]
    assert {cell.model.path for cell in compared.cells} == {str(tiny_model)}
    both = plan_of(full, base=tiny_model, adapter=adapter).cells[1]
    assert both.label == "mine"
    assert both.options["weights"]["path"] == str(full)
    assert both.options["adapter"]["path"] == str(adapter)


def test_an_id_depends_on_the_bytes_and_not_on_the_place(plan_of, adapter, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(adapter, copy)
    (copy / "README.md").write_text("Another card.")
    (copy / "training.json").write_text("{}")
    before = plan_of(adapter=adapter, label="x").cells[1]
    assert plan_of(adapter=copy, label="x").cells[1].id == before.id
    assert str(adapter.parent) not in json.dumps(before.as_record())
    config = json.loads((copy / adapters.CONFIG).read_text())
    (copy / adapters.CONFIG).write_text(json.dumps({**config, "lora_alpha": 5}))
    changed = plan_of(adapter=copy, label="x").cells[1]
    others = [plan_of(adapter=adapter, label="x", load_in_4bit=True), plan_of(adapter=adapter)]
    assert len({before.id, changed.id, *(plan.cells[1].id for plan in others)}) == 4


def test_what_a_training_sealed_is_measured_whole_or_not_at_all(
    harness, plan_of, trained, tiny_model, tmp_path
):
    for label in ("lora-0", "full-0"):
        shutil.copytree(trained[label], tmp_path / label)
    lora, full = tmp_path / "lora-0", tmp_path / "full-0"
    assert labels(plan_of(adapter=lora, label="x"))[1] == ("external", "x")
    assert labels(plan_of(full, base=tiny_model, label="x"))[1] == ("external", "x")
    config = json.loads((lora / adapters.CONFIG).read_text())
    (lora / adapters.CONFIG).write_text(json.dumps({**config, "lora_alpha": 5}))
    (full / "chat_template.jinja").unlink()
    ran = harness("eval", tiny_model, "--adapter", lora, "--out", tmp_path / "out")
    assert ran.code == 2
    assert f"the folder is not what was trained there: {adapters.CONFIG} changed" in ran.error
    with pytest.raises(ConfigError, match=r"chat_template\.jinja is missing; train it again"):
        plan_of(full, base=tiny_model, label="x")
    (lora / "training.json").unlink()  # as the message says
    assert labels(plan_of(adapter=lora, label="x"))[1] == ("external", "x")
    (lora / "training.json").write_text('{"loss": [1, 2]}')  # another tool's
    assert labels(plan_of(adapter=lora, label="x"))[1] == ("external", "x")


def test_an_experiment_names_it_beside_other_methods(experiment, adapter):
    shutil.copytree(adapter, experiment().folder / "theirs")
    method = {"name": "external", "adapter": "theirs", "label": "ours"}
    small = experiment(methods=["lora", method])
    plan = make_plan(load_experiment(small.file), Plugins(discover=False), Settings())
    assert labels(plan) == [("base", "base"), ("lora", "lora"), ("external", "ours")]
    assert plan.cells[2].data is None
    alone = small.write(methods=[method], data=None)
    untrained = ["base", "external"]
    assert (
        len(make_plan(load_experiment(alone.file, (), untrained), Plugins(), Settings()).cells) == 2
    )


def test_another_method_that_does_not_train_is_not_the_base(experiment):
    class Odd(Method):
        name = "odd"
        trains = False

    loaded = Plugins(discover=False)
    loaded.methods.things = {"odd": Odd(), **loaded.methods.things}
    plan = make_plan(load_experiment(experiment(methods=["odd"]).file), loaded, Settings())
    assert labels(plan) == [("base", "base"), ("odd", "odd")]


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ({}, "what was trained elsewhere"),
        ({"adapter": 3}, "expected the name of a model or a folder, got 3"),
        ({"adapter": "gone"}, "adapter 'gone': no such folder"),
        ({"weights": "gone"}, "model 'gone' cannot be found"),
        ({"adaptor": "gone"}, "unknown key 'adaptor'"),
    ],
)
def test_an_experiment_that_names_it_badly_is_told_where(experiment, method, error):
    small = experiment(methods=["base", {"name": "external", **method}])
    with pytest.raises(ConfigError, match=rf"experiment.yaml:\d+: .*{error}"):
        make_plan(load_experiment(small.file), Plugins(discover=False), Settings())


def test_what_it_is_compared_with_keeps_its_label(plan_of, adapter):
    with pytest.raises(UserError, match="give another --label"):
        plan_of(adapter=adapter, label="base")


# ---- adapters ------------------------------------------------------------------------------------


def without_weights(folder):
    (folder / adapters.WEIGHTS).unlink()


def pickled(folder):
    (folder / adapters.WEIGHTS).rename(folder / "adapter_model.bin")


def stating(**changes):
    def state(folder):
        config = json.loads((folder / adapters.CONFIG).read_text())
        (folder / adapters.CONFIG).write_text(json.dumps({**config, **changes}))

    return state


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (
            lambda folder: (folder / adapters.CONFIG).unlink(),
            "no adapter_config.json, so it is not an adapter",
        ),
        (lambda folder: (folder / adapters.CONFIG).write_text("{"), "broken adapter_config.json"),
        (without_weights, "no adapter_model.safetensors: save the adapter again"),
        (pickled, r"holds a pickle .* convert it .*weights_only=True"),
        (stating(task_type="SEQ_CLS"), "for task SEQ_CLS"),
        (stating(peft_type="CPT", num_virtual_tokens=8), "virtual tokens"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_before_anything_runs(
    adapter, tmp_path, change, error
):
    copy = tmp_path / "copy"
    shutil.copytree(adapter, copy)
    change(copy)
    with pytest.raises(ConfigError, match=error):
        adapters.resolve_adapter(str(copy))


def opened(tiny_model, folder):
    return open_artifact(Artifact("adapter", ModelRef("tiny", str(tiny_model)), path=str(folder)))


def test_an_adapter_for_more_layers_is_not_opened_in_part(tiny_model, adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    deeper, shallower = tmp_path / "deeper", tmp_path / "shallower"
    tensors = load_file(adapter / adapters.WEIGHTS)
    third = {k.replace("layers.1.", "layers.2."): v for k, v in tensors.items() if "layers.1." in k}
    first = {k: v for k, v in tensors.items() if "layers.0." in k}
    for folder, kept in ((deeper, {**tensors, **third}), (shallower, first)):
        shutil.copytree(adapter, folder)
        save_file({k: v.clone() for k, v in kept.items()}, folder / adapters.WEIGHTS)
    with pytest.raises(UserError, match=r"the model has no layer for 14 of its tensors"):
        opened(tiny_model, deeper)
    with pytest.raises(UserError, match="missing adapter keys"):
        opened(tiny_model, shallower)


def test_an_adapters_own_tokenizer_and_template_are_used(tiny_model, tokenizer, adapter, tmp_path):
    own, shouting = tmp_path / "own", CHATML.replace("<|im_start|>", "<|im_start|>!")
    shutil.copytree(adapter, own)
    (own / "chat_template.jinja").write_text(shouting)
    assert opened(tiny_model, own).tokenizer.chat_template == shouting
    tokenizer = type(tokenizer).from_pretrained(tiny_model)
    tokenizer.chat_template = shouting
    tokenizer.save_pretrained(own)
    found = opened(tiny_model, own)
    assert found.tokenizer.name_or_path == str(own)
    assert found.tokenizer.chat_template == shouting
    rows = found.model.get_input_embeddings().weight.shape[0]
    assert rows == len(tokenizer)
    assert opened(tiny_model, adapter).tokenizer.chat_template == CHATML
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(own)
    with pytest.raises(UserError, match=f"has {rows + 1} tokens, the model {rows} embeddings"):
        opened(tiny_model, own)


def test_weights_come_with_their_own_tokenizer(tiny_model, tmp_path):
    theirs, shouting = tmp_path / "theirs", CHATML.replace("<|im_start|>", "<|im_start|>!")
    shutil.copytree(tiny_model, theirs)
    (theirs / "chat_template.jinja").write_text(shouting)
    base, weights = ModelRef("tiny", str(tiny_model)), ModelRef("theirs", str(theirs))
    found = open_artifact(Artifact("weights", base, weights=weights))
    assert found.tokenizer.chat_template == shouting


def test_a_base_of_another_content_is_noted_in_the_record(run_eval, adapter, tiny_model, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    reweighed(other)
    code, records = run_eval(other, adapter=str(adapter))
    (noted,) = doubts(records["mine"])
    assert code == 0
    assert noted.startswith("adapter.other_base: the adapter says that its base is tiny; it was ")
    _, records = run_eval(adapter=str(adapter), label="right")
    assert doubts(records["right"]) == []


def doubts(record):
    return [line for line in record["warnings"] if line.startswith("adapter.")]


def reweighed(folder):
    """Give a model of random weights others of the same shapes."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = {name: one * 1.5 for name, one in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def test_an_adapter_that_changes_nothing_is_refused_before_anything_runs(
    harness, tiny_model, adapter, tmp_path
):
    from safetensors.torch import load_file, save_file

    zero = tmp_path / "zero"
    shutil.copytree(adapter, zero)
    file = zero / adapters.WEIGHTS
    tensors = {k: v * 0 if "lora_B" in k else v for k, v in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    ran = harness("eval", tiny_model, "--adapter", zero, "--out", tmp_path / "out")
    assert ran.code == 2
    assert "changes nothing: the update of each of its 14 layers is zero (lora_B)" in ran.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("steps", "told"), [(2, "adapter.no_effect"), (10, "loss_not_falling")])
def test_a_training_that_moved_nothing_is_told_once(experiment, warm, steps, told):
    budget = {"steps": steps, "batch": 2, "max_length": 96, "precision": "float32"}
    lora = {"name": "lora", "r": 4, "lr": 1e-30}
    small = experiment(methods=[lora], budget=budget, suites=["predicts"]).write()
    run_warm(small, warm)
    names = ("adapter.no_effect", "loss_not_falling")
    lines = small.records()["lora-0"]["warnings"]
    assert [name for line in lines for name in names if name in line] == [told]


def test_what_was_trained_here_raises_no_doubt(finished):
    assert [doubt for record in finished.records().values() for doubt in doubts(record)] == []


# ---- templates -----------------------------------------------------------------------------------


def test_a_model_without_a_template_is_told_before_it_is_loaded(
    plan_of, tiny_model_without_template
):
    with pytest.raises(ConfigError, match=r"MODEL: .*no chat template.*--chat-template FILE"):
        plan_of(tiny_model_without_template)
    assert labels(plan_of(tiny_model_without_template, suites=["picks"]))
    given = plan_of(tiny_model_without_template, chat_template=CHATML)
    assert given.base.chat_template == CHATML
    other = plan_of(tiny_model_without_template, chat_template="{# another #}" + CHATML)
    assert given.base.id != other.base.id


def test_what_a_model_is_compared_with_can_be_in_4_bits_too():
    given = {"suites": SUITES, "base_in_4bit": True}
    found = experiment_of(ModelOptions("some/model", load_in_4bit=True, **given))
    assert found.base == "base-nf4"
    assert [(entry.label, entry.options) for entry in found.methods] == [
        ("base-nf4", {"quant_type": "nf4"}),
        ("model-4bit", {"load_in_4bit": True}),
    ]
    with pytest.raises(UserError, match="--base-in-4bit: MODEL is compared with nothing"):
        experiment_of(ModelOptions("some/model", **given))
    with pytest.raises(UserError, match="'base-nf4' is the label of what it is compared with"):
        experiment_of(ModelOptions("some/model", adapter="x", label="base-nf4", **given))
