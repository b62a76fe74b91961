"""A training method and a suite of one's own."""

from pathlib import Path

from harness import Method, SftOptions, hookimpl, train_sft


class VeraOptions(SftOptions):
    """The shared recipe's options, and a rank."""

    r: int = 64


class Vera(Method):
    """Scales of random matrices that all layers share (Kopiczko et al. 2024, 2310.11454)."""

    name, Options = "vera", VeraOptions

    def train(self, job):
        from peft import VeraConfig

        config = VeraConfig(r=job.options.r, target_modules="all-linear", task_type="CAUSAL_LM")
        return train_sft(job, peft=config, **job.options.recipe())


@hookimpl
def register_methods(register):
    register(Vera())


@hookimpl
def register_suites(register):
    register(Path(__file__).parent)
