"""The experiment file: strict models, `--set` overrides, and the line of every key."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PrivateAttr, Tag, ValidationInfo, field_validator

from harness.config import strict_yaml
from harness.config.data_mix import Mix, Rows, Text
from harness.config.reasoning import Reasoning
from harness.config.served_settings import ServedSettings
from harness.config.strict_yaml import KeyPath, Located, StrictModel
from harness.config.tuning import EntrySpace, Tune
from harness.errors import ConfigError

__all__ = [
    "BudgetConfig",
    "Data",
    "Experiment",
    "MethodEntry",
    "Mix",
    "SuiteEntry",
    "check_experiment",
    "load_experiment",
]


LONGEST = 100
"""Characters of a name or a label: names of files are made of them."""


def _short(name: str) -> str:
    if len(name) > LONGEST:
        raise ValueError(f"{name[:40]!r}... has {len(name)} characters: take at most {LONGEST}")
    return name


class Data(Rows):
    """The training data."""

    train: Text
    """A bundled name, a file (.jsonl, .json, .csv, .parquet) or a Hub id."""
    validation: float | int | str | None = None
    """Validation rows: a fraction between 0 and 1, a number of rows, or a file."""
    mix: Mix | tuple[Mix | None, ...] | None = None
    """General rows blended into the training rows; a list is a grid, null being no mix."""
    balance: Text | None = None
    """A column whose values should be about equally frequent; checked, nothing is changed."""
    chat_template: str | None = None
    """A chat template in place of the tokenizer's own."""
    loss: Literal["assistant", "all"] = "assistant"
    """The tokens that the loss counts."""

    @property
    def mixes(self) -> tuple[Mix | None, ...]:
        """The mixes of the grid: each method is trained once with each."""
        return self.mix if isinstance(self.mix, tuple) else (self.mix,)

    @field_validator("mix")
    @classmethod
    def _some(
        cls, value: Mix | tuple[Mix | None, ...] | None
    ) -> Mix | tuple[Mix | None, ...] | None:
        if value == ():
            raise ValueError("expected a mix, or a list of mixes and null")
        return value

    @field_validator("validation")
    @classmethod
    def _share_or_count(cls, value: float | int | str | None) -> float | int | str | None:
        wrong = value == ""
        if isinstance(value, (int, float)):
            wrong = value <= 0 or (isinstance(value, float) and value >= 1)
        if wrong:
            raise ValueError(
                "expected a fraction between 0 and 1, a number of rows (1 or more) or a file, "
                f"got {value!r}"
            )
        return value


MOST_DRAWS = 100_000_000
"""Rows that a training draws: a list of them is held in memory."""
MOST_BATCH = 1_000_000
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""The range that numpy's generators accept."""


MOST_MINUTES = 60 * 24 * 365
"""A year."""


