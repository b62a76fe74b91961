"""Questions and scores: the suite's own questions, and scores that follow from the answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.api.judge import JudgeBackend
from harness.api.model import Model
from harness.api.task import Suite
from harness.errors import UserError
from harness.evaluation.suite import task_of
from harness.record import Record, SuiteSection
from harness.results.comparability import NAMED
from harness.results.groups import identity
from harness.results.store import Rows, plain
from harness.stats import metric_summary
from harness.stats.answers import reasoning
from harness.types import SuiteResult
from harness.verification.comparing import differences, same
from harness.verification.folder import Folder
from harness.verification.report import Report, shown
from harness.verification.suites_at_hand import SuitesAtHand, base_of

OF_MODELS = 1e-3
"""How far a score that a model gave may be from the same model's here: processors and libraries
round otherwise."""

ASKED = ("prompt", "reference", "group", "domain", "cluster", "choices", "doc_hash")
"""Parts of a sample that are the suite's, whoever answers."""


class NoModels:
    """Tools of scorers that open no model."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Raises UserError."""
        raise UserError("this score needs a model")

    def judge_model(self) -> Model:
        """Raises UserError."""
        raise UserError("this score needs a model")

    def judge_backend(self) -> JudgeBackend:
        """Raises UserError."""
        raise UserError("this score needs a model")

    def base_answers(self) -> Sequence[str]:
        """Raises UserError."""
        raise UserError("this score needs a model")

    def row_answers(self) -> Sequence[str]:
        """Raises UserError."""
        raise UserError("this score needs a model")

    def progress(self, done: int, total: int) -> None:
        """Says nothing."""


def check(folder: Folder, at_hand: SuitesAtHand, report: Report) -> dict[tuple[str, str], Suite]:
    """Hold every sample against its suite and every score against its answer.

    Returns the suites at hand by (cell, suite).
    """
    found: dict[tuple[str, str], Suite] = {}
    at_hand.learn(folder.records.values())
    for record, name, section, rows in folder.measured():
        known = at_hand.find(record, name, section)
        if known.contradiction:
            report.fails(f"cells/{record['id']}.json", f"{name}: suite", known.contradiction)
        _unique(rows, section, report)
        _reasoning(record, name, section, rows, report)
        if known.suite is None:
            report.trusts(
                f"{name}: the suite of the records is not at hand ({known.reason}), so its "
                "questions and scores stand as stated: --suites DIR names a folder of suites"
            )
            continue
        found[record["id"], name] = known.suite
        _hold(record, known.suite, section, rows, at_hand, report)
    _one_identity(folder, report)
    _alike(folder, report)
    _one_answer(folder, report)
    return found


def _unique(rows: Rows, section: SuiteSection, report: Report) -> None:
    twice = [key for key, count in Counter(row["id"] for row in rows).items() if count > 1]
    for key in twice:
        report.fails(_file(section), f"sample {key}", "stands there twice")


def _reasoning(
    record: Record, suite: str, section: SuiteSection, rows: Rows, report: Report
) -> None:
    """What the record says of reasoning follows from the samples; unfinished it is no answer."""
    stated = (section.get("notes") or {}).get("reasoning") or {}
    if stated.get("end") is None:
        return
    try:
        figures = reasoning.figures(rows)
    except (KeyError, TypeError) as error:
        report.fails(_file(section), "reasoning", f"no figure can be computed of it ({error!r})")
        return
    said = {key: stated.get(key) for key in figures}
    for path, one, other in differences(said, plain(figures), f"{suite}.reasoning"):
        report.fails(f"cells/{record['id']}.json", path, stated=one, recomputed=other)
    for row in rows:
        # a task of lm-eval may make another output of the empty answer
        if row.get("unfinished_reasoning") and row.get("output") and "capped" in row:
            told = f"{shown(row['output'])}, though its reasoning is unfinished"
            report.fails(_file(section), f"sample {row['id']}: output", told)
        if row.get("reasoning_tokens", 0) > row.get("tokens", 0):
            told = f"{row['reasoning_tokens']} of {row['tokens']} tokens"
            report.fails(_file(section), f"sample {row['id']}: reasoning_tokens", told)
    report.counts("figures", len(figures))


