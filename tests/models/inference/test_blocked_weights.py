"""Copies of weights give the scores and answers of plain layers, and never those of old weights."""

import gc
import random
import weakref

import pytest

from harness.models.inference import blocked_weights as blocked
from harness.models.inference.blocked_weights import blocked_weights, takes
from harness.models.inference.forward import Limit
from harness.models.inference.generation.decoding import Ending
from harness.models.inference.generation.greedy import greedy
from harness.models.inference.lm_head import Head
from harness.models.inference.loglikelihood import score_requests
from harness.models.language_model import LanguageModel, open_artifact
from harness.models.packaged import resolve_model
from harness.types import Artifact

VOCABULARY = 300
WIDTH = 128
LAYER = 4 * WIDTH * WIDTH + 3 * WIDTH * 2 * WIDTH
"""Numbers in the linear layers of a layer."""
ROUNDING = 2e-5
"""Nats of a continuation of six tokens, in float32."""


def wide_model():
    """A random Llama whose layers are wide enough, with an untied head and biases."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        attention_bias=True,
        max_position_embeddings=512,
        initializer_range=0.1,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def model():
    found = wide_model()
    if not takes(found.lm_head):
        pytest.skip("no copies are made on this processor")
    return found


def questions(count=12):
    """Four continuations to each of some contexts, of more tokens than a call without copies."""
    draw = random.Random(3)
    contexts = [draw.choices(range(VOCABULARY), k=30) for _ in range(count)]
    return [(context, draw.choices(range(VOCABULARY), k=6)) for context in contexts for _ in "abcd"]


def scores(model):
    found = score_requests(model, questions(), max_length=512, limit=Limit(256))
    return [one.logprob for one in found]


def answers(model, rows=None):
    prompts = [context for context, _ in questions()]
    ending = Ending(frozenset(), 12)
    found = greedy(model, prompts, ending, limit=Limit(256, rows), share=True, pad=0)
    return [answer.ids for answer in found]


def far(found, expected):
    return max(abs(a - b) for a, b in zip(found, expected, strict=True))


def scale(model, factor):
    """Change what a model says, in place, as a step of training does."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)


def test_scores_and_answers_are_those_of_plain_layers(model):
    expected = scores(model), answers(model)
    with blocked_weights(model, blocked.MIN_TOKENS) as size:
        assert far(scores(model), expected[0]) <= ROUNDING
        assert answers(model) == answers(model, rows=1) == expected[1]
    assert size == 4 * (2 * LAYER + WIDTH * VOCABULARY)
    assert len(set(expected[1])) > 1


def test_what_is_multiplied_is_the_copy(model):
    """The negative control: within the context a changed weight has no effect, so that the test
    above compares with something."""
    expected = scores(model)
    with blocked_weights(model, blocked.MIN_TOKENS):
        copied = [module for module in model.modules() if has_copy(module)]
        for layer in copied:
            layer.weight.data.mul_(0.5)
        assert far(scores(model), expected) <= ROUNDING
    assert far(scores(model), expected) > 0.01


def has_copy(module):
    return isinstance(vars(module).get("forward"), blocked._Product)


def change_in_place(model):
    scale(model, 1.2)


def change_unseen(model):
    """By `.data`, of which autograd's version counters know nothing."""
    for parameter in model.parameters():
        parameter.data.mul_(1.2)


def load_others(model):
    model.load_state_dict({name: 1.2 * value for name, value in model.state_dict().items()})


def train_a_step(model):
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    ids = torch.tensor([questions()[0][0]])
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()


@pytest.mark.parametrize("change", [change_in_place, change_unseen, load_others, train_a_step])
def test_a_changed_weight_is_never_missed(model, tokenizer, tiny_artifact, change):
    opened = LanguageModel(model, tokenizer, tiny_artifact, copies=True)

    def measured():
        return [one.logprob for one in opened.loglikelihood(questions())]

    before = measured()
    assert opened.info()["copied_weights_bytes"] > 0
    change(model)
    after = measured()
    assert far(after, before) > 0.01
    assert far(after, scores(model)) <= ROUNDING


def test_parameters_stay_what_they_are_and_copies_end_with_the_call(model):
    import torch

    state = {name: value.clone() for name, value in model.state_dict().items()}
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    copies = []

    def stopped():
        with blocked_weights(model, blocked.MIN_TOKENS):
            copies.extend(weakref.ref(m.forward) for m in model.modules() if has_copy(m))
            assert {*model.state_dict()} == {*state}
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    gc.collect()
    assert len(copies) == 15
    assert [copy() for copy in copies] == [None] * 15
    assert not any("forward" in vars(module) for module in model.modules())
    assert [parameter.data_ptr() for parameter in model.parameters()] == addresses
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    # and it can be trained
    train_a_step(model)


def test_gradients_are_those_of_the_layer(model):
    import torch

    layer = model.model.layers[0].mlp.up_proj
    x = torch.randn(3, WIDTH)
    with blocked_weights(model, blocked.MIN_TOKENS):
        layer(x).sum().backward()
    assert torch.allclose(layer.weight.grad, x.sum(0).expand(2 * WIDTH, -1), atol=1e-5)


