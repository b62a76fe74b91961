"""What a training plugin is made of: a Method and its Options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, TypeVar

from pydantic import BeforeValidator, ConfigDict

from harness.config.strict_yaml import StrictModel
from harness.types import Artifact, Job, ModelRef

if TYPE_CHECKING:
    from harness.api.footprint import Footprint

Options = TypeVar("Options", bound="MethodOptions")


def _named(value: object) -> ModelRef | None:
    """Text becomes a ModelRef that has a name and is not resolved yet."""
    if isinstance(value, str) and value:
        return ModelRef(value, "")
    if isinstance(value, dict) and {"name", "path"} <= set(value):
        return ModelRef(**value)
    if value is None or isinstance(value, ModelRef):
        return value
    raise ValueError(f"expected the name of a model or a folder, got {value!r}")


ModelOption = Annotated[ModelRef, BeforeValidator(_named)]
"""An option that names a model or an adapter. `MethodOptions.resolve` finds it; records and cell
ids know it by its contents, not by its folder."""


def usual(low: float, high: float, *, log: bool = False) -> dict[str, Any]:
    """The range in which an option mostly lies: `Field(2e-4, json_schema_extra=usual(...))`.

    Values outside are warned of, and tuning searches inside; `log` where ratios count.
    """
    return {"usual": {"low": low, "high": high, "log": log}}


class ModelFinder(Protocol):
    """Finds what an option names. Raises ConfigError with the option's place."""

    def model(self, option: str, name: str) -> ModelRef:
        """A packaged alias, a folder or a Hub id."""

    def adapter(self, option: str, name: str) -> ModelRef:
        """A folder with an adapter."""


class MethodOptions(StrictModel):
    """What a user may set for a method. Fields are annotated; their docstrings are the help.

    Bounds come from `pydantic.Field(ge=..., le=...)`; a key that is no field is an error.
    """

    # pydantic reads the source file of every such class, so other models go without
    model_config = ConfigDict(use_attribute_docstrings=True)

    @classmethod
    def usual_ranges(cls) -> dict[str, dict[str, Any]]:
        """Option name -> {low, high, log}, of the options that have a usual range."""
        extras = {name: info.json_schema_extra for name, info in cls.model_fields.items()}
        return {
            name: dict(extra["usual"])  # type: ignore[arg-type]
            for name, extra in extras.items()
            if isinstance(extra, dict) and "usual" in extra
        }

    def check(self, precision: str) -> None:
        """Raise UserError for options that this machine or `precision` cannot serve.

        Called before anything is loaded.
        """

    def fits(self, model: ModelRef) -> None:
        """Raise UserError for options that `model` cannot serve, such as layers that it lacks.

        Called by the plan, after the model was found and before it is loaded.
        """

    def footprint(self) -> Footprint | None:
        """What training with them holds in memory; None where they do not tell."""
        return None

    def resolve(self: Options, find: ModelFinder) -> Options:
        """The options with every `ModelOption` found; called by the plan, after `check`."""
        return self


class Method:
    """A way of training. Subclass it, set `name` and `Options`, and write `train`."""

    name: ClassVar[str]
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    trains: ClassVar[bool] = True
    """False for a method that leaves the model as it is; such a cell needs no training data."""
    untouched: ClassVar[bool] = False
    """True for the method whose cell is the base that all others are compared with."""
    opens: ClassVar[bool] = False
    """True for the method that opens what was trained elsewhere: what `harness eval` measures."""

    def train(self, job: Job) -> Artifact:
        """Train `job.model` on `job.train` and save what came out in `job.folder`.

        Heavy libraries are imported here, not at the top of the plugin.
        """
        raise NotImplementedError

    def footprint(self, options: Any) -> Footprint | None:
        """What training with these options holds in memory; None: it is not predicted.

        By default what the options say: those of the shared recipe train every weight, low-rank
        ones an adapter. A method that does anything else overrides this.
        """
        footprint: Footprint | None = options.footprint()
        return footprint

    def help(self) -> dict[str, Any]:
        """Option name -> {type, default, help}, for `harness plugins`."""
        return options_help(self.Options)


def options_help(options: type[MethodOptions]) -> dict[str, Any]:
    """Option name -> {type, default, help} of an Options class."""
    return {
        key: {
            "type": str(info.annotation).replace("typing.", ""),
            "default": info.get_default(call_default_factory=True),
            "help": info.description or "",
        }
        for key, info in options.model_fields.items()
    }
