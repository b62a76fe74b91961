"""Certificates in the cache: one for each judge and labelled set, found by the judge's hash.

The hash is of what verdicts depend on: the judge and the version of its prompt, its options, the
content of its model and how that is quantised. Precision is left out: it moves a score by less than
a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.api.task import Suite
from harness.errors import UserError
from harness.evaluation import fingerprint
from harness.evaluation.judging import endpoint
from harness.evaluation.judging.certificate import SCHEMA
from harness.evaluation.judging.options import judge_of
from harness.manager import Plugins
from harness.results.store import write_json
from harness.system import hub
from harness.types import ModelRef

__all__ = ["find", "judge_hash", "keep", "sheet"]

NOT_SCORED = ("against",)
"""Options of judges that say what answers are compared with, and not how."""


def sheet(suite: Suite, base: ModelRef | None, plugins: Plugins) -> dict[str, Any]:
    """Who the suite's judge is: its `hash`, and what that is of. `base` judges where none else."""
    judge = judge_of(suite, plugins)
    assert judge is not None
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
    return Path(model.name).name, model.identity


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
    found = sorted(_folder(judge).glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    for file in reversed(found):
        try:
            certificate: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            known, sha256 = certificate["schema"] == SCHEMA, certificate["labels"]["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{file}: not a certificate: remove it and certify again") from None
        if known and labels in (None, sha256):
            return certificate
    return None


def _folder(judge: str) -> Path:
    return hub.cache_dir() / "certificates" / judge[:32]
