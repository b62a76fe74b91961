"""The training data of an experiment: located, read, split and hashed, as in every process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.config.experiment import Data, Experiment, Mix
from harness.data import rows as data
from harness.data import sources
from harness.data.mix import Drawn, MixPlan, draw, is_new, short_name
from harness.errors import DataError, UserError
from harness.types import Row


@dataclass(frozen=True)
class DataPlan:
    """The training data, located and counted. Worker and parent read the same rows from it."""

    name: str
    source: str
    """A file."""
    format: str
    columns: Mapping[str, str] | None
    validation: float | int | str | None
    """As in the experiment; a file is resolved."""
    chat_template: str | None
    loss: Literal["assistant", "all"]
    hash: str
    """sha256 over the training and validation rows."""
    rows: int
    validation_rows: int
    sample: int | None = None
    """So many rows of the source, drawn with a fixed seed."""
    balance: str | None = None
    """A column whose values should be about equally frequent."""
    mix: MixPlan | None = None
    """The mix that is blended into the training rows."""

    @property
    def suffix(self) -> str:
        """The suffix of labels of cells with its mix."""
        return self.mix.suffix if self.mix else ""

    @property
    def identity(self) -> list[object]:
        """The part of it that a cell's id depends on."""
        own = [self.hash, self.rows, self.format, self.loss]
        return [*own, {"share": self.mix.share, "hash": self.mix.hash}] if self.mix else own

    def as_record(self) -> dict[str, object]:
        """The record's section: files by their names, without folders."""
        section = dataclasses.asdict(self) | {
            "name": without_folder(self.name),
            "source": Path(self.source).name,
        }
        if self.mix:
            file, source = Path(self.mix.file).name, without_folder(self.mix.source)
            section["mix"] = dataclasses.asdict(self.mix) | {"file": file, "source": source}
        if isinstance(self.validation, str):
            section["validation"] = Path(self.validation).name
        return section


def plan_data(
    experiment: Experiment, bundled: Mapping[str, Path], mirror: Path | None
) -> DataPlan | None:
    """The data of an experiment, read once so that an invalid row fails now; None without data.

    Raises ConfigError for a name, DataError for a row.
    """
    wanted = experiment.data
    if wanted is None:
        return None

    def find(name: str, key: str) -> str:
        return _resolve(experiment, name, wanted, bundled, mirror, key)

    validation = wanted.validation
    plan = DataPlan(
        name=wanted.train,
        source=find(wanted.train, "train"),
        format=wanted.format,
        columns=wanted.columns,
        validation=find(validation, "validation") if isinstance(validation, str) else validation,
        chat_template=wanted.chat_template,
        loss=wanted.loss,
        sample=wanted.sample,
        balance=wanted.balance,
        hash="",
        rows=0,
        validation_rows=0,
    )
    train, validation_rows = training_rows(plan)
    return dataclasses.replace(
        plan,
        hash=data.rows_hash([*train, *validation_rows]),
        rows=len(train),
        validation_rows=len(validation_rows),
    )


def with_mixes(
    experiment: Experiment, plan: DataPlan, bundled: Mapping[str, Path], mirror: Path | None
) -> list[DataPlan]:
    """The data plan with each mix of the experiment; alone where it has none.

    Raises ConfigError for a name, DataError for a row or a mix that has nothing new.
    """
    assert experiment.data is not None
    listed, plans = isinstance(experiment.data.mix, tuple), []
    for at, mix in enumerate(experiment.data.mixes):
        path = ("mix", at) if listed else ("mix",)
        mix_plan = _mix_plan(experiment, mix, bundled, mirror, path) if mix else None
        plans.append(dataclasses.replace(plan, mix=mix_plan))
        if mix_plan and not any(map(is_new(*training_rows(plan)), mixed_rows(plans[-1]))):
            raise experiment.error(
                f"every row of the mix '{mix_plan.source}' is in the training or validation data: "
                "name another source",
                "data",
                *path,
                "source",
            )
    _check_labels(experiment, [data_plan.suffix for data_plan in plans])
    return plans


def _check_labels(experiment: Experiment, suffixes: Sequence[str]) -> None:
    """Raise ConfigError where cells with different trainings would have the same label."""
    seen = set()
    for label in (f"{entry.label}{end}" for entry in experiment.methods for end in suffixes):
        if label in seen:
            message = f"two rows would be called '{label}': give a mix a `name` of its own"
            raise experiment.error(message, "data", "mix")
        seen.add(label)


def _mix_plan(
    experiment: Experiment,
    mix: Mix,
    bundled: Mapping[str, Path],
    mirror: Path | None,
    path: tuple[str | int, ...],
) -> MixPlan:
    plan = MixPlan(
        name=mix.name or short_name(mix.source),
        source=mix.source,
        file=_resolve(experiment, mix.source, mix, bundled, mirror, *path, "source"),
        share=mix.share,
        format=mix.format,
        columns=mix.columns,
        sample=mix.sample,
        hash="",
        rows=0,
    )
    rows = _sampled(plan.file, plan)
    return dataclasses.replace(plan, hash=data.rows_hash(rows), rows=len(rows))


def _resolve(
    experiment: Experiment,
    name: str,
    where: Data | Mix,
    bundled: Mapping[str, Path],
    mirror: Path | None,
    *key: str | int,
) -> str:
    """The file of the name at `data.<key>`, in its split and config."""
    try:
        file = sources.resolve(
            name,
            base=experiment.folder.resolve(),
            bundled=bundled,
            mirror=mirror,
            split=where.split,
            config=where.config,
        )
    except UserError as error:
        raise experiment.error(str(error), "data", *key) from None
    return str(file)


def mixed_rows(plan: DataPlan) -> list[Row]:
    """The rows of the plan's mix."""
    return _sampled(plan.mix.file, plan.mix) if plan.mix else []


def drawn_rows(
    plan: DataPlan, train: Sequence[Row], validation: Sequence[Row], count: int, seed: int
) -> Drawn:
    """The `count` rows that training gets, in order: the same for every method."""
    share = plan.mix.share if plan.mix else 0.0
    return draw(train, validation, mixed_rows(plan), share, count, seed)


def training_rows(plan: DataPlan) -> tuple[list[Row], list[Row]]:
    """(training, validation) rows of a data plan, the same wherever it is called."""
    rows = _sampled(plan.source, plan)
    if plan.validation is None:
        return rows, []
    if isinstance(plan.validation, str):
        return rows, _load(plan.validation, plan)
    try:
        return data.split_rows(rows, plan.validation, seed=0)
    except DataError as error:
        raise DataError(str(error), file=plan.source) from None


def _sampled(source: str, plan: DataPlan | MixPlan) -> list[Row]:
    rows = _load(source, plan)
    return rows if plan.sample is None else data.sample_rows(rows, plan.sample)


def _load(source: str, plan: DataPlan | MixPlan) -> list[Row]:
    rows = data.load_rows(Path(source), columns=plan.columns, format=plan.format)
    # A stated `format: prompt` means plain text; otherwise a prompt is a turn of a conversation.
    return rows if plan.format == "prompt" else [_as_conversation(row) for row in rows]


def _as_conversation(row: Row) -> Row:
    if row.prompt is None or row.completion is None:
        return row
    turns = (
        {"role": "user", "content": row.prompt},
        {"role": "assistant", "content": row.completion},
    )
    return dataclasses.replace(row, messages=turns, prompt=None, completion=None)


def without_folder(name: str) -> str:
    """An absolute path's last part; aliases, Hub ids and relative paths stay as they are."""
    return Path(name).name if Path(name).is_absolute() else name
