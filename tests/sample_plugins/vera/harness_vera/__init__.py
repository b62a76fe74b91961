"""A training method and a suite of one's own."""

from pathlib import Path

from harness import LowRankOptions, Method, hookimpl, train_sft


class Vera(Method):
    """Scales of random matrices that all layers share (Kopiczko et al. 2024, 2310.11454)."""

    name, Options = "vera", LowRankOptions

    def train(self, job):
        from peft import VeraConfig

        options = job.options
        config = VeraConfig(
            r=options.r, target_modules=options.target_modules, task_type="CAUSAL_LM"
        )
        return train_sft(job, peft=config, **options.recipe())


@hookimpl
def register_methods(register):
    register(Vera())


@hookimpl
def register_suites(register):
    register(Path(__file__).parent)
