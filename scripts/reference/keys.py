"""Tables of keys: their types, defaults and meanings, from JSON Schemas and pydantic models."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from scripts.reference import source
from scripts.reference.markdown import anchor, prose, table

Schema = Mapping[str, Any]
TYPES = {"array": "list", "object": "mapping", "string": "text", "integer": "whole number"}
"""JSON Schema's word -> ours, where they differ."""


class Undescribed(Exception):
    """A key whose meaning the code does not say: write its docstring."""


def kind(schema: Schema, linked: Mapping[str, str] | None = None) -> str:
    """The type that a schema says, in words.

    `linked` has the headings of types that have a section on the page, which a reference links to.
    """
    return _any_of(_words(schema, linked or {}))


def _words(schema: Schema, linked: Mapping[str, str]) -> list[str]:
    """Each type that would do."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return [link(linked[name])] if name in linked else [FOREIGN[name]]
    if "anyOf" in schema:
        return [word for one in schema["anyOf"] for word in _words(one, linked)]
    if "const" in schema:
        return [_literal(schema["const"])]
    if "enum" in schema:
        return [_literal(value) for value in schema["enum"]]
    names = schema.get("type", "anything")
    return [_word(name, schema, linked) for name in ([names] if isinstance(names, str) else names)]


FOREIGN = {"ModelRef": "name of a model", "Criterion": "mapping"}
"""What stands for types without a section: the meaning of their key says what they hold."""


def link(heading: str) -> str:
    """A link to a section of the same page, by the anchor that its heading gets."""
    return f"[{heading}](#{anchor(heading)})"


def _any_of(words: Sequence[str]) -> str:
    """Each once, `null` last."""
    once = sorted(dict.fromkeys(words), key="`null`".__eq__)
    return once[0] if len(once) == 1 else f"{', '.join(once[:-1])} or {once[-1]}"


def _word(name: str, schema: Schema, linked: Mapping[str, str]) -> str:
    if name == "null":
        return "`null`"
    if name == "array" and isinstance(schema.get("items"), Mapping):
        return f"list of {_inner(schema['items'], linked)}"
    if name == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"mapping of names to {_inner(schema['additionalProperties'], linked)}"
    word = TYPES.get(name, name)
    return word + (bounds(schema) if name in ("integer", "number") else "")


def _inner(schema: Schema, linked: Mapping[str, str]) -> str:
    """What a list or a mapping holds; several types in brackets."""
    text = kind(schema, linked)
    return f"({text})" if len(_words(schema, linked)) > 1 else text


def bounds(schema: Schema) -> str:
    """` from 1 to 4096`, ` above 0`; empty without any."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    least = (
        f" from {low:,}" if low is not None else f" above {above:,}" if above is not None else ""
    )
    most = f" to {high:,}" if high is not None else f" below {below:,}" if below is not None else ""
    return least + most


def _literal(value: object) -> str:
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def of_schema(schema: Schema, inherited: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """The keys of a whole JSON Schema: its own, then a section for each of its definitions.

    `inherited` has the meanings of keys that a definition takes over from another type.
    """
    inherited = inherited or {}
    definitions = schema["$defs"]
    parts = [prose(schema["description"]), _section(schema, "", definitions)]
    for name in _reached(schema, definitions):
        part = definitions[name]
        table_of = _section(part, name, definitions, inherited.get(name))
        parts += [f"## {name}", prose(part["description"]), table_of]
    return "\n\n".join(parts)


def _reached(schema: Schema, definitions: Mapping[str, Schema]) -> list[str]:
    """Names of the definitions, in the order in which a reader comes upon them."""
    found: list[str] = []

    def walk(part: object) -> None:
        if isinstance(part, Mapping):
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.append(name)
                walk(definitions[name])
            for key, value in part.items():
                if key != "$defs":
                    walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    walk(schema)
    return found


def _referred(part: Schema, definitions: Mapping[str, Schema]) -> str:
    """What the section says that a key is, beside null; empty where it is another type."""
    options = [part, *part.get("anyOf", [])]
    names = {one["$ref"].rpartition("/")[2] for one in options if "$ref" in one}
    return definitions[names.pop()]["description"].split("\n\n")[0] if len(names) == 1 else ""


def _section(
    schema: Schema,
    name: str,
    definitions: Mapping[str, Schema],
    texts: Mapping[str, str] | None = None,
) -> str:
    required = schema.get("required", [])
    rows = []
    for key, part in schema["properties"].items():
        text = part.get("description") or (texts or {}).get(key) or _referred(part, definitions)
        if not text:
            raise Undescribed(f"{name or 'the whole'}.{key}")
        held = "always" if key in required else "may be absent"
        rows.append(
            [f"`{key}`", kind(part, {name: name for name in definitions}), held, prose(text)]
        )
    return table(["key", "type", "", "meaning"], rows)


def of_model(
    model: type[BaseModel],
    *,
    names: Collection[str] | None = None,
    linked: Mapping[str, str] | None = None,
    shown: Mapping[str, str] | None = None,
    defaults: Mapping[str, str] | None = None,
) -> str:
    """A table of a model's keys; `names` are those to show (all by default).

    `shown` has other names of keys (empty: left out), `defaults` what is put in a key's place by
    what reads the file. Raises Undescribed.
    """
    schema, texts = model.model_json_schema(), source.inherited(model)
    if "$ref" in schema:  # one that holds others of its kind
        schema = schema["$defs"][model.__name__]
    shown, defaults = shown or {}, defaults or {}
    rows = []
    for key, info in model.model_fields.items():
        label = shown.get(key, f"`{key}`")
        if not label or (names is not None and key not in names):
            continue
        if not texts.get(key):
            raise Undescribed(f"{model.__name__}.{key}")
        part = schema["properties"][key]
        absent = defaults.get(key) or default(info)
        rows.append([label, kind(part, linked) + usual(part), absent, _of_file(texts[key])])
    return table(["key", "type", "default", "meaning"], rows)


def _of_file(text: str) -> str:
    """A meaning as a reader of YAML has it, which writes Python's None as null."""
    return prose(re.sub(r"\bNone\b", "`null`", text))


def usual(schema: Schema) -> str:
    """The range in which an option mostly lies, and where it is searched."""
    if "usual" not in schema:
        return ""
    span = schema["usual"]
    scale = ", log" if span["log"] else ""
    return f"; usual {span['low']:g} to {span['high']:g}{scale}"


def default(info: Any) -> str:
    """What a field of a pydantic model is where the file says nothing."""
    if info.is_required():
        return "**needed**"
    if info.default is PydanticUndefined:
        made = info.default_factory in (dict, list)
        return f"`{json.dumps(info.default_factory())}`" if made else "by the machine"
    value = info.default
    if isinstance(value, BaseModel):
        return "`{}`"
    return f"`{json.dumps(value)}`"
