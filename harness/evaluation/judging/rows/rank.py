"""The rows of a results folder ranked: `python -m harness.evaluation.judging.rows.rank`.

A pairwise judge is shown the stored answers of each two rows, in both orders, and strengths after
Bradley and Terry are fitted to its verdicts. The child process reads a Request on standard input;
the last line that it prints is the ranking as JSON. It exits 2 with one line on standard error.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.api.judge import Judge, JudgeBackend, Judgement, Question, Reply
from harness.api.model import Progress
from harness.api.task import Suite
from harness.errors import HarnessError, UserError
from harness.evaluation.judging import certificates, certify, endpoint
from harness.evaluation.judging.kept_verdicts import Kept, KeptVerdicts
from harness.evaluation.judging.options import judge_of
from harness.evaluation.judging.panels.seats import seated
from harness.evaluation.judging.rows.contestants import Contestant, contestants
from harness.evaluation.judging.verdicts import MOST_MISSING, check_missing, missing_counts
from harness.manager import plugins
from harness.stats.estimates import Estimate
from harness.stats.judges import Comparison, ranking
from harness.system.child_process import answered, reply_to_stdin
from harness.types import ModelRef, Output, Sample

__all__ = ["Request", "rank"]

CHUNK = 64
"""Questions to a model in this process after which their verdicts are kept."""


@dataclass
class Request:
    """Whose answers are ranked, and who judges them."""

    folder: str
    """A results folder."""
    name: str
    """The suite whose answers they are."""
    suite: Suite
    """Its judge is asked."""
    model: ModelRef | None = None
    """What judges where the suite says `base`."""
    batch: int | None = None


def rank(request: Request) -> dict[str, Any]:
    """The ranking, from verdicts of a child process.

    Raises UserError for rows or a judge that cannot be compared, before a model is loaded, and
    where too many questions got no verdict.
    """
    from pydantic import TypeAdapter

    found = contestants(Path(request.folder), request.name)
    judge = _comparing(request.suite)
    _ = certify.Request(request.suite, request.model, "").judging
    judge.check([_sample(row) for row in next(iter(found[0].seeds.values())).values()])
    asked = TypeAdapter(Request).dump_json(request)
    return answered("harness.evaluation.judging.rows.rank", asked, "the judging was killed")


def _comparing(suite: Suite) -> Judge:
    judge = judge_of(suite, plugins())
    comparing = judge.comparing() if judge is not None else None
    if comparing is None:
        raise UserError(
            f"judge '{suite.judge}' compares no two answers: name a suite whose judge does, such "
            "as {name: pairwise}, with --judge"
        )
    return comparing


def _sample(row: Mapping[str, Any]) -> Sample:
    prompt = row.get("prompt")
    asked = {"prompt": prompt} if isinstance(prompt, str) else {"messages": tuple(prompt or ())}
    return Sample(str(row["id"]), reference=row.get("reference"), **asked)


# ---- in the child process ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """Two rows' answers to one question."""

    a: str
    b: str
    one: Mapping[str, Any]
    other: Mapping[str, Any]


def _pairs(found: Sequence[Contestant]) -> list[_Pair]:
    """Of each two rows: equal seeds, or all of a row's with the only one of the other."""
    pairs = []
    for a, b in itertools.combinations(found, 2):
        both = [(seed, seed) for seed in a.seeds if seed in b.seeds]
        for one, other in both or itertools.product(a.seeds, b.seeds):
            rows, others = a.seeds[one], b.seeds[other]
            pairs += [_Pair(a.label, b.label, row, others[name]) for name, row in rows.items()]
    return pairs


def run(request: Request) -> dict[str, Any]:
    """Ask the judge about every pair that no verdict is kept of, and rank the rows."""
    from harness.system.measure import Meter

    found = contestants(Path(request.folder), request.name)
    pairs = _pairs(found)
    judge, whose = _comparing(request.suite), request.suite
    asking = certify.Request(whose, request.model, "", request.batch)
    known = certificates.sheet(whose, asking.judging, plugins())["judge"]
    certified = certificates.find(known["hash"])
    with certify.opened(asking, Meter()) as (bench, _):
        tools = _Tools(bench, [pair.other["output"] for pair in pairs], asking)
        verdict = judge.judge(
            [_output(pair.one) for pair in pairs],
            [_sample(pair.one) for pair in pairs],
            rubric=judge.options.rubric,
            tools=tools,
        )
    warning = check_missing(verdict, _max_missing(whose))
    told = {key: value for key, value in verdict.notes.items() if key != "against"}
    return {
        "suite": request.name,
        "judge": {**known, "level": certified["level"] if certified else None, **told},
        **_ranked(found, pairs, verdict),
        "missing": missing_counts(verdict),
        "warnings": [warning] if warning else [],
    }


def _max_missing(suite: Suite) -> float:
    """As the suite says; a registered judge's suite says nothing."""
    judge = suite.settings.get("judge") or {}
    assert isinstance(judge, Mapping)
    return float(judge.get("max_missing", MOST_MISSING))


