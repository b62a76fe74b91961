"""Texts in any script: the same text in one form, and its words."""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

__all__ = ["beyond_ascii", "beyond_latin", "composed", "words"]


def composed(text: str, reference: str | None = None) -> str:
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


def beyond_latin(text: str) -> bool:
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


def words(text: str) -> list[str]:
    """Words in lower case: runs of letters with their accents and digits, in every script.

    Scripts that put no space between words give a word for each character with its marks, as is
    usual for ROUGE of Chinese and Japanese.
    """
    return [str(word) for word in _pattern().findall(composed(composed(text).lower()))]


@functools.cache
def _pattern() -> Any:
    import regex

    unspaced = "".join(
        rf"\p{{{script}}}"
        for script in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")
    )
    return regex.compile(
        rf"(?V1)[[{unspaced}]&&[\p{{L}}\p{{N}}]]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{unspaced}]]+"
    )
