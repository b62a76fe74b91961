"""A suite: its YAML, its samples, and the hash of everything that its scores depend on."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from harness.config import strict_yaml
from harness.config.strict_yaml import KeyPath, Located, StrictModel
from harness.errors import ConfigError, DataError
from harness.evaluation import fingerprint, scorer_config
from harness.manager import Plugins
from harness.types import ModelRef, Row, Sample

EMBEDDER = "sentence-transformer"
"""The kind of packaged model that embeds texts."""

OWN_KEYS = {
    "data": ("generate", "perplexity", "choice"),
    "scorers": ("generate",),
    "max_new_tokens": ("generate",),
    "embedder": ("generate",),
    "judge": ("generate",),
    "stride": ("perplexity",),
    "prompt": ("choice",),
    "tasks": ("lm-eval",),
    "include_path": ("lm-eval",),
    "limits": ("lm-eval",),
    "num_fewshot": ("lm-eval",),
    "fixed_shots": ("lm-eval",),
    "trust_task_code": ("lm-eval",),
    "apply_chat_template": ("generate", "lm-eval"),
}
"""Keys of a suite that only some ways of asking read."""

Thing = TypeVar("Thing")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class JudgeSettings(StrictModel):
    """Who judges, and by what."""

    name: str
    """A registered judge."""
    model: str = "base"
    """`base` (the untouched base of what is judged), an alias, a folder or a Hub id."""
    rubric: str = Field(min_length=1)
    """What the scores mean."""


class SuiteFile(StrictModel):
    """What a suite's YAML may say."""

    name: Name
    version: int = Field(ge=1)
    """Raise it with every change of content."""
    description: str = ""
    ask: Literal["generate", "perplexity", "choice", "lm-eval"]
    data: str | dict[Name, str] | None = None
    """Rows beside the YAML, or a Hub id; for perplexity also `{source name: rows}`."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many samples (of each source or task)."""
    max_new_tokens: int = Field(64, ge=1, le=1_000_000)
    cluster: str | None = Field(None, min_length=1)
    """A column that says which samples hang together (questions on one passage): intervals then
    come from whole clusters. `group` is each sample's group."""
    stride: int | None = Field(None, ge=1)
    """For `perplexity`: tokens by which the window moves on over a text that is longer than the
    model's context; by default half of the context."""
    scorers: list[str | dict[str, Any]] = Field(default_factory=list)
    """For `generate`: names, or mappings of `name`, an optional `label` and options."""
    embedder: str = "minilm-l6"
    """For scorers that compare embeddings: a packaged alias, a folder or a Hub id."""
    judge: JudgeSettings | None = None
    prompt: str = "Question: {question}\nAnswer:"
    """For `choice`: what each choice is appended to, after a space."""
    tasks: list[str] = Field(default_factory=list)
    """For `lm-eval`: names of tasks, tags or groups."""
    include_path: str | None = None
    """For `lm-eval`: a folder of task files, beside the YAML."""
    limits: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """For `lm-eval`: `limit` for single tasks, or for each task of a group."""
    trust_task_code: bool = False
    """For `lm-eval`: whether the task files in `include_path` may run Python (`!function`)."""
    num_fewshot: int | None = Field(None, ge=0)
    fixed_shots: bool = False
    """For `lm-eval`: the first shots for every question, as MMLU has them; else the task's own
    way, which for most tasks draws others for each question."""
    apply_chat_template: bool | None = None
    """Whether a prompt that is plain text becomes a user's turn. By default yes for `generate`
    where the model has a template, and no for `lm-eval`; `choice` never does."""


