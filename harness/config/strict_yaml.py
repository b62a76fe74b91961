"""Strict YAML: every value keeps its line, and an invalid value becomes a one-line error.

Scalars follow YAML 1.2: `1e-4` is a number (YAML 1.1 reads text), only `true` and `false` are
booleans (`yes`, `no`, `on` and `off` are words), `007` and dates are text, keys are text, and so is
a whole number that is a key (`1: bad`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import ConfigError, nearest
from harness.system.paths import no_such_file

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["Located", "StrictModel", "check_size", "load", "parse", "validate", "validate_options"]

KeyPath = tuple[str | int, ...]
"""The path of a value in the file: `('methods', 2, 'lr')`."""

Model = TypeVar("Model", bound=BaseModel)


class StrictModel(BaseModel):
    """Unknown keys, loose types, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Located:
    """Plain data from a YAML file, with the line of each part."""

    file: Path
    data: Any
    marks: dict[KeyPath, int | str] = field(default_factory=dict, repr=False)
    """Line of a key or list item, from 1; or the text of the `--set` that put it there."""

    def mark(self, path: Iterable[str | int] = ()) -> int | str | None:
        """The mark of `path`, or of its nearest parent that has one."""
        at = tuple(path)
        while at not in self.marks and at:
            at = at[:-1]
        return self.marks.get(at)

    def line(self, path: Iterable[str | int] = ()) -> int | None:
        """The line of `path` or of its nearest parent; None where a `--set` put it there."""
        mark = self.mark(path)
        return mark if isinstance(mark, int) else None

    def error(self, message: str, path: Iterable[str | int] = ()) -> ConfigError:
        """An error that names the place of `path`: `file:line`, or the `--set`."""
        mark = self.mark(path)
        if isinstance(mark, str):
            return ConfigError(message, file=mark)
        return ConfigError(message, file=self.file, line=mark)


# Reading


MOST_BYTES = 2**20
"""Of a file: what people write by hand is a thousandth of it; rows of data belong in data files."""
MOST_LEVELS = 100
"""Of lists and mappings in one another."""
MOST_VALUES = 100_000
"""Of a file with its aliases and merges written out: a few lines of them can stand for billions."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]  # no stubs: Any
    """PyYAML with the scalars of YAML 1.2, and a limit on its depth."""

    level = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Raises yaml.MarkedYAMLError where values stand too deep."""
        self.level += 1
        if self.level > MOST_LEVELS:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(
                problem=f"lists and mappings more than {MOST_LEVELS} deep", problem_mark=mark
            )
        node = super().compose_node(parent, index)
        self.level -= 1
        return node

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


_TAG = "tag:yaml.org,2002:"
_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    ("merge", r"<<", ["<"]),
)
for _name, _pattern, _starts in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})\\Z"), _starts)


