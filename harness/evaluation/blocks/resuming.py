"""A model that answers block by block and keeps each block, so that a later run goes on from there.

Whatever asks a model asks this one in its place: suites, lm-eval's tasks, and judges whose model is
in this process. What is kept is given as it was; the rest is computed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness.api.model import Generation, LogLikelihood, Model, Progress, Request
from harness.evaluation.blocks import cutting, kept_answers
from harness.evaluation.blocks.cutting import Block, encoded
from harness.evaluation.blocks.kept_answers import KeptAnswers, key
from harness.evaluation.cached_results import arithmetic
from harness.evaluation.served.model import ServedModel
from harness.record import Phase, ResumedBlocks
from harness.results.artifact_hash import artifact_hash
from harness.system import hardware
from harness.system.measure import joined, stretch
from harness.system.stopping import safe_point
from harness.types import Artifact

ANSWERS, LIKELIHOODS = "answers", "likelihoods"
"""The kinds of blocks."""
WORTH_KEEPING = 0.1
"""Seconds of a block below which it is computed again about as soon as it is written and read."""

A = TypeVar("A")


@dataclass
class Keeping:
    """Where the blocks of a worker are kept, whichever models it opens."""

    out: Path
    warn: Callable[[str], None]
    kept: list[KeptAnswers] = field(default_factory=list)

    def wrap(self, model: Model, artifact: Artifact) -> Model:
        """The model, whose blocks are kept.

        One behind a server is returned as it is: what the server holds may be another model when
        the run goes on, and an answer that failed is to be asked again by itself.
        """
        if isinstance(model, ServedModel):
            return model
        of = {"engine": artifact.engine, "arithmetic": arithmetic()}
        self.kept.append(KeptAnswers(self.out, artifact_hash(artifact), of, self.warn))
        return Resuming(model, self.kept[-1])

    def costs(self) -> dict[str, Phase]:
        """Kind -> what the blocks cost that were not computed by this worker."""
        found: dict[str, Phase] = {}
        for block in self._taken():
            found[block["kind"]] = joined(found.get(block["kind"]), block["cost"])
        return found

    def resumed(self) -> ResumedBlocks | None:
        """What the record says of these blocks; None where there are none."""
        taken = self._taken()
        if not taken:
            return None
        return {
            "blocks": len(taken),
            "requests": sum(len(block["keys"]) for block in taken),
            "seconds": sum(block["cost"]["seconds"] or 0.0 for block in taken),
        }

    def clear(self, artifact: str) -> None:
        """Remove the blocks of an artifact, by its hash, and those that judges used for it."""
        for kept in self.kept:
            kept.clear()
        kept_answers.clear(self.out, artifact)

    def _taken(self) -> list[Any]:
        return [*{file: b for kept in self.kept for file, b in kept.taken.items()}.values()]


@dataclass(frozen=True)
class _Asked(Generic[A]):
    """Requests of one call."""

    kind: str
    keys: Sequence[str]
    blocks: Sequence[Block]
    compute: Callable[[Sequence[int], Progress | None], Sequence[A]]
    """Answers to the requests of these numbers."""
    plain: Callable[[A], list[Any]]
    """An answer as JSON."""
    read: Callable[[Any], A]
    """An answer from JSON."""


class Resuming:
    """A `harness.Model` around another one. What else that one has is there too."""

    def __init__(self, model: Model, kept: KeptAnswers) -> None:
        self.model, self.kept = model, kept
        self._device = hardware.facts().device

    def loglikelihood(
        self, requests: Sequence[Request], progress: Progress | None = None
    ) -> list[LogLikelihood]:
        """As the model's, block by block."""
        asked = _Asked(
            kind=LIKELIHOODS,
            keys=[key(LIKELIHOODS, encoded(c), encoded(t)) for c, t in requests],
            blocks=cutting.of_pairs(requests, self._device),
            compute=lambda numbers, told: self.model.loglikelihood(
                [requests[i] for i in numbers], told
            ),
            plain=_plain_likelihood,
            read=lambda kept: LogLikelihood(kept[0], kept[1], tuple(kept[2]), kept[3]),
        )
        return self._answered(asked, progress)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stops: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> list[Generation]:
        """As the model's, block by block."""
        how = json.dumps([ANSWERS, max_new_tokens, list(stops)])
        asked = _Asked(
            kind=ANSWERS,
            keys=[key(how, encoded(prompt)) for prompt in prompts],
            blocks=cutting.of_prompts(prompts, self._device),
            compute=lambda numbers, told: self.model.generate(
                [prompts[i] for i in numbers],
                max_new_tokens=max_new_tokens,
                stops=stops,
                progress=told,
            ),
            plain=_plain_answer,
            read=lambda kept: Generation(tuple(kept[0]), *kept[1:]),
        )
        return self._answered(asked, progress)

    def _answered(self, asked: _Asked[A], progress: Progress | None) -> list[A]:
        """The answers to all requests; blocks that are not kept are computed and kept."""
        kept = self.kept.find(asked.keys)
        answers: dict[int, A] = {i: asked.read(a) for i, a in enumerate(kept) if a is not None}
        for block in asked.blocks:
            new = [i for i in block if i not in answers]
            if not new:
                continue
            safe_point()
            told = progress if len(new) == len(kept) else _part(progress, answers, new, len(kept))
            with stretch() as cost:
                computed = asked.compute(new, told)
            answers |= dict(zip(new, computed, strict=True))
            if (cost["seconds"] or 0.0) >= WORTH_KEEPING:
                keys = [asked.keys[i] for i in new]
                self.kept.keep(asked.kind, keys, list(map(asked.plain, computed)), cost)
        return [answers[i] for i in range(len(kept))]

    # the rest of a Model

    @property
    def name(self) -> str:
        """As the experiment names it."""
        return self.model.name

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self.model.tokenizer

    @property
    def chat_template(self) -> str | None:
        """The model's."""
        return self.model.chat_template

    @property
    def max_length(self) -> int:
        """The model's."""
        return self.model.max_length

    @property
    def prefix_token(self) -> int:
        """The model's."""
        return self.model.prefix_token

    @property
    def end_token(self) -> int:
        """The model's."""
        return self.model.end_token

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return self.model.text(ids)

    def info(self) -> Mapping[str, Any]:
        """How the model ran."""
        return self.model.info()

    def close(self) -> None:
        """Free the model's memory."""
        self.model.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def _part(
    progress: Progress | None, answers: Mapping[int, object], new: Sequence[int], total: int
) -> Progress | None:
    """Tells of a block what it is of the whole call."""
    if progress is None:
        return None
    before = len(answers)
    return lambda done, of: progress(before + len(new) * done // max(of, 1), total)


def _plain_likelihood(score: LogLikelihood) -> list[Any]:
    tokens = [float(value) for value in score.token_logprobs]
    return [float(score.logprob), bool(score.greedy), tokens, bool(score.cut)]


def _plain_answer(answer: Generation) -> list[Any]:
    ids = [int(token) for token in answer.ids]
    return [ids, bool(answer.capped), bool(answer.finite), bool(answer.cut), answer.counted]
