"""Reads a suite: its YAML, its rows, and the hash of everything that its scores depend on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, create_model

from harness.api.judge import Judge
from harness.api.task import ScorerUse, Suite, SuiteSettings, Task
from harness.config import strict_yaml
from harness.config.reasoning import Reasoning
from harness.config.strict_yaml import KeyPath, Located
from harness.errors import ConfigError, UserError
from harness.evaluation import fingerprint, scorer_config
from harness.evaluation.judging import certificates
from harness.evaluation.judging import options as judge_options
from harness.evaluation.judging.rows import opponents
from harness.evaluation.tasks.sample_rows import cluster
from harness.manager import Plugins, calling
from harness.models.quantization import keywords_of
from harness.system.paths import expanded
from harness.types import ModelRef

EMBEDDER = "sentence-transformer"
"""The kind of packaged model that embeds texts."""

AnyTask = Task[SuiteSettings]


@dataclass(frozen=True)
class Where:
    """What names in a suite are resolved against."""

    mirror: Path | None = None
    report: Callable[[int, int], None] | None = None
    limit: int | None = None
    """No suite takes more samples; a smaller limit of its own stands."""
    chat_template: str | None = None
    """The experiment's own template, which changes every rendered prompt."""
    base_quantization: Mapping[str, object] | None = None
    """How the base is opened that others are compared with, and that judges by default."""
    pull_missing: bool = True
    """Whether packaged models are pulled; False: they are known by name and content alone."""
    certified: bool = True
    """Whether a judge's certificate is looked for; not where one is about to be made."""
    reasoning: Reasoning | None = None
    """The experiment's own, for suites that take it and say nothing of it."""
    engine: str | None = None
    """The experiment's own, for suites that generate and name none."""


def find_suite(name: str, *, plugins: Plugins, folders: Sequence[Path]) -> Path:
    """The YAML of suite `name`: in `folders` (first wins), else a registered one."""
    for folder in folders:
        for file in (folder / f"{name}.yaml", folder / f"{name}.yml"):
            if file.is_file():
                return file
    return Path(plugins.suites.get(name))


def task_of(suite: Suite, plugins: Plugins) -> AnyTask:
    """The way in which the suite asks."""
    task: AnyTask = plugins.tasks.get(suite.ask)
    return task


def engine_of(suite: Suite) -> str | None:
    """What generates the suite's answers; None: passes of this process."""
    engine = suite.settings.get("engine")
    return None if engine is None else str(engine)


def check_loading(suites: Sequence[Suite], plugins: Plugins) -> None:
    """Raise UserError for suites that need more than their files and cannot have it.

    Each task checks its suites together, before anything runs.
    """
    for name, task in plugins.tasks.things.items():
        own = [suite for suite in suites if suite.ask == name]
        if own:
            with calling(f"task '{name}'"):
                task.check_loading(own)


def load_suite(
    file: Path,
    overrides: Mapping[str, object],
    *,
    plugins: Plugins,
    base_model: ModelRef,
    where: Where,
) -> Suite:
    """Read, check and resolve a suite; its data is read too, so that bad rows are reported now.

    Raises ConfigError or DataError with file and line, UserError for an unknown scorer or judge.
    """
    located = strict_yaml.load(file)
    task = _task(located, plugins)
    settings, located, own = _settings(task, located, overrides, plugins)
    if where.limit is not None:
        settings = settings.capped(where.limit)
    if where.reasoning is not None:
        settings = settings.with_reasoning(where.reasoning)
    settings = _with_engine(settings, where.engine)
    resolver = _FileResolver(located, where, plugins)
    with calling(f"task '{task.name}'"):
        resources = task.resolve(settings, resolver)
        suite = Suite(
            name=settings.name,
            file=str(file),
            settings=settings.model_dump(mode="json"),
            mirror=str(where.mirror) if where.mirror else None,
            **vars(resources),
        )
        _check_scorers(suite, task, located, plugins)
        if where.certified:
            certificate = certificates.of_suite(suite, base_model, located, plugins)
            suite = replace(suite, judge_certificate=certificate)
        if suite.judge:
            judge_options.check_samples(suite, task.samples(suite), located, plugins)
        data = task.content(suite)
        _check_clusters(suite, task)
        scored = fingerprint.scored_content(
            suite, task, data, plugins, base_model, where.chat_template
        )
        corrections = task.corrections(suite)
        uncorrected = fingerprint.digest(scored) if corrections else ""
        scored |= corrections
        return replace(
            suite,
            hash=fingerprint.digest(scored),
            uncorrected_hash=uncorrected,
            parts=fingerprint.parts(scored),
            content=_own_content(suite, task, own, data, overrides),
        )


