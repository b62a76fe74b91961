"""The suites of a cell: each stored once it is scored, or reused from an earlier run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from harness.api.task import Suite
from harness.errors import UserError
from harness.evaluation.judging.rows.opponents import Opponent, digest, read
from harness.evaluation.suite import task_of
from harness.manager import plugins
from harness.record import SuiteSection
from harness.results import store
from harness.results.store import Rows
from harness.stats import metric_summary
from harness.system import hardware
from harness.types import SuiteResult

PASSES = 1
"""Raised when the same model on the same device would give other answers or log-probabilities."""


def arithmetic() -> str:
    """What computes the answers of a worker on this machine, beside the artifact's precision.

    Below float32 the kernels of another device choose other answers where two are nearly as
    likely, and so do those of another generation of GPUs.
    """
    machine = hardware.facts()
    kind = machine.device
    if kind == "cuda":
        kind += " {}.{}".format(*machine.gpus[0].capability)
    return f"{kind}, passes {PASSES}"


class _Reused(TypedDict, total=False):
    reused: str


class _Corrected(TypedDict, total=False):
    uncorrected_hash: str


@dataclass
class Sections:
    """What a cell's record says of each suite, and the sample files beside it.

    A kept suite is known by the bytes of the artifact, the hash of the suite's rows, that of its
    data and the arithmetic alone: whichever cell or experiment measured it. One from before
    arithmetic was kept is measured again.
    """

    out: Path
    cell_id: str
    base: str | None
    """Id of the base's record, to compare with."""
    artifact_hash: str
    warn: Callable[[str], None]
    opponents: Mapping[str, Opponent] = field(default_factory=dict)
    """Suite -> the row whose stored answers its judge compares with."""
    shared: Path | None = None
    """Folder whose results folders may hold the same answers; None: only `out` is searched."""
    others: bool = True
    """Whether the answers of other cells in `out` may be reused too."""
    tokenizer_hash: str | None = None
    arithmetic: str = field(default_factory=arithmetic)
    """Of this worker."""
    done: dict[str, SuiteSection] = field(default_factory=dict)
    """Suite -> its section of the record."""
    _data: dict[str, str | None] = field(default_factory=dict)
    _compared: dict[str, str | None] = field(default_factory=dict)
    """Suite -> hash of the answers that its judge compares with, where they are stored."""

    def reuse(self, suite: Suite) -> str | None:
        """Reuse a suite's stored answers; return the id of the cell that measured them.

        None where there are none. Files that are broken or were changed are skipped, with a
        warning. Raises what hashing the suite's data raises.
        """
        self._data[suite.name] = task_of(suite, plugins()).data_hash(suite)
        self._compared[suite.name] = self._opponent_hash(suite)
        for file in self._places(suite.name):
            kept = self._read(file, suite)
            if kept is None:
                continue
            section, rows, result = kept
            self.tokenizer_hash = section["tokenizer_hash"]
            if section["hash"] != suite.hash:  # the same rows, corrected by something else
                result = task_of(suite, plugins()).correct(suite, result)
                rows = [dict(row) for row in result.rows]
            cell = str(section.get("reused") or section["cell"])
            self._keep(
                suite, rows, result, {"reused": cell}, section["samples"].get("non_finite", 0)
            )
            return cell
        return None

    def _opponent_hash(self, suite: Suite) -> str | None:
        opponent = self.opponents.get(suite.name)
        if opponent is None or opponent.own:
            return None
        samples = task_of(suite, plugins()).samples(suite)
        cap = int(str(suite.settings["max_new_tokens"]))
        return digest(samples, read(opponent, suite.name, samples, cap))

    def keep(self, suite: Suite, result: SuiteResult) -> None:
        """Write the samples and the section of a suite that was scored now."""
        rows = [dict(row) for row in result.rows]
        self._keep(suite, rows, result, {}, 0)

    def _keep(
        self,
        suite: Suite,
        rows: Rows,
        result: SuiteResult,
        reused: _Reused,
        lost: int,
    ) -> None:
        if suite.judge_row is not None:  # figures are of these answers, whoever gave them
            self._data[suite.name] = _compared(result.notes)
        base: Rows | None = None
        same_tokens, base_error = True, None
        try:
            base, same_tokens = self._base_rows(suite)
        except UserError as error:  # a base that cannot be read does not cost the answers
            base_error = error
        samples = store.write_samples(self.out, self.cell_id, suite.name, rows)
        if lost:
            samples["non_finite"] = lost
        uncorrected = suite.uncorrected_hash
        corrected: _Corrected = {"uncorrected_hash": uncorrected} if uncorrected else {}
        section: SuiteSection = {
            "hash": suite.hash,
            **corrected,
            "version": suite.version,
            "content": suite.content,
            "parts": dict(suite.parts),
            "data_hash": self._data.get(suite.name),
            **reused,
            "metrics": metric_summary.summarise(
                result.metrics, rows, base, same_tokens=same_tokens
            ),
            "samples": samples,
            "notes": dict(result.notes),
        }
        beside = {
            "artifact_hash": self.artifact_hash,
            "tokenizer_hash": self.tokenizer_hash,
            "arithmetic": self.arithmetic,
            "warnings": list(result.warnings),
        }
        store.write_section(self.out, self.cell_id, suite.name, {**section, **beside})
        if base_error is not None:
            raise base_error
        for message in result.warnings:
            self.warn(message)
        self.done[suite.name] = section

    def _base_rows(self, suite: Suite) -> tuple[Rows | None, bool]:
        """The base's rows of the same suite, and whether its figures per token can be compared."""
        if self.base is None:
            return None, True
        base = store.read_record(self.out / "cells" / f"{self.base}.json")
        base_section = store.suites(base).get(suite.name)
        content = [suite.hash, self._data.get(suite.name)]
        if base_section is None and suite.judge_row is not None:
            return None, True  # the base ran before the row that is compared with
        if (
            base_section is None
            or [
                base_section["hash"],
                base_section.get("data_hash"),
            ]
            != content
        ):
            self.warn(f"suite '{suite.name}': the base has no result to compare with")
            return None, True
        evaluation = base["evaluation"]
        same = not evaluation or evaluation.get("tokenizer_hash") in (None, self.tokenizer_hash)
        if not same and _per_token(base_section):
            self.warn(
                f"suite '{suite.name}': the base has another tokenizer, so perplexity per token "
                "is not compared with it; bits_per_byte is"
            )
        return store.read_samples(self.out, base, suite.name), same

    def _places(self, suite: str) -> Iterator[Path]:
        """Files that may hold the suite: this cell's, then its folder's, then the shared ones."""
        own = self.out / "samples" / self.cell_id / f"{suite}.json"
        inside = sorted(self.out.glob(f"samples/*/{suite}.json")) if self.others else []
        beside = sorted(self.shared.glob(f"*/samples/*/{suite}.json")) if self.shared else []
        yield from (file for file in dict.fromkeys([own, *inside, *beside]) if file.is_file())

    def _read(self, file: Path, suite: Suite) -> tuple[dict[str, Any], Rows, SuiteResult] | None:
        """A stored suite, if it is this one and complete."""
        text = file.read_text(encoding="utf-8", errors="replace")
        # A file that does not name this artifact is of another model: no warning.
        if file.parent.name != self.cell_id and self.artifact_hash not in text:
            return None
        try:
            section, rows = store.read_section(file)
            wanted = [store.SECTION, self.artifact_hash]
            if [section[key] for key in ("schema", "artifact_hash")] != wanted:
                return None
            if section.get("uncorrected_hash", section["hash"]) != suite.rows_hash:
                return None
            if suite.judge_row is None and section["data_hash"] != self._data[suite.name]:
                return None
            known, own = self._compared[suite.name], _compared(section["notes"])
            if known is not None and own is not None and known != own:
                return None
            if section.get("arithmetic") != self.arithmetic:
                return None
            metrics = metric_summary.metrics_of(section["metrics"])
            if lacking := _lacking(suite, section):
                raise UserError(f"an older version measured no {', '.join(lacking)}")
            for metric in metrics:
                metric_summary.scored(metric_summary.estimator(metric), rows)
        except Exception as error:  # a changed file may hold anything
            why = str(error) if isinstance(error, UserError) else type(error).__name__
            self.warn(
                f"suite '{suite.name}': the answers kept for {file.parent.name} are not used "
                f"({why.replace(str(file.parent), '...')})"
            )
            return None
        return section, rows, SuiteResult(rows, metrics, section["notes"], section["warnings"])


def _compared(notes: Mapping[str, Any]) -> str | None:
    """Hash of the answers that a judge compared with; None where it compared with none."""
    found = ((notes.get("judge") or {}).get("compared") or {}).get("sha256")
    return None if found is None else str(found)


def _lacking(suite: Suite, section: Mapping[str, Any]) -> list[str]:
    """Metrics of the suite that a kept section has not, where the suite's task lists them."""
    named = task_of(suite, plugins()).metrics(suite) or []
    return [name for name in named if name not in section["metrics"]]


def _per_token(section: SuiteSection) -> bool:
    return any(metric_summary.per_token(m["estimator"]) for m in section["metrics"].values())
