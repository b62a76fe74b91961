"""Memory that the evaluation of a cell takes at least, and that a judge does, in closed form.

A pass takes as many tokens as memory allows, so that there is no one peak: this is the peak with
passes of PASS_TOKENS, which is what a CPU takes. Copies of weights are apart: a CPU makes
them where a quarter of its free memory has room. Measured peaks of unquantised bases on a CPU are
0.93 to 1.23 times it (results/reference), those copies left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.api.footprint import Footprint
from harness.evaluation.judging.panels.seats import each
from harness.models.shapes import NotPredicted, shapes_of_model
from harness.planning.memory import formula
from harness.planning.memory.card import needed
from harness.planning.memory.predict import bits_of, footprint_of, stored_keywords
from harness.training.low_rank import QuantizationOptions
from harness.types import ModelRef

if TYPE_CHECKING:
    from harness.planning.cell import Cell

PASS_TOKENS = 2048
"""Tokens of a pass."""
HEAD_POSITIONS = 512
"""Positions whose logits are there at once, and their log-softmax beside them, in float32."""


@dataclass(frozen=True)
class Weights:
    """A model as it is opened for evaluation."""

    model: ModelRef
    bits: int | None = None
    """Of the linear layers' weights; None where they are not quantised."""
    double_quant: bool = True


@dataclass(frozen=True)
class Need:
    """What the evaluation of a cell takes at least."""

    total: int | None
    """Peak in bytes while its suites run; None where `why_not` says why it is not predicted."""
    by_category: Mapping[str, int]
    judges: Mapping[str, int]
    """Suite -> peak in bytes while its judge's model is open."""
    kind: Literal["cuda", "host"]
    why_not: str | None = None
    copies: int = 0
    """What copies of weights take beside `total`, where there is room; see `copied_weights`."""

    def fits(self, memory: int) -> bool | None:
        """Whether `memory` bytes are enough for the suites and every judge; None if not known."""
        if self.total is None:
            return None
        return all(
            needed(size, self.kind) <= memory for size in (self.total, *self.judges.values())
        )

    def as_json(self) -> dict[str, object]:
        """For `harness plan --json`."""
        return {
            "bytes": self.total,
            "by_category": dict(self.by_category),
            "judges": dict(self.judges),
            "copied_weights_bytes": self.copies,
            "why_not": self.why_not,
        }


def need_of(cell: Cell, device: str) -> Need:
    """What evaluating a cell takes on `cuda` or `cpu`. Never raises for what is not predicted."""
    kind: Literal["cuda", "host"] = "cuda" if device == "cuda" else "host"
    try:
        peak = evaluation_peak(cell, device)
        copies = copied_weights(cell, device)
        judges = {suite: sum(sizes.values()) for suite, sizes in judge_peaks(cell, device).items()}
    except NotPredicted as why:
        return Need(None, {}, {}, kind, str(why))
    return Need(sum(peak.values()), peak, judges, kind, copies=copies)


def advice(cells: Sequence[tuple[Cell, Need]], memory: int) -> list[str]:
    """A sentence for each cell and each judge that does not fit in its evaluation."""
    sentences = []
    for cell, need in cells:
        if need.total is None:
            continue
        device = "cuda" if need.kind == "cuda" else "cpu"
        quarter = in_4_bits(cell, cell.model, device)
        saves = quarter is not None and needed(quarter, need.kind) <= memory
        if needed(need.total, need.kind) > memory:
            sentences.append(f"{_too_large(cell.label, need.total)}: {_mend(cell, saves)}")
        for suite in cell.suites:
            size = need.judges.get(suite.name, 0)
            if needed(size, need.kind) > memory:
                mend = _BASE_IN_4_BITS if suite.judge_model is None else _JUDGE_IN_4_BITS
                sentences.append(f"{_too_large(f'the judge of {suite.name}', size)}: {mend}")
    return list(dict.fromkeys(sentences))


_BASE_IN_4_BITS = (
    "compare with a base in 4 bits, which then judges too: {name: base, quant_type: nf4} among the "
    "methods, and base: base-nf4"
)
_JUDGE_IN_4_BITS = "write quant_type: nf4 in the suite's judge"


def _too_large(what: str, size: int) -> str:
    return f"{what} does not fit while suites run (at least {size / 1e9:.1f} GB)"


