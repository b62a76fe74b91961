"""Which cells fit a given memory, with which micro-batch, and which methods would."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.planning.memory.batches import with_rows
from harness.planning.memory.card import needed
from harness.planning.memory.formula import Setting, floor, peak
from harness.planning.memory.predict import Prediction

if TYPE_CHECKING:
    from harness.api.footprint import Footprint
    from harness.planning.cell import Cell

_UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


RANK = 16
"""Of the adapter that is proposed where a training does not fit."""


@dataclass(frozen=True)
class Fit:
    """Whether a cell fits."""

    fits: bool | None
    """None where its peak is not predicted."""
    micro_batch: int | None
    """The largest that fits and divides the batch; None where not even one row does."""


def bytes_of(text: str) -> int:
    """`24GB`, `80GiB`, `512 MB` in bytes. Raises UserError."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    units = {**_UNITS, **_BINARY}
    if not match or match[2] not in units or not float(match[1]):
        raise UserError(f"--memory '{text}': expected a size, such as 24GB or 80GiB")
    return int(float(match[1]) * units[match[2]])


def fit(cell: Cell, prediction: Prediction, memory: int) -> Fit:
    """Whether a cell's training fits `memory` bytes, and its largest micro-batch that does."""
    setting = prediction.setting
    if prediction.total is None or setting is None:
        return Fit(None, None)
    batch = cell.budget.batch
    divisors = [rows for rows in range(batch, 0, -1) if batch % rows == 0]
    kind = prediction.kind
    largest = next(
        (rows for rows in divisors if needed(total(setting, rows, batch), kind) <= memory), None
    )
    return Fit(needed(prediction.total, kind) + prediction.paged <= memory, largest)


def total(setting: Setting, rows: int, batch: int) -> int:
    """The predicted peak with another micro-batch of the same effective batch."""
    other = dataclasses.replace(
        setting, batch=with_rows(setting.batch, rows), accumulates=rows < batch
    )
    return sum(peak(other).values())


def advice(cells: Sequence[tuple[Cell, Prediction, Fit]], memory: int) -> list[str]:
    """A sentence for each cell that does not fit: the settings or methods that would."""
    fitting = [cell.label for cell, _, fit in cells if fit.fits]
    sentences = []
    for cell, prediction, fit in cells:
        if fit.fits is not False:
            continue
        fix = _fix(prediction, fit, cell.budget.batch, memory)
        others = f"; as planned {', '.join(dict.fromkeys(fitting))} would" if fitting else ""
        sentences.append(f"{cell.label} does not fit: {fix}{others}")
    return list(dict.fromkeys(sentences))


def _fix(prediction: Prediction, fit: Fit, batch: int, memory: int) -> str:
    if fit.micro_batch is not None:
        return f"it does with budget.micro_batch: {fit.micro_batch}"
    setting = prediction.setting
    assert setting is not None
    saving = dataclasses.replace(setting.footprint, gradient_checkpointing=True)
    spared = dataclasses.replace(setting, footprint=saving)
    if needed(total(spared, 1, batch), prediction.kind) <= memory:
        return "it does with budget.micro_batch: 1 and gradient_checkpointing: true"
    none = "no micro-batch does, with gradient checkpointing neither"
    others = alternatives(setting, batch, memory, prediction.kind)
    return f"{none}; {' or '.join(others)} would" if others else none


def never(prediction: Prediction, batch: int, memory: int) -> str | None:
    """Why no micro-batch of a training fits `memory` bytes, and what would; None where one may.

    The weights, all their gradients and the optimizer's state alone are more.
    """
    setting = prediction.setting
    if setting is None or floor(setting) <= memory:
        return None
    others = alternatives(setting, batch, memory, prediction.kind)
    fix = " or ".join(others) if others else "a smaller model"
    return (
        f"weights, gradients and optimizer state alone take {_size(floor(setting))} of "
        f"{_size(memory)}, so no micro-batch fits; {fix} would"
    )


def alternatives(setting: Setting, batch: int, memory: int, kind: str) -> list[str]:
    """Ways to train the same model that fit: with a row at a time and gradient checkpointing."""
    own = dataclasses.replace(setting.footprint, gradient_checkpointing=True)
    adapter = dataclasses.replace(
        own, trains="adapter", adapter=lambda inputs, outputs: RANK * (inputs + outputs)
    )
    ways: dict[str, Footprint] = {}
    if setting.trains_all:
        if setting.precision == "bf16":
            small = dataclasses.replace(own, weights="bf16", optimizer="adamw_8bit")
            ways["weights: bf16 with optimizer: adamw_8bit"] = small
        ways[f"a low-rank adapter (r {RANK})"] = adapter
    if setting.footprint.bits is None:
        ways["an adapter on a base in 4 bits"] = dataclasses.replace(
            adapter, bits=4, double_quant=True
        )
    sizes = {
        name: total(dataclasses.replace(setting, footprint=way), 1, batch)
        for name, way in ways.items()
        if way != own
    }
    return [f"{name} ({_size(n)})" for name, n in sizes.items() if needed(n, kind) <= memory]


def first_rows(cell: Cell, prediction: Prediction, memory: int) -> int | None:
    """Rows of the first pass where the batch is predicted not to fit `memory` bytes at once.

    None where it is, or where the budget says itself how many.
    """
    if cell.budget.micro_batch is not None or prediction.total is None:
        return None
    if needed(prediction.total, prediction.kind) <= memory:
        return None
    return fit(cell, prediction, memory).micro_batch or 1


def _size(count: int) -> str:
    return f"{count / 10**9:.1f} GB"
