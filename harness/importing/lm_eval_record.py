"""One run of lm-eval as a record with its samples, paired with suites that ask the same.

Figures are computed from the samples, with the harness's own intervals. A suite of a record that is
in the results folder already and asks the very same (documents by `doc_hash`, prompts, targets,
lm-eval's version) becomes a suite of the import too, under its own hash, so that both are compared
question by question. What else was asked is a suite of its own, whose hash is of all that must be
equal for figures to be compared.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from harness.errors import NotComparable, UserError
from harness.evaluation.lm_eval_samples import rows as lm_eval_rows
from harness.evaluation.lm_eval_samples.rows import Collected, SampleRow
from harness.importing.lm_eval_files import LoggedRun
from harness.importing.lm_eval_tasks import declared, declared_groups
from harness.record import Plan, Record, SuiteSection, new_record
from harness.results import store
from harness.results.groups import identity
from harness.results.store import Stored
from harness.stats.metric_summary import summarise

__all__ = ["METHOD", "SUITE", "Imported", "import_run"]

METHOD = "imported"
"""The method of a record that others measured."""
SUITE = "lm_eval"
"""The suite of what no known suite asks."""

_SCORING = ("output_type", "metric_list", "filter_list", "generation_kwargs", "process_results")
"""Settings of a task that change the score of the same answer."""
_OF_A_RUN = ("limit", "gen_kwargs", "batch_size", "device", "fewshot_seed", "random_seed")
_OF_PROMPTS = ("chat_template_sha", "system_instruction_sha", "fewshot_as_multiturn")
_SECRET = re.compile(r"token|key|secret|password|auth|header", re.IGNORECASE)
_ADDRESS = re.compile(r"0x[0-9a-f]+")
_PRECISION = {"bfloat16": "bf16", "float16": "fp16", "float32": "float32"}


@dataclass(frozen=True)
class Imported:
    """What became of a run."""

    id: str
    """Of its record."""
    label: str
    suites: Mapping[str, int]
    """Suite -> questions."""
    notes: Sequence[str]
    """What it is paired with, what it is not and why, and what was odd."""


@dataclass(frozen=True)
class _Known:
    """A suite of lm-eval's tasks in a record, and its rows by their ids."""

    record: str
    name: str
    section: SuiteSection
    rows: Mapping[str, SampleRow]

    @property
    def title(self) -> str:
        return f"suite '{self.name}' of {self.record}"


def import_run(
    run: LoggedRun,
    out: Path,
    known: Sequence[Stored],
    *,
    label: str | None = None,
    base: Stored | None = None,
) -> Imported:
    """Write a run's record and samples into the results folder `out`.

    `known` are the records there. `base`, one of them, is what its figures are compared with.
    Raises UserError where the samples are not as lm-eval writes them, and NotComparable where the
    base has none of the suites.
    """
    label = label or _default_label(run)
    cell = _cell_id(run, label, base)
    whole = _collected(run, None)
    notes, sections = list(whole.warnings), {}
    paired: set[str] = set()
    for other in _suites_of_lm_eval(known, cell):
        note, same = _compared(run, whole.rows, other)
        notes += note
        if same and other.name not in sections:
            sections[other.name] = _as_known(run, other)
            paired |= other.rows.keys()
    if paired != {row["id"] for row in whole.rows}:
        name = next(
            n for n in (SUITE, *(f"{SUITE}-{i}" for i in range(2, 99))) if n not in sections
        )
        sections[name] = (whole, _own_section(run, whole.rows))
    suites = {
        name: _measured(out, cell, name, collected, section, base)
        for name, (collected, section) in sections.items()
    }
    if base is not None and not any(_has(base, name, section) for name, section in suites.items()):
        raise NotComparable(
            f"--base {base.id} has none of the suites {', '.join(suites)} of {run.file}: "
            + ("; ".join(notes) or "import it from the same tasks")
        )
    store.write_record(out, _record(run, cell, label, suites, notes, base))
    counts = {name: len(collected.rows) for name, (collected, _) in sections.items()}
    return Imported(cell, label, counts, notes)


# What is equal


def _suites_of_lm_eval(known: Sequence[Stored], cell: str) -> Iterator[_Known]:
    """The suites in records whose samples have lm-eval's `doc_hash`, each identity once."""
    met: set[tuple[str, str]] = set()
    for one in sorted(known, key=lambda one: one.id):
        for name, section in store.suites(one.data).items():
            key = (name, identity(section))
            if one.id == cell or key in met or not section.get("samples"):
                continue
            met.add(key)
            rows = store.read_samples(one.folder, one.data, name)
            if rows and all("doc_hash" in row for row in rows):
                yield _Known(one.id, name, section, {row["id"]: row for row in rows})