def _mend(cell: Cell, saves: bool) -> str:
    from harness.manager import plugins

    method = plugins().methods.get(cell.method)
    if not saves:
        return "in 4 bits neither"
    if method.untouched:
        return _BASE_IN_4_BITS
    if "quant_type" in method.Options.model_fields:
        return "set quant_type: nf4 on the method"
    return "a method on a base in 4 bits would, such as {name: qlora, quant_type: nf4}"


def evaluation_peak(cell: Cell, device: str) -> dict[str, int]:
    """Bytes by category while a cell's suites run, judges apart. Raises NotPredicted."""
    return _peak(opened_by(cell), cell.budget.precision, device, _adapter(cell))


def copied_weights(cell: Cell, device: str) -> int:
    """Bytes of copies in oneDNN's layout of the weights that a cell opens; none on a GPU.

    Layers are copied in the precision, if they are not quantised, and the head in float32. Raises
    NotPredicted.
    """
    if device != "cpu":
        return 0
    weights = opened_by(cell)
    shapes = shapes_of_model(weights.model)
    layers = shapes.linear_weights if weights.bits is None else 0
    return _width(cell.budget.precision) * layers + 4 * shapes.embedding


def judge_peaks(cell: Cell, device: str) -> dict[str, dict[str, int]]:
    """Suite -> bytes by category while its judge's model is open. Raises NotPredicted."""
    peaks: dict[str, dict[str, int]] = {}
    for one in itertools.chain.from_iterable(map(each, cell.suites)):
        if one.judge_endpoint is not None:
            continue
        weights = _quantised(one.judge_model or cell.model, one.judge_quantization)
        peak = _peak(weights, cell.budget.precision, device)
        # of a panel one judge is open at a time
        peaks[one.name] = max(peaks.get(one.name, {}), peak, key=lambda of: sum(of.values()))
    return peaks


def opened_by(cell: Cell) -> Weights:
    """The model that a cell's artifact opens, its adapter apart. Raises NotPredicted."""
    from harness.manager import calling, plugins

    method = plugins().methods.get(cell.method)
    if method.trains:
        footprint = footprint_of(cell)
        quantised = footprint.trains == "adapter"
        return Weights(cell.model, footprint.bits if quantised else None, footprint.double_quant)
    with calling(f"method '{cell.method}'"):
        options = method.Options.model_validate(dict(cell.options))
    if isinstance(options, QuantizationOptions):
        return _quantised(cell.model, options.quantization(cell.budget.precision))
    if not cell.options:
        return _quantised(cell.model, None)
    raise NotPredicted(f"the method '{cell.method}' opens what was made elsewhere")


def in_4_bits(cell: Cell, model: ModelRef, device: str) -> int | None:
    """Bytes of evaluating a model in 4 bits, for advice; None where they are not predicted."""
    try:
        return sum(_peak(Weights(model, 4), cell.budget.precision, device).values())
    except NotPredicted:
        return None


def _quantised(model: ModelRef, keywords: Mapping[str, object] | None) -> Weights:
    """A model by keywords of BitsAndBytesConfig, or as its files are stored."""
    stored = stored_keywords(model)
    config = keywords or stored
    return Weights(model) if config is None else Weights(model, *bits_of(config))


def _adapter(cell: Cell) -> int:
    """Numbers of the adapter that a cell trains."""
    from harness.manager import plugins

    if not plugins().methods.get(cell.method).trains:
        return 0
    return formula.adapter_parameters(shapes_of_model(cell.model), footprint_of(cell))


def _width(precision: str) -> int:
    """Bytes of a number."""
    return 4 if precision == "float32" else 2


def _peak(weights: Weights, precision: str, device: str, adapter: int = 0) -> dict[str, int]:
    shapes, compute = shapes_of_model(weights.model), _width(precision)
    linear = shapes.linear_weights if weights.bits is not None else 0
    footprint = Footprint("adapter", bits=weights.bits, double_quant=weights.double_quant)
    quantised = sum(formula.quantised_bytes(one, footprint) for one in shapes.linears if linear)
    per_token = 4 * (16 * shapes.hidden + 3 * shapes.inner)
    by_category = {
        "weights": compute * (shapes.parameters - linear) + 4 * adapter,
        "quantised base": shapes.layers * quantised,
        "dequantisation": compute * max(one.weights for one in shapes.linears) if linear else 0,
        "keys and values": 2 * shapes.layers * shapes.keys * compute * PASS_TOKENS,
        "activations": PASS_TOKENS * per_token,
        "head": 2 * 4 * HEAD_POSITIONS * shapes.vocabulary,
        "process": formula.PROCESS_BYTES if device == "cpu" else 0,
    }
    return {name: size for name, size in by_category.items() if size}
