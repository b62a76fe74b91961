"""Scorers that compare words and strings: how much of the reference or the facts is there."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from harness import Sample, Scorer, UserError, hookimpl, normalize_unicode, scorer


def _check_exact(samples: Sequence[Sample], *, normalize: str) -> None:
    for sample in samples if normalize == "squad" else ():
        if not _squad_words(sample.reference or ""):
            raise UserError(
                f"sample {sample.id}: nothing is left of the reference {sample.reference!r} "
                "without punctuation and articles, so an empty answer would be right: set "
                "`{name: exact_match, normalize: none}`"
            )


@scorer("exact_match", kind="share", needs_reference=True, version=3, check=_check_exact)
def exact_match(
    output: str, sample: Sample, *, normalize: Literal["squad", "none"] = "squad"
) -> float:
    """1 where answer and reference are equal (SQuAD, Rajpurkar et al. 2016).

    By default as SQuAD's script has it: case, ASCII punctuation, white space and the articles a,
    an, the do not count, so that `-5` equals `5` and `C++` equals `C`. With `normalize: none` all
    counts but white space at the ends.
    """
    reference = normalize_unicode(sample.reference or "")
    answer = normalize_unicode(output, reference)
    if normalize == "none":
        return float(answer.strip() == reference.strip())
    return float(_squad_words(answer) == _squad_words(reference))


@scorer("token_f1", needs_reference=True, bounds=(0.0, 1.0))
def token_f1(output: str, sample: Sample) -> float:
    """F1 of the words that answer and reference share, 0 to 1 (SQuAD, Rajpurkar et al. 2016).

    Case, ASCII punctuation and the articles a, an, the do not count. Where nothing is left of
    one side, 1 if nothing is left of the other.
    """
    wanted = normalize_unicode(sample.reference or "")
    answer = Counter(_squad_words(normalize_unicode(output, wanted)))
    reference = Counter(_squad_words(wanted))
    if not answer or not reference:
        return float(answer == reference)
    return 2 * (answer & reference).total() / (answer.total() + reference.total())


_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _squad_words(text: str) -> list[str]:
    """SQuAD takes punctuation out without leaving a space: `two-day` is `twoday`."""
    words = text.lower().translate(_PUNCTUATION)
    return re.sub(r"\b(a|an|the)\b", " ", words).split()


def _listed(sample: Sample, key: str) -> list[str]:
    """The row's strings under `key`; UserError where they are something else."""
    value: object = sample.extra.get(key)
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


@scorer("must_contain", kind="share", check=_check_wanted, version=2)
def must_contain(output: str, sample: Sample) -> float | None:
    """1 where the answer holds every string of the row's `must_contain`, ignoring case.

    Whole words and whole numbers: `141 days` does not hold `41 days`, nor `11.501` `11.50`, nor
    `party` `art`. Commas between thousands do not count (`1840` holds `1,840`), nor does which
    white space it is. Letters may follow a number (`5kg` holds `5`). In scripts other than Latin,
    Greek and Cyrillic any place in the answer will do, for words may stand without spaces.
    """
    wanted = _listed(sample, "must_contain")
    return float(all(_holds(output, one) for one in wanted)) if wanted else None


def _check_banned(samples: Sequence[Sample]) -> None:
    for sample in samples:
        _listed(sample, "must_not_contain")


@scorer("must_not_contain", kind="share", check=_check_banned, version=2)
def must_not_contain(output: str, sample: Sample) -> float | None:
    """1 where the answer holds no string of the row's `must_not_contain`, as in `must_contain`.

    Whole words alone are found: list `refunds` beside `refund`.
    """
    banned = _listed(sample, "must_not_contain")
    return float(not any(_holds(output, one) for one in banned)) if banned else None


def _holds(output: str, part: str) -> bool:
    import regex

    part = normalize_unicode(part)
    wanted = _comparable(part)
    answer = _comparable(normalize_unicode(output, part))
    return regex.search(_start(wanted) + regex.escape(wanted) + _end(wanted), answer) is not None


_GROUPED = re.compile(r"(?<!\d)(?<!\d[.,])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
"""A whole number with commas between thousands."""


def _comparable(text: str) -> str:
    """Without case, without commas between thousands, with single spaces."""
    plain = " ".join(text.casefold().split())
    return _GROUPED.sub(lambda match: match[0].replace(",", ""), plain)


_LETTERS = r"\p{Latin}\p{Greek}\p{Cyrillic}"
"""Of scripts with a space between words."""
_IN_WORD = rf"[{_LETTERS}\p{{M}}\d_]"


def _start(wanted: str) -> str:
    """What may not stand before: the rest of a word, of a number, or its sign."""
    import regex

    if re.match(r"[-\u2212+]?\.?\d", wanted):
        unsigned = r"(?<!(?<![\w.)\]])[-\u2212])" if wanted[0].isdigit() else ""
        return rf"(?<![{_LETTERS}_\d]|\d[.,]){unsigned}"
    return f"(?<!{_IN_WORD})" if regex.match(_IN_WORD, wanted) else ""


def _end(wanted: str) -> str:
    """What may not stand after: the rest of a word or of a number; a unit may."""
    import regex

    if wanted[-1].isdigit():
        return r"(?!\d|[.,]\d)"
    return f"(?!{_IN_WORD})" if regex.match(_IN_WORD, wanted[-1]) else ""


@hookimpl
def register_scorers(register: Callable[[Scorer], None]) -> None:
    """exact_match, token_f1, must_contain, must_not_contain."""
    for one in (exact_match, token_f1, must_contain, must_not_contain):
        register(one)
