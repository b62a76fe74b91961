"""What the trainer is given: the plan's rows in the plan's order, with the labels kept."""

import contextlib
import shutil
from pathlib import Path

import pytest

from harness.data.tokenization import IGNORED, Encoded, encode_row
from harness.errors import UserError
from harness.training import batching, sft
from harness.types import Budget, Job, ModelRef, Row

ROWS = [
    Row(
        f"row-{i}",
        messages=(
            {"role": "user", "content": f"Do you sell {thing}?"},
            {"role": "assistant", "content": f"Yes, {thing} at {i} coins."},
        ),
    )
    for i, thing in enumerate(["a lamp", "one large green tent", "rope", "a kettle"] * 2)
]


def job(folder: Path, model: Path, **budget) -> Job:
    return Job(
        model=ModelRef("tiny", str(model)),
        options=None,
        budget=Budget(
            **{"steps": 4, "batch": 2, "max_length": 96, "precision": "float32", **budget}
        ),
        seed=7,
        train=ROWS,
        validation=ROWS[:2],
        folder=folder,
        chat_template=None,
        loss="assistant",
        phase=lambda name: contextlib.nullcontext(),
        report=lambda **event: None,
    )


@pytest.fixture
def trainer(tiny_model, tmp_path):
    """`trainer(packing=True)` makes the trainer that train_sft would run."""

    def make(budget=None, **options):
        work = job(tmp_path, tiny_model, **(budget or {}))
        from harness.types import Artifact

        model, tokenizer = sft._load(Artifact("base", work.model))
        settings = sft.SftOptions(**options)
        train, micro = sft._laid_out(work, settings, sft._encode(work, tokenizer, work.train))
        return sft._trainer(work, settings, model, tokenizer, None, train, [], micro)

    return make


def seen(batches):
    """Rows as token ids and labels without padding, in the order in which they come."""
    for batch in batches:
        yield from zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)


def test_the_batches_are_the_plans_rows_in_the_plans_order(trainer, tokenizer):
    loader = trainer().get_train_dataloader()
    rows = list(seen(loader))
    assert len(rows) == len(ROWS)
    for (ids, labels), row in zip(rows, ROWS, strict=True):
        encoded = encode_row(tokenizer, row)
        length = len(encoded.input_ids)
        assert ids[:length] == encoded.input_ids
        # padding is the end token here: what counts is kept, and no padding counts
        assert labels[:length] == encoded.labels
        assert set(labels[length:]) <= {IGNORED}
        assert tokenizer.eos_token_id in labels[:length]


def test_packed_rows_do_not_attend_to_each_other(trainer):
    import torch

    plain, packed = trainer(), trainer(packing=True)
    with torch.no_grad():
        losses = [
            [float(t.compute_loss(t.model, batch)) for batch in t.get_train_dataloader()]
            for t in (plain, packed)
        ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert {b["input_ids"].shape[0] for b in packed.get_train_dataloader()} == {1}


def test_the_budget_sets_steps_and_the_effective_batch(trainer):
    arguments = trainer({"batch": 4, "micro_batch": 2}).args
    assert arguments.max_steps == 4
    assert arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps == 4
    assert arguments.seed == arguments.data_seed == 7
    assert not arguments.bf16
    assert trainer({"precision": "bf16"}).args.bf16


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_trained_weights_are_float32_whatever_the_precision(tiny_model, tmp_path, precision):
    import torch

    from harness.training.low_rank import LowRankOptions
    from harness.types import Artifact

    work = job(tmp_path, tiny_model, precision=precision)
    model, tokenizer = sft._load(Artifact("base", work.model, precision=precision))
    train = sft._encode(work, tokenizer, work.train)
    options = LowRankOptions(r=2)
    made = sft._trainer(work, options, model, tokenizer, options.lora_config(), train, [], 2)
    kinds = {p.dtype for p in made.model.parameters() if p.requires_grad}
    assert kinds == {torch.float32}


def test_rows_of_a_batch_are_grouped_by_length_and_no_batch_gets_another(trainer, tokenizer):
    made = trainer({"batch": 4, "micro_batch": 2})
    lengths = [len(row["input_ids"]) for row in made.train_dataset]
    assert lengths == [n for at in (0, 4) for n in sorted(lengths[at : at + 4], reverse=True)]
    plain = trainer({"batch": 4, "micro_batch": 2, "group_by_length": False}).train_dataset
    for at in (0, 4):
        mine, theirs = (sorted(d["input_ids"][at : at + 4]) for d in (made.train_dataset, plain))
        assert mine == theirs
    assert [row["input_ids"] for row in plain] == [encode_row(tokenizer, r).input_ids for r in ROWS]


@pytest.mark.parametrize("changes", [{"micro_batch": 1}, {"micro_batch": 2}])
def test_the_losses_are_the_same_however_a_batch_is_split(tiny_model, tmp_path, changes):
    curves = []
    for name, more in (("whole", {}), ("split", changes)):
        work = job(tmp_path / name, tiny_model, batch=4, steps=2, **more)
        sft.train_sft(work, lr=1e-2)
        assert work.notes["micro_batch"] == more.get("micro_batch", 4)
        curves.append([point["loss"] for point in work.notes["loss_curve"]])
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)


