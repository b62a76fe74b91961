"""Any adapter of peft by the name of its configuration class.

Those classes are read from peft's source, for importing it would import torch. A class's fields and
their annotations become a strict model, so that an experiment's settings are checked as its other
keys are: unknown names, wrong types, before anything is loaded.
"""

import ast
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional, Union

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from harness import (
    Artifact,
    Job,
    Method,
    ModelRef,
    QuantizedOptions,
    UserError,
    check_target_modules,
    hookimpl,
    nearest,
    train_sft,
    usual,
)

if TYPE_CHECKING:
    from peft import PeftConfig

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
ROOT = "PeftConfig"
VIRTUAL = ("PromptLearningConfig", "AdaptionPromptConfig")
"""Adapters that add to the sequence or to the attention's keys, not to weights."""
NOT_HERE = {
    "AdaLoraConfig": "its ranks are given out anew after each step, which this recipe does not do",
    "XLoraConfig": "it mixes adapters that were trained before",
    "PolyConfig": "it needs the number of a task with each row",
    "ShadowConfig": "it trains a second model beside the first",
}
INITIAL = {
    "eva": "it needs activations of the training data",
    "corda": "it needs activations of a data set",
    "lora_ga": "it needs gradients of the training data",
    "loftq": "use the method loftq",
}
"""Initialisations of LoRA that take more than a configuration."""


class PeftOptions(QuantizedOptions):
    """Which adapter, and its settings."""

    lr: float = Field(1e-3, gt=0, le=1, json_schema_extra=usual(1e-5, 3e-2, log=True))
    """Peak learning rate; what is usual differs by a lot between adapters."""
    config: str = "LoraConfig"
    """A configuration class of peft, such as VeraConfig."""
    fields: dict[str, Any] = Field(default_factory=dict)
    """Fields of that class, such as `r` and `target_modules`; peft's defaults for the rest."""

    @field_validator("config")
    @classmethod
    def _known(cls, value: str) -> str:
        return _config_name(value)

    @field_validator("fields")
    @classmethod
    def _valid(cls, value: dict[str, object], info: ValidationInfo) -> dict[str, object]:
        if "config" in info.data:
            _check_fields(info.data["config"], value)
        return value

    def fits(self, model: ModelRef) -> None:
        """Raise UserError where a target matches no layer, or a LoRA's r is above a width."""
        super().fits(model)
        lora = self.fields if self.config == "LoraConfig" else None
        rank = lora.get("r") if lora is not None else None
        check_target_modules(model, self.fields.get("target_modules"), rank, _without_start(lora))

    def footprint(self) -> None:
        """Not predicted: configurations differ too much."""


class Peft(Method):
    """Trains any of peft's adapters that change weights, and checks that it can be opened again."""

    name, Options = "peft", PeftOptions

    def train(self, job: Job) -> Artifact:
        """An adapter in `job.folder`; CellFailed where it does not answer as it was trained."""
        options = job.options
        return train_sft(
            job,
            peft=_config(options.config, options.fields),
            quantization=options.quantization(job.budget.precision),
            verify=True,
            **options.recipe(),
        )


def _without_start(lora: Mapping[str, object] | None) -> dict[str, object] | None:
    """A LoRA's fields but for how it begins, which takes weights."""
    if lora is None:
        return None
    return {k: v for k, v in lora.items() if k not in ("init_lora_weights", "task_type")}


def _config(name: str, fields: Mapping[str, object]) -> "PeftConfig":
    """An instance of peft's class; UserError for what it refuses."""
    import peft

    try:
        return getattr(peft, name)(**{**fields, "task_type": "CAUSAL_LM"})
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {' '.join(str(error).split())}") from error


@dataclass
class _Class:
    bases: list[str]
    fields: dict[str, ast.expr] = field(default_factory=dict)
    """Own fields with their annotations."""


