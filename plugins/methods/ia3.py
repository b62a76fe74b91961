"""(IA)^3 (Liu et al. 2022, arXiv 2205.05638): keys, values and hidden states are rescaled."""

from collections.abc import Callable

from pydantic import Field

from harness import (
    Artifact,
    Job,
    Method,
    ModelRef,
    QuantizedOptions,
    UserError,
    check_target_modules,
    hookimpl,
    train_sft,
    usual,
)


class Ia3Options(QuantizedOptions):
    """What is rescaled, and how fast that is learnt."""

    lr: float = Field(3e-3, gt=0, le=1, json_schema_extra=usual(3e-4, 3e-2, log=True))
    """Peak learning rate; the paper's is 3e-3."""
    target_modules: list[str] | None = None
    """Layers whose output is rescaled; None means keys, values and the last of the feed-forward."""
    feedforward_modules: list[str] | None = None
    """Those of them whose input is rescaled instead; None means the architecture's usual ones."""

    def footprint(self) -> None:
        """Not predicted."""

    def check(self, precision: str) -> None:
        """Raise UserError where a feed-forward layer is no target."""
        super().check(precision)
        stray = sorted({*(self.feedforward_modules or ())} - {*(self.target_modules or ())})
        if stray:
            raise UserError(f"feedforward_modules: '{stray[0]}' is not one of target_modules")

    def fits(self, model: ModelRef) -> None:
        """Raise UserError where a target matches no layer."""
        super().fits(model)
        check_target_modules(model, self.target_modules)


class Ia3(Method):
    """Rescales keys, values and hidden states by vectors (Liu et al. 2022, arXiv 2205.05638)."""

    name, Options = "ia3", Ia3Options

    def train(self, job: Job) -> Artifact:
        """An adapter in `job.folder`."""
        from peft import IA3Config

        options = job.options
        config = IA3Config(
            task_type="CAUSAL_LM",
            target_modules=options.target_modules,
            feedforward_modules=options.feedforward_modules
            or (None if options.target_modules is None else []),
        )
        return train_sft(
            job,
            peft=config,
            quantization=options.quantization(job.budget.precision),
            **options.recipe(),
        )


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `ia3`."""
    register(Ia3())
