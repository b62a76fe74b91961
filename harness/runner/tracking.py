"""The trackers of a run: chosen by name, given each cell's events, and unable to stop the run."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.manager import calling
from harness.record import Plan, Record
from harness.results.store import suites

if TYPE_CHECKING:
    from harness.api.tracker import Tracker
    from harness.config.experiment import Experiment
    from harness.manager import Plugins
    from harness.types import Event

__all__ = ["FOLDER", "Tracking", "chosen", "figures", "points", "settings"]

FOLDER = "trackers"
"""Folder in the results folder for trackers that write files on this machine."""

_POINTS = ("loss", "validation_loss", "grad_norm", "learning_rate")


def chosen(plugins: Plugins, experiment: Experiment, also: Sequence[str]) -> list[Tracker]:
    """The trackers that an experiment's `track` and the command line name, each once.

    Raises UserError for an unknown name, EnvironmentLack for a library that is missing.
    """
    trackers = named(plugins, experiment, also)
    for tracker in trackers.values():
        with calling(f"tracker '{tracker.name}'"):
            tracker.check()
    return list(trackers.values())


def named(plugins: Plugins, experiment: Experiment, also: Sequence[str]) -> dict[str, Tracker]:
    """The same by name, whether this machine has their libraries or not.

    Raises UserError for an unknown name.
    """
    trackers: dict[str, Tracker] = {}
    for at, name in enumerate(experiment.track):
        try:
            trackers[name] = plugins.trackers.get(name)
        except UserError as error:
            raise experiment.error(str(error), "track", at) from None
    return trackers | {name: plugins.trackers.get(name) for name in also}


class Tracking:
    """Opens trackers, forwards events to them and closes them.

    A tracker that raises is dropped with a warning through `warn`, and training goes on. What their
    libraries print on standard output is discarded, so that `--json` stays JSON.
    """

    def __init__(
        self, trackers: Sequence[Tracker], experiment: str, out: Path, warn: Callable[[str], None]
    ) -> None:
        self._active = list(trackers)
        self._where = (experiment, out.resolve() / FOLDER)
        self._warn = warn
        self._opened = False

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *error: object) -> None:
        """Close the trackers, and print how to view what they wrote."""
        if self._opened:
            for line in self._each(lambda tracker: tracker.close()):
                if line:
                    self._warn(str(line))

    def event(self, cell: str, event: Event) -> None:
        """Forward an event to all trackers; they are opened at the first cell that starts."""
        if not self._opened and event["event"] == "started":
            self._opened = True
            self._each(lambda tracker: tracker.open(*self._where))
        if self._opened:
            self._each(lambda tracker: _report(tracker, cell, event))

    def _each(self, call: Callable[[Tracker], object]) -> list[object]:
        results = []
        for tracker in list(self._active):
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    results.append(call(tracker))
            except (Exception, SystemExit) as error:  # whatever a library or its server did
                self._active.remove(tracker)
                why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                self._warn(f"tracker '{tracker.name}' failed and gets no more events ({why})")
        return results


def _report(tracker: Tracker, cell: str, event: Event) -> None:
    tracker.event(cell, event)
    if event["event"] == "started":
        tracker.start(cell, settings(event["plan"]))
    elif event["event"] == "progress" and (values := points(event)):
        tracker.log(cell, event["step"], values)
    elif event["event"] == "recorded":
        tracker.finish(cell, event["status"], figures(event["record"]))


# What trackers are given, in the form that all such tools take


def settings(plan: Plan) -> dict[str, str | int | float | bool]:
    """A record's `plan` as a flat mapping: `model`, `options.lr`, `budget.steps`, `seed` ..."""
    rest = {key: value for key, value in plan.items() if key not in ("model", "training_id")}
    flat = {"model": plan["model"]["name"], **_flat(rest)}
    return {k: v for k, v in flat.items() if isinstance(v, (str, int, float, bool))}


def points(event: Event) -> dict[str, float]:
    """The values of a step of training: `train/loss`, `train/validation_loss` ..."""
    values = {f"train/{name}": event[name] for name in _POINTS if name in event}
    return _finite(values) if "step" in event else {}


def figures(record: Record) -> dict[str, float]:
    """A record's numbers: `suites/<suite>/<metric>`, `phases/<phase>/seconds` and others."""
    training, evaluation = record["training"], record["evaluation"]
    phases = {
        **(training.get("phases", {}) if training else {}),
        **(evaluation.get("phases", {}) if evaluation else {}),
    }
    values: dict[str, object] = {
        f"suites/{suite}/{metric}": figure["value"]
        for suite, section in suites(record).items()
        for metric, figure in section["metrics"].items()
    }
    values |= {
        f"phases/{phase}/{key}": v for phase, costs in phases.items() for key, v in costs.items()
    }
    values |= {f"training/{key}": value for key, value in (training or {}).items()}
    return _finite(values)


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            flat[f"{prefix}{key}"] = ", ".join(map(str, value))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _finite(values: Mapping[str, object]) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }
