"""Training without mask tensors: the same losses and gradients, and none in torch's attention."""

import contextlib

import pytest

from harness.training import masks, sft
from tests.training.test_sft import job


@pytest.fixture
def passes(tiny_model, tmp_path, monkeypatch):
    """`passes(without, **options)`: loss, gradients and attention's arguments of a first batch."""
    import torch

    from harness.types import Artifact

    seen = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, value, attn_mask=None, **keywords):
        seen.append((attn_mask, key.shape[1], query.shape[2], keywords["is_causal"]))
        return attention(query, key, value, attn_mask=attn_mask, **keywords)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)

    def run(without, model=tiny_model, **options):
        work = job(tmp_path, model, batch=4)
        opened, tokenizer = sft._load(Artifact("base", work.model))
        settings = sft.SftOptions(**options)
        train, micro = sft._laid_out(work, settings, sft._encode(work, tokenizer, work.train))
        trainer = sft._trainer(work, settings, opened, tokenizer, None, train, [], micro)
        with masks.without_masks(trainer) if without else contextlib.nullcontext():
            batch = next(iter(trainer.get_train_dataloader()))
            lengths = [len(row) for row in trainer.train_dataset[:4]["input_ids"]]
            seen.clear()
            loss = trainer.compute_loss(trainer.model, batch)
            loss.backward()
        gradients = {name: p.grad for name, p in trainer.model.named_parameters()}
        return float(loss.detach()), gradients, list(seen), lengths

    return run


def assert_same(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    for name, gradient in theirs[1].items():
        scale = float(gradient.abs().max())
        assert float((ours[1][name] - gradient).abs().max()) <= 1e-5 * scale, name


def test_padded_rows_train_the_same_without_their_mask(passes):
    whole, ours = passes(False), passes(True)
    assert len(set(whole[3])) > 1
    assert all(mask is not None and heads == 4 for mask, heads, _, _ in whole[2])
    # no mask, so that flash kernels apply, and keys are not copied for each query head
    assert all(mask is None and causal for mask, _, _, causal in ours[2])
    assert {heads for _, heads, _, _ in ours[2]} == {2}
    assert_same(ours, whole)


def test_packed_rows_train_as_rows_of_a_batch_do_and_have_no_mask(passes):
    padded, packed, ours = passes(False), passes(False, packing=True), passes(True, packing=True)
    total = sum(ours[3])
    assert any(mask is not None and mask.shape[-2:] == (total, total) for mask, *_ in packed[2])
    # two layers, a row at a time
    assert [length for _, _, length, _ in ours[2]] == ours[3] * 2
    assert all(mask is None and causal for mask, _, _, causal in ours[2])
    assert_same(ours, padded)
    assert_same(packed, padded)


def test_a_model_gets_its_attention_back(passes, tiny_model):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with masks.rows_apart(model):
        assert model.config._attn_implementation == masks.ROWS
    assert model.config._attn_implementation == "sdpa"
    assert not model._forward_pre_hooks


def test_a_window_keeps_its_mask(tiny_model):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config.sliding_window = 8
    with masks.rows_apart(model):
        assert model.config._attn_implementation == "sdpa"


def test_a_model_whose_answers_depend_on_the_mask_keeps_it(passes, monkeypatch):
    monkeypatch.setattr(masks, "_independent", lambda trainer, model: False)
    assert all(mask is not None for mask, *_ in passes(True)[2])


@pytest.mark.parametrize("causal", [True, False])
def test_whether_the_mask_matters_is_measured(tiny_model, tmp_path, causal):
    """Where attention is not causal, tokens see the padding after them."""
    from harness.types import Artifact

    work = job(tmp_path, tiny_model)
    model, tokenizer = sft._load(Artifact("base", work.model))
    model.config.is_causal = causal
    for layer in model.model.layers:
        layer.self_attn.is_causal = causal
    train = sft._encode(work, tokenizer, work.train)
    trainer = sft._trainer(work, sft.SftOptions(), model, tokenizer, None, train, [], 2)
    assert masks._independent(trainer, model) is causal
