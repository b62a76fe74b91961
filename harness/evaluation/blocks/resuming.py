"""A model that answers block by block and keeps each block, so that a later run goes on from there.

Whatever asks a model asks this one in its place: suites, lm-eval's tasks, and judges whose model is
in this process. What is kept is given as it was; the rest is computed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness.api.model import Generation, LogLikelihood, Model, Progress, Request
from harness.evaluation.blocks import cutting, kept_answers
from harness.evaluation.blocks.cutting import Block, encoded
from harness.evaluation.blocks.kept_answers import KeptAnswers, Sharing, key, name_of
from harness.evaluation.cached_results import arithmetic
from harness.evaluation.served.model import ServedModel
from harness.record import Phase, ResumedBlocks
from harness.results.artifact_hash import artifact_hash
from harness.system import hardware
from harness.system.measure import joined, stretch
from harness.system.workers.stopping import Stopped, safe_point
from harness.types import Artifact

ANSWERS, LIKELIHOODS = "answers", "likelihoods"
"""The kinds of blocks."""
WORTH_KEEPING = 0.1
"""Seconds of a block below which it is computed again about as soon as it is written and read."""
LOOK = 0.2
"""Seconds between two looks at whether another worker has finished a block."""
PATIENCE, PATIENT_BLOCKS = 30.0, 3.0
"""Seconds, and multiples of the longest own block, after which another worker's is not waited for:
it has died, or is slow."""

A = TypeVar("A")


@dataclass
class Keeping:
    """Where the blocks of a worker are kept, whichever models it opens."""

    out: Path
    warn: Callable[[str], None]
    sharing: Sharing | None = None
    """Where other workers compute blocks of the same model too."""
    helps: bool = False
    """Whether this is such another worker: it leaves to others what they are at."""
    kept: list[KeptAnswers] = field(default_factory=list)

    def wrap(self, model: Model, artifact: Artifact, *, shared: bool = True) -> Model:
        """The model, whose blocks are kept, and `shared` with the other workers.

        One behind a server is returned as it is: what the server holds may be another model when
        the run goes on, and an answer that failed is to be asked again by itself.
        """
        if isinstance(model, ServedModel):
            return model
        of = {"engine": artifact.engine, "arithmetic": arithmetic()}
        self.kept.append(KeptAnswers(self.out, artifact_hash(artifact), of, self.warn))
        return Resuming(model, self.kept[-1], self.sharing if shared else None, helps=self.helps)

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
    unknown: A
    """Stands for answers that are left to another worker."""


class _Asking(Generic[A]):
    """One call, and the answers so far."""

    def __init__(self, kept: KeptAnswers, asked: _Asked[A], progress: Progress | None) -> None:
        self.kept, self.asked, self.progress = kept, asked, progress
        self.answers: dict[int, A] = {}
        self._find(range(len(asked.keys)))

    def look(self) -> None:
        """Take what other workers have kept since."""
        if self.kept.look():
            self._find([i for i in range(len(self.asked.keys)) if i not in self.answers])

    def lacks(self, block: Block) -> list[int]:
        """The requests of a block without an answer."""
        return [i for i in block if i not in self.answers]

    def compute(self, block: Block) -> None:
        """Answer what a block lacks, and keep it."""
        new = self.lacks(block)
        if not new:
            return
        safe_point()
        total = len(self.asked.keys)
        told = (
            self.progress if len(new) == total else _part(self.progress, self.answers, new, total)
        )
        with stretch() as cost:
            computed = self.asked.compute(new, told)
        self.answers |= dict(zip(new, computed, strict=True))
        if (cost["seconds"] or 0.0) >= WORTH_KEEPING:
            keys = [self.asked.keys[i] for i in new]
            self.kept.keep(self.asked.kind, keys, list(map(self.asked.plain, computed)), cost)

    def _find(self, numbers: Sequence[int]) -> None:
        found = self.kept.find([self.asked.keys[i] for i in numbers])
        known = zip(numbers, found, strict=True)
        self.answers |= {i: self.asked.read(answer) for i, answer in known if answer is not None}


class Resuming:
    """A `harness.Model` around another one. What else that one has is there too."""

    def __init__(
        self,
        model: Model,
        kept: KeptAnswers,
        sharing: Sharing | None = None,
        *,
        helps: bool = False,
    ) -> None:
        self.model, self.kept = model, kept
        self._sharing, self._helps = sharing, helps
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
            unknown=LogLikelihood(0.0, False, (0.0,), False),
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
            unknown=Generation((), capped=False),
        )
        return self._answered(asked, progress)

    def _answered(self, asked: _Asked[A], progress: Progress | None) -> list[A]:
        """The answers to all requests; blocks that are not kept are computed and kept."""
        work = _Asking(self.kept, asked, progress)
        if self._sharing is None:
            for block in asked.blocks:
                work.compute(block)
        else:
            self._compute_with_others(work, self._sharing)
        return [work.answers.get(i, asked.unknown) for i in range(len(asked.keys))]

    def _compute_with_others(self, work: _Asking[A], sharing: Sharing) -> None:
        """Compute the blocks that no other worker is at, then wait for those of the others.

        One that does not come in time is computed here. A worker that helps waits for none.
        """
        left = list(work.asked.blocks)
        seconds, since = 0.0, time.monotonic()
        while left:
            if self._helps and not sharing.goes_on:
                raise Stopped
            work.look()
            left = [block for block in left if work.lacks(block)]
            claimed = next((block for block in left if self._claims(work, block, sharing)), None)
            if claimed is None and self._helps:
                return
            late = time.monotonic() - since > PATIENCE + PATIENT_BLOCKS * seconds
            block = left[0] if claimed is None and late and left else claimed
            if block is not None:
                begun = time.monotonic()
                work.compute(block)
                since = time.monotonic()
                seconds = max(seconds, since - begun)
            elif left:
                safe_point()
                time.sleep(LOOK)

    def _claims(self, work: _Asking[A], block: Block, sharing: Sharing) -> bool:
        return sharing.claim(self.kept.folder, name_of(work.asked.keys[i] for i in block))

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
