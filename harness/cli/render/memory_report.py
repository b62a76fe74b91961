"""What `harness plan` reports of memory, time and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.cli.render import numbers
from harness.errors import UserError
from harness.planning.memory import evaluation, training_time
from harness.planning.memory.card import CONTEXT_BYTES, FRAGMENTATION
from harness.planning.memory.evaluation import Need, need_of
from harness.planning.memory.fits import Fit, advice, bytes_of, fit
from harness.planning.memory.predict import Prediction, predict
from harness.system.hardware import Machine, facts

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
    gpu: str | None = None
    """The GPU to plan for, by its name; None for this machine."""

    def check(self) -> None:
        """Raise UserError for a size that is none, and a GPU that no plan can be made for."""
        if self.memory is not None:
            bytes_of(self.memory)
        if self.gpu is None:
            return
        if self.memory is None:
            raise UserError("--gpu is for --memory SIZE, the memory that the GPU has")
        if not self.gpu.strip():
            raise UserError("--gpu names no GPU: write one such as A100, RTX 4090, T4")
        if self.trace:
            raise UserError("--trace runs code of this machine's torch: leave out --gpu")

    def notes(self) -> list[str]:
        """What to know of the GPU that is planned for."""
        if self.gpu is None or training_time.speed_of(self.gpu) is not None:
            return []
        return [
            f"GPU '{self.gpu}' is not known: it is taken to have bf16, and no time is predicted; "
            f"known are {', '.join(training_time.GPUS)}"
        ]

    def machine(self) -> Machine | None:
        """The machine to plan for; None for this one."""
        if self.gpu is None or self.memory is None:
            return None
        return training_time.machine_with(self.gpu, bytes_of(self.memory), facts())


@dataclass(frozen=True)
class CellPrediction:
    """What a cell's training needs."""

    cell: Cell
    prediction: Prediction
    fit: Fit
    evaluation: Need
    dollars: float | None
    traced: Prediction | None
    """By the model's own code, with --trace."""
    evaluation_fits: bool | None = None
    """None where no memory is named or it is not predicted."""

    def as_json(self) -> dict[str, object]:
        """For `harness plan --json`."""
        return {
            **self.prediction.as_json(),
            "dollars": self.dollars,
            "fits": self.fit.fits,
            "largest_micro_batch": self.fit.micro_batch,
            "evaluation": self.evaluation.as_json(),
            "evaluation_fits": self.evaluation_fits,
            "traced": self.traced.as_json() if self.traced else None,
        }


@dataclass(frozen=True)
class Report:
    """Predictions of all cells, in their order."""

    cells: Sequence[CellPrediction]
    advice: Sequence[str]
    memory: int | None
    """Bytes that the cells are to fit in; None where none are named."""

    def show(self) -> None:
        """Print a row for each cell, whose seeds are alike; nothing where no cell trains."""
        import click
        from rich.table import Table

        from harness.system.console import console

        by_label: dict[str, CellPrediction] = {}
        for predicted in self.cells:
            by_label.setdefault(predicted.cell.label, predicted)
        trains = any(predicted.cell.data is not None for predicted in by_label.values())
        if not trains and self.memory is None:
            return
        columns = ["label", "peak memory", "of it", "micro-batch", "train time", "dollars"]
        columns += ["evaluation", "fits"]
        if self.memory is None:
            columns.pop()
        if all(predicted.dollars is None for predicted in by_label.values()):
            columns.remove("dollars")
        grid = Table(*columns, title="Predicted")
        for predicted in by_label.values():
            row = _row(predicted)
            grid.add_row(*(row[column] for column in columns))
        console().print(grid)
        for label, predicted in by_label.items():
            if predicted.traced:
                click.echo(_trace_line(label, predicted.traced))
        predictions = [predicted.prediction for predicted in by_label.values()]
        kind = predictions[-1].kind
        for source in dict.fromkeys(p.how for p in predictions if p.total is not None):
            click.echo(f"Peak of the phase train, {_KINDS[kind]}; {source}.")
        click.echo(f"Evaluation: least peak of its phases, {_KINDS[kind]}; more where there is.")
        if self.memory is not None and kind == "cuda":
            click.echo(
                f"Fits: {numbers.size(self.memory)}, with {numbers.size(CONTEXT_BYTES)} of context "
                f"and {FRAGMENTATION:.0%} of fragmentation beside the peak."
            )
        for sentence in self.advice:
            click.echo(sentence)