def _compared(run: LoggedRun, rows: Sequence[SampleRow], other: _Known) -> tuple[list[str], bool]:
    """What to say of a known suite, and whether the run asks all that it asks in the same way."""
    asked = {row["id"]: row for row in rows}
    if not asked.keys() & other.rows.keys():
        return [], False
    lacking = other.rows.keys() - asked.keys()
    differs = []
    if lacking:
        differs.append(
            f"{len(lacking)} of its {len(other.rows)} questions are not in {run.file.name} (where "
            "that is the smaller one, import it first)"
        )
    for part, what in (("prompt", "prompts"), ("reference", "targets"), ("choices", "choices")):
        both = [(asked[key], row) for key, row in other.rows.items() if key in asked]
        count = sum(str(ours.get(part)) != str(theirs.get(part)) for ours, theirs in both)
        if count:
            differs.append(f"{count} of {len(both)} {what} are others{_shots(run, other, part)}")
    version = (other.section.get("parts") or {}).get("lm_eval")
    if version != _version(run):
        differs.append(f"lm-eval is {version} there and {_version(run)} here")
    if run.of("config").get("gen_kwargs") and any(
        "choices" not in row for row in other.rows.values()
    ):
        differs.append("gen_kwargs were set here")
    if differs:
        return [f"not comparable with {other.title}: {'; '.join(differs)}"], False
    return [f"paired with {other.title}: {len(other.rows)} questions by doc_hash"], True


def _shots(run: LoggedRun, other: _Known, part: str) -> str:
    """The few-shot examples of both, where these explain other prompts."""
    theirs = (other.section.get("notes") or {}).get("num_fewshot")
    ours = {task: run.of("n-shot").get(task) for task in theirs} if isinstance(theirs, dict) else {}
    if part != "prompt" or not isinstance(theirs, dict) or not ours or ours == theirs:
        return ""
    return f" (num_fewshot {_short(theirs)} there, {_short(ours)} here)"


def _short(of_tasks: Mapping[str, Any]) -> Any:
    """A value that all tasks share, else the mapping."""
    values = list(of_tasks.values())
    return values[0] if values and all(value == values[0] for value in values) else dict(of_tasks)


def _as_known(run: LoggedRun, other: _Known) -> tuple[Collected, SuiteSection]:
    """The questions of a known suite, under what that is told by."""
    kept = {
        key: other.section[key]
        for key in ("hash", "version", "content", "parts", "data_hash")
        if key in other.section
    }
    return _collected(run, other.rows.keys()), cast("SuiteSection", kept)


def _own_section(run: LoggedRun, rows: Sequence[SampleRow]) -> SuiteSection:
    """The hash of all that must be equal, and its parts."""
    tasks = list(run.samples)
    configs = {task: run.of("configs")[task] for task in tasks}
    scoring = {task: {key: config.get(key) for key in _SCORING} for task, config in configs.items()}
    texts = sorted([row["id"], str(row["prompt"]), str(row["reference"])] for row in rows)
    parts = {
        "lm_eval": _version(run),
        "tasks": {task: run.of("versions").get(task) for task in tasks},
        "num_fewshot": _short({task: run.of("n-shot").get(task) for task in tasks}),
        "gen_kwargs": run.of("config").get("gen_kwargs") or None,
        "scoring": _digest(scoring),
        "prompts": _digest(texts),
    }
    return cast(
        "SuiteSection",
        {
            "hash": _digest(parts),
            "parts": {**parts, "scoring": parts["scoring"][:12], "prompts": parts["prompts"][:12]},
            "data_hash": _digest(sorted([row["id"], row["doc_hash"]] for row in rows)),
        },
    )


def _version(run: LoggedRun) -> str | None:
    version = run.aggregates.get("lm_eval_version")
    return version if isinstance(version, str) else None


# What is recorded


