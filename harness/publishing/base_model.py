"""The base model as the Hub knows it, and under which licence."""

from __future__ import annotations

import re
from pathlib import Path

from harness.errors import UserError
from harness.models import packaged
from harness.publishing.publication import License
from harness.types import ModelRef

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def hub_id(base: ModelRef, given: str | None) -> str | None:
    """`owner/name` of the base: as given, as its package says, or its own name; None if unknown."""
    if given is not None:
        if not _HUB_ID.fullmatch(given):
            raise UserError(f"--base-model {given}: not a Hub id: write owner/name")
        return given
    entry = packaged.registry().get(base.name)
    if entry is not None:
        return entry.hub or None
    name = base.name.partition("@")[0]
    return name if _HUB_ID.fullmatch(name) and not Path(name).is_dir() else None


def license_of(base: ModelRef, given: str | None, name: str | None, link: str | None) -> License:
    """The licence as given, else the base model's where it states one.

    Raises UserError where none is known, and for `other` without a name and a link.
    """
    found = _given(given) if given is not None else _stated(base)
    if found is None:
        raise UserError(
            f"the licence of {base.name} is not known here: name the one that you may publish "
            "under, as the Hub calls it: --license apache-2.0"
        )
    if found.id == "other" and not (name and link):
        raise UserError("--license other: add --license-name NAME and --license-link LINK")
    return License(found.id, found.origin, name, link)


def _given(given: str) -> License:
    if not _LICENSE.fullmatch(given):
        raise UserError(
            f"--license {given}: not an identifier of the Hub's: write it as in apache-2.0, mit, "
            "llama3.2, or `other` with --license-name and --license-link"
        )
    return License(given, "as the publisher states")


def _stated(base: ModelRef) -> License | None:
    """What the package or the model's own card says."""
    entry = packaged.registry().get(base.name)
    if entry is not None:
        return License(entry.licence.lower(), f"that of {entry.model}, as its package states")
    card = Path(base.path) / "README.md"
    if not card.is_file():
        return None
    from huggingface_hub import ModelCard

    try:
        told = ModelCard.load(card, ignore_metadata_errors=True).data.get("license")
    except Exception:  # anybody's file: it says nothing
        return None
    known = isinstance(told, str) and _LICENSE.fullmatch(told)
    return License(str(told), f"that of {base.name}, as its card states") if known else None
