"""Runs suites on a model, one after the other, and yields each as soon as it is scored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.api.judge import JudgeBackend
from harness.api.model import Generation, Model
from harness.api.task import Requests, Suite
from harness.data.tokenization import tokenizer_hash
from harness.errors import CellFailed, UserError
from harness.evaluation.blocks.resuming import ANSWERS, LIKELIHOODS, Keeping, Resuming
from harness.evaluation.embedding import Embedder
from harness.evaluation.judging import endpoint
from harness.evaluation.judging.endpoint import EndpointBackend
from harness.evaluation.judging.local import LocalBackend
from harness.evaluation.judging.panels.seats import seated
from harness.evaluation.judging.rows.opponents import Opponent, digest, of_record, read
from harness.evaluation.served.model import ServedModel
from harness.evaluation.suite import engine_of, task_of
from harness.evaluation.tasks import reasoning
from harness.evaluation.tasks.sample_rows import within_budget
from harness.manager import plugins
from harness.models.quantization import with_precision
from harness.types import Artifact, ModelRef, SuiteResult

Report = Callable[..., None]
Phase = Callable[[str], AbstractContextManager[None]]
EMPTY: Mapping[str, Opponent] = MappingProxyType({})
PHASES = {ANSWERS: "generate", LIKELIHOODS: "loglikelihood"}
"""Kind of blocks -> the phase in which they are computed."""


@dataclass(frozen=True)
class SuiteFailure:
    """A suite that failed; the results of the others are kept."""

    error: Exception
    phase: str
    """`generate`, `loglikelihood` or the suite's name."""


@dataclass(frozen=True)
class Measured:
    """One suite, finished or failed."""

    suite: Suite
    result: SuiteResult | SuiteFailure
    tokenizer_hash: str
    """Of the model that was measured."""
    passes: Mapping[str, object]
    """How its forward passes ran: batch, shared prefixes."""
    doubts: Sequence[str] = ()
    """What is doubtful about the model as it was opened: lines for the record."""


def evaluate(
    artifact: Artifact,
    suites: Sequence[Suite],
    phase: Phase,
    report: Report,
    batch: int | None = None,
    opponents: Mapping[str, Opponent] = EMPTY,
    keeping: Keeping | None = None,
) -> Iterator[Measured]:
    """Every suite's result on the model that `artifact` describes, each as soon as it is scored.

    At most `batch` sequences run at once; None means what memory allows. `opponents` are the rows,
    by suite, whose stored answers judges compare with. Suites with a judge come
    last, for its model takes the place of the judged one. A prompt that several suites ask runs
    once. With `keeping` finished blocks of answers are kept, and those that are there are not
    computed again. Phases: `reload`, `generate`, `loglikelihood`, and one of each
    suite's name for its scoring. Suites of one engine run together, those of this process's passes
    first; each engine opens the model anew. Raises what opening the model raises; an exception in a
    suite is its SuiteFailure.
    """
    for engine in _engines(suites):
        own = [suite for suite in suites if engine_of(suite) == engine]
        how = (phase, report, batch, opponents, keeping)
        with opened(replace(artifact, engine=engine), *how) as bench:
            model = bench.model
            for group in _groups(own):
                for suite, result in _batch(bench, group, phase):
                    doubts = getattr(model, "warnings", ())
                    yield Measured(suite, result, bench.tokenizer_hash, model.info(), doubts)


def help_with(
    artifact: Artifact,
    suites: Sequence[Suite],
    phase: Phase,
    report: Report,
    batch: int | None,
    keeping: Keeping,
) -> None:
    """Compute blocks of suites that another worker runs, and keep them; nothing is scored.

    Judges ask only where all answers are there, so that they are left to that worker. Raises
    Stopped once that one needs no help any more.
    """
    for engine in _engines(suites):
        own = [suite for suite in suites if engine_of(suite) == engine]
        how = (phase, report, batch, EMPTY, keeping)
        with opened(replace(artifact, engine=engine), *how) as bench:
            for group in _groups(own):
                asked = []
                for suite in group:
                    bench.begin(suite)
                    task = task_of(suite, plugins())
                    asked.append(requests := task.requests(suite, bench.model))
                    if not (requests.prompts or requests.pairs):  # it asks while it scores
                        with suppress(Exception):  # what others compute is not known here
                            task.score(suite, requests, bench)
                bench.generate(asked, phase)
                bench.score(asked, phase)


def _engines(suites: Sequence[Suite]) -> list[str | None]:
    """Those that answer the suites, this process's passes first."""
    return sorted({engine_of(suite) for suite in suites}, key=lambda name: name or "")


def _groups(suites: Sequence[Suite]) -> list[list[Suite]]:
    """What asks together: each suite by itself, and last those whose judge takes the place of the
    model."""
    judged = [suite for suite in suites if suite.judge is not None]
    return [*([suite] for suite in suites if suite not in judged), judged]


