"""Artifacts beside the records: that their files are the ones that were trained and evaluated."""

from __future__ import annotations

from harness.models import trained_artifact
from harness.models.trained_artifact import InvalidArtifact
from harness.record import Record
from harness.results.artifact_hash import artifact_hash
from harness.verification.comparing import differences
from harness.verification.folder import Folder
from harness.verification.report import Report


def check(folder: Folder, report: Report) -> None:
    """Hold each artifact's files against its seal, and its hash against the record's."""
    trained = {cell: record for cell, record in folder.records.items() if record["training"]}
    shipped = [cell for cell in trained if (folder.path / "artifacts" / cell).is_dir()]
    for cell in shipped:
        _check(folder, trained[cell], report)
    if len(shipped) < len(trained):
        count = len(trained) - len(shipped)
        report.trusts(f"the weights of {count} trained cells are not here: no hash is checked")


def _check(folder: Folder, record: Record, report: Report) -> None:
    place = f"artifacts/{record['id']}"
    here = folder.path / place
    try:
        kept = trained_artifact.read(here)
        opened = kept.opened_at(here)
    except InvalidArtifact as error:
        report.fails(place, problem=str(error).removeprefix(f"{here}: "))
        return
    except (TypeError, ValueError):
        report.fails(f"{place}/{trained_artifact.TRAINING_FILE}", "artifact", "describes none")
        return
    try:
        trained_artifact.check_files(here, kept)
    except InvalidArtifact as error:
        report.fails(place, problem=str(error).removeprefix(f"{here}: "))
    name = f"{place}/{trained_artifact.TRAINING_FILE}"
    stated = record["plan"].get("training_id")
    if stated is not None and kept.training_id != stated:
        report.fails(name, "training_id", "is another training than the record's")
    for path, said, other in differences(kept.training, record["training"], "training"):
        report.fails(name, path, f"is {said!r:.60}, where the record says {other!r:.60}")
    evaluation = record["evaluation"]
    evaluated = evaluation.get("artifact_hash") if evaluation else None
    if evaluated is not None and artifact_hash(opened) != evaluated:
        problem = f"its files are not those that cells/{record['id']}.json was measured on"
        report.fails(place, "artifact_hash", problem)
    report.counts("artifacts")
