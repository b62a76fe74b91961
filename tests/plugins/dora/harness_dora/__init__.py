"""A training method and a suite of one's own."""

from pathlib import Path

from harness import LowRankOptions, Method, hookimpl, train_sft


class Dora(Method):
    """LoRA with magnitude and direction trained apart (Liu et al. 2024, arXiv 2402.09353)."""

    name, Options = "dora", LowRankOptions

    def train(self, job):
        config = job.options.lora_config()
        config.use_dora = True
        return train_sft(job, peft=config, **job.options.recipe())


@hookimpl
def register_methods(register):
    register(Dora())


@hookimpl
def register_suites(register):
    register(Path(__file__).parent)
