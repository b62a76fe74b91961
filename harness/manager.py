"""Loads plugins: the built-in ones, then the entry points of the group `harness`."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pluggy

from harness import hookspecs
from harness.errors import EnvironmentLack, UserError, nearest

BUILT_IN = (
    "harness.plugins.base",
    "harness.plugins.full",
    "harness.plugins.lora",
    "harness.plugins.qlora",
    "harness.plugins.dora",
    "harness.plugins.rslora",
    "harness.plugins.pissa",
    "harness.plugins.loftq",
    "harness.plugins.ia3",
    "harness.plugins.peft",
    "harness.plugins.prompt",
    "harness.plugins.prefix",
    "harness.plugins.external",
    "harness.plugins.scorers_match",
    "harness.plugins.scorers_format",
    "harness.plugins.scorers_ngram",
    "harness.plugins.scorers_embedding",
    "harness.plugins.judge",
    "harness.plugins.local",
    "harness.plugins.bundled",
    "harness.plugins.transformers_model",
    "harness.plugins.tensorboard",
    "harness.plugins.wandb",
    "harness.plugins.mlflow",
    "harness.plugins.trackio",
)
ENTRY_POINT_GROUP = "harness"


@dataclass
class Registry:
    """Things of one kind by name, with the plugin that each came from."""

    kind: str
    things: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, thing: Any, plugin: str) -> None:
        """Raises UserError where the name is taken, naming both plugins."""
        if name in self.things:
            raise UserError(
                f"two plugins register the {self.kind} '{name}': {self.origin[name]} and {plugin}; "
                "uninstall one of them or rename its entry"
            )
        self.things[name] = thing
        self.origin[name] = plugin

    def get(self, name: str) -> Any:
        """Raises UserError with the nearest name where there is none of that name."""
        if name not in self.things:
            raise UserError(f"unknown {self.kind} '{name}': {nearest(name, self.things)}")
        return self.things[name]


class Plugins:
    """Every loaded plugin and what it registered."""

    def __init__(self, built_in: tuple[str, ...] = BUILT_IN, *, discover: bool = True) -> None:
        self.manager = pluggy.PluginManager("harness")
        self.manager.add_hookspecs(hookspecs)
        self.methods = Registry("method")
        self.suites = Registry("suite")
        self.scorers = Registry("scorer")
        self.judges = Registry("judge")
        self.executors = Registry("executor")
        self.trackers = Registry("tracker")
        self.datasets = Registry("data set")
        for module in built_in:
            self._load(module, importlib.import_module(module))
        if discover:
            for entry in entry_points(group=ENTRY_POINT_GROUP):
                self._load(entry.name, _import(entry))
        self._reject_misspelt_hooks()

    def _load(self, name: str, module: Any) -> None:
        if self.manager.has_plugin(name):
            raise UserError(f"two plugins are called '{name}': rename one entry point")
        try:
            self.manager.register(module, name=name)
        except pluggy.PluginValidationError as error:
            raise UserError(f"plugin '{name}': {error}") from None
        self._collect(name, module)

    def _collect(self, name: str, plugin: Any) -> None:
        """Call the registering hooks of this one plugin, so that each thing's origin is known."""
        registering: dict[str, Callable[..., None]] = {
            "register_methods": lambda m: self.methods.add(m.name, m, name),
            "register_suites": lambda path: self._add_suites(Path(path), name),
            "register_scorers": lambda s: self.scorers.add(s.name, s, name),
            "register_judges": lambda j: self.judges.add(j.name, j, name),
            "register_executors": lambda e: self.executors.add(e.name, e, name),
            "register_trackers": lambda t: self.trackers.add(t.name, t, name),
            "register_datasets": lambda key, path: self.datasets.add(key, Path(path), name),
        }
        others = [p for p in self.manager.get_plugins() if p is not plugin]
        for hook, register in registering.items():
            self.manager.subset_hook_caller(hook, others)(register=register)

    def method_that(self, trait: str) -> str:
        """Name of the first method whose class attribute `trait` is true: the built-in one."""
        return next(name for name, method in self.methods.things.items() if getattr(method, trait))

    def _add_suites(self, path: Path, plugin: str) -> None:
        files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        for file in files:
            self.suites.add(file.stem, file, plugin)

    def _reject_misspelt_hooks(self) -> None:
        known = [n for n in vars(hookspecs) if n.startswith("register_")] + ["open_model"]
        try:
            self.manager.check_pending()
        except pluggy.PluginValidationError as error:
            hook = str(error).split("'")[1] if "'" in str(error) else ""
            name = self.manager.get_name(error.plugin)
            raise UserError(
                f"plugin '{name}': unknown hook '{hook}': {nearest(hook, known)}"
            ) from None


def _import(entry: Any) -> Any:
    try:
        return entry.load()
    except Exception as error:
        raise EnvironmentLack(
            f"plugin '{entry.name}' ({entry.value}) cannot be imported: "
            f"{type(error).__name__}: {error}; reinstall or uninstall its distribution"
        ) from error


@functools.cache
def plugins() -> Plugins:
    """The plugins of this process, loaded once."""
    return Plugins()
