"""Whether two arms may be compared at all, and which differences to be careful about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.api.task import Suite
from harness.errors import NotComparable
from harness.record import Record, SuiteSection
from harness.results.groups import Group, ReadRows, answer_warnings, own_words
from harness.results.store import suites
from harness.stats.answers.degenerate_answers import MANY

NAMED = "named_"
"""Before the name of a setting whose part of the hash is of something else, as its files."""

_PACKAGES = ("finetune-harness", "torch", "transformers", "peft", "bitsandbytes", "lm_eval")
"""Libraries whose version may move a score."""


def check_suite(suite: str, candidate: Group, baseline: Group) -> None:
    """Raises NotComparable, with the parts that differ, where the suite is not the same."""
    for arm, other in ((candidate, baseline), (baseline, candidate)):
        if suite not in arm.hashes:
            raise NotComparable(
                f"suite '{suite}': {arm.label} has no result and {other.label} has one; "
                f"measure {arm.label} with it too"
            )
    if candidate.hashes[suite] == baseline.hashes[suite]:
        return
    differences = _differences(_section(candidate, suite), _section(baseline, suite))
    raise NotComparable(
        f"suite '{suite}' is not the same for {candidate.label} and {baseline.label}: "
        f"{'; '.join(differences)}; measure one of them again"
    )


def check_planned(suite: Suite, candidate: str, baseline: Group) -> None:
    """Raises NotComparable where a suite to be measured is not the baseline's."""
    measured = _section(baseline, suite.name)
    if suite.hash != measured["hash"]:
        planned = {"parts": suite.parts, "version": suite.version}
        planned["data_hash"] = measured.get("data_hash")
        raise NotComparable(
            f"suite '{suite.name}' is not the same for {candidate} and {baseline.label}: "
            f"{'; '.join(_differences(planned, measured))}; measure the baseline again, or give "
            "the --limit, --mirror and --suites that it was measured with"
        )


def check_samples(suite: str, candidate: Iterable[str], baseline: Iterable[str]) -> None:
    """Raises NotComparable where one arm lacks samples, or scores of samples, of the other."""
    candidate_ids, baseline_ids = set(candidate), set(baseline)
    if candidate_ids == baseline_ids:
        return
    differences = [
        f"{len(only)} only in the {arm} (such as '{min(only)}')"
        for arm, only in (
            ("candidate", candidate_ids - baseline_ids),
            ("baseline", baseline_ids - candidate_ids),
        )
        if only
    ]
    raise NotComparable(
        f"suite '{suite}' does not have the same samples with a score in both arms: "
        f"{' and '.join(differences)}; a missing score was not a finite number"
    )


def warnings(candidate: Group, baseline: Group) -> list[str]:
    """What differs and may move a score a little: precision, batch size, libraries, device,
    and which models of an endpoint judged.
    """
    ours, theirs = candidate.cells[0], baseline.cells[0]
    settings = [
        ("precision", _precision(ours), _precision(theirs)),
        ("batch", _batch(ours), _batch(theirs)),
        ("device", _device(ours), _device(theirs)),
        *((name, _version(ours, name), _version(theirs, name)) for name in _PACKAGES),
        *(
            (f"who judged suite '{suite}'", _judged_by(ours, suite), _judged_by(theirs, suite))
            for suite in suites(ours)
        ),
    ]
    return [
        f"{what} differs: {ours} for {candidate.label}, {theirs} for {baseline.label}"
        for what, ours, theirs in settings
        if ours != theirs and ours is not None and theirs is not None
    ]


def answers(candidate: Group, baseline: Group, read_rows: ReadRows) -> list[str]:
    """The lines of a comparison: each arm's own, and unequal shares of answers that are cut."""
    lines = [
        f"{group.label}: {line}"
        for group in (candidate, baseline)
        for line in answer_warnings(group, read_rows)
    ]
    ours, theirs = (_capped(group, read_rows) for group in (candidate, baseline))
    return lines + [
        f"suite '{suite}': {ours[suite]:.0%} of {candidate.label}'s answers are cut at "
        f"max_new_tokens, {theirs[suite]:.0%} of {baseline.label}'s: their scores are of texts "
        "of unequal completeness"
        for suite in ours
        if suite in theirs and abs(ours[suite] - theirs[suite]) > MANY
    ]


def _capped(group: Group, read_rows: ReadRows) -> dict[str, float]:
    """Suite -> share of answers that are cut, over all seeds."""
    marks: dict[str, list[bool]] = {}
    for cell in group.cells:
        for suite in suites(cell):
            rows = own_words(cell, suite, read_rows)
            marks.setdefault(suite, []).extend(bool(row["capped"]) for row in rows)
    return {suite: sum(of) / len(of) for suite, of in marks.items() if of}


def _section(group: Group, suite: str) -> SuiteSection:
    return next(suites(cell)[suite] for cell in group.cells if suite in suites(cell))


def _differences(candidate: Mapping[str, Any] | SuiteSection, baseline: SuiteSection) -> list[str]:
    """`num_fewshot is 0 and 5` for each part that differs."""
    ours, theirs = candidate.get("parts") or {}, baseline.get("parts") or {}
    differences = [
        f"{name} is {ours.get(name)!r} and {theirs.get(name)!r}"
        for name in parts_apart(ours, theirs)
    ]
    versions = (candidate.get("version"), baseline.get("version"))
    other_version = f"version is {versions[0]!r} and {versions[1]!r}"
    if not (ours and theirs):
        too_old = "the records are too old to show which part differs"
        differences = [too_old if versions[0] == versions[1] else other_version]
    if candidate.get("data_hash") != baseline.get("data_hash"):
        differences.append("the data of its tasks is not the same")
    if differences:
        return differences
    if versions[0] != versions[1]:
        return [other_version]
    return ["its hash differs, and the records do not show which part does"]


def parts_apart(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Names of the parts of a suite's hash that differ.

    Settings that older records do not name count where both sides name one.
    """
    newer = {name for name in {**ours, **theirs} if name.startswith(NAMED)}
    if not (newer & set(ours) and newer & set(theirs)):
        ours, theirs = ({k: v for k, v in one.items() if k not in newer} for one in (ours, theirs))
    return [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]


def _precision(cell: Record) -> object:
    return (cell["plan"].get("budget") or {}).get("precision")


def _batch(cell: Record) -> object:
    evaluation = cell["evaluation"]
    return (evaluation.get("passes") or {}).get("batch") if evaluation else None


def _version(cell: Record, package: str) -> str | None:
    return cell["environment"].get("packages", {}).get(package)


def _judged_by(cell: Record, suite: str) -> str | None:
    """The models that answered for a judge behind an endpoint: a name may lead to another each day.

    None where no endpoint judged, and for a suite that the record does not have.
    """
    section = suites(cell).get(suite)
    judge = (section.get("notes") or {}).get("judge") or {} if section else {}
    answered = {
        name
        for one in (judge, *judge.get("judges", ()))  # alone, or each of a panel
        for name in (one.get("backend") or {}).get("answered_by") or ()
    }
    return ", ".join(sorted(answered)) if answered else None


def _device(cell: Record) -> str:
    environment = cell["environment"]
    gpu = environment.get("gpu")
    return gpu["name"] if gpu else str(environment.get("cpu"))
