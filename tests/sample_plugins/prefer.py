"""`ask: prefer`: whether the model finds the better of two answers likelier."""

import json

from harness import (
    DataError,
    DataSettings,
    Metric,
    Requests,
    SampleTask,
    SuiteExample,
    SuiteResult,
    encode_pair,
    hookimpl,
)

ANSWERS = ("chosen", "rejected")
EXAMPLE = (
    ("tea", "What is tea made of?", "Leaves.", "Stones."),
    ("ice", "What is ice made of?", "Water.", "Sand."),
    ("sun", "When is it dark?", "At night.", "At noon."),
)


class PreferSettings(DataSettings):
    per_token: bool = False
    """Compare the mean over an answer's tokens; else their sum."""


class Prefer(SampleTask):
    name, Settings = "prefer", PreferSettings

    def content(self, suite):
        for sample in self.samples(suite):
            if not all(isinstance(sample.extra.get(key), str) for key in ANSWERS):
                fix = "a row needs texts `chosen` and `rejected`"
                raise DataError(fix, file=suite.sources[""], line=sample.line)
        return super().content(suite)

    def metrics(self, suite):
        return ["preferred"]

    def example(self, name):
        keys = ("id", "prompt", *ANSWERS)
        rows = [json.dumps(dict(zip(keys, row, strict=True))) for row in EXAMPLE]
        settings = f"ask: prefer  # the likelier of two answers\ndata: {name}.jsonl\n"
        return SuiteExample(settings, {f"{name}.jsonl": "\n".join(rows) + "\n"})

    def requests(self, suite, model):
        samples = self.samples(suite)
        pairs = [
            encode_pair(model.tokenizer, sample.question, f" {sample.extra[key]}")
            for sample in samples
            for key in ANSWERS
        ]
        return Requests(pairs=[(p.context, p.continuation) for p in pairs], state=samples)

    def score(self, suite, requests, tools):
        per_token, rows = self.settings(suite).per_token, []
        for sample, *scores in zip(
            requests.state, requests.scores[::2], requests.scores[1::2], strict=True
        ):
            logprobs = [s.logprob / (len(s.token_logprobs) if per_token else 1) for s in scores]
            right = logprobs[0] > logprobs[1]
            output = sample.extra[ANSWERS[not right]]
            preferred = {"preferred": float(right)}
            rows.append(self.row(suite, sample, output=output, logprobs=logprobs, scores=preferred))
        return SuiteResult(rows, [Metric("preferred", True, "share")])


@hookimpl
def register_tasks(register):
    register(Prefer())
