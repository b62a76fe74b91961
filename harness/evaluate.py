"""Runs suites on a model: one generation pass, one log-likelihood pass, then the scoring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from harness import asks
from harness.asks import Question
from harness.manager import plugins
from harness.suite import Suite
from harness.types import Artifact, SuiteResult

Report = Callable[..., None]
Phase = Callable[[str], AbstractContextManager[None]]


@dataclass
class SuiteFailure:
    """A suite that broke; what the others measured stands."""

    error: Exception


def evaluate(
    artifact: Artifact, suites: Sequence[Suite], phase: Phase, report: Report
) -> dict[str, SuiteResult | SuiteFailure]:
    """Every suite's result on the model that `artifact` describes.

    Prompts and scored pairs that several suites share run once. Phases: `reload`, `generate`,
    `loglikelihood`, and one of each suite's name for its scoring. Raises what opening the model
    or a shared pass raises; an exception in one suite's own scoring is its SuiteFailure.
    """
    with phase("reload"):
        model = plugins().manager.hook.open_model(artifact=artifact)
    bench = Bench(model, artifact, report)
    results: dict[str, SuiteResult | SuiteFailure] = {}
    questions = {}
    for suite in suites:
        try:
            with phase(suite.name):
                questions[suite.name] = asks.module(suite["ask"]).ask(suite, model)
        except Exception as error:
            results[suite.name] = SuiteFailure(error)
    with phase("generate"):
        _generate(bench, questions.values())
    with phase("loglikelihood"):
        _score(bench, questions.values())
    # A judge of its own takes the place of the judged model, so the judged go first.
    for suite in sorted(suites, key=lambda s: s["judge"] is not None):
        if suite.name not in questions:
            continue
        bench.suite = suite
        report(activity=suite.name)
        try:
            with phase(suite.name):
                module = asks.module(suite["ask"])
                results[suite.name] = module.answer(suite, questions[suite.name], bench)
        except Exception as error:
            results[suite.name] = SuiteFailure(error)
    bench.close()
    return {suite.name: results[suite.name] for suite in suites}


def _generate(bench: Bench, questions: Iterable[Question]) -> None:
    """One pass for each cap on new tokens; equal prompts are generated once."""
    asked = [question for question in questions if question.prompts]
    bench.report(activity="generate")
    for cap in sorted({question.max_new_tokens for question in asked}):
        same = [question for question in asked if question.max_new_tokens == cap]
        distinct = list(dict.fromkeys(tuple(p) for q in same for p in q.prompts))
        answers = dict(
            zip(
                distinct,
                bench.model.generate(distinct, max_new_tokens=cap, progress=bench.progress),
                strict=True,
            )
        )
        for question in same:
            question.generated = [answers[tuple(p)] for p in question.prompts]


def _score(bench: Bench, questions: Iterable[Question]) -> None:
    asked = [question for question in questions if question.pairs]
    bench.report(activity="loglikelihood")
    pairs = [pair for question in asked for pair in question.pairs]
    scores = iter(bench.model.loglikelihood(pairs, bench.progress) if pairs else [])
    for question in asked:
        question.scores = [next(scores) for _ in question.pairs]


class Bench:
    """The worker's Tools: the model under test, the embedder and the judge's model."""

    def __init__(self, model: Any, artifact: Artifact, report: Report) -> None:
        self.model = model
        self.artifact = artifact
        self.report = report
        self.suite: Suite | None = None
        self._decode = model.decode
        self._embedders: dict[str, Any] = {}
        self._judge: tuple[Artifact, Any] | None = None

    def progress(self, done: int, total: int) -> None:
        """Feeds the live progress."""
        self.report(done=done, total=total)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer; works after the model has made room for the judge."""
        return str(self._decode(ids))

    def embed(self, texts: Sequence[str]) -> Any:
        """(texts, dimensions) float32 unit vectors of the suite's embedder."""
        assert self.suite is not None
        assert self.suite.embedder is not None
        path = self.suite.embedder.path
        if path not in self._embedders:
            from sentence_transformers import SentenceTransformer

            self._embedders[path] = SentenceTransformer(path)
        return self._embedders[path].encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        )

    def judge_model(self) -> Any:
        """The judge's model, opened when first asked for; the judged one is closed for it."""
        wanted = self._judge_artifact()
        if wanted == _as_base(self.artifact) and self.artifact.kind == "base":
            return self.model
        if self._judge is None or self._judge[0] != wanted:
            self.close()
            self._judge = (wanted, plugins().manager.hook.open_model(artifact=wanted))
        return self._judge[1]

    def judge_identity(self) -> dict[str, Any]:
        """Who judged; `self_judged` where judge and judged share a base."""
        judge = self._judge_artifact().base
        same = (judge.path, judge.content_hash) == (
            self.artifact.base.path,
            self.artifact.base.content_hash,
        )
        return {"model": judge.name, "content_hash": judge.content_hash, "self_judged": same}

    def close(self) -> None:
        """Free the models."""
        for model in [self.model, *([self._judge[1]] if self._judge else [])]:
            model.close()

    def _judge_artifact(self) -> Artifact:
        assert self.suite is not None
        if self.suite.judge_model is None:
            return _as_base(self.artifact)
        return Artifact("base", self.suite.judge_model, precision=self.artifact.precision)


def _as_base(artifact: Artifact) -> Artifact:
    return Artifact(
        "base",
        artifact.base,
        precision=artifact.precision,
        chat_template=artifact.chat_template,
    )
