"""A published folder: its hashes, its records, and every text file written again from them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, UserError
from harness.publishing import content, publication
from harness.publishing.publication import CARD, NAME, RESULTS, Publication
from harness.record import Record
from harness.results import store
from harness.results.artifact_hash import digest
from harness.results.groups import base_id
from harness.results.store import Rows
from harness.verification import verify
from harness.verification.comparing import differences
from harness.verification.report import Report, shown
from harness.verification.suites_at_hand import SuitesAtHand
from harness.verification.verify import Verified


def check(path: Path, at_hand: SuitesAtHand) -> tuple[Verified, Publication]:
    """Verify a published folder. Raises UserError where it is none, or holds no record."""
    report = Report(str(path))
    read = publication.content(path)
    told = publication.parsed(read, path / NAME)
    if not store.is_sealed(read):
        report.fails(NAME, "sha256", "the seal is not that of the file: it changed")
    _files(path, told, report)
    inner = Report(str(path / RESULTS))
    verified = verify.results(path / RESULTS, at_hand, inner, shipped=told.samples)
    for sentence in [s for s in inner.trusted if s.startswith("the weights of ")]:
        del inner.trusted[sentence]  # they stand beside the results here
    report.takes(inner, f"{RESULTS}/")
    record = verified.folder.records.get(told.cell)
    if record is None:
        report.fails(NAME, "cell", f"{RESULTS}/cells/{told.cell}.json is not there, or is broken")
        return Verified(verified.folder, verified.suites, report, f"{RESULTS}/"), told
    _artifact(path, told, record, report)
    base = verified.folder.records.get(told.base) if told.base else None
    if told.base != base_id(record):
        report.fails(NAME, "base", stated=told.base, recomputed=base_id(record))
    rows = {s: rows for (cell, s), rows in verified.folder.samples.items() if cell == told.cell}
    _texts(path, told, record, base, rows, report)
    if not told.samples:
        report.cannot(NAME, "every figure", "it was published without samples (--no-samples)")
    report.trusts("licence, base model's name and dates are as their publisher states")
    return Verified(verified.folder, verified.suites, report, f"{RESULTS}/"), told


def _files(path: Path, told: Publication, report: Report) -> None:
    """The hashes of all files but the card, whose figures are held against the records instead."""
    here = publication.hashes(path)
    for name in sorted({*told.files, *here} - {CARD}):
        if name not in here:
            report.fails(name, problem="is missing")
        elif name not in told.files:
            report.fails(name, problem="was not there when it was published")
        elif here[name] != told.files[name]:
            was, now = told.files[name][:12], here[name][:12]
            report.fails(name, "sha256", stated=was, recomputed=now)
    report.counts("files", len(here))


def _artifact(path: Path, told: Publication, record: Record, report: Report) -> None:
    """From the record's artifact hash over the files that it is of to the files that are here."""
    evaluation = record["evaluation"]
    if evaluation is None or digest(told.artifact) != evaluation.get("artifact_hash"):
        report.fails(NAME, "artifact", "is not what the record was measured on: its hash differs")
    report.counts("artifacts")
    if told.made == "merged":
        report.trusts("the weights are merged, not the bytes that were measured: --ask asks them")
        return
    here = publication.hashes(path)
    files: list[tuple[str, str]] = [(str(name), str(sha)) for name, sha in told.artifact["files"]]
    for name, sha in files:
        weights = name.endswith((".safetensors", ".bin"))
        if weights and here.get(name) != sha:
            report.fails(name, "sha256", "is not the file that was trained and measured")
        elif not weights and here.get(name) != sha:
            report.trusts(f"{name} was written anew for publishing, so its hash is another")


def _texts(
    path: Path,
    told: Publication,
    record: Record,
    base: Record | None,
    rows: Mapping[str, Rows],
    report: Report,
) -> None:
    """The card, the Hub's results and the Every Eval Ever records, written again."""
    try:
        wanted = content.derived(told, record, base, rows)
    except (HarnessError, ValueError, KeyError, TypeError, AssertionError) as error:
        report.fails(NAME, problem=f"the card cannot be written again ({type(error).__name__})")
        return
    for name, text in wanted.items():
        try:
            stated = (path / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            report.fails(name, problem=f"cannot be read ({type(error).__name__})")
            continue
        if name == CARD:
            _card(stated, text, report)
        elif stated != text:
            _values(name, stated, text, report)
        report.counts("published texts")
    kinds = (".eval_results/", "every_eval_ever/")
    for name in publication.files_of(path):
        if name.startswith(kinds) and name not in wanted:
            report.fails(name, problem="does not follow from the record")


def _card(stated: str, wanted: str, report: Report) -> None:
    """Each line of the card that does not follow from the records; lines that were added."""
    own, again = stated.splitlines(), wanted.splitlines()
    added = 0
    for kind, a, b, c, d in difflib.SequenceMatcher(None, own, again, autojunk=False).get_opcodes():
        if kind == "insert":
            for line in again[c:d]:
                report.fails(CARD, f"line {a + 1}", f"lacks {shown(line)}")
        elif kind == "delete":
            added += b - a
        elif kind == "replace":
            _changed(own[a:b], again[c:d], a, report)
    if added:
        report.trusts(f"{CARD}: {added} lines were added after it was published")


def _changed(own: list[str], again: list[str], start: int, report: Report) -> None:
    for at, line in enumerate(again):
        stated = own[at] if at < len(own) else None
        report.fails(CARD, f"line {start + at + 1}", stated=stated, recomputed=line)


def _values(name: str, stated: str, wanted: str, report: Report) -> None:
    """Values of a YAML, JSON or JSONL file that do not follow from the record."""
    try:
        apart = list(differences(_parsed(name, stated), _parsed(name, wanted), within=0.0))
    except (ValueError, UserError, RecursionError) as error:
        report.fails(name, problem=f"cannot be read ({type(error).__name__})")
        return
    for path, said, again in apart:
        report.fails(name, path, stated=said, recomputed=again)
    if not apart:
        report.fails(name, problem="is not written as it was published")


def _parsed(name: str, text: str) -> Any:
    if name.endswith(".yaml"):
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from None
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)
