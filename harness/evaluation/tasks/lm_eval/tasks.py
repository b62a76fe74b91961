"""Loads lm-eval's tasks, and finds out before any training whether they can be loaded.

`python -m harness.evaluation.tasks.lm_eval.tasks` checks the suites on its standard input (JSON).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api.task import Suite
from harness.errors import UserError, nearest
from harness.evaluation.tasks.lm_eval import index, mirror, task_files
from harness.evaluation.tasks.lm_eval.settings import settings_of
from harness.system.child_process import answer

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks.manager import TaskDict

SHOT_SEED = 1234
"""`fewshot_random_seed` of lm-eval's command line."""


def check(suites: Sequence[Suite]) -> None:
    """Whether the tasks of lm-eval suites can be loaded, data and all.

    In a child process, for this one does not import lm-eval. Raises UserError with its reason.
    """
    from pydantic import TypeAdapter

    for suite in suites:
        task_files.check(suite)
    unsure = [s for s in suites if settings_of(s).limits or not task_files.need_nothing_else(s)]
    if not unsure:
        return
    written = TypeAdapter(list[Suite]).dump_json(unsure)
    answer("harness.evaluation.tasks.lm_eval.tasks", written, "no reason given")


_loaded: dict[tuple[str, str | None], TaskDict] = {}
"""Tasks that `data_hash` loaded, until they are run."""


def taken_tasks(suite: Suite) -> TaskDict:
    """The tasks that `data_hash` loaded, given out once for lm-eval changes them; else loaded now.

    Raises what `load_tasks` raises.
    """
    return _loaded.pop((suite.hash, suite.mirror), None) or load_tasks(suite)


def load_tasks(suite: Suite) -> TaskDict:
    """lm-eval's task objects; UserError with the nearest names where there is no such task."""
    from lm_eval.tasks import TaskManager

    names, include_path = settings_of(suite).tasks, suite.folder
    if settings_of(suite).run_unsafe_code:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # the same word, for the metric `code_eval`
    task_files.use(suite)
    own = TaskManager(include_path=include_path, include_defaults=False)
    if set(names) <= set(own.task_index):
        return _load(suite, own)
    place = index.known(names, include_path)
    if place is not None:
        with suppress(UserError):  # the whole index knows why, or knows more
            tasks = _load(suite, place.manager(include_path))
            if sorted(tasks["tasks"]) == place.tasks:
                return tasks
    tasks = _load(suite, index.every_task(include_path))
    index.keep(names, include_path, tasks)
    return tasks


def _load(suite: Suite, manager: TaskManager) -> TaskDict:
    names = settings_of(suite).tasks
    for name in names:
        if name not in manager.task_index:
            raise UserError(f"{suite.file}: no lm-eval task '{name}': {_near(name, manager)}")
    mirror.use(Path(suite.mirror) if suite.mirror else None)
    try:
        tasks = manager.load(list(names))
    except UserError as error:
        raise UserError(f"{suite.file}: {error}") from error
    except Exception as error:
        raise UserError(
            f"{suite.file}: the tasks {', '.join(names)} cannot be loaded "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        ) from error
    for task in tasks["tasks"].values():
        _check_unsafe(task, suite)
        _set_shots(task, suite)
        if not len(task.eval_docs):
            raise UserError(f"{suite.file}: the task '{task.config.task}' has no questions")
    return tasks


def _check_unsafe(task: Task, suite: Suite) -> None:
    """Raise UserError for a task that runs what the model writes, unless the suite says so."""
    if getattr(task, "UNSAFE_CODE", False) and not settings_of(suite).run_unsafe_code:
        raise UserError(
            f"{suite.file}: the task '{task.config.task}' runs code that the model writes, on this "
            "machine: allow it with `run_unsafe_code: true` in the suite, in a container of its own"
        )


def _set_shots(task: Task, suite: Suite) -> None:
    """The suite's few-shot settings over the task's own; what is drawn, by lm-eval's own seed."""
    task.set_fewshot_seed(seed=SHOT_SEED)
    settings = settings_of(suite)
    if settings.num_fewshot is not None:
        task.set_config(key="num_fewshot", value=settings.num_fewshot)
    if settings.fixed_shots and task.config.num_fewshot:
        from lm_eval.api.samplers import FirstNSampler

        task.sampler = FirstNSampler(list(task.fewshot_docs()), rnd=None)
        task.sampler.set_rnd(SHOT_SEED)


def groups(tasks: TaskDict) -> dict[str, set[str]]:
    """lm-eval's groups (`mmlu` ...) with the names of all tasks below each."""
    return {
        name: {task.task_name for task in group.get_all_tasks()}
        for name, group in tasks["groups"].items()
    }


def picked(suite: Suite, tasks: TaskDict) -> dict[str, list[int]]:
    """The picked questions of each task; a task with none is left out."""
    every = [(task, i) for task, count in counts(suite, tasks).items() for i in range(count)]
    chosen: dict[str, list[int]] = {}
    for task, number in suite.pick(every):
        chosen.setdefault(task, []).append(number)
    return chosen


def counts(suite: Suite, tasks: TaskDict) -> dict[str, int]:
    """How many questions of each task are run, the first ones.

    A task's own entry in `limits` counts before that of a group it is in, and both before `limit`.
    Raises UserError where `limits` names what is not among the tasks.
    """
    limits, inside = settings_of(suite).limits, groups(tasks)
    for name in limits:
        if name not in inside and name not in tasks["tasks"]:
            known = [*inside, *tasks["tasks"]]
            raise UserError(f"{suite.file}: no task '{name}' for `limits`: {nearest(name, known)}")
    sizes = {}
    for name, task in tasks["tasks"].items():
        near = [group for group, members in inside.items() if name in members]
        stated = [limits[place] for place in [name, *near] if place in limits]
        most = stated[0] if stated else suite.limit
        sizes[name] = len(task.eval_docs) if most is None else min(most, len(task.eval_docs))
    return sizes


def _near(name: str, manager: TaskManager) -> str:
    import difflib

    close = difflib.get_close_matches(name, manager.task_index, n=5, cutoff=0.5)
    return nearest(name, close) if close else f"lm-eval knows {len(manager.task_index)} others"


def data_hash(suite: Suite) -> str:
    """sha256 over every question and few-shot example that the tasks ask, as loaded now.

    It detects a changed mirror or Hub data set, which the suite's own hash cannot cover.
    """
    digest = hashlib.sha256()
    tasks = _loaded[suite.hash, suite.mirror] = load_tasks(suite)
    for text in _content(tasks, counts(suite, tasks)):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def _content(tasks: TaskDict, sizes: Mapping[str, int]) -> Iterator[str]:
    from lm_eval.utils import handle_non_serializable

    for name, task in sorted(tasks["tasks"].items()):
        yield name
        docs = list(task.eval_docs)[: sizes[name]]
        shots = list(task.fewshot_docs() or []) if task.config.num_fewshot else []
        for doc in [*docs, *shots]:
            yield json.dumps(doc, sort_keys=True, default=handle_non_serializable)


def main() -> int:
    """Load the tasks of the suites on standard input; 2 and one line where one fails."""
    from pydantic import TypeAdapter

    try:
        for suite in TypeAdapter(list[Suite]).validate_json(sys.stdin.read()):
            counts(suite, load_tasks(suite))
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return UserError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
