"""Loads plugins: the built-in ones, then the entry points of the group `harness`."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from harness import hookspecs
from harness.errors import EnvironmentLack, HarnessError, PluginFault, UserError, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from harness.api.model import Model
    from harness.types import Artifact

BUILT_IN = (
    "harness.plugins.methods.base",
    "harness.plugins.methods.full",
    "harness.plugins.methods.lora",
    "harness.plugins.methods.qlora",
    "harness.plugins.methods.dora",
    "harness.plugins.methods.rslora",
    "harness.plugins.methods.pissa",
    "harness.plugins.methods.loftq",
    "harness.plugins.methods.ia3",
    "harness.plugins.methods.peft",
    "harness.plugins.methods.prompt",
    "harness.plugins.methods.prefix",
    "harness.plugins.methods.external",
    "harness.plugins.scorers.match",
    "harness.plugins.scorers.format",
    "harness.plugins.scorers.tool_call",
    "harness.plugins.scorers.ngram",
    "harness.plugins.scorers.embedding",
    "harness.plugins.judges.expected_score",
    "harness.plugins.judges.rubric",
    "harness.plugins.judges.pairwise",
    "harness.plugins.judges.reference_gain",
    "harness.evaluation.tasks.generate",
    "harness.evaluation.tasks.perplexity",
    "harness.evaluation.tasks.choice",
    "harness.evaluation.tasks.lm_eval",
    "harness.plugins.executors.local",
    "harness.plugins.executors.ray",
    "harness.plugins.executors.submitit",
    "harness.plugins.bundled",
    "harness.plugins.models.served",
    "harness.plugins.models.vllm",
    "harness.plugins.models.transformers",
    "harness.plugins.trackers.tensorboard",
    "harness.plugins.trackers.wandb",
    "harness.plugins.trackers.mlflow",
    "harness.plugins.trackers.trackio",
)
ENTRY_POINT_GROUP = "harness"


@dataclass
class Registry:
    """Objects of one kind by name, with the plugin that registered each."""

    kind: str
    things: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, thing: object, plugin: str) -> None:
        """Raises UserError for a duplicate name, with both plugins; PluginFault for an invalid."""
        if not isinstance(name, str) or not name:
            raise PluginFault(
                f"plugin '{plugin}': invalid {self.kind} name {name!r}: expected text, not empty"
            )
        if name in self.things:
            raise UserError(
                f"two plugins register the {self.kind} '{name}': {self.origin[name]} and {plugin}; "
                "uninstall one of them or rename its entry"
            )
        self.things[name] = thing
        self.origin[name] = plugin

    def get(self, name: str) -> Any:
        """Raises UserError, with the nearest name, for an unknown one."""
        if name not in self.things:
            raise UserError(f"unknown {self.kind} '{name}': {nearest(name, self.things)}")
        return self.things[name]


class Plugins:
    """Every loaded plugin and what it registered."""

    def __init__(self, built_in: tuple[str, ...] = BUILT_IN, *, discover: bool = True) -> None:
        self.manager = pluggy.PluginManager("harness")
        self.manager.add_hookspecs(hookspecs)
        self.methods = Registry("method")
        self.tasks = Registry("task")
        self.suites = Registry("suite")
        self.scorers = Registry("scorer")
        self.judges = Registry("judge")
        self.executors = Registry("executor")
        self.engines = Registry("engine")
        self.trackers = Registry("tracker")
        self.datasets = Registry("data set")
        for module in built_in:
            self._load(module, importlib.import_module(module))
        if discover:
            for entry in entry_points(group=ENTRY_POINT_GROUP):
                with calling(f"plugin '{entry.name}'"):
                    self._load(entry.name, _import(entry))
        self._reject_misspelt_hooks()

    def _load(self, name: str, module: object) -> None:
        if self.manager.has_plugin(name):
            raise UserError(f"two plugins are called '{name}': rename one entry point")
        try:
            self.manager.register(module, name=name)
        except pluggy.PluginValidationError as error:
            raise UserError(f"plugin '{name}': {error}") from None
        self._collect(name, module)

    def _collect(self, name: str, plugin: object) -> None:
        """Call the registering hooks of this one plugin, so that each thing's origin is known."""
        registering: dict[str, Callable[..., None]] = {
            "register_methods": lambda m: self._add(self.methods, m, name),
            "register_suites": lambda path: self._add_suites(Path(path), name),
            "register_tasks": lambda t: self._add(self.tasks, t, name),
            "register_scorers": lambda s: self._add(self.scorers, s, name),
            "register_judges": lambda j: self._add(self.judges, j, name),
            "register_executors": lambda e: self._add(self.executors, e, name),
            "register_engines": lambda e: self._add(self.engines, e, name),
            "register_trackers": lambda t: self._add(self.trackers, t, name),
            "register_datasets": lambda key, path: self.datasets.add(key, Path(path), name),
        }
        others = [p for p in self.manager.get_plugins() if p is not plugin]
        for hook, register in registering.items():
            for result in self.manager.subset_hook_caller(hook, others)(register=register):
                self._reject_generator(result, hook, name)

    def _add(self, registry: Registry, thing: object, plugin: str) -> None:
        """Register an object under its own name. Raises PluginFault for one of another class."""
        role = _role(registry.kind)
        if not isinstance(thing, role):
            description = (
                f"the class {thing.__name__}" if inspect.isclass(thing) else repr(thing)[:80]
            )
            raise PluginFault(
                f"plugin '{plugin}': {description} is not a {registry.kind}: "
                f"register an instance of harness.{role.__name__}"
            )
        name = getattr(thing, "name", None)
        if name is None:
            kind = type(thing).__name__
            raise PluginFault(f"plugin '{plugin}': the {registry.kind} {kind} has no `name`")
        registry.add(name, thing, plugin)

    def _reject_generator(self, result: object, hook: str, plugin: str) -> None:
        if inspect.isgenerator(result):
            raise PluginFault(
                f"plugin '{plugin}': {hook} yields, so it registers nothing: call "
                "`register(...)` and use no `yield`"
            )

    def add_commands(self, group: object) -> None:
        """Let every plugin add its commands to a click group. Raises PluginFault, naming it."""
        for name, plugin in self.manager.list_name_plugin():
            others = [p for p in self.manager.get_plugins() if p is not plugin]
            with calling(f"plugin '{name}'"):
                for result in self.manager.subset_hook_caller("register_commands", others)(
                    cli=group
                ):
                    self._reject_generator(result, "register_commands", name)

    def open_model(self, artifact: Artifact, batch: int | None = None) -> Model:
        """The model of an artifact, of which at most `batch` sequences run at once.

        None: as many as memory allows. Raises what the plugin that opens it raises, and
        PluginFault where none opens models of the artifact's engine.
        """
        model: Model | None = self.manager.hook.open_model(artifact=artifact, batch=batch)
        if model is None:
            raise PluginFault(f"no plugin opens models of the engine '{artifact.engine}'")
        return model

    def method_that(self, trait: str) -> str:
        """The name of the first method whose class attribute `trait` is true: the built-in one."""
        return next(name for name, method in self.methods.things.items() if getattr(method, trait))

    def _add_suites(self, path: Path, plugin: str) -> None:
        files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        for file in files:
            self.suites.add(file.stem, file, plugin)

    def _reject_misspelt_hooks(self) -> None:
        hooks = [n for n in vars(hookspecs) if n.startswith("register_")] + ["open_model"]
        try:
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            hook = str(error).split("'")[1] if "'" in str(error) else ""
            name = self.manager.get_name(error.plugin)
            raise UserError(
                f"plugin '{name}': unknown hook '{hook}': {nearest(hook, hooks)}"
            ) from None