@dataclass(frozen=True)
class Suite:
    """A suite as one experiment runs it, with every path and model resolved."""

    name: str
    file: str
    settings: Mapping[str, Any]
    """`SuiteFile` as plain data; its `scorers` as `scorer_config.read` gives them."""
    sources: Mapping[str, str]
    """Source name (empty for the only one) -> file of rows."""
    include_path: str | None
    runs_task_code: bool
    """Whether the task files in `include_path` may run Python: the suite says so, or they came
    with an installed plugin, as the suites of the harness itself."""
    embedder: ModelRef | None
    judge_model: ModelRef | None
    """None where there is no judge, or the base judges."""
    mirror: str | None
    hash: str
    parts: Mapping[str, Any] = field(default_factory=dict)
    """What the hash is of, part by part (`fingerprint.parts`)."""
    picked: tuple[int, ...] | None = None
    """Positions of the samples that are asked, rising, of those that `limit` leaves; None: all."""
    content: str = ""
    """sha256 of the suite's own file and rows, without description, version, an experiment's
    settings, `--limit` and models; empty where an experiment replaced its data."""

    def __getitem__(self, key: str) -> Any:
        return self.settings[key]

    def pick(self, every: Sequence[Thing]) -> list[Thing]:
        """Those that are asked."""
        return list(every) if self.picked is None else [every[i] for i in self.picked]


@dataclass(frozen=True)
class Where:
    """What names in a suite are resolved against."""

    mirror: Path | None = None
    report: Any = None
    limit: int | None = None
    """No suite takes more samples; a smaller limit of its own stands."""
    chat_template: str | None = None
    """The experiment's own template, which changes every rendered prompt."""


def find_suite(name: str, *, plugins: Plugins, folders: Sequence[Path]) -> Path:
    """The YAML of suite `name`: in `folders` (first wins), else a registered one."""
    for folder in folders:
        for file in (folder / f"{name}.yaml", folder / f"{name}.yml"):
            if file.is_file():
                return file
    return Path(plugins.suites.get(name))


def load_suite(
    file: Path,
    overrides: Mapping[str, Any],
    *,
    plugins: Plugins,
    base_model: ModelRef,
    where: Where,
) -> Suite:
    """Read, check and resolve a suite; its data is read too, so that bad rows are found now.

    Raises ConfigError or DataError with file and line, UserError for an unknown scorer or judge.
    """
    located = strict_yaml.load(file)
    settings = _settings(located, overrides)
    own = strict_yaml.validate(SuiteFile, located, context="suite") if overrides else settings
    if where.limit is not None:
        settings = _cut(settings, where.limit)
    if settings.name != file.stem:
        raise located.error(
            f"the suite is called '{settings.name}' but its file {file.name}: make them equal",
            ("name",),
        )
    located = _marked(located, overrides, settings.name)
    _check_ask(located, settings, plugins)
    resolve = functools.partial(_model, where=where, located=located)
    judge = settings.judge
    used = scorer_config.read(
        settings.scorers,
        located,
        plugins=plugins,
        resolve=resolve,
        taken=["score"] if judge else [],
    )
    sources = _sources(located, settings, file, where)
    include = _include(located, settings, file)
    embeds = any(plugins.scorers.get(one["name"]).embeds for one in used)
    embedder = resolve(settings.embedder, ("embedder",), kind=EMBEDDER) if embeds else None
    judged = judge and judge.model != "base"
    judge_model = resolve(judge.model, ("judge", "model")) if judge and judged else None
    plain = settings.model_dump(mode="json") | {"scorers": used}
    suite = Suite(
        name=settings.name,
        file=str(file),
        settings=plain,
        sources=sources,
        include_path=include,
        runs_task_code=settings.trust_task_code or _is_installed(include, plugins),
        embedder=embedder,
        judge_model=judge_model,
        mirror=str(where.mirror) if where.mirror else None,
        hash="",
    )
    if used:
        (source,) = sources.values()
        scorer_config.check_samples(
            used, samples_of(suite), located, plugins=plugins, source=Path(source)
        )
    data = _data_content(suite)
    _check_clusters(suite)
    whole = fingerprint.everything(suite, data, plugins, base_model, where.chat_template)
    return replace(
        suite,
        hash=fingerprint.digest(whole),
        parts=fingerprint.parts(whole),
        content=_own_content(suite, own, data, overrides),
    )


