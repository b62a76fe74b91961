"""What a suite's scores depend on, and what its author wrote, as hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data import chat_templates
from harness.errors import UserError
from harness.evaluation import scorer_config
from harness.manager import Plugins
from harness.system.hub import file_sha256
from harness.types import ModelRef

if TYPE_CHECKING:
    from harness.evaluation.suite import Suite, SuiteFile


LATER = ("cluster",)
"""Keys that came after hashes were in use: unset they leave a hash as it was."""

NO_PART = ("description", "trust_task_code")
"""Keys on which no score depends."""

_SHOWN = 60
"""Characters up to which a part is told as it is."""


def everything(
    suite: Suite, data: Any, plugins: Plugins, base: ModelRef, chat_template: str | None
) -> dict[str, Any]:
    """All that a score of the suite depends on, but for the model that is scored."""
    left_out = {*NO_PART, "scorers", *(key for key in LATER if suite[key] is None)}
    settings = {k: v for k, v in suite.settings.items() if k not in left_out}
    content: dict[str, Any] = {"settings": settings, "data": data}
    content["scorers"] = scorer_config.content(suite["scorers"], plugins, _references(suite, data))
    if suite.embedder:
        content["embedder"] = suite.embedder.identity
    if suite["judge"]:
        judge = plugins.judges.get(suite["judge"]["name"])
        content["judge"] = [judge.version, (suite.judge_model or base).identity]
    if suite["ask"] == "lm-eval":
        from importlib.metadata import version

        content["lm_eval"] = version("lm_eval")
        content["tasks"] = _folder_digest(Path(suite.include_path)) if suite.include_path else None
    if _is_dated(suite, data, base, chat_template):
        content["date"] = str(chat_templates.DATE)
    return content | {"chat_template": chat_template}


def _references(suite: Suite, data: Any) -> list[str]:
    if suite["ask"] != "generate":
        return []
    return [sample["reference"] for sample in data if sample["reference"]]


def _is_dated(suite: Suite, data: Any, base: ModelRef, chat_template: str | None) -> bool:
    """Whether a prompt holds a date: before `chat_templates.DATE` it was the day of the run."""
    ask, applied = suite["ask"], suite["apply_chat_template"]
    templates = []
    if ask == "perplexity":
        rendered = any(row["messages"] for _, row in data)
    elif ask == "generate":
        rendered = applied is not False or any(sample["messages"] for sample in data)
    else:
        rendered = ask == "lm-eval" and bool(applied)
    if rendered:
        templates.append(chat_template or chat_templates.own_template(Path(base.path)))
    if suite["judge"]:
        judge = suite.judge_model or base
        own = chat_template if suite.judge_model is None else None
        templates.append(own or chat_templates.own_template(Path(judge.path)))
    return any(map(chat_templates.is_dated, templates))


def parts(content: Mapping[str, Any]) -> dict[str, Any]:
    """What `everything` found, short: each value, or the first digits of its hash.

    Where two hashes differ, this tells in what.
    """
    flat = {**content["settings"], **{k: v for k, v in content.items() if k != "settings"}}
    return {
        key: value if len(json.dumps(value, default=_jsonable)) <= _SHOWN else digest(value)[:12]
        for key, value in flat.items()
    }


def written(suite: Suite, own: SuiteFile, rows: Any) -> str:
    """Hash of what the suite's author wrote; `rows` are those of its own limit.

    Defaults are left out, so that a setting which a later harness adds changes nothing.
    """
    settings = own.model_dump(
        mode="json", exclude={"name", "version", *NO_PART}, exclude_defaults=True
    )
    tasks = _folder_digest(Path(suite.include_path)) if suite.include_path else None
    return digest([settings, rows, tasks])


def _folder_digest(folder: Path) -> str:
    files = sorted(f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
    return digest([(str(f.relative_to(folder)), file_sha256(f)) for f in files])


def digest(value: Any) -> str:
    """sha256 of a value as JSON."""
    text = json.dumps(value, sort_keys=True, default=_jsonable)
    return hashlib.sha256(text.encode()).hexdigest()


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return list(value)
    raise UserError(f"a suite's row holds a {type(value).__name__}, which JSON cannot write")
