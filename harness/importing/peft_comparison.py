"""peft's `method_comparison` result files (MetaMathQA): their rows, and what these cannot tell.

Each file is one training of one method: `run_info`, `train_info` and `meta_info`. They have no
samples and one seed, so that nothing here becomes a record of ours. Names of fields have changed
over the years (`cuda_memory_max`, now `accelerator_memory_max`; `gpu`, now `accelerator`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError

__all__ = ["COLUMNS", "Row", "caveats", "read_rows", "sorted_rows"]

Row = Mapping[str, Any]
"""A result by the names of `COLUMNS`; None where its file has no such figure."""


@dataclass(frozen=True)
class Field:
    """A column: what it is called, where it stands in a file, and which end is best."""

    title: str
    read: Callable[[Mapping[str, Any]], Any]
    best_first: bool = False


def _at(*path: str) -> Callable[[Mapping[str, Any]], Any]:
    """What stands at a path of keys; None where there is none."""

    def read(content: Mapping[str, Any]) -> Any:
        found: Any = content
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    return read


def _either(*reads: Callable[[Mapping[str, Any]], Any]) -> Callable[[Mapping[str, Any]], Any]:
    """The first that a file has."""
    return lambda content: next(
        (v for v in (read(content) for read in reads) if v is not None), None
    )


def _last(metric: str) -> Callable[[Mapping[str, Any]], Any]:
    """The last value of a metric over the steps."""

    def read(content: Mapping[str, Any]) -> Any:
        steps = _at("train_info", "metrics")(content)
        values = [
            step[metric]
            for step in (steps if isinstance(steps, list) else [])
            if isinstance(step, Mapping) and step.get(metric) is not None
        ]
        return values[-1] if values else None

    return read


def _memory(figure: str) -> Callable[[Mapping[str, Any]], Any]:
    names = (f"{kind}_memory_{figure}" for kind in ("accelerator", "cuda"))
    return _either(*(_at("train_info", name) for name in names))


_CONFIG = ("run_info", "train_config")
COLUMNS: Mapping[str, Field] = {
    "experiment": Field("experiment", _at("run_info", "experiment_name")),
    "method": Field("method", _at("run_info", "peft_config", "peft_type")),
    "model": Field("model", _at(*_CONFIG, "model_id")),
    "status": Field("status", _at("train_info", "status")),
    "test_accuracy": Field("test accuracy", _last("test accuracy"), best_first=True),
    "valid_accuracy": Field("valid accuracy", _last("valid accuracy"), best_first=True),
    "forgetting": Field("forgetting", _last("forgetting")),
    "train_loss": Field("train loss", _last("train loss")),
    "train_seconds": Field("train time", _at("train_info", "train_time")),
    "total_seconds": Field("total time", _at("run_info", "total_time")),
    "memory_max_bytes": Field("memory, highest", _memory("max")),
    "memory_99th_bytes": Field("memory, 99th percentile", _memory("reserved_99th")),
    "memory_avg_bytes": Field("memory, average", _memory("reserved_avg")),
    "trainable_parameters": Field("trainable", _at("train_info", "num_trainable_params")),
    "file_bytes": Field("file", _at("train_info", "file_size")),
    "seed": Field("seed", _at(*_CONFIG, "seed")),
    "steps": Field("steps", _at(*_CONFIG, "max_steps")),
    "batch": Field("batch", _at(*_CONFIG, "batch_size")),
    "lr": Field("lr", _at(*_CONFIG, "optimizer_kwargs", "lr")),
    "dtype": Field("dtype", _at(*_CONFIG, "dtype")),
    "hardware": Field(
        "hardware",
        _either(
            _at("meta_info", "system_info", "accelerator"), _at("meta_info", "system_info", "gpu")
        ),
    ),
    "peft": Field("peft", _at("meta_info", "package_info", "peft-version")),
    "torch": Field("torch", _at("meta_info", "package_info", "torch-version")),
    "created": Field("created", _at("run_info", "created_at")),
}
"""Name -> the column, in the order of a file's table."""
_TEXTS = (
    *("experiment", "method", "model", "status", "dtype"),
    *("hardware", "peft", "torch", "created"),
)
_NUMBERS = [name for name in COLUMNS if name not in _TEXTS]


