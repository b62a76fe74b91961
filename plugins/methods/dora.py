"""DoRA (Liu et al. 2024, arXiv 2402.09353): a weight's magnitude and direction trained apart."""

import dataclasses
from collections.abc import Callable

from harness import (
    Artifact,
    Footprint,
    Job,
    LowRankOptions,
    Method,
    QuantizedOptions,
    hookimpl,
    train_lora,
)


class DoraOptions(LowRankOptions, QuantizedOptions):
    """LoRA's options; with `quant_type: nf4` it is QDoRA."""

    def lora_fields(self) -> dict[str, object]:
        """LoRA's, with a magnitude."""
        return {**super().lora_fields(), "use_dora": True}

    def footprint(self) -> Footprint | None:
        """LoRA's; autograd keeps both results for the magnitude, whose norm needs whole weights."""
        footprint = super().footprint()
        return footprint and dataclasses.replace(
            footprint,
            adapter=lambda inputs, outputs: self.r * (inputs + outputs) + outputs,
            keeps=lambda inputs, outputs: footprint.keeps(inputs, outputs) + 2 * outputs,
            # a unit matrix, the weight, the update, and their sum twice
            scratch=lambda inputs, outputs: inputs * inputs + 4 * inputs * outputs,
            peft=self.lora_config,
        )


class Dora(Method):
    """LoRA with magnitude and direction trained apart (Liu et al. 2024, arXiv 2402.09353)."""

    name, Options = "dora", DoraOptions

    def train(self, job: Job) -> Artifact:
        """An adapter in `job.folder`."""
        return train_lora(job)


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `dora`."""
    register(Dora())
