"""Scorers that count n-grams shared with the reference: ROUGE, BLEU, chrF."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from harness import Output, Sample, Tools, hookimpl, scorer


def _rouge(outputs: Sequence[Output], samples: Sequence[Sample], variant: str) -> list[float]:
    from rouge_score.rouge_scorer import RougeScorer

    rouge = RougeScorer([variant], use_stemmer=True)
    return [
        float(rouge.score(sample.reference or "", output.text)[variant].fmeasure)
        for output, sample in zip(outputs, samples, strict=True)
    ]


@scorer("rouge1", batch=True, needs_reference=True)
def rouge_1(outputs: Sequence[Output], samples: Sequence[Sample], tools: Tools) -> list[float]:
    """F1 of shared words, stemmed (Lin 2004), 0 to 1; Latin letters and digits only."""
    return _rouge(outputs, samples, "rouge1")


@scorer("rouge2", batch=True, needs_reference=True)
def rouge_2(outputs: Sequence[Output], samples: Sequence[Sample], tools: Tools) -> list[float]:
    """F1 of shared pairs of words, stemmed (Lin 2004), 0 to 1; Latin letters and digits only."""
    return _rouge(outputs, samples, "rouge2")


@scorer("rougeL", batch=True, needs_reference=True)
def rouge_l(outputs: Sequence[Output], samples: Sequence[Sample], tools: Tools) -> list[float]:
    """F1 of the longest common subsequence of words, stemmed (Lin 2004), 0 to 1."""
    return _rouge(outputs, samples, "rougeL")


@scorer("bleu", batch=True, needs_reference=True)
def bleu(
    outputs: Sequence[Output],
    samples: Sequence[Sample],
    tools: Tools,
    *,
    tokenize: Literal["13a", "intl", "char", "zh", "none"] = "13a",
    lowercase: bool = False,
) -> list[float]:
    """sacrebleu's sentence BLEU (Papineni et al. 2002; Post 2018), 0 to 100, effective order.

    The metric is the mean over sentences, not corpus BLEU. `tokenize` is sacrebleu's.
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True)
    return _sentences(metric, outputs, samples)


@scorer("chrf", batch=True, needs_reference=True)
def chrf(
    outputs: Sequence[Output],
    samples: Sequence[Sample],
    tools: Tools,
    *,
    word_order: Literal[0, 1, 2] = 0,
) -> list[float]:
    """sacrebleu's sentence chrF (Popović 2015), 0 to 100; `word_order: 2` is chrF++.

    The metric is the mean over sentences, not corpus chrF.
    """
    from sacrebleu.metrics import CHRF

    return _sentences(CHRF(word_order=word_order), outputs, samples)


def _sentences(metric: Any, outputs: Sequence[Output], samples: Sequence[Sample]) -> list[float]:
    return [
        float(metric.sentence_score(output.text, [sample.reference]).score)
        for output, sample in zip(outputs, samples, strict=True)
    ]


@hookimpl
def register_scorers(register: Callable[[Any], None]) -> None:
    """rouge1, rouge2, rougeL, bleu, chrf."""
    for one in (rouge_1, rouge_2, rouge_l, bleu, chrf):
        register(one)
