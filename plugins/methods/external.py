"""What was trained elsewhere, measured like any cell: `harness eval`, or an experiment's method."""

from collections.abc import Callable

from harness import (
    Artifact,
    Job,
    Method,
    MethodOptions,
    ModelFinder,
    ModelOption,
    UserError,
    four_bit_config,
    hookimpl,
)


class ExternalOptions(MethodOptions):
    """What is opened; at least one must be set."""

    adapter: ModelOption | None = None
    """A folder with an adapter that peft saved; it is put on `weights`."""
    weights: ModelOption | None = None
    """A fine-tuned model (alias, folder or Hub id); None means the experiment's model."""
    load_in_4bit: bool = False
    """Open the weights in 4 bits, as qlora's base is: NF4, double quantisation."""

    def check(self, precision: str) -> None:
        """Raise UserError where nothing says what was trained elsewhere."""
        if not (self.adapter or self.weights or self.load_in_4bit):
            raise UserError(
                "what was trained elsewhere? Set adapter: FOLDER, weights: MODEL or "
                "load_in_4bit: true"
            )

    def resolve(self, find: ModelFinder) -> "ExternalOptions":
        """The folders, by the hashes of what is in them."""
        adapter, weights = self.adapter, self.weights
        return self.model_copy(
            update={
                "adapter": adapter and find.adapter("adapter", adapter.name),
                "weights": weights and find.model("weights", weights.name),
            }
        )


class External(Method):
    """Trains nothing: opens what was trained elsewhere (`harness eval` uses it)."""

    name, Options = "external", ExternalOptions
    trains = False
    opens = True

    def train(self, job: Job) -> Artifact:
        """An adapter, other weights, or the model in 4 bits."""
        options, precision = job.options, job.budget.precision
        weights, adapter = options.weights or job.model, options.adapter
        return Artifact(
            "adapter" if adapter else "weights",
            job.model,
            path=adapter.path if adapter else None,
            quantization=four_bit_config(precision) if options.load_in_4bit else None,
            precision=precision,
            chat_template=job.chat_template,
            weights=weights,
        )


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `external`."""
    register(External())
