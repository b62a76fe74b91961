"""The layout of a record, `<out>/cells/<id>.json`: the types that its JSON Schema is made from.

Records are plain JSON objects wherever they go: they are hashed, sealed and written as they are,
and a sealed one is read without being checked again. So these types are TypedDicts, which mypy
checks and which cost nothing at run time. `harness.results.schema` generates the schema from them,
with the docstrings as descriptions. Where a type is `Any`, a plugin puts what it likes there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from typing_extensions import NotRequired, TypedDict  # pydantic reads no other before Python 3.12

VERSION: Literal[1] = 1
"""Of the record's layout."""

Status = Literal["ok", "oom", "error", "diverged"]
EstimatorKind = Literal[
    "mean", "share", "ratio", "exp_ratio", "retained", "corpus_bleu", "corpus_chrf"
]

_Section = TypeVar("_Section", bound=type)


@dataclass(frozen=True, eq=False)  # hashed as what stands in Annotated is
class Keywords:
    """JSON Schema keywords for what Python's types cannot say."""

    keywords: Mapping[str, Any]

    def __get_pydantic_json_schema__(
        self, core_schema: Any, handler: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        return {**handler(core_schema), **self.keywords}


def section(cls: _Section) -> _Section:
    """Has pydantic take the docstrings of a section's fields as their descriptions."""
    cls.__pydantic_config__ = {"use_attribute_docstrings": True}  # type: ignore[attr-defined]
    return cls


FILE_NAME = {"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"}
AT_LEAST_0 = Keywords({"minimum": 0})
AT_LEAST_1 = Keywords({"minimum": 1})

FileName = Annotated[str, Keywords(FILE_NAME)]
Sha256 = Annotated[str, Keywords({"pattern": "^[0-9a-f]{64}$"})]
Natural = Annotated[int, AT_LEAST_0]
Count = Annotated[int, AT_LEAST_0] | None


# plan


@section
class PlannedModel(TypedDict):
    """The model, by its name and contents."""

    name: str
    """As the experiment names it: an alias, a Hub id or a folder."""
    path: NotRequired[str | None]
    """The Hub id; null for a folder, whose place is the machine's own business."""
    content_hash: NotRequired[str | None]
    """sha256 over weights, configuration and tokenizer; null for a Hub id."""
    revision: NotRequired[str | None]
    """Of the Hub; null for a folder."""
    trust_remote_code: NotRequired[bool]
    """Whether the model's own Python code ran."""


@section
class Trial(TypedDict):
    """One trial of a search."""

    number: int
    """From 0, in the order of the search."""
    options: dict[str, Any]
    """The searched ones."""
    cell: NotRequired[FileName]
    """Id of the trial's cell, in the folder of the study."""
    status: Status
    """How it ended."""
    validation_loss: float | None
    """Mean nats over all counted tokens of the validation rows."""
    peak_memory_bytes: Count
    """The highest of its phases."""
    seconds: float | None
    """Of all phases; 0 where an earlier trial had the same options."""
    error: NotRequired[str | None]
    """Why it gave no loss."""
    same_as: NotRequired[int]
    """The earlier trial whose figures these are."""


@section
class Tuning(TypedDict):
    """The search for the options.

    Every method gets the same number of trials of the same steps, judged on the validation rows.
    """

    space: dict[str, Any]
    """Option -> low, high and log, or choices."""
    number_of_trials: NotRequired[int]
    """Those that every method gets."""
    extend: NotRequired[int]
    """Most trials that could follow where the best value had none beyond it; the same for all."""
    extended: NotRequired[int]
    """How many did: the last of `trials`."""
    steps: int
    """Of each trial."""
    seed: int
    """Of the search and of every trial."""
    objectives: list[Literal["validation_loss", "peak_memory"]]
    """What was minimised."""
    study: NotRequired[str]
    """The trials' folder, relative to the results folder."""
    trials: list[Trial]
    """In the order of the search."""
    chosen: int | None
    """Number of the trial whose options these are; null where none gave a loss."""
    validation_loss: NotRequired[float | None]
    """Of the chosen trial."""
    at_edge: NotRequired[dict[str, Literal["highest", "lowest"]] | None]
    """Option -> where the chosen trial lies among the values tried, if nothing lies beyond it."""
    front: NotRequired[list[int]]
    """With several objectives: trials that no other beats in one without losing in another."""
    seconds: float | None
    """All trials together; in no cell's train phase."""


@section
class Plan(TypedDict):
    """What was to be done: contents by their hashes, no folder of the machine."""

    experiment: NotRequired[str | None]
    """The experiment's name."""
    model: PlannedModel
    method: str
    """The registered name of the method."""
    label: NotRequired[str]
    """The method's own name where absent."""
    options: dict[str, Any]
    """All of them, those left at their defaults too."""
    data: NotRequired[dict[str, Any] | None]
    """The training data by its hash, and how its rows are read; null where nothing is trained."""
    budget: NotRequired[dict[str, Any] | None]
    """What every method of the experiment gets; null where nothing is trained."""
    seed: int | None
    """Of the order of the rows, dropout and what begins at random; 0 where nothing is trained."""
    suites: NotRequired[list[str]]
    """Names of the suites."""
    training_id: NotRequired[str]
    """Hash of what the training depends on."""
    tuning: NotRequired[Tuning | None]
    """The search for the options; null where they were set."""
    price_per_hour: NotRequired[Annotated[float, AT_LEAST_0] | None]
    """Of the machine, in dollars."""


# training


@section
class Phase(TypedDict):
    """What a phase cost."""

    seconds: float | None
    """By the clock on the wall."""
    peak_allocated_bytes: NotRequired[Count]
    """Of the CUDA allocator; null without a GPU."""
    peak_reserved_bytes: NotRequired[Count]
    """Of the CUDA allocator; null without a GPU."""
    peak_host_bytes: NotRequired[Count]
    """Resident memory of the process."""
    peak_process_bytes: NotRequired[Count]
    """Of the process on the GPU, as its driver counts: what torch reserved and all beside it.
    Sampled; absent without nvidia-ml-py."""
    paged_bytes: NotRequired[Count]
    """State of a paged optimizer, which torch's allocator does not count and the driver moves
    between the GPU and the host; absent where there is none."""
    context_bytes: NotRequired[Count]
    """The rest of the process's memory on the GPU at the end: CUDA's context and kernels, and
    libraries' workspaces; absent without nvidia-ml-py."""
    joules: NotRequired[float | None]
    """Energy of the whole GPU; absent without nvidia-ml-py, or where the GPU has no counter."""


@section
class Attempt(TypedDict):
    """A training that ran out of memory."""

    micro_batch: Annotated[int, AT_LEAST_1]
    """Rows per forward pass."""
    gradient_checkpointing: bool
    """Whether activations were recomputed."""
    phase: str | None
    """In which it ran out."""
    error: str
    """The message of the allocator."""
    seconds: float | None
    """Until it broke."""
    peak_allocated_bytes: NotRequired[Count]
    """Of the CUDA allocator; null without a GPU."""
    peak_reserved_bytes: NotRequired[Count]
    """Of the CUDA allocator; null without a GPU."""
    peak_host_bytes: NotRequired[Count]
    """Resident memory of the process."""


@section
class HealthFinding(TypedDict):
    """A health check that spoke; `warnings` has it too, as `health.NAME: MESSAGE`."""

    name: str
    """Of the check."""
    message: str
    """What is wrong, and what to do about it."""
    step: Count
    """In which it was seen; null where it is of no step."""


@section
class ResumedTraining(TypedDict):
    """A training that was stopped or killed and taken up again."""

    times: Annotated[int, AT_LEAST_1]
    """How often it was taken up."""
    from_steps: list[int]
    """The step of the checkpoint that it went on from, each time; 0 where there was none."""
    lost_seconds: float
    """Of steps that ran again and of loading again, which the phases leave out."""


@section
class Training(TypedDict, total=False):
    """What the training measured; a method may add figures under names of its own."""

    phases: dict[str, Phase]
    """Seconds and peak memory of load, prepare, train, save ...; `train` holds nothing but
    steps."""
    trainable_parameters: Count
    """Numbers that the optimizer changed."""
    total_parameters: Count
    """Of the model with what was added to it."""
    artifact_bytes: Count
    """Of the files that were saved."""
    tokens: Count
    """That passed through the model, without padding."""
    supervised_tokens: Count
    """Tokens under the loss."""
    tokens_per_second: float | None
    """Without the first step, which warms up."""
    step_seconds: list[float]
    """Of each step, where the training broke before its end."""
    seconds_per_step: float | None
    """Without the first step, which warms up."""
    loss_curve: list[Any] | None
    """A mapping per step, or per interval: step, loss, learning rate ..."""
    micro_batch: Count
    """Rows per forward pass, as it ran."""
    gradient_checkpointing: bool
    """As it ran."""
    skipped_steps: Count
    """In fp16: steps that changed no weight, as their scaled gradients overflowed."""
    loss_scale: float
    """In fp16: the factor of the loss in the last step."""
    best_checkpoint: Count
    """Step of the checkpoint that was kept; null where it is the last."""
    mix: Any
    """General rows blended in: draws, rows (distinct ones) and those left out."""
    validation: Any
    """Of a trial: its loss on the validation rows."""
    reopened_difference: float | None
    """Largest difference of a row's score to the artifact reopened, in nats per token."""
    ladder: list[Attempt]
    """Attempts that ran out of memory, the first first; absent where none did. Their seconds are
    the phase oom_retries."""
    health: list[HealthFinding]
    """Health checks that spoke; empty where none did."""
    resumed: ResumedTraining
    """How often it was interrupted; absent where it never was. All other figures are those of the
    training as if it had not been, but the peaks, which are the largest of all its parts."""


# evaluation


@section
class MeanVerdict(TypedDict):
    """Of a judge on answers that people labelled alike; the interval is of 95 %."""

    value: float
    """The mean."""
    stderr: float | None
    """Its standard error; null where too few answers are labelled."""
    ci_low: float | None
    """Lower end of the interval."""
    ci_high: float | None
    """Upper end of the interval."""
    n: Natural
    """Labelled answers."""


@section
class LengthBias(TypedDict):
    """What longer answers that are no better do to a judge's verdicts."""

    delta: float
    """Of the mean verdict: padded answers minus the same as they were."""
    ci_low: float | None
    """Lower end of the interval of 95 %."""
    ci_high: float | None
    """Upper end of the interval of 95 %."""
    padding: float
    """How many times as long the padded answers are."""


@section
class JudgeErrors(TypedDict):
    """What a judge's certificate says of its errors: what corrects the figure."""

    level: Literal["trusted", "weak", "failed"]
    """How far its certificate says that it can be believed."""
    reason: str
    """Why the level is not higher; empty for `trusted`."""
    threshold: NotRequired[float]
    """A score at least as high is a pass, 1, and any other is 0; absent where scores are taken as
    they are."""
    binary: bool
    """Whether verdicts are 0 or 1."""
    good: MeanVerdict | None
    """On answers that people found good: the sensitivity, where verdicts are 0 or 1."""
    bad: MeanVerdict | None
    """On answers that people found bad: 1 - specificity, where verdicts are 0 or 1."""
    length: NotRequired[LengthBias | None]
    """What longer answers do to it; null or absent where it was not measured."""


@section
class Estimator(TypedDict):
    """How a figure is computed from the scores of the samples."""

    kind: EstimatorKind
    """The formula."""
    score: str
    """Key in a sample row's `scores`; of corpus_bleu and corpus_chrf, in its `statistics`."""
    per: str | None
    """Key of the denominator for the ratio kinds."""
    where: str | dict[str, str] | None
    """The group of the samples, or their fields."""
    bounds: NotRequired[list[float | None]]
    """The least and the greatest that the figure can be, null for none; absent where the metric
    states none. A share's are 0 and 1."""
    judge: NotRequired[JudgeErrors]
    """Scores are verdicts: the figure is the share of good answers, corrected for these errors."""
    label: NotRequired[str]
    """Key in `scores` of what people say of the answer: 1 good, 0 bad."""


@section
class Correction(TypedDict):
    """How a judge's errors entered a figure."""

    raw: float
    """The mean verdict."""
    raw_delta: float | None
    """Minus the base's mean verdict."""
    assumption: str
    """What the figure rests on: `errors as labelled`, `errors at most as labelled`, `errors by
    system` or `random labels`."""
    delta_assumption: str | None
    """The same of the delta, or `equal errors` of model and base."""
    labels: Natural
    """Labelled answers behind the figure."""
    reason: str | None
    """Why the figure cannot be told."""
    delta_reason: str | None
    """Why the delta cannot be told."""
    level: Literal["trusted", "weak", "failed"]
    """Of the judge's certificate."""


@section
class MetricSection(TypedDict):
    """A figure, its interval, and its difference to the base."""

    value: float | None
    """The figure; null where it cannot be told."""
    stderr: float | None
    """Its standard error."""
    ci_low: float | None
    """Lower end of the interval of 95 %."""
    ci_high: float | None
    """Upper end of the interval of 95 %."""
    n: Natural
    """Samples that the value is made of."""
    left_out: NotRequired[Natural]
    """Samples without a score."""
    higher_is_better: bool
    """The direction."""
    delta: float | None
    """Minus the base, on the samples both have."""
    delta_ci_low: float | None
    """Lower end of the delta's interval of 95 %."""
    delta_ci_high: float | None
    """Upper end of the delta's interval of 95 %."""
    delta_p: NotRequired[float | None]
    """Two-sided; McNemar's mid-p for kind share, else from the bootstrap (over seeds and clusters
    too, where there are any)."""
    gained: NotRequired[Count]
    """Kind share: samples that are 0 at the base and 1 here."""
    lost: NotRequired[Count]
    """Kind share: samples that are 1 at the base and 0 here."""
    correction: NotRequired[Correction]
    """Where scores are a judge's verdicts: what the verdicts alone come to, and what corrected
    them. `value` and `delta` are null, and their intervals the whole range, where it cannot be
    told."""
    estimator: Estimator


@section
class SampleFile(TypedDict):
    """Where the samples of a suite are."""

    file: str
    """Relative to the results folder."""
    sha256: Sha256
    """Of the file's bytes as they lie on the disk."""
    rows: Natural
    """Samples in it."""
    non_finite: NotRequired[int]
    """Numbers written as null."""


@section
class ReasoningFigures(TypedDict):
    """How much of a thinking model's answers is reasoning, which is not scored."""

    answers: Natural
    """Answers that were looked at."""
    reasoned: Natural
    """Those with reasoning."""
    unfinished: Natural
    """Those whose reasoning never ends: they are no answers, and scored as empty."""
    reasoning_tokens: Natural
    """Of all answers, with the markers."""
    tokens: Natural
    """Of all answers, reasoning and all, without end tokens."""
    unfinished_share: float
    """Of the answers."""
    mean_tokens: float
    """Tokens of reasoning per answer."""
    token_share: float
    """The part of the tokens that is reasoning."""


@section
class SuiteSection(TypedDict):
    """What a suite measured."""

    hash: str
    """Of its data, prompt, shots, decoding and scoring: figures of equal hashes alone compare."""
    uncorrected_hash: NotRequired[str]
    """The hash without what corrects a judge: its certificate, and labels of its answers. Absent
    where nothing does."""
    version: NotRequired[int]
    """As its file states it."""
    content: NotRequired[str | None]
    """Hash of what the suite's author wrote; empty where an experiment replaced its data."""
    parts: NotRequired[dict[str, Any]]
    """What the hash is of, part by part: the value, or the first digits of its hash where it is
    long."""
    data_hash: NotRequired[str | None]
    """Of data that the hash above does not hold; null where it holds all."""
    reused: NotRequired[str]
    """Cell whose answers these are: same artifact, suite and data. Absent where the suite ran."""
    metrics: dict[str, MetricSection]
    """By name, the headline first."""
    samples: NotRequired[SampleFile | None]
    """The file with a row per sample; null where none was written."""
    notes: NotRequired[dict[str, Any]]
    """Facts beside the figures: who judged, answers cut short, rows left out ... `reasoning` has
    the markers (`end` is null where the model's template has none), who stated them (`source`), and
    the figures that a row of a leaderboard has of it."""


@section
class ServedTokens(TypedDict):
    """Tokens of requests to a server, as it counts them."""

    input: Count
    """Read."""
    output: Count
    """Written."""
    guessed_requests: Count
    """Requests whose tokens the server did not report: estimates are counted for them."""


@section
class Served(TypedDict):
    """How a model behind a server was asked, and what that cost."""

    url: str | None
    """Its base URL; null where llama.cpp was started for it."""
    gguf: str | None
    """Name of the GGUF file that llama.cpp served."""
    model: str
    """As it was asked for."""
    answered_by: dict[str, Count]
    """Names in which the server answered, and how often."""
    form: Literal["chat", "completions"]
    """Who renders conversations: the server, or the harness."""
    prompt_logprobs: bool
    """Whether it gave log-probabilities of prompts."""
    in_flight: Count
    """Requests under way at once, at most."""
    requests: Count
    """HTTP requests, those that were sent again too."""
    retried: dict[str, Count]
    """Those that were sent again, by why."""
    failed: dict[str, Count]
    """Requests that have no answer, by why."""
    tokens: ServedTokens
    """What was read and written."""
    dollars: float | None
    """By the price in the experiment."""
    seconds_to_first_token: float | None
    """Median of a few prompts of the first suite that generates, asked one at a time after it."""
    tokens_per_second: float | None
    """Generated, with `in_flight` requests under way."""


@section
class ResumedBlocks(TypedDict):
    """Blocks of answers that another worker computed, or one that was cut off."""

    blocks: int
    """How many."""
    requests: int
    """In these blocks: prompts answered, and pairs of texts scored."""
    seconds: float
    """What they took; `phases` have it too, and their peaks."""


@section
class Evaluation(TypedDict):
    """What the suites measured."""

    phases: NotRequired[dict[str, Phase]]
    """Of the suites that ran, by whichever worker; none of those reused."""
    suites: Annotated[dict[str, SuiteSection], Keywords({"propertyNames": FILE_NAME})]
    """By name."""
    base: NotRequired[str | None]
    """Cell id of the untouched base."""
    artifact_hash: NotRequired[str]
    """sha256 of what was evaluated: the base, the artifact's files, quantization, precision and
    chat template."""
    tokenizer_hash: NotRequired[str | None]
    """Figures per token compare between equal ones only."""
    passes: NotRequired[dict[str, Any] | None]
    """How forward passes ran (batch, tokens_per_pass, halved, cuda_graphs, copied_weights_bytes,
    shared_prefixes); null where no suite ran. None of it changes a score."""
    served: NotRequired[Served]
    """Of a model behind a server, where a suite ran."""
    resumed: NotRequired[ResumedBlocks]
    """Where the cell's own last worker did not compute everything."""


# environment and error


@section
class Gpu(TypedDict):
    """The GPU of the machine."""

    name: str
    """As its driver names it."""
    memory_bytes: Count
    """In all."""
    count: NotRequired[int]
    """Visible GPUs, of which this is the first."""


@section
class Environment(TypedDict, total=False):
    """The machine and its packages."""

    python: str
    """Version."""
    platform: str
    """Operating system and architecture."""
    cpu: str | None
    """The processor's name."""
    cores: Count
    """That this process may use."""
    memory_bytes: Count
    """That this process may use: the machine's, or a container's limit."""
    packages: dict[str, str | None]
    """Name -> version of what figures depend on; null for one that is not installed."""
    gpu: Gpu | None
    """Null without one."""


@section
class ErrorSection(TypedDict):
    """What broke."""

    type: str
    """Class of the exception."""
    message: str
    """Its text."""
    phase: NotRequired[str | None]
    """In which it broke."""
    traceback: NotRequired[str | list[Any] | None]
    """Its tail."""
    available_bytes: NotRequired[Count]
    """Status oom: what a process there may use."""
    predicted_bytes: NotRequired[Count]
    """Status oom: the peak that was predicted, where it was."""


@section
class Record(TypedDict):
    """One cell's result: `<out>/cells/<id>.json`.

    A figure that was NaN or infinite is null, and a line in `warnings` names it.
    """

    schema: Literal[1]
    """Version of this layout."""
    id: FileName
    """Of the cell: a hash of everything that its result depends on."""
    status: Status
    """How the cell ended: `ok`, out of memory, another error, or a loss that is not finite."""
    plan: Plan
    training: Training | None
    evaluation: Evaluation | None
    environment: Environment
    warnings: list[str]
    """What a reader of the figures should know, a sentence each."""
    error: ErrorSection | None
    """Null where the status is ok."""
    sha256: NotRequired[Sha256]
    """Of everything else in the record, as JSON with sorted keys and ASCII alone. Absent in records
    of older versions."""


ERROR_UNLESS_OK = Keywords(
    {
        "if": {"properties": {"status": {"const": "ok"}}},
        "then": {"properties": {"error": {"type": "null"}}},
        "else": {"properties": {"error": {"type": "object"}}},
    }
)
"""What holds between fields of a record: an error exactly where the status is not ok."""


def new_record(
    *,
    id: str,
    status: Status,
    plan: Plan,
    environment: Environment | None = None,
    training: Training | None = None,
    evaluation: Evaluation | None = None,
    warnings: Iterable[str] = (),
    error: ErrorSection | None = None,
) -> Record:
    """A record before it is sealed, its keys in the order in which they are written."""
    return {
        "schema": VERSION,
        "id": id,
        "status": status,
        "plan": plan,
        "training": training,
        "evaluation": evaluation,
        "environment": environment or {},
        "warnings": list(warnings),
        "error": error,
    }
