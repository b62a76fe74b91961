"""Packed rows and long rows: what a family allows is known at plan and measured before training."""

import contextlib
import json
import random
import shutil

import pytest

from harness.config.experiment import load_experiment
from harness.errors import ConfigError, UserError
from harness.manager import Plugins
from harness.models import families
from harness.planning.plan import Settings, make_plan
from harness.training import packing
from harness.training.low_rank import LowRankOptions
from harness.training.sft_options import SftOptions
from harness.types import ModelRef

SIZES = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def configured(folder, **config):
    """A model of which only the configuration is there."""
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return ModelRef("made", str(folder))


@pytest.mark.parametrize("kind", ["bloom", "opt", "falcon", "mpt", "mamba", "gpt_oss"])
def test_packing_is_refused_at_plan_for_families_whose_rows_depend_on_each_other(tmp_path, kind):
    model = configured(tmp_path, model_type=kind)
    with pytest.raises(UserError, match=f"models of type {kind} .*: set packing: false") as caught:
        SftOptions(packing=True).fits(model)
    assert "\n" not in str(caught.value)
    SftOptions(packing=False).fits(model)


def test_packing_is_refused_for_adapters_too_and_by_the_text_model(tmp_path):
    model = configured(tmp_path, model_type="seen", text_config={"model_type": "opt"})
    with pytest.raises(UserError, match="models of type opt"):
        LowRankOptions(packing=True).fits(model)


def model_of(family):
    import torch
    import transformers

    torch.manual_seed(0)
    more = {"intermediate_size": 64} if family == "Llama" else {}
    if family == "OPT":
        more = {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
    config = getattr(transformers, f"{family}Config")(**SIZES, **more)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.2)
    return model


@pytest.mark.parametrize(
    ("family", "depends"), [("Llama", False), ("Bloom", True), ("OPT", True), ("Mamba", True)]
)
def test_packed_rows_are_compared_with_each_row_alone(family, depends):
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    model = model_of(family).train()
    draw = random.Random(0)
    rows = [draw.choices(range(3, 90), k=length) for length in (11, 30)]
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    expected = contextlib.nullcontext()
    if depends:
        expected = pytest.raises(UserError, match=r"depend on the rows before them .*packing: fal")
    for coarse in (False, True):
        with expected:
            packing.check_rows(model, collator, rows, coarse=coarse)
    assert model.training


def test_a_model_that_runs_no_packed_rows_is_refused_in_one_line():
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    model = model_of("Llama")
    model.forward = lambda input_ids, use_cache: None
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    with pytest.raises(
        UserError, match=r"LlamaForCausalLM cannot run packed rows .*packing: false"
    ):
        packing.check_rows(model, collator, [[5, 6, 7]], coarse=False)


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"model_type": "gpt2", "n_positions": 64}, 64),
        ({"model_type": "opt", "max_position_embeddings": 64}, 64),
        ({"model_type": "gpt_neo", "max_position_embeddings": 64}, 64),
        ({"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1}, 64),
        ({"model_type": "llama", "max_position_embeddings": 64}, None),
        ({"model_type": "bloom"}, None),
        ({}, None),
    ],
)
def test_models_with_an_embedding_for_each_position_have_a_longest_row(tmp_path, config, positions):
    model = configured(tmp_path, **config)
    assert families.positions(model) == positions
    families.check_length(model, positions or 10_000)
    if positions is not None:
        with pytest.raises(UserError, match="max_length 65 is beyond the 64 positions of model"):
            families.check_length(model, 65)


def test_a_budget_beyond_the_positions_is_refused_with_its_line(experiment, tiny_model):
    small = experiment(methods=["base", "full"])
    folder = small.folder / "short"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "gpt2", "n_positions": 32, "max_position_embeddings": 32}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    small.write(model="short")
    lines = small.file.read_text(encoding="utf-8").splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "max_length" in text)
    with pytest.raises(ConfigError, match=f":{line}: budget: max_length .* beyond the 32 pos"):
        make_plan(load_experiment(small.file), Plugins(discover=False), Settings())
    small.write(model="short", budget={**small.content["budget"], "max_length": 32})
    make_plan(load_experiment(small.file), Plugins(discover=False), Settings())
    small.write(methods=["base"], model="short")
    make_plan(load_experiment(small.file), Plugins(discover=False), Settings())
