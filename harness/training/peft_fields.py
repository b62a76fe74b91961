"""peft's configuration classes, read from its source: importing it would import torch.

A class's fields and their annotations become a strict model, so that an experiment's settings are
checked as its other keys are: unknown names, wrong types, before anything is loaded.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Optional, Union

from pydantic import BaseModel, ValidationError, create_model
from pydantic_core import InitErrorDetails, PydanticCustomError

from harness.config.strict_yaml import StrictModel
from harness.errors import nearest

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
    found: dict[str, _Class] = {}
    for file in files:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found[node.name] = _read(node)
    return found


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


def config_name(name: str) -> str:
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


def check_fields(name: str, fields: Mapping[str, Any]) -> None:
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


def _refuse(key: str, value: Any, message: str) -> None:
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
    made: dict[str, Any] = {key: (_kind(told), None) for key, told in annotations.items()}
    return create_model(name, __base__=StrictModel, **made)


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
