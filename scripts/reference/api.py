"""The page of the hooks and of the public names, with signatures as the source has them."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import harness
from harness import hookspecs
from scripts.reference import source
from scripts.reference.keys import Undescribed
from scripts.reference.markdown import fenced, page, prose

HOOKS = (
    "A plugin is a module under the entry point group `harness`, with functions of these names "
    "under `@hookimpl`."
)
NAMES = "`from harness import ...`: plugins and notebooks use these alone."


def hooks() -> str:
    """The page."""
    specs = [f for f in vars(hookspecs).values() if hasattr(f, "harness_spec")]
    intro = prose(hookspecs.__doc__ or "")
    parts = [intro, "## Hooks", HOOKS]
    for spec in specs:
        parts += [f"### {spec.__name__}", fenced(source.signature(spec)), _text(spec)]
    parts += ["## Public names", NAMES]
    for name in harness.__all__:
        parts += [f"### {name}", *_thing(name, getattr(harness, name))]
    return page("Hooks and public names", *parts)


def _text(thing: Any, name: str = "") -> str:
    """Its own docstring. Raises Undescribed for one without."""
    text = thing.__dict__.get("__doc__") if inspect.isclass(thing) else inspect.getdoc(thing)
    if not text:
        raise Undescribed(name or thing.__name__)
    return prose(text)


def _thing(name: str, thing: Any) -> Iterator[str]:
    """A class with its attributes and methods, a function, or another value."""
    if inspect.isclass(thing):
        yield from _class(name, thing)
    elif inspect.isfunction(thing) or isinstance(thing, functools._lru_cache_wrapper):
        yield fenced(source.signature(thing))
        yield _text(thing)
    else:
        yield _value(name)


def _class(name: str, cls: type) -> Iterator[str]:
    above = "@dataclass\n" if dataclasses.is_dataclass(cls) else ""
    bases = ", ".join(base.__name__ for base in cls.__bases__ if base is not object)
    yield fenced(f"{above}class {name}{f'({bases})' if bases else ''}")
    yield _text(cls)
    yield "\n".join(
        f"- `{ast.unparse(node)}`" + (f": {_one_line(text)}" if text else "")
        for node, text in source.attributes(cls).values()
    )
    for function in source.functions(cls):
        yield fenced(source.of_definition(function))
        yield prose(ast.get_docstring(function) or "")


def _one_line(text: str) -> str:
    return " ".join(prose(text).split())


def _value(name: str) -> str:
    """The docstring below the assignment in the value's module."""
    module = importlib.import_module(f"harness.{harness._HOME[name]}")
    text = inspect.getsource(module)
    body = ast.parse(text).body
    for node, after in pairwise(body):
        targets = node.targets if isinstance(node, ast.Assign) else []
        named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        if named and (said := source.docstring(after)):
            return f"{fenced(ast.get_source_segment(text, node) or name)}\n\n{prose(said)}"
    raise Undescribed(name)
