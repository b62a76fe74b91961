"""In which parts of their identity two cells differ: a planned one, and one that was recorded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from harness.api.task import Suite
from harness.planning.cell import Cell, budget_content
from harness.record import Record
from harness.results import store
from harness.results.comparability import parts_apart
from harness.types import Budget

__all__ = ["Difference", "differences"]

SHOWN = 12
"""Digits of a hash that are shown."""


@dataclass(frozen=True)
class Difference:
    """A part of a cell's identity that is not what it was."""

    what: str
    """As the experiment file names it."""
    before: object
    """As JSON; None where there was no such part."""
    now: object


def differences(cell: Cell, record: Record) -> list[Difference]:
    """The parts in which a cell is another than a record's; values are those of the experiment.

    Empty where a part differs that records do not hold, such as the date in a chat template.
    """
    before, now = record["plan"], store.plain(cell.as_record())
    return [
        *_of("method", before["method"], now["method"]),
        *_of_models("model", before["model"], now["model"]),
        *_of_data(before.get("data"), now["data"]),
        *_of_mappings("budget", _budget(before.get("budget")), _budget(now["budget"])),
        *_of_options(cell, before["options"], now["options"]),
        *_of_mappings("tuning", _search(cell, before.get("tuning")), _search(cell, now["tuning"])),
        *_of("seed", before["seed"], now["seed"]),
        *_of_suites(cell.suites, record),
    ]


def _of(what: str, before: object, now: object) -> Iterator[Difference]:
    if before != now:
        yield Difference(what, before, now)


def _of_mappings(
    what: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[Difference]:
    for key in dict.fromkeys([*before, *now]):
        yield from _of(f"{what}.{key}", before.get(key), now.get(key))


def _of_models(
    what: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[Difference]:
    if _identity(before) != _identity(now):
        yield Difference(what, _model(before), _model(now))
    trusted = [one.get("trust_remote_code", False) for one in (before, now)]
    yield from _of(f"{what}.trust_remote_code", *trusted)


def _identity(model: Mapping[str, Any]) -> object:
    """As `ModelRef.identity`; a Hub id is its name."""
    return model.get("content_hash") or (model.get("name"), model.get("revision"))


def _model(model: Mapping[str, Any]) -> str:
    """Its name, and what tells its bytes from others'."""
    found = model.get("content_hash") or model.get("revision")
    return f"{model['name']} ({_short(found)})" if found else str(model["name"])


def _of_data(
    before: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> Iterator[Difference]:
    if before is None or now is None:
        yield from _of("data", before and _rows(before), now and _rows(now))
        return
    if before.get("hash") != now["hash"]:
        yield Difference("data", _rows(before), _rows(now))
    for key in ("format", "loss"):
        yield from _of(f"data.{key}", before.get(key), now[key])
    templates = [one.get("chat_template") for one in (before, now)]
    if templates[0] != templates[1]:
        yield Difference("data.chat_template", *map(_text, templates))
    mixes = [one.get("mix") or {} for one in (before, now)]
    for key in ("share", "hash"):
        yield from _of(f"data.mix.{key}", *(_short(mix.get(key)) for mix in mixes))


def _rows(data: Mapping[str, Any]) -> str:
    counted = f", {data['rows']} rows" if "rows" in data else ""
    return f"{data.get('name')}{counted} ({_short(data.get('hash'))})"


def _text(template: object) -> object:
    if not template:
        return None
    return f"{len(str(template))} characters ({_short(store.digest({'text': template}))})"


def _short(value: object) -> object:
    """A hash by its first digits; any other value as it is."""
    return value[:SHOWN] if isinstance(value, str) else value


def _budget(budget: Mapping[str, Any] | None) -> dict[str, object]:
    """What counts in an id; a field that a record does not have is at its default."""
    if budget is None:
        return {}
    fields = {field.name for field in dataclasses.fields(Budget)}
    known: dict[str, Any] = {key: value for key, value in budget.items() if key in fields}
    try:
        return budget_content(Budget(**known))
    except TypeError:  # of a harness whose budgets had other fields
        return known


def _of_options(
    cell: Cell, before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[Difference]:
    """Options that are searched for are left out: the search decides them."""
    searched = set(cell.search.space) if cell.search else set()
    for key in dict.fromkeys([*before, *now]):
        if key in searched:
            continue
        one, other = before.get(key), now.get(key)
        if _is_model(one) and _is_model(other):
            yield from _of_models(key, one, other)
        else:
            yield from _of(key, one, other)


def _is_model(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether this is a model as a record has it."""
    return isinstance(value, Mapping) and {"name", "content_hash"} <= set(value)


def _search(cell: Cell, tuning: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was searched, without what was found."""
    if tuning is None:
        return {}
    asked = set(cell.search.as_record()) if cell.search else {"space", "number_of_trials"}
    return {key: value for key, value in tuning.items() if key in asked}


def _of_suites(suites: Sequence[Suite], record: Record) -> Iterator[Difference]:
    recorded, asked = store.suites(record), record["plan"].get("suites", [])
    for suite in suites:
        section = recorded.get(suite.name)
        if suite.name not in asked:
            yield Difference(f"suite '{suite.name}'", "not asked", "asked")
        elif section is not None and section["hash"] != suite.hash:
            yield from _of_parts(suite, section)
    for name in asked:
        if name not in {suite.name for suite in suites}:
            yield Difference(f"suite '{name}'", "asked", "not asked")


def _of_parts(suite: Suite, section: Mapping[str, Any]) -> Iterator[Difference]:
    """The parts of a suite's hash; the hash itself where none of them says it."""
    before, now = section.get("parts", {}), store.plain(suite.parts)
    found = [
        Difference(f"suite '{suite.name}'.{name}", before.get(name), now.get(name))
        for name in parts_apart(before, now)
    ]
    whole = Difference(f"suite '{suite.name}'", _short(section["hash"]), _short(suite.hash))
    yield from found or [whole]