@contextmanager
def opened(
    artifact: Artifact,
    phase: Phase,
    report: Report,
    batch: int | None = None,
    opponents: Mapping[str, Opponent] = EMPTY,
    keeping: Keeping | None = None,
) -> Iterator[Bench]:
    """The model of an artifact, open for requests; closed at the end."""
    with phase("reload"):
        model = plugins().open_model(artifact, batch)
        bench = Bench(model, artifact, report, batch, opponents, keeping)
    try:
        yield bench
    finally:
        bench.close()


def rows(bench: Bench, suite: Suite, phase: Phase) -> Sequence[Mapping[str, Any]]:
    """The sample rows of one suite. Raises what its requests and scoring raise.

    UserError where another engine is to answer it than that of the open model.
    """
    if engine_of(suite) != bench.artifact.engine:
        raise UserError(
            f"suite '{suite.name}' is answered by engine '{engine_of(suite)}', and the model is "
            "open without it: leave the suite's engine out, or the suite"
        )
    ((_, result),) = _batch(bench, [suite], phase)
    if isinstance(result, SuiteFailure):
        raise result.error
    return result.rows


def _batch(
    bench: Bench, suites: Sequence[Suite], phase: Phase
) -> Iterator[tuple[Suite, SuiteResult | SuiteFailure]]:
    """Run the requests of suites in one batch and score each suite."""
    prepared: list[tuple[Suite, Requests]] = []
    for suite in suites:
        bench.begin(suite)
        try:
            with phase(suite.name):
                prepared.append((suite, task_of(suite, plugins()).requests(suite, bench.model)))
        except Exception as error:
            yield suite, SuiteFailure(error, suite.name)
    batched = [requests for _, requests in prepared]
    for name, run in (("generate", bench.generate), ("loglikelihood", bench.score)):
        try:
            run(batched, phase)
        except Exception as error:
            yield from ((suite, SuiteFailure(error, name)) for suite, _ in prepared)
            return
    for suite, requests in prepared:
        bench.begin(suite)
        result: SuiteResult | SuiteFailure
        try:
            with phase(suite.name):
                scored = task_of(suite, plugins()).score(suite, requests, bench)
                if isinstance(bench.model, ServedModel):
                    scored = bench.model.told(scored)
                result = within_budget(suite.name, scored)
        except Exception as error:
            result = SuiteFailure(error, suite.name)
        yield suite, result


