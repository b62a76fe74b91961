"""Every hook of the harness. A plugin implements those it needs, and only those.

The registering hooks are called once, when plugins are loaded, in the order of loading: built-ins
first, then the entry points of the group `harness`. A name registered twice is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pluggy

from harness.types import Artifact

hookspec = pluggy.HookspecMarker("harness")
hookimpl = pluggy.HookimplMarker("harness")
"""Marks a plugin's function as what implements the hook of its name."""

# ---- registration: once, at load ----------------------------------------------------------------


@hookspec
def register_methods(register: Callable[[Any], None]) -> None:
    """Call `register(method)` with an instance of `harness.Method` for each training method."""


@hookspec
def register_suites(register: Callable[[Path], None]) -> None:
    """Call `register(path)` with a suite's YAML file, or a folder of them."""


@hookspec
def register_tasks(register: Callable[[Any], None]) -> None:
    """Call `register(task)` with an instance of `harness.Task`: a way of asking a model."""


@hookspec
def register_scorers(register: Callable[[Any], None]) -> None:
    """Call `register(function)` with a function made by `harness.scorer`."""


@hookspec
def register_judges(register: Callable[[Any], None]) -> None:
    """Call `register(judge)` with an instance of `harness.Judge`."""


@hookspec
def register_executors(register: Callable[[Any], None]) -> None:
    """Call `register(executor)` with an instance of `harness.Executor`: where cells run."""


@hookspec
def register_engines(register: Callable[[Any], None]) -> None:
    """Call `register(engine)` with an instance of `harness.Engine`: what generates answers."""


@hookspec
def register_trackers(register: Callable[[Any], None]) -> None:
    """Call `register(tracker)` with an instance of `harness.Tracker`: who is told of progress."""


@hookspec
def register_datasets(register: Callable[[str, Path], None]) -> None:
    """Call `register(name, path)` for a file of training rows that experiments may name."""


@hookspec
def register_commands(cli: Any) -> None:
    """Add commands to the click group `cli`."""


# ---- a cell's life: in the worker ----------------------------------------------------------------


@hookspec(firstresult=True)
def open_model(artifact: Artifact, batch: int | None) -> Any:
    """Open `artifact` and return a `harness.Model`; None lets the next plugin try.

    At most `batch` sequences run at once on it; None means as many as memory allows. Stops at the
    first result that is not None. The built-in, which opens everything that transformers and peft
    can, comes last; it leaves artifacts with an `engine` to that engine's plugin.
    """
