"""Answers are greedy, the same in any batch, and owe nothing to a model's own settings."""

import json
import shutil

import pytest

from harness.errors import UserError
from harness.models.language_model import load_weights, open_artifact
from harness.types import Artifact, ModelRef

TEXTS = (
    "Do you sell lamps?",
    "Is the red kettle here?",
    "x",
    "You answer for a small shop. Do you sell a green tent, a blue rope or a red stove?",
    "Yes",
)


def opened(folder, **changes):
    return open_artifact(Artifact("base", ModelRef("tiny", str(folder)), **changes))


@pytest.fixture(scope="module")
def model(tiny_model):
    return opened(tiny_model)


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [tokenizer(text)["input_ids"] for text in TEXTS]


def alone(model, prompt, count):
    """transformers' own greedy answer to one prompt, up to the end token."""
    import torch

    out = model.model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=model.end_ids,
        pad_token_id=model.end_ids[0],
    )
    new = out[0, len(prompt) :].tolist()
    ends = [i for i, token in enumerate(new) if token in model.end_ids]
    return tuple(new[: ends[0]] if ends else new)


def test_a_batch_answers_as_each_prompt_alone(model, prompts):
    together = model.generate(prompts, max_new_tokens=12)
    assert [g.ids for g in together] == [alone(model, p, 12) for p in prompts]
    assert len({g.ids for g in together}) > 1


@pytest.mark.parametrize("size", [1, 2])
def test_the_size_of_a_batch_changes_nothing(tiny_model, model, prompts, size):
    other = opened(tiny_model)
    other.limit.rows = size
    expected = model.generate(prompts, max_new_tokens=8)
    assert other.generate(prompts, max_new_tokens=8) == expected


def test_nothing_is_inherited_from_a_models_generation_config(tiny_model, tmp_path, model, prompts):
    noisy = tmp_path / "noisy"
    shutil.copytree(tiny_model, noisy)
    settings = {
        "do_sample": True,
        "temperature": 3.0,
        "top_k": 5,
        "top_p": 0.5,
        "repetition_penalty": 1.9,
        "no_repeat_ngram_size": 2,
        "max_length": 9,
        "suppress_tokens": list(model.generate(prompts, max_new_tokens=1)[0].ids),
        "eos_token_id": model.end_ids[0],
    }
    (noisy / "generation_config.json").write_text(json.dumps(settings))
    expected = model.generate(prompts, max_new_tokens=12)
    assert opened(noisy).generate(prompts, max_new_tokens=12) == expected


def test_an_answer_that_meets_the_cap_says_so(model, prompts):
    (answer,) = model.generate(prompts[:1], max_new_tokens=3)
    assert answer.capped
    assert len(answer.ids) == 3


