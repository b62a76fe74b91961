"""Rotary positions whose frequencies depend on the length of what is run.

transformers' `longrope` (Ding et al. 2024, arXiv 2402.13753) and `dynamic` take other frequencies
for the whole pass once its longest row is beyond the original length, and `dynamic` keeps those of
the longest row that it saw. A request then has the log-probability of a pass of its own only where
all rows of a pass are of its length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.models.causal_lm import CausalLM


@dataclass(frozen=True)
class LengthRope:
    """Such positions of a model."""

    model: CausalLM
    original: int
    """Tokens up to which the frequencies are always the same."""

    def reset(self) -> None:
        """Forget the longest row that `dynamic` frequencies were made for."""
        for module in self.model.modules():
            if not hasattr(module, "max_seq_len_cached"):
                continue
            for name in dir(module):
                if name.endswith("original_inv_freq"):
                    buffer = name.removesuffix("original_inv_freq") + "inv_freq"
                    current = getattr(module, buffer)
                    original = getattr(module, name).to(current.device)
                    module.register_buffer(buffer, original.clone(), persistent=False)
                elif name.endswith("max_seq_len_cached"):
                    setattr(module, name, module.original_max_seq_len)


def length_rope(model: CausalLM) -> LengthRope | None:
    """That of a model; None where its frequencies are always the same."""
    config = model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [rope for rope in parameters.values() if isinstance(rope, Mapping)]
    lengths = [
        rope.get("original_max_position_embeddings") or config.max_position_embeddings
        for rope in [parameters, *nested]
        if "dynamic" in str(rope.get("rope_type")) or rope.get("rope_type") == "longrope"
    ]
    return LengthRope(model, int(min(lengths))) if lengths else None
