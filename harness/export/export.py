"""From a record to a folder that other tools load: its source, base, target and verification."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.models import adapters, packaged, trained_artifact
from harness.models.stored_quantization import stored_quantization
from harness.models.trained_artifact import InvalidArtifact, TrainedArtifact
from harness.record import Record
from harness.results import lookup
from harness.results.artifact_hash import artifact_hash
from harness.results.lookup import RecordSet
from harness.results.store import label, suites
from harness.types import Artifact, ModelRef, Precision, Sample

SCHEMA = 1
"""Version of the layout of export.json."""
REPORT = "export.json"
SAMPLES = 20
"""Default number of prompts of a verification."""


@dataclass(frozen=True)
class Limits:
    """Largest allowed differences of a merged model from the evaluated one."""

    difference: float
    """Nats, of a token's log-probability."""
    changed: float
    """Share of the greedy answers."""


USUAL: Mapping[Precision, Limits] = {
    "float32": Limits(0.01, 0.05),
    "bf16": Limits(1.0, 0.35),
    "fp16": Limits(1.0, 0.35),
}
"""By the precision of the merged weights. Of SmolLM2-135M, over 500 tokens, LoRA and QLoRA differed
by at most 2e-5 nats in float32 and by 0.28 in bf16, where 1 of 10 answers changed."""


@dataclass(frozen=True)
class Source:
    """A trained cell, its artifact as it is opened, and the lookup that its record is from."""

    record: Record
    artifact: Artifact
    hash: str
    """Of the artifact: `artifact_hash.artifact_hash`."""
    records: RecordSet

    @property
    def id(self) -> str:
        """The cell's id."""
        return str(self.record["id"])

    @property
    def scheme(self) -> str | None:
        """The quantisation scheme of its base; None where it has none."""
        config = stored_quantization(self.artifact.base) or self.artifact.quantization
        if not config:
            return None
        if config.get("load_in_8bit"):
            return "int8"
        return str(config.get("bnb_4bit_quant_type") or config.get("quant_method", "fp4"))


def source(
    name: str, places: Sequence[Path], base: str | None = None, mirror: Path | None = None
) -> Source:
    """The cell that `name` means (`lookup.find`), with its artifact on a base of the same bytes.

    `base` names the base where neither the artifact nor the record leads to it. Raises UserError
    where the cell trained nothing, its artifact is gone or changed, or the base is another model.
    """
    arm = lookup.recorded(name, places)
    cell, home = lookup.only_cell(arm, name)
    folder = home / "artifacts" / cell["id"]
    kept = _kept(cell, folder)
    model = base_of(cell, ModelRef(**kept.artifact["base"]), base, mirror)
    artifact = kept.opened_at(folder.resolve(), base=vars(model))
    digest = artifact_hash(artifact)
    evaluation = cell["evaluation"]
    recorded = evaluation.get("artifact_hash") if evaluation else None
    if recorded != digest and not (recorded is None and kept.files):
        raise UserError(
            f"{folder}: its files are not those that were evaluated (the hash differs from the "
            f"record's): restore them, or {_again(cell)}"
        )
    return Source(cell, artifact, digest, arm.records)


def _kept(cell: Record, folder: Path) -> TrainedArtifact:
    """The training's account of its artifact, after a check that the files are those it saved."""
    if not cell["training"]:
        raise UserError(
            f"cell {cell['id']} trained nothing, so there is nothing to export: name a trained "
            f"cell (its model is {cell['plan']['model']['name']})"
        )
    if cell["status"] != "ok":
        raise UserError(
            f"cell {cell['id']} ended with '{cell['status']}', so it was not measured and is not "
            "exported: run the experiment again, or name another cell"
        )
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder: keep artifacts/ beside cells/, or {_again(cell)}"
        )
    try:
        kept = trained_artifact.read(folder)
        if kept.files is not None:
            trained_artifact.check_files(folder, kept)
    except InvalidArtifact as error:
        raise UserError(f"{error}: restore it, or {_again(cell)}") from None
    if kept.training_id != cell["plan"]["training_id"]:
        raise UserError(f"{folder}: holds another training than the record's: {_again(cell)}")
    return kept


