"""Answers in slots are those of each prompt alone, whoever had a row before or runs beside."""

import random

import pytest

from harness.models.inference.forward import Limit
from harness.models.inference.generation import decoding, slots, steps
from harness.models.inference.generation.decoding import Ending
from harness.models.inference.generation.greedy import greedy
from harness.models.inference.generation.steps import NOT_FINITE
from harness.models.inference.generation.transformers_generate import transformers_answers
from harness.models.inference.virtual_tokens import virtual_tokens
from harness.models.language_model import load_weights
from tests.models.inference.test_loglikelihood import NF4, random_model, with_one_row_lost
from tests.models.inference.test_virtual_tokens import adapted

END = 7
LONGEST = 12


@pytest.fixture(scope="module")
def plain(tiny_artifact):
    return load_weights(tiny_artifact).eval()


def prompts_for(vocabulary, count=14):
    """Prompts of many lengths; some share a long beginning, two are the same."""
    draw = random.Random(2)

    def tokens(length):
        return draw.choices(range(10, vocabulary), k=length)

    stems = [tokens(20), tokens(30)]
    prompts = [[*stems[i % 3], *tokens(draw.randrange(1, 9))] for i in range(count) if i % 3 < 2]
    prompts += [tokens(draw.randrange(1, 40)) for _ in range(count - len(prompts) - 1)]
    return [*prompts, prompts[0]]


def answers(model, prompts, ending, rows=None, **how):
    settings = {"limit": Limit(64, rows), "share": True, "pad": 0, **how}
    return greedy(model, prompts, ending, **settings)


def alone(model, prompts, ending):
    """Each prompt's answer by transformers' `generate`, by itself."""
    return [transformers_answers(model, [prompt], ending, 0)[0] for prompt in prompts]


def looks(monkeypatch, steps):
    monkeypatch.setitem(decoding.LOOKS, "cpu", steps)


def endings(model, prompts):
    """None but the cap; end tokens that the model says, early in some answers; stop texts too."""
    free = Ending(frozenset(), LONGEST)
    said = alone(model, prompts, free)
    often = frozenset({said[0].ids[0], said[2].ids[3], said[5].ids[7]})

    def decode(ids):
        return " ".join(f"<{token}>" for token in ids)

    stops = tuple(decode(answer.ids[at : at + 2]) for at, answer in enumerate(said[3:6], start=1))
    return [free, Ending(often, LONGEST), Ending(often - {said[0].ids[0]}, LONGEST, stops, decode)]


@pytest.fixture(scope="module")
def expected(plain):
    """The endings, and each prompt's answer alone."""
    prompts = prompts_for(plain.config.vocab_size)
    return [(ending, alone(plain, prompts, ending)) for ending in endings(plain, prompts)]


@pytest.mark.parametrize(("rows", "steps"), [(1, 5), (3, 1), (3, 5), (None, 1), (None, 5)])
def test_an_answer_is_that_of_its_prompt_alone(plain, expected, monkeypatch, rows, steps):
    """However long the answers, the rows, and the steps between two looks at the tokens."""
    prompts = prompts_for(plain.config.vocab_size)
    looks(monkeypatch, steps)
    for ending, found in expected:
        assert answers(plain, prompts, ending, rows) == found
    assert len({len(answer.ids) for _, found in expected for answer in found}) > 4


@pytest.mark.parametrize("kind", ["prompt", "prefix", "4 bits"])
def test_it_is_so_with_virtual_tokens_and_in_4_bits(tiny_artifact, monkeypatch, kind):
    from dataclasses import replace

    quantised = {"quantization": NF4} if kind == "4 bits" else {}
    model = load_weights(replace(tiny_artifact, **quantised)).eval()
    if kind != "4 bits":
        model = adapted(model, kind)
        assert virtual_tokens(model)
    prompts = prompts_for(model.config.vocab_size)
    looks(monkeypatch, 5)
    ending = endings(model, prompts)[2]
    assert answers(model, prompts, ending, 3) == alone(model, prompts, ending)


def test_positions_end_with_the_longest_answer(monkeypatch):
    """Learned positions, of which there are none beyond the last that an answer needs."""
    pads = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = random_model("gpt2", n_positions=20 + LONGEST, **pads)
    draw = random.Random(3)
    prompts = [draw.choices(range(300), k=length) for length in (20, 3, 11)]
    looks(monkeypatch, 8)
    ending = Ending(frozenset(), LONGEST)
    assert answers(model, prompts, ending) == alone(model, prompts, ending)