def _hold(
    record: Record,
    suite: Suite,
    section: SuiteSection,
    rows: Rows,
    at_hand: SuitesAtHand,
    report: Report,
) -> None:
    """The samples and metrics of a suite that is at hand."""
    task = task_of(suite, at_hand.plugins)
    names = task.metrics(suite)
    for missing in set(names or ()) - set(section["metrics"]):
        file = f"cells/{record['id']}.json"
        report.fails(file, f"{suite.name}.{missing}", "is a metric of the suite, and not stated")
    if task.knows_samples:
        ids = {sample.id for sample in task.samples(suite)}
        _whose(ids, rows, section, report)
    try:
        again = task.rescore(suite, rows, NoModels(), models=False)
    except Exception as error:  # a changed file, or a plugin's scorer
        report.trusts(f"{suite.name}: scores cannot be computed again ({type(error).__name__})")
        return
    compare(suite.name, section, rows, again, report)
    _estimators(record, suite, section, again, report)
    if suite.judge:
        report.trusts(f"{suite.name}: a judge's verdicts are the judge's: nobody asked it again")


def _whose(ids: Collection[str], rows: Rows, section: SuiteSection, report: Report) -> None:
    recorded = {row["id"] for row in rows}
    for missing in sorted(set(ids) - recorded):
        report.fails(_file(section), f"sample {missing}", "is asked by the suite, and not there")
    for strange in sorted(recorded - set(ids)):
        report.fails(_file(section), f"sample {strange}", "is no question of the suite")


def compare(
    suite: str,
    section: SuiteSection,
    rows: Rows,
    again: SuiteResult | None,
    report: Report,
    *,
    within: float | None = None,
) -> None:
    """Hold recorded samples against what follows from them; what does not is named as trusted."""
    found: Mapping[str, Any] = {row["id"]: plain(row) for row in again.rows} if again else {}
    left: set[str] = set()
    for row in rows:
        other = found.get(row["id"], {"scores": {}})
        for key in (*ASKED, "output"):
            if key in other and key in row and row[key] != other[key]:
                told = f"{shown(row[key])}, where the suite has {shown(other[key])}"
                report.fails(_file(section), f"sample {row['id']}: {key}", told)
        report.counts("questions", "reference" in other)
        for kind in ("scores", "statistics"):
            _scores(row, other, kind, section, within, report)
        if "missing" not in row:
            left |= {name for name in row["scores"] if name not in other["scores"]}
    if left:
        every = ", ".join(sorted(left)[:6]) + (" ..." if len(left) > 6 else "")
        report.trusts(f"{suite}: the scores {every} follow from no answer without a model")


def _scores(
    row: Mapping[str, Any],
    other: Mapping[str, Any],
    kind: str,
    section: SuiteSection,
    within: float | None,
    report: Report,
) -> None:
    for name, value in (other.get(kind) or {}).items():
        stated = (row.get(kind) or {}).get(name)
        near = (
            same(stated, value)
            if within is None or None in (stated, value)
            else abs(stated - value) <= within
        )
        if not near:
            place = f"sample {row['id']}: {kind}.{name}"
            report.fails(_file(section), place, stated=stated, recomputed=value)
        report.counts("scores")


def _estimators(
    record: Record,
    suite: Suite,
    section: SuiteSection,
    again: SuiteResult | None,
    report: Report,
) -> None:
    """How each figure is computed is the suite's, not the record's, to say."""
    for metric in again.metrics if again else ():
        stated = section["metrics"].get(metric.name)
        if stated is None:
            continue
        place = f"{suite.name}.{metric.name}"
        wanted = {
            "estimator": plain(metric_summary.estimator(metric)),
            "higher_is_better": metric.higher_is_better,
        }
        said = {key: stated[key] for key in wanted}  # type: ignore[literal-required]
        for path, one, other in differences(said, wanted, place):
            report.fails(f"cells/{record['id']}.json", path, stated=one, recomputed=other)