def test_auto_takes_small_passes_where_padding_costs_more_than_passes():
    def rows(*lengths):
        return [Encoded([1] * n, [1] * n) for n in lengths]

    assert batching.micro_batch("auto", rows(900, 20, 30, 900), 4, "cpu") == 2
    assert batching.micro_batch("auto", rows(50, 50, 50, 50), 4, "cpu") == 4
    assert batching.micro_batch("auto", rows(900, 500, 200, 30), 4, "cpu") == 1
    assert batching.micro_batch("auto", rows(900, 20, 30, 900), 4, "cuda") == 4
    assert batching.micro_batch(None, rows(900, 20), 2, "cpu") == 2
    assert sum(batching.padded_passes(rows(900, 20, 30, 900), 4, 2)) == 1860


def test_rows_that_are_cut_or_empty_are_warned_of(tiny_model, tmp_path, tokenizer):
    warnings = []
    work = job(tmp_path, tiny_model, max_length=24)
    work = Job(**{**vars(work), "warn": warnings.append})
    kept = sft._encode(work, tokenizer, work.train)
    assert max(len(e.input_ids) for e in kept) == 24
    assert any("longer than budget.max_length 24 and were cut" in text for text in warnings)
    with pytest.raises(
        UserError, match=r"no row has a token to train on: raise budget\.max_length"
    ):
        sft._encode(job(tmp_path, tiny_model, max_length=8), tokenizer, work.train)


def test_options_that_contradict_each_other_are_refused():
    with pytest.raises(UserError, match="keep_best needs validate_every"):
        sft.SftOptions(keep_best=True).check("float32")
    sft.SftOptions(keep_best=True, validate_every=2).check("float32")


def test_validation_is_a_phase_of_its_own_and_the_best_checkpoint_is_kept(tiny_model, tmp_path):
    from harness.system.measure import Meter

    meter = Meter()
    work = Job(**{**vars(job(tmp_path, tiny_model)), "phase": meter.phase})
    artifact = sft.train_sft(work, lr=1e-3, validate_every=2, keep_best=True)
    assert {"load", "prepare", "train", "validate", "checkpoint", "save"} == set(meter.phases)
    points = work.notes["loss_curve"]
    assert [p["step"] for p in points if "validation_loss" in p] == [2, 4]
    assert work.notes["best_checkpoint"] in (2, 4)
    assert work.notes["supervised_tokens"] < work.notes["tokens"]
    assert not (tmp_path / "checkpoints").exists()
    assert artifact.kind == "weights"
    assert (tmp_path / "model.safetensors").is_file()


def test_a_loss_that_is_not_finite_stops_the_training(tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    from harness.errors import CellFailed

    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CellFailed, match="is not finite at step 1") as caught:
        sft.train_sft(job(tmp_path / "out", broken), lr=1e-3)
    assert caught.value.status == "diverged"


