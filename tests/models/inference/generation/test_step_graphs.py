"""Steps replayed from a recording at fixed addresses, as a CUDA graph is, say what the model says.

A recording stands in for the graph: it runs the operations of one step again on the tensors of
then, whatever Python would decide now. What a graph cannot hold goes wrong in it in the same way.
"""

import weakref
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.models.inference.forward import Limit
from harness.models.inference.generation import steps
from harness.models.inference.generation.decoding import Ending
from harness.models.inference.generation.steps import Graphs
from harness.models.language_model import load_weights
from tests.models.inference.generation.test_decoding import (
    END,
    LONGEST,
    alone,
    answers,
    endings,
    looks,
    plain,  # noqa: F401
    prompts_for,
)
from tests.models.inference.test_loglikelihood import NF4, with_one_row_lost
from tests.models.inference.test_memory import no_collection
from tests.models.inference.test_virtual_tokens import adapted
from tests.zoo import zoo


def storages(values):
    return {x.untyped_storage().data_ptr() for x in tree_leaves(values) if torch.is_tensor(x)}


class Recording(TorchDispatchMode):
    """What ran within it, and is undone; calling it runs that again, into the same memory."""

    def __init__(self):
        super().__init__()
        self.ran, self.written = [], []
        self.replayed = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        named = zip(func._schema.arguments, args, strict=False)
        changed = [x for argument, x in named if argument.alias_info and argument.is_write]
        changed += [x for name, x in (kwargs or {}).items() if name == "out"]
        self.written += [(x, x.clone()) for x in changed]
        out = func(*args, **(kwargs or {}))
        self.ran.append((func, args, kwargs or {}, out))
        return out

    def __exit__(self, *error):
        super().__exit__(*error)
        for tensor, before in reversed(self.written):
            tensor.copy_(before)

    def __call__(self):
        self.replayed += 1
        for func, args, kwargs, out in self.ran:
            given = storages((args, kwargs))
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if torch.is_tensor(old) and not storages(old) & given:
                    old.copy_(new)


@pytest.fixture
def recorded(monkeypatch):
    """Recordings for CUDA graphs, on the CPU; the list of those that were made."""
    made = []

    def capture(work, pool):
        work()
        made.append(Recording())
        with made[-1]:
            work()
        return made[-1]

    monkeypatch.setattr(steps, "capture", capture)
    monkeypatch.setattr(steps, "new_pool", lambda: None)
    monkeypatch.setattr(steps, "can_capture", lambda model: True)
    monkeypatch.setattr(steps, "COLUMNS_TOGETHER", 16)
    monkeypatch.setattr(steps, "ROWS_TOGETHER", 4)
    return made


def answered(model, monkeypatch, rows=3, which=2):
    """Answers with one of the endings, those of each prompt alone, and how many graphs there were.

    A look comes after two steps, so that shapes come again.
    """
    prompts = prompts_for(model.config.vocab_size)
    looks(monkeypatch, 2)
    limit, ending = Limit(64, rows), endings(model, prompts)[which]
    return answers(model, prompts, ending, limit=limit), alone(model, prompts, ending), limit.graphs


@pytest.mark.parametrize(("rows", "which"), [(1, 0), (3, 1), (3, 2), (None, 0)])
def test_answers_are_those_of_each_prompt_alone(
    plain,  # noqa: F811
    recorded,
    monkeypatch,
    rows,
    which,
):
    """Through prompts that take the rows of others, wider slots and rows that end."""
    found, expected, graphs = answered(plain, monkeypatch, rows, which)
    assert found == expected
    assert graphs == len(recorded) >= 1
    assert sum(one.replayed for one in recorded) > 2 * len(recorded)  # beyond the first stretch


@pytest.mark.parametrize("kind", ["prompt", "prefix", "4 bits"])
def test_virtual_tokens_and_4_bits_are_recorded_too(tiny_artifact, recorded, monkeypatch, kind):
    quantised = {"quantization": NF4} if kind == "4 bits" else {}
    model = load_weights(replace(tiny_artifact, **quantised)).eval()
    model = model if kind == "4 bits" else adapted(model, kind)
    found, expected, graphs = answered(model, monkeypatch)
    assert found == expected
    assert graphs


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text", "phi3", "gpt2"])
def test_steps_of_dense_families_wait_for_nothing(family, recorded, monkeypatch):
    """Those of mixtures of experts wait: which expert gets which tokens is asked in each layer."""
    model = zoo.built(family)
    found, expected, graphs = answered(model, monkeypatch, which=0)
    assert found == expected
    assert graphs