# Cells beside each other


def _one_identity(folder: Folder, report: Report) -> None:
    """One hash of a suite is of one version with the same parts."""
    told: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for record, name, section, _ in folder.measured():
        # settings that older records do not name are held to the suite itself
        parts = {k: v for k, v in (section.get("parts") or {}).items() if not k.startswith(NAMED)}
        stated = [section.get("version"), section.get("content"), parts]
        key = (name, section["hash"])
        told.setdefault(key, []).append((record["id"], json.dumps(stated, sort_keys=True)))
    for (name, digest), cells in told.items():
        forms = Counter(form for _, form in cells)
        most = max(forms.values())
        for cell, form in cells:
            if len(forms) > 1 and (forms[form] < most or most * 2 <= len(cells)):
                problem = f"has other parts than in other cells, under one hash {digest[:12]}"
                report.fails(f"cells/{cell}.json", f"{name}: suite", problem)


def _alike(folder: Folder, report: Report) -> None:
    """One suite asks all models of one base the same: whoever differs from most is named."""
    asked: dict[tuple[str, str, str], list[tuple[SuiteSection, dict[str, str]]]] = {}
    for record, name, section, rows in folder.measured():
        key = (name, identity(section), base_of(record["plan"]).identity)
        table = {row["id"]: json.dumps([row.get(part) for part in ASKED]) for row in rows}
        asked.setdefault(key, []).append((section, table))
    for same_suite in asked.values():
        usual: dict[str, Counter[str | None]] = {}
        for sample in {sample for _, table in same_suite for sample in table}:
            usual[sample] = Counter(table.get(sample) for _, table in same_suite)
        for section, table in same_suite:
            _unusual(section, table, usual, report)


def _unusual(
    section: SuiteSection,
    table: Mapping[str, str],
    usual: Mapping[str, Counter[str | None]],
    report: Report,
) -> None:
    for key, forms in sorted(usual.items()):
        own, most = table.get(key), max(forms.values())
        if len(forms) < 2 or (forms[own] == most and most * 2 > forms.total()):
            continue
        if own is None:
            problem = "is not there, and in other cells it is"
        elif set(forms) == {own, None}:
            problem = "is not in the other cells"
        else:
            problem = "asks something else than in other cells"
        report.fails(_file(section), f"sample {key}", problem)


def _one_answer(folder: Folder, report: Report) -> None:
    """Suites that a cell ran at once got one answer to one prompt: it is asked once."""
    for record in folder.records.values():
        answers: dict[str, tuple[str, str]] = {}
        for other, name, section, rows in folder.measured():
            if other is not record or "reused" in section:
                continue
            decoding = (section.get("notes") or {}).get("decoding")
            parts = section.get("parts") or {}
            keys = ("apply_chat_template", "reasoning", "engine")
            how = [decoding, *(parts.get(key) for key in keys)]
            for row in rows if decoding else ():
                key = json.dumps([row.get("prompt"), how])
                known = answers.setdefault(key, (name, str(row.get("output"))))
                if known[1] != str(row.get("output")):
                    told = f"answers otherwise than in suite {known[0]}, where the prompt is asked"
                    report.fails(_file(section), f"sample {row['id']}: output", told)


def _file(section: SuiteSection) -> str:
    samples = section.get("samples")
    return samples["file"] if samples else ""


def embedding(suites: Iterable[Suite], at_hand: SuitesAtHand) -> bool:
    """Whether a scorer of the suites needs a model."""
    scorers = at_hand.plugins.scorers
    named = [scorers.get(use.name) for suite in suites for use in suite.scorers]
    return any(scorer.embeds or scorer.models for scorer in named)
