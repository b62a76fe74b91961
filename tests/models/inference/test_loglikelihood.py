"""Log-probabilities are those of one plain forward pass per request, whatever was shared."""

import math
import random
import weakref

import pytest

from harness.models.inference import forward, tree_attention
from harness.models.inference.forward import Limit
from harness.models.inference.generation.decoding import Ending
from harness.models.inference.generation.greedy import greedy
from harness.models.inference.loglikelihood import (
    probe_requests,
    score_requests,
    sharing,
    why_not_shared,
)
from harness.models.inference.prefix_tree import build
from harness.models.language_model import LanguageModel, load_weights, open_artifact
from harness.types import Artifact, ModelRef

MAX_LENGTH = 256
NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "float32",
}


def requests_for(vocabulary, longest=80):
    """Four choices to each of some questions, lone pairs of many lengths, and equal ones."""
    draw = random.Random(1)

    def tokens(count):
        return draw.choices(range(vocabulary), k=count)

    shared = tokens(30)
    requests = []
    for _ in range(5):
        question = [*shared, *tokens(draw.randrange(5, 20))]
        requests += [(question, tokens(draw.randrange(1, 6))) for _ in range(4)]
    requests += [(tokens(draw.randrange(1, longest)), tokens(1 + i % 7)) for i in range(12)]
    return [*requests, requests[0]]


def naive(model, requests, max_length=MAX_LENGTH):
    """One request, one pass, float32 log-softmax."""
    import torch

    scores = []
    with torch.inference_mode():
        for context, continuation in requests:
            ids = [*context, *continuation][-(max_length + 1) :]
            logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0].float()
            logprobs = logits.log_softmax(-1)[-len(continuation) :]
            values = [float(row[t]) for row, t in zip(logprobs, continuation, strict=True)]
            best = [int(row.argmax()) for row in logprobs]
            scores.append((values, best == list(continuation)))
    return scores


def check(model, requests, tokens_per_pass=512, tolerance=1e-5, limit=None, **how):
    limit = limit or Limit(tokens_per_pass)
    found = score_requests(model, requests, max_length=MAX_LENGTH, limit=limit, **how)
    for score, (values, likeliest) in zip(found, naive(model, requests), strict=True):
        assert score.token_logprobs == pytest.approx(values, abs=tolerance, rel=1e-5)
        assert score.logprob == pytest.approx(sum(values), abs=tolerance, rel=1e-5)
        assert score.greedy == likeliest


@pytest.fixture(scope="module")
def plain(tiny_artifact):
    return load_weights(tiny_artifact).eval()


