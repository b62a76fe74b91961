"""Attention without mask tensors in training, where that changes no result.

Rows are padded at their end and attention is causal: no token sees the padding after it, and
padding has no label. Rows that are laid end to end are apart where each is attended by itself.
Without a mask torch takes its flash kernels on CUDA, which have none, and copies no key for each
query head; a mask of N packed tokens has N x N numbers. On a CPU masks stay: there they cost
little, and sums would be rounded in another order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from harness.models.causal_lm import CausalLM
    from harness.training.trainer import Trainer

ROWS = "harness_rows_apart"
"""Name of the attention of packed rows, among transformers' own."""
COMPARED = 16
"""Tokens of a row that are compared with and without the mask."""
_ROUNDING = {False: 0.001, True: 0.05}
"""What rounding may make of a log-probability, as a share of it: in float32, and in 16 bits."""


@contextmanager
def without_masks(trainer: Trainer) -> Iterator[None]:
    """Train without mask tensors where attention is torch's and the results are the same.

    Packed rows keep theirs in a compiled model, which would be compiled anew for their lengths.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not trainer.padding_free:
        way: AbstractContextManager[None] = no_padding_mask(trainer, model)
    else:
        way = nullcontext() if trainer.args.torch_compile else rows_apart(inner)
    with way:
        yield


# ---- padding


@contextmanager
def no_padding_mask(trainer: Trainer, model: CausalLM) -> Iterator[None]:
    """Keep the mask of padded rows from the model, if its answers do not depend on it."""
    # what balances a mixture's experts would count the padding
    if trainer.aux_loss_enabled or not _independent(trainer, model):
        yield
        return
    handle = model.register_forward_pre_hook(_without_mask, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _without_mask(
    module: torch.nn.Module, args: tuple[object, ...], keywords: Mapping[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    return args, {key: value for key, value in keywords.items() if key != "attention_mask"}


def _independent(trainer: Trainer, model: CausalLM) -> bool:
    """Whether log-probabilities of a padded row are the same without the mask: measured."""
    import torch

    rows = trainer.train_dataset[:2]["input_ids"]
    longest = max(rows, key=len)[:COMPARED]
    shorter = rows[0][: len(longest) // 2]
    if len(shorter) < 2:
        return False
    batch = trainer.data_collator([{"input_ids": r, "labels": r} for r in (longest, shorter)])
    ids, mask = (batch[key].to(model.device) for key in ("input_ids", "attention_mask"))
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), trainer.compute_loss_context_manager():
            with_mask, without = (
                model(input_ids=ids, use_cache=False, **more).logits[1, : len(shorter)]
                for more in ({"attention_mask": mask}, {})
            )
    finally:
        model.train(training)
    ours, theirs = (logits.float().log_softmax(-1) for logits in (without, with_mask))
    coarse = bool(trainer.args.bf16 or trainer.args.fp16)
    allowed = _ROUNDING[coarse] * float(1 + theirs.abs().max())
    return bool((ours - theirs).abs().max() <= allowed)


# ---- packing


@contextmanager
def rows_apart(model: CausalLM) -> Iterator[None]:
    """Have a model attend each packed row by itself, if its attention is torch's.

    Layers that see a window of the last tokens only keep their mask.
    """
    before = model.config._attn_implementation
    if before != "sdpa" or not _sees_all(model.config.get_text_config()):
        yield
        return
    from transformers import AttentionInterface

    bounds: list[int] = []
    AttentionInterface.register(ROWS, _by_row(bounds))

    def find(
        module: torch.nn.Module, args: tuple[object, ...], keywords: Mapping[str, Any]
    ) -> None:
        given = keywords.get("cu_seq_lens_q")
        bounds[:] = [] if given is None else given.tolist()  # read once, not in every layer

    handle = model.register_forward_pre_hook(find, with_kwargs=True)
    model.set_attn_implementation(ROWS)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        handle.remove()


def _sees_all(config: Any) -> bool:
    """Whether every layer sees all tokens before: no window and no chunks."""
    names = ("sliding_window", "attention_chunk_size")
    return not any(getattr(config, name, None) for name in names)


def _by_row(bounds: Sequence[int]) -> Callable[..., tuple[torch.Tensor, None]]:
    """Attention of rows that begin and end at `bounds`, which each pass writes anew."""
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **keywords: Any,
    ) -> tuple[torch.Tensor, None]:
        rows = list(itertools.pairwise(bounds))
        parts = []
        for start, end in rows or [(0, query.shape[2])]:
            own, keys, values = (t[:, :, start:end] for t in (query, key, value))
            parts.append(sdpa_attention_forward(module, own, keys, values, None, **keywords)[0])
        return torch.cat(parts, dim=1), None

    return attend
