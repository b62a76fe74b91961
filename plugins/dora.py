"""DoRA (Liu et al. 2024, arXiv 2402.09353): a weight's magnitude and direction trained apart."""

from collections.abc import Callable

from harness import Artifact, Job, LowRankOptions, Method, QuantizedOptions, hookimpl
from harness.low_rank import train_lora


class DoraOptions(LowRankOptions, QuantizedOptions):
    """LoRA's options; with `quant_type: nf4` it is QDoRA."""

    def footprint(self) -> None:
        """Not predicted: the norms of whole weights are beside LoRA's part."""


class Dora(Method):
    """LoRA with magnitude and direction trained apart (Liu et al. 2024, arXiv 2402.09353)."""

    name, Options = "dora", DoraOptions

    def train(self, job: Job) -> Artifact:
        """An adapter in `job.folder`."""
        return train_lora(job, use_dora=True)


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `dora`."""
    register(Dora())