@pytest.mark.parametrize("width", [WIDTH, 1536])
def test_a_row_alone_is_multiplied_as_it_is_beside_another(model, width):
    import torch

    torch.manual_seed(1)
    layer = torch.nn.Linear(width, 192)
    holder = torch.nn.Sequential(layer)
    holder.get_output_embeddings = lambda: None
    x = torch.randn(1, 2, width)
    with torch.inference_mode(), blocked_weights(holder, blocked.MIN_TOKENS) as size:
        assert size == 4 * width * 192
        both = layer(x)
        assert torch.equal(layer(x[:, :1]), both[:, :1])
        assert torch.equal(layer(x[0, 0]), both[0, 0])
        assert layer(x[:, :0]).shape == (1, 0, 192)
        assert layer(x.transpose(0, 1)[::2]).shape == (1, 1, 192)
    exact = x.double() @ layer.weight.double().T + layer.bias.double()
    assert torch.allclose(both.double(), exact, atol=1e-5)


def test_no_copies_of_what_does_not_gain(model, monkeypatch, tokenizer, tiny_artifact):
    import torch

    class Own(torch.nn.Linear):
        pass

    assert takes(torch.nn.Linear(WIDTH, WIDTH))
    assert not takes(torch.nn.Linear(WIDTH, 8))
    assert not takes(Own(WIDTH, WIDTH))
    assert not takes(torch.nn.Linear(WIDTH, WIDTH, dtype=torch.float64))
    assert not takes(torch.nn.Linear(WIDTH, WIDTH, device="meta"))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
        assert not takes(torch.nn.Linear(WIDTH, WIDTH))
    with blocked_weights(model, blocked.MIN_TOKENS - 1) as size:
        assert size == 0
    training = LanguageModel(model, tokenizer, tiny_artifact)
    training.loglikelihood(questions())
    assert training.info()["copied_weights_bytes"] == 0
    need = 4 * (2 * LAYER + WIDTH * VOCABULARY)
    for free, expected in ((4 * need, need), (4 * need - 4, 0)):
        monkeypatch.setattr(blocked, "free_host_memory", lambda free=free: free)
        with blocked_weights(model, blocked.MIN_TOKENS) as size:
            assert size == expected


def test_copies_that_run_out_of_memory_are_not_made(model, monkeypatch):
    import torch

    reorder, made = torch.ops.mkldnn._reorder_linear_weight, []

    def short(weight, rows):
        made.append(weight)
        if len(made) == 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        return reorder(weight, rows)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", short)
    expected = scores(model)
    with blocked_weights(model, blocked.MIN_TOKENS) as size:
        assert size == 0
        assert len(made) == 5
        assert scores(model) == expected


def test_the_layer_within_an_adapter_has_a_copy_and_the_adapter_has_none(model):
    import peft
    import torch

    plain = scores(model)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config).eval()
    torch.manual_seed(2)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    expected = scores(adapted)
    assert far(expected, plain) > 0.01
    with blocked_weights(adapted, blocked.MIN_TOKENS) as size:
        assert far(scores(adapted), expected) <= ROUNDING
    assert size == 4 * (2 * LAYER + WIDTH * VOCABULARY)


def test_a_weight_of_two_layers_is_copied_once():
    import torch

    first, second = (torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in "ab")
    second.weight = first.weight
    if not takes(first):
        pytest.skip("no copies are made on this processor")
    holder = torch.nn.Sequential(first, second)
    holder.get_output_embeddings = lambda: None
    with blocked_weights(holder, blocked.MIN_TOKENS) as size:
        assert first.forward.weight is second.forward.weight
    assert size == 4 * WIDTH * WIDTH


def test_a_bf16_head_is_multiplied_in_float32(model):
    import torch

    half = model.to(torch.bfloat16)
    if not takes(half.lm_head):
        pytest.skip("this processor has no bf16 arithmetic")
    expected = scores(half)
    hidden = torch.randn(5, WIDTH).to(torch.bfloat16)
    head = Head(half)
    with torch.inference_mode():
        logits = head.logits(hidden)
        with blocked_weights(half, blocked.MIN_TOKENS) as size:
            copied = head.logits(hidden)
    assert copied.dtype == torch.float32
    assert torch.allclose(copied, logits, atol=1e-5)
    assert not torch.equal(copied, copied.to(torch.bfloat16).float())
    assert size == 2 * 2 * LAYER + 4 * WIDTH * VOCABULARY
    with blocked_weights(half, blocked.MIN_TOKENS):
        assert far(scores(half), expected) < 0.1


@pytest.mark.slow
@pytest.mark.long
def test_the_packaged_model_gives_the_same_scores_and_answers():
    opened = open_artifact(Artifact("base", resolve_model("smollm2-135m", mirror=None)))
    draw = random.Random(5)
    contexts = [draw.choices(range(100, 40000), k=60) for _ in range(6)]
    pairs = [
        (context, draw.choices(range(100, 40000), k=6)) for context in contexts for _ in "abcd"
    ]
    texts = [f"The capital of {name} is" for name in ("France", "Peru", "Japan", "Kenya")] * 20
    prompts = [opened.tokenizer(text)["input_ids"] for text in texts]
    found = []
    for copies in (False, True):
        opened.copies = copies
        found.append((opened.loglikelihood(pairs), opened.generate(prompts, max_new_tokens=16)))
    assert (opened.info()["copied_weights_bytes"] > 0) == takes(opened.model.lm_head)
    (plain, said), (copied, said_too) = found
    assert said == said_too
    # some 80 nats each
    assert far([one.logprob for one in copied], [one.logprob for one in plain]) < 2e-4
