"""Predicted memory, held against what torch, peft and bitsandbytes really make."""

import dataclasses
import json

import pytest

from harness.api.footprint import Footprint
from harness.config.experiment import load_experiment
from harness.errors import UserError
from harness.manager import Plugins, plugins
from harness.models.shapes import Linear, NotPredicted, shapes_of
from harness.planning.memory import formula, trace
from harness.planning.memory.batches import Batch, with_rows
from harness.planning.memory.card import needed
from harness.planning.memory.fits import advice, bytes_of, first_rows, fit, never
from harness.planning.memory.formula import Setting, peak
from harness.planning.memory.predict import Prediction, batch_of, predict
from harness.planning.plan import Settings, make_plan
from harness.system.hardware import Gpu, Machine, TorchBuild
from tests.conftest import ROOT, write_jsonl

WIDTHS = {
    "vocab_size": 700,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "granite"]
CPU = Machine(cores=2, memory_bytes=2**34, cpu="some")
H100 = Machine(
    cores=16,
    memory_bytes=2**37,
    cpu="some",
    gpus=(Gpu("NVIDIA H100 80GB HBM3", 85 * 10**9, (9, 0)),),
    torch=TorchBuild("2.13.0", "13.0"),
)


def footprint(method, **options):
    found = plugins().methods.get(method)
    return found.footprint(found.Options.model_validate(options))


def empty_model(family, **changes):
    """A model without memory, and its config.json."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **{**WIDTHS, **changes})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return model, json.loads(config.to_json_string(use_diff=False))


# ---- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_the_real_models(family, tied):
    model, config = empty_model(family, tie_word_embeddings=tied)
    assert shapes_of(config).parameters == model.num_parameters()


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_adapter_parameters_are_pefts(family, targets):
    from peft import get_peft_model

    model, config = empty_model(family)
    method = plugins().methods.get("lora")
    options = method.Options(r=5, target_modules=targets)
    adapted = get_peft_model(model, options.lora_config())
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert formula.adapter_parameters(shapes_of(config), method.footprint(options)) == trained


def test_optimizer_bytes_are_those_of_adamw():
    import torch

    weight = torch.nn.Parameter(torch.zeros(300, 40))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    (state,) = optimizer.state.values()
    real = sum(t.nbytes for t in state.values() if t.dim())
    assert real == weight.numel() * footprint("full").state_bytes()
    assert Footprint("all", optimizer="another").state_bytes() is None


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit"])
def test_eight_bit_optimizer_bytes_are_those_of_bitsandbytes(name):
    """With the recipe's optimizer, on a real model whose embedding and head are apart."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    config = LlamaConfig(**{**WIDTHS, **WIDE, "tie_word_embeddings": False})
    model = LlamaForCausalLM(config)
    arguments = TrainingArguments(optim=name, use_cpu=True, report_to=[])
    optimizer = Trainer(model=model, args=arguments).create_optimizer()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = {
        id(t): t.nbytes
        for state in optimizer.state.values()
        for key, t in state.items()
        if isinstance(t, torch.Tensor) and "qmap" not in key
    }
    shapes = shapes_of(json.loads(config.to_json_string(use_diff=False)))
    assert formula.optimizer_bytes(shapes, footprint("full", optimizer="adamw_8bit")) == sum(
        kept.values()
    )


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("shape", [(576, 1536), (64, 128)])
def test_four_bit_bytes_are_those_of_bitsandbytes(shape, double):
    import torch
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(torch.randn(*shape), quant_type="nf4", compress_statistics=double)
    parts = [packed, state.absmax, state.code]
    if double:
        parts += [state.offset, state.state2.absmax, state.state2.code]
    real = sum(part.nbytes for part in parts)
    layer = Linear("any", shape[1], shape[0])
    assert formula.quantised_bytes(layer, footprint("qlora", double_quant=double)) == real


# ---- the peak ------------------------------------------------------------------------------------

