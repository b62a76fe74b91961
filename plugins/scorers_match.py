"""Scorers that compare words and strings: how much of the reference or the facts is there."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from harness import Sample, hookimpl, scorer
from harness.errors import UserError


@scorer("exact_match", kind="share", needs_reference=True)
def exact_match(output: str, sample: Sample) -> float:
    """1 where answer and reference are equal but for case, punctuation and white space."""
    return float(_plain(output) == _plain(sample.reference or ""))


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.casefold()).split())


@scorer("token_f1", needs_reference=True)
def token_f1(output: str, sample: Sample) -> float:
    """F1 of the words that answer and reference share, 0 to 1 (SQuAD, Rajpurkar et al. 2016).

    Case, ASCII punctuation and the articles a, an, the do not count. Where nothing is left of
    one side, 1 if nothing is left of the other.
    """
    answer, reference = _squad_words(output), _squad_words(sample.reference or "")
    if not answer or not reference:
        return float(answer == reference)
    return 2 * (answer & reference).total() / (answer.total() + reference.total())


_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _squad_words(text: str) -> Counter[str]:
    """SQuAD takes punctuation out without leaving a space: `two-day` is `twoday`."""
    words = text.lower().translate(_PUNCTUATION)
    return Counter(re.sub(r"\b(a|an|the)\b", " ", words).split())


def _listed(sample: Sample, key: str) -> list[str]:
    """The row's strings under `key`; UserError where they are something else."""
    value: Any = sample.extra.get(key)
    strings = [value] if isinstance(value, str) else value or []
    if not isinstance(strings, Sequence) or not all(
        isinstance(one, str) and one.strip() for one in strings
    ):
        raise UserError(
            f"sample {sample.id}: `{key}` must be a text or a list of texts, none of them empty, "
            f"got {value!r}"
        )
    return list(strings)


def _check_wanted(samples: Sequence[Sample]) -> None:
    for sample in samples:
        _listed(sample, "must_contain")


@scorer("must_contain", kind="share", check=_check_wanted)
def must_contain(output: str, sample: Sample) -> float | None:
    """1 where the answer holds every string of the row's `must_contain`, ignoring case."""
    wanted = _listed(sample, "must_contain")
    return float(all(_holds(output, one) for one in wanted)) if wanted else None


def _check_banned(samples: Sequence[Sample]) -> None:
    for sample in samples:
        _listed(sample, "must_not_contain")


@scorer("must_not_contain", kind="share", check=_check_banned)
def must_not_contain(output: str, sample: Sample) -> float | None:
    """1 where the answer holds no string of the row's `must_not_contain`, ignoring case."""
    banned = _listed(sample, "must_not_contain")
    return float(not any(_holds(output, one) for one in banned)) if banned else None


def _holds(output: str, part: str) -> bool:
    return part.casefold() in output.casefold()


@hookimpl
def register_scorers(register: Callable[[Any], None]) -> None:
    """exact_match, token_f1, must_contain, must_not_contain."""
    for one in (exact_match, token_f1, must_contain, must_not_contain):
        register(one)
