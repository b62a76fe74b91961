"""What a verification found: figures that do not hold, those it cannot tell, and what it trusts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.errors import NotTheSame, UserError

SCHEMA = 1
"""Version of the layout of `Report.to_json`."""

Verdict = Literal["holds", "does not hold", "cannot tell"]
EXIT: Mapping[Verdict, int] = {
    "holds": 0,
    "does not hold": NotTheSame.exit_code,
    "cannot tell": UserError.exit_code,
}


@dataclass(frozen=True)
class Finding:
    """Something that does not hold."""

    file: str
    """Relative to the folder."""
    figure: str
    """Which one, as a path in the file; empty where the file itself is meant."""
    problem: str
    """What is wrong, where two values do not say it."""
    stated: object = None
    recomputed: object = None

    def __str__(self) -> str:
        place = f"{self.file}: {self.figure}" if self.figure else self.file
        if self.problem:
            return f"{place}: {self.problem}"
        return f"{place}: stated {shown(self.stated)}, recomputed {shown(self.recomputed)}"


@dataclass(frozen=True)
class Open:
    """Figures that cannot be recomputed from what is in the folder."""

    file: str
    figures: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.figures}: {self.reason}"


@dataclass
class Report:
    """Collects what a verification finds."""

    folder: str
    findings: list[Finding] = field(default_factory=list)
    open: list[Open] = field(default_factory=list)
    trusted: dict[str, None] = field(default_factory=dict)
    """What stands as stated, in sentences, each once; it changes no verdict."""
    checked: Counter[str] = field(default_factory=Counter)
    """What was held against something -> how many."""

    def fails(
        self,
        file: str,
        figure: str = "",
        problem: str = "",
        *,
        stated: object = None,
        recomputed: object = None,
    ) -> None:
        """Keep a finding."""
        finding = Finding(file, figure, problem, stated, recomputed)
        if finding not in self.findings:
            self.findings.append(finding)

    def cannot(self, file: str, figures: str, reason: str) -> None:
        """Keep what cannot be recomputed."""
        self.open.append(Open(file, figures, reason))

    def trusts(self, sentence: str) -> None:
        """Keep what stands as stated."""
        self.trusted[sentence] = None

    def counts(self, what: str, number: int = 1) -> None:
        """Count what was held against something."""
        self.checked[what] += number

    def takes(self, inner: Report, place: str) -> None:
        """Keep all of another report, whose files lie in the folder `place` of this one's."""
        for one in inner.findings:
            file, said = f"{place}{one.file}", (one.stated, one.recomputed)
            self.fails(file, one.figure, one.problem, stated=said[0], recomputed=said[1])
        for unknown in inner.open:
            self.cannot(f"{place}{unknown.file}", unknown.figures, unknown.reason)
        self.trusted |= inner.trusted
        self.checked += inner.checked

    @property
    def verdict(self) -> Verdict:
        """`cannot tell` where nothing fails and a figure could not be recomputed, or none was."""
        if self.findings:
            return "does not hold"
        return "cannot tell" if self.open or not self.checked["figures"] else "holds"

    @property
    def exit_code(self) -> int:
        """0, 1 or 2 by the verdict."""
        return EXIT[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """The whole of it."""
        return {
            "schema": SCHEMA,
            "folder": self.folder,
            "verdict": self.verdict,
            "findings": [vars(finding) for finding in self.findings],
            "cannot": [vars(one) for one in self.open],
            "not_checked": list(self.trusted),
            "checked": dict(self.checked),
        }

    def lines(self, most: int = 50) -> Iterator[str]:
        """For reading: the verdict, at most `most` findings, and what was and was not checked."""
        yield f"{self.folder}: {self.verdict}"
        if self.checked:
            yield f"Checked: {', '.join(f'{n} {what}' for what, n in self.checked.items())}."
        for title, every in (
            ("Does not hold", self.findings),
            ("Cannot be recomputed", self.open),
            ("Not checked, stands as stated", list(self.trusted)),
        ):
            if every:
                yield f"{title}:"
                yield from (f"  {one}" for one in every[:most])
            if len(every) > most:
                yield f"  and {len(every) - most} more (--json lists all)"


def shown(value: object) -> str:
    """A value as a line shows it."""
    text = "nothing" if value is None else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 120 else f"{text[:100]} ... ({len(text)} characters)"
