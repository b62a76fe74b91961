"""Secrets of the environment, kept out of every text that is printed or written.

A key gets into a text by accident: an exception holds the request that failed, a library logs the
address it connects to, a server repeats what it was sent. Whatever prints, logs or records passes
its text through `masked`.
"""

from __future__ import annotations

import functools
import io
import json
import os
import re
from typing import Any, TextIO

__all__ = ["HIDDEN", "add", "mask_stream", "masked", "masked_values"]

HIDDEN = "***"
"""What stands in place of a secret."""
SHORTEST = 8
"""Characters from which a value is a secret: what a server without keys is given, such as `x`, is
none, and would be found in ordinary words."""

_NAMED = re.compile(
    r"(^|_)(API_?KEY|ACCESS_KEY|SECRET(_KEY)?|PRIVATE_KEY|KEY|TOKEN|PASSWORD|PASSWD|CREDENTIALS?)$"
)
"""Names of environment variables that hold a secret, in upper case."""
_USER = r"[^\s/?#@:'\"<>\\]"
_FORMS = re.compile(
    # https://user:password@host, and a token alone in place of the user
    rf"(?P<url>\b[a-z][a-z0-9+.-]*://){_USER}*(?::[^\s/@'\"<>\\]*)?@"
    r"|(?P<query>[?&](?:access_token|token|api[-_]?key|key|secret|password|sig|signature|"
    r"x-amz-signature|x-amz-credential|x-amz-security-token)=)[^\s&#'\"<>\\]+"
    r"|(?P<bearer>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{12,}"
    # tokens that say themselves what they are: the Hub's, OpenAI's, GitHub's, GitLab's, AWS's
    r"|\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|github_pat_\w{30,}|glpat-[\w-]{20,}|AKIA[0-9A-Z]{16})\b",
    re.IGNORECASE,
)
_HINTS = ("://", "=", "earer", "EARER", "asic", "hf_", "sk-", "gh", "glpat", "AKIA")
"""One of them stands in every text that `_FORMS` finds something in."""
_added: set[str] = set()


def add(value: str | None) -> None:
    """Keep a secret that no variable's name tells, such as the key that `key: NAME` names."""
    if value and len(value) >= SHORTEST:
        _added.add(value)


def masked(text: str) -> str:
    """`text` without secrets: known values, and what looks like a credential wherever it is from.

    Known are the values of environment variables named as keys, tokens and passwords are, and
    those of `add`.
    """
    text = masked_values(text)
    if not any(hint in text for hint in _HINTS):
        return text
    return _FORMS.sub(_hidden, text)


def masked_values(text: str) -> str:
    """`text` without known values; what merely looks like a credential stays."""
    pattern = _values(_known())
    return text if pattern is None else pattern.sub(HIDDEN, text)


def _hidden(found: re.Match[str]) -> str:
    if found["url"]:
        return f"{found['url']}{HIDDEN}@"
    return f"{found['query'] or found['bearer'] or ''}{HIDDEN}"


def _known() -> frozenset[str]:
    named = (
        value.strip()
        for name, value in os.environ.items()
        if _NAMED.search(name.upper()) and len(value.strip()) >= SHORTEST
    )
    return frozenset({*named, *_added})


@functools.lru_cache(maxsize=8)
def _values(known: frozenset[str]) -> re.Pattern[str] | None:
    """The values, the longest first, also as JSON and URLs write them."""
    from urllib.parse import quote

    forms = {
        form
        for value in known
        for form in (value, value.replace("/", "\\/"), json.dumps(value)[1:-1], quote(value))
    }
    if not forms:
        return None
    return re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))))


class _Masking(io.TextIOBase):
    """A text stream whose writer's secrets do not reach what is behind it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(masked(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def mask_stream(stream: TextIO) -> TextIO:
    """The stream, with secrets masked in what Python writes to it; native code writes past it."""
    return stream if isinstance(stream, _Masking) else _Masking(stream)  # type: ignore[return-value]
