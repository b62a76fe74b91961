"""What a way of asking is made of: a Task, the suites that it runs, and what it asks a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import Field

from harness.api.model import Generation, LogLikelihood, Model, Request
from harness.api.tools import Tools
from harness.config.reasoning import Reasoning
from harness.config.strict_yaml import KeyPath, Located, StrictModel
from harness.errors import ConfigError
from harness.types import Message, ModelRef, Sample, SuiteResult, ToolDefinitions

if TYPE_CHECKING:
    from harness.api.judge import Judge

Item = TypeVar("Item")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
TokenIds = Sequence[int]


class SuiteSettings(StrictModel):
    """The keys of every suite's YAML. A task subclasses it and adds its own."""

    name: Name
    """What experiments and figures call it; that of its file."""
    version: int = Field(ge=1)
    """Raise it with every change of content."""
    description: str = ""
    """A sentence for whoever lists the suites."""
    ask: str
    """A registered task."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many samples (of each source or task)."""
    cluster: str | None = Field(None, min_length=1)
    """A column that says which samples hang together (questions on one passage): intervals then
    come from whole clusters. `group` is each sample's group."""

    def capped(self, limit: int) -> SuiteSettings:
        """These settings with no more samples than `limit`."""
        return self.model_copy(update={"limit": min(limit, self.limit or limit)})

    def with_reasoning(self, default: Reasoning) -> SuiteSettings:
        """These settings with an experiment's `reasoning`, where they take it and have none."""
        return self

    @classmethod
    def own_keys(cls) -> set[str]:
        """The keys that not every suite has."""
        return set(cls.model_fields) - set(SuiteSettings.model_fields)


Keys = TypeVar("Keys", bound=SuiteSettings)


@dataclass(frozen=True)
class ScorerUse:
    """One entry of a suite's `scorers:`, checked and complete."""

    name: str
    label: str
    """Name of its metric."""
    options: Mapping[str, object]
    """Plain data; a model is the fields of its ModelRef."""


@dataclass(frozen=True, kw_only=True)
class JudgeSeat:
    """One judge of a panel, resolved: what `Resources` has of a judge that stands alone."""

    label: str
    """What it is called in the record; no two of a panel are called alike."""
    judge: str
    judge_options: Mapping[str, object]
    judge_model: ModelRef | None = None
    judge_quantization: Mapping[str, object] | None = None
    judge_endpoint: Mapping[str, object] | None = None


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a suite's settings name, resolved."""

    sources: Mapping[str, str] = field(default_factory=dict)
    """Source name (empty for the only one) -> file of rows."""
    folder: str | None = None
    """A folder of the suite's own files that its scores depend on."""
    trusted: bool = False
    """Whether Python files in `folder` may run."""
    scorers: tuple[ScorerUse, ...] = ()
    embedder: ModelRef | None = None
    judge: str | None = None
    """A registered judge."""
    judge_options: Mapping[str, object] = field(default_factory=dict)
    """Its `Options`, complete, as plain data."""
    judge_model: ModelRef | None = None
    """None where there is no judge, or the base judges."""
    judge_quantization: Mapping[str, object] | None = None
    """Keywords of BitsAndBytesConfig that the judge's model is opened with; None: as it is."""
    judge_endpoint: Mapping[str, object] | None = None
    """Settings of the endpoint whose model judges; None: one in this process does."""
    judge_panel: tuple[JudgeSeat, ...] = ()
    """Several judges in the place of one."""
    judge_labels: str | None = None
    """File of people's labels of answers, which correct the judge's figure."""
    judge_row: str | None = None
    """Label of the row whose answers the judge compares with; None: of no row of the experiment."""
    judge_record: str | None = None
    """File of the record of such a row, of an earlier run."""
    judge_certificate_file: str | None = None
    """The judge's certificate, by its path from the suite's file; None: the cache may hold one."""
    base_quantization: Mapping[str, object] | None = None
    """The same of the base, where the judge compares with its answers."""


