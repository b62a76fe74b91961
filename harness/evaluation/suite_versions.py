"""Reports suites whose content changed while their version did not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from harness.api.task import Suite
from harness.errors import UserError
from harness.record import Record
from harness.results import store

__all__ = ["changed", "records_in"]


def changed(suites: Sequence[Suite], records: Iterable[Record]) -> list[str]:
    """A notice for each suite that a record measured with other content under the same version.

    `records` are parsed JSON; those that hold no `content` of a suite say nothing about it.
    """
    records = list(records)
    notices = []
    for suite in suites:
        stale = [record["id"] for record in records if _differs(suite, record)]
        if stale:
            others = f" and {len(stale) - 1} more" if len(stale) > 1 else ""
            notices.append(
                f"suite '{suite.name}' changed since {stale[0]}{others} was recorded, but its "
                f"version is still {suite.version}: raise it in {suite.file}"
            )
    return notices


def records_in(out: Path) -> list[Record]:
    """The records of a results folder, those that cannot be read left out."""
    records = []
    for file in sorted((out / "cells").glob("*.json")):
        with suppress(UserError):  # whoever needs this record reports what is wrong with it
            records.append(store.read_record(file))
    store.keep_checked(out / "cells")
    return records


def _differs(suite: Suite, record: Record) -> bool:
    recorded = store.suites(record).get(suite.name)
    if not (suite.content and recorded and recorded.get("content")):
        return False
    same_version = recorded.get("version") == suite.version
    return same_version and recorded.get("content") != suite.content
