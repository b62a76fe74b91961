"""A judge certified on labelled answers: `python -m harness.evaluation.judging.certify`.

The child process reads a Request on standard input; the last line that it prints is the certificate
as JSON. It exits 2 with one line on standard error where the judge cannot be certified.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.api.judge import Judge, Judgement, JudgeOptions
from harness.api.task import Suite
from harness.errors import PluginFault, UserError
from harness.evaluation.judging import certificate, endpoint, labels
from harness.evaluation.judging.certificate import Preference
from harness.evaluation.judging.certificates import keep, sheet
from harness.evaluation.judging.options import judge_of
from harness.evaluation.judging.panels.seats import each
from harness.manager import Plugins, plugins
from harness.system.child_process import answered, reply_to_stdin
from harness.types import ModelRef, Output, Precision, Sample

__all__ = ["RUBRIC", "Request", "certify", "lent", "of_judge", "opened", "run", "suite_of"]

RUBRIC = """\
Rate how well an answer of a shop's customer support agrees with the reference answer.
5: the same facts, with the same numbers and names.
3: on the subject, but a fact is missing or vague.
1: wrong facts, or not on the subject."""
"""What a judge that no suite sets up is asked of the bundled labelled answers."""


UNEXPECTED = "the judge does not run"
"""Before an error of a judge that nobody foresaw."""


@dataclass
class Request:
    """Who is certified, and on what."""

    suite: Suite
    """Its judge."""
    model: ModelRef | None
    """What judges where the suite says `base`."""
    labels: str
    """A file of labelled pairs."""
    batch: int | None = None
    precision: Precision = "float32"

    @property
    def judging(self) -> ModelRef | None:
        """The model that judges; None where all judges are behind endpoints.

        Of a panel the one of those who name none, else the first in this process. Raises UserError
        where none is named.
        """
        here = [one for one in each(self.suite) if one.judge_endpoint is None]
        if not here:
            return None
        named = [one.judge_model for one in here if one.judge_model is not None]
        model = named[0] if len(named) == len(here) else self.model
        if model is None:
            raise UserError(
                f"{self.suite.file or self.suite.judge}: its judge is `base`, the base of whatever "
                "is judged: say which with --model MODEL"
            )
        return model


def suite_of(name: str, known: Plugins, options: Mapping[str, object] | None = None) -> Suite:
    """A suite of the registered judge `name` with `options`, by default `RUBRIC`, and nothing else.

    Raises UserError for a judge that needs more options than these.
    """
    from pydantic import ValidationError

    judge: Judge = known.judges.get(name)
    try:
        own = judge.with_options(options or JudgeOptions(rubric=RUBRIC).model_dump())
    except ValidationError as error:
        wrong = error.errors()[0]
        raise UserError(
            f"judge '{name}': {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}: certify a suite "
            "whose `judge:` has it"
        ) from None
    return Suite(
        name=name, file="", settings={}, judge=name, judge_options=own.options.model_dump()
    )


def certify(request: Request) -> dict[str, Any]:
    """The certificate, measured in a child process and kept in the cache.

    Raises UserError for a labelled set or a judge that is wrong, before a model is loaded.
    """
    from pydantic import TypeAdapter

    _ = request.judging
    judge = judge_of(request.suite, plugins())
    assert judge is not None
    judge.check([sample for pair in _pairs(request) for sample in (_sample(pair),)])
    asked = TypeAdapter(Request).dump_json(request)
    return answered("harness.evaluation.judging.certify", asked, "the certification was killed")


def _pairs(request: Request) -> Sequence[labels.Pair]:
    return labels.read(Path(request.labels)).pairs


def _sample(pair: labels.Pair) -> Sample:
    return Sample(pair.id, prompt=pair.question, reference=pair.reference)


def run(request: Request) -> dict[str, Any]:
    """Ask the judge, and keep what comes of it."""
    from harness.system.environment import environment
    from harness.system.measure import Meter

    labelled = labels.read(Path(request.labels))
    judge = judge_of(request.suite, plugins())
    meter = Meter()
    with opened(request, meter) as (bench, own):
        with meter.phase("judge"):
            found = of_judge(judge, lent(bench), labelled, {own})
        passes = dict(bench.info())
    whole = sheet(request.suite, request.judging, plugins()) | found
    whole |= {
        "precision": request.precision,
        "passes": passes,
        "seconds": {name: phase["seconds"] for name, phase in meter.phases.items()},
        "environment": environment(),
    }
    keep(whole)
    return whole


@contextlib.contextmanager
def opened(request: Request, meter: Any) -> Iterator[tuple[Any, str]]:
    """What lends the judge its model, here or behind an endpoint, and the model's name."""
    suite, model = request.suite, request.judging
    if model is None:
        behind = [one.judge_endpoint for one in each(suite)]
        names = [str(settings["model"]) for settings in behind if settings is not None]
        yield _Remote([endpoint.backend_of(one) for one in each(suite)]), names[0]
        return
    from harness.evaluation.evaluate import Bench
    from harness.models.quantization import with_precision
    from harness.types import Artifact

    quantised = with_precision(suite.judge_quantization, request.precision)
    artifact = Artifact("base", model, quantization=quantised, precision=request.precision)
    with meter.phase("load"):
        opened = plugins().open_model(artifact, request.batch)
    bench = Bench(opened, artifact, lambda **_: None, request.batch)
    bench.begin(suite)
    try:
        yield _Local(bench), model.name
    finally:
        bench.close()


