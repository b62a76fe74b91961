"""The type of a loaded causal language model, as far as this package uses one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class CausalLM(Protocol):
    """A transformers causal model, bare or inside peft's wrapper."""

    config: Any
    """A PreTrainedConfig; each family has fields of its own."""
    generation_config: Any
    """Its GenerationConfig, or None."""

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its parameters."""

    def __call__(self, **inputs: Any) -> Any:
        """A forward pass; the output has `logits` (rows, tokens, vocabulary)."""

    def __getattr__(self, name: str) -> Any:
        """What a family, or peft's wrapper, adds."""
