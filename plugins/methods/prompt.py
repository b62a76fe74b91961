"""Prompt tuning (Lester et al. 2021, arXiv 2104.08691)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness import (
    Artifact,
    Job,
    Method,
    VirtualTokenOptions,
    hookimpl,
    train_virtual_tokens,
    usual,
)

if TYPE_CHECKING:
    from torch import Tensor


class PromptOptions(VirtualTokenOptions):
    """Options of prompt tuning, on top of those of all virtual tokens."""

    lr: float = Field(3e-2, gt=0, le=1, json_schema_extra=usual(1e-3, 0.3, log=True))
    """Peak learning rate; a few embeddings need far higher ones than weights do."""
    reparametrize: Literal["none", "mlp", "lstm"] = "none"
    """Train a network that makes the embeddings: p-tuning (Liu et al. 2021, arXiv 2103.10385)."""

    def check(self, precision: str) -> None:
        """Raise UserError where the options contradict each other or the machine."""
        super().check(precision)
        if self.reparametrize != "none":
            self.refuse_with(f"reparametrize: {self.reparametrize}")


class Prompt(Method):
    """Trains embeddings that stand before every input of a frozen model."""

    name, Options = "prompt", PromptOptions

    def train(self, job: Job) -> Artifact:
        """An adapter in `job.folder`."""
        from peft import PromptEncoderConfig, PromptTuningConfig

        options = job.options
        common = {"task_type": "CAUSAL_LM", "num_virtual_tokens": options.virtual_tokens}
        if options.reparametrize == "none":
            return train_virtual_tokens(job, PromptTuningConfig(**common), _set_words)
        kind = options.reparametrize.upper()
        network = PromptEncoderConfig(encoder_reparameterization_type=kind, **common)
        return train_virtual_tokens(job, network)


def _set_words(model: Any, ids: "Tensor") -> None:
    encoder = model.prompt_encoder[model.active_adapter]
    encoder.embedding.weight.copy_(model.word_embeddings(ids)[0])


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `prompt`."""
    register(Prompt())
