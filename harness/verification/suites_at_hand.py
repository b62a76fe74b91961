"""The suites that records name, where this machine has the very ones: by name, version and hash."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from harness.api.task import Suite
from harness.errors import HarnessError
from harness.evaluation import fingerprint
from harness.evaluation.served.suites import renamed
from harness.evaluation.suite import Where, find_suite, load_suite
from harness.manager import Plugins
from harness.record import Plan, Record, SuiteSection
from harness.results.comparability import NAMED, parts_apart
from harness.types import ModelRef

_DIGEST = re.compile(r"[0-9a-f]{12}")
_RESOLVED = ("name", "version", "ask", "data", "include_path", "embedder", "judge", "scorers")
"""Settings that a record's `parts` do not set: what names files or models is the suite's alone."""


class Found(NamedTuple):
    """What is known of a suite that a record names."""

    suite: Suite | None
    """None where this machine has no suite of that hash."""
    reason: str = ""
    """Why there is none."""
    contradiction: str = ""
    """What the record says of it that cannot be true."""


@dataclass
class SuitesAtHand:
    """Finds suites, each once."""

    plugins: Plugins
    folders: Sequence[Path] = ()
    """Searched before the registered suites."""
    mirror: Path | None = None
    _known: dict[str, Found] = field(default_factory=dict)
    _templates: dict[str, str] = field(default_factory=dict)
    """As the parts of a suite's hash name them -> chat templates of experiments."""

    def learn(self, records: Iterable[Record]) -> None:
        """Chat templates that records state: an untrained model's does not state its own."""
        for record in records:
            template = (record["plan"].get("data") or {}).get("chat_template")
            if isinstance(template, str):
                (part,) = fingerprint.parts({"settings": {}, "chat_template": template}).values()
                self._templates[str(part)] = template

    def find(self, record: Record, name: str, section: SuiteSection) -> Found:
        """The suite with the hash, the version and the parts that a record states."""
        model = record["plan"]["model"]
        stated = [section.get(key) for key in ("hash", "version", "parts")]
        template = (record["plan"].get("data") or {}).get("chat_template")
        key = json.dumps([name, stated, base_of(record["plan"]).identity, model["name"], template])
        if key not in self._known:
            self._known[key] = self._find(record, name, section)
        return self._known[key]

    def _find(self, record: Record, name: str, section: SuiteSection) -> Found:
        parts = section.get("parts") or {}
        version = parts.get("version", section.get("version"))
        if section.get("version", version) != version:
            return Found(
                None,
                "its version is not clear",
                f"version {section.get('version')}, where its parts say version {version}",
            )
        try:
            suite = self._load(record, name, parts)
        except (HarnessError, OSError) as error:
            return Found(None, str(error))
        apart, same = parts_apart(parts, suite.parts), suite.hash == section["hash"]
        if same and parts and apart:
            return Found(suite, "", f"its hash is of other parts: {', '.join(apart)}")
        if same:
            return Found(suite)
        if unnamed := [key for key in suite.parts if key.startswith(NAMED) and key not in parts]:
            apart += [key.removeprefix(NAMED) for key in unnamed]  # an older record's
        if parts and not apart:
            wrong = f"the hash of its parts is {suite.hash[:12]}, not {section['hash'][:12]}"
            return Found(None, "its hash is wrong", wrong)
        return Found(None, f"the one here differs in {', '.join(apart)}" if parts else "another")

    def _load(self, record: Record, name: str, parts: Mapping[str, Any]) -> Suite:
        """The suite of that name with the settings that an experiment gave it."""
        file = find_suite(name, plugins=self.plugins, folders=self.folders)
        own_template = (record["plan"].get("data") or {}).get("chat_template")
        template = own_template or self._templates.get(str(parts.get("chat_template")))
        where = Where(self.mirror, chat_template=template, pull_missing=False)
        base = base_of(record["plan"])

        def load(overrides: Mapping[str, object]) -> Suite:
            return load_suite(file, overrides, plugins=self.plugins, base_model=base, where=where)

        own = load({})
        stated = dict(parts)
        stated |= {k.removeprefix(NAMED): v for k, v in parts.items() if k.startswith(NAMED)}
        changed = {key: value for key, value in stated.items() if _is_set(own, key, value)}
        return renamed(load(changed) if changed else own, str(parts.get("asked") or ""))


def base_of(plan: Plan) -> ModelRef:
    """The model of a plan, known by its content wherever it lies."""
    model = plan["model"]
    return ModelRef(
        model["name"],
        str(model.get("path") or model["name"]),
        content_hash=model.get("content_hash"),
        revision=model.get("revision"),
        trust_remote_code=bool(model.get("trust_remote_code")),
    )


def _is_set(own: Suite, key: str, value: object) -> bool:
    """Whether an experiment gave a setting another value than the suite's own."""
    digest = isinstance(value, str) and _DIGEST.fullmatch(value) is not None
    known = key in own.settings and key not in _RESOLVED and not digest
    return known and value != own.parts.get(NAMED + key, own.parts.get(key))
