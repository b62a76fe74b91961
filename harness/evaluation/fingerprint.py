"""What a suite's scores depend on, and what its author wrote, as hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from harness.api.judge import Judge
from harness.api.task import Suite, SuiteSettings, Task
from harness.data import chat_templates
from harness.errors import UserError
from harness.evaluation import scorer_config
from harness.evaluation.judging import endpoint
from harness.evaluation.judging.options import judge_of
from harness.evaluation.judging.panels.seats import each
from harness.manager import Plugins
from harness.results.comparability import NAMED
from harness.system.hub import file_sha256
from harness.types import ModelRef

SHARED: Mapping[str, object] = {
    "data": None,
    "max_new_tokens": 64,
    "stride": None,
    "embedder": "minilm-l6",
    "judge": None,
    "prompt": "Question: {question}\nAnswer:",
    "tasks": [],
    "include_path": None,
    "limits": {},
    "num_fewshot": None,
    "fixed_shots": False,
    "apply_chat_template": None,
}
"""What every suite's hash holds where the suite has no such key: all tasks had one schema once."""

LATER = ("cluster", "reasoning", "max_gen_toks", "engine")
"""Keys that came after hashes were in use: unset they leave a hash as it was."""

UNSCORED = ("description",)
"""Keys on which no score of any task depends."""

UNSCORED_OF_JUDGES = ("max_missing", "endpoint", "labels", "certificate")
"""Keys of a suite's `judge` on which no score depends, or which its identity stands for."""

RESOLVED = ("data", "embedder")
"""Settings of which the hash holds what they lead to: rows, and the model's identity."""

_SHOWN = 60
"""Characters up to which a part is shown as it is."""


def scored_content(
    suite: Suite,
    task: Task[SuiteSettings],
    data: object,
    plugins: Plugins,
    base: ModelRef,
    chat_template: str | None,
) -> dict[str, object]:
    """All that a score of the suite depends on, but for the model that is scored."""
    unset = [key for key in LATER if suite.settings.get(key) is None]
    left_out = {*UNSCORED, *task.unscored, "scorers", *unset}
    settings = {k: v for k, v in {**SHARED, **suite.settings}.items() if k not in left_out}
    judge = judge_of(suite, plugins)
    if judge:
        settings["judge"] = _judge_settings(suite, judge.asks_row)
    content: dict[str, object] = {"settings": settings, "data": data}
    samples = task.samples(suite) if suite.scorers else []
    references = [sample.reference for sample in samples if sample.reference]
    content["scorers"] = scorer_config.content(suite.scorers, plugins, references)
    if suite.embedder:
        content["embedder"] = suite.embedder.identity
    if judge:
        content["judge"] = _judge(suite, judge, base)
        if suite.judge_panel:
            seats = [(seat, judge_of(seat, plugins)) for seat in each(suite)]
            judges = [
                [seat.judge, dict(seat.judge_options), *_judge(seat, one, base)]
                for seat, one in seats
                if one
            ]
            content["judge"] = [judge.version, judges]
        if judge.asks_base:
            content["base"] = [base.identity, suite.base_quantization]
    content |= task.dependencies(suite)
    if _is_dated(suite, task, base, chat_template):
        content["date"] = str(chat_templates.DATE)
    return content | {"chat_template": chat_template}


def _judge_settings(suite: Suite, record: str | None) -> dict[str, object]:
    """What a suite says of its judge, with the judge's own options complete."""
    written = suite.settings["judge"]
    assert isinstance(written, Mapping)
    unscored = {*UNSCORED_OF_JUDGES, "panel"}  # its judges stand for themselves
    own = {key: value for key, value in written.items() if key not in unscored}
    settings = {**own, **suite.judge_options}
    if suite.judge_record is None:
        return settings
    # of a record its answers count, which the task's dependencies have, and not its place
    return {key: value for key, value in settings.items() if value != record}


def _judge(suite: Suite, judge: Judge, base: ModelRef) -> list[object]:
    """What verdicts of one judge depend on, its options apart."""
    quantised = suite.judge_quantization
    opened = [dict(quantised)] if quantised is not None else []
    return [judge.version, _judging_model(suite, base), *opened]


def _judging_model(suite: Suite, base: ModelRef) -> object:
    """What tells the judge's model from others."""
    if suite.judge_endpoint is not None:
        return endpoint.identity_of(suite.judge_endpoint)
    return (suite.judge_model or base).identity


def _is_dated(
    suite: Suite, task: Task[SuiteSettings], base: ModelRef, chat_template: str | None
) -> bool:
    """Whether a prompt holds a date: before `chat_templates.DATE` it was the day of the run."""
    templates = []
    if task.applies_template(suite):
        templates.append(chat_template or chat_templates.own_template(Path(base.path)))
    for one in each(suite):
        if one.judge_endpoint is None:
            judge = one.judge_model or base
            own = chat_template if one.judge_model is None else None
            templates.append(own or chat_templates.own_template(Path(judge.path)))
    return any(map(chat_templates.is_dated, templates))


def parts(content: Mapping[str, object]) -> dict[str, object]:
    """`scored_content` in short: each value, or the first digits of its hash.

    Where two hashes differ, this shows which part does. What a setting led to stands under its
    name, and the setting itself under `named_...` where that does not follow from it: beside the
    task files of a suite of lm-eval which tasks it names.
    """
    settings = content["settings"]
    assert isinstance(settings, Mapping)
    found = {k: v for k, v in content.items() if k != "settings"}
    hidden = {k: v for k, v in settings.items() if k in found and k not in RESOLVED and v}
    flat = {**settings, **found, **{NAMED + key: value for key, value in hidden.items()}}
    return {
        key: value if len(json.dumps(value, default=_jsonable)) <= _SHOWN else digest(value)[:12]
        for key, value in flat.items()
    }


def written_content(
    suite: Suite, task: Task[SuiteSettings], own: SuiteSettings, data: object
) -> str:
    """Hash of what the suite's author wrote; `data` are the rows of its own limit.

    Defaults are left out, so that a setting which a later harness adds changes nothing.
    """
    left_out = {"name", "version", *UNSCORED, *task.unscored}
    settings = own.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
    if "judge" in settings:
        settings["judge"] = _scored_judge(settings["judge"])
    files = folder_digest(Path(suite.folder)) if suite.folder else None
    return digest([settings, data, files])


def _scored_judge(written: Mapping[str, object]) -> dict[str, object]:
    """What an author wrote of a judge, without that on which no score depends."""
    own = {key: value for key, value in written.items() if key not in UNSCORED_OF_JUDGES}
    behind, panel = written.get("endpoint"), written.get("panel")
    if isinstance(panel, list):
        own["panel"] = [_scored_judge(one) for one in panel]
    return {**own, "endpoint": endpoint.identity_of(behind)} if isinstance(behind, Mapping) else own


def folder_digest(folder: Path) -> str:
    """Hash of a folder's files, compiled Python left out."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
    return digest([(str(f.relative_to(folder)), file_sha256(f)) for f in files])


def digest(value: object) -> str:
    """sha256 of a value as JSON."""
    text = json.dumps(value, sort_keys=True, default=_jsonable)
    return hashlib.sha256(text.encode()).hexdigest()


def _jsonable(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return list(value)
    raise UserError(f"a suite's row holds a {type(value).__name__}, which JSON cannot write")