@functools.cache
def _classes() -> dict[str, _Class]:
    """All classes of the modules in which peft keeps its configurations."""
    spec = find_spec("peft")
    root = Path(spec.origin).parent if spec and spec.origin else Path()
    files = [root / "config.py", *root.glob("tuners/*.py"), *root.glob("tuners/*/config.py")]
    classes: dict[str, _Class] = {}
    for file in files:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                classes[node.name] = _read(node)
    return classes


def _read(node: ast.ClassDef) -> _Class:
    own = {
        one.target.id: one.annotation
        for one in node.body
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
    }
    return _Class([b.id for b in node.bases if isinstance(b, ast.Name)], own)


def _ancestors(name: str) -> list[str]:
    """The class and all it derives from that are known, itself first."""
    known = _classes()
    above = [a for base in known[name].bases if base in known for a in _ancestors(base)]
    return [name, *above]


def _config_name(name: str) -> str:
    """The name of a class that the recipe can train; ValueError with the reason for any other."""
    classes = {n for n in _classes() if ROOT in _ancestors(n)[1:] and n != VIRTUAL[0]}
    if name not in classes:
        usable = {n for n in classes if not _refusal(n)}
        raise ValueError(f"peft has no configuration class '{name}': {nearest(name, usable)}")
    if reason := _refusal(name):
        raise ValueError(f"{name} cannot be trained here: {reason}")
    return name


def _refusal(name: str) -> str | None:
    if {*_ancestors(name)} & {*VIRTUAL}:
        return "it learns virtual tokens; use the methods prefix or prompt"
    return NOT_HERE.get(name)


def _check_fields(name: str, fields: Mapping[str, object]) -> None:
    """Raise pydantic's ValidationError, with the key's place, for fields that the class lacks.

    A wrong type is one too, and what would train anything but a causal language model.
    """
    model = _model(name)
    for key, value in fields.items():
        if key == "task_type":
            if value != "CAUSAL_LM":
                _refuse(key, value, "only CAUSAL_LM is trained here: leave it out")
        elif key not in model.model_fields:
            _refuse(key, value, f"{name} has no such field: {nearest(key, model.model_fields)}")
    reason = INITIAL.get(str(fields.get("init_lora_weights")).lower())
    if reason:
        _refuse("init_lora_weights", fields["init_lora_weights"], f"not possible here: {reason}")
    model.model_validate({k: v for k, v in fields.items() if k != "task_type"})


def _refuse(key: str, value: object, message: str) -> None:
    problem = PydanticCustomError("value_error", "{error}", {"error": message})
    detail = InitErrorDetails(type=problem, loc=(key,), input=value)
    raise ValidationError.from_exception_data("fields", [detail])


@functools.cache
def _model(name: str) -> type[BaseModel]:
    """A strict model with the fields that the class and its bases define, none of them required."""
    annotations: dict[str, ast.expr] = {}
    for one in reversed(_ancestors(name)):
        # What is peft's own business stands in the root classes.
        if one != ROOT and ROOT in _ancestors(one):
            annotations |= _classes()[one].fields
    made: dict[str, Any] = {
        key: (_kind(annotation), None) for key, annotation in annotations.items()
    }
    return create_model(name, __config__=STRICT, **made)


class _Plain(ast.NodeTransformer):
    """Leaves of an annotation what YAML can hold; another class becomes None."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return node if node.id in _NAMES else ast.copy_location(ast.Constant(None), node)


_NAMES: dict[str, Any] = {
    "Any": Any,
    "Literal": Literal,
    "Optional": Optional,
    "Union": Union,
    **{kind.__name__: kind for kind in (bool, dict, float, int, list, str, tuple)},
}


def _kind(annotation: ast.expr) -> Any:
    """The type that an annotation of peft's source means."""
    plain = ast.fix_missing_locations(ast.Expression(_Plain().visit(annotation)))
    return eval(compile(plain, "<annotation>", "eval"), {"__builtins__": {}, **_NAMES})


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `peft`."""
    register(Peft())
