"""Scoring on a CUDA device, traced without one: no mixed devices, few launches, few bytes."""

import random

import pytest

from harness.models.inference.attention.kernels import attend
from harness.models.inference.forward import Limit
from harness.models.inference.loglikelihood import score_requests
from tests.models.inference.fake_cuda import Traced, fake_cuda, on_cuda


def large_model(dtype="bfloat16"):
    """A layer of Llama-3-8B's shape."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=1,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    return on_cuda(model.eval().requires_grad_(False))


def questions(count, stem=100):
    """Stems of their own, too long for a small tree, each with four endings of its own length.

    The last token of each is asked for, so that the head runs once.
    """
    draw = random.Random(0)
    requests = []
    for number in range(count):
        context = [number, *draw.choices(range(300), k=stem)]
        for length in range(20, 24):
            *ending, last = draw.choices(range(300), k=length)
            requests.append(([*context, *ending], [last]))
    return requests


def traced(model, requests, **how):
    """The trace of one scoring run."""
    with Traced() as trace:
        scores = score_requests(
            model, requests, max_length=8192, limit=Limit(32768), share=True, **how
        )
    assert len(scores) == len(requests)
    return trace


@pytest.mark.parametrize(
    ("dtype", "capability"),
    [("bfloat16", (8, 0)), ("float32", (8, 0)), ("float16", (7, 5)), ("float32", None)],
)
def test_a_pass_launches_as_much_for_many_questions_as_for_few(dtype, capability):
    with fake_cuda(capability):
        model = large_model(dtype)
        few, many = (traced(model, questions(count)) for count in (10, 60))
    assert many.launched == few.launched
    if (dtype, capability) == ("bfloat16", (8, 0)):
        # one joins all endings to their stems
        assert many.launched["_flash_attention_forward.default"] == 1


def test_sixteen_bits_use_the_fused_kernels():
    with fake_cuda():
        trace = traced(large_model(), questions(8))
        trees = traced(large_model(), questions(8, stem=10))
    assert trace.launched["_scaled_dot_product_flash_attention.default"] > 0
    assert trace.launched["_flash_attention_forward.default"] > 0
    assert trees.launched["_scaled_dot_product_efficient_attention.default"] > 0
    assert not trace.launched["bmm.default"] + trace.launched["bmm.dtype"]


def test_the_heads_weight_is_never_copied():
    with fake_cuda():
        model = large_model()
        weight = model.lm_head.weight.numel() * 4
        trace = traced(model, questions(8))
    assert trace.launched["mm.dtype"] > 0
    assert trace.peak < weight
    copied = [name for name in trace.launched if name.startswith("_to_copy")]
    assert sum(trace.bytes[name] for name in copied) < weight


@pytest.mark.parametrize(
    ("capability", "dtype", "most"),
    [((8, 0), "bfloat16", 1.05), ((7, 5), "float16", 1.05), (None, "bfloat16", 1.5)],
)
def test_a_decode_steps_attention_moves_little_more_than_keys_and_values(capability, dtype, most):
    """64 rows of 620 tokens of an 8B model, a token each; repeated keys would be over 4 times."""
    import torch

    rows, heads, key_heads, size, columns, used = 64, 32, 8, 128, 640, 620
    with fake_cuda(capability):
        shape, kind = (rows, key_heads, columns, size), getattr(torch, dtype)
        query = torch.empty(rows, heads, 1, size, dtype=kind, device="cuda")
        cache = [torch.empty(*shape, dtype=kind, device="cuda") for _ in range(2)]
        key, value = (states[:, :, :used] for states in cache)
        mask = torch.zeros(rows, 1, 1, used, dtype=kind, device="cuda")
        with Traced() as trace:
            out, logsum = attend(query, key, value, mask, False, 0.1)
        assert out.shape == query.shape
        assert logsum.shape == (rows, heads, 1)
    needed = key.numel() * 2 + value.numel() * 2
    moved = sum(trace.bytes.values())
    assert needed < moved <= most * needed
    layer = 2 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    assert layer + moved <= 1.3 * (layer + needed)
