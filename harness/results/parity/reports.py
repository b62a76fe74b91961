"""Reports of parity checks beside the records, and the figures that rules of a gate may name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.results import store
from harness.results.policy import PARITY

SCHEMA = 1
"""Version of a report's layout."""
HIGHER_IS_BETTER = {
    "identical": True,
    "top1": True,
    "kl": False,
    "mean_difference": False,
    "max_difference": False,
    "same": True,
}
"""Figure -> its direction; `same` is 1 where the check passed."""


def file_of(out: Path, cell: str, identity: str) -> Path:
    """Where the report of a cell and a form stands."""
    return out / PARITY / f"{cell}-{identity[:12]}.json"


def of_cell(folders: Sequence[Path], cell: str) -> list[dict[str, Any]]:
    """Its reports, the newest first. Raises UserError for one that was changed."""
    files = {file for folder in folders for file in (folder / PARITY).glob(f"{cell}-*.json")}
    return sorted(map(_read, sorted(files)), key=lambda report: str(report["at"]), reverse=True)


def _read(file: Path) -> dict[str, Any]:
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        report = None
    if not isinstance(report, dict) or not store.is_sealed(report) or "at" not in report:
        raise UserError(
            f"{file}: broken or changed since it was written: delete it and run `harness parity` "
            "again"
        )
    return report


def figure(report: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """A figure: `value`, `ci_low`, `ci_high` and `n`; None where it could not be told."""
    if name == "same":
        passed = float(report["verdict"] == "same")
        return {"value": passed, "ci_low": None, "ci_high": None, "n": report["prompts"]}
    found: Mapping[str, Any] | None = report["figures"].get(name)
    return found
