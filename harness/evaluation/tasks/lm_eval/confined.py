"""What task files may name where the suite may run no code: nothing outside the suite's folder.

A task file comes with a suite, which may be a stranger's. Without `trust_task_code: true` it reads
no file elsewhere on this machine, whose rows would be asked and recorded, and runs no script.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from harness.errors import UserError

__all__ = ["check_names", "included", "is_lm_evals", "leads_out"]

_TRUST = "allow it with `trust_task_code: true` in the suite"
_OTHER_READERS = frozenset({"sql", "cache", "spark", "generator", "pandas"})
"""Readers of `datasets` that open a database, a cache or code in place of named files."""


def is_lm_evals(place: Path) -> bool:
    """Whether a file or folder is of the installed lm-eval, which is trusted as installed code."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or spec.origin is None:
        return False
    return Path(spec.origin).resolve().parent in place.resolve().parents


def included(file: Path, task: Mapping[str, object]) -> list[Path]:
    """The files that a task file includes, as lm-eval looks for them."""
    named = task.get("include")
    names = named if isinstance(named, list) else [] if named is None else [named]
    return [file.parent / str(name) for name in names]


def check_names(file: Path, task: Mapping[str, object], folder: Path) -> None:
    """Raise UserError where a task file names a file outside `folder`, or a script.

    It may include lm-eval's own task files.
    """
    for other in included(file, task):
        if leads_out(str(other), folder) and not is_lm_evals(other):
            raise _refused(file, "include", str(other), folder)
    for key, name in _data_names(task):
        if leads_out(name, folder, file.parent):
            raise _refused(file, key, name, folder)
    reader = task.get("dataset_path")
    if reader in _OTHER_READERS:
        raise UserError(
            f"{file}:{_line(file, 'dataset_path')}: `dataset_path: {reader}` reads more than the "
            f"suite's own files: {_TRUST}"
        )
    for metric in _listed(task.get("metric_list")):
        if isinstance(metric, Mapping) and metric.get("hf_evaluate"):
            raise script_refused(f"{file}:{_line(file, 'hf_evaluate')}", str(metric.get("metric")))


def script_refused(place: str, metric: str) -> UserError:
    """A metric that is a script of the library `evaluate`, from a folder or the Hub."""
    return UserError(
        f"{place}: the metric '{metric}' is none of lm-eval's, so it would be a script of the "
        f"library evaluate, which is downloaded and run: {_TRUST}"
    )


def leads_out(name: str, folder: Path, start: Path | None = None) -> bool:
    """Whether a path, from `start` (default: `folder`), leads out of `folder`.

    Links are followed; patterns count as they are written. A `file:` URL always does.
    """
    scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*)::?//", name)
    if scheme:
        return scheme[1].lower() not in ("http", "https", "hf")
    place = Path((start or folder) / Path(name).expanduser())
    if ".." in place.relative_to(place.anchor).parts and "*" in name:
        return True
    matches = list(place.parent.glob(place.name)) if "*" in place.name else []
    return not all(
        path.resolve().is_relative_to(folder.resolve()) for path in [place.absolute(), *matches]
    )


def _data_names(task: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """(key, path) of everything that a task file says of where its data lie."""
    path = task.get("dataset_path")
    if isinstance(path, str) and (path.startswith((".", "~")) or Path(path).is_absolute()):
        yield "dataset_path", path
    options = task.get("dataset_kwargs")
    if isinstance(options, Mapping):
        for key in ("data_files", "data_dir", "cache_dir"):
            for name in _listed(options.get(key)):
                yield key, str(name)


def _listed(value: object) -> list[object]:
    """A value, a list of them or a mapping to them, as one list."""
    if isinstance(value, Mapping):
        return [part for inner in value.values() for part in _listed(inner)]
    if isinstance(value, (list, tuple)):
        return [
            part
            for inner in value
            for part in ([inner] if isinstance(inner, Mapping) else _listed(inner))
        ]
    return [] if value is None else [value]


def _refused(file: Path, key: str, name: str, folder: Path) -> UserError:
    return UserError(
        f"{file}:{_line(file, key)}: {key}: '{name}' leads out of {folder}: copy it there, or "
        f"{_TRUST}"
    )


def _line(file: Path, key: str) -> int:
    """The first line that names a key."""
    text = file.read_text(encoding="utf-8", errors="replace")
    found = re.search(rf"\b{re.escape(key)}\b", text)
    return 1 + (text.count("\n", 0, found.start()) if found else 0)


def guarded_metric(
    original: Callable[..., object], known: Callable[[], Mapping[str, object]], file: str
) -> Callable[..., object]:
    """lm-eval's look-up of a metric, which runs no script of the library `evaluate`."""

    def get_metric(name: str, hf_evaluate_metric: bool = False) -> object:
        if hf_evaluate_metric or name not in known():
            raise script_refused(file, name)
        return original(name, hf_evaluate_metric)

    get_metric.original = original  # type: ignore[attr-defined]
    return get_metric