def rows_of(suite: Suite) -> list[tuple[str, Row]]:
    """(source, row) of a perplexity suite, the first `limit` of each source."""
    from harness.data.rows import load_rows

    return suite.pick(
        [
            (source, row)
            for source, file in suite.sources.items()
            for row in load_rows(Path(file))[: suite["limit"]]
        ]
    )


def samples_of(suite: Suite) -> list[Sample]:
    """Samples of a `generate` or `choice` suite, the first `limit` of them."""
    from harness.data.rows import load_samples

    (file,) = suite.sources.values()
    return suite.pick(load_samples(Path(file))[: suite["limit"]])


def has_conversations(suite: Suite) -> bool:
    """Whether asking it needs a chat template."""
    if suite["ask"] == "perplexity":
        return any(row.messages for _, row in rows_of(suite))
    return suite["ask"] == "generate" and any(one.messages for one in samples_of(suite))


def _settings(located: Located, overrides: Mapping[str, Any]) -> SuiteFile:
    settings = strict_yaml.validate(SuiteFile, located, context="suite")
    if not overrides:
        return settings
    fixed = {"name", "ask", "version"} & set(overrides)
    if fixed:
        raise ConfigError(
            f"suite '{settings.name}': '{fixed.pop()}' cannot be set in an experiment; "
            "copy the suite under a new name"
        )
    merged = {**settings.model_dump(exclude_unset=True), **overrides}
    return strict_yaml.validate_options(
        SuiteFile, merged, what=f"the experiment's settings of suite '{settings.name}'"
    )


def _marked(located: Located, overrides: Mapping[str, Any], name: str) -> Located:
    """With errors about keys that an experiment sets told of the experiment, not of a line."""
    own = {at: mark for at, mark in located.marks.items() if not at or at[0] not in overrides}
    said = f"the experiment's settings of suite '{name}'"
    return replace(located, marks=own | {(key,): said for key in overrides})


def _cut(settings: SuiteFile, limit: int) -> SuiteFile:
    """With no more samples than `limit`."""
    update: dict[str, Any] = {"limit": min(limit, settings.limit or limit)}
    if settings.limits:  # a copy counts what is updated as set
        update["limits"] = {task: min(limit, own) for task, own in settings.limits.items()}
    return settings.model_copy(update=update)


def _check_ask(located: Located, settings: SuiteFile, plugins: Plugins) -> None:
    """What each way of asking needs."""
    ask = settings.ask
    if ask == "lm-eval" and not settings.tasks:
        raise located.error("ask: lm-eval needs `tasks:`, a list of lm-eval's task names", ("ask",))
    if ask != "lm-eval" and settings.data is None:
        raise located.error(f"ask: {ask} needs `data:`, a file of rows", ("ask",))
    if ask != "perplexity" and isinstance(settings.data, dict):
        raise located.error("several sources of data are for ask: perplexity only", ("data",))
    if ask == "generate" and not (settings.scorers or settings.judge):
        raise located.error("ask: generate needs `scorers:` or a `judge:`", ("ask",))
    if ask == "choice" and "{question}" not in settings.prompt:
        raise located.error("prompt: has no {question}, where each row's goes", ("prompt",))
    for key, takers in OWN_KEYS.items():
        if key in settings.model_fields_set and ask not in takers:
            told = f"ask: {ask} takes no `{key}`, which is for {' and '.join(takers)}"
            raise located.error(told, (key,))
    if settings.judge:
        plugins.judges.get(settings.judge.name)


def _sources(located: Located, settings: SuiteFile, file: Path, where: Where) -> dict[str, str]:
    from harness.data.sources import resolve

    data = settings.data
    named = {"": data} if isinstance(data, str) else data or {}
    found = {
        source: resolve(name, base=file.parent, bundled={}, mirror=where.mirror, split="test")
        for source, name in named.items()
    }
    for source, name in named.items():
        _check_inside(located, name, found[source], file, ("data",))
    return {source: str(path) for source, path in found.items()}


