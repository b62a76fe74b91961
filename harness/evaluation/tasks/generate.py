"""Answers in the model's own words, rated by scorers or a judge."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.api.judge import Judgement
from harness.api.model import Model
from harness.data.tokenization import encode_prompt
from harness.errors import PluginFault
from harness.evaluation.judging import check_finite
from harness.evaluation.scorer_config import checked, uses
from harness.evaluation.suite import Suite, samples_of
from harness.evaluation.tasks.protocol import Question, cluster, missing
from harness.manager import plugins
from harness.types import Metric, Output, Sample, SuiteResult


def ask(suite: Suite, model: Model) -> Question:
    """One prompt per sample, up to where the assistant answers."""
    samples = samples_of(suite)
    if suite["apply_chat_template"] is not False and has_template(model):
        samples = [_as_turn(sample) for sample in samples]
    prompts = [encode_prompt(model.tokenizer, s, model.chat_template) for s in samples]
    return Question(prompts=prompts, max_new_tokens=suite["max_new_tokens"], keep=samples)


def has_template(model: Model) -> bool:
    """Whether prompts can be turns of a conversation."""
    return bool(model.chat_template or model.tokenizer.chat_template)


def _as_turn(sample: Sample) -> Sample:
    """A plain prompt as what a user says, as training does with prompt/completion rows."""
    if sample.messages is not None or sample.prompt is None:
        return sample
    return dataclasses.replace(sample, messages=({"role": "user", "content": sample.prompt},))


def metrics(suite: Suite) -> list[str] | None:
    """A metric per scorer, and the judge's `score`."""
    labels = [one["label"] for one in suite["scorers"]]
    return [*labels, *(["score"] if suite["judge"] else [])]


def answer(suite: Suite, question: Question, tools: Any) -> SuiteResult:
    """One row per sample, with a score of every scorer and of the judge."""
    samples = question.keep
    outputs = [
        Output(sample.id, tools.decode(generated.ids), len(generated.ids), generated.capped)
        for sample, generated in zip(samples, question.generated, strict=True)
    ]
    unanswered = [missing((), generated.finite) for generated in question.generated]
    found: dict[str, Any] = {}
    metrics: list[Metric] = []
    warnings: list[str] = []
    cut = sum(generated.cut for generated in question.generated)
    if cut:
        warnings.append(
            f"suite '{suite.name}': {cut} prompts left no room for {suite['max_new_tokens']} "
            "tokens of answer in the model's context and lost their beginning"
        )
    notes: dict[str, Any] = {
        "longer_than_context": cut,
        "capped_share": sum(o.capped for o in outputs) / len(outputs),
        "decoding": {"greedy": True, "max_new_tokens": suite["max_new_tokens"]},
    }
    for label, scorer, options in uses(suite["scorers"], plugins()):
        scores = scorer.rate(outputs, samples, tools, **options)
        found[label] = checked(scores, len(outputs), f"scorer '{scorer.name}'")
        metrics.append(Metric(label, scorer.higher_is_better, scorer.kind))
    if suite["judge"]:
        judge = plugins().judges.get(suite["judge"]["name"])
        verdict = judge.judge(outputs, samples, rubric=suite["judge"]["rubric"], tools=tools)
        if not isinstance(verdict, Judgement):
            raise PluginFault(f"judge '{judge.name}' gave {repr(verdict)[:100]}, not a Judgement")
        found["score"] = checked(verdict.scores, len(outputs), f"judge '{judge.name}'")
        check_finite(verdict)
        metrics.append(Metric("score", True))
        identity = tools.judge_identity()
        notes["judge"] = {**identity, "judge": judge.name, **verdict.notes}
        if identity["self_judged"]:
            notes["label"] = "self-judged, by the base of what is judged"
        warnings += verdict.warnings
    rows = [
        {
            "id": sample.id,
            "group": sample.group,
            **cluster(suite["cluster"], {"group": sample.group, **sample.extra}, sample.id),
            "prompt": [dict(m) for m in sample.messages] if sample.messages else sample.prompt,
            "reference": sample.reference,
            "output": output.text,
            "tokens": output.tokens,
            "capped": output.capped,
            **unanswered[i],
            "scores": {
                name: None if unanswered[i] else scores[i] for name, scores in found.items()
            },
        }
        for i, (sample, output) in enumerate(zip(samples, outputs, strict=True))
    ]
    return SuiteResult(rows, metrics, notes, warnings)
