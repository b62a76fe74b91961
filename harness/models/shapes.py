"""Sizes of a causal language model, from its configuration alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.types import ModelRef


class NotPredicted(Exception):
    """Why there is no prediction; a sentence for the user."""


@dataclass(frozen=True)
class Linear:
    """One linear layer."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def weights(self) -> int:
        """Numbers in its matrix."""
        return self.inputs * self.outputs


_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "mistral": {"num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32, "qkv_bias": True},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128, "head_norms": True},
    "gemma": {"num_key_value_heads": 16, "head_dim": 256, "tie_word_embeddings": True},
    "granite": {},
}
"""Families of one layout: pre-norm layers of attention and a gated feed-forward. What their
configuration classes say where a config.json is silent."""


@dataclass(frozen=True)
class Shapes:
    """Widths of a decoder, in numbers."""

    hidden: int
    layers: int
    vocabulary: int
    heads: int
    attention: int
    """Width of all queries together."""
    keys: int
    """Width of all keys, and of all values."""
    inner: int
    """Width of the feed-forward."""
    tied: bool
    """Whether the head is the embedding."""
    linears: tuple[Linear, ...]
    """Of one layer."""
    norms: int
    """Norm weights of one layer."""
    dtype: str
    """As the file has it: `float32`, `bfloat16` ..."""

    @property
    def embedding(self) -> int:
        """Numbers in the embedding; an untied head has as many."""
        return self.vocabulary * self.hidden

    @property
    def linear_weights(self) -> int:
        """Numbers in the matrices of all layers, without the head."""
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def parameters(self) -> int:
        """All numbers of the model."""
        biases = sum(linear.outputs for linear in self.linears if linear.bias)
        return (
            self.linear_weights
            + self.layers * (biases + self.norms)
            + self.embedding * (1 if self.tied else 2)
            + self.hidden
        )

    def targeted(self, targets: str | Sequence[str]) -> list[Linear]:
        """The linear layers of one layer that an adapter is put on.

        Raises NotPredicted for a pattern: peft reads a lone name as a regular expression.
        """
        if targets == "all-linear":
            return list(self.linears)
        if isinstance(targets, str):
            raise NotPredicted(f"target_modules '{targets}' is a pattern")
        names = {name.rpartition(".")[2] for name in targets}
        return [linear for linear in self.linears if linear.name in names]


def shapes_of(config: Mapping[str, object]) -> Shapes:
    """The shapes by a config.json. Raises NotPredicted for another layout."""
    family = str(config.get("model_type"))
    if family not in _DEFAULTS:
        raise NotPredicted(f"no formula for models of type '{family}'")
    values = {**_DEFAULTS[family], **{k: v for k, v in config.items() if v is not None}}
    hidden, heads, inner = (
        int(values[key]) for key in ("hidden_size", "num_attention_heads", "intermediate_size")
    )
    width = int(values.get("head_dim") or hidden // heads)
    attention, keys = heads * width, int(values.get("num_key_value_heads", heads)) * width
    bias = bool(values.get("attention_bias"))
    qkv, mlp = bias or bool(values.get("qkv_bias")), bool(values.get("mlp_bias"))
    linears = (
        Linear("q_proj", hidden, attention, qkv),
        Linear("k_proj", hidden, keys, qkv),
        Linear("v_proj", hidden, keys, qkv),
        Linear("o_proj", attention, hidden, bias),
        Linear("gate_proj", hidden, inner, mlp),
        Linear("up_proj", hidden, inner, mlp),
        Linear("down_proj", inner, hidden, mlp),
    )
    return Shapes(
        hidden=hidden,
        layers=int(values["num_hidden_layers"]),
        vocabulary=int(values["vocab_size"]),
        heads=heads,
        attention=attention,
        keys=keys,
        inner=inner,
        tied=bool(values.get("tie_word_embeddings", False)),
        linears=linears,
        norms=2 * hidden + (2 * width if values.get("head_norms") else 0),
        dtype=str(values.get("dtype") or values.get("torch_dtype") or "float32"),
    )


def shapes_of_model(model: ModelRef) -> Shapes:
    """The shapes of a model. Raises NotPredicted where its configuration does not give them."""
    try:
        return shapes_of(config_of(model))
    except (KeyError, ValueError, TypeError) as error:
        raise NotPredicted(f"the configuration of '{model.name}' lacks {error}") from None


def config_of(model: ModelRef) -> dict[str, Any]:
    """A model's config.json: in its folder, or in the Hugging Face cache. Nothing is downloaded.

    Raises NotPredicted where there is none.
    """
    file = Path(model.path) / "config.json"
    if not file.is_file():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model.path, "config.json", revision=model.revision)
        if not isinstance(cached, str):
            raise NotPredicted(f"the configuration of '{model.name}' is not on this machine")
        file = Path(cached)
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return config