class BudgetConfig(StrictModel):
    """The training budget, the same for every method."""

    steps: int = Field(default=0, ge=1, le=MOST_DRAWS)
    """Optimizer steps; 0 where `epochs` says how many."""
    epochs: float | None = Field(default=None, gt=0, le=10_000)
    """In place of `steps`: times that as many rows are drawn as there are to train on."""
    batch: int = Field(ge=1, le=MOST_BATCH)
    """Rows per optimizer step."""
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Rows per forward pass; divides `batch`. `auto` weighs padding against passes."""
    max_length: int = Field(default=512, ge=8, le=MOST_DRAWS)
    """Tokens per row."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """Arithmetic of the forward and backward pass; `auto` is what is fast on this machine."""
    group_by_length: bool = True
    """Rows of similar length share a forward pass; every step keeps its rows."""
    liger: bool = False
    """Liger's fused kernels; needs CUDA and the extra `liger`."""
    compile: bool = False
    """torch.compile; the first steps compile."""
    on_oom: Literal["checkpoint", "halve", "stop"] = "checkpoint"
    """Out of memory while training: halve micro_batch, then gradient checkpointing."""
    checkpoint_minutes: float | None = Field(default=None, gt=0, le=MOST_MINUTES)
    """Minutes of training between two checkpoints, from which a later run goes on where this one
    was killed; by default one is written only where the run is told to stop."""
    max_minutes: float | None = Field(default=None, gt=0, le=MOST_MINUTES)
    """Minutes that the process of a cell may take, by default without a limit. One that takes
    longer is stopped and recorded as an error; the next run goes on from what it has finished."""

    @field_validator("batch")
    @classmethod
    def _can_be_drawn(cls, value: int, info: ValidationInfo) -> int:
        steps = info.data.get("steps")
        if steps is not None and steps * value > MOST_DRAWS:
            raise ValueError(
                f"{steps} steps of {value} rows are more than {MOST_DRAWS:,} draws: lower one"
            )
        return value

    def steps_over(self, rows: int) -> int:
        """Optimizer steps with so many rows to train on; the last may draw rows a time more.

        Raises ValueError where they draw too many.
        """
        if self.epochs is None:
            return self.steps
        steps = math.ceil(round(self.epochs * rows, 6) / self.batch)
        if steps * self.batch > MOST_DRAWS:
            raise ValueError(
                f"{self.epochs:g} epochs of {rows:,} rows are more than {MOST_DRAWS:,} draws: "
                "lower them"
            )
        return max(1, steps)

    @field_validator("micro_batch")
    @classmethod
    def _divides(cls, value: int | str | None, info: ValidationInfo) -> int | str | None:
        batch = info.data.get("batch")
        if isinstance(value, int) and batch is not None and batch % value:
            fits = ", ".join(str(n) for n in range(1, batch + 1) if batch % n == 0)
            raise ValueError(f"{value} does not divide batch {batch}: take one of {fits}")
        return value


class MethodEntry(StrictModel):
    """A training method of the experiment."""

    name: Text
    """A registered method."""
    label: str
    """Name of its rows in tables; unique."""
    options: dict[str, Any] = Field(default_factory=dict)
    """As written; the method's own Options checks them."""
    tune: EntrySpace | None = None
    """The options to search, with their spaces; None means the learning rate alone."""
    line: int | None = None
    """In the experiment file; None where a `--set` put it there."""

    @field_validator("label")
    @classmethod
    def _printable(cls, value: str) -> str:
        if not value or value != value.strip() or re.search(r"[,\x00-\x1f]", value):
            raise ValueError(
                f"{value!r} has a comma, a line break or outer spaces, or is empty: choose another"
            )
        return _short(value)


class SuiteEntry(StrictModel):
    """A suite of the experiment."""

    name: Text
    """A suite of the harness, of a plugin, beside the file or in a `--suites` folder; or its
    file."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Keys of the suite's file that this experiment sets, such as `limit`."""
    line: int | None = None
    """In the experiment file; None where a `--set` put it there."""


def _form(model: object) -> str:
    return "ServedSettings" if isinstance(model, (Mapping, ServedSettings)) else "Text"


Named = Annotated[
    Annotated[Text, Tag("Text")] | Annotated[ServedSettings, Tag("ServedSettings")],
    Discriminator(_form),
]
"""A model by its name, or by where it is served."""


