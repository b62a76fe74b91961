"""Which adapters fit a model: layers, ranks, configurations of peft, what is saved and reopened."""

import json
import re
import shutil

import pytest
from harness.plugins.methods.peft import PeftOptions

from harness import LowRankOptions
from harness.config.strict_yaml import parse, validate_options
from harness.errors import ConfigError, UserError
from harness.models import adapter_fit, layers, stored_quantization
from harness.types import ModelRef

GROUPED = "model: embed_tokens; mlp: down_proj, gate_proj, up_proj; self_attn: k_proj, o_proj, q_"


@pytest.fixture(scope="module")
def ref(tiny_model):
    return ModelRef("tiny", str(tiny_model))


@pytest.mark.parametrize(
    ("targets", "rank", "said"),
    [
        (["q_prj"], 4, rf"'q_prj' matches no layer: did you mean q_proj\? the model has {GROUPED}"),
        (["q_proj", "w1"], 4, "'w1' matches no layer; the model has"),
        (
            "q_proj",
            4,
            r"'q_proj' matches no layer as a pattern for the whole name: write \[q_proj\]",
        ),
        ("q_(", 4, r"invalid regular expression 'q_\('"),
        ("all-linear", 64, r"rank 64 is above the width 32 of model\.layers\.self_attn\.k_proj"),
        (["q_proj"], 65, "rank 65 is above the width 64"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(ref, targets, rank, said):
    with pytest.raises(UserError, match=said) as caught:
        adapter_fit.check_target_modules(ref, targets, rank)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("targets", "rank"),
    [("all-linear", 32), (["q_proj"], 64), (r".*\.[qk]_proj", 8), (["lm_head"], 8), (None, 999)],
)
def test_what_fits_is_let_through(ref, targets, rank):
    adapter_fit.check_target_modules(ref, targets, rank)


def test_stored_names_and_widths_are_those_of_the_loaded_model(ref, tiny_artifact):
    from harness.models.language_model import load_weights

    stored = {one for one in layers.stored_layers(layers.Path(ref.path)) if one.width}
    loaded = {one for one in layers.loaded_layers(load_weights(tiny_artifact)) if one.width}
    assert stored == {one for one in loaded if one.name != "lm_head"}  # it is tied


@pytest.fixture(scope="module")
def stored_in_4_bits(tiny_model, tmp_path_factory):
    """The tiny model with its weights quantised on disk."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = tmp_path_factory.mktemp("stored")
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True)
    AutoModelForCausalLM.from_pretrained(tiny_model, quantization_config=four).save_pretrained(
        folder
    )
    return ModelRef("stored", str(folder))


def test_widths_of_a_base_stored_in_4_bits_are_those_of_its_layers(ref, stored_in_4_bits):
    def widths(model):
        return {(one.name, one.width) for one in layers.stored_layers(layers.Path(model.path))}

    assert widths(stored_in_4_bits) == widths(ref)
    adapter_fit.check_target_modules(stored_in_4_bits, "all-linear", 16)
    with pytest.raises(UserError, match=r"rank 64 is above the width 32 of model\.layers"):
        adapter_fit.check_target_modules(stored_in_4_bits, "all-linear", 64)


def test_a_base_stored_in_4_bits_is_noted_and_not_trained_whole(ref, stored_in_4_bits):
    from harness.plugins.methods.full import FullOptions

    with pytest.raises(
        UserError, match=r"'stored' is stored in 4 bits \(fp4, .*take lora or qlora"
    ):
        FullOptions().fits(stored_in_4_bits)
    FullOptions().fits(ref)
    LowRankOptions().fits(stored_in_4_bits)
    assert "opened so" in stored_quantization.note(stored_in_4_bits)
    assert stored_quantization.note(ref) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("config: VeraConfg", r"f\.yaml:1: .*no configuration class 'VeraConfg': .*'VeraConfig'"),
        (
            "config: VeraConfig\nfields:\n  r: 64\n  dropout: 0.1",
            r"f\.yaml:4: fields\.dropout .*VeraConfig has no such field: .*'vera_dropout'",
        ),
        (
            "config: VeraConfig\nfields:\n  r: wide",
            r"f\.yaml:3: fields\.r of method 'peft': expected a whole number, got 'wide'",
        ),
        ("config: PromptTuningConfig", "virtual tokens; use the methods prefix or prompt"),
        ("config: AdaLoraConfig", "AdaLoraConfig cannot be trained here: its ranks"),
        ("fields: {task_type: SEQ_CLS}", "only CAUSAL_LM is trained here"),
        ("fields: {init_lora_weights: eva}", "not possible here: it needs activations"),
    ],
)
def test_a_configuration_of_peft_is_checked_without_peft(text, said):
    with pytest.raises(ConfigError, match=said):
        options(text)


def options(text):
    read = parse(text, "f.yaml")
    return validate_options(PeftOptions, read.data, read, (), "method 'peft'")


def test_every_class_that_is_offered_has_the_fields_that_peft_gives_it():
    import dataclasses

    import peft
    from harness.plugins.methods import peft as method

    known = [n for n in method._classes() if method.ROOT in method._ancestors(n)]
    offered = [n for n in known if hasattr(peft, n) and not method._refusal(n)]
    assert {"LoraConfig", "LoHaConfig", "VeraConfig", "OFTConfig"} <= set(offered)
    own = {field.name for field in dataclasses.fields(peft.PeftConfig)}
    for name in set(offered) - {method.ROOT, "LycorisConfig"}:
        real = {f.name for f in dataclasses.fields(getattr(peft, name)) if f.init} - own
        assert real == set(method._model(name).model_fields), name


@pytest.mark.parametrize("kind", ["IA3Config", "VeraConfig"])
def test_an_adapter_of_any_kind_for_more_layers_is_not_opened_in_part(
    ref, tiny_artifact, tmp_path, kind
):
    import peft
    from safetensors.torch import load_file, save_file

    from harness.models import adapters
    from harness.models.language_model import load_weights, open_artifact
    from harness.types import Artifact

    config = getattr(peft, kind)(task_type="CAUSAL_LM", target_modules=["q_proj", "o_proj"])
    if kind == "IA3Config":
        config.feedforward_modules = set()
    peft.get_peft_model(load_weights(tiny_artifact), config).save_pretrained(tmp_path / "good")
    found = Artifact("adapter", ref, path=str(tmp_path / "good"))
    open_artifact(found)
    tensors = load_file(tmp_path / "good" / adapters.WEIGHTS)
    third = {k.replace("layers.1.", "layers.2."): v.clone() for k, v in tensors.items()}
    shutil.copytree(tmp_path / "good", tmp_path / "deeper")
    save_file({**tensors, **third}, tmp_path / "deeper" / adapters.WEIGHTS)
    with pytest.raises(UserError, match="the model has no layer for"):
        open_artifact(Artifact("adapter", ref, path=str(tmp_path / "deeper")))


def test_a_converted_adapter_is_a_plain_lora_of_twice_the_rank(tmp_path):
    from harness.manager import plugins
    from harness.testing import Trial, check_answers_when_reopened

    how = {"fields": {"init_lora_weights": "olora", "r": 4, "target_modules": ["q_proj"]}}
    trial = Trial(plugins().methods.get("peft"), tmp_path, how)
    check_answers_when_reopened(trial)
    saved = json.loads((trial.trained.job.folder / "adapter_config.json").read_text())
    assert (saved["r"], saved["init_lora_weights"]) == (8, True)


def test_an_initialisation_that_changes_the_base_is_refused_where_it_cannot_be_saved(tmp_path):
    from harness.manager import plugins
    from harness.testing import Trial

    fields = {"init_lora_weights": "pissa", "use_dora": True, "target_modules": ["q_proj"]}
    for how, said in (
        ({"fields": fields}, "cannot be saved together with use_dora"),
        ({"fields": {"init_lora_weights": "pissa"}, "quant_type": "nf4"}, "which are quantised"),
    ):
        trial = Trial(plugins().methods.get("peft"), tmp_path / said[:6], how)
        trial.folder.mkdir()
        with pytest.raises(UserError, match=said):
            _ = trial.trained


def saved(config, tokenizer, folder):
    """A folder with a random model of a configuration, and a ModelRef of it."""
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelRef(folder.name, str(folder))


def state_space(tokenizer, folder):
    from transformers import MambaConfig

    sizes = {"hidden_size": 64, "state_size": 8, "num_hidden_layers": 2}
    return saved(MambaConfig(vocab_size=len(tokenizer), **sizes), tokenizer, folder)


def mixture(kind, tokenizer, folder, **changes):
    import transformers

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= heads | {"num_experts_per_tok": 2, "vocab_size": len(tokenizer), **changes}
    return saved(getattr(transformers, f"{kind}Config")(**sizes), tokenizer, folder)


def left_out(ref, rank):
    """What `all-linear` leaves out of the loaded model, and the layers that have an adapter."""
    from peft import LoraConfig, get_peft_model

    from harness.models import initial_adapter
    from harness.models.language_model import load_weights
    from harness.types import Artifact

    model = load_weights(Artifact("base", ref))
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, target_modules="all-linear")
    said = initial_adapter.check(model, config)
    adapted = get_peft_model(model, config)
    return said, {n.split(".lora_A")[0].rpartition(".")[2] for n in adapted.state_dict()} - {""}


def test_all_linear_leaves_a_gate_of_one_number_out_and_says_so(tokenizer, tmp_path):
    experts = {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64}
    ref = mixture("Qwen2Moe", tokenizer, tmp_path / "gated", **experts)
    LowRankOptions(r=16).fits(ref)
    said, adapted = left_out(ref, 16)
    gate = "model.layers.mlp.shared_expert_gate"
    assert said == [f"all-linear leaves {gate} out: its width of 1 is below the rank 16"]
    assert "q_proj" in adapted
    with pytest.raises(UserError, match="rank 16 is above the width 1 of"):
        LowRankOptions(r=16, target_modules=["q_proj", "shared_expert_gate"]).fits(ref)


def test_all_linear_leaves_out_what_the_state_space_kernel_reads(tokenizer, tmp_path):
    ref = state_space(tokenizer, tmp_path / "mamba")
    LowRankOptions(r=4).fits(ref)
    said, adapted = left_out(ref, 4)
    assert [text.split(" out: ")[0] for text in said] == [
        f"all-linear leaves backbone.layers.mixer.{name}"
        for name in ("dt_proj", "out_proj", "x_proj")
    ]
    assert "in_proj" in adapted
    assert not {"dt_proj", "out_proj", "x_proj"} & adapted
    with pytest.raises(UserError, match="'out_proj' is incompatible with Mamba-based models"):
        LowRankOptions(r=4, target_modules=["in_proj", "out_proj"]).fits(ref)


def test_every_layer_with_an_adapter_of_all_linear_is_trained(tokenizer, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    from harness.models import initial_adapter
    from harness.models.language_model import load_weights
    from harness.types import Artifact

    ref = state_space(tokenizer, tmp_path / "mamba")
    model = load_weights(Artifact("base", ref))
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    initial_adapter.check(model, config)
    adapted = get_peft_model(model, config)
    ids = torch.tensor([[5, 6, 7, 8]])
    adapted(input_ids=ids, labels=ids).loss.backward()
    found = {n: p.grad for n, p in adapted.named_parameters() if p.requires_grad}
    assert found
    assert [name for name, gradient in found.items() if gradient is None] == []


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_family_that_does_not_run_quantised_is_refused_before_training(kind, tokenizer, tmp_path):
    from harness.plugins.methods.qlora import QloraOptions

    from harness.models.language_model import load_weights
    from harness.types import Artifact

    ref = state_space(tokenizer, tmp_path / "mamba")
    said = "models of type mamba cannot be quantised by bitsandbytes: .* take lora or dora"
    with pytest.raises(UserError, match=said):
        QloraOptions(r=4, quant_type=kind).fits(ref)
    with pytest.raises(UserError, match=said):
        load_weights(Artifact("base", ref, quantization={"load_in_4bit": True}))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_family_that_trl_cannot_train_is_refused_before_training(method, tmp_path):
    from harness.plugins.methods.full import FullOptions

    (tmp_path / "config.json").write_text('{"model_type": "llama4_text"}')
    options = {"full": FullOptions, "lora": LowRankOptions}[method]()
    with pytest.raises(UserError, match="type llama4_text can be evaluated and not trained"):
        options.fits(ModelRef("tiny", str(tmp_path)))


def test_all_linear_leaves_a_router_out_that_gives_more_than_a_matrix(tokenizer, tmp_path):
    ref = mixture("Phimoe", tokenizer, tmp_path / "routed", num_local_experts=4)
    LowRankOptions(r=4).fits(ref)
    said, adapted = left_out(ref, 4)
    assert said == ["all-linear leaves model.layers.mlp.router out: it gives more than a matrix"]
    assert "router" not in adapted


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Mixtral", {"num_local_experts": 4}),
        # its shared expert has a gate of one number, which is left out
        ("Qwen3Next", {"num_experts": 4, "head_dim": 16, "full_attention_interval": 2}),
    ],
)
def test_dora_on_fused_experts_is_refused_before_training_and_the_advice_works(
    kind, changes, tokenizer, tmp_path
):
    from harness.plugins.methods.dora import DoraOptions

    ref = mixture(kind, tokenizer, tmp_path / "fused", **changes)
    LowRankOptions(r=4).fits(ref)
    with pytest.raises(UserError, match="name the other layers, target_modules: ") as caught:
        DoraOptions(r=4).fits(ref)
    (advice,) = re.findall(r"target_modules: \[([\w, ]+)\]$", str(caught.value))
    assert {"k_proj", "o_proj", "q_proj", "v_proj"} <= {*advice.split(", ")}
    DoraOptions(r=4, target_modules=advice.split(", ")).fits(ref)
