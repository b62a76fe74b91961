"""Where lm-eval declares the tasks of a suite.

Its own index reads 14,000 files, which takes a quarter of a minute. What was found there is kept in
the cache, so that it is read once for the same tasks and not by every cell again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from harness.system import hub

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks.manager import TaskDict


@dataclass(frozen=True)
class Place:
    """The folders of lm-eval that declare some tasks, and the tasks that they load as."""

    folders: list[str]
    tasks: list[str]

    def manager(self, include_path: str | None) -> TaskManager:
        """A TaskManager of these folders; one's own come last, for they count before lm-eval's."""
        from lm_eval.tasks import TaskManager

        own = [include_path] if include_path else []
        return TaskManager(include_path=[*self.folders, *own], include_defaults=False)


@lru_cache(maxsize=1)
def every_task(include_path: str | None) -> TaskManager:
    """A TaskManager of all that lm-eval knows."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)


def known(names: Collection[str], include_path: str | None) -> Place | None:
    """Where the tasks were found before, by this version of lm-eval; None where they were not."""
    try:
        kept = json.loads(_file(names, include_path).read_text(encoding="utf-8"))
        return Place(kept["folders"], kept["tasks"])
    except (OSError, ValueError, KeyError):
        return None


def keep(names: Collection[str], include_path: str | None, tasks: TaskDict) -> None:
    """Remember where `every_task` found what it loaded for the names.

    Nothing is kept where those folders alone would name another file, or other members of a tag.
    """
    full = every_task(include_path).task_index
    loaded = [*tasks["tasks"], *tasks["groups"]]
    files = {name: full[name].yaml_path for name in loaded if name in full}
    if len(files) < len(loaded) or None in files.values():
        return
    root = _root()
    folders = sorted({str(file.parent) for file in files.values() if root in file.parents})
    place = Place(folders, sorted(tasks["tasks"]))
    short = place.manager(include_path).task_index
    if any(name not in short or short[name].yaml_path != file for name, file in files.items()):
        return
    if any(name not in short or short[name].tags != full[name].tags for name in names):
        return
    hub.remember(_file(names, include_path), asdict(place))


def _root() -> Path:
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent


def _file(names: Collection[str], include_path: str | None) -> Path:
    root = _root()
    lm_eval = [metadata.version("lm_eval"), str(root), root.stat().st_mtime_ns]
    key = json.dumps([lm_eval, sorted(names), include_path])
    return hub.cache_dir() / "lm-eval" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
