"""A suite: its YAML, its samples, and the hash of everything that its scores depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from harness import yamlfile
from harness.errors import ConfigError, DataError, UserError
from harness.manager import Plugins
from harness.types import ModelRef, Row, Sample
from harness.yamlfile import Located, StrictModel

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
    max_new_tokens: int = Field(64, ge=1)
    scorers: list[str] = Field(default_factory=list)
    embedder: str = "minilm-l6"
    """For scorers that compare embeddings: a packaged alias, a folder or a Hub id."""
    judge: JudgeSettings | None = None
    prompt: str = "Question: {question}\nAnswer:"
    """For `choice`: what each choice is appended to, after a space."""
    tasks: list[str] = Field(default_factory=list)
    """For `lm-eval`: names of tasks, tags or groups."""
    include_path: str | None = None
    """For `lm-eval`: a folder of task files, beside the YAML."""
    num_fewshot: int | None = Field(None, ge=0)
    apply_chat_template: bool | None = None
    """Whether a prompt that is plain text becomes a user's turn. By default yes for `generate`
    where the model has a template, and no for `lm-eval`; `choice` never does."""


@dataclass(frozen=True)
class Suite:
    """A suite as one experiment runs it, with every path and model resolved."""

    name: str
    file: str
    settings: Mapping[str, Any]
    """`SuiteFile` as plain data."""
    sources: Mapping[str, str]
    """Source name (empty for the only one) -> file of rows."""
    include_path: str | None
    embedder: ModelRef | None
    judge_model: ModelRef | None
    """None where there is no judge, or the base judges."""
    mirror: str | None
    hash: str

    def __getitem__(self, key: str) -> Any:
        return self.settings[key]


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
    located = yamlfile.load(file)
    settings = _settings(located, overrides)
    if where.limit is not None:
        limit = min(where.limit, settings.limit or where.limit)
        settings = settings.model_copy(update={"limit": limit})
    if settings.name != file.stem:
        raise located.error(
            f"the suite is called '{settings.name}' but its file {file.name}: make them equal",
            ("name",),
        )
    _check_ask(located, settings, plugins)
    sources = _sources(located, settings, file, where)
    include = _include(located, settings, file)
    embeds = any(plugins.scorers.get(name).embeds for name in settings.scorers)
    embedder = _model(settings.embedder, where) if embeds else None
    judge = settings.judge
    judge_model = _model(judge.model, where) if judge and judge.model != "base" else None
    plain = settings.model_dump(mode="json")
    suite = Suite(
        name=settings.name,
        file=str(file),
        settings=plain,
        sources=sources,
        include_path=include,
        embedder=embedder,
        judge_model=judge_model,
        mirror=str(where.mirror) if where.mirror else None,
        hash="",
    )
    content = _content(suite, plugins, base_model) | {"chat_template": where.chat_template}
    return Suite(**{**vars(suite), "hash": _digest(content)})


def rows_of(suite: Suite) -> list[tuple[str, Row]]:
    """(source, row) of a perplexity suite, the first `limit` of each source."""
    from harness.data import load_rows

    return [
        (source, row)
        for source, file in suite.sources.items()
        for row in load_rows(Path(file))[: suite["limit"]]
    ]


def samples_of(suite: Suite) -> list[Sample]:
    """Samples of a `generate` or `choice` suite, the first `limit` of them."""
    from harness.data import load_samples

    (file,) = suite.sources.values()
    return load_samples(Path(file))[: suite["limit"]]


def _settings(located: Located, overrides: Mapping[str, Any]) -> SuiteFile:
    settings = yamlfile.validate(SuiteFile, located, context="suite")
    if not overrides:
        return settings
    fixed = {"name", "ask", "version"} & set(overrides)
    if fixed:
        raise ConfigError(
            f"suite '{settings.name}': '{fixed.pop()}' cannot be set in an experiment; "
            "copy the suite under a new name"
        )
    merged = {**settings.model_dump(exclude_unset=True), **overrides}
    return yamlfile.validate_options(
        SuiteFile, merged, what=f"the experiment's settings of suite '{settings.name}'"
    )


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
    for name in settings.scorers:
        plugins.scorers.get(name)
    if settings.judge:
        plugins.judges.get(settings.judge.name)


def _sources(located: Located, settings: SuiteFile, file: Path, where: Where) -> dict[str, str]:
    from harness.data import resolve

    data = settings.data
    named = {"": data} if isinstance(data, str) else data or {}
    return {
        source: str(resolve(name, base=file.parent, bundled={}, mirror=where.mirror, split="test"))
        for source, name in named.items()
    }


def _include(located: Located, settings: SuiteFile, file: Path) -> str | None:
    if settings.include_path is None:
        return None
    folder = file.parent / settings.include_path
    if not folder.is_dir():
        raise located.error(f"include_path {folder} is no folder", ("include_path",))
    return str(folder)


def _model(name: str, where: Where) -> ModelRef:
    from harness.packaged import resolve_model

    return resolve_model(name, mirror=where.mirror, report=where.report)


def _content(suite: Suite, plugins: Plugins, base: ModelRef) -> dict[str, Any]:
    """Everything that a score of the suite depends on, but for the model that is scored."""
    settings = {k: v for k, v in suite.settings.items() if k != "description"}
    content: dict[str, Any] = {"settings": settings, "data": _data_content(suite)}
    content["scorers"] = {n: plugins.scorers.get(n).version for n in suite["scorers"]}
    if suite.embedder:
        content["embedder"] = suite.embedder.content_hash or suite.embedder.path
    if suite["judge"]:
        judge = suite.judge_model or base
        content["judge"] = [
            plugins.judges.get(suite["judge"]["name"]).version,
            judge.content_hash or f"{judge.path}@{judge.revision}",
        ]
    if suite["ask"] == "lm-eval":
        from importlib.metadata import version

        content["lm_eval"] = version("lm_eval")
        content["tasks"] = _folder_digest(Path(suite.include_path)) if suite.include_path else None
        content["mirror"] = bool(suite.mirror)
    return content


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
    return [vars(sample) for sample in samples]


def _reject_double(ids: Sequence[str], suite: Suite) -> None:
    seen: set[str] = set()
    for key in ids:
        if key in seen:
            raise DataError(f"two rows have the id '{key}'", file=suite.file)
        seen.add(key)


def _plain(row: Row) -> dict[str, Any]:
    return {key: value for key, value in vars(row).items() if key != "line"}


def _folder_digest(folder: Path) -> str:
    files = sorted(f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
    return _digest([(str(f.relative_to(folder)), _file_digest(f)) for f in files])


def _file_digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=_jsonable)
    return hashlib.sha256(text.encode()).hexdigest()


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return list(value)
    raise UserError(f"a suite's row holds a {type(value).__name__}, which JSON cannot write")
