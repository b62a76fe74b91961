"""Scores of a whole corpus from the sums of its samples' sufficient statistics: BLEU and chrF.

Such a score is no mean of its sentences' scores: n-gram matches, n-grams and lengths are summed
over all samples, and the score is computed from the sums. A bootstrap draws samples, sums the
statistics of those drawn, and computes the score anew (Koehn, Statistical significance tests for
machine translation evaluation, EMNLP 2004). Both are those of sacrebleu (Post, A call for clarity
in reporting BLEU scores, WMT 2018) with its defaults, from 0 to 100.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
CorpusKind = Literal["corpus_bleu", "corpus_chrf"]
KINDS: tuple[CorpusKind, ...] = get_args(CorpusKind)

ORDER = 4
"""Longest n-gram of BLEU."""
BETA = 2
"""How many times as much recall counts as precision in chrF."""


def bleu(sums: Floats) -> Floats:
    """Corpus BLEU (Papineni et al., ACL 2002) of sums `(..., 2 + 2 * 4)`: `(...)`.

    The statistics are the lengths of answers and references in tokens, the matched n-grams of 1 to
    4 tokens, and all n-grams of the answers. A precision of 0 counts as 1 / (2^k n-grams), the k-th
    of them (the smoothing `exp` of sacrebleu, NIST's mteval-v13a); without a match the score is 0.
    """
    length, wanted = sums[..., 0], sums[..., 1]
    matches, ngrams = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    unmatched = matches == 0
    halvings = np.cumsum(unmatched, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precisions = np.where(unmatched, 0.5**halvings, matches) / ngrams
        penalty = np.minimum(0.0, 1 - wanted / length)
        score = 100 * np.exp(penalty + np.log(precisions).mean(axis=-1))
    # an order of which the answers have no n-gram at all makes the score 0
    impossible = unmatched.all(axis=-1) | (ngrams == 0).any(axis=-1)
    result: Floats = np.where(impossible, 0.0, score)
    return result


def chrf(sums: Floats) -> Floats:
    """Corpus chrF (Popović, WMT 2015) of sums `(..., 3 * orders)`: `(...)`.

    The statistics are, for each order of n-grams (1 to 6 characters, then words for chrF++), those
    of the answers, those of the references, and those matched. Precision and recall are means over
    the orders of which both sides have n-grams, and the score is their F of beta 2.
    """
    ngrams, wanted, matches = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    counted = (ngrams > 0) & (wanted > 0)
    orders = np.maximum(counted.sum(axis=-1), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(counted, matches / ngrams, 0.0).sum(axis=-1) / orders
        recall = np.where(counted, matches / wanted, 0.0).sum(axis=-1) / orders
        score = 100 * (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)
    result: Floats = np.where(precision + recall > 0, score, 0.0)
    return result


SCORES: Mapping[CorpusKind, Callable[[Floats], Floats]] = {"corpus_bleu": bleu, "corpus_chrf": chrf}


def has_length(kind: CorpusKind, count: int) -> bool:
    """Whether a sample's statistics of this kind may be so many numbers."""
    return count == 2 + 2 * ORDER if kind == "corpus_bleu" else count > 0 and count % 3 == 0


def checked(kind: CorpusKind, statistics: ArrayLike) -> Floats:
    """Statistics `(samples, components)` or `(seeds, samples, components)` with components first.

    `(components, seeds, samples)`. Raises ValueError on an empty array, on numbers that are not
    finite or negative, and on samples with more or fewer of them than the kind has.
    """
    array = np.asarray(statistics, dtype=np.float64)
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.size == 0 or not has_length(kind, array.shape[2]):
        raise ValueError(f"no statistics of {kind}: {np.shape(statistics)}")
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise ValueError(f"statistics of {kind} must be finite and not negative")
    return np.moveaxis(array, 2, 0)
