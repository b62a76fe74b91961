"""Values that cross a boundary between parts of the harness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from harness.record import EstimatorKind, JudgeErrors, Training

Message = Mapping[str, Any]
"""One turn of a conversation: `{"role": "user", "content": "..."}`, both texts.

A turn of the assistant that calls tools has `tool_calls`, a list of `{"type": "function",
"function": {"name": "...", "arguments": {...}}}`; what a tool answers is a turn of the role `tool`.
"""

ToolDefinitions = Sequence[Mapping[str, Any]] | None
"""The functions that a model may call, each `{"type": "function", "function": {"name": ...,
"parameters": <JSON Schema>}}`; None where it may call none."""

Event = Mapping[str, Any]
"""What a worker reports, as JSON: `event` is its kind, the other keys depend on that."""

Bounds = tuple[float | None, float | None]
"""The least and the greatest that a score, and so a mean of them, can be; None where there is no
such bound."""

Precision = Literal["float32", "bf16", "fp16"]
ArtifactKind = Literal["base", "weights", "adapter"]


@dataclass(frozen=True)
class ModelRef:
    """A model, resolved: where it lies and what its bytes are."""

    name: str
    """As the experiment names it: an alias, a Hub id or a folder."""
    path: str
    """A local folder, or the Hub id."""
    content_hash: str | None = None
    """sha256 over the folder's weights, configuration and tokenizer; None for a Hub id."""
    revision: str | None = None
    """A Hub revision; None for a folder."""
    trust_remote_code: bool = False

    @property
    def identity(self) -> str:
        """What hashes know it by: its bytes, or its place and revision on the Hub."""
        return self.content_hash or f"{self.path}@{self.revision}"


@dataclass(frozen=True)
class Budget:
    """What every method of an experiment gets, alike."""

    steps: int
    """Optimizer steps."""
    batch: int
    """Rows per optimizer step (the effective batch)."""
    max_length: int
    """Tokens per row; longer rows are cut and counted."""
    precision: Precision
    """Arithmetic of the forward and backward pass; in fp16 the loss is scaled. Trainable weights
    are float32, but where a method says otherwise."""
    micro_batch: int | Literal["auto"] | None = None
    """Rows per forward pass; None means `batch`, `auto` the cheapest. Divides `batch`."""
    group_by_length: bool = True
    """Sort the rows inside each batch, so that passes of fewer rows hold less padding."""
    liger: bool = False
    """Liger's fused kernels (CUDA)."""
    compile: bool = False
    """`torch.compile` the model for training."""
    on_oom: Literal["checkpoint", "halve", "stop"] = "checkpoint"
    """After an OOM while training: halve the micro-batch, and at 1 row checkpoint activations;
    halve alone; or record it at once. No part of a cell's id: it changes no result."""
    checkpoint_minutes: float | None = None
    """Minutes of training between two checkpoints; None: only where the worker is told to stop.
    No part of a cell's id: it changes no result."""
    max_minutes: float | None = None
    """Minutes that a worker may take, training and evaluation together; None: no limit. Neither
    ids nor records depend on it."""

    @property
    def first_micro_batch(self) -> int:
        """Rows per pass where nothing was halved; the whole batch where it is chosen later."""
        return self.micro_batch if isinstance(self.micro_batch, int) else self.batch


@dataclass(frozen=True)
class Row:
    """One training or evaluation row, in one of three forms.

    Exactly one of `messages`, (`prompt`, `completion`) and `text` is set.
    """

    id: str
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    line: int | None = None
    """Line (or row) in the source file, counted from 1."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """The row's other columns, untouched."""
    tools: ToolDefinitions = None
    """The functions that a conversation offers."""


@dataclass(frozen=True)
class Artifact:
    """What a method made: what is needed to open the model exactly as it was trained."""

    kind: ArtifactKind
    base: ModelRef
    path: str | None = None
    """Folder with safetensors weights or an adapter; None for the untouched base."""
    quantization: Mapping[str, Any] | None = None
    """Keywords of `transformers.BitsAndBytesConfig` for the base, or None."""
    precision: Precision = "float32"
    chat_template: str | None = None
    """A Jinja template that replaces the tokenizer's own, or None."""
    weights: ModelRef | None = None
    """A model made elsewhere: its weights and tokenizer are opened instead of the base's."""
    engine: str | None = None
    """What generates its answers; None: passes of this process. It is no part of the model."""

    @property
    def opened(self) -> ModelRef:
        """Whose weights (but those in `path`) and tokenizer are opened."""
        return self.weights or self.base


