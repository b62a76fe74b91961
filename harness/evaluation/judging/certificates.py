"""Certificates: a file that a suite names, or in the cache one for each judge and labelled set.

In the cache they are found by the judge's hash, and a file must have the hash of the suite's judge.

The hash is of what verdicts depend on: the judge and the version of its prompt, its options, the
content of its model and how that is quantised. Precision is left out: it moves a score by less than
a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.api.task import Suite
from harness.config.strict_yaml import Located
from harness.errors import UserError
from harness.evaluation import fingerprint
from harness.evaluation.judging import endpoint
from harness.evaluation.judging.certificate import SCHEMA, errors_of
from harness.evaluation.judging.options import judge_of
from harness.evaluation.judging.panels.seats import each
from harness.manager import Plugins
from harness.models import packaged, tiny
from harness.record import JudgeErrors
from harness.results.store import write_json
from harness.system import hub
from harness.types import ModelRef

__all__ = ["find", "judge_hash", "keep", "of_suite", "sheet"]

KEY = ("judge", "certificate")
"""Where a suite's file names its certificate."""

NOT_SCORED = ("against",)
"""Options of judges that say what answers are compared with, and not how."""

OF_ITS_RUN = ("seconds", "environment", "passes")
"""What a certificate says of how it was measured, on which no figure depends."""


def sheet(suite: Suite, base: ModelRef | None, plugins: Plugins) -> dict[str, Any]:
    """Who the suite's judge is: its `hash`, and what that is of. `base` judges where none else."""
    judge = judge_of(suite, plugins)
    assert judge is not None
    if suite.judge_panel:
        judges = [sheet(one, base, plugins)["judge"] for one in each(suite)]
        name: str = ", ".join(seat.label for seat in suite.judge_panel)
        identity: object = [one["hash"] for one in judges]
    else:
        name, identity = _model(suite, base)
    quantised = suite.judge_quantization
    content = {
        "name": judge.name,
        "version": judge.version,
        "options": {k: v for k, v in suite.judge_options.items() if k not in NOT_SCORED},
        "model": identity,
        "quantization": dict(quantised) if quantised else None,
    }
    named = {**content, "model": {"name": name, "identity": identity}}
    return {"judge": {**named, "hash": fingerprint.digest(content)}}


def _model(suite: Suite, base: ModelRef | None) -> tuple[str, object]:
    """Its name, a folder's without where it lies, and what verdicts depend on of it."""
    if suite.judge_endpoint is not None:
        return str(suite.judge_endpoint["model"]), endpoint.identity_of(suite.judge_endpoint)
    model = suite.judge_model or base
    assert model is not None
    return Path(model.name).name, packaged.wheel_of(model) or model.identity


def judge_hash(suite: Suite, base: ModelRef | None, plugins: Plugins) -> str:
    """What the certificates of the suite's judge are kept by."""
    return str(sheet(suite, base, plugins)["judge"]["hash"])


def keep(certificate: Mapping[str, Any]) -> Path:
    """Write a certificate to the cache, in the place of an older one on the same labels."""
    folder = _folder(certificate["judge"]["hash"])
    file = hub.make_cache(folder) / f"{certificate['labels']['sha256'][:16]}.json"
    return write_json(file, certificate)


def find(judge: str, labels: str | None = None) -> dict[str, Any] | None:
    """The certificate of the judge with that hash: the newest, or that on labels of a sha256.

    None where there is none of this layout. Raises UserError for a file that is broken.
    """
    of_labels = (c for c in _kept(judge) if labels in (None, c["labels"]["sha256"]))
    return next(of_labels, None)


def of_suite(
    suite: Suite, base: ModelRef, located: Located, plugins: Plugins
) -> dict[str, Any] | None:
    """What corrects the figure of the suite's judge, as `Suite.judge_certificate` has it.

    The suite's own certificate, which is the same on every machine. Without one, of those in the
    cache the newest that has the judge's errors on single answers, where the judge rates those.
    None without a judge or a certificate. Raises ConfigError for a file that is missing, broken or
    of another judge, UserError as `find` does.
    """
    if suite.judge is None:
        return None
    if suite.judge_certificate_file is not None:
        chosen = _named(suite, base, located, plugins)
    else:
        kept = list(_kept(judge_hash(suite, base, plugins)))
        chosen = next(filter(_corrects, kept), kept[0]) if kept else None
    if chosen is None:
        return None
    content = {key: value for key, value in chosen.items() if key not in OF_ITS_RUN}
    return {
        "sha256": fingerprint.digest(content),
        "labels": chosen["labels"]["file"],
        "errors": dict(_errors(chosen)),
    }


def _named(
    suite: Suite, base: ModelRef, located: Located, plugins: Plugins
) -> dict[str, Any] | None:
    """The certificate that the suite names; None where it is not known yet who judges."""
    file = Path(suite.file).parent / str(suite.judge_certificate_file)
    again = f"harness judge certify {suite.file} --out {file}"
    if not file.is_file():
        raise located.error(f"there is no certificate {file}: make it: {again}", KEY)
    certificate = _read(file)
    if certificate is None or certificate["schema"] != SCHEMA:
        raise located.error(f"{file} is not a certificate of this version: make it: {again}", KEY)
    judges_itself = suite.judge_model is None and suite.judge_endpoint is None
    if judges_itself and base.path == tiny.NAME:  # stands for a base that nobody has named
        return None
    own = sheet(suite, base, plugins)["judge"]
    if certificate["judge"]["hash"] != own["hash"]:
        differs = _differences(certificate["judge"], own)
        again += " --model MODEL" if judges_itself else ""
        raise located.error(f"{file} is of another judge ({differs}): make it anew: {again}", KEY)
    return certificate


def _differences(certified: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """What the hash of a judge is of, where it differs: `model smollm2-135m, here tiny`."""
    shown = [
        f"{key} {certified[key]}, here {own[key]}"
        for key in ("name", "version", "quantization")
        if certified[key] != own[key]
    ]
    models = certified["model"], own["model"]
    if models[0]["identity"] != models[1]["identity"]:
        shown.append(f"model {models[0]['name']}, here {models[1]['name']}")
    return "; ".join(shown) or "its options differ"


def _corrects(certificate: Mapping[str, Any]) -> bool:
    """Whether its errors are of what the judge's figure is of."""
    return bool(certificate["asks"] == "two answers" or certificate["answers"])


def _errors(certificate: Mapping[str, Any]) -> JudgeErrors:
    """The errors of the judge's figure; unknown where pairs alone were labelled and not answers."""
    errors = errors_of(certificate)
    if _corrects(certificate):
        return errors
    unknown = "its certificate has no answers labelled right or wrong"
    reason = "; ".join(filter(None, (errors["reason"], unknown)))
    level = "weak" if errors["level"] == "trusted" else errors["level"]
    return {**errors, "level": level, "reason": reason, "good": None, "bad": None, "length": None}


def _kept(judge: str) -> Iterator[dict[str, Any]]:
    """The certificates of this layout of the judge with that hash, the newest first."""
    found = sorted(_folder(judge).glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    for file in reversed(found):
        certificate = _read(file)
        if certificate is None:
            raise UserError(f"{file}: not a certificate: remove it and certify again")
        if certificate["schema"] == SCHEMA:
            yield certificate


def _read(file: Path) -> dict[str, Any] | None:
    """A certificate of any layout; None for a file that is none."""
    try:
        certificate: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        _ = certificate["schema"], certificate["labels"]["sha256"], certificate["judge"]["hash"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return certificate


def _folder(judge: str) -> Path:
    return hub.cache_dir() / "certificates" / judge[:32]