@dataclass(frozen=True, kw_only=True)
class Suite(Resources):
    """A suite as one experiment runs it, with every path and model resolved."""

    name: str
    file: str
    settings: Mapping[str, object]
    """Its task's `Settings` as plain data."""
    mirror: str | None = None
    hash: str = ""
    uncorrected_hash: str = ""
    """The hash without what corrects a judge's verdicts; empty where nothing does."""
    parts: Mapping[str, object] = field(default_factory=dict)
    """What the hash is of, part by part."""
    picked: tuple[int, ...] | None = None
    """Positions of the samples that are asked, rising, of those that `limit` leaves; None: all."""
    content: str = ""
    """sha256 of the suite's own file and rows, without description, version, an experiment's
    settings, `--limit` and models; empty where an experiment replaced its data."""
    judge_certificate: Mapping[str, object] | None = None
    """What the judge's certificate says: `sha256` of it, the file of its `labels`, and the judge's
    `errors`, which correct the figure. None where it has none."""

    @property
    def rows_hash(self) -> str:
        """Hash of what the sample rows depend on."""
        return self.uncorrected_hash or self.hash

    @property
    def ask(self) -> str:
        """Name of its task."""
        return str(self.settings["ask"])

    @property
    def version(self) -> int:
        """As its file states it."""
        version = self.settings["version"]
        assert isinstance(version, int)
        return version

    @property
    def limit(self) -> int | None:
        """The most samples of each source or task; None: all."""
        limit = self.settings["limit"]
        assert limit is None or isinstance(limit, int)
        return limit

    @property
    def cluster(self) -> str | None:
        """The column of the rows that hang together."""
        column = self.settings["cluster"]
        return None if column is None else str(column)

    @property
    def by_letters(self) -> bool:
        """Whether choices are asked by their letters, of a served model: a letter has no length."""
        return "letters" in str(self.parts.get("asked"))

    def pick(self, every: Sequence[Item]) -> list[Item]:
        """Those that are asked."""
        return list(every) if self.picked is None else [every[i] for i in self.picked]


class Resolver(Protocol):
    """Resolves what a suite's file names. Its errors carry the file and the line of the key."""

    def rows(self, data: str | Mapping[str, str]) -> dict[str, str]:
        """Files of rows: beside the suite, in the mirror or on the Hub."""

    def folder(self, name: str, key: str) -> tuple[str, bool]:
        """A folder beside the suite's file, and whether it came with an installed plugin."""

    def scorers(
        self, entries: Sequence[str | Mapping[str, object]], reserved: Sequence[str] = ()
    ) -> tuple[ScorerUse, ...]:
        """Checked entries of `scorers:`; `reserved` are metrics that are not the scorers'."""

    def embedder(self, scorers: Sequence[ScorerUse], name: str) -> ModelRef | None:
        """The model at the key `embedder`, where one of the scorers embeds."""

    def judge(self, name: str) -> str:
        """The name of a registered judge."""

    def judge_with_options(
        self,
        name: str,
        written: Mapping[str, object],
        also: Sequence[str] = (),
        path: KeyPath = ("judge",),
    ) -> Judge:
        """A registered judge with its own keys at `path`, checked; `also` stand beside them."""

    def error(self, message: str, path: KeyPath) -> ConfigError:
        """An error with the place of a key."""

    def judge_quantization(
        self, quant_type: str | None, *, base: bool
    ) -> Mapping[str, object] | None:
        """Keywords of BitsAndBytesConfig for a judge; without a type, those of a judging base."""

    def record(self, name: str) -> str:
        """The file of the record that a judge compares with, checked."""

    def model(self, name: str, path: KeyPath) -> ModelRef:
        """The model that is named at `path`: a packaged alias, a folder or a Hub id."""


@dataclass(frozen=True)
class Conversation:
    """Messages that a suite has a chat template write, and where they stand."""

    file: str
    line: int | None
    messages: Sequence[Message]
    answered: bool
    """Whether the assistant's turns count; else the messages are a prompt."""
    needs_template: bool = True
    """False for a plain prompt, which can be asked without a template as well."""
    tools: ToolDefinitions = None
    """The functions that the conversation offers."""


@dataclass
class Requests:
    """What one suite asks of a model; its answers are filled in before `Task.score`."""

    prompts: Sequence[TokenIds] = ()
    """Token ids to be continued."""
    max_new_tokens: int = 0
    pairs: Sequence[Request] = ()
    """(context, continuation) token ids to be scored."""
    state: Any = None
    """What the task keeps between `requests` and `score`."""
    generated: Sequence[Generation] = ()
    """One per prompt."""
    scores: Sequence[LogLikelihood] = ()
    """One per pair."""


@dataclass(frozen=True)
class SuiteExample:
    """What `harness suites new` writes for a task."""

    settings: str
    """Lines of YAML from `ask:` on; those that every suite has stand before them."""
    files: Mapping[str, str]
    """Path beside the YAML -> text."""


class TaskTools(Tools, Protocol):
    """What the worker lends to a task: what scorers and judges get, and the model."""

    model: Model
    """The model under test; a judge's may take its place."""

    def decode(self, ids: TokenIds) -> str:
        """Text of an answer; works after the model has made room for the judge."""

    def judge_identity(self) -> dict[str, Any]:
        """Who judges: `model`, `content_hash` (None behind an endpoint) and `self_judged`."""

    def cut_by_embedder(self, texts: Sequence[str]) -> tuple[int, int | None]:
        """How many of the texts are longer than the suite's embedder reads, and its most tokens.

        (0, None) where it states no length.
        """


