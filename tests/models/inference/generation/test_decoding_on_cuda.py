"""Decoding on a CUDA device, traced without one: what it copies, launches and moves."""

import random
from unittest import mock

import pytest

from harness.models.inference.forward import Limit
from harness.models.inference.generation import slots
from harness.models.inference.generation.decoding import LOOKS_ELSEWHERE, Ending
from harness.models.inference.generation.greedy import greedy
from tests.models.inference.fake_cuda import Traced, fake_cuda, on_cuda

WIDTHS = {
    "vocab_size": 512,
    "hidden_size": 1024,
    "intermediate_size": 3584,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
}
LENGTH = 600


class Watched(Traced):
    """A trace that also counts copies between host and device, and the tensors that were read."""

    def __init__(self):
        super().__init__()
        self.copies = self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        from torch.utils._pytree import tree_leaves

        out = super().__torch_dispatch__(func, types, args, kwargs)
        devices = {x.device.type for x in tree_leaves((args, out)) if hasattr(x, "device")}
        self.copies += "copy" in str(func) and len(devices) > 1
        return out


def decoded(monkeypatch, rows, new_tokens, length=LENGTH):
    """The trace of a run of so many prompts, and the bytes of weights that a step reads."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor
    from transformers import AutoModelForCausalLM, LlamaConfig

    monkeypatch.setattr(slots, "memory_for_answers", lambda device: 2**34)
    with torch.device("meta"):
        config = LlamaConfig(**WIDTHS)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    draw = random.Random(0)
    prompts = [[1 + i, *draw.choices(range(512), k=length - 1)] for i in range(rows)]
    with fake_cuda():
        model = on_cuda(model.eval().requires_grad_(False))
        limit = Limit(32768)
        greedy(model, prompts[:1], Ending(frozenset(), 1), limit=limit, share=True, pad=0)
        trace = Watched()

        def read(tensor):
            trace.reads += 1
            return [[0] * tensor.shape[1] for _ in range(tensor.shape[0])]  # tokens, all 0

        with trace, mock.patch.object(FakeTensor, "tolist", read):
            answers = greedy(
                model, prompts, Ending(frozenset(), new_tokens), limit=limit, share=True, pad=0
            )
    assert [len(answer.ids) for answer in answers] == [new_tokens] * rows
    embedding = model.get_input_embeddings().weight
    weights = sum(p.nbytes for p in model.parameters() if p is not embedding)
    return trace, weights + rows * (length + LOOKS_ELSEWHERE) * slots.bytes_per_token(model)


def test_tokens_stay_on_the_device_between_two_looks(monkeypatch):
    """One read of all rows and one write of where they are for each stretch of steps."""
    stretches = 4
    short, _ = decoded(monkeypatch, 6, 1, length=20)
    long, _ = decoded(monkeypatch, 6, 1 + stretches * LOOKS_ELSEWHERE, length=20)
    # the first look at the steps' tokens has the prompts' too
    assert long.reads - short.reads == long.copies - short.copies == stretches - 1


def steps(monkeypatch, rows):
    """Kernels and bytes of one step of so many rows, and the bytes that it has to read."""
    none, _ = decoded(monkeypatch, rows, 1)
    some, needed = decoded(monkeypatch, rows, 1 + LOOKS_ELSEWHERE)
    kernels = sum((some.launched - none.launched).values()) / LOOKS_ELSEWHERE
    return kernels, sum((some.bytes - none.bytes).values()) / LOOKS_ELSEWHERE, needed


def test_a_step_launches_as_many_kernels_for_many_rows_as_for_few(monkeypatch):
    few, _, _ = steps(monkeypatch, 2)
    many, _, _ = steps(monkeypatch, 24)
    assert few == pytest.approx(many, abs=0.5)


def test_a_step_moves_little_more_than_weights_keys_and_values(monkeypatch):
    _, moved, needed = steps(monkeypatch, 24)
    assert needed < moved <= 1.5 * needed
