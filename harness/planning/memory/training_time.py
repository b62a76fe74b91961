"""How long a training takes, roughly: its floating-point operations at a device's usual speed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from harness.api.footprint import Footprint
from harness.models.shapes import Shapes
from harness.planning.memory.batches import Batch
from harness.planning.memory.formula import adapter_parameters
from harness.system.hardware import Driver, Gpu, Machine, TorchBuild


@dataclass(frozen=True)
class Speed:
    """Dense operations a second of a card, from its maker's data sheet, without sparsity."""

    half: float
    """In bf16 or fp16, added up in float32."""
    float32: float
    """Without tensor cores, as torch multiplies float32 by default."""
    bf16: bool = True
    """Whether it has bf16; else it emulates it, at a speed that no sheet names."""


GPUS = {
    "B200": Speed(2250e12, 75e12),
    "GH200": Speed(989e12, 67e12),
    "H200": Speed(989e12, 67e12),
    "H200 NVL": Speed(835e12, 60e12),
    "H100": Speed(989e12, 67e12),
    "H100 NVL": Speed(835e12, 60e12),
    "H100 PCIe": Speed(756e12, 51e12),
    "A100": Speed(312e12, 19.5e12),
    "L40S": Speed(362e12, 91.6e12),
    "L40": Speed(181e12, 90.5e12),
    "L4": Speed(121e12, 30.3e12),
    "A10": Speed(125e12, 31.2e12),
    "A10G": Speed(70e12, 35e12),
    "RTX 6000 Ada Generation": Speed(364e12, 91.1e12),
    "RTX A6000": Speed(155e12, 38.7e12),
    "RTX 4090": Speed(165e12, 82.6e12),
    "RTX 3090": Speed(71e12, 35.6e12),
    "T4": Speed(65e12, 8.1e12, bf16=False),
    "V100": Speed(125e12, 15.7e12, bf16=False),
    "V100 PCIe": Speed(112e12, 14e12, bf16=False),
}
"""By the model as the driver names it, its maker, line, form and memory left out."""
_MAKERS = {"nvidia", "tesla", "geforce"}
_FORM = re.compile(r"(?i)\d+GB|SXM\d*|HBM\d\w*|PCIe")
UTILISED = 0.35
"""Share of it that a training step reaches."""
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
    """Expected rate of a training step; None for a device of unknown speed."""
    if machine.device != "cuda":
        return CORE * machine.cores if precision == "float32" else None
    speed = speed_of(machine.gpus[0].name)
    if speed is None or (precision == "bf16" and not speed.bf16):
        return None
    return UTILISED * (speed.float32 if precision == "float32" else speed.half)


def speed_of(name: str) -> Speed | None:
    """The speed of a card by its whole name; None for one that is not in GPUS.

    `NVIDIA A100-SXM4-80GB` and `NVIDIA A100 80GB PCIe` are an A100. A laptop's, a slice (MIG) and
    every other variant is another card.
    """
    words = [word for word in name.replace("-", " ").split() if word.lower() not in _MAKERS]
    model = " ".join(word for word in words if not _FORM.fullmatch(word))
    pcie = any(word.lower() == "pcie" for word in words)
    known = {name.lower(): speed for name, speed in GPUS.items()}
    model = model.lower()
    return known.get(f"{model} pcie" if pcie else model) or known.get(model)


def machine_with(gpu: str, memory_bytes: int, here: Machine) -> Machine:
    """This machine with such a GPU in it, by its name, and a torch that can use it.

    Of a GPU that is not in GPUS the time is unknown; it is taken to have bf16.
    """
    speed = speed_of(gpu)
    capability = (8, 0) if speed is None or speed.bf16 else (7, 5)  # 7.x has no bf16
    torch = here.torch or TorchBuild("unknown", None)
    return replace(
        here,
        gpus=(Gpu(gpu, memory_bytes, capability),),
        torch=replace(torch, cuda=torch.cuda or "of its driver"),
        driver=Driver(),
    )


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
