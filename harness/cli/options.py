"""Options that several commands share, and how a command gets its options as a dataclass."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from harness.errors import ConfigError, UserError
from harness.sdk.measuring import Measuring
from harness.sdk.measuring import existing_results as existing_results

if TYPE_CHECKING:
    from harness.config.served_settings import ServedSettings

Options = TypeVar("Options")
Rest = ParamSpec("Rest")
Result = TypeVar("Result")
Function = Callable[..., Any]


def collected(
    kind: Callable[..., Options],
) -> Callable[[Callable[Concatenate[Options, Rest], Result]], Callable[..., Result]]:
    """Have a command's function get the options that `kind` has fields for as one `kind`.

    The object is the function's first argument; other options remain keyword arguments. Stands
    below the options that it collects.
    """
    names = list(inspect.signature(kind).parameters)

    def wrap(function: Callable[Concatenate[Options, Rest], Result]) -> Callable[..., Result]:
        @functools.wraps(function)
        def call(*others: object, **values: object) -> Result:
            options = kind(**{name: values.pop(name) for name in names})
            return function(options, *others, **values)  # type: ignore[arg-type]

        return call

    return wrap


class Finite(click.FloatRange):
    """A number in a range; `nan`, which is in every range by click's count, and `inf` are none."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Fails as click does, naming the option."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class Registered(click.ParamType):
    """A name that plugins registered; they are loaded when a value or the help needs them."""

    name = "name"

    def __init__(self, kind: str) -> None:
        self.kind = kind
        """An attribute of `harness.manager.Plugins`, such as `tasks`."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Fails as click does, with the names."""
        name: str = click.Choice(self._names()).convert(value, param, ctx)
        return name

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """The names, for the help."""
        return f"[{'|'.join(self._names())}]"

    def _names(self) -> Sequence[str]:
        from harness.manager import plugins

        return list(getattr(plugins(), self.kind).things)


