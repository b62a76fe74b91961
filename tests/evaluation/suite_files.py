"""Shared by tests of suites: load one from a folder, and change a file of it."""

from __future__ import annotations

from harness.evaluation.suite import Where, load_suite
from harness.manager import Plugins
from harness.types import ModelRef

BASE = ModelRef("tiny", "tiny", content_hash="0" * 64)
PLUGINS = Plugins(discover=False)


def load(folder, name, overrides=(), limit=None, base=BASE, plugins=PLUGINS):
    return load_suite(
        folder / f"{name}.yaml",
        dict(overrides),
        plugins=plugins,
        base_model=base,
        where=Where(limit=limit),
    )


def edit(folder, name, old, new):
    file = folder / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
