"""Texts in any script: the same text in one form, and its words."""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regex import Pattern

__all__ = ["beyond_ascii", "matching_words", "normalize_unicode", "split_words", "symbols"]


def normalize_unicode(text: str, reference: str | None = None) -> str:
    """The text in Unicode's form NFC: an accent and its letter are one character.

    With a `reference` only where that has characters beyond ASCII: against one that has none the
    text stays as it is.
    """
    if reference is not None and reference.isascii():
        return text
    return unicodedata.normalize("NFC", text)


def beyond_ascii(text: str) -> bool:
    """Whether a text has letters, accents or digits beyond a to z and 0 to 9."""
    return not text.isascii() and any(
        not c.isascii() and unicodedata.category(c)[0] in "LMN" for c in text
    )


def matching_words(text: str) -> list[str]:
    """Words without case and punctuation, by which repetitions and leaks are found.

    They decide which rows of a mix are trained on, and so the ids of cells: unlike those of
    `split_words`, which scores depend on, they keep the apostrophe inside a word.
    """
    return re.findall(r"\w+(?:['’]\w+)*", text.casefold())


def symbols(text: str) -> list[str]:
    """The symbols beyond ASCII, such as emoji, arrows and currencies: no word holds them."""
    if text.isascii():
        return []
    return [c for c in re.findall(r"[^\w\s\x00-\x7f]", text) if unicodedata.category(c)[0] == "S"]


def split_words(text: str) -> list[str]:
    """Words in lower case, for scores: runs of letters with their accents and digits.

    Scripts that put no space between words give a word for each character with its marks, as is
    usual for ROUGE of Chinese and Japanese.
    """
    lower = normalize_unicode(normalize_unicode(text).lower())
    return [str(word) for word in _pattern().findall(lower)]


@functools.cache
def _pattern() -> Pattern[str]:
    import regex

    unspaced = "".join(
        rf"\p{{{script}}}"
        for script in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
    )
    return regex.compile(
        rf"(?V1)[[{unspaced}]&&[\p{{L}}\p{{N}}]]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{unspaced}]]+"
    )
