"""Prefix tuning (Li & Liang 2021, arXiv 2101.00190)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness import (
    Artifact,
    Job,
    Method,
    UserError,
    VirtualTokenOptions,
    hookimpl,
    train_virtual_tokens,
    usual,
)

if TYPE_CHECKING:
    from torch import Tensor


class PrefixOptions(VirtualTokenOptions):
    """Options of prefix tuning, on top of those of all virtual tokens."""

    lr: float = Field(1e-2, gt=0, le=1, json_schema_extra=usual(1e-4, 1e-1, log=True))
    """Peak learning rate."""
    projection: int | None = Field(None, ge=1)
    """Width of a network that makes keys and values while training (section 4.3); None trains them
    themselves, from those of real tokens (section 7.4)."""
    gradient_checkpointing: bool = False
    """Not possible here: recomputing a layer drops the cache in which the prefix lies."""

    def check(self, precision: str) -> None:
        """Raise UserError where the options contradict each other or the machine."""
        super().check(precision)
        if self.gradient_checkpointing:
            raise UserError(
                "gradient_checkpointing drops the key/value cache in which the prefix lies: "
                "set gradient_checkpointing: false, or a smaller budget.micro_batch"
            )
        if self.projection:
            self.refuse_with(f"projection: {self.projection}")


class Prefix(Method):
    """Trains keys and values that every layer of a frozen model attends to."""

    name, Options = "prefix", PrefixOptions

    def train(self, job: Job) -> Artifact:
        """An adapter in `job.folder`."""
        from peft import PrefixTuningConfig

        options = job.options
        config = PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=options.virtual_tokens,
            prefix_projection=options.projection is not None,
            encoder_hidden_size=options.projection,
        )
        words = None if options.projection else _set_words
        return train_virtual_tokens(job, config, words)


def _set_words(model: Any, ids: "Tensor") -> None:
    """(virtual tokens, layers x keys and values x heads x size), as peft lays them out."""
    import torch

    cache = model.get_base_model()(input_ids=ids, use_cache=True).past_key_values
    states = [states[0] for layer in cache.layers for states in (layer.keys, layer.values)]
    flat = torch.stack(states).permute(2, 0, 1, 3).flatten(1)
    model.prompt_encoder[model.active_adapter].embedding.weight.copy_(flat)


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `prefix`."""
    register(Prefix())
