"""Scorers that count n-grams shared with the reference: ROUGE, BLEU, chrF."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

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


def _check_pairs_of_words(samples: Sequence[Sample]) -> None:
    _check_rouge(samples)
    for sample in samples:
        reference = normalize_unicode(sample.reference or "")
        other = _needs_other_words(reference)
        words = split_words(reference) if other else re.findall("[a-z0-9]+", reference.lower())
        if len(words) < 2:
            raise UserError(
                f"sample {sample.id}: the reference {sample.reference!r} is a single word, so "
                "ROUGE-2, which is of pairs of words, would be 0 for every answer: leave rouge2 "
                "out, or the row"
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


@scorer("rouge2", **_ROUGE | {"check": _check_pairs_of_words})
def rouge_2(outputs: Sequence[Output], samples: Sequence[Sample], tools: Tools) -> list[float]:
    """F1 of shared pairs of words (Lin 2004), 0 to 1; words as for rouge1.

    A reference of one word has no pair and is refused.
    """
    return _rouge(outputs, samples, "rouge2")


@scorer("rougeL", **_ROUGE)
def rouge_l(outputs: Sequence[Output], samples: Sequence[Sample], tools: Tools) -> list[float]:
    """F1 of the longest common subsequence of words (Lin 2004), 0 to 1; words as for rouge1."""
    return _rouge(outputs, samples, "rougeL")


_SACREBLEU: dict[str, Any] = {
    "batch": True,
    "needs_reference": True,
    "bounds": (0.0, 100.0),
}

Tokenizer = Literal["13a", "intl", "char", "zh", "none"]


@scorer("bleu", kind="corpus_bleu", version=2, **_SACREBLEU)
def bleu(
    outputs: Sequence[Output],
    samples: Sequence[Sample],
    tools: Tools,
    *,
    tokenize: Tokenizer = "13a",
    lowercase: bool = False,
) -> list[list[float]]:
    """sacrebleu's corpus BLEU (Papineni et al. 2002; Post 2018), 0 to 100.

    Of each answer the lengths, and the matched and all n-grams of 1 to 4 tokens. `tokenize` is
    sacrebleu's.
    """
    from sacrebleu.metrics import BLEU

    # effective order changes a sentence's score and none of its counts; without it, a warning each
    metric = BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True)
    scores = (metric.sentence_score(*pair) for pair in _pairs(outputs, samples))
    return [[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores]


@scorer("chrf", kind="corpus_chrf", version=2, **_SACREBLEU)
def chrf(
    outputs: Sequence[Output],
    samples: Sequence[Sample],
    tools: Tools,
    *,
    word_order: Literal[0, 1, 2] = 0,
) -> list[list[float]]:
    """sacrebleu's corpus chrF (Popović 2015), 0 to 100; `word_order: 2` is chrF++.

    Of each answer its n-grams, those of the reference and those matched, for each order.
    """
    from sacrebleu.metrics import CHRF

    metric = CHRF(word_order=word_order)
    # sacrebleu has no public name for these counts: its `sentence_score` is made of them
    return [
        list(metric._extract_corpus_statistics([answer], [references])[0])
        for answer, references in _pairs(outputs, samples)
    ]


@scorer("sentence_bleu", **_SACREBLEU)
def sentence_bleu(
    outputs: Sequence[Output],
    samples: Sequence[Sample],
    tools: Tools,
    *,
    tokenize: Tokenizer = "13a",
    lowercase: bool = False,
) -> list[float]:
    """The mean of sacrebleu's sentence BLEU, 0 to 100, of effective order (as it recommends).

    Not the BLEU of papers, which is `bleu`. `tokenize` is sacrebleu's.
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=True)
    return [float(metric.sentence_score(*pair).score) for pair in _pairs(outputs, samples)]


@scorer("sentence_chrf", **_SACREBLEU)
def sentence_chrf(
    outputs: Sequence[Output],
    samples: Sequence[Sample],
    tools: Tools,
    *,
    word_order: Literal[0, 1, 2] = 0,
) -> list[float]:
    """The mean of sacrebleu's sentence chrF, 0 to 100; `word_order: 2` is chrF++.

    Not the chrF of papers, which is `chrf`.
    """
    from sacrebleu.metrics import CHRF

    metric = CHRF(word_order=word_order)
    return [float(metric.sentence_score(*pair).score) for pair in _pairs(outputs, samples)]


def _pairs(outputs: Sequence[Output], samples: Sequence[Sample]) -> Iterator[tuple[str, list[str]]]:
    """Each answer with its references, of which a sample has one, as sacrebleu takes them."""
    for output, sample in zip(outputs, samples, strict=True):
        reference = normalize_unicode(sample.reference or "")
        yield normalize_unicode(output.text, reference), [reference]


@hookimpl
def register_scorers(register: Callable[[Scorer], None]) -> None:
    """rouge1, rouge2, rougeL, bleu, chrf, sentence_bleu, sentence_chrf."""
    for one in (rouge_1, rouge_2, rouge_l, bleu, chrf, sentence_bleu, sentence_chrf):
        register(one)
