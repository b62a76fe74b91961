"""The layout of a leaderboard, `leaderboard.json`: the types that its JSON Schema is made from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from typing_extensions import NotRequired, TypedDict

from harness.record import (
    AT_LEAST_1,
    Count,
    Keywords,
    MetricSection,
    ReasoningFigures,
    Sha256,
    Status,
    section,
)

VERSION: Literal[1] = 1
"""Of the leaderboard's layout."""

_NOT_EMPTY = Keywords({"minItems": 1})


@section
class Cost(TypedDict):
    """What a row cost: figures of its seeds, each null where no seed has it."""

    train_seconds: float | None
    """Training steps alone, mean over seeds."""
    evaluation_seconds: float | None
    """Mean over the seeds in which no suite was reused."""
    peak_memory_bytes: Count
    """Of training; where nothing was trained of evaluation, if no suite was reused."""
    peak_memory_kind: Literal["cuda", "host", None]
    """Whose memory that is: the GPU's, or the process's on the host."""
    tokens_per_pass: NotRequired[Count]
    """Of the evaluation whose peak this is on a GPU: it follows the card's free memory, and the
    peak follows it. Null where seeds differ; absent where the peak is another."""
    trainable_parameters: Count
    """The most of any seed."""
    artifact_bytes: Count
    """Of the files that were saved; the most of any seed."""
    tuning_seconds: NotRequired[float | None]
    """All trials of the search together, once for all seeds; absent where nothing was tuned."""
    dollars: NotRequired[float | None]
    """All phases of training and evaluation at the experiment's price_per_hour, mean over seeds;
    absent without a price."""


@section
class RowMetric(MetricSection):
    """A metric over all seeds: the mean of their values; `gained` and `lost` are null then."""

    per_seed: NotRequired[list[float | None]]
    """The values that the mean is of, in the order of `seeds`."""


@section
class Row(TypedDict):
    """The seeds of one model, method, options, label, data and budget."""

    rank: Annotated[int, AT_LEAST_1] | None
    """Null without the metric ranked by, and for all where it is per token and tokenizers
    differ."""
    rank_range: NotRequired[Annotated[list[Annotated[int, AT_LEAST_1]], _NOT_EMPTY]]
    """The best and the worst place that its ranked rows leave it: behind those that are
    significantly better, before those that are significantly worse. Absent without a rank."""
    label: str
    """What tables call it."""
    model: str
    """As the experiment names it."""
    method: str
    """The registered name of the method."""
    options: dict[str, Any]
    """Those of the method, complete."""
    seeds: Annotated[list[int | None], _NOT_EMPTY]
    """Of its cells, rising."""
    cells: Annotated[list[str], _NOT_EMPTY]
    """Ids, in the order of seeds."""
    status: Status
    """The worst over seeds."""
    metrics: dict[str, RowMetric]
    """Keyed suite.metric."""
    cost: Cost
    cost_range: NotRequired[dict[str, list[float]]]
    """train_seconds and peak_memory_bytes -> the least and the greatest of the seeds; absent for
    one seed."""
    tied_with: list[str]
    """Labels of rows that it is not told apart from: their paired difference on the metric ranked
    by is not significant, adjusted after Holm for all pairs of rows."""
    budget: NotRequired[dict[str, Any] | None]
    """Of the training; null where nothing was trained."""
    mix: NotRequired[dict[str, Any] | None]
    """General rows blended into the training rows: source, share, hash, rows."""
    suite_hashes: NotRequired[dict[str, str]]
    """Where a suite has a data hash, it follows after a slash."""
    health: NotRequired[list[str]]
    """Names of the health checks that spoke in any seed; absent where none did."""
    degenerate: NotRequired[list[str]]
    """What is degenerate in the answers of any seed, and texts that an embedder cut, a line each;
    absent where nothing is."""
    reasoning: NotRequired[dict[str, ReasoningFigures]]
    """By suite, over all seeds; absent where no suite takes reasoning from answers."""


@section
class Leaderboard(TypedDict):
    """Derived from records: `<out>/leaderboard.json`. Rows are ordered best first."""

    schema: Literal[1]
    """Version of this layout."""
    ranked_by: str | None
    """suite.metric"""
    rows: list[Row]
    """Best first."""
    labels: NotRequired[dict[str, str]]
    """Suite -> what its figures must be read with, such as self-judged."""
    incomparable: list[str]
    """Sentences that name rows whose suites or tokenizers differ."""
    rank_by: NotRequired[str | None]
    """What the experiment names to rank by; null for the default."""
    records: NotRequired[str]
    """sha256 over the records that it is derived from: it is built anew when they change."""
    sha256: NotRequired[Sha256]
    """Of everything else in it, as a record's."""
