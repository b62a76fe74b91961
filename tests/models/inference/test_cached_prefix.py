"""Stems whose cache, or state, is handed to what follows score as a plain pass of each text."""

import pytest

from harness.models.inference import cached_prefix
from harness.models.inference.cached_prefix import CacheUse, new_cache, rows_of
from harness.models.inference.forward import SMALL_TREE, Limit
from harness.models.inference.loglikelihood import score_requests, sharing
from tests.zoo import zoo

USES = {
    "qwen3_5_text": CacheUse(),  # a linear layer and one of attention
    "mamba2": CacheUse(),
    "mamba": CacheUse(stepwise=True),
    "bloom": CacheUse(),  # positions in the scores
    "gptj": CacheUse(),  # attention of its own
}


def largest_difference(model, asked, found):
    """To a plain pass of each request alone, in nats."""
    import torch

    off = 0.0
    for (context, continuation), score in zip(asked, found, strict=True):
        plain = zoo._plain(model, [*context, *continuation])[len(context) - 1 : -1]
        plain = plain[range(len(continuation)), continuation]
        off = max(off, float((plain - torch.tensor(score.token_logprobs)).abs().max()))
    return off


@pytest.mark.parametrize("family", USES)
def test_a_stem_scores_as_a_plain_pass(family):
    model, asked = zoo.built(family), zoo.requests()
    how = sharing(model)
    assert (how.why_not, how.cache) == (None, USES[family])
    for small_tree, limit in ((SMALL_TREE, 2048), (0, 2048), (0, 100)):
        found = score_requests(
            model,
            asked,
            max_length=128,
            limit=Limit(limit),
            cache=USES[family],
            small_tree=small_tree,
        )
        assert largest_difference(model, asked, found) <= 2e-5


def test_a_stem_runs_once():
    model = zoo.built("qwen3_5_text")
    stem = [3 + i % 90 for i in range(60)]
    asked = [([*stem, 5 + i, 50 - i], [7]) for i in range(12)]
    ran = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: ran.append(inputs[0].numel())
    )
    score_requests(model, asked, max_length=128, limit=Limit(2048), cache=CacheUse())
    hook.remove()
    assert ran[-2:] == [len(stem), 12 * 2]  # after what finds out whether padding is neutral
    assert sum(ran[:-2]) < len(stem)


def test_what_a_stem_left_is_as_it_was_after_others_went_on_from_it():
    import torch

    model = zoo.built("qwen3_5_text")
    cache = new_cache(model)
    with torch.inference_mode():
        model.model(input_ids=torch.tensor([[5, 6, 7, 8]]), past_key_values=cache, use_cache=True)
        said = [
            model.model(
                input_ids=torch.tensor([[9, 10]] * 3),
                past_key_values=rows_of(cache, [0] * 3),
                use_cache=True,
            )[0]
            for _ in range(2)
        ]
    assert torch.equal(*said)


def test_a_state_that_is_not_handed_on_is_noticed(monkeypatch):
    model = zoo.built("mamba2")
    monkeypatch.setattr(cached_prefix, "rows_of", lambda cache, rows: new_cache(model))
    assert sharing(model).why_not is not None


def test_a_pass_of_its_own_must_save_its_cost():
    """A beginning of a few tokens runs again with each text: small passes cost more than they
    save."""
    model = zoo.built("qwen3_5_text")
    asked = [([5, 6, 7, 8, 9, 10, 11, 12, 20 + i], [7, 8]) for i in range(4)]
    widths = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: widths.append(tuple(inputs[0].shape))
    )
    score_requests(model, asked, max_length=128, limit=Limit(2048), cache=CacheUse())
    hook.remove()
    assert (4, 10) in widths
