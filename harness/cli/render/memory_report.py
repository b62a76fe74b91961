"""What `harness plan` tells of memory, time and money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.cli.render import numbers
from harness.planning.memory.fits import Fit, advice, bytes_of, fit
from harness.planning.memory.predict import Prediction, predict

if TYPE_CHECKING:
    from harness.planning.cell import Cell


@dataclass(frozen=True)
class PredictionOptions:
    """What to predict besides peak memory and time, as the command line says."""

    memory: str | None = None
    """A size, as the user wrote it."""
    trace: bool = False
    price_per_hour: float | None = None
    """Dollars an hour; in place of the experiment's own."""

    def check(self) -> None:
        """Raise UserError for a size that is none."""
        if self.memory is not None:
            bytes_of(self.memory)


@dataclass(frozen=True)
class Report:
    """Predictions of all cells, in their order."""

    planned: Sequence[Cell]
    cells: Sequence[dict[str, Any]]
    advice: Sequence[str]
    memory: str | None

    def show(self) -> None:
        """Print a row for each cell that trains; its seeds are alike and share one."""
        import click
        from rich.table import Table

        from harness.system.console import console

        shown: dict[str, dict[str, Any]] = {}
        for cell, told in zip(self.planned, self.cells, strict=True):
            if cell.data is not None:
                shown.setdefault(cell.label, told)
        if not shown:
            return
        heads = ["label", "peak memory", "of it", "micro-batch", "train time", "dollars", "fits"]
        if self.memory is None:
            heads.pop()
        if all(told["dollars"] is None for told in shown.values()):
            heads.remove("dollars")
        grid = Table(*heads, title="Predicted")
        for label, told in shown.items():
            row = {"label": label, **_row(told)}
            grid.add_row(*(row[head] for head in heads))
        console().print(grid)
        for label, told in shown.items():
            if told["traced"]:
                click.echo(_traced(label, told["traced"]))
        sources = dict.fromkeys(t["how"] for t in shown.values() if t["bytes"] is not None)
        for source in sources:
            click.echo(f"Peak of the phase train, {_KINDS[told['kind']]}; {source}.")
        for sentence in self.advice:
            click.echo(sentence)


_KINDS = {"cuda": "allocated on the GPU", "host": "resident memory of the process"}


def report(cells: Sequence[Cell], options: PredictionOptions) -> Report:
    """Predict every cell. Raises UserError for a size that is none."""
    predictions = _predictions(cells)
    memory = None if options.memory is None else bytes_of(options.memory)
    fits = [
        fit(cell, one, memory) if memory is not None else Fit(None, None)
        for cell, one in zip(cells, predictions, strict=True)
    ]
    traces = _traces(cells, predictions) if options.trace else {}
    told = []
    for cell, one, found in zip(cells, predictions, fits, strict=True):
        price = cell.price_per_hour if options.price_per_hour is None else options.price_per_hour
        seconds = one.seconds
        paid = None if price is None or seconds is None else price * seconds / 3600
        told.append(
            {
                **one.as_json(),
                "dollars": paid,
                "fits": found.fits,
                "largest_micro_batch": found.micro_batch,
                "traced": traces.get(cell.label),
            }
        )
    rows = list(zip(cells, predictions, fits, strict=True))
    return Report(cells, told, advice(rows, memory) if memory else [], options.memory)


def _predictions(cells: Sequence[Cell]) -> list[Prediction]:
    """One for each cell; seeds of a label differ in the order of rows alone and share one."""
    known: dict[str, Prediction] = {}
    for cell in cells:
        if cell.label not in known:
            known[cell.label] = predict(cell)
    return [replace(known[cell.label]) for cell in cells]


def _traces(cells: Sequence[Cell], predictions: Sequence[Prediction]) -> dict[str, Any]:
    from harness.planning.memory.trace import traced

    found: dict[str, Any] = {}
    for cell, one in zip(cells, predictions, strict=True):
        if cell.data is not None and cell.label not in found:
            found[cell.label] = traced(cell, "cuda" if one.kind == "cuda" else "cpu").as_json()
    return found


def _row(told: dict[str, Any]) -> dict[str, str]:
    largest = told["largest_micro_batch"]
    fits = {True: "yes", False: "no", None: "-"}[told["fits"]]
    return {
        "peak memory": numbers.size(told["bytes"]),
        "of it": told["why_not"] or _parts(told["by_category"]),
        "micro-batch": f"{told['micro_batch']} x {told['length']}" if told["length"] else "-",
        "train time": numbers.duration(told["seconds"]),
        "dollars": numbers.dollars(told["dollars"]),
        "fits": fits + (f", up to {largest} rows" if largest else ""),
    }


def _parts(by_category: dict[str, int]) -> str:
    largest = sorted(by_category.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {numbers.size(size)}" for name, size in largest)


def _traced(label: str, told: dict[str, Any]) -> str:
    if told["bytes"] is None:
        return f"{label}: not traced: {told['why_not']}"
    return f"{label}: traced {numbers.size(told['bytes'])}: {_parts(told['by_category'])}"