def _check_inside(located: Located, name: str, path: Path, file: Path, key: KeyPath) -> None:
    """A suite may be another's: a relative name leads to nothing outside its folder."""
    if Path(name).expanduser().is_absolute() or not (file.parent / name).exists():
        return  # the user's own words, or a data set of a mirror or the Hub
    folders = (file.parent.resolve(), file.resolve().parent)
    if not any(path.resolve().is_relative_to(folder) for folder in folders):
        raise located.error(
            f"{key[0]}: '{name}' leads out of the suite's folder {file.parent}: copy it there, or "
            "write its absolute path",
            key,
        )


def _include(located: Located, settings: SuiteFile, file: Path) -> str | None:
    if settings.include_path is None:
        return None
    folder = file.parent / settings.include_path
    if not folder.is_dir():
        raise located.error(f"include_path {folder} is no folder", ("include_path",))
    _check_inside(located, settings.include_path, folder, file, ("include_path",))
    return str(folder)


def _is_installed(folder: str | None, plugins: Plugins) -> bool:
    """Whether a folder is of a registered suite."""
    if folder is None:
        return False
    homes = {Path(file).resolve().parent for file in plugins.suites.things.values()}
    place = Path(folder).resolve()
    return bool(homes & {place, *place.parents})


def _model(
    name: str, path: KeyPath, *, where: Where, located: Located, kind: str | None = None
) -> ModelRef:
    """The model that is named at `path`; folders are looked for beside the suite's file too."""
    from harness.models.packaged import resolve_model

    mark = located.mark(path)
    find = functools.partial(
        resolve_model, name, mirror=where.mirror, report=where.report, kind=kind
    )
    if isinstance(mark, int):
        return find(file=located.file, line=mark)
    try:
        return find()
    except ConfigError as error:
        raise ConfigError(str(error), file=mark) from None


_REPLACES = {"data", "include_path"}
"""With these an experiment puts other rows in the place of the suite's own."""


def _own_content(suite: Suite, own: SuiteFile, data: Any, overrides: Mapping[str, Any]) -> str:
    """Hash of what the suite's author wrote; empty where an experiment replaced its rows."""
    if _REPLACES & set(overrides):
        return ""
    if own.limit != suite["limit"]:
        data = _data_content(replace(suite, settings={**suite.settings, "limit": own.limit}))
    return fingerprint.written(suite, own, data)


def _data_content(suite: Suite) -> Any:
    if suite["ask"] == "perplexity":
        rows = [(source, _plain(row)) for source, row in rows_of(suite)]
        _reject_double([f"{source}/{row['id']}" for source, row in rows], suite)
        return rows
    if suite["ask"] == "lm-eval":
        return None
    samples = samples_of(suite)
    if suite["ask"] == "choice":
        for sample in samples:
            if sample.choices is None or sample.answer is None:
                raise DataError(f"sample {sample.id} has no choices and answer", file=suite.file)
    return [_plain(sample) for sample in samples]


def _check_clusters(suite: Suite) -> None:
    """That every row has the column which `cluster:` names; lm-eval's are known only later."""
    from harness.evaluation.tasks.protocol import cluster

    if suite["cluster"] is None or suite["ask"] == "lm-eval":
        return
    if suite["ask"] == "perplexity":
        found = [(row.id, {"group": source, **row.extra}) for source, row in rows_of(suite)]
    else:
        found = [(one.id, {"group": one.group, **one.extra}) for one in samples_of(suite)]
    for key, columns in found:
        cluster(suite["cluster"], columns, f"{suite.file}: row '{key}'")


def _reject_double(ids: Sequence[str], suite: Suite) -> None:
    seen: set[str] = set()
    for key in ids:
        if key in seen:
            raise DataError(f"two rows have the id '{key}'", file=suite.file)
        seen.add(key)


def _plain(row: Row | Sample) -> dict[str, Any]:
    return {key: value for key, value in vars(row).items() if key != "line"}