def _import(entry: EntryPoint) -> object:
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        raise EnvironmentLack(
            f"plugin '{entry.name}' ({entry.value}) cannot be imported: "
            f"{_cause(error)}; reinstall or uninstall its distribution"
        ) from error


def _role(kind: str) -> type:
    """The class of the objects of a kind."""
    from harness.api.engine import Engine
    from harness.api.executor import Executor
    from harness.api.judge import Judge
    from harness.api.method import Method
    from harness.api.scorer import Scorer
    from harness.api.task import Task
    from harness.api.tracker import Tracker

    return {
        "method": Method,
        "task": Task,
        "scorer": Scorer,
        "judge": Judge,
        "executor": Executor,
        "engine": Engine,
        "tracker": Tracker,
    }[kind]


@contextlib.contextmanager
def calling(owner: str) -> Iterator[None]:
    """Run a plugin's code in this process: an exception becomes an error that names its owner.

    Its prints go to standard error, so that `--json` stays JSON, and the working folder, to which
    the user's paths are relative, is restored. `owner` is such as `method 'lora'`.
    Raises PluginFault; the harness's own errors pass.
    """
    # What a thread printed or where it went would be restored over another's: `process_guarded`
    # of the main thread holds both while there are others.
    main = threading.current_thread() is threading.main_thread()
    try:
        with process_guarded() if main else contextlib.nullcontext():
            yield
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginFault(f"{owner} {_cause(error)}; fix it or leave it out") from error


@contextlib.contextmanager
def process_guarded() -> Iterator[None]:
    """What is printed goes to standard error, and the working folder is afterwards what it was."""
    with contextlib.redirect_stdout(sys.stderr), _restored_folder():
        yield


@contextlib.contextmanager
def _restored_folder() -> Iterator[None]:
    """Restore the working folder afterwards, where there is one."""
    try:
        before = Path.cwd()
    except OSError:  # it was removed
        yield
        return
    try:
        yield
    finally:
        os.chdir(before)


def _cause(error: BaseException) -> str:
    """The exception or exit of a plugin, and the line of its code."""
    if isinstance(error, SystemExit):
        event = f"called exit with {error.code!r}"
    else:
        event = f"raised {type(error).__name__}: {' '.join(str(error).split())[:500]}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{event} ({frames[-1].filename}:{frames[-1].lineno})" if frames else event


@functools.cache
def plugins() -> Plugins:
    """The plugins of this process, loaded once."""
    return Plugins()
