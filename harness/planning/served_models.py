"""Models behind servers in an experiment: which rows measure one, by which suites, and what of it
cannot be done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from harness.api.task import Suite
from harness.config.experiment import Experiment, MethodEntry
from harness.config.served_settings import ServedSettings
from harness.errors import ConfigError, EnvironmentLack, UserError
from harness.evaluation.served.check import named
from harness.evaluation.served.suites import Asked, as_asked
from harness.manager import Plugins
from harness.models.served import stand_in
from harness.planning.cell import is_model
from harness.types import ModelRef

__all__ = ["asked", "behind_servers", "check", "resolve"]


def behind_servers(model: ModelRef, options: Iterable[Mapping[str, object]]) -> list[ModelRef]:
    """The models behind servers among those that options name, and then the experiment's own."""
    named = [
        ModelRef(**value) for values in options for value in values.values() if is_model(value)
    ]
    return [one for one in [*named, model] if stand_in.is_served(one)]


def asked(
    suites: Sequence[Suite], model: ModelRef, options: Mapping[str, object], plugins: Plugins
) -> Asked:
    """The suites as a cell's model can be asked. Raises UserError where it can be asked none."""
    measured = next(iter(behind_servers(model, [options])), model)
    found = as_asked(suites, measured, model, plugins)
    if suites and not found.suites:
        raise UserError(f"no suite is left: {found.left_out[0]}")
    return found


def check(
    experiment: Experiment,
    plugins: Plugins,
    entries: Sequence[MethodEntry],
    model: ModelRef,
    behind: Sequence[ModelRef],
    template: str | None,
) -> None:
    """Raise ConfigError for what cannot be done with a model behind a server."""
    for entry in entries:
        method = plugins.methods.get(entry.name)
        if stand_in.is_served(model) and (method.trains or entry.options.get("quant_type")):
            what = "trains" if method.trains else "quantises"
            raise experiment.error(
                f"'{entry.label}' {what} a model of this process, and '{model.name}' is behind a "
                "server: name its folder or Hub id as model",
                "methods",
                experiment.methods.index(entry),
            )
    chat = next((one for one in behind if stand_in.settings_of(one).form == "chat"), None)
    if template and chat is not None:
        raise experiment.error(
            f"'{chat.name}' renders conversations with its own template: leave data.chat_template "
            "(harness eval: --chat-template) out, or take form: completions with a tokenizer",
            *(("data", "chat_template") if experiment.data else ()),
        )


def resolve(
    experiment: Experiment,
    given: ServedSettings,
    find: Callable[[str], ModelRef],
    at: tuple[str | int, ...],
) -> ModelRef:
    """The model that `given` says where it is served, which stands at `at` in the experiment.

    A GGUF file is looked for beside the experiment's file. `find` resolves the name of the model
    whose tokenizer it has. Raises ConfigError, or EnvironmentLack for a key that is not set.
    """
    if given.gguf is not None and experiment.file.is_file():
        beside = experiment.folder / Path(given.gguf).expanduser()
        given = given.model_copy(update={"gguf": str(beside.resolve())})
    try:
        return stand_in.resolve(named(given), find)
    except (ConfigError, EnvironmentLack):
        raise
    except UserError as error:
        raise experiment.error(str(error), *at) from None
