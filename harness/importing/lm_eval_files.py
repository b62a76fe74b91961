"""Reads the folder that lm-eval writes with `--log_samples`: aggregates, and samples of each task.

`results_<date>.json` stands beside `samples_<task>_<date>.jsonl`, as lm-eval 0.4 writes them
(`loggers/evaluation_tracker.py` and `result_schema.py` there). Numbers in responses are texts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError

__all__ = ["LoggedRun", "read_runs"]

_DATE = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d[.\d]*)\.json$")
_PARTS = ("results", "configs", "versions", "n-shot")
"""What lm-eval's aggregates have, and another JSON file has not."""
_NEEDED = ("doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash")
_CHOOSING = ("multiple_choice", "loglikelihood")
"""Kinds of tasks whose responses are pairs of a log-probability and whether it is greedy."""


@dataclass(frozen=True)
class LoggedRun:
    """One run of lm-eval: its aggregates, and the samples of the tasks whose samples are whole."""

    file: Path
    """The aggregates' file."""
    sha256: str
    """Of that file's bytes."""
    aggregates: Mapping[str, Any]
    samples: Mapping[str, Sequence[Mapping[str, Any]]]
    """Task -> its questions, of all filters, as lm-eval holds them before it writes them."""

    def of(self, part: str) -> Mapping[str, Any]:
        """A part of the aggregates; empty where it is missing or no mapping."""
        found = self.aggregates.get(part)
        return found if isinstance(found, Mapping) else {}


def read_runs(folder: Path) -> tuple[list[LoggedRun], list[str]]:
    """The runs below a folder (or of one file), oldest first, and a line for all that is left out.

    A task is left out whose samples are missing, half written, or not as many as its aggregates
    say; a run is left out with none. Raises UserError where there is no results file at all.
    """
    folder = Path(folder)
    found = [folder] if folder.is_file() else sorted(folder.rglob("*.json"))
    files = [file for file in found if _DATE.search(file.name)]
    if not files:
        raise UserError(
            f"{folder}: no results of lm-eval (results_<date>.json); name the folder of its "
            "--output_path"
        )
    runs: list[LoggedRun] = []
    problems: list[str] = []
    for file in files:
        try:
            run, lacking = _read_run(file)
        except UserError as error:
            problems.append(str(error))
            continue
        problems += lacking
        if run.samples:
            runs.append(run)
    return runs, problems


def _read_run(file: Path) -> tuple[LoggedRun, list[str]]:
    content = _bytes(file)
    aggregates = _parsed(content, str(file))
    if not isinstance(aggregates, dict) or not all(part in aggregates for part in _PARTS):
        raise UserError(f"{file}: not lm-eval's aggregates (no {', '.join(_PARTS)}); name another")
    run = LoggedRun(file, hashlib.sha256(content).hexdigest(), aggregates, {})
    samples, problems = {}, []
    for task in _tasks(run):
        try:
            samples[task] = _read_samples(run, task)
        except UserError as error:
            problems.append(str(error))
    return LoggedRun(file, run.sha256, aggregates, samples), problems


def _tasks(run: LoggedRun) -> list[str]:
    """The tasks of a run, without its groups."""
    return [name for name in run.of("results") if name in run.of("configs")]


def _read_samples(run: LoggedRun, task: str) -> list[Mapping[str, Any]]:
    """A task's questions. Raises UserError where they are not whole."""
    date = _DATE.search(run.file.name)
    # lm-eval replaces what a file's name cannot hold
    safe = re.sub(r"\W", "_", task)
    names = [f"samples_{name}_{date[1]}.jsonl" for name in (task, safe) if date]
    there = [file for file in map(run.file.with_name, names) if file.is_file()]
    if not there:
        raise UserError(
            f"{run.file}: task '{task}' has no samples beside it; run lm-eval with --log_samples"
        )
    file = there[0]
    choosing = run.of("configs")[task].get("output_type") in _CHOOSING
    lines = _text(file).split("\n")
    if lines and not lines[-1]:
        lines.pop()
    samples = [_sample(line, f"{file}:{i}", choosing) for i, line in enumerate(lines, 1)]
    counts = Counter(sample["filter"] for sample in samples)
    expected = run.of("n-samples").get(task, {}).get("effective")
    wanted = expected if isinstance(expected, int) else max(counts.values(), default=0)
    if not samples or set(counts.values()) != {wanted}:
        raise UserError(f"{file}: {_counted(counts)} where lm-eval counted {wanted}; run it again")
    return samples


def _counted(counts: Mapping[str, int]) -> str:
    each = (f"{count} samples of filter '{name}'" for name, count in counts.items())
    return ", ".join(each) or "no samples"


def _sample(text: str, where: str, choosing: bool) -> Mapping[str, Any]:
    """A line of a sample file as lm-eval had it: arguments in order, numbers for texts."""
    line = _parsed(text, where)
    if not isinstance(line, dict) or (lacking := [key for key in _NEEDED if key not in line]):
        named = ", ".join(lacking) if isinstance(line, dict) else "everything"
        raise UserError(f"{where}: not a sample of lm-eval 0.4 (no {named})")
    try:
        arguments = [
            tuple(given[f"arg_{i}"] for i in range(len(given)))
            for given in (line["arguments"][f"gen_args_{i}"] for i in range(len(line["arguments"])))
        ]
        replies = line["filtered_resps"], line["resps"]
        filtered, given = (_scored(part) for part in replies) if choosing else replies
        whole = arguments and isinstance(line["doc"], dict) and isinstance(line["doc_hash"], str)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: not a sample of lm-eval 0.4 ({type(error).__name__})") from None
    if not whole:
        raise UserError(f"{where}: not a sample of lm-eval 0.4 (its arguments, doc or doc_hash)")
    return {**line, "arguments": arguments, "filtered_resps": filtered, "resps": given}


def _scored(value: Any) -> Any:
    """Pairs of texts, however deep, as (log-probability, greedy)."""
    if isinstance(value, list) and len(value) == 2 and value[1] in ("True", "False"):
        return float(value[0]), value[1] == "True"
    return [_scored(item) for item in value] if isinstance(value, list) else float(value)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check the path") from None


def _text(file: Path) -> str:
    try:
        return _bytes(file).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text file in UTF-8; run lm-eval again") from None


def _parsed(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = where if re.search(r":\d+$", where) else f"{where}:{error.lineno}"
        told = f"broken JSON ({error.msg}), half written?"
        raise UserError(f"{place}: {told} run lm-eval again") from None
    except (UnicodeDecodeError, RecursionError) as error:
        told = f"broken JSON ({type(error).__name__})"
        raise UserError(f"{where}: {told}; run lm-eval again") from None
