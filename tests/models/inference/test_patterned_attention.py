"""Windows, chunks, capped scores and sinks: shared prefixes score as a plain pass of each text."""

import pytest

from harness.models.inference.attention.pattern import Pattern, Reach, stated_reach
from harness.models.inference.forward import SMALL_TREE, Limit
from harness.models.inference.generation.greedy import shortfall
from harness.models.inference.loglikelihood import score_requests, sharing
from tests.models.inference.fake_cuda import fake_cuda, on_cuda

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}
BOTH = {"layer_types": ["sliding_attention", "full_attention"]}
FAMILIES = {
    "mistral": {"sliding_window": 7},
    "gemma2": BOTH | {"sliding_window": 7, "attn_logit_softcapping": 1.5},
    "gemma3_text": BOTH | {"sliding_window": 7},
    "gpt_oss": BOTH | {"sliding_window": 7, "num_local_experts": 4, "num_experts_per_tok": 2},
}


def random_model(family, **settings):
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**SMALL, **FAMILIES.get(family, {}) | settings)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
            elif name.endswith("sinks"):
                parameter.normal_(2, 1)
    return model


def requests(stem=40):
    """Endings of several lengths after a stem, and texts that share nothing."""
    import random

    draw = random.Random(3)

    def tokens(count):
        return draw.choices(range(3, 97), k=count)

    shared = tokens(stem)
    asked = []
    for _ in range(4):
        question = [*shared, *tokens(draw.randrange(3, 14))]
        asked += [(question, tokens(draw.randrange(1, 5))) for _ in range(3)]
    return asked + [(tokens(length), tokens(3)) for length in (1, 5, 12, 33, 150)]


def largest_difference(model, asked, **options):
    """To a plain pass of each request alone, in nats."""
    import torch

    options = {"limit": Limit(4096), "share": True} | options
    found = score_requests(model, asked, max_length=512, **options)
    off = 0.0
    with torch.inference_mode():
        for (context, continuation), score in zip(asked, found, strict=True):
            logits = model(torch.tensor([context + continuation]), use_cache=False).logits[0]
            plain = logits.log_softmax(-1)[len(context) - 1 : -1]
            plain = plain[range(len(continuation)), continuation]
            off = max(off, float((plain - torch.tensor(score.token_logprobs)).abs().max()))
    return off


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_prefix_scores_as_a_plain_pass(family):
    model, asked = random_model(family), requests()
    assert sharing(model).why_not_packed is None
    for small_tree, limit in ((SMALL_TREE, 4096), (0, 4096), (0, 50)):
        off = largest_difference(model, asked, small_tree=small_tree, limit=Limit(limit))
        assert off <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_after_a_shared_prefix_take_the_likeliest_tokens(family):
    model = random_model(family)
    prompts = [context for context, _ in requests()[:12:3]]
    assert shortfall(model, prompts, 12, Limit(4096)) <= 1e-5


def test_a_chain_longer_than_a_strip_sees_its_window():
    model = random_model("mistral", sliding_window=100)
    assert largest_difference(model, requests(stem=300)) <= 1e-5
    assert largest_difference(model, requests(stem=300), small_tree=0) <= 1e-5


def test_a_window_longer_than_the_text_hides_nothing():
    wide, whole = (random_model("mistral", sliding_window=size) for size in (4096, None))
    scores = [
        score_requests(model, requests(), max_length=512, limit=Limit(4096))
        for model in (wide, whole)
    ]
    for one, other in zip(*scores, strict=True):
        assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-6)


@pytest.mark.parametrize("size", [5, 9])
def test_the_probe_notices_another_window_than_the_models_own(monkeypatch, size):
    monkeypatch.setattr(Reach, "size", property(lambda self: size), raising=False)
    monkeypatch.setattr(Reach, "__init__", lambda self, *arguments: None)
    assert "differ" in str(sharing(random_model("mistral")).why_not_packed)


def test_a_window_that_is_not_applied_where_the_config_says_so_is_noticed(monkeypatch):
    monkeypatch.setattr(
        "harness.models.inference.attention.pattern.stated_reach", lambda **keywords: None
    )
    model = random_model("gemma3_text", sliding_window=400)
    for layer in model.model.layers:
        layer.self_attn.sliding_window = None
    assert "do not attend as" in str(sharing(model).why_not_packed)


@pytest.mark.parametrize("sinks", [False, True])
def test_the_probe_notices_a_cap_or_sinks_that_are_left_out(monkeypatch, sinks):
    import dataclasses

    from harness.models.inference.attention import pattern as patterns

    def stripped(mask, keywords):
        pattern = whole(mask, keywords)
        changes = {"sinks": None} if sinks else {"cap": None}
        return dataclasses.replace(pattern, **changes)

    whole = patterns.pattern_of
    monkeypatch.setattr(patterns, "pattern_of", stripped)
    model = random_model("gpt_oss" if sinks else "gemma2")
    assert "differ" in str(sharing(model).why_not_packed)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_reach_is_transformers_own_mask(chunked):
    import torch
    from transformers import CONFIG_MAPPING
    from transformers.masking_utils import chunked_causal_mask_function, sliding_window_overlay

    places = torch.arange(23)
    query, key = places[:, None], places[None]
    if chunked:
        expected = chunked_causal_mask_function(5, torch.zeros(1, dtype=int))(0, 0, query, key)
    else:
        expected = sliding_window_overlay(5)(0, 0, query, key) & (key <= query)
    config = CONFIG_MAPPING["mistral"]()
    config.attention_chunk_size = 5 if chunked else None
    reach = stated_reach(config=config, local_size=5)
    sees = reach.sees(places, places) & (key <= query)
    assert torch.equal(sees, expected.expand_as(sees))
    for place in places.tolist():
        assert reach.first(place) == int(sees[place].nonzero().min())


def test_a_mask_of_a_familys_own_making_is_not_taken_for_causal():
    with pytest.raises(NotImplementedError, match="a mask of its own"):
        stated_reach(config=None, use_vmap=True)


def test_a_pattern_on_another_device_needs_no_value_from_it():
    """On torch's device without values, for which reading one raises, on any machine."""
    import torch

    from harness.models.inference.tree_attention import Block, Past, lay_out

    def states(heads, tokens):
        return torch.empty(1, heads, tokens, 16, device="meta")

    past, keep = Past(), Past()
    past.keys[0], past.values[0] = states(2, 30), states(2, 30)
    blocks = [Block(0, past, range(-1, 199), keep), Block(200, past, [-1, 0, 0, 2], None)]
    pattern = Pattern(Reach(20), 30.0, torch.empty(4, device="meta"))
    pack = lay_out(blocks, torch.device("meta"))
    out = pack.attend(0, states(4, 204), states(2, 204), states(2, 204), 0.25, pattern)
    assert (out.shape, out.device.type) == ((1, 4, 204, 16), "meta")
    assert keep.keys[0].shape == (1, 2, 200, 16)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text"])
def test_scoring_on_a_cuda_device_mixes_no_devices(family):
    """Traced without one."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[family](**SMALL, **FAMILIES[family])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    asked = requests(stem=120)
    with fake_cuda():
        found = score_requests(on_cuda(model), asked, max_length=512, limit=Limit(4096))
    assert len(found) == len(asked)
