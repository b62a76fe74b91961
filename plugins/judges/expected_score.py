"""A judge that needs no API: the expected score under a local model's probabilities."""

import math
from collections.abc import Callable, Sequence

from harness import Judge, Judgement, Output, Sample, Tools, hookimpl

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

    def judge(
        self, outputs: Sequence[Output], samples: Sequence[Sample], *, rubric: str, tools: Tools
    ) -> Judgement:
        """Scores from 1 to 5; None where the model puts almost nothing on the score tokens.

        Raises CellFailed where the model's probabilities of more than a few answers are not finite.
        """
        from harness.data.tokenization import render

        model = tools.judge_model()
        requests = []
        for output, sample in zip(outputs, samples, strict=True):
            message = {"role": "user", "content": _prompt(rubric, sample, output)}
            text = render(model.tokenizer, [message], model.chat_template, generation_prompt=True)
            requests += [_request(model.tokenizer, text + "Score:", s) for s in SCORES]
        found = model.loglikelihood(requests, tools.progress)
        scores: list[float | None] = []
        masses = []
        for i in range(len(outputs)):
            five = found[i * len(SCORES) : (i + 1) * len(SCORES)]
            weights = [math.exp(score.logprob) for score in five]
            masses.append(sum(weights))
            scores.append(_expected(weights))
        finite = [mass for mass in masses if math.isfinite(mass)]
        _check_finite(len(masses) - len(finite), len(masses))
        silent = sum(score is None for score in scores)
        return Judgement(
            scores,
            notes={"least_mass": min(finite, default=None)},
            warnings=[f"the judge gave no verdict on {silent} answers"] if silent else [],
        )


def _prompt(rubric: str, sample: Sample, output: Output) -> str:
    return (
        f"{rubric.strip()}\n\nQuestion: {sample.question}\n"
        f"Reference answer: {sample.reference}\nAnswer to rate: {output.text}\n\n"
        "Give one score from 1 to 5."
    )


def _request(tokenizer: object, text: str, score: int) -> tuple[list[int], list[int]]:
    """The prompt's tokens and those of the score after it."""
    from harness.data.tokenization import encode_pair, encode_text

    pair = encode_pair(
        tokenizer,
        text,
        f" {score}",
        lambda whole: encode_text(tokenizer, whole, add_special_tokens=False),
    )
    return pair.context, pair.continuation


def _check_finite(broken: int, answers: int) -> None:
    from harness.errors import CellFailed
    from harness.evaluation.tasks.protocol import MISSING_BUDGET

    if broken > MISSING_BUDGET * answers:
        raise CellFailed(
            f"the judge cannot rate {broken} of {answers} answers: its log-probabilities are not "
            "finite; look for NaN or infinity in its weights"
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