Need = Literal["answers", "choices", "texts"]
"""What a suite asks of a model: generated answers, which of a question's choices is likeliest, or
log-probabilities of whole texts."""


class Task(Generic[Keys]):
    """A way in which a suite asks a model. Subclass it, set `name` and `Settings`.

    `name` is what a suite's `ask:` says. Methods up to `example` are called in the parent process,
    which imports no torch; those from `requests` on in the worker.
    """

    name: ClassVar[str]
    Settings: type[Keys] = SuiteSettings  # type: ignore[assignment]
    """The suite's YAML."""
    unscored: ClassVar[frozenset[str]] = frozenset()
    """Own keys on which no score depends: they are no part of the suite's hash."""
    knows_samples: ClassVar[bool] = True
    """False where only the rows of a run tell the questions, so that `samples` gives none."""

    def settings(self, suite: Suite) -> Keys:
        """The suite's settings, typed."""
        return self.Settings.model_validate(suite.settings)

    def check(self, settings: Keys, located: Located) -> None:
        """Raise `located.error(message, (key,))` for settings that do not go together."""

    def resolve(self, settings: Keys, resolver: Resolver) -> Resources:
        """What the settings name, resolved. Raises ConfigError or DataError with its place."""
        return Resources()

    def content(self, suite: Suite) -> object:
        """The suite's rows as JSON can write them, for its hash; bad rows raise DataError."""
        return None

    def dependencies(self, suite: Suite) -> Mapping[str, object]:
        """What else the scores depend on, for the suite's hash: versions of libraries ..."""
        return {}

    def corrections(self, suite: Suite) -> Mapping[str, object]:
        """What corrects figures and changes no row, for the suite's hash: labels of answers ..."""
        return {}

    def samples(self, suite: Suite) -> list[Sample]:
        """Every question, to be searched in the training rows and checked for its cluster."""
        return []

    def count(self, suite: Suite) -> int:
        """How many samples are asked."""
        return len(self.samples(suite))

    def conversations(self, suite: Suite) -> Iterator[Conversation]:
        """What a chat template is to write."""
        yield from ()

    def applies_template(self, suite: Suite) -> bool:
        """Whether a prompt passes through a chat template."""
        return any(True for _ in self.conversations(suite))

    def needs(self, suite: Suite) -> frozenset[Need]:
        """What the suite asks of a model, as far as it is known before the run.

        A model behind a server gives answers; the choices of a question it is asked by their
        letters, and log-probabilities of texts few servers give.
        """
        return frozenset()

    def check_context(self, suite: Suite, model: ModelRef) -> None:
        """Raise UserError where answers leave no room for a question in the model's context."""

    def check_loading(self, suites: Sequence[Suite]) -> None:
        """Raise UserError for suites that need more than their files and cannot have it.

        Called once, with all suites of this task, before a cell runs.
        """

    def metrics(self, suite: Suite) -> list[str] | None:
        """Names of the metrics that will come out; None where only the run can tell."""
        return None

    def example(self, name: str) -> SuiteExample:
        """A suite called `name` that works as it is, with three rows."""
        raise NotImplementedError

    def data_hash(self, suite: Suite) -> str | None:
        """Hash of data that the suite's own hash does not hold; None where that holds all.

        Called in the worker, before `requests`.
        """
        return None

    def requests(self, suite: Suite, model: Model) -> Requests:
        """What the model is asked: prompts to continue, pairs to score, or nothing."""
        raise NotImplementedError

    def score(self, suite: Suite, requests: Requests, tools: TaskTools) -> SuiteResult:
        """A row per sample, and the metrics that sum them up."""
        raise NotImplementedError

    def correct(self, suite: Suite, result: SuiteResult) -> SuiteResult:
        """A result of the same rows under other `corrections`, with the suite's own."""
        return result

    def rescore(
        self, suite: Suite, rows: Sequence[Mapping[str, Any]], tools: Tools, *, models: bool
    ) -> SuiteResult | None:
        """What follows from recorded rows without the model under test, for who doubts them.

        A row for each of `rows` whose sample the suite has, with its `id`, what the suite knows of
        it (`prompt`, `reference`, `group`) and the `scores` that follow from the answer; and the
        metrics of the suite. What only the model or a judge can tell is left out, and with `models`
        False what a scorer needs a model for. None: nothing follows. `rows` may hold anything.
        """
        return None
