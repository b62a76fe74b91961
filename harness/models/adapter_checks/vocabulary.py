"""Whether an adapter's embeddings and tokenizer are those of the base that it is put on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UserError
from harness.models.adapter_checks import saved

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["check_embeddings", "check_tokenizer", "layer_names"]

ANOTHER = 0.1
"""Share of a vocabulary's ids with other tokens above which it is another vocabulary. What is kept
free for later tokens, which a training may rename, is below 3% in the vocabularies that we know."""
_PREFIX = "base_model.model."


def layer_names(model: Any) -> dict[str, Any]:
    """The model's token embedding and its head, by the names that an adapter's file has."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    kept = [layer for layer in layers if _is_matrix(getattr(layer, "weight", None))]
    return {
        f"{_PREFIX}{name}": module
        for name, module in model.named_modules()
        if any(module is layer for layer in kept)
    }


def _is_matrix(weight: Any) -> bool:
    """Whether a weight has a row for each token: a quantised head's is packed."""
    return weight is not None and weight.is_floating_point() and weight.dim() == 2


def check_embeddings(model: Any, folder: Path, subject: str) -> None:
    """Raise UserError where the adapter's embeddings or head have other rows than the model's.

    `model` is the base without the adapter. A training that adds tokens resizes both.
    """
    layers = layer_names(model)
    for name, shape in saved.shapes(folder).items():
        for layer, module in layers.items():
            rows, trained = module.weight.shape[0], _rows(name.removeprefix(layer), shape)
            if name.startswith(f"{layer}.") and trained not in (None, rows):
                raise UserError(
                    f"{subject}: its {layer.rpartition('.')[2]} has {trained} rows, the model's "
                    f"{rows}: the embeddings were resized in its training, or its base has "
                    "another vocabulary; merge it into its base where it was trained, and measure "
                    "the merged folder"
                )


def _rows(part: str, shape: tuple[int, ...]) -> int | None:
    """Rows of the vocabulary in a part of an embedding's adapter; None where it shows none."""
    if len(shape) != 2:
        return None
    if part in (".weight", ".base_layer.weight", ".lora_B.weight"):
        return shape[0]
    return shape[1] if part == ".lora_embedding_A" else None


def check_tokenizer(
    own: PreTrainedTokenizerBase, base: PreTrainedTokenizerBase, folder: Path, subject: str
) -> str | None:
    """A warning where the adapter's own tokenizer gives ids other tokens than its base's.

    Raises UserError where so many differ that it is another vocabulary: each row of the embeddings
    would stand for another token than in training.
    """
    mine, theirs = ({i: token for token, i in t.get_vocab().items()} for t in (own, base))
    differing = [i for i in sorted(theirs) if mine.get(i) != theirs[i]]
    if len(differing) > ANOTHER * len(theirs):
        raise UserError(
            f"{subject}: its tokenizer gives {_differing(differing, mine, theirs)}: it was trained "
            "on a base with another vocabulary; open it on that one"
        )
    if differing:
        return (
            "adapter.vocabulary: the adapter's own tokenizer, which is used, gives "
            f"{_differing(differing, mine, theirs)}: right where it was trained so, else remove "
            "the tokenizer from the adapter's folder"
        )
    added = sorted(set(mine) - set(theirs) - {own.pad_token_id})
    if not added or _holds_embeddings(folder):
        return None
    return (
        f"adapter.vocabulary: the adapter's own tokenizer adds {len(added)} tokens to its base's "
        f"(first: {mine[added[0]]!r}), whose embeddings the adapter does not hold, so they are the "
        "base's unused rows: train them too (modules_to_save or trainable_token_indices)"
    )


def _differing(ids: list[int], mine: dict[int, str], theirs: dict[int, str]) -> str:
    first = ids[0]
    return (
        f"{len(ids)} of {len(theirs)} ids another token than the base's (first: {first}, "
        f"{mine.get(first)!r} for {theirs[first]!r})"
    )


def _holds_embeddings(folder: Path) -> bool:
    config = saved.config(folder)
    stated = config.get("trainable_token_indices") or config.get("token_indices")
    names = ("embed", "wte", "lm_head")
    return bool(stated) or any(part in name for name in saved.shapes(folder) for part in names)