def read_rows(places: Sequence[Path]) -> tuple[list[Row], list[str]]:
    """The results in folders or files, best test accuracy first, and a line for all left out.

    Raises UserError where none can be read.
    """
    rows: list[Row] = []
    problems: list[str] = []
    for place in map(Path, places):
        files = [place] if place.is_file() else sorted(place.rglob("*.json"))
        if not files:
            problems.append(f"{place}: no results there (*.json); name peft's results folder")
        for file in files:
            try:
                rows.append(_row(file))
            except UserError as error:
                problems.append(str(error))
    if not rows:
        raise UserError(problems[0] if problems else "name a folder of peft's result files")
    return sorted_rows(rows, "test_accuracy"), problems


def _row(file: Path) -> Row:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise UserError(f"{file}{line}: broken JSON, half written? fetch it again") from None
    parts = ("run_info", "train_info")
    if not isinstance(content, dict) or not all(isinstance(content.get(p), dict) for p in parts):
        raise UserError(
            f"{file}: not a result of peft's method_comparison (no run_info, train_info)"
        )
    row = {name: field.read(content) for name, field in COLUMNS.items()}
    odd = [name for name in _NUMBERS if not _is_number(row[name])]
    odd += [name for name in _TEXTS if not isinstance(row[name], (str, type(None)))]
    if odd:
        raise UserError(f"{file}: {', '.join(odd)}: not of the kind that peft writes")
    if row["experiment"] is None:
        row["experiment"] = file.stem
    if row["method"] is None:  # full fine-tuning has no adapter
        row["method"] = row["experiment"].partition("/")[0]
    return row


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def sorted_rows(rows: Sequence[Row], name: str) -> list[Row]:
    """Rows by a column, best first, `-name` the other way round; those without it last."""
    wanted = name.removeprefix("-")
    backwards = COLUMNS[wanted].best_first != name.startswith("-")
    known = [row for row in rows if row[wanted] is not None]
    known.sort(key=lambda row: row[wanted], reverse=backwards)
    return [*known, *(row for row in rows if row[wanted] is None)]


def caveats(rows: Sequence[Row]) -> list[str]:
    """What the figures cannot tell, of what the files say themselves."""
    lines = [
        "measured by peft's method_comparison, not by this harness: not comparable with its rows",
        "no samples are in the files: no figure has an interval, and no difference a test",
    ]
    again = Counter(row["experiment"] for row in rows)
    most = max(again.values(), default=0)
    if most < 2:
        lines.append(f"one run each (seed {_several(rows, 'seed')}): training noise is unknown")
    for name, told in (
        ("hardware", "times and memory are of one kind of hardware each"),
        ("model", "models differ"),
        ("peft", "versions of peft differ"),
        ("lr", "learning rates are each experiment's own, not searched alike"),
        ("steps", "numbers of steps differ"),
        ("batch", "batch sizes differ"),
        ("dtype", "dtypes differ"),
    ):
        if len({row[name] for row in rows} - {None}) > 1:
            lines.append(f"{told}: {_several(rows, name)}")
    lacking = [COLUMNS[name].title for name in COLUMNS if _some_lack(rows, name)]
    if lacking:
        lines.append(f"not in every file, as its fields changed over time: {', '.join(lacking)}")
    failed = [str(row["experiment"]) for row in rows if row["status"] not in ("success", None)]
    if failed:
        lines.append(f"did not end well: {', '.join(failed)}")
    return lines


def _several(rows: Sequence[Row], name: str) -> str:
    counts = Counter(str(row[name]) for row in rows if row[name] is not None)
    shown = [
        f"{value} ({count})" if len(counts) > 1 else value for value, count in counts.most_common(6)
    ]
    return ", ".join(shown) + (f" and {len(counts) - 6} more" if len(counts) > 6 else "")


def _some_lack(rows: Sequence[Row], name: str) -> bool:
    return len({row[name] is None for row in rows}) == 2