class Experiment(StrictModel):
    """An experiment file, checked."""

    name: str
    """Names the results folder and the rows' experiment."""
    model: Named
    """A packaged alias, a Hub id or a folder; or a mapping for a model behind a server."""
    trust_remote_code: bool = False
    """Whether the model's own Python code may run."""
    data: Data | None = None
    """What is trained on; needed where a method trains."""
    budget: BudgetConfig
    """What every method gets alike."""
    methods: tuple[MethodEntry, ...] = Field(min_length=1)
    """Each a name, or a mapping with a `name`."""
    base: Text | None = None
    """Label of the untrained row that the others are compared with, and that judges by default;
    the unchanged model where absent."""
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    """Every trained method runs once with each."""
    suites: tuple[SuiteEntry, ...]
    """Each a name, or a mapping with a `name`."""
    reasoning: Reasoning | None = None
    """What ends a thinking model's reasoning, for the suites that take this key and do not set it:
    `auto`, `none` or `{end: ...}`."""
    engine: Text | None = None
    """What generates the answers of suites that do not say it themselves, such as `vllm`; passes of
    this process where absent."""
    tune: Tune | None = None
    """Every method's options are searched with the same number of trials."""
    mirror: str | None = None
    """A folder laid out as the Hub lays out data sets."""
    rank_by: str | None = None
    """`suite.metric` that orders the leaderboard."""
    price_per_hour: float | None = Field(default=None, ge=0)
    """Of the machine, in dollars: the leaderboard then says what a row cost."""
    track: tuple[Text, ...] = ()
    """Names of the trackers that the run is reported to."""
    _located: Located = PrivateAttr()

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", value):
            raise ValueError(
                f"invalid name {value!r}: use letters, digits, '-', '_' and '.', the first of them "
                "no '-' or '.'"
            )
        return _short(value)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        duplicates = [seed for i, seed in enumerate(value) if seed in value[:i]]
        if duplicates:
            raise ValueError(f"duplicate seed {duplicates[0]}: remove it")
        return value

    @property
    def file(self) -> Path:
        """The experiment file."""
        return self._located.file

    @property
    def folder(self) -> Path:
        """The folder that relative paths in the file start from."""
        return self.file.parent

    @property
    def located(self) -> Located:
        """The file as written (with `--set` applied), for `validate_options` and similar checks."""
        return self._located

    def line(self, *path: str | int) -> int | None:
        """The line of a key: `experiment.line("methods", 2, "lr")`; None after a `--set`."""
        return self._located.line(path)

    def error(self, message: str, *path: str | int) -> ConfigError:
        """An error that names the place of a key."""
        return self._located.error(message, path)


def load_experiment(
    path: str | Path, overrides: Sequence[str] = (), untrained: Collection[str] = ("base",)
) -> Experiment:
    """Read and check an experiment file, with `a.b=c` overrides applied first.

    An experiment whose methods are all among `untrained` needs no data. Raises ConfigError with
    `file:line`, or with the text of the override that is at fault.
    """
    located = strict_yaml.load(path)
    for text in overrides:
        located = _override(located, text)
    return check_experiment(located, untrained)


def check_experiment(located: Located, untrained: Collection[str] = ("base",)) -> Experiment:
    """An experiment from its parsed file, or from one that `harness eval` builds in its place."""
    plain = dataclasses.replace(located, data=_normalise(located, untrained))
    experiment = strict_yaml.validate(Experiment, plain)
    experiment._located = located
    _check_budget(experiment)
    _check_labels(experiment)
    _check_suites(experiment)
    if experiment.data is None and any(m.name not in untrained for m in experiment.methods):
        trained = next(m.name for m in experiment.methods if m.name not in untrained)
        raise located.error(
            f"missing key 'data' in the experiment: '{trained}' trains: add `data: {{train: ...}}`"
        )
    return experiment


def _normalise(located: Located, untrained: Collection[str]) -> object:
    """Gives the name its default and each method and suite its long form."""
    if not isinstance(located.data, dict):
        return located.data
    data = {"name": located.file.stem, **located.data}
    data["methods"] = _entries(located, "methods", "options", ("name", "label", "tune"))
    if isinstance(data["methods"], list):
        for entry in data["methods"]:
            entry.setdefault("label", _default_label(entry, untrained))
    data["suites"] = _entries(located, "suites", "overrides", ("name",))
    return {key: value for key, value in data.items() if key in located.data or key == "name"}


def _entries(located: Located, key: str, rest: str, own: tuple[str, ...]) -> object:
    """`[base, {name: lora, r: 8}]` in the long form; other shapes are left to the model."""
    items = located.data.get(key)
    if not isinstance(items, list):
        return items
    entries = []
    for i, item in enumerate(items):
        values = {"name": item} if isinstance(item, str) else item
        if not isinstance(values, dict):
            raise located.error(
                f"{key}.{i}: expected a name or a mapping with a `name`, got {item!r}", (key, i)
            )
        if values.get("name") is None:
            raise located.error(f"missing key 'name' in {key}.{i}{_nested(values)}", (key, i))
        entry = {part: values[part] for part in own if values.get(part) is not None}
        entry[rest] = {part: value for part, value in values.items() if part not in own}
        entry["line"] = located.line((key, i))
        entries.append(entry)
    return entries


