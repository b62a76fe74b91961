"""A judge that needs no API: the expected score under a local model's probabilities."""

import math
from collections.abc import Callable, Sequence

from harness import Judge, Judgement, Output, Sample, Tools, encode_continuations, hookimpl

SCORES = (1, 2, 3, 4, 5)
LEAST_MASS = 0.01
"""Below this share of probability on the score tokens there is no verdict."""


class ExpectedScore(Judge):
    """Sum of score times probability over the tokens 1 to 5 (G-Eval, Liu et al. 2023, 2303.16634).

    The prompt holds a rubric and the reference answer (as in Prometheus 2, Kim et al. 2024,
    2405.01535). Reading probabilities instead of one sampled verdict leaves nothing to parse and
    gives the same score on every run. Probabilities are normalised over the five scores.
    """

    name = "expected_score"
    bounds = (float(SCORES[0]), float(SCORES[-1]))

    def judge(
        self, outputs: Sequence[Output], samples: Sequence[Sample], *, rubric: str, tools: Tools
    ) -> Judgement:
        """Scores from 1 to 5; None where the model puts almost nothing on the score tokens."""
        model = tools.judge_model()
        requests = []
        for output, sample in zip(outputs, samples, strict=True):
            message = {"role": "user", "content": _prompt(rubric, sample, output)}
            requests += encode_continuations(
                model, [message], [f" {score}" for score in SCORES], start="Score:"
            )
        likelihoods = model.loglikelihood(requests, tools.progress)
        scores: list[float | None] = []
        masses = []
        for i in range(len(outputs)):
            five = likelihoods[i * len(SCORES) : (i + 1) * len(SCORES)]
            weights = [math.exp(score.logprob) for score in five]
            masses.append(sum(weights))
            scores.append(_expected(weights))
        finite = [mass for mass in masses if math.isfinite(mass)]
        silent = sum(score is None for score in scores)
        return Judgement(
            scores,
            notes={"least_mass": min(finite, default=None)},
            warnings=[f"the judge gave no verdict on {silent} answers"] if silent else [],
            not_finite=len(masses) - len(finite),
        )


def _prompt(rubric: str, sample: Sample, output: Output) -> str:
    return (
        f"{rubric.strip()}\n\nQuestion: {sample.question}\n"
        f"Reference answer: {sample.reference}\nAnswer to rate: {output.text}\n\n"
        "Give one score from 1 to 5."
    )


def _expected(weights: Sequence[float]) -> float | None:
    mass = sum(weights)
    if not mass >= LEAST_MASS:  # NaN too
        return None
    return sum(s * w for s, w in zip(SCORES, weights, strict=True)) / mass


@hookimpl
def register_judges(register: Callable[[Judge], None]) -> None:
    """The judge `expected_score`."""
    register(ExpectedScore())