def _output(row: Mapping[str, Any]) -> Output:
    return Output(str(row["id"]), row["output"], row.get("tokens") or 0, bool(row.get("capped")))


@dataclass
class _Tools:
    """What a judge is lent: the other row's answers, and backends that keep verdicts."""

    bench: Any
    others: Sequence[str]
    request: certify.Request
    seat: int | None = None
    backends: dict[int | None, JudgeBackend] = field(default_factory=dict)

    def base_answers(self) -> list[str]:
        """The answers that the judge compares with."""
        return list(self.others)

    def sit(self, seat: int | None) -> None:
        """Lend what one judge of a panel needs."""
        self.seat = seat
        self.bench.sit(seat)

    def judge_backend(self) -> JudgeBackend:
        """Who is asked."""
        if self.seat not in self.backends:
            whole = self.request.suite
            suite = whole if self.seat is None else seated(whole, self.seat)
            self.backends[self.seat] = self._backend(suite)
        return self.backends[self.seat]

    def _backend(self, suite: Suite) -> JudgeBackend:
        """What asks nothing of which a verdict is kept."""
        if suite.judge_endpoint is not None:
            return endpoint.backend_of(suite, keeping=True)
        from harness.evaluation.cached_results import arithmetic

        judge = certificates.judge_hash(suite, self.request.judging, plugins())
        identity = {"judge": judge, "precision": self.request.precision, "on": arithmetic()}
        return _Keeping(self.bench.judge_backend(), KeptVerdicts(identity, clear=0.0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bench, name)


@dataclass
class _Keeping:
    """A model in this process whose verdicts are kept, some questions at a time."""

    backend: JudgeBackend
    kept: KeptVerdicts
    found: int = 0

    def ask(self, questions: Sequence[Question], progress: Progress | None = None) -> list[Reply]:
        """Replies that are kept, and those to the other questions."""
        known = [self.kept.find(question) for question in questions]
        self.found += sum(one is not None for one in known)
        new = [q for q, one in zip(questions, known, strict=True) if one is None]
        fresh = iter(self._new(new))
        return [next(fresh) if one is None else one.reply for one in known]

    def _new(self, questions: Sequence[Question]) -> Iterator[Reply]:
        for start in range(0, len(questions), CHUNK):
            some = questions[start : start + CHUNK]
            for question, reply in zip(some, self.backend.ask(some), strict=True):
                if reply.weights and not reply.missing:
                    self.kept.keep(question, Kept(reply.weights))
                yield reply

    def info(self) -> Mapping[str, Any]:
        """Of the backend, and how many verdicts were there already."""
        return {**self.backend.info(), "kept": self.found}


def _ranked(
    found: Sequence[Contestant], pairs: Sequence[_Pair], verdict: Judgement
) -> dict[str, Any]:
    """The rows by strength, and how each two compare. Raises UserError where nothing tells them."""
    comparisons = [
        Comparison(str(pair.one.get("cluster") or pair.one["id"]), pair.a, pair.b, score)
        for pair, score in zip(pairs, verdict.scores, strict=True)
        if score is not None
    ]
    try:
        result = ranking(comparisons)
    except ValueError as error:
        raise UserError(f"the rows cannot be ranked: {error}") from None
    fitted = result.fitted
    rows = [
        {
            "label": label,
            "ranks": list(result.ranks[i]),
            "strength": _figure(fitted.strengths[i]),
            "win_rate": _figure(fitted.win_rates[i]),
            **_tally(label, comparisons),
        }
        for i, label in enumerate(fitted.rows)
    ]
    return {
        "questions": len({c.question for c in comparisons}),
        "rows": rows,
        "pairs": [
            {"a": a.label, "b": b.label, **_between(a.label, b.label, comparisons)}
            for a, b in itertools.combinations(found, 2)
        ],
        "unbeaten": list(result.unbeaten),
    }


def _tally(label: str, comparisons: Sequence[Comparison]) -> dict[str, int]:
    """Of one row against all others."""
    own = [c for c in comparisons if label in (c.a, c.b)]
    return _counts([c.score if c.a == label else 1 - c.score for c in own])


def _between(a: str, b: str, comparisons: Sequence[Comparison]) -> dict[str, int]:
    """Of a against b."""
    return _counts([c.score for c in comparisons if (c.a, c.b) == (a, b)])


def _counts(scores: Sequence[float]) -> dict[str, int]:
    return {"wins": scores.count(1.0), "ties": scores.count(0.5), "losses": scores.count(0.0)}


def _figure(estimate: Estimate) -> dict[str, Any]:
    return dataclasses.asdict(estimate)


def main() -> int:
    """Rank what standard input asks for."""
    from pydantic import TypeAdapter

    return reply_to_stdin(
        lambda asked: run(TypeAdapter(Request).validate_json(asked)),
        known=HarnessError,
        unexpected=certify.UNEXPECTED,
    )


if __name__ == "__main__":
    sys.exit(main())
