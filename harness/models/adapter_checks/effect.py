"""Whether an adapter is applied: what the model says of a probe text without it and with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError, is_out_of_memory
from harness.models.adapter_checks import saved

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

__all__ = ["NO_EFFECT", "Probe"]

NO_EFFECT = "adapter.no_effect"
"""Begins the warning of an adapter that changes nothing."""
TEXT = "Do you sell a red kettle? Yes: it costs 12 coins, and the lamp beside it 3 more."
LONGEST = 64
"""Tokens of the probe, at most."""


class Probe:
    """A model's logits of a probe text, taken before an adapter is attached to it.

    Tokens whose embeddings the adapter in `folder` trains stand at the text's end, for an adapter
    of nothing else changes no other text.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        rows = model.get_input_embeddings().weight.shape[0]
        text = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
        ids = [*text[: LONGEST // 2], *_trained_tokens(folder)][:LONGEST]
        self.ids = [i for i in ids if i < rows] or [0]
        self.before = _logits(model, self.ids)

    def check(self, adapted: Any, subject: str) -> str | None:
        """A warning where the adapted model's logits are those of before, to the last bit.

        Raises UserError where no layer of the adapter takes part in the forward pass. What cannot
        be told, for the pass breaks, is left to the suites.
        """
        import torch

        with _watched(adapted) as (layers, ran):
            after = _logits(adapted, self.ids)
        if after is None or self.before is None:
            return None
        if layers and not ran:
            raise UserError(
                f"{subject}: none of the {layers} layers that it changes runs in the model's "
                "forward pass, so it is never applied: name other target_modules in its training"
            )
        if not torch.equal(self.before, after):
            return None
        return (
            f"{NO_EFFECT}: with the adapter the model gives a probe text the logits of its base, "
            "to the last bit, so figures are the base's: check that the right folder was saved "
            "after training, and that the training moved it (learning rate, steps, precision)"
        )


def _logits(model: Any, ids: Sequence[int]) -> torch.Tensor | None:
    """(tokens, vocabulary) of the token ids, virtual tokens left out; None where they break."""
    import torch

    device = model.get_input_embeddings().weight.device
    try:
        with torch.no_grad():
            logits: torch.Tensor = model(input_ids=torch.tensor([ids], device=device)).logits
    except Exception as error:  # a family's own way to fail: the suites will meet it too
        if is_out_of_memory(error):
            raise
        return None
    return logits[0, -len(ids) :].cpu()


@contextmanager
def _watched(model: Any) -> Iterator[tuple[int, set[int]]]:
    """How many layers hold a part of the adapter; those that ran by the end."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    ran: set[int] = set()

    def note(module: Any, *_: object) -> None:
        applied = getattr(module, "active_adapters", None)
        if applied and not getattr(module, "disable_adapters", False):
            ran.add(id(module))

    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    layers: list[Any] = [module for module in model.modules() if isinstance(module, kinds)]
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield len(layers), ran
    finally:
        for hook in hooks:
            hook.remove()


def _trained_tokens(folder: Path) -> list[int]:
    """Ids of tokens whose embeddings the adapter trains by themselves, a few of each kind."""
    from safetensors import safe_open

    config = saved.config(folder)
    stated = config.get("token_indices") or config.get("trainable_token_indices") or []
    lists = list(stated.values()) if isinstance(stated, dict) else [stated]
    ids = [int(i) for one in lists for i in one[:8]]
    embedded = [name for name in saved.shapes(folder) if name.endswith("lora_embedding_A")]
    with safe_open(str(folder / saved.WEIGHTS), "pt") as file:
        for name in embedded:
            ids += file.get_tensor(name).any(0).nonzero().flatten()[:8].tolist()
    return ids