def _again(cell: Record) -> str:
    return f"delete cells/{cell['id']}.json and run the experiment again"


def base_of(cell: Record, kept: ModelRef, given: str | None, mirror: Path | None) -> ModelRef:
    """The base model with the bytes that were trained on: by `given`, its old path, or its name."""
    recorded = cell["plan"]["model"]
    wanted = kept.identity
    if given is None and kept.content_hash is None:
        return kept  # a commit on the Hub
    tried = []
    for name in [given] if given else dict.fromkeys([kept.path, recorded["name"]]):
        try:
            model = packaged.resolve_model(
                name,
                mirror=mirror,
                trust_remote_code=bool(recorded["trust_remote_code"]),
                pull_missing=False,
                kind=packaged.CAUSAL,
            )
        except UserError as error:
            if given:
                raise UserError(f"--base: {error}") from None
            tried.append(str(error))
            continue
        if model.identity == wanted:
            return replace(model, name=recorded["name"])
        tried.append(f"{name} is another model ({_short(model.identity)})")
    raise UserError(
        f"cell {cell['id']} was trained on {recorded['name']} ({_short(wanted)}): {tried[-1]}; "
        "name the model with these bytes: --base MODEL"
    )


def _short(identity: str) -> str:
    return identity if "@" in identity else f"content hash {identity[:12]}"


def check_mergeable(source: Source) -> None:
    """Raises UserError for an adapter that adds virtual tokens: no weight could hold them."""
    artifact = source.artifact
    if artifact.kind != "adapter" or artifact.path is None:
        return
    config = json.loads((Path(artifact.path) / adapters.CONFIG).read_text(encoding="utf-8"))
    if config.get("num_virtual_tokens"):
        raise UserError(
            f"cell {source.id} has a {config.get('peft_type')} adapter, whose virtual tokens no "
            "weight can hold: it cannot be merged; leave --merge out"
        )


# Prompts of the verification


def samples(source: Source, file: Path | None, limit: int) -> tuple[list[Sample], str]:
    """At most `limit` prompts, and where they are from: a file, the suites, the bundled rows."""
    from harness.data.rows import load_samples

    if file is not None:
        return load_samples(file)[:limit], f"{file.name}"
    recorded = _recorded(source, limit)
    if recorded:
        return recorded, "the cell's own suites"
    bundled = Path(__file__).parent.parent / "bundled" / "support-train.jsonl"
    return load_samples(bundled)[:limit], f"{bundled.name} (bundled)"


def _recorded(source: Source, limit: int) -> list[Sample]:
    """Prompts of the cell's suites, taken in turn and without duplicates."""
    queues = [_prompts(source, suite) for suite in suites(source.record)]
    picked: dict[str, Sample] = {}
    while len(picked) < limit and any(queues):
        for queue in filter(None, queues):
            sample = queue.pop(0)
            key = json.dumps([sample.messages, sample.prompt])
            if len(picked) < limit:
                picked.setdefault(key, sample)
    return list(picked.values())


def _prompts(source: Source, suite: str) -> list[Sample]:
    """The prompts of a suite's sample file; none where it is gone or has no prompts."""
    try:
        rows = source.records.read_rows(source.record, suite)
    except UserError:  # cells/ and artifacts/ without samples/
        return []
    return [_sample(suite, row) for row in rows if row.get("prompt")]


