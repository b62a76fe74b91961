"""Full fine-tuning: every weight is trained."""

from collections.abc import Callable

from harness import (
    Artifact,
    Job,
    Method,
    ModelRef,
    SftOptions,
    check_full_precision,
    hookimpl,
    train_sft,
)


class FullOptions(SftOptions):
    """The shared recipe's options; learning rates are about a tenth of LoRA's."""

    def fits(self, model: ModelRef) -> None:
        """Raise UserError for a model whose files are quantised."""
        super().fits(model)
        check_full_precision(model)


class Full(Method):
    """Trains every weight of the model."""

    name, Options = "full", FullOptions

    def train(self, job: Job) -> Artifact:
        """Weights in `job.folder`."""
        return train_sft(job, **job.options.recipe())


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `full`."""
    register(Full())