def _default_label(entry: Mapping[str, Any], untrained: Collection[str]) -> object:
    """The method's name; of a quantised model that is not trained, `base-nf4`."""
    name, quantized = entry["name"], entry["options"].get("quant_type")
    as_is = name not in untrained or quantized in (None, "none")
    return name if as_is else f"{name}-{quantized}"


def _nested(values: dict[str, object]) -> str:
    """The fix for `- lora: {r: 16}`."""
    name, options = next(iter(values.items()), ("", None))
    if len(values) == 1 and (options is None or isinstance(options, dict)):
        return f": write {{name: {name}{', ...' if options else ''}}}"
    return ""


def _check_budget(experiment: Experiment) -> None:
    budget = experiment.budget
    if not budget.steps and budget.epochs is None:
        message = "missing key 'steps' in budget: add it, or epochs in its place"
        raise experiment.error(message, "budget")
    if budget.steps and budget.epochs is not None:
        message = "budget has steps and epochs, and each says how long to train: leave out one"
        raise experiment.error(message, "budget", "epochs")


def _check_labels(experiment: Experiment) -> None:
    seen: dict[str, int] = {}
    for i, entry in enumerate(experiment.methods):
        first = seen.setdefault(entry.label, i)
        if first == i:
            continue
        where = _both(experiment, "methods", first, i)
        if experiment.methods[first].name == entry.name == entry.label:
            message = f"duplicate method '{entry.name}' ({where}): give one a `label`"
        else:
            message = f"duplicate label '{entry.label}' ({where}): change one"
        raise experiment.error(message, "methods", i)


def _check_suites(experiment: Experiment) -> None:
    seen: dict[str, int] = {}
    for i, entry in enumerate(experiment.suites):
        first = seen.setdefault(entry.name, i)
        if first != i:
            where = _both(experiment, "suites", first, i)
            raise experiment.error(
                f"duplicate suite '{entry.name}' ({where}): remove one", "suites", i
            )


def _both(experiment: Experiment, key: str, first: int, second: int) -> str:
    lines = experiment.line(key, first), experiment.line(key, second)
    if None in lines or lines[0] == lines[1]:
        return f"{key}.{first} and {key}.{second}"
    return f"lines {lines[0]} and {lines[1]}"


# --set


def _override(located: Located, text: str) -> Located:
    """`a.b=c` applied to a copy; numbers in the path count list items from 0."""
    source = f"--set {text}"
    target, equals, value_text = text.partition("=")
    parts = target.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError("expected KEY.KEY=VALUE, such as budget.steps=20", file=source)
    value = strict_yaml.parse(value_text, source).data
    data, marks = copy.deepcopy(located.data), dict(located.marks)
    data = {} if data is None else data
    holder, path = data, KeyPath()
    for part in parts[:-1]:
        key = _key(holder, part, path, source)
        holder[key] = _container(holder, key, path, source)
        holder, path = holder[key], (*path, key)
        marks.setdefault(path, source)
    key = _key(holder, parts[-1], path, source)
    holder[key], path = value, (*path, key)
    marks = {at: mark for at, mark in marks.items() if at[: len(path)] != path}
    marks[path] = source
    return dataclasses.replace(located, data=data, marks=marks)


def _key(holder: object, part: str, path: KeyPath, source: str) -> str | int:
    """A key of a mapping, or an index that the list has."""
    if not isinstance(holder, (dict, list)):
        name = ".".join(map(str, path)) or "the experiment"
        raise ConfigError(f"{name} is {holder!r}, which holds no '{part}'", file=source)
    if isinstance(holder, dict):
        return part
    if not (part.isascii() and part.isdigit() and int(part) < len(holder)):
        there = f"0 to {len(holder) - 1}" if holder else "none"
        raise ConfigError(
            f"{'.'.join(map(str, path))} is a list and has no item '{part}' (items: {there})",
            file=source,
        )
    return int(part)


def _container(holder: Any, key: str | int, path: KeyPath, source: str) -> Any:
    """The value of `key`, made into a mapping where it is absent or a bare name."""
    value = holder.get(key) if isinstance(holder, dict) else holder[key]
    if value is None:
        return {}
    if isinstance(value, str) and path in (("methods",), ("suites",)):
        return {"name": value}
    return value