def with_adapter(model, **config):
    """A LoRA adapter whose update is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    settings = {"target_modules": "all-linear", "r": 4, **config}
    adapted = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **settings)
    )
    return adapted.eval()


def test_scores_are_those_of_a_full_forward(plain):
    check(plain, requests_for(plain.config.vocab_size))


def test_an_adapter_stays_in_force(tiny_artifact, plain):
    requests = requests_for(plain.config.vocab_size)
    adapted = with_adapter(load_weights(tiny_artifact))
    check(adapted, requests)
    untouched = naive(plain, requests[:1])[0][0]
    assert naive(adapted, requests[:1])[0][0] != pytest.approx(untouched, abs=1e-2)


def test_an_adapter_on_the_head_stays_in_force(tiny_artifact):
    adapted = with_adapter(load_weights(tiny_artifact), target_modules=["q_proj", "lm_head"])
    check(adapted, requests_for(adapted.config.vocab_size))


def test_a_base_in_4_bits_with_its_adapter(tiny_model):
    artifact = Artifact("base", ModelRef("tiny", str(tiny_model)), quantization=NF4)
    quantised = load_weights(artifact)
    check(quantised.eval(), requests_for(quantised.config.vocab_size))
    adapted = with_adapter(quantised)
    check(adapted, requests_for(adapted.config.vocab_size))


@pytest.mark.parametrize("tokens_per_pass", [1, 64, 300, 100_000])
def test_the_size_of_a_pass_changes_nothing(plain, tokens_per_pass):
    check(plain, requests_for(plain.config.vocab_size), tokens_per_pass)


def test_bf16_is_no_coarser_than_its_hidden_states(tiny_model):
    """The head runs in float32: equal within the noise of bf16 bodies, and finer than its own."""
    import torch

    artifact = Artifact("base", ModelRef("tiny", str(tiny_model)), precision="bf16")
    model = load_weights(artifact).eval()
    requests = requests_for(model.config.vocab_size)[:4]
    (score, *_) = score_requests(model, requests, max_length=MAX_LENGTH, limit=Limit(512))
    context, continuation = requests[0]
    ids = torch.tensor([[*context, *continuation][:-1]])
    with torch.inference_mode():
        hidden = model.model(input_ids=ids).last_hidden_state[0, -len(continuation) :]
        logits = hidden.float() @ model.lm_head.weight.float().T
    values = logits.log_softmax(-1)[range(len(continuation)), continuation].tolist()
    assert score.token_logprobs == pytest.approx(values, abs=0.05)
    assert any(value != float(torch.tensor(value).bfloat16()) for value in score.token_logprobs)


def test_progress_ends_at_the_total(plain):
    told = []
    score_requests(
        plain,
        requests_for(plain.config.vocab_size),
        max_length=MAX_LENGTH,
        limit=Limit(256),
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_too_long_requests_are_cut_as_lm_evals_hflm_cuts_them(tiny_artifact, plain, tokenizer):
    from lm_eval.models.huggingface import HFLM

    vocabulary = plain.config.vocab_size
    draw = random.Random(2)
    requests = requests_for(vocabulary)[:8]
    for length in (255, 256, 257, 300, 700):
        for count in (1, 4, 200):
            context = draw.choices(range(vocabulary), k=length)
            requests.append((context, draw.choices(range(vocabulary), k=count)))
    reference = HFLM(pretrained=plain, tokenizer=tokenizer, batch_size=1)
    assert reference.max_length == MAX_LENGTH
    theirs = reference._loglikelihood_tokens(
        [(("", ""), context, continuation) for context, continuation in requests],
        disable_tqdm=True,
    )
    opened = open_artifact(tiny_artifact)
    assert isinstance(opened, LanguageModel)
    assert opened.max_length == MAX_LENGTH
    ours = opened.loglikelihood(requests)
    for score, (logprob, likeliest), (context, continuation) in zip(
        ours, theirs, requests, strict=True
    ):
        assert score.logprob == pytest.approx(logprob, abs=1e-4, rel=1e-5)
        assert score.greedy == likeliest
        assert score.cut == (len(context) + len(continuation) > MAX_LENGTH + 1)


def memory_for(tokens):
    """A forward hook under which a pass of more tokens runs out of memory."""
    import torch

    def hook(module, args, kwargs):
        if kwargs["input_ids"].numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return hook


@pytest.mark.parametrize("share", [True, False])
def test_a_pass_that_runs_out_of_memory_is_halved(tiny_artifact, share):
    model = load_weights(tiny_artifact).eval()
    requests = requests_for(model.config.vocab_size)
    expected = naive(model, requests)
    model.model.register_forward_pre_hook(memory_for(200), with_kwargs=True)
    limit = Limit(2048)
    found = score_requests(model, requests, max_length=MAX_LENGTH, limit=limit, share=share)
    assert [s.logprob for s in found] == pytest.approx([sum(v) for v, _ in expected], abs=1e-5)
    assert limit.halved > 0
    assert limit.tokens < 2048


def test_one_sequence_that_does_not_fit_is_an_error(tiny_artifact):
    import torch

    model = load_weights(tiny_artifact).eval()
    model.model.register_forward_pre_hook(memory_for(10), with_kwargs=True)
    requests = [(list(range(30)), [5])]
    with pytest.raises(torch.OutOfMemoryError):
        score_requests(model, requests, max_length=MAX_LENGTH, limit=Limit(2048))


def test_the_rows_of_a_pass_can_be_set(plain):
    requests = requests_for(plain.config.vocab_size)
    seen = []
    hook = plain.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    score_requests(plain, requests, max_length=MAX_LENGTH, limit=Limit(2048, rows=2), share=False)
    hook.remove()
    assert max(rows for rows, _ in seen) == 2
    check(plain, requests, limit=Limit(2048, rows=2))


SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}


def random_model(family, **settings):
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**SMALL, **settings)).eval()


@pytest.mark.parametrize(
    "family", ["qwen2", "qwen3", "gemma", "phi3", "gpt2", "gpt_neox", "opt", "granite", "cohere"]
)
def test_other_families_score_as_their_own_forward_pass(family):
    settings = {} if family in {"gpt2", "gpt_neox", "opt"} else {"num_key_value_heads": 2}
    if family in {"gpt2", "opt"}:
        pads = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    else:
        settings |= {"intermediate_size": 64}
        pads = {"pad_token_id": None} if family in {"phi3", "cohere"} else {}
    model = random_model(family, **settings, **pads)
    share = why_not_shared(model) is None
    assert share or family in {"opt", "gpt2"}
    check(model, requests_for(300), share=share, tolerance=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_coarse_arithmetic_keeps_no_model_from_sharing(family):
    import torch

    settings = {"num_key_value_heads": 2, "intermediate_size": 64}
    model = random_model(family, **settings).to(torch.bfloat16)
    assert why_not_shared(model) is None


def with_one_row_lost(tiny_artifact, token):
    """The tiny model, whose embedding of `token` is not finite: one row of a wrecked training."""
    import torch

    model = load_weights(tiny_artifact).eval()
    if model.get_output_embeddings().weight is model.get_input_embeddings().weight:
        own = torch.nn.Parameter(model.get_output_embeddings().weight.detach().clone())
        model.get_output_embeddings().weight = own
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = float("nan")
    return model


@pytest.mark.parametrize("share", [True, False])
def test_a_log_probability_that_is_not_finite_is_a_missing_value(tiny_artifact, share):
    model = with_one_row_lost(tiny_artifact, 7)
    requests = [([5, 6, 8], [9, 10]), ([5, 7, 8], [0, 10]), ([5, 6, 8], [7, 11])]
    found = score_requests(
        model, requests, max_length=MAX_LENGTH, limit=Limit(512, rows=1), share=share
    )
    assert [math.isnan(score.logprob) for score in found] == [False, True, True]
    assert [score.greedy for score in found[1:]] == [False, False]
    assert math.isnan(found[2].token_logprobs[1])


@pytest.mark.parametrize("share", [True, False])
def test_an_answer_ends_where_the_logits_are_not_finite(tiny_artifact, share):
    healthy = load_weights(tiny_artifact).eval()
    ending = Ending(frozenset(), 6)
    prompts = [[5, 6, 8], [5, 6, 9], [4, 7, 8]]

    def answers(model):
        return greedy(model, prompts, ending, limit=Limit(512, rows=1), share=share, pad=0)

    whole = answers(healthy)
    assert all(answer.finite for answer in whole)
    lost = whole[0].ids[2]
    assert lost not in {5, 6, 8}
    found = answers(with_one_row_lost(tiny_artifact, lost))
    assert found[0].ids == whole[0].ids[: whole[0].ids.index(lost) + 1]
    assert not found[0].finite
    assert not found[0].capped
    (nothing, *_) = greedy(
        with_one_row_lost(tiny_artifact, 7),
        prompts[2:],
        ending,
        limit=Limit(512),
        share=share,
        pad=0,
    )
    assert nothing.ids == ()
    assert not nothing.finite


def test_the_probe_shares_prefixes_and_finds_attention_of_its_own():
    roots, _ = build(probe_requests(300), max_length=64)
    assert all(root.children for root in roots)
    for family in ("gptj", "codegen", "gpt_neo"):
        settings = {"n_inner": 64, "rotary_dim": 4} if family != "gpt_neo" else {}
        if family == "gpt_neo":
            settings = {"attention_types": [[["global"], 2]]}
        model = random_model(family, **settings)
        for dtype in ("float32", "bfloat16"):
            found = sharing(getattr(model, dtype.replace("32", ""))())
            assert found.why_not is not None or found.cache is not None  # never by a pack
        check(model.float(), requests_for(300), share=False, tolerance=1e-4)


def test_the_keys_of_a_stem_are_freed_once_nothing_continues_it(plain, monkeypatch):
    """However many stems there are, as few are alive as one pass holds."""
    alive = weakref.WeakSet()
    most = []

    class Watched(tree_attention.Past):
        __hash__ = object.__hash__

        def __init__(self, *args):
            super().__init__(*args)
            alive.add(self)
            most.append(len(alive))

    monkeypatch.setattr(forward, "Past", Watched)
    draw = random.Random(4)
    requests = []
    for _ in range(40):
        stem = draw.choices(range(plain.config.vocab_size), k=80)
        requests += [(stem, draw.choices(range(plain.config.vocab_size), k=30)) for _ in range(4)]
    score_requests(plain, requests, max_length=MAX_LENGTH, limit=Limit(400))
    assert len(most) >= 40
    assert max(most) <= 6


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_positions_that_depend_on_length_are_those_of_each_request_alone(kind):
    rope = {"rope_type": kind, "rope_theta": 10000.0, "original_max_position_embeddings": 64}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 8.0, 32.0]}
    else:
        rope |= {"factor": 8.0}
    model = random_model("llama", num_key_value_heads=2, intermediate_size=64, rope_parameters=rope)
    if kind == "dynamic":
        for module in model.modules():
            if hasattr(module, "original_max_seq_len"):
                module.max_seq_len_cached = module.original_max_seq_len = 64
    requests = [r for r in requests_for(300) if kind == "longrope" or len(r[0]) < 55]
    assert why_not_shared(model) is None
    for limit in (Limit(2048), Limit(2048, rows=1)):
        check(model, requests, limit=limit, tolerance=1e-4)
    answers = greedy(
        model,
        [[5] * 70, [5, 6, 7] * 20, [9, 8, 7]],
        Ending(frozenset(), 8),
        limit=Limit(2048),
        share=True,
        pad=0,
    )
    import torch

    for prompt, answer in zip(([5] * 70, [5, 6, 7] * 20, [9, 8, 7]), answers, strict=True):
        ids = list(prompt)
        for token in answer.ids:
            if kind == "longrope":
                with torch.inference_mode():
                    assert token == int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)


@pytest.mark.parametrize("bits", ["float32", "bf16"])
def test_what_a_family_does_to_logits_is_its_own_code(bits):
    import torch

    from harness.models.inference.lm_head import Head, states

    model = random_model(
        "gemma2",
        num_key_value_heads=2,
        intermediate_size=64,
        head_dim=8,
        final_logit_softcapping=2.0,
    )
    model = model if bits == "float32" else model.bfloat16()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        logits = Head(model).logits(states(model, input_ids=ids, use_cache=False)[0])
        whole = model(input_ids=ids).logits[0].float()
    assert logits.dtype == torch.float32
    assert float(logits.abs().max()) <= 2.0
    torch.testing.assert_close(logits, whole, atol=0.05 if bits == "bf16" else 1e-4, rtol=0)
    if bits == "bf16":  # finer than its own
        assert not torch.equal(logits, logits.bfloat16().float())