def load(path: str | Path) -> Located:
    """Read a YAML file. Raises ConfigError where it is missing, broken or has a duplicate key."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(no_such_file(path))
    _check_bytes(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8 text: save it as UTF-8", file=path) from error
    return parse(text, path)


def check_size(path: Path) -> None:
    """Raise ConfigError for a file that another reader of YAML would never be done with.

    It may have tags that are unknown here. Raises what PyYAML raises where it is no YAML.
    """
    _check_bytes(path)
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    if node is not None and _written_out(node, {}) > MOST_VALUES:
        raise ConfigError(
            f"with its aliases written out the file has more than {MOST_VALUES} values",
            file=path,
            line=1,
        )


def _check_bytes(path: Path) -> None:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ConfigError(f"{size} bytes: a YAML file of at most {MOST_BYTES} is read", file=path)


def _written_out(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for with its aliases written out; inf for one in itself."""
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is counted: an alias to it is inside its own anchor
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def parse(text: str, file: str | Path) -> Located:
    """Read YAML from a string; `file` is what errors name."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(
            f"broken YAML: {error.problem or error}",
            file=file,
            line=mark.line + 1 if mark else None,
        ) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"broken YAML: the character U+{error.character:04X} is not allowed"
        raise ConfigError(message, file=file, line=line) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # "\UFFFFFFFF" is a ValueError
        raise ConfigError(f"broken YAML: {' '.join(str(error).split())}", file=file) from error
    marks: dict[KeyPath, int | str] = {(): 1}
    data = None if node is None else _Builder(file, marks).build(node, ())
    return Located(Path(file), data, marks)


class _Builder:
    """Turns a node tree into plain data and fills `marks`."""

    def __init__(self, file: str | Path, marks: dict[KeyPath, int | str]) -> None:
        self.file, self.marks = file, marks
        self.open: set[int] = set()  # nodes being built: an alias to one of them has no end
        self.values = 0

    def fail(self, message: str, node: yaml.Node) -> ConfigError:
        return ConfigError(message, file=self.file, line=node.start_mark.line + 1)

    def count(self, node: yaml.Node) -> None:
        """Count a value or a key; raises ConfigError beyond the limit."""
        self.values += 1
        if self.values > MOST_VALUES:
            raise self.fail(
                f"with its aliases written out the file has more than {MOST_VALUES} values", node
            )

    def build(self, node: yaml.Node, path: KeyPath) -> object:
        self.count(node)
        if id(node) in self.open:
            raise self.fail("an alias is inside its own anchor", node)
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return {key: self.build(value, at) for key, value, at in self.items(node, path)}
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                return [self.item(value, (*path, i)) for i, value in enumerate(node.value)]
            return self.scalar(node)
        finally:
            self.open.discard(id(node))

    def item(self, node: yaml.Node, path: KeyPath) -> object:
        self.marks[path] = node.start_mark.line + 1
        return self.build(node, path)

    def items(
        self, node: yaml.MappingNode, path: KeyPath
    ) -> Iterator[tuple[str, yaml.Node, KeyPath]]:
        """Own keys, then those merged in with `<<`; marks each key's line."""
        seen: dict[str, int] = {}
        merged: list[yaml.MappingNode] = []
        for key, value in node.value:
            self.count(key)
            line = key.start_mark.line + 1
            if key.tag == _TAG + "merge":
                merged += self.sources(value)
                continue
            name = self.build(key, path)
            if type(name) is int and str(name) == key.value:
                name = key.value
            if not isinstance(name, str):
                raise self.fail(f"the key {_shown(name)} is not text: put it in quotes", key)
            if name in seen:
                raise self.fail(f"duplicate key '{name}': first on line {seen[name]}", key)
            seen[name] = line
            self.marks[(*path, name)] = line
            yield name, value, (*path, name)
        for source in merged:
            self.count(source)
            for name, value, at in self.items(source, path):
                if name not in seen:
                    seen[name] = value.start_mark.line + 1
                    yield name, value, at

    def sources(self, node: yaml.Node) -> list[yaml.MappingNode]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in nodes:
            if not isinstance(source, yaml.MappingNode) or id(source) in self.open:
                raise self.fail("'<<' takes a mapping, or a list of mappings", node)
        return list(nodes)

    def scalar(self, node: yaml.Node) -> object:
        read = _READ.get(node.tag.removeprefix(_TAG))
        if read is None or not isinstance(node, yaml.ScalarNode):
            raise self.fail(f"the YAML tag '{node.tag}' is not read here: write plain values", node)
        if wrong := _NO_TEXT.search(node.value):
            raise self.fail(f"a text holds the character U+{ord(wrong[0]):04X}: take it out", node)
        try:
            return read(node.value)
        except ValueError as error:
            shown = node.value if len(node.value) <= 60 else f"{node.value[:57]}..."
            raise self.fail(f"'{shown}' does not fit its tag '{node.tag}'", node) from error


_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
"""What no path can hold and no UTF-8 file: NUL, and half of a surrogate pair."""


def _read_float(text: str) -> float:
    return float(re.sub(r"\.(inf|nan)$", r"\1", text.replace("_", "").lower()))


_READ: dict[str, Callable[[str], object]] = {
    "str": str,
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text.replace("_", ""), 16 if "0x" in text else 10),
    "float": _read_float,
}


# Validating


def validate(model_class: type[Model], located: Located, *, context: str = "experiment") -> Model:
    """Check `located.data` against a model; raises its first error as a ConfigError.

    `context` says in messages what the file is.
    """
    if located.data is None:
        raise located.error(f"the {context} is empty")
    return _check(model_class, located.data, located, (), f"the {context}", named=False, also=())


def validate_options(
    options_class: type[Model],
    values: Mapping[str, object],
    located: Located | None = None,
    path: KeyPath = (),
    what: str = "the options",
    also: Iterable[str] = (),
) -> Model:
    """Check the mapping at `path` of a file; `what` names it in messages.

    `also` are keys allowed beside the options (such as `label`), for the hint only.
    """
    located = located or Located(Path(), None, {(): what})
    return _check(options_class, dict(values), located, path, what, named=True, also=also)


