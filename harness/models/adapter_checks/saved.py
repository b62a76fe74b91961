"""What an adapter's folder says of itself, read without torch: its configuration, its tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.models.model_files import tensor_header

__all__ = ["CONFIG", "WEIGHTS", "changes_nothing", "config", "shapes"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_LORA = re.compile(r"^(.*)\.lora_(?:embedding_)?([AB])(?:\.weight)?$")
_TYPES = {"F32": ("<u4", 0x3F800000), "F16": ("<u2", 0x3C00), "BF16": ("<u2", 0x3F80)}
"""By a type's name in a header: its bits as numpy reads them, and those of the number one."""


def config(folder: Path) -> dict[str, Any]:
    """The content of `adapter_config.json`. Raises ValueError or TypeError where it is broken."""
    return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor by its name. Raises ValueError where the file is broken."""
    return {name: tuple(one["shape"]) for name, one in _header(folder).items()}


def changes_nothing(folder: Path) -> str | None:
    """Why an adapter leaves every weight of its base as it is; None where it may change some.

    Told of LoRA, whose update B A is zero where one of the two is, and of (IA)3, which multiplies
    by ones. Of other kinds the tensors alone do not say it. Raises ValueError where the file is
    broken.
    """
    tensors = dict(_tensors(folder))
    if tensors and all(name.endswith("ia3_l") for name in tensors):
        ones = all(_is_ones(kind, data) for kind, data in tensors.values())
        return f"all its {len(tensors)} vectors are one" if ones else None
    layers: dict[str, bool] = {}
    for name, (kind, data) in tensors.items():
        side = _LORA.match(name)
        if side:
            layers[side[1]] = layers.get(side[1], False) or _is_zero(kind, data)
        elif not name.endswith(".base_layer.weight"):
            return None
    if not layers or not all(layers.values()):
        return None
    return f"the update of each of its {len(layers)} layers is zero (lora_B)"


def _is_ones(kind: str, data: bytes) -> bool:
    return kind in _TYPES and bool((_bits(kind, data) == _TYPES[kind][1]).all())


def _is_zero(kind: str, data: bytes) -> bool:
    """Whether all numbers are zero, of either sign."""
    return kind in _TYPES and not (_bits(kind, data) << 1).any()


def _bits(kind: str, data: bytes) -> Any:
    import numpy as np

    return np.frombuffer(data, dtype=_TYPES[kind][0])


def _header(folder: Path) -> dict[str, Any]:
    header: dict[str, Any] = tensor_header(folder / WEIGHTS)
    return {name: one for name, one in header.items() if name != "__metadata__"}


def _tensors(folder: Path) -> Iterator[tuple[str, tuple[str, bytes]]]:
    """Name, type and bytes of each tensor."""
    file, header = folder / WEIGHTS, _header(folder)
    start = file.stat().st_size - max(one["data_offsets"][1] for one in header.values())
    with file.open("rb") as stream:
        for name, one in header.items():
            first, last = one["data_offsets"]
            stream.seek(start + first)
            yield name, (one["dtype"], stream.read(last - first))