class Checkpoints:
    """The checkpoints of a training: here none, as where a job is made by hand.

    In a worker they lie beside the results until the artifact is there.
    """

    def begin(self, **what: object) -> Path | None:
        """The folder of the newest checkpoint to go on from; None: train from the start.

        Called once, before the first step. `what` says on what else the files depend, in JSON
        types: a checkpoint of another `what` is not used.
        """
        return None

    def at(self, step: int, save: Callable[[Path], None]) -> None:
        """Called after each step but the last: `save(folder)` writes the files where one is due.

        It raises `harness.system.workers.stopping.Stopped`, which no method catches, where the
        worker was told to stop.
        """


@dataclass(frozen=True)
class Job:
    """Everything a method's `train` gets. The plan owns it; a method only reads it."""

    model: ModelRef
    options: Any
    """The method's own validated Options."""
    budget: Budget
    seed: int
    train: Sequence[Row]
    """Rows in the order of training, `steps * batch` of them: the same for every method."""
    validation: Sequence[Row]
    folder: Path
    """An empty folder for the artifact."""
    chat_template: str | None
    loss: Literal["assistant", "all"]
    """Which tokens are trained on."""
    phase: Callable[[str], AbstractContextManager[None]]
    """`with job.phase("load"):` measures seconds and peak memory under that name."""
    report: Callable[..., None]
    """`job.report(step=3, steps=60, loss=1.9)` feeds the live progress."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Figures for the record's `training` section; a method adds its own under its own names."""
    warn: Callable[[str], None] = lambda message: None
    """Adds a line to the record's `warnings`."""
    trained: Callable[[Any, Any], None] = lambda model, tokenizer: None
    """`job.trained(model, tokenizer)`, before saving: whoever wants to compare what is saved."""
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    """`job.checkpoints.begin()` before the first step and `.at(step, save)` after each: a training
    that was stopped or killed goes on from its newest checkpoint. Notes, phases and warnings go on
    too. A method that calls neither begins again."""

    @property
    def training(self) -> Training:
        """`notes` by the types of a record: what the harness notes under names of its own."""
        return cast("Training", self.notes)


@dataclass(frozen=True)
class Sample:
    """One question of a suite."""

    id: str
    messages: tuple[Message, ...] | None = None
    """The conversation up to the answer; None for plain text."""
    prompt: str | None = None
    """The prompt as plain text where there are no messages."""
    reference: str | None = None
    choices: tuple[str, ...] | None = None
    answer: int | None = None
    """Index of the right choice."""
    group: str | None = None
    """Domain, subject or slice."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    line: int | None = field(default=None, compare=False)
    """Line (or row) in the source file, counted from 1; no part of the question."""
    tools: ToolDefinitions = None
    """The functions that the model may call."""

    @property
    def question(self) -> str:
        """The last thing asked, as plain text."""
        return self.messages[-1]["content"] if self.messages else (self.prompt or "")


@dataclass(frozen=True)
class Output:
    """What a model answered to a sample."""

    id: str
    text: str
    """Without the reasoning before it, where the suite has it taken away."""
    tokens: int
    """Generated tokens, those of reasoning too, without the end token."""
    capped: bool
    """True where the answer reached `max_new_tokens` without an end token."""


@dataclass(frozen=True)
class Metric:
    """How a suite's figure is computed from the per-sample scores in its sample file.

    kinds: `mean` of `score`; `share`, the mean of a score that is 0 or 1;
    `ratio`, sum(score) / sum(per); `exp_ratio`, exp of that (perplexity per token); `retained`,
    the share of the samples with score 1 at the base that have it still; `corpus_bleu` and
    `corpus_chrf`, the score of the sums of the samples' `statistics`
    (`harness.stats.corpus_scores`).
    """

    name: str
    higher_is_better: bool
    kind: EstimatorKind = "mean"
    score: str = ""
    """Key in a sample row's `scores`; the metric's own name where empty."""
    per: str | None = None
    """Key of the denominator for the ratio kinds."""
    where: str | Mapping[str, str] | None = None
    """Only samples whose `group` is this, or whose fields are these (`{"domain": "news"}`); None
    means all."""
    bounds: Bounds | None = None
    """The range of the figure, which its interval does not leave; a share's is 0 to 1."""
    judge: JudgeErrors | None = None
    """Of a judge's verdicts: its errors, for which the figure is corrected."""
    label: str = ""
    """Of a judge's verdicts: key in a sample row's `scores` of what people say of the answer."""


@dataclass(frozen=True)
class SuiteResult:
    """What running a suite on a model gives: rows for the sample file and how to sum them up."""

    rows: Sequence[Mapping[str, Any]]
    """One per sample: id, prompt, reference, output, scores (name -> number or None), group.

    Of a metric of kind `corpus_bleu` or `corpus_chrf` also `statistics` (name -> list of numbers or
    None)."""
    metrics: Sequence[Metric]
    notes: Mapping[str, object] = field(default_factory=dict)
    """Facts for the record, such as `capped_share`, `judge`, `stride`."""
    warnings: Sequence[str] = ()