def test_a_step_without_a_label_has_no_loss_and_the_others_have_theirs(tiny_model, tmp_path):
    question = "Please read all of this before you answer. " * 20
    turns = ({"role": "user", "content": question}, {"role": "assistant", "content": "Yes."})
    rows = [*ROWS[:4], Row("cut", messages=turns), ROWS[5]]
    warnings = []
    work = job(tmp_path, tiny_model, steps=6, batch=1, max_length=64)
    work = Job(**{**vars(work), "train": rows, "warn": warnings.append})
    sft.train_sft(work, lr=1e-4)
    losses = {point["step"]: point["loss"] for point in work.notes["loss_curve"]}
    assert sorted(losses) == [1, 2, 3, 4, 6]
    assert min(losses.values()) > 1
    assert any("no token under the loss (first: row cut)" in text for text in warnings)


@pytest.fixture
def family(tokenizer, tmp_path):
    """`family(config)` saves a random model of a transformers configuration; its folder."""

    def make(config):
        import torch
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        folder = tmp_path / config.model_type
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def mixture(kind, tokenizer, **changes):
    """A configuration of a small mixture of four experts."""
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    own = {"vocab_size": len(tokenizer), "max_position_embeddings": 256, **changes}
    return getattr(transformers, f"{kind}Config")(**sizes, **heads, **experts, **own)


def test_a_fully_trained_mixture_of_experts_keeps_the_bases_configuration(
    family, tokenizer, tmp_path
):
    from transformers import AutoConfig, GenerationConfig

    folder = family(mixture("GptOss", tokenizer, eos_token_id=[1, 2], pad_token_id=1))
    artifact = sft.train_sft(job(tmp_path / "trained", folder, steps=1), lr=1e-4)
    base, trained = (AutoConfig.from_pretrained(place) for place in (folder, artifact.path))
    place = {"_name_or_path": None}
    assert trained.to_dict() | place == base.to_dict() | place
    assert not trained.output_router_logits
    base, trained = (GenerationConfig.from_pretrained(place) for place in (folder, artifact.path))
    assert trained.to_dict() == base.to_dict()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_mixture_whose_configuration_does_not_say_num_experts_is_trained(
    family, tokenizer, tmp_path, method
):
    from harness.training.low_rank import LowRankOptions

    folder = family(mixture("Phimoe", tokenizer))
    work = job(tmp_path / "trained", folder, steps=1)
    options = LowRankOptions(r=2, target_modules=["q_proj"])
    sft.train_sft(work, lr=1e-4, peft=options.lora_config() if method == "lora" else None)
    assert work.notes["loss_curve"][0]["loss"] > 1


def test_a_cap_on_logits_under_a_name_that_trl_does_not_read_is_trained_with(
    family, tokenizer, tmp_path
):
    from transformers import AutoConfig, xLSTMConfig

    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_heads": 4,
        "output_logit_soft_cap": 2.0,
    }
    folder = family(xLSTMConfig(vocab_size=len(tokenizer), **sizes))
    artifact = sft.train_sft(job(tmp_path / "trained", folder, steps=1), lr=1e-4)
    assert not hasattr(AutoConfig.from_pretrained(artifact.path), "final_logit_softcapping")


def test_a_loss_that_is_not_that_of_the_models_logits_is_refused(trainer):
    from harness.training.trainer import check_loss

    made = trainer()
    check_loss(made)
    made.model.lm_head.register_forward_hook(lambda module, inputs, logits: 2 * logits)
    with pytest.raises(UserError, match="another loss than LlamaForCausalLM does"):
        check_loss(made)


def test_packing_that_lets_rows_see_each_other_is_refused_before_training(
    family, tokenizer, tmp_path
):
    from transformers import BloomConfig

    sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    folder = family(BloomConfig(vocab_size=len(tokenizer), **sizes))
    work = job(tmp_path / "trained", folder, steps=1, micro_batch=2)
    with pytest.raises(UserError, match="in BloomForCausalLM packed rows depend on"):
        sft.train_sft(work, lr=1e-4, packing=True)
    work = job(tmp_path / "alone", folder, steps=1, micro_batch=1)
    sft.train_sft(work, lr=1e-4, packing=True)