def test_a_row_that_was_not_finite_spoils_none_that_comes_after(
    tiny_artifact, recorded, monkeypatch
):
    model = with_one_row_lost(tiny_artifact, END)
    prompts = prompts_for(model.config.vocab_size)
    prompts[1:1] = [[5, END, 8], [END] * 25]
    looks(monkeypatch, 2)
    limit, ending = Limit(64, 3), Ending(frozenset(), LONGEST)
    found = answers(model, prompts, ending, limit=limit)
    assert found == alone(model, prompts, ending)
    assert limit.graphs
    assert sum(not answer.finite for answer in found) >= 2


def test_a_step_that_waits_for_the_device_is_not_recorded(tiny_artifact, recorded, monkeypatch):
    model = load_weights(tiny_artifact).eval()

    def read(layer, inputs):
        if bool(inputs[0].isnan().any()):
            raise AssertionError

    model.model.layers[0].register_forward_pre_hook(read)
    found, expected, graphs = answered(model, monkeypatch)
    assert found == expected
    assert graphs == len(recorded) == 0


def changes_with_each_call(model):
    """Have Python decide what a step does, which a recording knows nothing of."""
    calls = iter(range(10**6))

    def moved(layer, inputs, output):
        return output + (next(calls) % 7) * 5.0

    model.model.layers[0].register_forward_hook(moved)


def nothing(work, pool):
    return lambda: None


def fails(work, pool):
    work()
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("capture", [nothing, fails])
def test_a_graph_that_fails_or_says_something_else_is_not_used(
    plain,  # noqa: F811
    recorded,
    monkeypatch,
    capture,
):
    monkeypatch.setattr(steps, "capture", capture)
    found, expected, graphs = answered(plain, monkeypatch)
    assert found == expected
    assert graphs == 0


def test_a_graph_that_does_nothing_is_found_where_one_token_is_said(
    tiny_artifact, recorded, monkeypatch
):
    model = load_weights(tiny_artifact).eval()
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight[:1].clone())  # all tokens are as likely
    monkeypatch.setattr(steps, "capture", nothing)
    found, expected, graphs = answered(model, monkeypatch, which=0)
    assert found == expected
    assert {token for answer in found for token in answer.ids} == {0}
    assert graphs == 0


def test_what_python_decides_anew_is_found(tiny_artifact, recorded, monkeypatch):
    model = load_weights(tiny_artifact).eval()
    changes_with_each_call(model)
    prompts = prompts_for(model.config.vocab_size)
    looks(monkeypatch, 2)
    limit = Limit(64, 3)
    answers(model, prompts, Ending(frozenset(), LONGEST), limit=limit)
    assert recorded
    assert limit.graphs == 0


def test_graphs_go_with_their_answers_and_not_with_a_garbage_collection(
    plain,  # noqa: F811
    recorded,
    monkeypatch,
):
    """One that went later would take from others what they work with."""
    alive = weakref.WeakSet()
    begin = Graphs.__init__

    def noted(graphs, limit):
        begin(graphs, limit)
        alive.add(graphs)

    monkeypatch.setattr(Graphs, "__init__", noted)
    with no_collection():
        _, _, graphs = answered(plain, monkeypatch)
        assert graphs
        assert not alive


def test_shapes_beyond_the_most_graphs_run_as_they_are(plain, recorded, monkeypatch):  # noqa: F811
    _, _, free = answered(plain, monkeypatch, 3, 0)
    monkeypatch.setattr(steps, "MOST_GRAPHS", 1)
    found, expected, graphs = answered(plain, monkeypatch, 3, 0)
    assert found == expected
    assert 0 < graphs < free


def test_what_waits_is_an_error_before_a_capture_begins(monkeypatch):
    modes = ["default"]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def waits():
        assert modes[-1] == "error"
        raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        steps.capture(waits, None)
    assert modes == ["default", "error", "default"]


def test_no_graph_is_made_where_there_is_no_device(plain):  # noqa: F811
    assert not steps.can_capture(plain)
