"""LoRA (Hu et al. 2021, arXiv 2106.09685)."""

from collections.abc import Callable

from harness import Artifact, Job, LowRankOptions, Method, hookimpl, train_sft


class Lora(Method):
    """Trains low-rank updates of frozen weights (Hu et al. 2021, arXiv 2106.09685)."""

    name, Options = "lora", LowRankOptions

    def train(self, job: Job) -> Artifact:
        """An adapter in `job.folder`."""
        options = job.options
        return train_sft(job, peft=options.lora_config(), **options.recipe())


@hookimpl
def register_methods(register: Callable[[Method], None]) -> None:
    """The method `lora`."""
    register(Lora())
