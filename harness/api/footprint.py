"""What of a method decides how much memory its training takes; said by the method itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

OPTIMIZER_BYTES = {
    "adamw_torch": 8.0,
    "adamw_torch_fused": 8.0,
    "adamw_8bit": 2 + 8 / 256,
    "paged_adamw_8bit": 2 + 8 / 256,
}
"""Bytes of state for each trainable parameter: two moments, in float32, or in one byte each with a
float32 for each 256 of them. bitsandbytes keeps those of embeddings in float32."""


@dataclass(frozen=True)
class Footprint:
    """The facts that a prediction needs. A method returns one from `Method.footprint`.

    The callables get the inputs and outputs of a linear layer that has an adapter.
    """

    trains: Literal["all", "adapter"]
    """Every weight, or an adapter on frozen weights."""
    targets: str | Sequence[str] = "all-linear"
    """Linear layers with an adapter: names, or all but the head."""
    adapter: Callable[[int, int], int] = lambda inputs, outputs: 0
    """Parameters of the adapter of one layer."""
    keeps: Callable[[int, int], int] = lambda inputs, outputs: 0
    """Numbers for each token that one adapter keeps for its backward pass, its input apart."""
    scratch: Callable[[int, int], int] = lambda inputs, outputs: 0
    """Numbers, in float32, that one adapter holds during its own forward pass alone."""
    bits: int | None = None
    """Bits of a weight of the frozen base's linear layers; None where it is not quantised."""
    double_quant: bool = False
    """Whether the quantisation's constants are quantised too."""
    weights: Literal["float32", "bf16"] = "float32"
    """Of weights that are all trained, and of their gradients; what bf16 drops is kept apart."""
    optimizer: str = "adamw_torch"
    """A key of OPTIMIZER_BYTES."""
    gradient_checkpointing: bool = False
    packing: bool = False
    """Rows of a batch stand end to end, without padding."""
    peft: Callable[[], Any] | None = None
    """The peft configuration, for the symbolic trace; called where torch may be imported."""

    def state_bytes(self) -> float | None:
        """Optimizer state of a parameter; None for an optimizer that is not known."""
        return OPTIMIZER_BYTES.get(self.optimizer)
