"""A record's `environment`: the machine and the installed packages, none of which is imported."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

from harness.record import Environment, Gpu
from harness.system import hardware

PACKAGES = (
    "finetune-harness",
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "datasets",
    "lm_eval",
    "sentence-transformers",
    "accelerate",
)


def environment() -> Environment:
    """A record's `environment`."""
    facts = hardware.facts()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": facts.cpu,
        "cores": facts.cores,
        "memory_bytes": facts.memory_bytes,
        "packages": {name: _version(name) for name in PACKAGES},
        "gpu": _gpu(facts),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu(facts: hardware.Machine) -> Gpu | None:
    """The first visible GPU: from torch where it is imported already, else from the driver."""
    torch = sys.modules.get("torch")
    if torch is None:
        gpus = facts.gpus if facts.device == "cuda" else ()
        if not gpus:
            return None
        return {
            "name": gpus[0].name,
            "memory_bytes": gpus[0].memory_bytes,
            "count": len(gpus),
        }
    if not torch.cuda.is_available():
        return None
    device = torch.cuda.get_device_properties(0)
    return {
        "name": device.name,
        "memory_bytes": device.total_memory,
        "count": torch.cuda.device_count(),
    }
