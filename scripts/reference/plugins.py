"""The pages of what is registered: methods, scorers, judges, and what comes with the harness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from harness.api.method import Method, MethodOptions
from harness.api.scorer import Scorer
from harness.evaluation.judging.panels import panel
from harness.manager import Plugins
from harness.training.low_rank import LowRankOptions, QuantizationOptions
from harness.training.prompt_learning import VirtualTokenOptions
from harness.training.sft_options import SftOptions
from scripts.reference import keys, source
from scripts.reference.markdown import page, prose, table

SHARED: Mapping[type[MethodOptions], str] = {
    SftOptions: "The shared recipe",
    LowRankOptions: "Low rank",
    QuantizationOptions: "A quantised base",
    VirtualTokenOptions: "Virtual tokens",
}
"""Options that several methods have, and the headings of their sections."""


def methods(plugins: Plugins) -> str:
    """The page of the training methods."""
    return page(
        "Training methods",
        "An experiment's `methods:` names these, with their options beside the name: "
        "`{name: lora, r: 16}`. `harness plugins` lists those of other distributions too. "
        "A value outside the usual range is warned of, and `tune:` searches inside it.",
        *(
            part
            for name, method in plugins.methods.things.items()
            for part in _method(name, method)
        ),
        *(part for options, title in SHARED.items() for part in _shared(options, title)),
    )


def _method(name: str, method: Method) -> Iterator[str]:
    """A section: what the method is, its own options, and which it shares."""
    yield f"## {name}"
    yield _described(method)
    options = method.Options
    bases = [one for one in options.__mro__ if one in SHARED]
    own = {
        key
        for one in options.__mro__
        if issubclass(one, MethodOptions) and one not in SHARED
        for key in source.attributes(one)
    }
    if own:
        yield keys.of_model(options, names=own)
    if bases:
        links = [keys.link(SHARED[one]) for one in bases]
        yield f"{'And the' if own else 'The'} options of {', '.join(links)}."
    elif not own:
        yield "No options."


def _shared(options: type[MethodOptions], title: str) -> Iterator[str]:
    yield f"## {title}"
    yield prose(options.__doc__ or "")
    yield keys.of_model(options, names=source.attributes(options))


def _described(thing: object) -> str:
    """The docstring of its class. Raises Undescribed for one without."""
    text = type(thing).__dict__.get("__doc__")
    if not text:
        raise keys.Undescribed(type(thing).__name__)
    return prose(text)


def scorers(plugins: Plugins) -> str:
    """The page of the scorers."""
    return page(
        "Scorers",
        "A suite with `ask: generate` names these in `scorers:`, alone or as a mapping with "
        "options: `{name: rougeL, label: rouge}`. Each gives every answer a score, and the suite "
        "a metric of that name. What a figure of each kind is, and the negative control: "
        "[metrics](../measurement/metrics.md).",
        *(part for scorer in plugins.scorers.things.values() for part in _scorer(scorer)),
    )


def _scorer(scorer: Scorer) -> Iterator[str]:
    text = scorer.rate.__doc__
    if not text:
        raise keys.Undescribed(scorer.name)
    yield f"## {scorer.name}"
    yield prose(text)
    yield " ".join(f"{fact}." for fact in _facts(scorer))
    options = scorer.options_model()
    if options.model_fields:
        schema = options.model_json_schema()
        rows = [
            [f"`{key}`", keys.kind(schema["properties"][key]), keys.default(info)]
            for key, info in options.model_fields.items()
        ]
        yield table(["option", "type", "default"], rows)


def _facts(scorer: Scorer) -> Iterator[str]:
    """What a suite's author must know of it beside what it computes."""
    yield f"Kind `{scorer.kind}`, version {scorer.version}"
    yield "Higher is better" if scorer.higher_is_better else "Lower is better"
    low, high = (0, 1) if scorer.kind == "share" else scorer.bounds or (None, None)
    if (low, high) != (None, None):
        least = "no least" if low is None else f"{low:g}"
        yield f"Scores from {least} to {'no greatest' if high is None else f'{high:g}'}"
    if scorer.needs_reference:
        yield "Every sample needs a reference"
    if scorer.embeds:
        yield "The suite's `embedder` must be there"
    if scorer.controlled:
        yield f"Negative control: `{scorer.name}_own_minus_other`"


def judges(plugins: Plugins) -> str:
    """The page of the judges."""
    return page(
        "Judges",
        "A suite with `ask: generate` names one in `judge: {name: ...}`, with the judge's own "
        "options beside the [keys of every judge](suite.md#judge). How "
        "far their figures go: [a judge's figures](../measurement/judges.md).",
        *(
            part
            for name, judge in plugins.judges.things.items()
            for part in (
                f"## {name}",
                _described(judge),
                f"Version {judge.version}.",
                keys.of_model(judge.Options, names=set(judge.Options.model_fields)),
            )
        ),
        "## panel",
        prose(panel.__doc__ or ""),
        "Written as `judge: {panel: [...]}`: see the [keys of every judge](suite.md#judge).",
    )


def bundled(plugins: Plugins) -> str:
    """The page of what comes with the harness beside methods, scorers and judges."""
    suites = [(name, _head(file)) for name, file in plugins.suites.things.items()]
    return page(
        "What comes with it",
        "## Suites",
        table(
            ["suite", "version", "ask", "what it measures"],
            [[f"`{n}`", str(s["version"]), f"`{s['ask']}`", s["description"]] for n, s in suites],
        ),
        "## Training data",
        prose(_hook_text(plugins, "register_datasets")),
        "## Executors",
        _named(plugins.executors.things),
        *(
            part
            for name, one in plugins.executors.things.items()
            if one.Options.model_fields
            for part in (
                f"### Options of {name}",
                "Each as `--executor-option KEY=VALUE`.",
                keys.of_model(one.Options, names=set(one.Options.model_fields)),
            )
        ),
        "## Engines",
        "`engine:` of an experiment or a suite names what generates answers; each needs its extra.",
        _named(plugins.engines.things),
        "## Trackers",
        "An experiment's `track:` names them; each needs its extra.",
        _named(plugins.trackers.things),
    )


def _head(file: Any) -> dict[str, Any]:
    """A suite's file."""
    loaded: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return loaded


def _hook_text(plugins: Plugins, hook: str) -> str:
    """What the built-in plugin that registers says of what it registers."""
    (implementation,) = getattr(plugins.manager.hook, hook).get_hookimpls()
    return implementation.function.__doc__ or ""


def _named(things: Mapping[str, object]) -> str:
    """A table of names and the docstrings of their classes."""
    rows = [[f"`{name}`", _described(thing)] for name, thing in things.items()]
    return table(["name", "what it is"], rows)
