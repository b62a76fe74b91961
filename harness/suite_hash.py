"""What a suite's scores depend on, and what its author wrote, as hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import scorers
from harness.errors import UserError
from harness.hub import file_sha256
from harness.manager import Plugins
from harness.types import ModelRef

if TYPE_CHECKING:
    from harness.suite import Suite, SuiteFile


def everything(
    suite: Suite, data: Any, plugins: Plugins, base: ModelRef, chat_template: str | None
) -> str:
    """Hash of all that a score of the suite depends on, but for the model that is scored."""
    settings = {k: v for k, v in suite.settings.items() if k not in ("description", "scorers")}
    content: dict[str, Any] = {"settings": settings, "data": data}
    content["scorers"] = scorers.content(suite["scorers"], plugins)
    if suite.embedder:
        content["embedder"] = suite.embedder.identity
    if suite["judge"]:
        judge = plugins.judges.get(suite["judge"]["name"])
        content["judge"] = [judge.version, (suite.judge_model or base).identity]
    if suite["ask"] == "lm-eval":
        from importlib.metadata import version

        content["lm_eval"] = version("lm_eval")
        content["tasks"] = _folder_digest(Path(suite.include_path)) if suite.include_path else None
    return _digest(content | {"chat_template": chat_template})


def written(suite: Suite, own: SuiteFile, rows: Any) -> str:
    """Hash of what the suite's author wrote; `rows` are those of its own limit.

    Defaults are left out, so that a setting which a later harness adds changes nothing.
    """
    settings = own.model_dump(
        mode="json", exclude={"name", "version", "description"}, exclude_defaults=True
    )
    tasks = _folder_digest(Path(suite.include_path)) if suite.include_path else None
    return _digest([settings, rows, tasks])


def _folder_digest(folder: Path) -> str:
    files = sorted(f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
    return _digest([(str(f.relative_to(folder)), file_sha256(f)) for f in files])


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=_jsonable)
    return hashlib.sha256(text.encode()).hexdigest()


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return list(value)
    raise UserError(f"a suite's row holds a {type(value).__name__}, which JSON cannot write")
