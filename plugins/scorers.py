"""Built-in scorers: how near an answer is to its reference."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from harness import Output, Sample, Tools, hookimpl, scorer


@scorer("cosine", batch=True, embeds=True)
def cosine(outputs: Sequence[Output], samples: Sequence[Sample], tools: Tools) -> list[float]:
    """Cosine of the sentence embeddings of answer and reference, -1 to 1."""
    answers = tools.embed([output.text for output in outputs])
    references = tools.embed([sample.reference or "" for sample in samples])
    return [float(value) for value in (answers * references).sum(axis=1)]


@scorer("rougeL", batch=True)
def rouge_l(outputs: Sequence[Output], samples: Sequence[Sample], tools: Tools) -> list[float]:
    """F1 of the longest common subsequence of words, stemmed (Lin 2004), 0 to 1."""
    from rouge_score.rouge_scorer import RougeScorer

    rouge = RougeScorer(["rougeL"], use_stemmer=True)
    return [
        float(rouge.score(sample.reference or "", output.text)["rougeL"].fmeasure)
        for output, sample in zip(outputs, samples, strict=True)
    ]


@scorer("exact_match", kind="share")
def exact_match(output: str, sample: Sample) -> float:
    """1 where answer and reference are equal but for case, punctuation and white space."""
    return float(_plain(output) == _plain(sample.reference or ""))


@scorer("must_contain", kind="share")
def must_contain(output: str, sample: Sample) -> float | None:
    """1 where the answer holds every string of the row's `must_contain`, ignoring case."""
    wanted: Any = sample.extra.get("must_contain")
    if not wanted:
        return None
    strings = [wanted] if isinstance(wanted, str) else wanted
    return float(all(s.casefold() in output.casefold() for s in strings))


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.casefold()).split())


@hookimpl
def register_scorers(register: Callable[[Any], None]) -> None:
    """cosine, rougeL, exact_match, must_contain."""
    for one in (cosine, rouge_l, exact_match, must_contain):
        register(one)
