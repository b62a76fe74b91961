"""A cell, and its ids: hashes of everything that its training and its whole result depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, cast

from harness.api.task import Suite
from harness.data import chat_templates
from harness.data.training_set import DataPlan, without_folder
from harness.models.served.stand_in import is_served
from harness.planning.search_space import Search
from harness.record import Plan, Tuning
from harness.results import store
from harness.types import Budget, ModelRef

ID_LENGTH = 10
_CHANGE_NOTHING = frozenset({"on_oom", "checkpoint_minutes", "max_minutes"})
"""Fields of a budget that no result depends on, and so no id."""
_MODEL_KEYS = {field.name for field in dataclasses.fields(ModelRef)}


@dataclass(frozen=True)
class Cell:
    """One model, trained by one method with one seed, and the suites that it runs through."""

    id: str
    training_id: str
    """Hash of what the training depends on: cells that differ in suites alone share it."""
    experiment: str
    method: str
    label: str
    options: Mapping[str, Any]
    model: ModelRef
    budget: Budget
    seed: int
    data: DataPlan | None
    suites: tuple[Suite, ...]
    chat_template: str | None
    search: Search | None = None
    """The search for options before the training; None where they are used as given."""
    tuned: Mapping[str, object] | None = None
    """The search's results: part of the record's `plan.tuning`."""
    price_per_hour: float | None = None
    """Dollars; changes no result, so no id depends on it."""
    left_out: tuple[str, ...] = ()
    """Why suites of the experiment are not among `suites`, as sentences for the record."""

    @property
    def served(self) -> ModelRef | None:
        """The model behind a server that it measures; None for one of this process."""
        named = [ModelRef(**value) for value in self.options.values() if is_model(value)]
        return next((model for model in [*named, self.model] if is_served(model)), None)

    def as_record(self) -> Plan:
        """The record's `plan` section: contents by their hashes, no folder of this machine."""
        tuning = {**self.search.as_record(), **(self.tuned or {})} if self.search else None
        plan: Plan = {
            "experiment": self.experiment,
            "model": _recorded(dataclasses.asdict(self.model)),
            "method": self.method,
            "label": self.label,
            "options": {key: _recorded(value) for key, value in self.options.items()},
            "data": self.data.as_record() if self.data else None,
            "budget": _recorded_budget(self.budget),
            "seed": self.seed,
            "suites": [suite.name for suite in self.suites],
            "training_id": self.training_id,
            "tuning": cast("Tuning | None", tuning),
        }
        if self.price_per_hour is not None:
            plan["price_per_hour"] = self.price_per_hour
        return plan


def is_recorded(out: Path, cell: Cell) -> bool:
    """Whether the cell has a valid record with status `ok`; any other is run again."""
    record = store.stored(out, cell.id)
    return record is not None and record["status"] == "ok"


def new_cell(**fields: Any) -> Cell:
    """A cell with its id and its training id."""
    model, plan = fields["model"], fields["data"]
    training = {
        "method": fields["method"],
        "options": {key: _content(value) for key, value in fields["options"].items()},
        "model": _content(dataclasses.asdict(model)),
        "trust_remote_code": model.trust_remote_code,
        "budget": budget_content(fields["budget"]),
        "seed": fields["seed"],
        "data": plan.identity if plan else None,
        "chat_template": fields["chat_template"],
    }
    template = fields["chat_template"] or chat_templates.own_template(Path(model.path))
    if plan and chat_templates.is_dated(template):
        training["date"] = str(chat_templates.DATE)
    if fields["search"]:
        training["search"] = fields["search"].as_record()
    training_id = _digest(training)
    suites = {suite.name: suite.hash for suite in fields["suites"]}
    whole = _digest([training, suites, fields["label"]])
    name = f"{_slug(fields['label'])}-s{fields['seed']}-{whole[:ID_LENGTH]}"
    return Cell(id=name, training_id=training_id, **fields)


def with_options(cell: Cell, options: Mapping[str, object], **changes: Any) -> Cell:
    """A copy of a cell with other options and no search, under its own id."""
    names = {field.name for field in dataclasses.fields(Cell)} - {"id", "training_id", "tuned"}
    fields = {name: getattr(cell, name) for name in names} | {"options": options, "search": None}
    return new_cell(**fields | changes)


def with_suites(cell: Cell, suites: tuple[Suite, ...]) -> Cell:
    """A copy of a cell that runs through these suites, under its own id."""
    names = {field.name for field in dataclasses.fields(Cell)} - {"id", "training_id", "tuned"}
    return new_cell(**{name: getattr(cell, name) for name in names} | {"suites": suites})


def budget_content(budget: Budget) -> dict[str, object]:
    """The part of a budget that ids depend on: newer fields count where not at their default."""
    first = {"steps", "batch", "max_length", "precision", "micro_batch"}
    return {
        field.name: getattr(budget, field.name)
        for field in dataclasses.fields(budget)
        if field.name not in _CHANGE_NOTHING
        and (field.name in first or getattr(budget, field.name) != field.default)
    }


def _recorded_budget(budget: Budget) -> dict[str, object]:
    """A budget as the record has it, without what makes it no other one: how often a training was
    saved, and how long a worker may take."""
    content = dataclasses.asdict(budget)
    del content["checkpoint_minutes"], content["max_minutes"]
    return content


def is_model(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether this is a ModelRef as plain data."""
    return isinstance(value, Mapping) and set(value) == _MODEL_KEYS


def _content(value: object) -> object:
    """The part of an option that ids depend on: of a model its contents alone."""
    if not is_model(value):
        return value
    return ModelRef(**value).identity


def _recorded(value: object) -> Any:
    """An option as the record has it: a model without folders of this machine."""
    if not is_model(value) or not value["content_hash"]:
        return value
    return {**value, "path": None, "name": without_folder(value["name"])}


def _slug(label: str) -> str:
    kept = "".join(c if c.isalnum() and c.isascii() else "-" for c in label).strip("-")
    return kept or "cell"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
