"""`predict(cell)`: peak memory and time of a cell's training, or why they are not predicted."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.api.footprint import Footprint
from harness.errors import PluginFault, UserError
from harness.models.shapes import NotPredicted, shapes_of_model
from harness.models.stored_quantization import description, stored_quantization
from harness.planning.memory import batches, training_time
from harness.planning.memory.batches import Batch
from harness.planning.memory.card import beside
from harness.planning.memory.formula import Setting, peak
from harness.system.hardware import Machine, facts
from harness.system.security.time_limit import TooSlow
from harness.types import ModelRef

if TYPE_CHECKING:
    from harness.planning.cell import Cell


@dataclass(frozen=True)
class Prediction:
    """Peak memory of a cell's phase `train`, in bytes; nothing where `why_not` says why."""

    total: int | None
    by_category: Mapping[str, int]
    kind: Literal["cuda", "host"]
    """The measured counterpart: `peak_allocated_bytes` or `peak_host_bytes`."""
    how: str
    """`formula` or `trace`, and the source of the rows' lengths."""
    seconds: float | None = None
    """Of the training steps; None for a device of unknown speed."""
    batch: Batch | None = None
    setting: Setting | None = None
    paged: int = 0
    """Bytes of a paged optimizer's state on a GPU, which its allocator does not count."""
    why_not: str | None = None

    @property
    def beside(self) -> dict[str, int] | None:
        """What the device holds beside the peak; None where that is not predicted."""
        if self.total is None:
            return None
        paged = {"paged optimizer": self.paged} if self.paged else {}
        return {**beside(self.total, self.kind), **paged}

    def as_json(self) -> dict[str, object]:
        """For `harness plan --json` and records."""
        return {
            "bytes": self.total,
            "by_category": dict(self.by_category),
            "beside": self.beside,
            "kind": self.kind,
            "how": self.how,
            "seconds": self.seconds,
            "micro_batch": self.batch.rows if self.batch else None,
            "length": self.batch.length if self.batch else None,
            "why_not": self.why_not,
        }


def predict(cell: Cell, machine: Machine | None = None) -> Prediction:
    """Peak memory and time of a cell's training on `machine` (by default this one).

    Pure Python: reads the model's config.json, its tokenizer and the training rows, no weights,
    and imports no torch. Never raises for what cannot be predicted: `total` is None then.
    """
    machine = machine or facts()
    kind: Literal["cuda", "host"] = "cuda" if machine.device == "cuda" else "host"
    try:
        setting = setting_of(cell, machine.device)
        by_category = peak(setting)
        paged = by_category.pop("optimizer") if kind == "cuda" and _is_paged(setting) else 0
    except TooSlow:  # training would hang on it as well
        raise
    except (NotPredicted, UserError) as why:
        return Prediction(None, {}, kind, "not predicted", why_not=str(why))
    budget = cell.budget
    passes = budget.steps * (budget.batch // setting.batch.rows)
    return Prediction(
        total=sum(by_category.values()),
        by_category=by_category,
        kind=kind,
        how=f"formula; {setting.batch.source}",
        seconds=training_time.seconds(
            setting.shapes,
            setting.footprint,
            setting.batch,
            passes,
            machine,
            budget.precision,
        ),
        batch=setting.batch,
        setting=setting,
        paged=paged,
    )


def _is_paged(setting: Setting) -> bool:
    """Whether the optimizer's state is paged: bitsandbytes leaves tensors of less than 1e5 numbers
    with the allocator, as an adapter's are.
    """
    return setting.trains_all and setting.footprint.optimizer.startswith("paged_")


def footprint_of(cell: Cell) -> Footprint:
    """The footprint that the cell's method declares. Raises NotPredicted where there is none."""
    from harness.manager import calling, plugins

    method = plugins().methods.get(cell.method)
    if not method.trains:
        raise NotPredicted("nothing is trained")
    try:
        with calling(f"method '{cell.method}'"):
            options = method.Options.model_validate(dict(cell.options))
            footprint: Footprint | None = method.footprint(options)
    except PluginFault as fault:
        raise NotPredicted(str(fault)) from fault
    if footprint is None:
        raise NotPredicted(f"the method '{cell.method}' does not say what it holds in memory")
    stored = stored_keywords(cell.model)
    if stored is None:
        return footprint
    bits, double_quant = bits_of(stored)
    return dataclasses.replace(footprint, bits=bits, double_quant=double_quant)


def stored_keywords(model: ModelRef) -> Mapping[str, object] | None:
    """Keywords of BitsAndBytesConfig that a model's files are stored by; None in full precision.

    Raises NotPredicted for files quantised in another way.
    """
    stored = stored_quantization(model)
    if stored is not None and stored.get("quant_method", "bitsandbytes") != "bitsandbytes":
        raise NotPredicted(f"no formula for weights stored in {description(stored)}")
    return stored


def bits_of(keywords: Mapping[str, object]) -> tuple[int, bool]:
    """The bits of a weight by keywords of BitsAndBytesConfig, and whether scales are quantised."""
    bits = 8 if keywords.get("load_in_8bit") else 4
    return bits, bool(keywords.get("bnb_4bit_use_double_quant"))


def setting_of(cell: Cell, device: str) -> Setting:
    """The formula's inputs for a cell. Raises NotPredicted."""
    footprint = footprint_of(cell)
    return Setting(
        shapes=shapes_of_model(cell.model),
        footprint=footprint,
        batch=batch_of(cell, footprint.packing),
        precision=cell.budget.precision,
        device=device,
        accumulates=cell.budget.first_micro_batch < cell.budget.batch,
    )


def batch_of(cell: Cell, packing: bool) -> Batch:
    """The cell's largest micro-batch; every row at `max_length` where rows are not at hand."""
    if cell.data is None:
        return batches.longest_batch(cell.budget, packing)
    return batches.largest_batch(
        cell.data, cell.budget, cell.seed, cell.model, cell.chat_template, packing
    )
