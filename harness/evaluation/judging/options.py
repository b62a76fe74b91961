"""The judge of a suite with the options that its file sets, and what the suite's hash has of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.api.judge import Judge
from harness.api.task import Suite
from harness.config.strict_yaml import KeyPath, Located, validate_options
from harness.errors import UserError
from harness.evaluation.judging.panels.panel import Panel
from harness.evaluation.judging.panels.seats import each
from harness.manager import Plugins, calling
from harness.types import Sample

__all__ = ["KEY", "check_samples", "judge_of", "read"]

KEY: KeyPath = ("judge",)
"""Where a suite's file names its judge."""


def read(
    name: str,
    written: Mapping[str, object],
    located: Located,
    *,
    plugins: Plugins,
    also: Sequence[str] = (),
    path: KeyPath = KEY,
) -> Judge:
    """The judge `name` with the options that are written beside it.

    `also` are keys that are no options, for the hint at a misspelt one. Raises ConfigError with
    the option's place.
    """
    try:
        judge: Judge = plugins.judges.get(name)
    except UserError as error:
        raise located.error(str(error), path) from None
    what = f"judge '{name}'"
    options = validate_options(judge.Options, written, located, path, what, also)
    with calling(what):
        return judge.with_options(options.model_dump(mode="json"))


def judge_of(suite: Suite, plugins: Plugins) -> Judge | None:
    """The suite's judge with its options, or its panel of several; None where it has none."""
    if suite.judge is None:
        return None
    if suite.judge_panel:
        judges = [one for seat in each(suite) if (one := judge_of(seat, plugins)) is not None]
        names = [seat.label for seat in suite.judge_panel]
        least = suite.judge_options["least"]
        assert isinstance(least, int)
        return Panel(judges, names, least)
    judge: Judge = plugins.judges.get(suite.judge)
    return judge.with_options(suite.judge_options)


def check_samples(
    suite: Suite, samples: Sequence[Sample], located: Located, plugins: Plugins
) -> None:
    """Raise ConfigError with the judge's line for samples that it cannot judge."""
    judge = judge_of(suite, plugins)
    if judge is None:
        return
    try:
        with calling(f"judge '{judge.name}'"):
            judge.check(samples)
    except UserError as error:
        (source,) = suite.sources.values()
        raise located.error(f"judge '{judge.name}': {Path(source).name}: {error}", KEY) from error
