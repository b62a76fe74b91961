"""What the source says: docstrings of attributes, and signatures as they are written.

Read from the syntax tree, for `inspect` writes annotations and defaults differently from one
Python to the next.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any

Definition = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def class_tree(cls: type) -> ast.ClassDef:
    """The definition of a class."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    return node


def docstring(statement: ast.stmt | None) -> str:
    """The text of a statement that is a text alone, as below an attribute; else empty."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    text = value.value if isinstance(value, ast.Constant) else None
    return inspect.cleandoc(text) if isinstance(text, str) else ""


def attributes(cls: type) -> dict[str, tuple[ast.AnnAssign, str]]:
    """Name -> annotated assignment and docstring (or empty), of a class's own public attributes."""
    body = class_tree(cls).body
    found = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        if not node.target.id.startswith("_"):
            found[node.target.id] = (node, docstring(after))
    return found


def inherited(cls: type) -> dict[str, str]:
    """Name -> docstring of all annotated attributes, those of a class before those of its bases."""
    found: dict[str, str] = {}
    for one in cls.__mro__:
        if one.__module__.split(".")[0] == "harness":
            for name, (_, text) in attributes(one).items():
                found[name] = found.get(name) or text
    return found


def functions(cls: type) -> Iterator[Definition]:
    """The public methods that a class defines itself."""
    for node in class_tree(cls).body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node


def signature(function: Any) -> str:
    """`def f(x: int = 1) -> str` of a function."""
    target = inspect.unwrap(function)
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(target))).body
    assert isinstance(node, Definition)
    return of_definition(node)


def of_definition(node: Definition) -> str:
    """`def f(x: int = 1) -> str`, its decorators that matter above it, broken at 88 columns."""
    named = [ast.unparse(d) for d in node.decorator_list]
    above = "".join(f"@{d}\n" for d in named if d in ("property", "classmethod", "staticmethod"))
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"def {node.name}({ast.unparse(node.args)}){result}"
    if len(line) > 88:
        arguments = "".join(f"    {part},\n" for part in _arguments(node.args))
        line = f"def {node.name}(\n{arguments}){result}"
    return above + line


def _arguments(arguments: ast.arguments) -> list[str]:
    """Each parameter as it is written, with the bare `*`."""
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [*[None] * (len(plain) - len(arguments.defaults)), *arguments.defaults]
    parts = [_argument(a, d) for a, d in zip(plain, defaults, strict=True)]
    if arguments.vararg:
        parts.append(f"*{ast.unparse(arguments.vararg)}")
    elif arguments.kwonlyargs:
        parts.append("*")
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    parts += [_argument(a, d) for a, d in named]
    return parts + ([f"**{ast.unparse(arguments.kwarg)}"] if arguments.kwarg else [])


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    equals = " = " if argument.annotation else "="
    return ast.unparse(argument) + (f"{equals}{ast.unparse(default)}" if default else "")
