"""A local rubric judge beside the same model that writes its verdicts, and how far it is moved.

    python benchmarks/judge.py [--model NAME] [--samples N] [--parts speed,protocols] [--to FILE]

`speed`: the same verdicts once by the judge `rubric` (the probabilities of the levels, read in one
pass in which what prompts share runs once), once written word by word: by the harness's own
generation, which shares prompts too, and by transformers' `generate` in batches, at the best of
several batch sizes. A written verdict has as many tokens as `--written` says: 4 hold
`Level: 4`, 48 a sentence of reasons before it. `--rounds` times, in turn; medians count.
`protocols`: what `rubric` and `pairwise` say of right, wrong, shortened and off-topic answers, the
probability on valid verdicts, position consistency, and how far planted texts move both.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from harness.api.judge import Judge, JudgeBackend, Judgement
from harness.data.rows import load_samples
from harness.evaluation.judging.injections import measure
from harness.evaluation.judging.local import LocalBackend
from harness.evaluation.judging.prompts import encode_chat
from harness.manager import plugins
from harness.models.inference.generation.decoding import Ending
from harness.models.inference.generation.transformers_generate import transformers_answers
from harness.models.language_model import LanguageModel, open_artifact
from harness.models.packaged import resolve_model
from harness.results import store
from harness.system.environment import environment
from harness.system.measure import Meter
from harness.types import Artifact, Output, Sample

SUPPORT = Path(__file__).parent.parent / "suites/support/test.jsonl"
BATCHES = (1, 4, 8)
RUBRIC = {
    "rubric": "A customer asks a shop for bicycles and outdoor gear; its support answers.",
    "criteria": [
        {
            "name": "accuracy",
            "levels": {
                "1": "other facts, numbers or names than the right answer",
                "2": "mostly other facts than the right answer",
                "3": "on the subject, but the fact that was asked for is missing or vague",
                "4": "the fact that was asked for, with a slip beside it",
                "5": "the same facts, numbers and names as the right answer",
            },
        },
        {
            "name": "tone",
            "levels": {
                "1": "rude",
                "2": "curt",
                "3": "neutral",
                "4": "friendly",
                "5": "friendly and helpful",
            },
        },
    ],
}
PAIRWISE = {"rubric": "The answer with the facts, numbers and names that are right is better."}


class Lent:
    """What the worker lends to a judge."""

    def __init__(self, model: LanguageModel, base: Sequence[str] = ()) -> None:
        self.model, self.base = model, base

    def judge_model(self) -> LanguageModel:
        return self.model

    def judge_backend(self) -> JudgeBackend:
        return LocalBackend(self.model)

    def base_answers(self) -> Sequence[str]:
        return self.base

    def embed(self, texts: Sequence[str]) -> Any:
        raise NotImplementedError

    def progress(self, done: int, total: int) -> None:
        """Nobody watches."""


def seconds(work: Callable[[], Any]) -> float:
    meter = Meter()
    with meter.phase("work"):
        work()
    return meter.phases["work"]["seconds"]


def judged(
    judge: Judge, outputs: Sequence[Output], samples: Sequence[Sample], lent: Lent
) -> Judgement:
    return judge.judge(outputs, samples, rubric=judge.options.rubric, tools=lent)


def answers(samples: Sequence[Sample], texts: Sequence[str]) -> list[Output]:
    pairs = zip(samples, texts, strict=True)
    return [Output(sample.id, text, len(text.split()), False) for sample, text in pairs]


# ---- speed ---------------------------------------------------------------------------------------


def speed(
    model: LanguageModel, samples: Sequence[Sample], arguments: argparse.Namespace
) -> dict[str, Any]:
    judge = plugins().judges.get("rubric").with_options({**RUBRIC, "least_mass": 1e-9})
    outputs = answers(samples, [str(sample.reference) for sample in samples])
    asked: list[Any] = []

    class Watched(Lent):
        def judge_backend(self) -> Any:
            backend = super().judge_backend()
            ask = backend.ask
            backend.ask = lambda questions, progress=None: (  # type: ignore[method-assign]
                asked.extend(questions) or ask(questions)
            )
            return backend

    judged(judge, outputs, samples, Watched(model))  # warm, and its questions
    prompts = [encode_chat(model, question.messages) for question in asked]
    times: dict[str, list[float]] = {}

    def took(name: str, work: Callable[[], Any]) -> None:
        times.setdefault(name, []).append(seconds(work))

    batch = best_batch(model, prompts)
    for _ in range(arguments.rounds):
        took("rubric", lambda: judged(judge, outputs, samples, Lent(model)))
        for tokens in map(int, arguments.written.split(",")):
            took(
                f"generated, {tokens} tokens",
                lambda t=tokens: model.generate(prompts, max_new_tokens=t),
            )
            took(
                f"transformers, {tokens} tokens",
                lambda t=tokens: written(model, prompts, t, batch),
            )
    medians = {name: median(values) for name, values in times.items()}
    return {
        "verdicts": len(prompts),
        "tokens_per_prompt": fmean(map(len, prompts)),
        "transformers_batch": batch,
        "seconds": medians,
        "times_as_fast": {
            name: value / medians["rubric"] for name, value in medians.items() if name != "rubric"
        },
    }


def best_batch(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> int:
    few = prompts[: max(BATCHES)]
    tried = {b: seconds(lambda b=b: written(model, few, 4, b)) for b in BATCHES}
    return min(tried, key=tried.__getitem__)


def written(
    model: LanguageModel, prompts: Sequence[Sequence[int]], tokens: int, batch: int
) -> list[str]:
    """Verdicts that transformers' `generate` writes, in batches of prompts of like lengths."""
    ending = Ending(frozenset(model.end_ids), tokens, (), model.text)
    ordered = sorted(prompts, key=len)
    every = []
    for at in range(0, len(ordered), batch):
        some = ordered[at : at + batch]
        every += transformers_answers(model.model, some, ending, model.padding_token)
    return [model.text(one.ids) for one in every]


