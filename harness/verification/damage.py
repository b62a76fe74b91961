"""What is broken or left over in a results folder, what that costs, and what mends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.errors import UserError

SCHEMA = 1
"""Version of the layout of `Examined.to_json`."""

Kind = Literal[
    "leftover", "record", "samples", "section", "artifact", "checkpoint", "leaderboard", "lock"
]


@dataclass
class Damage:
    """Something that is broken or left over."""

    kind: Kind
    file: str
    """Relative to the folder."""
    problem: str
    meaning: str
    """Which cell runs again, or what is lost."""
    mend: str
    """What mending does, or did; what the user can do, where `harness` cannot mend it."""
    mended: bool = False

    def __str__(self) -> str:
        done = "mended: " if self.mended else ""
        return f"{self.file}: {self.problem}; {self.meaning}; {done}{self.mend}"


@dataclass
class Examined:
    """A results folder that was examined."""

    folder: str
    damage: list[Damage] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    """Cells that were begun and have no record: the next run of their experiment goes on there."""

    @property
    def exit_code(self) -> int:
        """0 where nothing is wrong or all is mended, else 2."""
        return 0 if all(one.mended for one in self.damage) else UserError.exit_code

    def to_json(self) -> dict[str, Any]:
        """The whole of it."""
        return {
            "schema": SCHEMA,
            "folder": self.folder,
            "damage": [vars(one) for one in self.damage],
            "unfinished": self.unfinished,
        }

    def lines(self) -> Iterator[str]:
        """For reading: a line for each damage, and the sum."""
        yield from map(str, self.damage)
        if self.unfinished:
            cells = ", ".join(self.unfinished[:10])
            more = f" and {len(self.unfinished) - 10} more" if len(self.unfinished) > 10 else ""
            yield f"unfinished, and gone on with by the next run: {cells}{more}"
        left = sum(not one.mended for one in self.damage)
        if not self.damage:
            yield f"{self.folder}: nothing is wrong"
        elif left:
            yield f"{self.folder}: {left} to mend: harness doctor {self.folder} --mend"
        else:
            yield f"{self.folder}: all {len(self.damage)} are mended"