def test_the_end_token_ends_an_answer_and_is_no_part_of_it(tiny_model, tmp_path, model, prompts):
    (free,) = model.generate(prompts[3:4], max_new_tokens=8)
    end = free.ids[3]
    ending = tmp_path / "ending"
    shutil.copytree(tiny_model, ending)
    (ending / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    other = opened(ending)
    assert end in other.end_ids
    first = free.ids.index(end)
    answers = other.generate([prompts[0], prompts[3]], max_new_tokens=8)
    assert answers[1].ids == free.ids[:first]
    assert not answers[1].capped


def test_an_adapter_is_opened_on_its_base(tiny_model, tiny_artifact, tmp_path, model, prompts):
    import torch
    from peft import LoraConfig, get_peft_model

    from harness.models.language_model import load_weights

    torch.manual_seed(1)
    config = LoraConfig(
        r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(load_weights(tiny_artifact), config)
    adapted.save_pretrained(tmp_path)
    found = open_artifact(
        Artifact("adapter", ModelRef("tiny", str(tiny_model)), path=str(tmp_path))
    )
    pairs = [(prompts[0], prompts[4])]
    with torch.inference_mode():
        ids = torch.tensor([prompts[0] + prompts[4]])
        logprobs = adapted.eval()(input_ids=ids).logits[0, len(prompts[0]) - 1 : -1].log_softmax(-1)
    expected = sum(float(row[t]) for row, t in zip(logprobs, prompts[4], strict=True))
    assert found.loglikelihood(pairs)[0].logprob == pytest.approx(expected, abs=1e-5)
    assert model.loglikelihood(pairs)[0].logprob != pytest.approx(expected, abs=1e-2)


def test_what_is_no_causal_language_model_is_the_users_to_mend(tmp_path, tiny_model):

    odd = tmp_path / "odd"
    shutil.copytree(tiny_model, odd)
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps({**config, "model_type": "clip_vision_model"}))
    with pytest.raises(UserError, match="model 'tiny' cannot be opened"):
        opened(odd)


def test_a_stop_text_ends_an_answer_where_it_is_said(model, prompts):
    (free,) = model.generate(prompts[3:4], max_new_tokens=12)
    stop = model.text(free.ids[4:6])
    (answer,) = model.generate(prompts[3:4], max_new_tokens=12, stops=[stop])
    assert not answer.capped
    assert answer.ids == free.ids[: len(answer.ids)]
    assert stop in model.text(answer.ids)
    assert stop not in model.text(answer.ids[:-1])


def test_answers_are_those_of_transformers_where_prefixes_are_not_shared(
    tiny_model, model, prompts
):
    other = opened(tiny_model)
    other.not_shared = "told so"
    for stops in ((), (model.text(model.generate(prompts, max_new_tokens=4)[0].ids[2:3]),)):
        expected = model.generate(prompts, max_new_tokens=8, stops=stops)
        assert other.generate(prompts, max_new_tokens=8, stops=stops) == expected


def test_a_batch_of_answers_that_runs_out_of_memory_is_halved(tiny_model, model, prompts):
    import torch

    other = opened(tiny_model)
    assert other.not_shared is None

    def hook(module, args, kwargs):
        if kwargs["input_ids"].numel() > 60:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    other.model.model.register_forward_pre_hook(hook, with_kwargs=True)
    together = prompts[:3] * 5
    answers = other.generate(together, max_new_tokens=6)
    assert other.limit.halved > 0
    assert answers == model.generate(together, max_new_tokens=6)


def test_a_prompt_beyond_the_context_loses_its_beginning_and_says_so(model, prompts):
    long = prompts[3] * 30
    room = model.max_length - 8
    assert len(long) > room
    found = model.generate([long, prompts[0]], max_new_tokens=8)
    assert [answer.cut for answer in found] == [True, False]
    (expected,) = model.generate([long[-room:]], max_new_tokens=8)
    assert found[0].ids == expected.ids
    assert not expected.cut
    with pytest.raises(UserError, match="leaves no room for a prompt in the model's context"):
        model.generate(prompts[:1], max_new_tokens=model.max_length)


@pytest.mark.parametrize("template", [True, False])
def test_a_tokenizer_without_roles_is_used_by_its_templates_end_or_refused_in_one_line(
    tiny_model, tokenizer, tmp_path, template, prompts
):
    folder = tmp_path / "bare"
    shutil.copytree(tiny_model, folder)
    for name in ("tokenizer_config.json", "generation_config.json", "config.json"):
        settings = json.loads((folder / name).read_text(encoding="utf-8"))
        kept = {k: v for k, v in settings.items() if "_token" not in k and "special" not in k}
        (folder / name).write_text(json.dumps(kept), encoding="utf-8")
    if not template:
        (folder / "chat_template.jinja").unlink()
    bare = opened(folder)
    assert bare.tokenizer.bos_token is None
    assert bare.tokenizer.eos_token is None
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    if template:
        assert bare.end_ids[-1] == bare.end_ids[0] == bare.prefix_token == end
    else:
        with pytest.raises(UserError, match=r"no BOS or EOS token and .* set eos_token in"):
            _ = bare.prefix_token
    answers = bare.generate(prompts, max_new_tokens=4)
    assert all(0 < len(answer.ids) <= 4 or not answer.capped for answer in answers)


# 4 bits


NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"}


def in_4_bits(folder, **changes):
    return load_weights(Artifact("base", ModelRef("x", str(folder)), quantization=NF4, **changes))


@pytest.fixture(scope="module")
def odd_model(tokenizer, tmp_path_factory):
    """A Llama whose widths (24, 40) are no multiples of 32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("odd")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "with an adapter"])
def test_no_4_bit_layer_is_left_to_a_kernel_that_the_processor_chooses(tiny_model, adapted):
    """By attribute, so that it is seen on processors without the instruction too."""
    from peft import LoraConfig, get_peft_model

    model = in_4_bits(tiny_model)
    if adapted:
        lora = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", use_dora=True)
        model = get_peft_model(model, lora)
    choices = [
        module.support_avx512bf16_for_cpu
        for module in model.modules()
        if hasattr(module, "support_avx512bf16_for_cpu")
    ]
    assert len(choices) >= 7
    assert not any(choices)


@pytest.mark.parametrize("which", ["tiny_model", "odd_model"])
def test_4_bit_models_score_in_eval_mode_as_in_training(which, request):
    """Whatever the shape of a pass and the order of modes; nothing has dropout here."""
    import torch

    model = in_4_bits(request.getfixturevalue(which))
    ids = torch.arange(24).reshape(2, 12) % model.config.vocab_size

    def scores(ids):
        with torch.no_grad():
            return model(input_ids=ids).logits.float().log_softmax(-1)

    trained = scores(ids) if model.train() else None
    model.eval()
    whole = scores(ids)
    assert torch.allclose(whole, trained, atol=1e-5)
    alone = torch.cat([scores(row[None]) for row in ids])
    assert torch.allclose(alone, trained, atol=1e-4)
    assert torch.allclose(scores(ids[:, :1])[:, 0], trained[:, 0], atol=1e-4)
    assert torch.allclose(scores(ids) if model.train() else whole, trained, atol=1e-5)


def test_a_base_that_is_stored_in_4_bits_is_opened_as_it_is(tiny_model, tmp_path):
    import torch

    model = in_4_bits(tiny_model).eval()
    model.save_pretrained(tmp_path)
    stored = load_weights(Artifact("base", ModelRef("stored", str(tmp_path)))).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.allclose(stored(ids).logits, model(ids).logits, atol=1e-5)
    assert not any(
        getattr(module, "support_avx512bf16_for_cpu", False) for module in stored.modules()
    )