class Bench:
    """The worker's Tools: the model under test, the embedder and the judge's model."""

    def __init__(
        self,
        model: Model,
        artifact: Artifact,
        report: Report,
        batch: int | None = None,
        opponents: Mapping[str, Opponent] = EMPTY,
        keeping: Keeping | None = None,
    ) -> None:
        self.model = keeping.wrap(model, artifact) if keeping else model
        self._keeping = keeping
        self.artifact = artifact
        self.report = report
        self.batch = batch
        self._opponents = opponents
        self._compared: dict[str, dict[str, Any]] = {}
        """Suite -> whose answers its judge compared with, for the record."""
        self.suite: Suite | None = None
        self.tokenizer_hash = tokenizer_hash(model.tokenizer)
        self._answers: dict[tuple[int, tuple[int, ...]], Generation] = {}
        self._embedder = Embedder()
        self._other: tuple[Artifact, Model] | None = None
        """What took the place of the model under test: a judge, or the base."""
        self._begun: Suite | None = None
        """The suite that is served, with all judges of its panel."""
        self._seat: int | None = None
        """Which of these is served now."""
        self._endpoints: dict[tuple[str, int | None], EndpointBackend] = {}
        """By suite and seat: what one spends counts against its own budget."""
        self._base_texts: dict[str, list[str]] = {}
        """By suite: the base's answers, for it may have to be opened for them."""
        self._closed = False
        """Whether the model under test made room for another."""

    def begin(self, suite: Suite) -> None:
        """Serve this suite from now on."""
        self.suite = self._begun = suite
        self._seat = None
        self._embedder.forget()
        self.report(activity=suite.name)

    def generate(self, batched: Collection[Requests], phase: Phase) -> None:
        """Answer prompts, by their caps on new tokens; answers to repeated prompts are reused."""
        prompting = [requests for requests in batched if requests.prompts]
        for cap in sorted({requests.max_new_tokens for requests in prompting}):
            same = [requests for requests in prompting if requests.max_new_tokens == cap]
            distinct = dict.fromkeys(tuple(prompt) for r in same for prompt in r.prompts)
            new = [prompt for prompt in distinct if (cap, prompt) not in self._answers]
            if new and isinstance(self.model, Resuming):
                new = list(distinct)  # blocks are cut alike whatever was asked before; see there
            if new:
                with phase("generate"):
                    answers = self.model.generate(new, max_new_tokens=cap, progress=self.progress)
                self._answers |= {(cap, p): a for p, a in zip(new, answers, strict=True)}
            for requests in same:
                requests.generated = [self._answers[cap, tuple(p)] for p in requests.prompts]

    def score(self, batched: Collection[Requests], phase: Phase) -> None:
        """Log-likelihoods of the pairs, in one pass."""
        pairs = [pair for requests in batched for pair in requests.pairs]
        if not pairs:
            return
        with phase("loglikelihood"):
            scores = iter(self.model.loglikelihood(pairs, self.progress))
        for requests in batched:
            requests.scores = [next(scores) for _ in requests.pairs]

    def progress(self, done: int, total: int) -> None:
        """Feeds the live progress."""
        self.report(done=done, total=total)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of an answer; works after the model has made room for the judge."""
        return self.model.text(ids).strip()

    def embed(self, texts: Sequence[str]) -> Any:
        """(texts, dimensions) float32 unit vectors of the suite's embedder; a text runs once."""
        return self._embedder.embed(self._embedding_model(), texts)

    def cut_by_embedder(self, texts: Sequence[str]) -> tuple[int, int | None]:
        """How many of the texts are longer than the suite's embedder reads, and its most tokens.

        Its own two marks count among them. (0, None) where it states no length.
        """
        model = self._embedder.opened(self._embedding_model())
        most, tokenizer = model.max_seq_length, model.tokenizer
        # static embeddings have another sort of tokenizer, and no length
        if most is None or not texts or not hasattr(tokenizer, "model_max_length"):
            return 0, None
        encoded = tokenizer([text.strip() for text in texts], truncation=False, verbose=False)
        return sum(len(ids) > most for ids in encoded["input_ids"]), int(most)

    def _embedding_model(self) -> ModelRef:
        assert self.suite is not None
        assert self.suite.embedder is not None
        return self.suite.embedder

    def judge_model(self) -> Model:
        """The judge's model, opened on first use; the judged one is closed for it.

        Raises UserError where it is behind an endpoint.
        """
        assert self.suite is not None
        if self.suite.judge_endpoint is not None:
            raise UserError(
                f"judge '{self.suite.judge}' reads a model in this process: leave judge.endpoint "
                f"out of suite '{self.suite.name}', or name a judge that asks one"
            )
        return self._open(self._judge_artifact())

    def sit(self, seat: int | None) -> None:
        """Serve one judge of the suite's panel from now on; None: the suite as a whole."""
        assert self._begun is not None
        self.suite = self._begun if seat is None else seated(self._begun, seat)
        self._seat = seat

    def judge_backend(self) -> JudgeBackend:
        """What answers the suite's judge: its model, in this process or behind an endpoint."""
        assert self.suite is not None
        if self.suite.judge_endpoint is not None:
            who = (self.suite.name, self._seat)
            if who not in self._endpoints:
                self._endpoints[who] = endpoint.backend_of(self.suite, keeping=True)
            return self._endpoints[who]
        return LocalBackend(self.judge_model())

    def base_answers(self) -> list[str]:
        """The untouched base's answers to the suite's samples, by the suite's decoding.

        Those that its own cell has stored of this suite, else the base is asked itself, so that no
        other record must be there.
        """
        assert self.suite is not None
        suite = self.suite
        if suite.name in self._opponents:
            return self._stored_answers(self._opponents[suite.name])
        if suite.name not in self._base_texts:
            self._base_texts[suite.name] = self._asked_base(suite)
        return self._noted(self._base_texts[suite.name], None)

    def _asked_base(self, suite: Suite) -> list[str]:
        own = self.artifact
        quantised = with_precision(suite.base_quantization, own.precision)
        wanted = Artifact(
            "base",
            own.base,
            quantization=quantised,
            precision=own.precision,
            chat_template=own.chat_template,
            engine=own.engine,
        )
        model = self._open(wanted)
        requests = task_of(suite, plugins()).requests(suite, model)
        cap, prompts = requests.max_new_tokens, [tuple(prompt) for prompt in requests.prompts]
        known = {(cap, p): a for (c, p), a in self._answers.items() if c == cap}
        if model is not self.model:
            new = list(dict.fromkeys(prompts))
            answers = model.generate(new, max_new_tokens=cap, progress=self.progress)
            known = {(cap, p): a for p, a in zip(new, answers, strict=True)}
        return [_final_text(suite, model, prompt, known[cap, prompt]) for prompt in prompts]

    def row_answers(self) -> list[str]:
        """The stored answers of the row that the suite's judge compares with.

        Raises CellFailed where that row has none.
        """
        assert self.suite is not None
        suite = self.suite
        if suite.judge_record is not None:
            return self._stored_answers(of_record(Path(suite.judge_record)))
        if suite.name not in self._opponents:
            raise CellFailed(
                f"the row '{suite.judge_row}', which the judge compares with, has no answers to "
                f"suite '{suite.name}' here: run it again, or leave the suite out"
            )
        return self._stored_answers(self._opponents[suite.name])

    def _stored_answers(self, opponent: Opponent) -> list[str]:
        """Answers from a sample file; of the cell that is judged here its own."""
        assert self.suite is not None
        suite, task = self.suite, task_of(self.suite, plugins())
        if not opponent.own:
            cap = int(str(suite.settings["max_new_tokens"]))
            apart = reasoning.separates(suite.settings.get("reasoning"))
            answers = read(opponent, suite.name, task.samples(suite), cap, without_reasoning=apart)
            return self._noted(answers, opponent)
        requests = task.requests(suite, self.model)
        generated = self._answers
        texts = [
            _final_text(suite, self.model, p, generated[requests.max_new_tokens, tuple(p)])
            for p in requests.prompts
        ]
        return self._noted(texts, opponent)

    def _noted(self, answers: list[str], opponent: Opponent | None) -> list[str]:
        """The answers, which the record identifies."""
        assert self.suite is not None
        samples = task_of(self.suite, plugins()).samples(self.suite)
        self._compared[self.suite.name] = {
            "cell": opponent.cell if opponent else None,
            "sha256": digest(samples, answers),
        }
        return answers

    def judge_identity(self) -> dict[str, Any]:
        """Who judged; `self_judged` where judge and judged share a base.

        `compared` says with which cell's answers it compared, of None where the base was asked, and
        which answers those were.
        """
        assert self.suite is not None
        compared = self._compared.get(self.suite.name)
        return {**self._judging_model(), **({"compared": compared} if compared else {})}

    def _judging_model(self) -> dict[str, Any]:
        assert self.suite is not None
        panel = self.suite.judge_panel
        if not panel:
            return self._one_judging_model()
        judges = []
        for seat, one in enumerate(panel):
            self.sit(seat)
            found = {"label": one.label, "judge": one.judge, **self._one_judging_model()}
            if one.judge_endpoint is not None:
                found["backend"] = dict(self.judge_backend().info())
            judges.append(found)
        self.sit(None)
        return {
            "model": ", ".join(one.label for one in panel),
            "content_hash": None,
            "self_judged": any(judge["self_judged"] for judge in judges),
            "judges": judges,
        }

    def _one_judging_model(self) -> dict[str, Any]:
        assert self.suite is not None
        if self.suite.judge_endpoint is not None:
            model = self.suite.judge_endpoint["model"]
            return {"model": model, "content_hash": None, "self_judged": False}
        judge = self._judge_artifact().base
        same = (judge.path, judge.content_hash) == (
            self.artifact.base.path,
            self.artifact.base.content_hash,
        )
        identity = {"model": judge.name, "content_hash": judge.content_hash, "self_judged": same}
        quantised = self._judge_artifact().quantization
        return {**identity, "quantization": dict(quantised)} if quantised else identity

    def close(self) -> None:
        """Free the models."""
        for model in [self.model, *([self._other[1]] if self._other else [])]:
            model.close()
        self._other, self._closed = None, True

    def _open(self, wanted: Artifact) -> Model:
        """A model in the place of the one under test, or that one where it is the same."""
        if not self._closed and _opens_alike(wanted, self.artifact):
            return self.model
        if self._other is None or self._other[0] != wanted:
            self.close()
            other = plugins().open_model(wanted, self.batch)
            if self._keeping:
                other = self._keeping.wrap(other, wanted, shared=False)
            self._other = (wanted, other)
        return self._other[1]

    def _judge_artifact(self) -> Artifact:
        assert self.suite is not None
        own, other = self.artifact, self.suite.judge_model
        return Artifact(
            "base",
            own.base if other is None else other,
            quantization=with_precision(self.suite.judge_quantization, own.precision),
            precision=own.precision,
            chat_template=own.chat_template if other is None else None,
        )


def _final_text(suite: Suite, model: Model, prompt: Sequence[int], answer: Generation) -> str:
    """An answer as a judge reads it: without the reasoning before it."""
    return reasoning.final_text(suite.settings.get("reasoning"), model, prompt, answer)


def _opens_alike(one: Artifact, other: Artifact) -> bool:
    """Whether two artifacts open the same untrained model in the same way."""

    def opening(artifact: Artifact) -> tuple[object, ...]:
        quantised = dict(artifact.quantization or {})
        return (
            artifact.opened,
            quantised,
            artifact.precision,
            artifact.chat_template,
            artifact.engine,
        )

    return one.path is None and other.path is None and opening(one) == opening(other)