def _batch_size(context: click.Context, parameter: click.Parameter, text: str) -> int | None:
    """`auto` (None) or a number of sequences."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise click.BadParameter(f"expected auto or a number of sequences, got '{text[:60]}'")
    return int(text)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON only.")
limit = click.option("--limit", type=click.IntRange(min=1), help="Samples per suite at most.")
adapter = click.option("--adapter", metavar="DIR", help="An adapter that peft saved, on MODEL.")
load_in_4bit = click.option(
    "--load-in-4bit", is_flag=True, help="Open MODEL in 4 bits (NF4), as QLoRA does."
)
suite_folders = click.option(
    "--suites",
    "suite_folders",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder of suites.",
)
mirror = click.option(
    "--mirror",
    type=click.Path(path_type=Path),
    envvar="HARNESS_MIRROR",
    help="A folder that stands in for the Hub.",
)
precision = click.option(
    "--precision",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "float32", "bf16", "fp16"]),
    help="Arithmetic of the model; auto: what is fast on this machine.",
)
engine = click.option(
    "--engine",
    metavar="NAME",
    help="What generates answers, such as vllm. Default: passes of this process.",
)
batch = click.option(
    "--batch",
    default="auto",
    show_default=True,
    metavar="N",
    callback=_batch_size,
    help="Sequences at once while measuring; auto: what memory allows. Scores do not change.",
)
results_folders = click.option(
    "--results",
    "results_folders",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A results folder to search for names. Default: all folders under results/.",
)


@dataclass(frozen=True)
class MeasuringOptions(Measuring):
    """Options of every command that plans cells to measure: `run`, `plan` and `eval`."""

    as_json: bool = False


@dataclass(frozen=True)
class ExperimentOptions:
    """Which experiment, for `run` and `plan`."""

    experiment: str
    """A file, or the name of a bundled one."""
    overrides: Sequence[str]
    methods: str
    """Labels or methods, between commas; empty means all."""


def served(function: Function) -> Function:
    """Add the options of a model behind a server, which become the parameter `served`."""

    @functools.wraps(function)
    def call(
        *others: object,
        url: str | None,
        gguf: Path | None,
        name: str | None,
        completions: bool,
        prompt_logprobs: bool,
        key: str | None,
        in_flight: int | None,
        **values: Any,
    ) -> Any:
        given = {
            "served": url,
            "gguf": None if gguf is None else str(gguf.resolve()),
            "model": name,
            "form": "completions" if completions else None,
            "tokenizer": values.get("model") if completions else None,
            "prompt_logprobs": prompt_logprobs or None,
            "key": key,
            "in_flight": in_flight,
        }
        return function(*others, served=_served_settings(given), **values)

    for option in (
        click.option(
            "--in-flight", type=click.IntRange(1, 1000), help="Requests at once. Default: 16."
        ),
        click.option("--key", metavar="NAME", help="Environment variable that holds the key."),
        click.option(
            "--prompt-logprobs",
            is_flag=True,
            help="The server gives log-probabilities of prompts, as vLLM does.",
        ),
        click.option(
            "--completions",
            is_flag=True,
            help="Send the token ids of MODEL's tokenizer and template in place of conversations.",
        ),
        click.option("--model", "name", metavar="NAME", help="The model, as the server lists it."),
        click.option(
            "--gguf",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="A GGUF file, which llama.cpp serves meanwhile.",
        ),
        click.option(
            "--served", "url", metavar="URL", help="A model behind an OpenAI-compatible server."
        ),
    ):
        call = option(call)
    return call


def _served_settings(given: dict[str, Any]) -> ServedSettings | None:
    """The model behind a server that options name; None where they name none."""
    from harness.config.served_settings import ServedSettings

    stated = {key: value for key, value in given.items() if value is not None}
    if not ({"served", "gguf"} & set(stated)):
        names = {"form": "completions", "model": "model"}
        stated.pop("tokenizer", None)
        for key in stated:
            option = names.get(key, key).replace("_", "-")
            raise UserError(f"--{option} is for a model behind a server: add --served URL")
        return None
    try:
        return ServedSettings.model_validate(stated)
    except ValueError as error:
        reasons = [one["msg"].removeprefix("Value error, ") for one in error.errors()]  # type: ignore[attr-defined]
        raise UserError(f"--served, --gguf: {reasons[0]}") from None


def executor(function: Function) -> Function:
    """Add the options of where cells run, which become the parameter `executor`."""

    @functools.wraps(function)
    def call(*others: object, executor: str, executor_options: Sequence[str], **values: Any) -> Any:
        from harness.sdk.running import executor_with

        chosen = executor_with(executor, dict(map(_executor_option, executor_options)))
        return function(*others, executor=chosen, **values)

    call = click.option(
        "--executor-option",
        "executor_options",
        multiple=True,
        metavar="KEY=VALUE",
        help="A setting of the executor, such as address=auto.",
    )(call)
    return click.option("--executor", default="local", show_default=True, help="Where cells run.")(
        call
    )


def _executor_option(text: str) -> tuple[str, object]:
    from harness.config import strict_yaml

    source = f"--executor-option {text}"
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError("expected KEY=VALUE, such as address=auto", file=source)
    return key.strip(), strict_yaml.parse(value, source).data


def measuring(function: Function) -> Function:
    """Add the options of `MeasuringOptions`, which becomes the function's first argument."""
    out = click.option("--out", type=click.Path(path_type=Path), help="Default: results/<name>.")
    function = collected(MeasuringOptions)(function)
    for option in (as_json, mirror, suite_folders, limit, out):
        function = option(function)
    return function


def experiment(function: Function) -> Function:
    """Add the options of `ExperimentOptions`, which becomes the function's first argument."""
    function = collected(ExperimentOptions)(function)
    function = click.option(
        "--methods", default="", metavar="A,B", help="Only these methods or labels."
    )(function)
    function = click.option(
        "--set", "overrides", multiple=True, metavar="A.B=C", help="Override a key."
    )(function)
    return click.argument("experiment", metavar="FILE")(function)
