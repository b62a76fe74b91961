"""The `scorers:` of a suite: each a name, or a mapping of name, label and options; checked."""

from __future__ import annotations

import numbers
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.api.scorer import Scorer
from harness.api.task import ScorerUse
from harness.config.strict_yaml import KeyPath, Located, validate_options
from harness.data.references import check_references
from harness.data.text_normalization import beyond_ascii
from harness.errors import PluginFault, UserError
from harness.manager import Plugins, calling
from harness.stats import corpus_scores
from harness.types import Bounds, ModelRef, Sample

__all__ = ["check_samples", "checked", "checked_statistics", "content", "read", "uses"]

Resolve = Callable[[str, KeyPath], ModelRef]
"""`resolve(name, path)`: the model that is named at `path` of the suite's file."""

OTHER, DIFFERENCE = "_other", "_own_minus_other"
"""What a scorer's label gets for its negative control: a score, and a score with its metric."""

ROUNDING = 1e-5
"""By how much a score in float32 may be beyond the bounds, of their size."""

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def read(
    written: Sequence[str | Mapping[str, object]],
    located: Located,
    *,
    plugins: Plugins,
    resolve: Resolve,
    reserved: Sequence[str] = (),
) -> tuple[ScorerUse, ...]:
    """The entries with their options complete and models resolved.

    `reserved` are names of metrics that are not the scorers'. Raises ConfigError with the entry's
    place.
    """
    checked_entries: list[ScorerUse] = []
    for at, entry in enumerate(written):
        path = ("scorers", at)
        options = {"name": entry} if isinstance(entry, str) else dict(entry)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise located.error("a scorer is a name, or a mapping with `name` and options", path)
        label = options.pop("label", name)
        if not isinstance(label, str) or not LABEL.fullmatch(label):
            raise located.error(
                f"invalid label {label!r} of scorer '{name}': use letters, digits, '-', '_', '.'",
                (*path, "label"),
            )
        if label in reserved:
            raise located.error(f"'{label}' is the judge's metric: take another label", path)
        if any(label == other.label for other in checked_entries):
            raise located.error(f"two scorers are called '{label}': give one a `label`", path)
        try:
            scorer = plugins.scorers.get(name)
        except UserError as error:
            raise located.error(str(error), path) from None
        options = _options(scorer, label, options, located, path, resolve)
        checked_entries.append(ScorerUse(name, label, options))
    _check_controls(checked_entries, located)
    return tuple(checked_entries)


def _check_controls(entries: Sequence[ScorerUse], located: Located) -> None:
    """No label is the name of another scorer's negative control."""
    names = {entry.label + end for entry in entries for end in (OTHER, DIFFERENCE)}
    for at, entry in enumerate(entries):
        if entry.label in names:
            raise located.error(
                f"'{entry.label}' is another scorer's negative control: take another label",
                ("scorers", at),
            )


def _options(
    scorer: Scorer,
    label: str,
    written: Mapping[str, object],
    located: Located,
    path: KeyPath,
    resolve: Resolve,
) -> dict[str, object]:
    checked = validate_options(
        scorer.options_model(),
        written,
        located,
        path,
        what=f"scorer '{label}'",
        also=("name", "label"),
    )
    options: dict[str, Any] = checked.model_dump(mode="json")
    for key in scorer.models:
        if options[key] is not None:
            options[key] = vars(resolve(options[key], (*path, key)))
    return options


def uses(
    entries: Sequence[ScorerUse], plugins: Plugins
) -> Iterator[tuple[str, Scorer, dict[str, object]]]:
    """(label, scorer, options to call it with) of each entry."""
    for entry in entries:
        scorer = plugins.scorers.get(entry.name)
        options: dict[str, Any] = dict(entry.options)
        for key in scorer.models:
            options[key] = options[key] and ModelRef(**options[key])
        yield entry.label, scorer, options


def checked(
    scores: object, count: int, whose: str, bounds: Bounds | None = None
) -> Sequence[float | None]:
    """What a scorer or a judge gave, within the bounds that it states.

    Raises PluginFault unless each answer has a number within them, or None.
    """
    listed = list(scores) if isinstance(scores, Iterable) and not isinstance(scores, str) else None
    if listed is None or len(listed) != count:
        given = f"{len(listed)} scores" if listed is not None else repr(scores)[:100]
        raise PluginFault(f"{whose} gave {given} for {count} answers: give one for each")
    for score in listed:
        if score is not None and not isinstance(score, numbers.Real):
            raise PluginFault(f"{whose} gave {repr(score)[:100]}: a score is a number or None")
    least, greatest = bounds or (None, None)
    for score in listed if bounds else ():
        if score is not None and (
            (least is not None and score < least - ROUNDING * max(1.0, abs(least)))
            or (greatest is not None and score > greatest + ROUNDING * max(1.0, abs(greatest)))
        ):
            raise PluginFault(
                f"{whose} gave {score:g}, beyond its bounds {least} to {greatest}: correct "
                "`bounds`, or leave it out"
            )
    return listed


def checked_statistics(
    given: object, count: int, whose: str, kind: corpus_scores.CorpusKind
) -> Sequence[Sequence[float] | None]:
    """What a scorer of a corpus score gave.

    Raises PluginFault unless each answer has as many finite numbers as the kind has, or None.
    """
    listed = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else None
    if listed is None or len(listed) != count:
        found = f"{len(listed)} lists" if listed is not None else repr(given)[:100]
        raise PluginFault(f"{whose} gave {found} for {count} answers: give one for each")
    out: list[Sequence[float] | None] = []
    for own in listed:
        try:
            out.append(
                None if own is None else corpus_scores.checked(kind, [own])[:, 0, 0].tolist()
            )
        except (TypeError, ValueError):
            raise PluginFault(
                f"{whose} gave {repr(own)[:100]}: not the statistics of {kind} "
                "(harness.stats.corpus_scores), nor None"
            ) from None
    return out


def check_samples(
    entries: Sequence[ScorerUse],
    samples: Sequence[Sample],
    located: Located,
    *,
    plugins: Plugins,
    source: Path,
) -> None:
    """Raises DataError for a reference that is not there, ConfigError for what a scorer refuses."""
    for at, (label, scorer, options) in enumerate(uses(entries, plugins)):
        if scorer.needs_reference:
            mend = "write one, or leave the row or the scorer out"
            check_references(samples, mend, whose=f"scorer {label}", file=source)
        if scorer.check is None:
            continue
        try:
            with calling(f"scorer '{scorer.name}'"):
                scorer.check(samples, **options)
        except UserError as error:
            raise located.error(f"scorer '{label}': {error}", ("scorers", at)) from error


def content(
    entries: Sequence[ScorerUse], plugins: Plugins, references: Sequence[str]
) -> list[object]:
    """What a suite's hash holds of its scorers: a model counts by its content, not its place."""
    beyond = any(map(beyond_ascii, references))
    return [
        [label, scorer.name, _version(scorer, beyond), {k: _content(v) for k, v in options.items()}]
        for label, scorer, options in uses(entries, plugins)
    ]


def _version(scorer: Scorer, beyond: bool) -> int:
    other = scorer.version_beyond_ascii
    return other if beyond and other is not None else scorer.version


def _content(option: object) -> object:
    if isinstance(option, ModelRef):
        return option.identity
    return option
