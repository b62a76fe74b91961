"""A judge that needs no API: how much likelier the reference becomes once the answer is known."""

import math
import statistics
from collections.abc import Callable, Sequence

from harness import (
    Judge,
    Judgement,
    JudgeOptions,
    Output,
    Sample,
    Tools,
    check_references,
    encode_continuations,
    hookimpl,
)


class ReferenceGainOptions(JudgeOptions):
    """What a suite's `judge: {name: reference_gain, ...}` takes: a model alone."""

    rubric: str = ""
    """Not read: the reference is what is asked for."""


class ReferenceGain(Judge):
    """log P(reference | question, answer) - log P(reference | question), in nats a token.

    An answer with the reference's facts makes these likely, one with others does not, and filler
    does nothing: pointwise mutual information (Church & Hanks, Computational Linguistics 16, 1990)
    in the direction from answer to reference. Nothing is asked that a small model must follow.
    """

    name = "reference_gain"
    Options = ReferenceGainOptions

    def check(self, samples: Sequence[Sample]) -> None:
        """Every sample has a reference."""
        check_references(samples)

    def judge(
        self, outputs: Sequence[Output], samples: Sequence[Sample], *, rubric: str, tools: Tools
    ) -> Judgement:
        """Nats a token of the reference; None where the log-probabilities are not finite."""
        model = tools.judge_model()
        requests = []
        for output, sample in zip(outputs, samples, strict=True):
            for known in (f"\n\nThis is known: {output.text}", ""):
                message = {"role": "user", "content": sample.question + known}
                requests += encode_continuations(model, [message], [sample.reference or ""])
        found = model.loglikelihood(requests, tools.progress)
        gains = [
            statistics.fmean(given.token_logprobs) - statistics.fmean(alone.token_logprobs)
            for given, alone in zip(found[::2], found[1::2], strict=True)
        ]
        finite = [math.isfinite(gain) for gain in gains]
        return Judgement(
            [gain if known else None for gain, known in zip(gains, finite, strict=True)],
            not_finite=finite.count(False),
        )


@hookimpl
def register_judges(register: Callable[[Judge], None]) -> None:
    """The judge `reference_gain`."""
    register(ReferenceGain())
