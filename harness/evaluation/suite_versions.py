"""Tells where a suite's content changed and its version did not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.evaluation.suite import Suite
from harness.results import store

__all__ = ["changed", "records_in"]


def changed(suites: Sequence[Suite], records: Iterable[Mapping[str, Any]]) -> list[str]:
    """A notice for each suite that a record measured with other content under the same version.

    `records` are parsed JSON; those that hold no `content` of a suite say nothing about it.
    """
    records = list(records)
    notices = []
    for suite in suites:
        stale = [str(record["id"]) for record in records if _differs(suite, record)]
        if stale:
            others = f" and {len(stale) - 1} more" if len(stale) > 1 else ""
            notices.append(
                f"suite '{suite.name}' changed since {stale[0]}{others} was recorded, but its "
                f"version is still {suite['version']}: raise it in {suite.file}"
            )
    return notices


def records_in(out: Path) -> list[dict[str, Any]]:
    """The records of a results folder, those that cannot be read left out."""
    found = []
    for file in sorted((out / "cells").glob("*.json")):
        with suppress(UserError):  # whoever needs this record tells what is wrong with it
            found.append(store.read_record(file))
    return found


def _differs(suite: Suite, record: Mapping[str, Any]) -> bool:
    evaluation = record.get("evaluation") or {}
    theirs = (evaluation.get("suites") or {}).get(suite.name) or {}
    if not (suite.content and theirs.get("content")):
        return False
    return bool(theirs.get("version") == suite["version"] and theirs["content"] != suite.content)
