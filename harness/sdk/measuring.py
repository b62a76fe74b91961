"""What holds for every cell of a run, and where results lie; command-line options need it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Measuring", "existing_results"]


@dataclass(frozen=True)
class Measuring:
    """What holds for every cell that is planned."""

    out: Path | None = None
    limit: int | None = None
    suite_folders: Sequence[Path] = ()
    mirror: Path | None = None


def existing_results(folders: Sequence[str | Path]) -> list[Path]:
    """The results folders given, or else all under results/."""
    named = [Path(folder) for folder in folders]
    return named or sorted(cells.parent for cells in Path("results").glob("*/cells"))