def _task(located: Located, plugins: Plugins) -> AnyTask:
    """The task that the file's `ask` names."""
    ask = located.data.get("ask") if isinstance(located.data, dict) else None
    if isinstance(ask, str) and ask in plugins.tasks.things:
        task: AnyTask = plugins.tasks.get(ask)
        return task
    names: Any = Literal[tuple(plugins.tasks.things)]
    registered = create_model("Registered", __base__=_AnyKeys, ask=(names, ...))
    strict_yaml.validate(registered, located, context="suite")
    raise AssertionError(f"'{ask}' is not registered and was taken")


class _AnyKeys(SuiteSettings):
    """A suite whose task is not known, and so neither its keys."""

    model_config = ConfigDict(extra="ignore")


def _settings(
    task: AnyTask, located: Located, overrides: Mapping[str, object], plugins: Plugins
) -> tuple[SuiteSettings, Located, SuiteSettings]:
    """The settings with the experiment's, where each stands, and the settings of the file alone.

    Raises ConfigError for what does not fit the task.
    """
    foreign = _foreign_keys(task, plugins)
    file_keys = {key: value for key, value in located.data.items() if key not in foreign}
    own = strict_yaml.validate(task.Settings, replace(located, data=file_keys), context="suite")
    settings = own
    if overrides:
        settings = _overridden(task, own, {k: v for k, v in overrides.items() if k not in foreign})
    if settings.name != located.file.stem:
        raise located.error(
            f"the suite is called '{settings.name}' but its file {located.file.name}: make them "
            "equal",
            ("name",),
        )
    located = _with_overrides(located, overrides, settings.name)
    with calling(f"task '{task.name}'"):
        task.check(settings, located)
    for key, takers in foreign.items():
        if key in located.data or key in overrides:
            raise located.error(
                f"ask: {task.name} takes no `{key}`, which is for {' and '.join(takers)}", (key,)
            )
    return settings, located, own


def _with_engine(settings: SuiteSettings, engine: str | None) -> SuiteSettings:
    """The settings with the experiment's engine, where they take one and have none."""
    if engine is None or getattr(settings, "engine", engine) is not None:
        return settings
    return settings.model_copy(update={"engine": engine})


def _foreign_keys(task: AnyTask, plugins: Plugins) -> dict[str, list[str]]:
    """Key that the task does not take -> the tasks that do."""
    foreign: dict[str, list[str]] = {}
    for name, other in plugins.tasks.things.items():
        for key in other.Settings.model_fields:
            if key not in task.Settings.model_fields:
                foreign.setdefault(key, []).append(name)
    return foreign


def _overridden(
    task: AnyTask, own: SuiteSettings, overrides: Mapping[str, object]
) -> SuiteSettings:
    fixed = {"name", "ask", "version"} & set(overrides)
    if fixed:
        raise ConfigError(
            f"suite '{own.name}': '{fixed.pop()}' cannot be set in an experiment; "
            "copy the suite under a new name"
        )
    merged = {**own.model_dump(exclude_unset=True), **overrides}
    return strict_yaml.validate_options(
        task.Settings, merged, what=f"the experiment's settings of suite '{own.name}'"
    )


def _with_overrides(located: Located, overrides: Mapping[str, object], name: str) -> Located:
    """With the marks of keys that an experiment sets naming the experiment, not a line."""
    own = {at: mark for at, mark in located.marks.items() if not at or at[0] not in overrides}
    place = f"the experiment's settings of suite '{name}'"
    return replace(located, marks=own | {(key,): place for key in overrides})


