"""An adapter answers in evaluation as it did in training, in 16 bits too."""

import dataclasses

import pytest

from harness.manager import plugins
from harness.models.language_model import open_artifact
from harness.training import sft
from tests.training.test_sft import job

METHODS = [
    ("lora", {"r": 4}),
    ("rslora", {"r": 4}),
    ("dora", {"r": 4}),
    ("ia3", {}),
    ("qlora", {"r": 4}),
]


@pytest.fixture
def logits_of(tiny_model, tmp_path):
    """`logits_of(method, precision, **options)`: of the trained model, and as it is evaluated."""
    import torch

    def of(name, precision, **options):
        method, trainers, seen = plugins().methods.get(name), [], []
        made = sft.trainer_class

        def remembered(work):
            class Remembered(made(work)):
                def __init__(self, *args, **kwargs):
                    super().__init__(*args, **kwargs)
                    trainers.append(self)

            return Remembered

        ids = torch.arange(5, 29)[None]

        def see(model, tokenizer):
            model.eval()
            with torch.no_grad(), trainers[0].compute_loss_context_manager():
                seen.append(model(input_ids=ids, use_cache=False).logits.float())

        work = dataclasses.replace(
            job(tmp_path, tiny_model, precision=precision),
            options=method.Options(lr=1e-2, **options),
            trained=see,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sft, "trainer_class", remembered)
            artifact = method.train(work)
        with torch.no_grad():
            opened = open_artifact(artifact).model(input_ids=ids, use_cache=False).logits.float()
        return seen[0], opened

    return of


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_logits_in_bf16_are_those_of_training_to_the_last_bit(logits_of, method, options):
    trained, opened = logits_of(method, "bf16", **options)
    assert float((trained - opened).abs().max()) == 0


def test_in_float32_nothing_is_cast(logits_of):
    trained, opened = logits_of("lora", "float32", r=4)
    assert float((trained - opened).abs().max()) < 1e-5
