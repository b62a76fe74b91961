"""The JSON Schemas of what the harness writes, generated from the types of its layout."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from harness import record
from harness.errors import HarnessError
from harness.results.leaderboard_layout import Leaderboard

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

__all__ = ["first_problem", "prepare", "schema", "training_problem", "validate"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(name: str) -> dict[str, object]:
    """The JSON Schema of a `record` or a `leaderboard`."""
    layouts: dict[str, object] = {
        "record": Annotated[record.Record, record.ERROR_UNLESS_OK],
        "leaderboard": Leaderboard,
    }
    return {
        "$schema": _DIALECT,
        "title": f"finetune-harness {name}",
        **_generated(layouts[name]),
    }


def validate(value: Mapping[str, object], name: str) -> None:
    """Raises HarnessError, naming the place in `value`, where it does not match schema `name`."""
    if (problem := first_problem(value, name)) is not None:
        raise HarnessError(f"{name} {value.get('id', '')} does not match its schema: {problem}")


def first_problem(value: object, name: str) -> str | None:
    """Where and why a value does not match schema `name`; None where it does."""
    from jsonschema.exceptions import best_match

    error = best_match(_validator(name).iter_errors(value))
    if error is None:
        return None
    message = error.message if len(error.message) < 200 else f"{error.message[:200]} ..."
    return f"{error.json_path}: {message}"


def training_problem(training: object) -> str | None:
    """What keeps a record from holding this `training`, of JSON types; None where nothing does."""
    return first_problem(training, "training")


def prepare(name: str) -> None:
    """Generate the schema `name` now, once for this process and those that it forks."""
    _validator(name)


@lru_cache
def _validator(name: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(_generated(record.Training) if name == "training" else schema(name))


def _generated(layout: Any) -> dict[str, Any]:
    from pydantic import TypeAdapter

    whole: dict[str, Any] = _tidy(TypeAdapter(layout).json_schema())
    if "$ref" in whole:  # the layout's own keywords beside it: one object reads better
        definition = whole["$defs"].pop(whole.pop("$ref").rpartition("/")[2])
        whole = definition | whole
    return whole


def _tidy(part: object) -> Any:
    """A generated schema without pydantic's titles and `true`, and `type` lists for unions."""
    if isinstance(part, list):
        return [_tidy(item) for item in part]
    if not isinstance(part, dict):
        return part
    tidy = {
        key: _tidy(item)
        for key, item in part.items()
        if not (key == "title" and isinstance(item, str))
        and not (key == "additionalProperties" and item is True)
        and not (key == "items" and item == {})
    }
    return _with_type_list(tidy)


def _with_type_list(part: dict[str, Any]) -> dict[str, Any]:
    """`anyOf` of plain types as one `type` list: a problem then names all that would do."""
    options = part.get("anyOf", [])
    keywords = [key for option in options for key in option if key != "type"]
    plain = all("type" in option for option in options) and "enum" not in keywords
    if not options or not plain or len(set(keywords)) < len(keywords):
        return part
    merged = {"type": [option["type"] for option in options]}
    for option in options:
        merged |= {key: item for key, item in option.items() if key != "type"}
    return {**{key: item for key, item in part.items() if key != "anyOf"}, **merged}
