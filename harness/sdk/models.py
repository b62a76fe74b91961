"""A model trained elsewhere as an experiment that trains nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from harness.config import experiment
from harness.config.reasoning import AUTO, NONE
from harness.config.served_settings import ServedSettings
from harness.config.strict_yaml import KeyPath, Located
from harness.errors import UserError
from harness.evaluation.served.check import named
from harness.manager import BUILT_IN, plugins
from harness.models import adapters, packaged
from harness.models.served import stand_in
from harness.system.paths import expanded
from harness.types import ModelRef

__all__ = ["ModelOptions", "check_names", "default_label", "experiment_of"]


@dataclass(frozen=True)
class ModelOptions:
    """Which model is measured, on which suites, and what it is compared with."""

    model: str | None = None
    """None where a served one is measured alone."""
    adapter: str | None = None
    load_in_4bit: bool = False
    base: str | None = None
    base_in_4bit: bool = False
    label: str | None = None
    suites: Sequence[str] = ()
    precision: str = "auto"
    reasoning: str | None = None
    """`auto`, `none`, or the text that ends a thinking model's reasoning."""
    served: ServedSettings | None = None
    """A model behind a server, which is compared with MODEL where there is one."""
    engine: str | None = None
    """What generates answers; None: passes of this process."""

    @property
    def is_base(self) -> bool:
        """Whether what is measured is compared with nothing."""
        if self.served is not None:
            return self.model is None
        return not (self.adapter or self.load_in_4bit or self.base)


def check_names(given: ModelOptions) -> None:
    """Refuse an empty name, and an adapter in place of a model. Raises UserError."""
    names = {"MODEL": given.model, "--base": given.base, "--adapter": given.adapter}
    if given.served is not None:
        _check_alone(given)
    elif given.model is None:
        raise UserError("name a MODEL, or a model behind a server with --served URL or --gguf FILE")
    for option, name in names.items():
        if name == "":
            raise UserError(f"{option} is empty: name a folder")
    _reject_adapter("MODEL", given.model)
    _reject_adapter("--base", given.base)


def _check_alone(given: ModelOptions) -> None:
    """Refuse options of a model in this process beside a served one. Raises UserError."""
    others = {
        "--adapter": given.adapter,
        "--load-in-4bit": given.load_in_4bit,
        "--base": given.base,
    }
    for option, value in others.items():
        if value:
            raise UserError(
                f"{option} is for a model in this process: leave it out beside --served and --gguf "
                "(MODEL is what the served one is compared with)"
            )


def experiment_of(given: ModelOptions) -> experiment.Experiment:
    """The experiment that measures a model: the untouched base, then the model.

    Suites are also searched for in the current folder.
    """
    if given.served is not None:
        given = replace(given, served=named(given.served))
    untouched = plugins().method_that("untouched")
    alone = given.is_base and given.served is None
    label = given.label or (untouched if alone else default_label(given))
    methods: list[dict[str, Any]] = [{"name": untouched}]
    if given.base_in_4bit:
        methods[0] |= {"label": f"{untouched}-nf4", "quant_type": "nf4"}
    if given.is_base and given.base_in_4bit:
        raise UserError("--base-in-4bit: MODEL is compared with nothing: use --load-in-4bit")
    if given.is_base:
        methods[0]["label"] = label
    elif label == methods[0].get("label", untouched):
        raise UserError(f"'{label}' is the label of what it is compared with: give another --label")
    else:
        methods.append(
            {"name": plugins().method_that("opens"), "label": label, **_opening_options(given)}
        )
    values = {
        "name": _slug(given.label or (_short(given.model) if given.model else label)),
        "model": _measured(given),
        "budget": {"steps": 1, "batch": 1, "precision": given.precision},
        "methods": methods,
        **({"base": methods[0]["label"]} if given.base_in_4bit else {}),
        "suites": list(given.suites) or _built_in_suites(),
        **_reasoning(given.reasoning),
        **({"engine": given.engine} if given.engine else {}),
    }
    last = len(methods) - 1
    marks: dict[KeyPath, int | str] = {
        ("model",): "--base" if given.base else "MODEL" if given.model else "--served",
        ("methods", last, "label"): "--label",
        ("suites",): "--suite",
        ("budget", "precision"): "--precision",
        ("reasoning",): "--reasoning",
        ("engine",): "--engine",
    }
    return experiment.check_experiment(
        Located(Path("harness eval"), values, marks), {method["name"] for method in methods}
    )


def _measured(given: ModelOptions) -> object:
    """The experiment's model: what others are compared with, or a served one that is alone."""
    if given.base or given.model:
        return _whole_path(str(given.base or given.model))
    assert given.served is not None
    return given.served.model_dump(mode="json", exclude_unset=True)


def _opening_options(given: ModelOptions) -> dict[str, object]:
    """Options of the method that opens what was trained elsewhere."""
    if given.served is not None:
        found = stand_in.resolve(given.served, _found)
        return {"weights": found.path}
    return {
        **({"weights": _whole_path(str(given.model))} if given.base else {}),
        **({"adapter": _whole_path(given.adapter)} if given.adapter else {}),
        **({"load_in_4bit": True} if given.load_in_4bit else {}),
    }


def _reasoning(given: str | None) -> dict[str, object]:
    """The experiment's key, where it is given."""
    if given is None:
        return {}
    return {"reasoning": given if given in (AUTO, NONE) else {"end": given}}


def _built_in_suites() -> list[str]:
    origin = plugins().suites.origin
    return [name for name in origin if origin[name] in BUILT_IN]


def _reject_adapter(option: str, name: str | None) -> None:
    """Refuse an adapter's folder: transformers would open the base that the adapter names."""
    if not name or name in packaged.registry():
        return
    if (expanded(name) / adapters.CONFIG).is_file():
        raise UserError(
            f"{option} {name}: it is an adapter, not a model: harness eval BASE --adapter {name}"
        )


def default_label(given: ModelOptions) -> str:
    """The last part of the name of the adapter or the model."""
    if given.served is not None:
        name = given.served.model or given.served.place
        return _slug(PurePosixPath(name).name.removesuffix(".gguf"))
    label = _slug(_short(given.adapter or str(given.model)))
    return f"{label}-4bit" if given.load_in_4bit else label


def _found(name: str) -> ModelRef:
    return packaged.resolve_model(name, mirror=None, kind=packaged.CAUSAL)


def _whole_path(name: str) -> str:
    """A folder's resolved path, so that records have one name for it."""
    folder = expanded(name)
    known = name in packaged.registry() or not folder.is_dir()
    return name if known else str(folder.resolve())


def _short(name: str) -> str:
    """The last part of a folder, a Hub id or an alias."""
    folder = expanded(name)
    return folder.resolve().name if folder.is_dir() else name.partition("@")[0].split("/")[-1]


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "model"
