"""A scoring run needs the same memory for any number of questions; a pass too large is halved."""

import random
import weakref

import pytest

from harness.models.inference import forward, tree_attention
from harness.models.inference.forward import Limit
from harness.models.inference.loglikelihood import score_requests, why_not_shared
from harness.models.language_model import tokens_that_fit
from harness.system.hardware import no_collection

VOCABULARY = 300


def small_model():
    """A random Llama of one narrow layer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def questions(count):
    """Shaped as HellaSwag's: a stem of 80 tokens and four endings of 30."""
    draw = random.Random(4)
    requests = []
    for _ in range(count):
        stem = draw.choices(range(VOCABULARY), k=80)
        requests += [(stem, draw.choices(range(VOCABULARY), k=30)) for _ in range(4)]
    return requests


def peak_bytes(model, requests, tokens):
    """The most bytes that tensors made by a scoring run hold at once."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.weak import WeakIdKeyDictionary

    class Live(TorchDispatchMode):
        now = peak = 0
        known = WeakIdKeyDictionary()

        def freed(self, size):
            self.now -= size

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                if not isinstance(leaf, torch.Tensor):
                    continue
                storage = leaf.untyped_storage()
                if storage not in self.known:
                    self.known[storage] = size = storage.nbytes()
                    weakref.finalize(storage, self.freed, size)
                    self.now += size
                    self.peak = max(self.peak, self.now)
            return out

    # without a collector: what a cycle holds is held for as long as nothing collects
    with no_collection(), Live() as live:
        score_requests(model, requests, max_length=512, limit=Limit(tokens))
    return live.peak


def test_a_thousand_questions_need_the_memory_of_fifty():
    model = small_model()
    few, many = (peak_bytes(model, questions(count), 2048) for count in (50, 1000))
    # keys and values of one pass alone: 2048 tokens, 1 head of 8 floats, twice
    assert few > 2048 * 8 * 4 * 2
    assert many <= 1.1 * few


class Short:
    """A forward pre-hook under which the passes with the given numbers run out of memory."""

    def __init__(self, *numbers):
        self.numbers, self.passes = numbers, 0

    def __call__(self, module, args):
        import torch

        self.passes += 1
        if self.passes in self.numbers:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_whichever_pass_runs_out_of_memory_scores_stay_and_nothing_is_left(monkeypatch, number):
    alive = weakref.WeakSet()

    class Watched(tree_attention.Past):
        __hash__ = object.__hash__

        def __init__(self, *args):
            super().__init__(*args)
            alive.add(self)

    monkeypatch.setattr(forward, "Past", Watched)
    model, requests = small_model(), questions(12)
    expected = score_requests(model, requests, max_length=512, limit=Limit(512))
    short = Short(number)
    model.model.layers[0].mlp.register_forward_pre_hook(short)
    limit = Limit(512)
    found = score_requests(model, requests, max_length=512, limit=limit)
    assert short.passes > number
    assert limit.halved == 1
    assert limit.tokens < 512
    for one, other in zip(found, expected, strict=True):
        assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-5)
    assert not alive


def test_logits_that_do_not_fit_are_halved_and_the_pass_is_not():
    model, requests = small_model(), questions(6)
    expected = score_requests(model, requests, max_length=512, limit=Limit(512))
    rows = []

    def narrow(module, args):
        import torch

        rows.append(args[0].numel() // args[0].shape[-1])
        if rows[-1] > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.lm_head.register_forward_pre_hook(narrow)
    limit = Limit(512)
    found = score_requests(model, requests, max_length=512, limit=limit)
    for one, other in zip(found, expected, strict=True):
        assert one.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-5)
    assert limit.tokens == 512
    assert limit.halved >= 1
    assert limit.head_rows <= 20
    rows.clear()
    score_requests(model, requests, max_length=512, limit=limit)
    assert max(rows) <= 20  # what did not fit is not tried again


def test_logits_of_one_position_that_do_not_fit_are_an_error():
    import torch

    model = small_model()

    def never(module, args):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    model.lm_head.register_forward_pre_hook(never)
    with pytest.raises(torch.OutOfMemoryError):
        score_requests(model, questions(2), max_length=512, limit=Limit(512))


def passes_of_the_probe():
    model = small_model()
    counting = Short()
    model.model.layers[0].mlp.register_forward_pre_hook(counting)
    assert why_not_shared(model) is None
    return counting.passes


def test_memory_that_runs_out_in_the_probe_does_not_end_sharing():
    """Whichever pass of the probe it is, the answer is the same."""
    for number in range(1, passes_of_the_probe() + 1):
        model = small_model()
        model.model.layers[0].mlp.register_forward_pre_hook(Short(number))
        assert why_not_shared(model) is None


def test_a_probe_that_never_fits_is_an_error_and_no_reason_not_to_share():
    import torch

    model = small_model()
    model.model.layers[0].mlp.register_forward_pre_hook(Short(*range(1, 1000)))
    with pytest.raises(torch.OutOfMemoryError):
        why_not_shared(model)


def test_the_tokens_that_fit_leave_room_for_the_head_and_count_the_key_heads_there_are(monkeypatch):
    import psutil
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    class Free:
        available = 2**33

    monkeypatch.setattr(psutil, "virtual_memory", Free)
    monkeypatch.setattr("harness.models.language_model.CPU_TOKENS", 10**9)

    def fit(**settings):
        config = LlamaConfig(
            hidden_size=1024, intermediate_size=1024, num_hidden_layers=32, **settings
        )
        with torch.device("meta"):
            return tokens_that_fit(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16))

    few = {"num_attention_heads": 16, "num_key_value_heads": 2}
    narrow = fit(vocab_size=1000, **few)
    # keys and values of 32 layers, 2 heads of 64, in 2 bytes each
    per_token = 2 * 32 * 2 * 64 * 2
    assert narrow * per_token < 2**33
    assert fit(vocab_size=1000, **few | {"num_key_value_heads": 16}) < narrow
    # logits of 512 positions in float32 at least
    states = 2**33 * 0.5 / narrow
    assert fit(vocab_size=400_000, **few) < narrow - 512 * 400_000 * 4 / states
    assert fit(vocab_size=40_000_000, **few) == 1
