"""The experiment file that records were made by, written again from their plans."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from harness.record import Plan, Record
from harness.results.store import label, suites

__all__ = ["experiments"]

_DATA = ("columns", "format", "validation", "loss", "chat_template", "sample", "balance")
_NOT_SET = {"format": "auto", "loss": "assistant"}
_SUITE = ("limit",)


def experiments(records: Iterable[Record]) -> dict[str, str]:
    """Name of an experiment -> a file that plans the same cells.

    Options are written out, those that a search found as well, so that nothing is searched again.
    Data and models of folders stand there by their names alone, as records have them. Records of
    one name and different data, models or budgets are a file each.
    """
    alike: dict[str, list[Record]] = {}
    for record in records:
        plan = record["plan"]
        data = {key: v for key, v in (plan.get("data") or {}).items() if key != "mix"}
        of = [plan.get("experiment"), plan["model"], plan.get("budget"), plan.get("suites")]
        # an untrained base has no data: it belongs to those that have the rest in common
        key = json.dumps([of, data if record["training"] else None], sort_keys=True)
        alike.setdefault(key, []).append(record)
    return _named(_with_bases(list(alike.values())))


def _with_bases(groups: Sequence[list[Record]]) -> list[list[Record]]:
    """The untrained records put to those whose base they are."""
    trained = [group for group in groups if any(cell["training"] for cell in group)]
    for group in groups:
        if group in trained:
            continue
        ids = {cell["id"] for cell in group}
        takers = [of for of in trained if any(_base(cell) in ids for cell in of)]
        for of in takers:
            of[:0] = group
        if not takers:
            trained.append(group)
    return trained


def _base(record: Record) -> str | None:
    evaluation = record["evaluation"]
    return evaluation.get("base") if evaluation else None


def _named(groups: Iterable[Sequence[Record]]) -> dict[str, str]:
    files: dict[str, str] = {}
    for records in groups:
        name = records[0]["plan"].get("experiment") or "experiment"
        unique = next(
            n for n in (name, *(f"{name}-{i}" for i in range(2, 10_000))) if n not in files
        )
        files[unique] = yaml.safe_dump(
            _experiment(name, records), sort_keys=False, allow_unicode=True, width=100
        )
    return files


def _experiment(name: str, records: Sequence[Record]) -> dict[str, Any]:
    plans = [record["plan"] for record in records]
    model, budgets = plans[0]["model"], [budget for plan in plans if (budget := plan.get("budget"))]
    content: dict[str, Any] = {"name": name, "model": model["name"]}
    if model.get("trust_remote_code"):
        content["trust_remote_code"] = True
    if data := _data(plans):
        content["data"] = data
    # an untrained row's budget has no steps
    content["budget"] = _budget(
        max(budgets, key=lambda budget: budget.get("steps") or 0, default={})
    )
    content["methods"] = _methods(plans)
    content["seeds"] = sorted({plan["seed"] for plan in plans if plan["seed"] is not None})
    content["suites"] = _suites(records)
    prices = {plan.get("price_per_hour") for plan in plans} - {None}
    return content | ({"price_per_hour": prices.pop()} if len(prices) == 1 else {})


def _budget(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """A budget that an experiment file takes: of a plan that trains nothing too."""
    lengths = {"steps": 1, "max_length": 8}
    return _set({key: value or lengths.get(key, value) for key, value in recorded.items()})


def _data(plans: Iterable[Plan]) -> dict[str, Any] | None:
    every = [data for plan in plans if (data := plan.get("data"))]
    if not every:
        return None
    known = every[0]
    data = {"train": known.get("name")}
    data |= {
        key: known[key]
        for key in _DATA
        if known.get(key) is not None and known[key] != _NOT_SET.get(key)
    }
    mixes = {json.dumps(of.get("mix"), sort_keys=True): of.get("mix") for of in every}
    blended = [
        mix and {key: mix[key] for key in ("source", "share") if key in mix}
        for mix in mixes.values()
    ]
    if any(blended):
        data["mix"] = blended if len(blended) > 1 else blended[0]
    return data


def _methods(plans: Iterable[Plan]) -> list[dict[str, Any]]:
    """Each method with the options that it had, once for all seeds."""
    found: dict[str, dict[str, Any]] = {}
    for plan in plans:
        entry: dict[str, Any] = {"name": plan["method"]}
        if label(plan) != plan["method"]:
            entry["label"] = label(plan)
        entry |= _set(plan["options"])
        found.setdefault(json.dumps(entry, sort_keys=True), entry)
    return list(found.values())


def _suites(records: Iterable[Record]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        for name in record["plan"].get("suites", ()):
            section = suites(record).get(name)
            parts = (section.get("parts") or {}) if section else {}
            limits = {key: parts[key] for key in _SUITE if parts.get(key) is not None}
            found.setdefault(name, {"name": name}).update(limits)
    return list(found.values())


def _set(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was left open."""
    return {key: value for key, value in values.items() if value is not None}
