"""The pages of the files that users write and that the harness writes, and of exit codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from harness import errors
from harness.api.task import SuiteSettings
from harness.cli import main
from harness.config import (
    data_mix,
    endpoint_settings,
    experiment,
    reasoning,
    served_settings,
    tuning,
)
from harness.evaluation.judging import endpoint
from harness.evaluation.tasks import choice, generate, perplexity
from harness.evaluation.tasks.lm_eval import settings as lm_eval
from harness.evaluation.tasks.sample_task import DataSettings
from harness.record import MetricSection
from harness.results import gate, policy
from harness.results.schema import schema
from harness.system import hub
from scripts.reference import commands, keys, source
from scripts.reference.markdown import fenced, page, prose, table

Sections = Mapping[type[BaseModel], str]
EXPERIMENT: Sections = {
    experiment.Experiment: "The file",
    served_settings.ServedSettings: "model, behind a server",
    endpoint_settings.BudgetSettings: "model.budget",
    endpoint_settings.PriceSettings: "model.price",
    experiment.Data: "data",
    data_mix.Mix: "data.mix",
    experiment.BudgetConfig: "budget",
    experiment.MethodEntry: "Entries of methods",
    experiment.SuiteEntry: "Entries of suites",
    tuning.Tune: "tune",
    tuning.Range: "Ranges",
    reasoning.ReasoningSettings: "reasoning",
}
SUITE: Sections = {
    SuiteSettings: "Every suite",
    DataSettings: "With rows of its own",
    generate.GenerateSettings: "ask: generate",
    reasoning.ReasoningSettings: "reasoning",
    generate.JudgeSettings: "judge",
    endpoint.EndpointSettings: "judge.endpoint",
    endpoint_settings.BudgetSettings: "judge.endpoint.budget",
    endpoint_settings.PriceSettings: "judge.endpoint.price",
    perplexity.PerplexitySettings: "ask: perplexity",
    choice.ChoiceSettings: "ask: choice",
    lm_eval.LmEvalSettings: "ask: lm-eval",
}
POLICY: Sections = {policy.Policy: "The file", policy.Rule: "Rules"}
"""Models of a file's parts, with the headings of their sections."""
OTHER_KEYS = {"options": "any other key", "overrides": "any other key", "line": ""}
"""Fields of an entry that stand in the file without that name, or not at all."""
FILLED = {
    experiment.Experiment: {"name": "the file's name"},
    experiment.MethodEntry: {"label": "`name`"},
}
"""What reading the file puts in a key's place."""


def experiment_file() -> str:
    """The page of the experiment file."""
    return page(
        "Experiment file",
        "What `harness run FILE` and `harness plan FILE` read. Unknown keys are errors that name "
        "the nearest known one, with the line. `--set a.b=c` overrides a key. What each method "
        "takes: [methods](methods.md); each suite: [suites](suite.md).",
        *_models(EXPERIMENT),
    )


def suite_file() -> str:
    """The page of the suite's file."""
    return page(
        "Suite file",
        "A suite is a YAML file beside the experiment, in a folder given with `--suites`, or in "
        "an installed plugin; `harness suites new` writes one. Its keys are those of every "
        "suite, and those of its way to `ask`.",
        *_models(SUITE),
    )


def policy_file() -> str:
    """The page of the gate's policy."""
    return page(
        "Gate policy",
        prose(policy.__doc__.split("\n\n")[0]),
        fenced(policy.__doc__.split("\n\n")[1].strip(), "yaml"),
        *_models(POLICY),
    )


def _models(sections: Sections) -> Iterator[str]:
    """A section for each, with the keys that no section has which it takes over from."""
    linked = {model.__name__: heading for model, heading in sections.items()}
    for model, heading in sections.items():
        others = [one for one in sections if one is not model and issubclass(model, one)]
        yield f"## {heading}"
        yield prose((model.__doc__ or "").split("\n\n")[0])
        yield keys.of_model(
            model,
            names={*model.model_fields} - {key for one in others for key in one.model_fields},
            linked=linked,
            shown=OTHER_KEYS,
            defaults=FILLED.get(model),
        )


def record() -> str:
    """The page of a record."""
    return page("Record", *_schema("record"))


def leaderboard() -> str:
    """The page of a leaderboard."""
    figure = {key: text for key, (_, text) in source.attributes(MetricSection).items()}
    return page("Leaderboard", *_schema("leaderboard", RowMetric=figure))


def _schema(name: str, **inherited: dict[str, str]) -> Iterator[str]:
    yield f"`harness schema {name}` prints its JSON Schema."
    yield keys.of_schema(schema(name), inherited)


def exit_codes() -> str:
    """The page of exit codes and environment variables."""
    raised = [getattr(errors, name) for name in errors.__all__]
    raised = [one for one in raised if isinstance(one, type)]
    rows = [
        ["0", "All is well; of a gate: pass."],
        *([str(code), f"A gate's verdict: {name}."] for name, code in gate.EXIT.items() if code),
        *([str(e.exit_code), f"`{e.__name__}`: {prose(e.__doc__ or '')}"] for e in raised),
        [str(main.INTERRUPTED), "Interrupted, by Ctrl-C; by another signal 128 plus its number."],
    ]
    return page(
        "Exit codes and environment variables",
        "## Exit codes",
        "An error is one line on standard error that says what, where and how to fix it; 70, a "
        "fault of the harness or of a plugin, comes with a traceback.",
        table(["code", "why"], sorted(rows, key=lambda row: int(row[0]))),
        "## Environment variables",
        table(["variable", "what it does"], sorted(_variables())),
        "Those of the libraries count too, such as `HF_ENDPOINT` and `CUDA_VISIBLE_DEVICES`. A "
        "plan refuses a value that means nothing, which libraries pass over in silence.",
    )


def _variables() -> Iterator[list[str]]:
    """Those of options, and where the cache is."""
    yield ["`HARNESS_CACHE`", prose(hub.cache_dir.__doc__ or "")]
    for option in commands.options():
        if isinstance(option.envvar, str):
            row = [f"`{option.envvar}`", f"`{option.opts[0]}`: {prose(option.help or '')}"]
            yield row