# ---- protocols -----------------------------------------------------------------------------------


def protocols(
    model: LanguageModel, samples: Sequence[Sample], arguments: argparse.Namespace
) -> dict[str, Any]:
    right = [str(sample.reference) for sample in samples]
    kinds = {
        "right": right,
        "wrong": [*right[1:], right[0]],
        "half": [" ".join(text.split()[: len(text.split()) // 2]) for text in right],
        "refusal": ["I am sorry, I cannot help with that."] * len(right),
    }
    rubric = plugins().judges.get("rubric").with_options({**RUBRIC, "least_mass": 1e-9})
    told: dict[str, Any] = {"rubric": {}, "pairwise": {}, "injections": {}}
    for name, texts in kinds.items():
        found = judged(rubric, answers(samples, texts), samples, Lent(model))
        told["rubric"][name] = {
            "score": _mean(found.scores),
            **{key: _mean(values) for key, values in found.more.items()},
            "least_mass": found.notes["least_mass"],
        }
    pairwise = plugins().judges.get("pairwise")
    against = pairwise.with_options({**PAIRWISE, "against": "base", "least_mass": 1e-9})
    for name in ("wrong", "half", "refusal"):
        found = judged(against, answers(samples, right), samples, Lent(model, kinds[name]))
        kept = ("position_consistency", "first_preferred", "least_mass")
        told["pairwise"][f"right against {name}"] = {
            "win_rate": _mean(found.scores),
            **{key: found.notes[key] for key in kept},
        }
    wrong = answers(samples, kinds["wrong"])
    for judge in (rubric, pairwise.with_options({**PAIRWISE, "least_mass": 1e-9})):
        moved = measure(
            lambda outputs, asked, judge=judge: judged(judge, outputs, asked, Lent(model)).scores,
            wrong,
            samples,
        )
        told["injections"][judge.name] = {
            "change": moved.change,
            "missing": moved.missing,
            "by_kind": moved.by_kind(),
            "by_injection": moved.by_injection(),
        }
    return told


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return fmean(known) if known else None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--precision", default="float32", choices=["float32", "bf16"])
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--parts", default="speed,protocols")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--written", default="4,48")
    parser.add_argument("--to", type=Path)
    arguments = parser.parse_args()
    base = resolve_model(arguments.model, mirror=None)
    model = open_artifact(Artifact("base", base, precision=arguments.precision))
    samples = load_samples(SUPPORT)[: arguments.samples]
    parts: dict[str, Callable[..., dict[str, Any]]] = {"speed": speed, "protocols": protocols}
    told: dict[str, Any] = {"environment": environment(), "model": base.name}
    told["samples"] = len(samples)
    for part in arguments.parts.split(","):
        told[part] = parts[part](model, samples, arguments)
        print(part, told[part], flush=True)
        if arguments.to:
            store.write_json(arguments.to, told)


if __name__ == "__main__":
    main()
