"""Checks a suite: its file, data and scorers here, then its first samples in a child process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.api.task import Suite
from harness.evaluation.judging.panels.seats import each
from harness.evaluation.suite import Where, check_loading, find_suite, load_suite
from harness.evaluation.trial import Trial
from harness.manager import Plugins
from harness.models.packaged import resolve_model
from harness.models.tiny import NAME
from harness.system.child_process import answered
from harness.types import ModelRef

__all__ = ["SAMPLES", "load", "try_out"]

SAMPLES = 3
"""So many samples of each source or task are run."""


def load(
    file: Path,
    *,
    plugins: Plugins,
    model: str | None = None,
    mirror: Path | None = None,
    report: Callable[..., None] | None = None,
    certified: bool = True,
) -> tuple[Suite, ModelRef | None]:
    """The suite as an experiment loads it, and the model to try it on; None for the tiny one.

    `file` may be a suite's bare name; `model` is an alias, a folder or a Hub id. A judge's
    certificate is not looked for where not `certified`. Raises UserError
    for whatever is wrong, ConfigError and DataError with file and line.
    """
    if not file.exists() and not file.suffix and file.name == str(file):
        file = find_suite(str(file), plugins=plugins, folders=[Path()])
    where = Where(mirror, report, certified=certified)

    def loaded(base: ModelRef) -> Suite:
        return load_suite(file, {}, plugins=plugins, base_model=base, where=where)

    # The suite first: a mistake in it is reported before a model is downloaded.
    suite = loaded(ModelRef(NAME, NAME))
    check_loading([suite], plugins)
    if model is None:
        return suite, None
    base = resolve_model(model, mirror=mirror, report=report, kind="causal-lm-gguf")
    return loaded(base), base


def try_out(suite: Suite, base: ModelRef | None) -> dict[str, object]:
    """What the suite is, and the results of its first samples on a model in a child process.

    Raises UserError with the reason where it does not run.
    """
    from pydantic import TypeAdapter

    trial = TypeAdapter(Trial).dump_json(Trial(suite, SAMPLES, base))
    found = answered("harness.evaluation.trial", trial, f"{suite.file}: the check was killed")
    return {
        "suite": suite.name,
        "version": suite.version,
        "ask": suite.ask,
        "file": suite.file,
        "hash": suite.hash,
        "content": suite.content,
        "judged_by_model": any(
            one.judge_model is None and one.judge_endpoint is None for one in each(suite)
        ),
        "model": base.name if base else NAME,
        "random_weights": base is None,
        **found,
    }
