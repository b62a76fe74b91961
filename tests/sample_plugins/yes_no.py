"""A judge of one's own: how probable "Yes" is beside "No"."""

import math

from harness import Judge, Judgement, encode_continuations, hookimpl


class YesNo(Judge):
    """The share of Yes in the probabilities of Yes and No."""

    name = "yes_no"

    def judge(self, outputs, samples, *, rubric, tools):
        """Scores from 0 to 1."""
        model, requests = tools.judge_model(), []
        for output, sample in zip(outputs, samples, strict=True):
            text = f"{rubric}\n\nQuestion: {sample.question}\nAnswer: {output.text}\n\nYes or no?"
            asked = {"role": "user", "content": text}
            requests += encode_continuations(model, [asked], [" Yes", " No"])
        nats = [one.logprob for one in model.loglikelihood(requests, tools.progress)]
        pairs = zip(nats[::2], nats[1::2], strict=True)
        return Judgement([1 / (1 + math.exp(no - yes)) for yes, no in pairs])


@hookimpl
def register_judges(register):
    register(YesNo())