@dataclass(frozen=True)
class _FileResolver:
    """Resolves what a suite's file names (`harness.api.task.Resolver`)."""

    located: Located
    where: Where
    plugins: Plugins

    def rows(self, data: str | Mapping[str, str]) -> dict[str, str]:
        """Files of rows. Raises DataError for one that is missing."""
        from harness.data.sources import resolve

        names = {"": data} if isinstance(data, str) else data
        folder, mirror = self.located.file.parent, self.where.mirror
        files = {
            source: resolve(name, base=folder, bundled={}, mirror=mirror, split="test")
            for source, name in names.items()
        }
        for source, name in names.items():
            self._check_inside(name, files[source], "data")
        return {source: str(file) for source, file in files.items()}

    def folder(self, name: str, key: str) -> tuple[str, bool]:
        """A folder beside the suite's file, and whether it is of a registered suite."""
        folder = self.located.file.parent / name
        if not folder.is_dir():
            raise self.located.error(f"{key} {folder} is no folder", (key,))
        self._check_inside(name, folder, key)
        homes = {Path(file).resolve().parent for file in self.plugins.suites.things.values()}
        place = folder.resolve()
        return str(folder), bool(homes & {place, *place.parents})

    def scorers(
        self, entries: Sequence[str | Mapping[str, object]], reserved: Sequence[str] = ()
    ) -> tuple[ScorerUse, ...]:
        """Checked entries of `scorers:`."""
        return scorer_config.read(
            entries,
            self.located,
            plugins=self.plugins,
            resolve=functools.partial(self.model, causal=False),
            reserved=reserved,
        )

    def embedder(self, scorers: Sequence[ScorerUse], name: str) -> ModelRef | None:
        """The embedder, where one of the scorers embeds."""
        embeds = any(self.plugins.scorers.get(scorer.name).embeds for scorer in scorers)
        return self.model(name, ("embedder",), kind=EMBEDDER, causal=False) if embeds else None

    def judge(self, name: str) -> str:
        """Raises ConfigError for a judge that is not registered."""
        try:
            self.plugins.judges.get(name)
        except UserError as error:
            raise self.located.error(str(error), ("judge",)) from None
        return name

    def judge_with_options(
        self,
        name: str,
        written: Mapping[str, object],
        also: Sequence[str] = (),
        path: KeyPath = judge_options.KEY,
    ) -> Judge:
        """The judge with its own keys at `path`, checked."""
        return judge_options.read(
            name, written, self.located, plugins=self.plugins, also=also, path=path
        )

    def error(self, message: str, path: KeyPath) -> ConfigError:
        """An error with the place of a key."""
        return self.located.error(message, path)

    def judge_quantization(
        self, quant_type: str | None, *, base: bool
    ) -> Mapping[str, object] | None:
        """How a judge's model is opened: as `quant_type` says, else as the base is opened."""
        if quant_type is not None:
            return keywords_of(quant_type)
        return self.where.base_quantization if base else None

    def record(self, name: str) -> str:
        """A record's file; a relative name is looked for beside the suite's file.

        It may lie anywhere: results lie beside suites, and nothing but a record is read there.
        """
        file = self.located.file.parent / Path(name).expanduser()
        try:
            return str(opponents.of_record(file).file)
        except UserError as error:
            raise self.located.error(f"judge: {error}", ("judge",)) from None

    def model(
        self, name: str, path: KeyPath, *, kind: str | None = None, causal: bool = True
    ) -> ModelRef:
        """The model that is named at `path`; a folder may also lie beside the suite's file.

        Without `causal` it may be an encoder.
        """
        from harness.models.packaged import registry, resolve_model

        packaged = registry().get(name)
        if packaged and not self.where.pull_missing and not packaged.folder.is_dir():
            return ModelRef(name, str(packaged.folder), packaged.content)
        mark = self.located.mark(path)
        file, line = (self.located.file, mark) if isinstance(mark, int) else (None, None)
        try:
            return resolve_model(
                name,
                mirror=self.where.mirror,
                report=self.where.report,
                kind=kind,
                causal=causal,
                file=file,
                line=line,
            )
        except ConfigError as error:
            if file is not None:
                raise
            raise ConfigError(str(error), file=mark) from None

    def _check_inside(self, name: str, path: Path, key: str) -> None:
        """A suite may be another's: what its file names lies in its folder.

        What an experiment sets is its user's own word, and may lie anywhere.
        """
        file = self.located.file
        if (
            isinstance(self.located.mark((key,)), str)
            or not (file.parent / expanded(name)).exists()
        ):
            return  # an experiment's, or a data set of a mirror or the Hub
        folders = (file.parent.resolve(), file.resolve().parent)
        if not any(path.resolve().is_relative_to(folder) for folder in folders):
            raise self.located.error(
                f"{key}: '{name}' leads out of the suite's folder {file.parent}: copy it there, "
                f"or let the experiment name it (suites: [{{name: {file.stem}, {key}: ...}}])",
                (key,),
            )


def _check_scorers(suite: Suite, task: AnyTask, located: Located, plugins: Plugins) -> None:
    """Whether the scorers can rate the samples."""
    if suite.scorers:
        (source,) = suite.sources.values()
        scorer_config.check_samples(
            suite.scorers, task.samples(suite), located, plugins=plugins, source=Path(source)
        )


_REPLACES = {"data", "include_path"}
"""With these an experiment puts other rows in the place of the suite's own."""


def _own_content(
    suite: Suite,
    task: AnyTask,
    own: SuiteSettings,
    data: object,
    overrides: Mapping[str, object],
) -> str:
    """Hash of what the suite's author wrote; empty where an experiment replaced its rows."""
    if _REPLACES & set(overrides):
        return ""
    if own.limit != suite.limit:
        data = task.content(replace(suite, settings={**suite.settings, "limit": own.limit}))
    return fingerprint.written_content(suite, task, own, data)


def _check_clusters(suite: Suite, task: AnyTask) -> None:
    """That every row has the column which `cluster:` names, as far as the rows are known."""
    if suite.cluster is None or not task.knows_samples:
        return
    for sample in task.samples(suite):
        columns = {"group": sample.group, **sample.extra}
        cluster(suite.cluster, columns, f"{suite.file}: row '{sample.id}'")