_KINDS = {"cuda": "allocated on the GPU", "host": "resident memory of the process"}


def report(cells: Sequence[Cell], options: PredictionOptions) -> Report:
    """Predict every cell. Raises UserError for a size that is none."""
    predictions = _predictions(cells)
    memory = _memory() if options.memory is None else bytes_of(options.memory)
    fits = [
        fit(cell, prediction, memory) if memory is not None else Fit(None, None)
        for cell, prediction in zip(cells, predictions, strict=True)
    ]
    traces = _traces(cells, predictions) if options.trace else {}
    device = facts().device
    needs = {cell.label: need_of(cell, device) for cell in cells}
    rows = list(zip(cells, predictions, fits, strict=True))
    predicted = [
        CellPrediction(
            cell,
            prediction,
            fit_,
            needs[cell.label],
            _dollars(cell, prediction, options),
            traces.get(cell.label),
            None if memory is None else needs[cell.label].fits(memory),
        )
        for cell, prediction, fit_ in rows
    ]
    sentences = []
    if memory is not None:
        of_evaluation = evaluation.advice([(cell, needs[cell.label]) for cell in cells], memory)
        sentences = [*advice(rows, memory), *of_evaluation]
    return Report(predicted, sentences, memory)


def _memory() -> int | None:
    """Bytes that are free on the card here, or that it has; None on a CPU."""
    machine = facts()
    if machine.device != "cuda":
        return None
    gpu = machine.gpus[0]
    return gpu.memory_bytes if gpu.free_bytes is None else gpu.free_bytes


def _dollars(cell: Cell, prediction: Prediction, options: PredictionOptions) -> float | None:
    price = cell.price_per_hour if options.price_per_hour is None else options.price_per_hour
    seconds = prediction.seconds
    return None if price is None or seconds is None else price * seconds / 3600


def _predictions(cells: Sequence[Cell]) -> list[Prediction]:
    """One for each cell; seeds of a label differ in the order of rows alone and share one."""
    by_label: dict[str, Prediction] = {}
    for cell in cells:
        if cell.label not in by_label:
            by_label[cell.label] = predict(cell)
    return [replace(by_label[cell.label]) for cell in cells]


def _traces(cells: Sequence[Cell], predictions: Sequence[Prediction]) -> dict[str, Prediction]:
    from harness.planning.memory.trace import traced

    by_label: dict[str, Prediction] = {}
    for cell, prediction in zip(cells, predictions, strict=True):
        if cell.data is not None and cell.label not in by_label:
            device = "cuda" if prediction.kind == "cuda" else "cpu"
            by_label[cell.label] = traced(cell, device)
    return by_label


def _row(predicted: CellPrediction) -> dict[str, str]:
    prediction, batch = predicted.prediction, predicted.prediction.batch
    both = (predicted.fit.fits, predicted.evaluation_fits)
    fits = "no" if False in both else "yes" if True in both else "-"
    largest = predicted.fit.micro_batch
    return {
        "label": predicted.cell.label,
        "peak memory": numbers.size(prediction.total),
        "of it": prediction.why_not or _parts(prediction.by_category),
        "micro-batch": f"{batch.rows} x {batch.length}" if batch and batch.length else "-",
        "train time": numbers.duration(prediction.seconds),
        "dollars": numbers.dollars(predicted.dollars),
        "evaluation": numbers.size(_evaluation_peak(predicted.evaluation)),
        "fits": fits + (f", up to {largest} rows" if largest else ""),
    }


def _evaluation_peak(need: Need) -> int | None:
    """Of the suites, or of a judge where that is larger."""
    return None if need.total is None else max(need.total, *need.judges.values(), 0)


def _parts(by_category: Mapping[str, int]) -> str:
    largest = sorted(by_category.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {numbers.size(size)}" for name, size in largest)


def _trace_line(label: str, trace: Prediction) -> str:
    if trace.total is None:
        return f"{label}: not traced: {trace.why_not}"
    return f"{label}: traced {numbers.size(trace.total)}: {_parts(trace.by_category)}"
