"""Scorers that count n-grams shared with the reference: ROUGE, BLEU, chrF."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from harness import (
    Output,
    Sample,
    Scorer,
    Tools,
    UserError,
    hookimpl,
    normalize_unicode,
    scorer,
    split_words,
)

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric


def _rouge(outputs: Sequence[Output], samples: Sequence[Sample], variant: str) -> list[float]:
    from rouge_score.rouge_scorer import RougeScorer

    latin = RougeScorer([variant], use_stemmer=True)
    # rouge_score's own words are those of a to z and 0 to 9: nothing is left of other scripts.
    other = RougeScorer([variant], tokenizer=_Words())
    scores = []
    for output, sample in zip(outputs, samples, strict=True):
        reference = normalize_unicode(sample.reference or "")
        answer = normalize_unicode(output.text, reference)
        rouge = other if _needs_other_words(reference) else latin
        scores.append(float(rouge.score(reference, answer)[variant].fmeasure))
    return scores


def _needs_other_words(reference: str) -> bool:
    """Whether words of a to z and 0 to 9 would leave out a script, or leave nothing."""
    return _beyond_latin(reference) or not any(c.isascii() and c.isalnum() for c in reference)


def _beyond_latin(text: str) -> bool:
    """Whether a text has letters or digits of a script other than Latin."""
    return not text.isascii() and any(
        not c.isascii()
        and unicodedata.category(c)[0] in "LN"
        and not unicodedata.name(c, "").startswith(_LATIN)
        for c in text
    )


_LATIN = (
    "LATIN ",
    "FEMININE ORDINAL",
    "MASCULINE ORDINAL",
    "SUPERSCRIPT ",
    "SUBSCRIPT ",
    "VULGAR ",
)
"""How Unicode's names of Latin letters, ordinals, powers and fractions begin."""


class _Words:
    """What rouge_score asks of a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return split_words(text)


def _check_rouge(samples: Sequence[Sample]) -> None:
    for sample in samples:
        if not split_words(sample.reference or ""):
            raise UserError(
                f"sample {sample.id}: the reference {sample.reference!r} has no letter and no "
                "digit, so ROUGE would be 0 for every answer: fix it, or leave the scorer out"
            )


_ROUGE: dict[str, Any] = {
    "batch": True,
    "needs_reference": True,
    "check": _check_rouge,
    "version_beyond_ascii": 2,
    "bounds": (0.0, 1.0),
}


@scorer("rouge1", **_ROUGE)
def rouge_1(outputs: Sequence[Output], samples: Sequence[Sample], tools: Tools) -> list[float]:
    """F1 of shared words (Lin 2004), 0 to 1.

    Latin script as the package rouge_score has it: runs of a to z and 0 to 9, stemmed. Where the
    reference has another script, runs of letters of any script, not stemmed.
    """
    return _rouge(outputs, samples, "rouge1")


@scorer("rouge2", **_ROUGE)
def rouge_2(outputs: Sequence[Output], samples: Sequence[Sample], tools: Tools) -> list[float]:
    """F1 of shared pairs of words (Lin 2004), 0 to 1; words as for rouge1."""
    return _rouge(outputs, samples, "rouge2")


@scorer("rougeL", **_ROUGE)
def rouge_l(outputs: Sequence[Output], samples: Sequence[Sample], tools: Tools) -> list[float]:
    """F1 of the longest common subsequence of words (Lin 2004), 0 to 1; words as for rouge1."""
    return _rouge(outputs, samples, "rougeL")


@scorer("bleu", batch=True, needs_reference=True, bounds=(0.0, 100.0))
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


@scorer("chrf", batch=True, needs_reference=True, bounds=(0.0, 100.0))
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


def _sentences(
    metric: "Metric", outputs: Sequence[Output], samples: Sequence[Sample]
) -> list[float]:
    scores = []
    for output, sample in zip(outputs, samples, strict=True):
        reference = normalize_unicode(sample.reference or "")
        answer = normalize_unicode(output.text, reference)
        scores.append(float(metric.sentence_score(answer, [reference]).score))
    return scores


@hookimpl
def register_scorers(register: Callable[[Scorer], None]) -> None:
    """rouge1, rouge2, rougeL, bleu, chrf."""
    for one in (rouge_1, rouge_2, rouge_l, bleu, chrf):
        register(one)
