"""Whether two sides may be compared at all, and what to be careful about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.api.task import Suite
from harness.errors import NotComparable
from harness.record import Record, SuiteSection
from harness.results.groups import Group
from harness.results.store import suites

_PACKAGES = ("finetune-harness", "torch", "transformers", "peft", "bitsandbytes", "lm_eval")
"""Libraries whose version may move a score."""


def check_suite(suite: str, candidate: Group, baseline: Group) -> None:
    """Raises NotComparable, saying in what, where the sides did not answer the same suite."""
    for side, other in ((candidate, baseline), (baseline, candidate)):
        if suite not in side.hashes:
            raise NotComparable(
                f"suite '{suite}': {side.label} has no result of it and {other.label} has; "
                f"measure {side.label} with it too"
            )
    if candidate.hashes[suite] == baseline.hashes[suite]:
        return
    mine, theirs = _section(candidate, suite), _section(baseline, suite)
    raise NotComparable(
        f"suite '{suite}' is not the same for {candidate.label} and {baseline.label}: "
        f"{'; '.join(_differences(mine, theirs))}; measure one of them again"
    )


def check_planned(suite: Suite, candidate: str, baseline: Group) -> None:
    """Raises NotComparable where a suite that is to be asked is not the baseline's."""
    theirs = _section(baseline, suite.name)
    if suite.hash != theirs["hash"]:
        mine = {"parts": suite.parts, "version": suite.version}
        mine["data_hash"] = theirs.get("data_hash")
        raise NotComparable(
            f"suite '{suite.name}' is not the same for {candidate} and {baseline.label}: "
            f"{'; '.join(_differences(mine, theirs))}; measure the baseline again, or give the "
            "--limit, --mirror and --suites that it was measured with"
        )


def check_samples(suite: str, candidate: Iterable[str], baseline: Iterable[str]) -> None:
    """Raises NotComparable where one side lacks samples, or scores of samples, of the other."""
    mine, theirs = set(candidate), set(baseline)
    if mine == theirs:
        return
    differences = [
        f"{len(only)} only the {side} has (such as '{min(only)}')"
        for side, only in (("candidate", mine - theirs), ("baseline", theirs - mine))
        if only
    ]
    raise NotComparable(
        f"suite '{suite}' has not the same samples with a score on both sides: "
        f"{' and '.join(differences)}; a score that is missing was not a number"
    )


def warnings(candidate: Group, baseline: Group) -> list[str]:
    """What differs and may move a score a little: precision, batch size, libraries, device."""
    mine, theirs = candidate.cells[0], baseline.cells[0]
    pairs = [
        ("precision", _precision(mine), _precision(theirs)),
        ("batch", _batch(mine), _batch(theirs)),
        ("device", _device(mine), _device(theirs)),
        *((name, _version(mine, name), _version(theirs, name)) for name in _PACKAGES),
    ]
    return [
        f"{what} differs: {one} for {candidate.label}, {other} for {baseline.label}"
        for what, one, other in pairs
        if one != other and one is not None and other is not None
    ]


def _section(group: Group, suite: str) -> SuiteSection:
    return next(suites(cell)[suite] for cell in group.cells if suite in suites(cell))


def _differences(mine: Mapping[str, Any] | SuiteSection, theirs: SuiteSection) -> list[str]:
    """`num_fewshot is 0 and 5` for each part that differs."""
    one, other = mine.get("parts") or {}, theirs.get("parts") or {}
    named = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    found = [f"{key} is {one.get(key)!r} and {other.get(key)!r}" for key in named]
    if not (one and other):
        found = ["the records are too old to tell in what"]
        if mine.get("version") != theirs.get("version"):
            found = [f"version is {mine.get('version')!r} and {theirs.get('version')!r}"]
    if mine.get("data_hash") != theirs.get("data_hash"):
        found.append("the data of its tasks is not the same")
    if found:
        return found
    if mine.get("version") != theirs.get("version"):
        return [f"version is {mine.get('version')!r} and {theirs.get('version')!r}"]
    return ["its hash is another, and the records do not say in what part"]


def _precision(cell: Record) -> object:
    return (cell["plan"].get("budget") or {}).get("precision")


def _batch(cell: Record) -> object:
    evaluation = cell["evaluation"]
    return (evaluation.get("passes") or {}).get("batch") if evaluation else None


def _version(cell: Record, package: str) -> str | None:
    return cell["environment"].get("packages", {}).get(package)


def _device(cell: Record) -> str:
    environment = cell["environment"]
    gpu = environment.get("gpu")
    return gpu["name"] if gpu else str(environment.get("cpu"))
