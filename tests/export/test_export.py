"""`harness export`: folders that others load, merges that are what was evaluated, or are caught."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import cli
from harness.errors import HarnessError, NotTheSame, UserError
from harness.export import export, merge_worker
from harness.results import store
from harness.results.artifact_hash import artifact_hash, file_hashes
from harness.system import child_process
from harness.types import Artifact, ModelRef, Sample

QUESTIONS = [Sample(f"{i}", prompt=text) for i, text in enumerate(["Is the kettle", "The lamp is"])]


GPT2_LAYERS = ["c_attn", "c_proj", "c_fc"]


def cell(experiment: Any, label: str, seed: int = 0) -> str:
    return str(experiment.records()[f"{label}-{seed}"]["id"])


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's work in this process: it saves the seconds of importing torch."""

    def events(module: str, told: bytes) -> Iterator[dict[str, Any]]:
        from pydantic import TypeAdapter

        assert module == "harness.export.merge_worker"
        said: list[dict[str, Any]] = []
        task = TypeAdapter(merge_worker.Task).validate_json(told)
        result = merge_worker.carry_out(task, lambda **event: said.append(event))
        yield from [*said, {"result": json.loads(json.dumps(result))}]

    monkeypatch.setattr(child_process, "events", events)


@pytest.fixture
def run(here: None, finished: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """`run("lora", "--to", DIR ...)` on the finished experiment: what it printed, read as JSON."""

    def run(*arguments: object, results: Path | None = None) -> Any:
        where = ["--results", str(results or finished.out), "--json"]
        cli.main(["export", *map(str, arguments), *where], standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    return run


def opened(folder: Path) -> tuple[Any, Any]:
    """As anybody opens a model: transformers alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


# ---- merged --------------------------------------------------------------------------------------


def test_a_merged_lora_opens_in_transformers_and_is_what_was_evaluated(run, finished, tmp_path):
    to = tmp_path / "merged"
    told = run(cell(finished, "lora"), "--to", to, "--merge", "--max-shard-size", "50KB")
    seen = told["verification"]
    assert seen["passed"]
    assert seen["largest_difference"] < 1e-3
    assert seen["changed_answers"] == 0
    assert seen["tokens"] > seen["prompts"] > 10
    assert told["latency"]["merged"]["median"] > 0
    assert told["latency"]["unmerged"]["median"] > 0
    assert told == json.loads((to / "export.json").read_text())
    assert str(tmp_path) not in (to / "export.json").read_text()
    files = {f.name for f in to.iterdir()}
    assert {"config.json", "tokenizer.json", "chat_template.jinja"} <= files
    assert {"generation_config.json", "model.safetensors.index.json"} <= files
    assert len([name for name in files if name.endswith(".safetensors")]) > 1
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    model, tokenizer = opened(to)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id
    assert not list(tmp_path.glob(".*"))


def test_qlora_is_merged_into_the_dequantised_base(run, finished, tmp_path):
    told = run(cell(finished, "qlora"), "--to", tmp_path / "merged", "--merge", "--limit", 8)
    assert told["verification"]["passed"]
    assert told["verification"]["largest_difference"] < 1e-3
    assert "dequantised from nf4" in told["merged_into"]
    model, _ = opened(tmp_path / "merged")
    assert getattr(model.config, "quantization_config", None) is None
    assert str(model.dtype) == "torch.float32"


def test_a_qlora_merged_into_the_original_base_is_caught(run, finished, tmp_path, capsys):
    name, to = cell(finished, "qlora"), tmp_path / "merged"
    with pytest.raises(NotTheSame, match="a log-probability differs by"):
        run(name, "--to", to, "--merge", "--into", "original", "--limit", 4)
    seen = json.loads(capsys.readouterr().out)["verification"]
    assert seen["largest_difference"] > 10 * seen["max_difference"]
    assert NotTheSame.exit_code == 1
    assert not to.exists()
    assert not list(tmp_path.iterdir())
    told = run(name, "--to", to, "--merge", "--into", "original", "--force", "--limit", 2)
    assert told["verification"] | {"passed": False, "forced": True} == told["verification"]
    assert "before nf4" in told["merged_into"]
    assert (to / "model.safetensors").is_file()


def test_rounding_to_bf16_is_part_of_what_is_verified(run, finished, tmp_path, capsys):
    name, to = cell(finished, "lora"), tmp_path / "merged"
    # a random model's likeliest tokens are close to each other: some answers change
    told = run(name, "--to", to, "--merge", "--dtype", "bf16", "--max-changed", 1, "--limit", 4)
    assert told["verification"]["largest_difference"] > 1e-4
    assert (told["trained_precision"], told["precision"]) == ("float32", "bf16")
    assert str(opened(to)[0].dtype) == "torch.bfloat16"
    with pytest.raises(NotTheSame):
        run(name, "--to", to, "--merge", "--dtype", "bf16", "--max-difference", 1e-6, "--limit", 4)
    assert json.loads((to / "export.json").read_text()) == told  # the earlier export stands


@pytest.mark.parametrize("kind", ["dora", "rslora", "head", "dora in 4 bits", "ia3"])
def test_every_kind_of_adapter_merges(kind, tiny_model, tmp_path):
    artifact = adapter(kind, tiny_model, tmp_path / "adapter")
    folder = tmp_path / "merged"
    folder.mkdir()
    told = merge_worker.carry_out(
        merge_worker.Task(artifact, folder, True, QUESTIONS), lambda **event: None
    )
    assert export.failures(told["verification"], export.USUAL["float32"]) == []
    assert told["verification"]["largest_difference"] < 1e-3
    base = merge_worker.equivalence.observe(model_of(Artifact("base", artifact.base)), QUESTIONS)
    merged = merge_worker.equivalence.observe(
        model_of(Artifact("base", ModelRef("", str(folder)))), QUESTIONS, base
    )
    assert merge_worker.equivalence.compare(base, merged)["largest_difference"] > 0.05


def test_an_adapter_on_a_base_stored_in_4_bits_merges_into_a_float_model(tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    AutoModelForCausalLM.from_pretrained(tiny_model, quantization_config=four).save_pretrained(base)
    made = adapter("lora", tiny_model, tmp_path / "adapter")
    check_merge(replace(made, base=ModelRef("stored", str(base))), tmp_path / "merged")


def test_gpt2_in_4_bits_merges_with_its_layers_the_right_way_round(tokenizer, tmp_path):
    """GPT-2's Conv1D holds its matrix transposed, and square ones would be mistaken in silence."""
    from transformers import GPT2Config, GPT2LMHeadModel

    base = tmp_path / "gpt2"
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=4, n_positions=128)
    GPT2LMHeadModel(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    made = adapter("gpt2 in 4 bits", base, tmp_path / "adapter")
    check_merge(made, tmp_path / "merged")


def check_merge(artifact: Artifact, folder: Path) -> None:
    """The merged folder answers as the artifact does, and holds plain weights."""
    folder.mkdir()
    told = merge_worker.carry_out(
        merge_worker.Task(artifact, folder, True, QUESTIONS), lambda **event: None
    )
    assert export.failures(told["verification"], export.USUAL["float32"]) == []
    assert told["verification"]["largest_difference"] < 1e-3
    model, _ = opened(folder)
    assert getattr(model.config, "quantization_config", None) is None
    assert {str(p.dtype) for p in model.parameters()} == {"torch.float32"}


def test_an_adapter_whose_bias_has_no_place_is_refused_in_one_line(tiny_model, tmp_path):
    artifact = adapter("biased", tiny_model, tmp_path / "adapter")
    with pytest.raises(UserError, match=r"LORA adapter cannot be merged: .*bias") as caught:
        merge_worker.merge(artifact)
    assert "\n" not in str(caught.value)


def model_of(artifact: Artifact) -> Any:
    from harness.models.language_model import open_artifact

    return open_artifact(artifact)


def adapter(kind: str, model: Path, folder: Path) -> Artifact:
    """An adapter with random weights, made by peft alone."""
    import torch
    from peft import IA3Config, LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    both = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj", "down_proj"]}
    configs = {
        "ia3": IA3Config(**both, feedforward_modules=["down_proj"]),
        "rslora": LoraConfig(**both, r=4, use_rslora=True),
        "lora": LoraConfig(**both, r=4),
        "biased": LoraConfig(**both, r=4, lora_bias=True),
        "gpt2 in 4 bits": LoraConfig(task_type="CAUSAL_LM", target_modules=GPT2_LAYERS, r=4),
        "head": LoraConfig(**both | {"target_modules": ["q_proj", "lm_head"]}, r=4),
    }
    config = configs.get(kind) or LoraConfig(**both, r=4, use_dora=True)
    torch.manual_seed(1)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    adapted.save_pretrained(folder)
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"}
    return Artifact(
        "adapter",
        ModelRef("tiny", str(model)),
        str(folder),
        quantization=four if "4 bits" in kind else None,
    )


# ---- as it is ------------------------------------------------------------------------------------


def test_an_adapter_as_it_is_opens_in_peft(run, finished, tiny_model, tmp_path):
    from peft import AutoPeftModelForCausalLM

    to = tmp_path / "adapter"
    told = run(cell(finished, "lora"), "--to", to)
    assert told["made"] == "adapter"
    assert {"adapter_model.safetensors", "chat_template.jinja"} <= set(told["files"])
    assert "verification" not in told
    model = AutoPeftModelForCausalLM.from_pretrained(to)
    assert model.peft_config["default"].base_model_name_or_path == str(tiny_model)


def test_whole_weights_open_in_transformers(run, finished, tmp_path):
    import torch

    to = tmp_path / "full"
    name = cell(finished, "full")
    run(name, "--to", to)
    model, tokenizer = opened(to)
    kept, _ = opened(finished.out / "artifacts" / name)
    ids = torch.tensor([tokenizer("Do you sell a lamp?")["input_ids"]])
    assert torch.equal(model(ids).logits, kept(ids).logits)
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id


# ---- the folder ----------------------------------------------------------------------------------


def test_only_an_earlier_export_of_the_same_cell_is_replaced(run, finished, tmp_path):
    to = tmp_path / "out"
    to.mkdir()
    run(cell(finished, "lora"), "--to", to)  # an empty folder is nobody's
    run(cell(finished, "lora"), "--to", to)
    for other in (cell(finished, "full"), cell(finished, "lora", 1)):
        with pytest.raises(UserError, match="holds the export of cell lora-s0"):
            run(other, "--to", to)
    (to / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt"):
        run(cell(finished, "lora"), "--to", to)
    (to / "export.json").unlink()
    with pytest.raises(UserError, match="not empty"):
        run(cell(finished, "lora"), "--to", to)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """The results, to be changed."""
    shutil.copytree(finished.out, tmp_path / "copied")
    return tmp_path / "copied"


def wrong(*arguments: object, results: Path) -> str:
    with pytest.raises(UserError) as error:
        cli.main(["export", *map(str, arguments), "--results", str(results)], standalone_mode=False)
    told = str(error.value)
    assert "\n" not in told
    return told


def test_what_cannot_be_exported_is_told_before_anything_is_loaded(finished, tmp_path):
    to = ("--to", tmp_path / "out")
    out = finished.out
    assert "trained nothing" in wrong("base", *to, results=out)
    assert "means several cells: name one of lora-s0" in wrong("lora", *to, results=out)
    lora = cell(finished, "lora")
    assert "is for --merge" in wrong(lora, *to, "--dtype", "bf16", results=out)
    assert "quantised base" in wrong(lora, *to, "--merge", "--into", "original", results=out)
    assert "no cell 'lara'" in wrong("lara", *to, results=out)
    assert not list(tmp_path.iterdir())


def test_artifacts_that_are_gone_or_changed_are_refused(finished, copied, tmp_path):
    to = ("--to", tmp_path / "out")
    lora, qlora = cell(finished, "lora"), cell(finished, "qlora")
    (copied / "artifacts" / lora / "adapter_config.json").write_text("{}")
    assert "adapter_config.json changed since it was saved" in wrong(lora, *to, results=copied)
    shutil.rmtree(copied / "artifacts" / qlora)
    assert "keep artifacts/ beside cells/" in wrong(qlora, *to, results=copied)


def test_an_adapter_of_another_base_is_refused(finished, copied, tiny_model, tmp_path):
    to = ("--to", tmp_path / "out")
    lora = cell(finished, "lora")
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    told = wrong(lora, *to, "--base", other, results=copied)
    assert "is another model" in told
    assert "--base MODEL" in told
    moved(copied, lora)
    assert "--base MODEL" in wrong(lora, *to, results=copied)
    found = export.source(lora, [copied], base=str(tiny_model))
    assert found.artifact.base.path == str(tiny_model)


def moved(results: Path, name: str) -> None:
    """As on another machine: the base is not where it was."""
    file = results / "artifacts" / name / "training.json"
    kept = json.loads(file.read_text())
    kept["artifact"]["base"]["path"] = "/another/machine/tiny"
    store.write_json(file, store.seal(kept))


def record_hash(results: Path, name: str) -> None:
    """Have the record vouch for the artifact as it is now."""
    folder, file = results / "artifacts" / name, results / "cells" / f"{name}.json"
    training = json.loads((folder / "training.json").read_text())
    training["files"] = file_hashes(folder)
    store.write_json(folder / "training.json", store.seal(training))
    kept = training["artifact"]
    artifact = Artifact(**kept | {"base": ModelRef(**kept["base"]), "path": str(folder)})
    found = json.loads(file.read_text())
    found["evaluation"]["artifact_hash"] = artifact_hash(artifact)
    store.write_json(file, store.seal(found))


def test_virtual_tokens_cannot_be_merged(finished, copied, tmp_path):
    lora = cell(finished, "lora")
    file = copied / "artifacts" / lora / "adapter_config.json"
    kind = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 8}
    file.write_text(json.dumps(json.loads(file.read_text()) | kind))
    record_hash(copied, lora)
    said = wrong(lora, "--to", tmp_path / "out", "--merge", results=copied)
    assert "PROMPT_TUNING adapter" in said
    assert "leave --merge out" in said


# ---- what is asked -------------------------------------------------------------------------------


def test_prompts_are_those_of_the_suites_or_of_a_file(finished, copied, tmp_path):
    lora = cell(finished, "lora")
    own, origin = export.samples(export.source(lora, [copied]), None, 12)
    assert origin == "the cell's own suites"
    assert {one.id.split("/")[0] for one in own} == {"answers", "picks", "tasks"}
    assert len(own) == 12
    assert all(one.reference for one in own)
    shutil.rmtree(copied / "samples")
    bundled, origin = export.samples(export.source(lora, [copied]), None, 3)
    assert "bundled" in origin
    assert len(bundled) == 3
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "Is it?", "reference": "It is."}\n{"prompt": "Was it?"}\n')
    mine, _ = export.samples(export.source(lora, [copied]), file, 20)
    assert [one.reference for one in mine] == ["It is.", None]


def test_what_is_not_finite_fails_and_is_told_as_null_with_a_reason():
    from dataclasses import replace

    said = merge_worker.equivalence.Outputs(
        ("a",), ((1,),), ((2, 3),), ("x",), ((4,), (2, 3)), ((-1.0,), (-2.0, -3.0)), (0,), 0, (1.0,)
    )
    broken = merge_worker.equivalence.compare(
        said, replace(said, logprobs=((-1.0,), (-2.0, float("nan"))))
    )
    assert broken["largest_difference"] is None
    assert broken["reason"] == "1 of 3 log-probabilities are not finite"
    assert export.failures(broken, export.Limits(100, 1)) == [broken["reason"]]
    same = merge_worker.equivalence.compare(said, said)
    assert export.failures(same, export.Limits(0, 0)) == []
    ends = merge_worker.equivalence.compare(said, replace(said, end_ids=(0, 9), answers=((2,),)))
    assert len(export.failures(ends, export.Limits(0, 0.5))) == 2


# ---- the process ---------------------------------------------------------------------------------


def test_a_shard_that_was_spoilt_on_the_disk_is_caught(
    finished, harness, install_by_hand, tmp_path
):
    site, to = install_by_hand("spoilt"), tmp_path / "merged"
    name = cell(finished, "lora")
    arguments = ("export", name, "--results", finished.out, "--to", to, "--merge", "--limit", 4)
    ran = harness(*arguments, env={"PYTHONPATH": str(site)})
    assert ran.code == 1, ran.stderr
    assert "Error: not exported: the merged model is not the one that was evaluated" in ran.stderr
    assert "NOT the same model" in ran.stdout
    assert not to.exists()
    assert not list(tmp_path.glob(".merged*"))


def test_a_merge_that_breaks_is_told_in_one_line(finished, harness, copied, tmp_path):
    """Whatever breaks in the child: here weights that are NaN."""
    from safetensors.torch import load_file, save_file

    name = cell(finished, "lora")
    file = copied / "artifacts" / name / "adapter_model.safetensors"
    save_file({k: v * float("nan") for k, v in load_file(file).items()}, file, {"format": "pt"})
    record_hash(copied, name)
    to = tmp_path / "merged"
    ran = harness("export", name, "--results", copied, "--to", to, "--merge", "--json")
    assert (ran.code, ran.stdout) == (2, "")
    assert "the LORA adapter cannot be merged: NaNs detected" in ran.error
    assert issubclass(UserError, HarnessError)
    assert not to.exists()


def test_a_failed_cell_is_not_exported(finished, copied, tmp_path):
    name = cell(finished, "lora")
    file = copied / "cells" / f"{name}.json"
    failed = {"status": "error", "error": {"type": "X", "message": "broke", "phase": "picks"}}
    store.write_json(file, store.seal({**json.loads(file.read_text()), **failed}))
    assert "ended with 'error'" in wrong(name, "--to", tmp_path / "out", results=copied)


def test_an_interrupt_between_the_two_renames_loses_no_export(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()
    rename = Path.rename

    def interrupted(self, to):
        if Path(to) == target:
            monkeypatch.setattr(Path, "rename", rename)
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), export.whole_or_not_at_all(target) as folder:
        (folder / export.REPORT).touch()
    assert [f.name for f in target.iterdir()] == [export.REPORT]
    assert [f.name for f in tmp_path.iterdir()] == ["out"]


def test_a_merge_that_the_card_has_no_room_for_runs_on_the_cpu(tiny_artifact, monkeypatch):
    """As on a machine whose card has 2 GB free: a float32 7B does not fit, and a tiny one does."""
    import torch

    from harness.models.language_model import (
        load_weights,
        opened_where_there_is_room,
        parameter_count,
    )

    model = load_weights(tiny_artifact)
    assert parameter_count(model) == sum(p.numel() for p in model.parameters())
    with opened_where_there_is_room(10, "float32") as device:
        assert device == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2 * 10**9, 24 * 10**9))
    with opened_where_there_is_room(7 * 10**9, "float32") as device:
        assert device == "cpu"
        assert load_weights(tiny_artifact).device.type == "cpu"
    for precision, numbers in (("float32", 220 * 10**6), ("bf16", 440 * 10**6)):
        with opened_where_there_is_room(numbers, precision) as device:
            assert device == "cuda"
        with opened_where_there_is_room(2 * numbers, precision) as device:
            assert device == "cpu"
