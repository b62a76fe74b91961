"""Whether what was saved answers as what was trained: opened anew, the same log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.api.model import Model
from harness.errors import CellFailed
from harness.system.hardware import free_memory
from harness.types import Artifact, Job

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from harness.models.causal_lm import CausalLM

ROWS = 4
"""Rows that are scored with both."""
CLOSE = {"float32": 1e-3, "bf16": 2e-2, "fp16": 2e-2}
"""Largest difference of a row's mean log-probability per token, in nats, by precision."""


class Remembered:
    """Mean log-probabilities of a job's first rows under the model that was trained.

    Give its `see` to the job: `dataclasses.replace(job, trained=remembered.see)`.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.scores: list[float] | None = None

    def see(self, model: CausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
        """Called with the trained model before it is saved."""
        self.job.trained(model, tokenizer)
        self.scores = scores(self.job, model, tokenizer, Artifact("base", self.job.model))

    def difference(self, artifact: Artifact) -> float:
        """Largest difference of a row's score, in nats per token, to the artifact reopened."""
        from harness.manager import plugins

        if self.scores is None:
            raise CellFailed("the method never called job.trained(model, tokenizer)")
        opened = plugins().open_model(artifact)
        scores = row_scores(self.job, opened)
        opened.close()
        return max(abs(a - b) for a, b in zip(self.scores, scores, strict=True))

    def check(self, artifact: Artifact) -> Artifact:
        """The artifact; raises CellFailed where it answers otherwise than what was trained."""
        free_memory()  # the trained model's, before it is opened again
        with self.job.phase("verify"):
            far = self.difference(artifact)
        self.job.training["reopened_difference"] = far
        if not far <= CLOSE[self.job.budget.precision]:
            raise CellFailed(
                "the adapter does not answer as the trained model did once it is reopened: its "
                f"log-probabilities differ by {far:.3g} nats a token; it changes weights that peft "
                "does not save, so it cannot be measured"
            )
        return artifact


def scores(
    job: Job, model: CausalLM, tokenizer: PreTrainedTokenizerBase, artifact: Artifact
) -> list[float]:
    """`row_scores` of a model in memory, which it leaves as it was."""
    from harness.models.language_model import LanguageModel

    decoding = model.generation_config
    scores = row_scores(job, LanguageModel(model, tokenizer, artifact))
    model.generation_config = decoding  # the model may be saved with it
    return scores


def row_scores(job: Job, model: Model) -> list[float]:
    """Mean log-probability per trained-on token of the job's first distinct rows, in nats."""
    requests = requests_of(job, model.tokenizer)
    results = model.loglikelihood(requests)
    return [result.logprob / len(r[1]) for result, r in zip(results, requests, strict=True)]


def requests_of(
    job: Job, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[Sequence[int], Sequence[int]]]:
    """(context, continuation) token ids of the first rows: from the first supervised token on."""
    from harness.data.tokenization import IGNORED, encode_row

    made: list[tuple[Sequence[int], Sequence[int]]] = []
    for row in {row.id: row for row in job.train}.values():
        encoded = encode_row(
            tokenizer,
            row,
            max_length=job.budget.max_length,
            loss=job.loss,
            chat_template=job.chat_template,
        )
        kept = [i for i, label in enumerate(encoded.labels) if label != IGNORED]
        start = max(1, kept[0]) if kept else len(encoded.labels)
        if encoded.input_ids[start:]:
            made.append((encoded.input_ids[:start], encoded.input_ids[start:]))
        if len(made) == ROWS:
            break
    return made
