"""A judge that needs no API: the expected score under a local model's probabilities."""

from collections.abc import Callable, Sequence

from harness import (
    Judge,
    Judgement,
    Output,
    Question,
    Sample,
    Tools,
    hookimpl,
)

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
        questions = [
            _question(rubric, sample, output)
            for output, sample in zip(outputs, samples, strict=True)
        ]
        replies = tools.judge_backend().ask(questions, tools.progress)
        scores: list[float | None] = []
        masses = []
        for reply in replies:
            if reply.weights is None:
                scores.append(None)
                continue
            weights = list(reply.weights.values())
            masses.append(sum(weights))
            scores.append(_expected(weights))
        silent = sum(score is None for score in scores)
        return Judgement(
            scores,
            notes={"least_mass": min(masses, default=None)},
            warnings=[f"the judge gave no verdict on {silent} answers"] if silent else [],
            not_finite=sum(reply.missing == "not_finite" for reply in replies),
        )


def _question(rubric: str, sample: Sample, output: Output) -> Question:
    text = (
        f"{rubric.strip()}\n\nQuestion: {sample.question}\n"
        f"Reference answer: {sample.reference}\nAnswer to rate: {output.text}\n\n"
        "Give one score from 1 to 5."
    )
    return Question(
        [{"role": "user", "content": text}],
        [str(score) for score in SCORES],
        start="Score:",
        literal=False,  # a text that spells a special token keeps the score that it always had
    )


def _expected(weights: Sequence[float]) -> float | None:
    mass = sum(weights)
    if mass < LEAST_MASS:
        return None
    return sum(s * w for s, w in zip(SCORES, weights, strict=True)) / mass


@hookimpl
def register_judges(register: Callable[[Judge], None]) -> None:
    """The judge `expected_score`."""
    register(ExpectedScore())