TRACED = [
    ("full", "float32", {}),
    ("full", "bf16", {}),
    ("full", "bf16", {"weights": "bf16"}),
    ("lora", "float32", {}),
    ("lora", "bf16", {}),
    ("lora", "bf16", {"gradient_checkpointing": True}),
    ("dora", "float32", {}),
    ("dora", "bf16", {}),
]
WIDE = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4}


@pytest.mark.parametrize(("method", "precision", "options"), TRACED)
def test_the_formula_agrees_with_a_symbolic_step(method, precision, options):
    """On the real model's code, with no weights: within a tenth on a long batch."""
    _, config = empty_model("llama", **WIDE)
    asked = {
        "method": method,
        "options": options,
        "config": config,
        "precision": precision,
        "device": "cpu",
        "rows": 8,
        "length": 512,
        "supervised": 64,
    }
    real = sum(trace._peak(asked, 4).values())
    batch = Batch(8, 512, 8 * 512, 64, True, "")  # a trace has a mask
    setting = Setting(
        shapes_of(config), footprint(method, **options), batch, precision, "cpu", False
    )
    found = {k: v for k, v in peak(setting).items() if k not in ("process", "heap")}
    assert sum(found.values()) == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize(
    ("precision", "weights"), [("float32", "float32"), ("bf16", "float32"), ("bf16", "bf16")]
)
def test_what_a_layer_keeps_is_what_autograd_saves(precision, weights):
    """In a real forward pass without a mask, every weight trained: to the byte."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from harness.models.language_model import torch_dtype

    def saved(layers):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**{**WIDTHS, **WIDE, "num_hidden_layers": layers}))
        model.to(torch_dtype(weights))
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        found = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                found[storage.data_ptr()] = storage
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
        ):
            model.model(input_ids=torch.zeros(2, 128, dtype=torch.long), use_cache=False)
            return sum(storage.nbytes() for storage in found.values())

    shapes = shapes_of(empty_model("llama", **WIDE)[1])
    batch = Batch(2, 128, 256, 64, False, "")
    setting = Setting(shapes, footprint("full", weights=weights), batch, precision, "cpu", False)
    real = (saved(4) - saved(2)) // 2
    cast = formula._cast_copies(setting) // shapes.layers
    assert formula._kept_by_layer(setting, checkpointed=False) + cast == real


def test_depth_follows_from_two_runs():
    runs = {2: {"weights": 30, "activations": 10}, 4: {"weights": 40, "activations": 18}}
    assert trace._extended(runs, 10) == {"weights": 70, "activations": 42}
    assert trace._extended({2: {"weights": 3}}, 2) == {"weights": 3}


def quickstart(**settings):
    file = ROOT / "harness/bundled/quickstart.yaml"
    overrides = ["budget.precision=float32", *settings.pop("overrides", ())]
    return make_plan(
        load_experiment(file, overrides), Plugins(discover=False), Settings(**settings)
    )


def measured(label):
    """Peak resident memory of the phase train in a run of this harness."""
    (file,) = (ROOT / "results/reference/quickstart/cells").glob(f"{label}-s0-*.json")
    return json.loads(file.read_text())["training"]["phases"]["train"]["peak_host_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("label", ["full", "lora", "qlora"])
def test_the_quickstarts_peak_is_predicted_within_a_tenth(label):
    (cell,) = (c for c in quickstart(methods=(label,)).cells if c.label == label)
    found = predict(cell, CPU)
    assert found.kind == "host"
    assert found.total == pytest.approx(measured(label), rel=0.1)


# ---- the guides' table for 7B --------------------------------------------------------------------

LLAMA_7B = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
SMALL_FULL = {"weights": "bf16", "optimizer": "adamw_8bit"}


def of_7b(method, length=512, **options):
    """The prediction's setting: a row at a time, with gradient checkpointing, in bf16 on CUDA."""
    batch = Batch(1, length, length, length // 2, False, "")
    own = footprint(method, gradient_checkpointing=True, **options)
    return Setting(shapes_of(LLAMA_7B), own, batch, "bf16", "cuda", True)


@pytest.mark.parametrize(
    ("method", "options", "usual", "card"),
    [("full", SMALL_FULL, 56, 80), ("lora", {}, 20, 24), ("qlora", {}, 10, 12)],
)
def test_7b_takes_about_what_guides_say(method, options, usual, card):
    """56, 20 and 10 GB (full with 8-bit AdamW, LoRA, QLoRA) are the sizes that guides give; here a
    row at a time."""
    gigabytes = sum(peak(of_7b(method, **options)).values()) / 1e9
    assert gigabytes < card
    assert 0.45 * usual < gigabytes < 1.15 * usual


def test_a_weight_in_bf16_with_8_bit_adamw_takes_half_of_one_in_float32():
    weights = shapes_of(LLAMA_7B).parameters
    plain = formula.floor(of_7b("full", optimizer="adamw_torch_fused"))
    assert plain == 16 * weights
    small = formula.floor(of_7b("full", **SMALL_FULL))
    assert small / weights == pytest.approx(8.15, rel=0.01)
    # unfused AdamW holds another 4 bytes a weight in its step
    steps = [
        sum(peak(of_7b("full", optimizer=name)).values()) / weights
        for name in ("adamw_torch", "adamw_torch_fused")
    ]
    assert steps[0] == pytest.approx(20, rel=0.01)
    assert 16 < steps[1] < 18.1  # autocast's copies in bf16 among them


@pytest.mark.parametrize(
    ("method", "options", "memory", "says"),
    [
        (
            "full",
            {},
            80,
            "alone take 107.8 GB of 80.0 GB, so no micro-batch fits; weights: bf16 with "
            "optimizer: adamw_8bit (",
        ),
        ("full", SMALL_FULL, 24, "so no micro-batch fits; a low-rank adapter (r 16) ("),
        ("lora", {}, 12, "so no micro-batch fits; an adapter on a base in 4 bits ("),
        ("qlora", {}, 3, "so no micro-batch fits; a smaller model would"),
        ("full", SMALL_FULL, 80, None),
        # a paged optimizer's state may lie in host memory
        ("full", {"weights": "bf16", "optimizer": "paged_adamw_8bit"}, 44, None),
    ],
)
def test_what_can_never_fit_says_what_would(method, options, memory, says):
    options = {"optimizer": "adamw_torch_fused", **options}
    setting = of_7b(method, **options)
    found = Prediction(sum(peak(setting).values()), {}, "cuda", "", setting=setting)
    line = never(found, 8, memory * 10**9)
    if says is None:
        assert line is None
        return
    assert says in line
    assert "\n" not in line


# ---- cells of an experiment ----------------------------------------------------------------------


@pytest.fixture
def cells(experiment):
    """Label -> cell, of a small experiment."""
    small = experiment(
        methods=["base", "full", {"name": "lora", "r": 4}, {"name": "qlora", "r": 4}],
        budget={"steps": 3, "batch": 4, "max_length": 96, "precision": "float32"},
    )
    plan = make_plan(load_experiment(small.file), Plugins(), Settings())
    return {cell.label: cell for cell in plan.cells}


def test_the_largest_batch_is_that_of_the_tokenised_rows(cells, tokenizer):
    from harness.data.rows import training_order
    from harness.data.tokenization import IGNORED, encode_row
    from harness.data.training_set import training_rows

    cell = cells["lora"]
    rows, _ = training_rows(cell.data)
    encoded = [encode_row(tokenizer, row, max_length=96) for row in rows]
    order = training_order(len(rows), 12, cell.seed)
    parts = [[encoded[i] for i in order[at : at + 4]] for at in range(0, 12, 4)]
    largest = max(4 * max(len(e.input_ids) for e in part) for part in parts)
    found = batch_of(cell, packing=False)
    assert (found.rows, found.tokens) == (4, largest)
    learnt = [sum(i != IGNORED for e in part for i in e.labels) for part in parts]
    assert min(learnt) <= found.supervised <= max(learnt)
    packed = max(sum(len(e.input_ids) for e in part) for part in parts)
    assert batch_of(cell, packing=True).tokens == pytest.approx(packed, abs=2)


def test_a_mean_batch_is_of_rows_as_they_are_cut(experiment):
    """One row of 40,000 characters does not make all others look short."""
    rows = [{"prompt": f"Say {i}.", "completion": f"{i} is a number. " * 20} for i in range(8)]
    rows[3]["completion"] *= 100
    small = experiment(methods=["lora"], budget={"steps": 4, "batch": 2, "max_length": 48})
    write_jsonl(small.folder / "long.jsonl", rows)
    small.write(data={"train": "long.jsonl"})
    plan = make_plan(load_experiment(small.file), Plugins(), Settings())
    (cell,) = (cell for cell in plan.cells if cell.label == "lora")
    found = batch_of(cell, packing=False)
    assert (found.tokens, found.mean_tokens) == (96, pytest.approx(96, rel=0.05))


def test_a_prediction_says_what_it_is_made_of(cells):
    found = {label: predict(cell, H100) for label, cell in cells.items()}
    assert found["base"].total is None
    assert found["base"].why_not == "nothing is trained"
    for label in ("full", "lora", "qlora"):
        assert found[label].total == sum(found[label].by_category.values())
        assert found[label].kind == "cuda"
        assert not {"process", "heap"} & set(found[label].by_category)
    # AdamW's update of all weights at once is the peak where they are many and rows are few
    assert found["full"].by_category["optimizer"] == 2 * found["full"].by_category["weights"]
    assert found["qlora"].by_category["quantised base"] < found["lora"].by_category["weights"] / 4
    on_cpu = predict(cells["full"], CPU)
    assert on_cpu.kind == "host"
    assert on_cpu.by_category["process"] == formula.PROCESS_BYTES


def test_a_method_that_says_nothing_is_not_predicted(cells, monkeypatch):
    monkeypatch.setattr(type(plugins().methods.get("lora")), "footprint", lambda *_: None)
    found = predict(cells["lora"], CPU)
    assert found.total is None
    assert "does not say" in found.why_not


def test_another_layout_is_not_guessed_at():
    with pytest.raises(NotPredicted, match="no formula for models of type 'mamba'"):
        shapes_of({"model_type": "mamba"})


# ---- what fits -----------------------------------------------------------------------------------


def test_what_fits_shrinks_with_memory(cells):
    cell = cells["lora"]
    found = predict(cell, H100)
    size = needed(found.total, found.kind)
    assert size > found.total + 500_000_000  # a process's context
    assert fit(cell, found, size).fits is True
    less = fit(cell, found, size - 1)
    assert less.fits is False
    assert less.micro_batch in (1, 2)
    assert fit(cell, found, 1).micro_batch is None
    (sentence,) = advice([(cell, found, less)], size - 1)
    assert sentence == f"lora does not fit: it does with budget.micro_batch: {less.micro_batch}"
    (sentence,) = advice([(cell, found, fit(cell, found, 1))], 1)
    assert "no micro-batch does" in sentence


def test_paged_state_is_beside_what_the_allocator_counts(cells):
    full = cells["full"]
    paged = dataclasses.replace(full, options={**full.options, "optimizer": "paged_adamw_8bit"})
    found, plain = predict(paged, H100), predict(full, H100)
    assert "optimizer" not in found.by_category
    assert found.total == sum(found.by_category.values())
    assert found.beside["paged optimizer"] == found.paged < plain.by_category["optimizer"]
    assert found.beside["context"] == plain.beside["context"] > 0
    assert predict(full, CPU).beside == {}
    size = needed(found.total, found.kind) + found.paged
    assert fit(paged, found, size).fits
    assert not fit(paged, found, size - 1).fits


def test_the_first_pass_has_the_rows_that_are_predicted_to_fit(cells):
    cell = cells["lora"]
    found = predict(cell, CPU)
    assert first_rows(cell, found, found.total) is None
    assert first_rows(cell, found, found.total - 1) in (1, 2)
    assert first_rows(cell, found, 1) == 1
    # CUDA itself takes some of a card
    assert first_rows(cell, dataclasses.replace(found, kind="cuda"), found.total) == 1
    stated = dataclasses.replace(cell, budget=dataclasses.replace(cell.budget, micro_batch=4))
    assert first_rows(stated, found, 1) is None


def test_half_the_rows_are_half_the_tokens():
    whole = Batch(8, 100, 800, 40, True, "")
    half = with_rows(whole, 4)
    assert (half.rows, half.tokens, half.supervised) == (4, 400, 20)


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * 10**9), ("1.5 GiB", 3 * 2**29), ("800m", 8 * 10**8)]
)
def test_sizes_are_read(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["much", "GB", "0GB", "24XB", "-3GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UserError, match=r"--memory .*expected a size, such as 24GB"):
        bytes_of(text)


def test_the_plan_tells_memory_time_and_dollars(harness, experiment):
    small = experiment(methods=["full", {"name": "lora", "r": 4}], price_per_hour=3.6)
    ran = harness("plan", small.file, "--out", small.out, "--memory", "1MB", "--json")
    assert ran.code == 0, ran.stderr
    told = json.loads(ran.stdout)
    by_label = {cell["label"]: cell["memory"] for cell in told["cells"]}
    full = by_label["full"]
    assert full["bytes"] == sum(full["by_category"].values())
    assert full["fits"] is False
    assert full["seconds"] is None or full["dollars"] == pytest.approx(full["seconds"] / 1000)
    trained = [text for text in told["advice"] if "while suites run" not in text]
    assert len(trained) == 2
    assert told["cells"][0]["label"] == "base"
    base = by_label["base"]["evaluation"]
    assert base["bytes"] == sum(base["by_category"].values())
    assert by_label["base"]["evaluation_fits"] is False
    shown = harness("plan", small.file, "--out", small.out, "--memory", "64GB")
    assert "peak memory" in shown.stdout
    assert "up to 2 rows" in " ".join(shown.stdout.split())
    assert harness("plan", small.file, "--memory", "lots").code == 2


BUDGET = {"steps": 2, "batch": 2, "max_length": 96}


@pytest.mark.parametrize(
    ("gpu", "precision", "timed"),
    [("A100", "bf16", True), ("T4", "fp16", True), ("t4", "fp16", True), ("Q9", "bf16", False)],
)
def test_a_plan_is_made_for_a_gpu_that_is_not_here(harness, experiment, gpu, precision, timed):
    small = experiment(methods=["full"], budget={**BUDGET, "precision": "auto"})
    ran = harness("plan", small.file, "--memory", "24GB", "--gpu", gpu, "--json")
    assert ran.code == 0, ran.stderr
    (cell,) = [cell for cell in json.loads(ran.stdout)["cells"] if cell["label"] == "full"]
    assert cell["memory"]["kind"] == "cuda"
    assert cell["memory"]["fits"] is True
    assert (cell["memory"]["seconds"] is not None) is timed
    assert cell["precision"] == precision
    notes = json.loads(ran.stdout)["notes"]
    assert any(note.startswith(f"GPU '{gpu}' is not known") for note in notes) is not timed
    here = json.loads(harness("plan", small.file, "--json").stdout)["cells"]
    assert {cell["memory"]["kind"] for cell in here} == {"host"}


def test_a_gpu_to_plan_for_has_a_memory(harness, experiment):
    ran = harness("plan", experiment().file, "--gpu", "A100")
    assert ran.code == 2
    traced = harness("plan", experiment().file, "--memory", "8GB", "--gpu", "T4", "--trace")
    assert (traced.code, traced.stderr.startswith("Error: --trace runs code of")) == (2, True)
    empty = harness("plan", experiment().file, "--memory", "8GB", "--gpu", " ")
    assert (empty.code, empty.stderr.startswith("Error: --gpu names no GPU: write")) == (2, True)
    assert ran.stderr == "Error: --gpu is for --memory SIZE, the memory that the GPU has\n"