def _sample(suite: str, row: Mapping[str, Any]) -> Sample:
    prompt, reference, choices = row["prompt"], row.get("reference"), row.get("choices")
    if isinstance(reference, int) and choices and reference < len(choices):
        reference = choices[reference]
    is_conversation = isinstance(prompt, list)
    return Sample(
        f"{suite}/{row['id']}",
        messages=tuple(prompt) if is_conversation else None,
        prompt=None if is_conversation else str(prompt),
        reference=reference if isinstance(reference, str) else None,
        tools=row.get("tools"),
    )


# The target folder


def check_empty_or(mark: str, to: Path, there: Collection[str]) -> bool:
    """Whether `to`, which holds the files `there`, has the file `mark` of an earlier command.

    Raises UserError for what is no folder, and for a folder with other files alone.
    """
    if to.exists() and not to.is_dir():
        raise UserError(f"--to {to}: not a folder: name another")
    if there and not (to / mark).is_file():
        raise UserError(f"--to {to}: not empty: name a folder that is empty or not there")
    return bool(there)


def check_target(to: Path, source: Source) -> bool:
    """Whether `to` holds an earlier export of the same cell, which may be replaced.

    Raises UserError where it holds anything else.
    """
    there = {f.relative_to(to).as_posix() for f in to.rglob("*") if f.is_file()}
    if not check_empty_or(REPORT, to, there):
        return False
    try:
        report = json.loads((to / REPORT).read_text(encoding="utf-8"))
        whose, files = report["cell"]["id"], {*report["files"], REPORT}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"--to {to}: its {REPORT} is broken: name another folder") from None
    if whose != source.id:
        raise UserError(f"--to {to}: holds the export of cell {whose}: name another folder")
    if strange := sorted(there - files):
        raise UserError(f"--to {to}: holds {strange[0]}, which no export wrote: move it away")
    return True


@contextmanager
def whole_or_not_at_all(to: Path) -> Iterator[Path]:
    """A temporary folder beside `to` that replaces it on success and is removed on failure.

    Where the block raises, `to` stays as it was.
    """
    to = to.absolute()
    work = to.with_name(f".{to.name}.{uuid.uuid4().hex[:8]}")
    old = work.with_name(f"{work.name}.old")
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--to {to}: {error.strerror}; name a folder to write") from None
    try:
        yield work
        if to.exists():
            to.rename(old)
        work.rename(to)
    finally:
        if old.exists() and not to.exists():  # interrupted between the two renames
            (work if (work / REPORT).is_file() else old).rename(to)
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


# The report


def report(
    source: Source, result: Mapping[str, object], folder: Path, **settings: object
) -> dict[str, object]:
    """The content of export.json: the cell, settings and result of its export, and the files."""
    plan, base = source.record["plan"], source.artifact.base
    return {
        "schema": SCHEMA,
        "cell": {
            "id": source.id,
            "label": label(plan),
            "method": plan["method"],
            "seed": plan["seed"],
            "experiment": plan.get("experiment"),
        },
        "artifact": {"kind": source.artifact.kind, "hash": source.hash},
        "base": {
            "name": base.name,
            "content_hash": base.content_hash,
            "revision": base.revision,
            "quantization": source.artifact.quantization,
        },
        **settings,
        **result,
        "files": {
            f.relative_to(folder).as_posix(): f.stat().st_size
            for f in sorted(folder.rglob("*"))
            if f.is_file()
        },
    }


def failures(verification: Mapping[str, Any], limits: Limits) -> list[str]:
    """Reasons why the merged model differs from the evaluated one; empty where it agrees."""
    reasons = [*verification["other_inputs"], *verification.get("other_weights", ())]
    largest = verification["largest_difference"]
    if largest is None:
        reasons.append(str(verification["reason"]))
    elif largest > limits.difference:
        reasons.append(
            f"a log-probability differs by {largest:.3g} nats, more than {limits.difference:g}"
        )
    if verification["changed_share"] > limits.changed:
        reasons.append(
            f"{verification['changed_answers']} of {verification['prompts']} answers changed, "
            f"more than {limits.changed:.0%}"
        )
    return reasons
