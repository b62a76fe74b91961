"""How long a training takes, roughly: its floating-point operations at a device's usual speed."""

from __future__ import annotations

from harness.api.footprint import Footprint
from harness.models.shapes import Shapes
from harness.planning.memory.batches import Batch
from harness.planning.memory.formula import adapter_parameters
from harness.system.hardware import Machine

GPU_BF16 = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "A6000": 155e12,
}
"""Dense bf16 operations a second, from the makers' data sheets."""
UTILISED = 0.35
"""Share of it that a training step reaches."""
FLOAT32_SHARE = 1 / 15
"""Float32 without tensor cores, against bf16."""
CORE = 38e9
"""Float32 operations a second of an AVX2 core: 71 to 82e9 on two (results/reference)."""


def operations(shapes: Shapes, footprint: Footprint, tokens: float) -> float:
    """Of one forward and backward pass over `tokens` positions.

    2 for each weight and token forwards, 2 for the inputs' gradients, and 2 for the weights' own
    (Kaplan et al. 2020, arXiv 2001.08361, section 2.1), which frozen weights do without;
    checkpointing runs the forward pass twice.
    """
    base, own = shapes.linear_weights + shapes.embedding, adapter_parameters(shapes, footprint)
    frozen = footprint.trains != "all"
    passes = (4 if frozen else 6) + (2 if footprint.gradient_checkpointing else 0)
    return tokens * (passes * base + 6 * own)


def operations_per_second(machine: Machine, precision: str) -> float | None:
    """Expected rate of a training step; None for an unknown device."""
    if machine.device != "cuda":
        return CORE * machine.cores if precision == "float32" else None
    name = machine.gpus[0].name
    peak = next((speed for key, speed in GPU_BF16.items() if key in name), None)
    if peak is None:
        return None
    return UTILISED * peak * (1 if precision == "bf16" else FLOAT32_SHARE)


def seconds(
    shapes: Shapes,
    footprint: Footprint,
    batch: Batch,
    passes: int,
    machine: Machine,
    precision: str,
) -> float | None:
    """Of `passes` forward and backward passes over such batches, good to about a factor of two."""
    rate = operations_per_second(machine, precision)
    if rate is None:
        return None
    tokens = batch.mean_tokens or batch.tokens
    return passes * operations(shapes, footprint, tokens) / rate
