"""Environment variables that libraries would read in silence as something else.

OpenMP ignores a number of threads that is none, torch sees no GPU where a name is misspelt, and a
misspelt variable of the harness is not there: hours later a run has taken another machine, another
folder or the network. They are checked with every plan.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from harness.errors import UserError
from harness.system.paths import expanded

__all__ = ["check"]

KNOWN = ("HARNESS_CACHE", "HARNESS_MIRROR")
_DEVICES = r"\s*(-1|\d+|GPU-[\w-]+|MIG-[\w/-]+|none|NoDevFiles)?\s*"
_SWITCH = (r"\s*(0|1|on|off|yes|no|true|false)?\s*", "1 or 0", "1")
_FORMS = {
    "OMP_NUM_THREADS": (r"\s*[1-9]\d{0,4}(\s*,\s*[1-9]\d{0,4})*\s*", "a whole number from 1", "4"),
    "CUDA_VISIBLE_DEVICES": (
        rf"{_DEVICES}(,{_DEVICES})*",
        "numbers or UUIDs of GPUs, with commas",
        "0",
    ),
    "HF_HUB_OFFLINE": _SWITCH,
    "TRANSFORMERS_OFFLINE": _SWITCH,
    "HF_DATASETS_OFFLINE": _SWITCH,
}
"""Variable -> its form, what is expected, and an example."""


def check(variables: Mapping[str, str] = os.environ) -> None:
    """Raise UserError for the first variable that means nothing, with the line that mends it."""
    for name, (form, expected, example) in _FORMS.items():
        value = variables.get(name, "")
        if value and not re.fullmatch(form, value, re.IGNORECASE):
            raise _wrong(name, value, f"expected {expected}", example)
    endpoint = variables.get("HF_ENDPOINT", "")
    if endpoint and not _is_url(endpoint):
        raise _wrong("HF_ENDPOINT", endpoint, "expected a URL", "https://huggingface.co")
    cache = variables.get("HARNESS_CACHE", "")
    if cache and (place := _no_folder(expanded(cache))):
        raise _wrong("HARNESS_CACHE", cache, f"{place} is no folder", "DIR")
    for name in sorted(variables):
        if name.startswith("HARNES") and name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.8)
            if near:
                raise UserError(
                    f"the environment variable {name} is not read: did you mean {near[0]}? unset "
                    f"{name}"
                )


def _wrong(name: str, value: str, expected: str, example: str) -> UserError:
    shown = value if len(value) <= 60 else f"{value[:57]}..."
    return UserError(
        f"the environment variable {name} holds {shown!r}: {expected}: export {name}={example}, or "
        f"unset {name}"
    )


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _no_folder(path: Path) -> Path | None:
    """What stands where a folder should: the path itself, or one above it; None where nothing."""
    try:
        place = next(place for place in (path, *path.parents) if place.exists())
    except OSError:  # a name that no file can have
        return path
    return None if place.is_dir() else place