def _collected(run: LoggedRun, only: Collection[str] | None) -> Collected:
    """Rows and metrics of the run, or of the questions with the ids `only`.

    Aggregates are held against the samples where these are whole.
    """
    try:
        samples = run.samples if only is None else _of_questions(run, only)
        part = LoggedRun(run.file, run.sha256, run.aggregates, samples)
        return lm_eval_rows.collect(
            samples,
            {task: declared(part, task) for task in samples},
            declared_groups(part),
            results=run.of("results") if only is None else None,
            by_samples=True,
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"{run.file}: its samples are not as lm-eval 0.4 writes them "
            f"({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        ) from error


def _of_questions(run: LoggedRun, ids: Collection[str]) -> dict[str, list[Mapping[str, Any]]]:
    """The samples of some questions, of every filter, in their order."""
    kept: dict[str, list[Mapping[str, Any]]] = {}
    for task, samples in run.samples.items():
        names = [row["id"] for row in lm_eval_rows.question_rows(task, samples)]
        by_filter: dict[str, int] = {}
        for sample in samples:
            number = by_filter.get(sample["filter"], 0)
            by_filter[sample["filter"]] = number + 1
            if names[number] in ids:
                kept.setdefault(task, []).append(sample)
    return kept


def _measured(
    out: Path,
    cell: str,
    name: str,
    collected: Collected,
    section: SuiteSection,
    base: Stored | None,
) -> SuiteSection:
    """A suite's section with its figures, its samples written."""
    base_rows = None
    if base is not None and _has(base, name, section):
        base_rows = store.read_samples(base.folder, base.data, name)
    rows = collected.rows
    metrics = summarise(collected.metrics, rows, base_rows, same_tokens=False)
    notes = {"left_out": collected.left_out} if collected.left_out else {}
    return {
        **section,
        "metrics": metrics,
        "samples": store.write_samples(out, cell, name, rows),
        "notes": notes,
    }


def _has(base: Stored, name: str, section: SuiteSection) -> bool:
    suites = store.suites(base.data)
    return name in suites and identity(suites[name]) == identity(section)


def _record(
    run: LoggedRun,
    cell: str,
    label: str,
    suites: Mapping[str, SuiteSection],
    notes: Sequence[str],
    base: Stored | None,
) -> Record:
    config = run.of("config")
    dtype = str(config.get("model_dtype") or "").removeprefix("torch.")
    told = {
        "file": run.file.name,
        "sha256": run.sha256,
        "lm_eval": _version(run),
        "model": config.get("model"),
        "model_args": _without_secrets(config.get("model_args")),
        "versions": {task: run.of("versions").get(task) for task in run.samples},
        **{key: config.get(key) for key in _OF_A_RUN},
        **{key: run.aggregates.get(key) for key in _OF_PROMPTS},
        "seconds": run.aggregates.get("total_evaluation_time_seconds"),
    }
    shots = {task: run.of("n-shot").get(task) for task in run.samples}
    for section in suites.values():
        section["notes"] = {**section["notes"], "num_fewshot": shots, "imported": told}
    plan: Plan = {
        "experiment": None,
        "model": {"name": _model(run), "revision": config.get("model_revision")},
        "method": METHOD,
        "label": label,
        "options": {},
        "data": None,
        "budget": {"precision": _PRECISION[dtype]} if dtype in _PRECISION else None,
        "seed": None,
        "suites": list(suites),
    }
    arguments = told["model_args"]
    if isinstance(arguments, Mapping):
        plan["options"] = {str(key): value for key, value in arguments.items()}
    elif arguments:
        plan["options"] = {"model_args": arguments}
    packages = {
        "lm_eval": _version(run),
        "transformers": run.aggregates.get("transformers_version"),
    }
    return new_record(
        id=cell,
        status="ok",
        plan=plan,
        environment={"packages": {name: v and str(v) for name, v in packages.items()}},
        evaluation={"suites": dict(suites), "base": base.id if base else None},
        warnings=[f"imported from lm-eval {_version(run)}, which measured it", *notes],
    )


def _model(run: LoggedRun) -> str:
    """What was measured, as lm-eval was told."""
    arguments = run.of("config").get("model_args")
    pretrained = arguments.get("pretrained") if isinstance(arguments, Mapping) else None
    return str(pretrained or run.aggregates.get("model_name") or "unknown")


def _default_label(run: LoggedRun) -> str:
    name = str(run.aggregates.get("model_name") or _model(run))
    return name.rstrip("/").rpartition("/")[2] or "imported"


def _cell_id(run: LoggedRun, label: str, base: Stored | None) -> str:
    """The same for the same run, label, samples and base."""
    hashes = [[task, [s["doc_hash"], s["filter"]]] for task, of in run.samples.items() for s in of]
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.")[:60] or "imported"
    return f"{slug}-{_digest([run.sha256, label, hashes, base and base.id])[:10]}"


def _without_secrets(arguments: object) -> object:
    """`model_args` without what may open a door: tokens, keys, headers."""
    if isinstance(arguments, Mapping):
        return {key: value for key, value in arguments.items() if not _SECRET.search(str(key))}
    if isinstance(arguments, str):
        parts = arguments.split(",")
        return ",".join(part for part in parts if not _SECRET.search(part.partition("=")[0]))
    return None


def _digest(value: object) -> str:
    """sha256 of a value as JSON; of functions, which are logged as text, without their address."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(_ADDRESS.sub("0x", text).encode("utf-8", "backslashreplace")).hexdigest()
