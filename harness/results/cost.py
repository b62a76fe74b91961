"""What a leaderboard's row cost: seconds, memory, sizes. A pure function of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from harness.record import Phase, Record, Training
from harness.results.leaderboard_layout import Cost
from harness.results.store import suites


def cost(cells: Sequence[Record]) -> Cost:
    """The `cost` of a row: figures of its seeds, each null where no seed has it."""
    trainings: list[Training] = [cell["training"] or {} for cell in cells]
    peak, kind, evaluated = _peak(cells)
    figures: Cost = {
        "train_seconds": _mean(_seconds(_trained(cell), "train") for cell in cells),
        "evaluation_seconds": _mean(_seconds(_evaluated(cell)) for cell in cells),
        "peak_memory_bytes": peak,
        "peak_memory_kind": kind,
        "trainable_parameters": _largest(t.get("trainable_parameters") for t in trainings),
        "artifact_bytes": _largest(t.get("artifact_bytes") for t in trainings),
    }
    if evaluated and kind == "cuda":
        figures["tokens_per_pass"] = _tokens_per_pass(cells)
    if (tuning := _mean(_tuning(cell) for cell in cells)) is not None:
        figures["tuning_seconds"] = tuning
    if (dollars := _mean(_dollars(cell) for cell in cells)) is not None:
        figures["dollars"] = dollars
    return figures


def cost_range(cells: Sequence[Record]) -> dict[str, list[float]]:
    """The least and the greatest of the seeds' train seconds and peak memory, where two have one.

    A range, no interval: a handful of seeds says little of the next one.
    """
    each = [cost([cell]) for cell in cells]
    known: dict[str, list[float | None]] = {
        "train_seconds": [one["train_seconds"] for one in each],
        "peak_memory_bytes": [one["peak_memory_bytes"] for one in each],
    }
    figures = {name: [v for v in values if v is not None] for name, values in known.items()}
    return {name: [min(of), max(of)] for name, of in figures.items() if len(of) > 1}


def _dollars(cell: Record) -> float | None:
    """Every phase at the plan's price; None where it has none, or where nothing was measured."""
    price = cell["plan"].get("price_per_hour")
    spent = [_seconds(_trained(cell)), _seconds(_evaluated(cell))]
    known = [seconds for seconds in spent if seconds is not None]
    return None if price is None or not known else price * sum(known) / 3600


def _tokens_per_pass(cells: Sequence[Record]) -> int | None:
    """Tokens of a pass of evaluation, which follow the card's free memory; None where they differ.

    The peak of an evaluation is mostly theirs, and little of the model.
    """
    evaluations = [cell["evaluation"] for cell in cells]
    passes = [evaluation.get("passes") or {} for evaluation in evaluations if evaluation]
    sizes = {size.get("tokens_per_pass") for size in passes}
    size = sizes.pop() if len(sizes) == 1 else None
    return size if isinstance(size, int) else None


def _peak(cells: Sequence[Record]) -> tuple[int | None, Literal["cuda", "host", None], bool]:
    """The highest peak over the phases of training, and False.

    Where nothing was trained it is that of evaluation, and True.
    """
    cells = [cell for cell in cells if not _is_served(cell)]
    for read in (_trained, _evaluated):
        on_gpu = [cell for cell in cells if (cell["environment"] or {}).get("gpu")]
        gpu_phases = [phase for cell in on_gpu for phase in read(cell).values()]
        phases = [phase for cell in cells for phase in read(cell).values()]
        # a GPU that stayed empty was not what this cell ran on
        if peak := _largest(phase.get("peak_allocated_bytes") for phase in gpu_phases):
            return peak, "cuda", read is _evaluated
        if peak := _largest(phase.get("peak_host_bytes") for phase in phases):
            return peak, "host", read is _evaluated
    return None, None, False


def _is_served(cell: Record) -> bool:
    """Whether its model is behind a server: the memory of this process is not the model's."""
    evaluation = cell["evaluation"]
    return bool(evaluation and "served" in evaluation)


def _seconds(phases: Mapping[str, Phase], only: str | None = None) -> float | None:
    names = list(phases) if only is None else [only]
    seconds = [phases[name]["seconds"] for name in names if name in phases]
    known = [value for value in seconds if value is not None]
    return float(sum(known)) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _tuning(cell: Record) -> float | None:
    """All trials of the search; the seeds of a method share one."""
    tuning = cell["plan"].get("tuning")
    return tuning["seconds"] if tuning else None


def _trained(cell: Record) -> Mapping[str, Phase]:
    """The phases of training."""
    training = cell["training"]
    return training.get("phases", {}) if training else {}


def _evaluated(cell: Record) -> Mapping[str, Phase]:
    """The phases of evaluation; none where they leave out suites that were reused."""
    evaluation = cell["evaluation"]
    if not evaluation or any("reused" in suite for suite in suites(cell).values()):
        return {}
    return evaluation.get("phases", {})
