"""What a leaderboard's row cost: seconds, memory, sizes. A pure function of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.results.store import suites

Cell = Mapping[str, Any]
"""A record's content."""


def cost(cells: Sequence[Cell]) -> dict[str, Any]:
    """The `cost` of a row: figures of its seeds, each null where no seed has it."""
    trainings = [cell["training"] or {} for cell in cells]
    peak, kind = _peak(cells)
    where_there = {
        "tuning_seconds": _mean(_tuning(cell) for cell in cells),
        "dollars": _mean(_dollars(cell) for cell in cells),
    }
    return {
        "train_seconds": _mean(_seconds(_trained(cell), "train") for cell in cells),
        "evaluation_seconds": _mean(_seconds(_evaluated(cell)) for cell in cells),
        "peak_memory_bytes": peak,
        "peak_memory_kind": kind,
        "trainable_parameters": _largest(one.get("trainable_parameters") for one in trainings),
        "artifact_bytes": _largest(one.get("artifact_bytes") for one in trainings),
        **{key: value for key, value in where_there.items() if value is not None},
    }


def _dollars(cell: Cell) -> float | None:
    """Every phase at the plan's price; None where it has none, or where nothing was measured."""
    price = cell["plan"].get("price_per_hour")
    spent = [_seconds(_trained(cell)), _seconds(_evaluated(cell))]
    known = [seconds for seconds in spent if seconds is not None]
    return None if price is None or not known else price * sum(known) / 3600


def _peak(cells: Sequence[Cell]) -> tuple[int | None, str | None]:
    """The highest peak over the phases of training (of evaluation, where nothing was trained)."""
    for read in (_trained, _evaluated):
        on_gpu = [cell for cell in cells if (cell["environment"] or {}).get("gpu")]
        for kind, key, where in (
            ("cuda", "peak_allocated_bytes", on_gpu),
            ("host", "peak_host_bytes", cells),
        ):
            phases = [phase for cell in where for phase in read(cell).values()]
            peak = _largest(phase.get(key) for phase in phases)
            # a GPU that stayed empty was not what this cell ran on
            if peak:
                return peak, kind
    return None, None


def _seconds(phases: Mapping[str, Any], only: str | None = None) -> float | None:
    names = list(phases) if only is None else [only]
    seconds = [phases[name]["seconds"] for name in names if name in phases]
    known = [value for value in seconds if value is not None]
    return float(sum(known)) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _largest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _tuning(cell: Cell) -> float | None:
    """All trials of the search; the seeds of a method share one."""
    found: float | None = (cell["plan"].get("tuning") or {}).get("seconds")
    return found


def _trained(cell: Cell) -> Mapping[str, Any]:
    """The phases of training."""
    found: Mapping[str, Any] = (cell["training"] or {}).get("phases") or {}
    return found


def _evaluated(cell: Cell) -> Mapping[str, Any]:
    """The phases of evaluation; none where they leave out suites that were reused."""
    found: Mapping[str, Any] = (cell["evaluation"] or {}).get("phases") or {}
    return {} if any("reused" in suite for suite in suites(cell).values()) else found