@dataclass
class _Local:
    """A worker's bench."""

    bench: Any

    def info(self) -> Mapping[str, Any]:
        """How the passes ran."""
        info: Mapping[str, Any] = self.bench.model.info()
        return info

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bench, name)


@dataclass
class _Remote:
    """What judges behind endpoints need; they have no model in this process."""

    backends: Sequence[Any]
    seat: int = 0

    def sit(self, seat: int | None) -> None:
        """Lend the endpoint of that judge of a panel."""
        self.seat = seat or 0

    def judge_backend(self) -> Any:
        """The endpoint."""
        return self.backends[self.seat]

    def progress(self, done: int, total: int) -> None:
        """Not shown."""

    def info(self) -> Mapping[str, Any]:
        """What was asked, and what it cost."""
        infos: list[Mapping[str, Any]] = [backend.info() for backend in self.backends]
        return infos[0] if len(infos) == 1 else {"judges": infos}


def of_judge(
    judge: Judge | None, tools: Any, labelled: labels.LabelledSet, own: set[str]
) -> dict[str, Any]:
    """A registered judge's certificate; `tools` lend it its model and the answers to compare with.

    Raises UserError for labelled pairs that it cannot judge, PluginFault for a judge that gives
    something else than it should.
    """
    assert judge is not None
    judge = judge.comparing() or judge
    judge.check([_sample(pair) for pair in labelled.pairs])
    asking = _Asking(judge, tools, Counter())
    if judge.asks_base:
        found = certificate.of_comparer(asking.compare, labelled, own)
    else:
        found = certificate.of_rater(asking.rate, labelled, own)
    return found | {"missing": dict(asking.missing.most_common()), "notes": asking.notes()}


@dataclass
class _Tools:
    """What a worker lends, with the other answer of each pair in the place of the base's."""

    bench: Any
    others: Sequence[str] = ()

    def base_answers(self) -> list[str]:
        """The answers that the judge compares with."""
        return list(self.others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bench, name)


@dataclass
class _Asking:
    """A judge as the functions that a certificate is measured with."""

    judge: Judge
    tools: Any
    missing: Counter[str]
    """Why there was no verdict, over all questions."""
    last: Judgement | None = None

    def rate(self, outputs: Sequence[Output], samples: Sequence[Sample]) -> Sequence[float | None]:
        """The judge's scores."""
        return self._judged(outputs, samples).scores

    def compare(
        self, outputs: Sequence[Output], samples: Sequence[Sample], others: Sequence[str]
    ) -> list[Preference]:
        """The judge's preferences, from the rows that it keeps of both orders."""
        self.tools.others = others
        verdict = self._judged(outputs, samples)
        kept = [row.get("preferred") for row in verdict.rows]
        if len(kept) != len(outputs) or not all(isinstance(one, Mapping) for one in kept):
            raise PluginFault(
                f"judge '{self.judge.name}' keeps no `preferred` of both orders in its rows, so "
                "that its position consistency cannot be measured"
            )
        return [Preference(one.get("first"), one.get("second")) for one in kept if one]

    def notes(self) -> dict[str, Any]:
        """What the judge says of the backend that it asked, for one."""
        return dict(self.last.notes) if self.last else {}

    def _judged(self, outputs: Sequence[Output], samples: Sequence[Sample]) -> Judgement:
        rubric = self.judge.options.rubric
        verdict = self.judge.judge(outputs, samples, rubric=rubric, tools=self.tools)
        if not isinstance(verdict, Judgement) or len(verdict.scores) != len(outputs):
            raise PluginFault(
                f"judge '{self.judge.name}' gave {repr(verdict)[:100]}, not a Judgement of "
                f"{len(outputs)} answers"
            )
        self.missing.update(reason for reason in verdict.missing if reason)
        self.last = verdict
        return verdict


def lent(bench: Any) -> Any:
    """What a bench lends a judge that is certified."""
    return _Tools(bench)


def main() -> int:
    """Certify what standard input asks for."""
    from pydantic import TypeAdapter

    return reply_to_stdin(
        lambda asked: run(TypeAdapter(Request).validate_json(asked)), unexpected=UNEXPECTED
    )


if __name__ == "__main__":
    sys.exit(main())