@pytest.mark.parametrize("steps", [1, 5])
def test_a_row_that_was_not_finite_spoils_none_that_comes_after(tiny_artifact, monkeypatch, steps):
    model = with_one_row_lost(tiny_artifact, END)
    prompts = prompts_for(model.config.vocab_size)
    prompts[1:1] = [[5, END, 8], [END] * 25]
    ending = Ending(frozenset(), LONGEST)
    looks(monkeypatch, steps)
    found = answers(model, prompts, ending, 2)
    assert found == alone(model, prompts, ending)
    assert sum(not answer.finite for answer in found) >= 2
    assert NOT_FINITE not in {token for answer in found for token in answer.ids}


class Watched(steps.Step):
    """A step that is counted: rows, the keys' place in memory, and the bytes of keys and values."""

    seen: list[tuple[int, int, int]]

    def __init__(self, kept, columns, end, prefix):
        super().__init__(kept, columns, end, prefix)
        tensors = [*kept.keys.values(), *kept.values.values()]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.seen.append((len(columns), kept.keys[0].data_ptr(), size))


@pytest.fixture
def watched(monkeypatch):
    """The steps of a run."""
    monkeypatch.setattr(Watched, "seen", [], raising=False)
    monkeypatch.setattr(steps, "Step", Watched)
    return Watched.seen


def test_a_row_is_filled_again_as_soon_as_it_is_free(plain, watched):
    """No step runs with fewer rows while a prompt waits, and none for an answer that ended."""
    draw = random.Random(5)
    prompts = [draw.choices(range(10, plain.config.vocab_size), k=6) for _ in range(20)]
    said = alone(plain, prompts, Ending(frozenset(), 3))
    ending = Ending(frozenset(answer.ids[2] for answer in said[::3]), LONGEST)
    found = answers(plain, prompts, ending, 4)
    assert len({len(answer.ids) for answer in found}) > 2
    taken = sum(len(a.ids) - a.capped for a in found)  # the first token is of the prompt's pass
    assert sum(rows for rows, _, _ in watched) == taken
    rows = [rows for rows, _, _ in watched]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] == 4


def test_no_answer_that_ends_moves_the_keys_of_the_others(plain, watched):
    prompts = [[10 + i, 11, 12] for i in range(9)]
    answers(plain, prompts, Ending(frozenset(), LONGEST), 4)
    assert len({place for _, place, _ in watched}) == 1


def test_a_beginning_that_some_prompts_share_runs_once(plain):
    draw = random.Random(6)
    common, *stems = (draw.choices(range(10, 90), k=30) for _ in range(4))
    prompts = [[*common, *stem, 91 + i, 90] for i in range(5) for stem in stems]
    seen = []
    hook = plain.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    answers(plain, prompts, Ending(frozenset(), 1), 2)
    hook.remove()
    assert sum(seen) == 30 + 3 * 30 + 2 * len(prompts)


@pytest.mark.parametrize("rows", [2, 5])
def test_rows_are_as_many_as_memory_holds(plain, watched, monkeypatch, rows):
    """Longer prompts have fewer; what is kept stays within the memory that was given."""
    a_token = slots.bytes_per_token(plain)
    draw = random.Random(7)
    lengths = [6] * 12 + [40] * 6
    prompts = [draw.choices(range(10, plain.config.vocab_size), k=k) for k in lengths]
    memory = rows * (6 + LONGEST) * a_token
    monkeypatch.setattr(decoding.slots, "memory_for_answers", lambda device: memory)
    ending = Ending(frozenset(), LONGEST)
    found = answers(plain, prompts, ending)
    seen = list(watched)
    assert found == answers(plain, prompts, ending, 4)
    assert seen[0][2] == memory
    assert max(count for count, _, _ in seen) == rows
    assert max(size for count, _, size in seen if count > 1) <= decoding.GROWTH * memory


def test_a_pass_that_runs_out_of_memory_loses_no_answer(plain):
    """Rows that ran begin anew, half as many at once; what was answered is kept."""
    import torch

    prompts = prompts_for(plain.config.vocab_size)
    ending = Ending(frozenset(), LONGEST)
    expected = answers(plain, prompts, ending, 4)
    passes, told, limit = [], [], Limit(64, 4)

    def hook(module, args, kwargs):
        passes.append(kwargs["input_ids"].numel())
        if len(passes) in {20, 40}:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = plain.model.register_forward_pre_hook(hook, with_kwargs=True)
    found = answers(
        plain, prompts, ending, limit=limit, progress=lambda done, total: told.append(done)
    )
    handle.remove()
    assert found == expected
    assert limit.halved == 2
    assert told == list(range(1, len(prompts) + 1))
