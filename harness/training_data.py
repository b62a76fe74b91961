"""The training data of an experiment: found, read, split and hashed, the same in every process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness import data
from harness.config import Experiment
from harness.errors import UserError
from harness.types import Row


@dataclass(frozen=True)
class DataPlan:
    """The training data, found and counted. Worker and parent read the same rows from it."""

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

    def as_record(self) -> dict[str, Any]:
        """As the record says it: files by their names alone."""
        told = dataclasses.asdict(self) | {
            "name": without_folder(self.name),
            "source": Path(self.source).name,
        }
        if isinstance(self.validation, str):
            told["validation"] = Path(self.validation).name
        return told


def plan_data(
    experiment: Experiment, bundled: Mapping[str, Path], mirror: Path | None
) -> DataPlan | None:
    """The data of an experiment, read once so that a wrong row is found now; None without data.

    Raises ConfigError for a name, DataError for a row.
    """
    wanted = experiment.data
    if wanted is None:
        return None

    def resolve(name: str, key: str) -> str:
        try:
            file = data.resolve(
                name,
                base=experiment.folder.resolve(),
                bundled=bundled,
                mirror=mirror,
                split=wanted.split,
                config=wanted.config,
            )
        except UserError as error:
            raise experiment.error(str(error), "data", key) from None
        return str(file)

    validation = wanted.validation
    plan = DataPlan(
        name=wanted.train,
        source=resolve(wanted.train, "train"),
        format=wanted.format,
        columns=wanted.columns,
        validation=resolve(validation, "validation") if isinstance(validation, str) else validation,
        chat_template=wanted.chat_template,
        loss=wanted.loss,
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


def training_rows(plan: DataPlan) -> tuple[list[Row], list[Row]]:
    """(training, validation) rows of a data plan, the same wherever it is called."""
    rows = _load(plan.source, plan.columns, plan.format)
    if plan.validation is None:
        return rows, []
    if isinstance(plan.validation, str):
        return rows, _load(plan.validation, plan.columns, plan.format)
    return data.split_rows(rows, plan.validation, seed=0)


def _load(source: str, columns: Mapping[str, str] | None, format: str) -> list[Row]:
    rows = data.load_rows(Path(source), columns=columns, format=format)
    # A stated `format: prompt` means plain text; otherwise a prompt is a turn of a conversation.
    return rows if format == "prompt" else [_as_conversation(row) for row in rows]


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