def _check(
    model_class: type[Model],
    data: object,
    located: Located,
    prefix: KeyPath,
    what: str,
    *,
    named: bool,
    also: Iterable[str],
) -> Model:
    try:
        # As JSON, strict still takes a list for a tuple and text for a Path.
        return model_class.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        located_errors = [
            (_trace(detail["loc"], data, detail["type"]), detail) for detail in error.errors()
        ]
    path, errors = _first(located_errors)

    def name(at: KeyPath) -> str:
        dotted = ".".join(map(str, at))
        return what if not at else f"{dotted} of {what}" if named else dotted

    detail = errors[0]
    if detail["type"] == "extra_forbidden":
        keys = _valid_keys(model_class, detail["loc"][:-1]) | (set() if path[:-1] else set(also))
        message = f"unknown key '{path[-1]}' in {name(path[:-1])}: {nearest(str(path[-1]), keys)}"
    elif detail["type"] == "missing":
        message = f"missing key '{path[-1]}' in {name(path[:-1])}"
    else:
        message = f"{name(path)}: {_explain(errors)}"
    raise located.error(message, prefix + path) from None


def _trace(loc: tuple[str | int, ...], data: object, kind: str) -> KeyPath:
    """The path in the data: pydantic's location without the names of union branches."""
    path: list[str | int] = []
    for i, part in enumerate(loc):
        if isinstance(data, dict) and part in data:
            data = data[str(part)]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif not (kind == "missing" and i == len(loc) - 1):
            continue
        path.append(part)
    return tuple(path)


def _first(errors: list[tuple[KeyPath, ErrorDetails]]) -> tuple[KeyPath, list[ErrorDetails]]:
    """The path to report, and the errors there (several: branches of a union)."""
    # A misspelt key makes both an unknown and a missing key: the unknown key says more.
    unknown = (at for at, detail in errors if detail["type"] == "extra_forbidden")
    path = next(unknown, errors[0][0])
    # A union that failed here and, in another branch, further in: that branch was meant.
    inner = [at for at, _ in errors if len(at) > len(path) and at[: len(path)] == path]
    path = inner[0] if inner else path
    return path, [detail for at, detail in errors if at == path]


def _valid_keys(model_class: type[BaseModel], loc: tuple[str | int, ...]) -> set[str]:
    """The keys that a model has at a location."""
    at: list[Any] = [model_class]
    for part in loc:
        kinds = [kind for annotation in at for kind in _branches(annotation)]
        models = [kind for kind in kinds if _is_model(kind)]
        if any(kind.__name__ == part for kind in models):
            at = [kind for kind in models if kind.__name__ == part]
            continue
        inner = [k.model_fields[part].annotation for k in models if part in k.model_fields]
        inner += [get_args(k)[-1] for k in kinds if get_origin(k) is dict and isinstance(part, str)]
        inner += [
            get_args(k)[0] for k in kinds if get_origin(k) in (list, tuple) and type(part) is int
        ]
        at = inner or at  # no step: the name of a union branch
    kinds = [kind for annotation in at for kind in _branches(annotation)]
    models = [kind for kind in kinds if _is_model(kind)]
    return {info.alias or name for kind in models for name, info in kind.model_fields.items()}


def _branches(annotation: object) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _branches(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for branch in get_args(annotation) for kind in _branches(branch)]
    return [annotation]


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "path_type": "a path",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "null",
}
_BOUNDS = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_too_short": "needs at least {min_length} character(s)",
    "string_too_long": "takes at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "too_short": "needs at least {min_length} item(s)",
    "too_long": "takes at most {max_length} items",
}


def _explain(errors: list[ErrorDetails]) -> str:
    """The expected kinds and the actual value, from all errors at the same path."""
    for error in errors:
        if error["type"] in _BOUNDS:
            bound = _BOUNDS[error["type"]].format(**error.get("ctx", {}))
            return f"{bound}, got {_shown(error['input'])}"
        if error["type"] in ("value_error", "assertion_error"):
            return str(error["ctx"]["error"])
    wanted: list[str] = []
    for error in errors:
        kind = _KINDS.get(error["type"]) or error.get("ctx", {}).get("expected") or error["msg"]
        wanted += [] if kind in wanted else [kind]
    *others, last = wanted
    listed = f"{', '.join(others)} or {last}" if others else last
    value = errors[0]["input"]
    return f"expected {listed}, got {_shown(value)}{_fix(value, wanted)}"


def _fix(value: object, wanted: list[str]) -> str:
    if wanted == ["true or false"] and str(value).lower() in ("yes", "no", "on", "off"):
        return ": write true or false"
    if isinstance(value, str) and any("number" in kind for kind in wanted):
        try:
            float(value)
        except ValueError:
            return ""
        return ": write it without quotes"
    if wanted == ["text"] and isinstance(value, (bool, int, float)):
        return ": put it in quotes"
    return ""


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = json.dumps(value) if not isinstance(value, str) else repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"{text} (text)" if isinstance(value, str) else "nothing" if value is None else text
