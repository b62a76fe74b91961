"""Multiple choice: the likeliest continuation of a question is the model's answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.api.model import Model
from harness.api.task import Need, Requests, Suite, SuiteExample, TaskTools
from harness.api.tools import Tools
from harness.config.strict_yaml import Located
from harness.data.tokenization import Pair, encode_pair
from harness.errors import DataError, UserError
from harness.evaluation.tasks.examples import CHOICES, jsonl
from harness.evaluation.tasks.sample_rows import PROBABILITY, right_probability
from harness.evaluation.tasks.sample_task import DataSettings, SampleTask, plain
from harness.hookspecs import hookimpl
from harness.types import Metric, Sample, SuiteResult

METRICS = (
    Metric("acc", True, "share"),
    Metric("acc_norm", True, "share"),
    Metric(PROBABILITY, True, bounds=(0.0, 1.0)),
)
"""Of every suite."""

EXAMPLE = """\
ask: choice  # the likeliest of several choices is the model's answer
data: {name}.jsonl  # rows with question, choices, answer (a number from 0, or A, B, C ...)
prompt: "Question: {{question}}\\nAnswer:"  # what each choice is appended to, after a space
"""


class ChoiceSettings(DataSettings):
    """A suite with `ask: choice`."""

    prompt: str = "Question: {question}\nAnswer:"
    """What each choice is appended to, after a space."""


class Choice(SampleTask[ChoiceSettings]):
    """Scores each choice after the question."""

    name = "choice"
    Settings = ChoiceSettings

    def check(self, settings: ChoiceSettings, located: Located) -> None:
        """The prompt must have a place for the question."""
        super().check(settings, located)
        if "{question}" not in settings.prompt:
            raise located.error("prompt: has no {question}, where each row's goes", ("prompt",))

    def content(self, suite: Suite) -> list[dict[str, object]]:
        """The samples, each with choices. Raises DataError for one without."""
        samples = self.samples(suite)
        for sample in samples:
            if sample.choices is None or sample.answer is None:
                raise DataError(f"sample {sample.id} has no choices and answer", file=suite.file)
        return [plain(sample) for sample in samples]

    def dependencies(self, suite: Suite) -> Mapping[str, object]:
        """What `acc_norm` divides by, where that is not what it once was: bytes."""
        choices = [choice for sample in self.samples(suite) for choice in sample.choices or ()]
        return {} if all(map(str.isascii, choices)) else {"acc_norm": "characters"}

    def needs(self, suite: Suite) -> frozenset[Need]:
        """Which choice is likeliest."""
        return frozenset({"choices"})

    def metrics(self, suite: Suite) -> list[str]:
        """Three; of choices that are asked by their letters two."""
        return [metric.name for metric in _metrics(suite)]

    def example(self, name: str) -> SuiteExample:
        """Three questions of general knowledge."""
        return SuiteExample(EXAMPLE.format(name=name), {f"{name}.jsonl": jsonl(CHOICES)})

    def requests(self, suite: Suite, model: Model) -> Requests:
        """A scored pair for each choice of each sample.

        Raises UserError where a choice has no token, or two of a sample have the same.
        """
        samples, template = self.samples(suite), self.settings(suite).prompt
        pairs: list[tuple[list[int], list[int]]] = []
        apart = 0
        for sample in samples:
            prompt = template.replace("{question}", sample.question)
            own = [_pair(model.tokenizer, prompt, text, sample) for text in sample.choices or ()]
            _check_distinct(own, sample)
            apart += sum(pair.apart for pair in own)
            pairs += [(pair.context, pair.continuation) for pair in own]
        return Requests(pairs=pairs, state=(samples, apart))

    def score(self, suite: Suite, requests: Requests, tools: TaskTools) -> SuiteResult:
        """`acc`: the likeliest choice is right; `acc_norm`: the likeliest per character (lm-eval).

        `probability`: of the right choice among the choices (`right_probability`).
        """
        samples, apart = requests.state
        rows, at = [], 0
        for sample in samples:
            choices = sample.choices
            logprobs = [s.logprob for s in requests.scores[at : at + len(choices)]]
            at += len(choices)
            rows.append(self._scored(suite, sample, logprobs))
        notes = {"encoded_apart": apart} if apart else {}
        warnings = [_joined(apart, len(requests.pairs))] if apart else []
        return SuiteResult(rows, _metrics(suite), notes, warnings)

    def rescore(
        self, suite: Suite, rows: Sequence[Mapping[str, Any]], tools: Tools, *, models: bool
    ) -> SuiteResult:
        """The questions, and the scores of the recorded log-probabilities."""
        by_id = {sample.id: sample for sample in self.samples(suite)}
        known = [row for row in rows if row["id"] in by_id]
        return SuiteResult(
            [
                self._scored(suite, by_id[row["id"]], row["logprobs"])
                for row in known
                if "missing" not in row
            ],
            _metrics(suite),
        )

    def _scored(self, suite: Suite, sample: Sample, logprobs: Sequence[float]) -> dict[str, object]:
        """The row of a sample whose choices have these log-probabilities."""
        choices, answer = sample.choices, sample.answer
        assert choices is not None
        assert answer is not None
        each = [value / len(c) for value, c in zip(logprobs, choices, strict=True)]
        best = max(range(len(choices)), key=logprobs.__getitem__)
        normed = max(range(len(choices)), key=each.__getitem__)
        scores = {
            "acc": float(best == answer),
            "acc_norm": float(normed == answer),
            PROBABILITY: right_probability(logprobs, [answer]),
        }
        scores = {metric.name: scores[metric.name] for metric in _metrics(suite)}
        return self.row(suite, sample, output=choices[best], logprobs=logprobs, scores=scores)


def _metrics(suite: Suite) -> Sequence[Metric]:
    """Letters have no length that `acc_norm` could divide by."""
    return [metric for metric in METRICS if not (suite.by_letters and metric.name == "acc_norm")]


def _pair(tokenizer: Any, prompt: str, choice: str, sample: Sample) -> Pair:
    try:
        return encode_pair(tokenizer, prompt, f" {choice}")
    except UserError as error:
        raise UserError(f"sample {sample.id}: {error}") from error


def _check_distinct(pairs: Sequence[Pair], sample: Sample) -> None:
    """Choices of the same tokens have the same probability, and the first would always win."""
    first: dict[tuple[int, ...], str] = {}
    for pair, choice in zip(pairs, sample.choices or (), strict=True):
        known = first.setdefault(tuple(pair.continuation), choice)
        if known != choice:
            raise UserError(
                f"sample {sample.id}: the tokenizer writes the choices {known!r} and {choice!r} "
                "as the same tokens, so the model cannot tell them apart: write them otherwise"
            )


def _joined(apart: int, total: int) -> str:
    return (
        f"{apart} of {total} choices begin within a token that also ends the prompt: they were "
        "encoded on their own; a prompt that ends in a line break avoids that"
    )


@hookimpl
def register_tasks(register: Callable[[Any], None]) -> None:
    """`ask: choice`."""
    register(Choice())
