"""Every training method that is registered keeps what a fair comparison needs."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness import LowRankOptions, Method, train_sft
from harness.manager import plugins
from harness.models.adapter_checks import saved
from harness.models.adapter_checks.base import other_base
from harness.models.language_model import open_artifact
from harness.system.hub import content_hash
from harness.testing import (
    CHECKS,
    Trial,
    check_answers_when_reopened,
    check_budget,
    check_loss_falls,
    check_safetensors_only,
    check_seed,
)

OPTIONS = {
    "peft": {"config": "VeraConfig", "fields": {"r": 8, "target_modules": ["q_proj", "o_proj"]}},
}
"""What the tiny model needs where a method's defaults are too large for it."""
METHODS = [name for name, method in plugins().methods.things.items() if method.trains]


@pytest.fixture(scope="module", params=METHODS)
def trial(request, tmp_path_factory):
    options = OPTIONS.get(request.param, {})
    method = plugins().methods.get(request.param)
    return Trial(method, tmp_path_factory.mktemp("trial"), options)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_method(trial, check):
    check(trial)


def test_its_artifact_raises_no_doubt_on_its_own_base(trial):
    artifact = trial.trained.artifact
    assert list(open_artifact(artifact).warnings) == []
    if artifact.kind == "adapter":
        known = replace(artifact.base, content_hash=content_hash(Path(artifact.base.path)))
        assert other_base(Path(artifact.path), known) is None
        assert saved.changes_nothing(Path(artifact.path)) is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qlora", {"quant_type": "int8"}),
        ("dora", {"quant_type": "nf4"}),
        ("pissa", {"svd": "full"}),
    ],
)
def test_variant(name, options, tmp_path):
    trial = Trial(plugins().methods.get(name), tmp_path, options)
    check_answers_when_reopened(trial)
    check_loss_falls(trial)
    assert trial.trained.job.notes["total_parameters"] - trial.trained.job.notes[
        "trainable_parameters"
    ] == parameters(trial)


def parameters(trial):
    """Of the tiny model, as its file has them."""
    from safetensors import safe_open

    with safe_open(f"{trial.model.path}/model.safetensors", "pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118


def test_the_plugin_of_the_example_conforms(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "sample_plugins/vera")
    import harness_vera

    trial = Trial(harness_vera.Vera(), tmp_path, {"r": 8, "lr": 1e-2})
    for check in CHECKS:
        check(trial)


class Careless(Method):
    """Breaks the budget, spoils what it saved and leaves a pickle behind."""

    name, Options = "careless", LowRankOptions

    def train(self, job):
        from safetensors.torch import load_file, save_file

        swapped = replace(job, train=list(reversed(job.train)))
        artifact = train_sft(swapped, peft=job.options.lora_config(), **job.options.recipe())
        file = job.folder / "adapter_model.safetensors"
        tensors = {k: v * -50 if "lora_B" in k else v for k, v in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
        (job.folder / "training_args.bin").write_bytes(b"")
        return artifact


class Random(Method):
    """Takes a seed of its own each time."""

    name, Options = "random", LowRankOptions
    seeds = iter(range(5, 99))

    def train(self, job):
        own = replace(job, seed=next(self.seeds))
        return train_sft(own, peft=job.options.lora_config(), **job.options.recipe())


@pytest.fixture(scope="module")
def careless(tmp_path_factory):
    return Trial(Careless(), tmp_path_factory.mktemp("careless"), {"r": 4, "lr": 1e-3})


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (check_loss_falls, "log-probability went from"),
        (check_answers_when_reopened, "reopened, log-probabilities differ"),
        (check_budget, "in step 1 the model saw other rows than the plan's"),
        (check_safetensors_only, r"the artifact holds training_args\.bin"),
    ],
)
def test_a_careless_method_is_found_out(careless, check, said):
    with pytest.raises(AssertionError, match=f"careless: {said}"):
        check(careless)


def test_a_method_that_ignores_the_seed_is_found_out(tmp_path):
    with pytest.raises(AssertionError, match="random: the same seed gave other weights"):
        check_seed(Trial(Random(), tmp_path, {"r": 4}))


def test_a_method_that_trains_nothing_has_nothing_to_conform_to(tmp_path):
    with pytest.raises(ValueError, match="base does not train"):
        Trial(plugins().methods.get("base"), tmp_path)
