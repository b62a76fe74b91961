"""An 8-bit layer's result for a token does not depend on the tokens beside it."""

import random

import pytest

from harness.models.inference.forward import Limit
from harness.models.inference.int8_layers import decide_outliers_by_token
from harness.models.inference.loglikelihood import score_requests
from harness.models.language_model import load_weights
from harness.types import Artifact, ModelRef


def layer_of(bias=False):
    """A random 8-bit layer of 32 to 24 features, in eval mode."""
    import torch
    from bitsandbytes.nn import Int8Params, Linear8bitLt

    torch.manual_seed(0)
    layer = Linear8bitLt(32, 24, bias=bias, has_fp16_weights=False, threshold=6.0)
    layer.weight = Int8Params(torch.randn(24, 32), has_fp16_weights=False, requires_grad=False)
    return layer.to("cpu").eval()


def tokens_with_outliers(count=5):
    """Tokens each of which has an outlier in a feature of its own."""
    import torch

    torch.manual_seed(1)
    x = torch.randn(count, 32)
    x[range(count), range(count)] = 20.0
    return x


def by_token(layer):
    import torch

    decide_outliers_by_token(torch.nn.ModuleList([layer]))
    return layer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_token_beside_others_is_as_alone(dtype):
    import torch

    layer, x = layer_of(bias=True), tokens_with_outliers().to(getattr(torch, dtype))
    with torch.inference_mode():
        theirs, alone = layer(x.clone()), torch.cat([layer(row[None].clone()) for row in x])
        ours = by_token(layer)(x)
        ours_alone = torch.cat([layer(row[None]) for row in x])
    assert not torch.equal(theirs, alone)  # bitsandbytes' own way
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == "float32" else {"rtol": 0.02, "atol": 0.2}
    torch.testing.assert_close(ours, ours_alone, **tolerance)
    torch.testing.assert_close(ours, alone, **tolerance)
    assert layer(x[None]).shape == (1, 5, 24)


def test_training_is_bitsandbytes_own():
    import torch

    layer, x = layer_of(), tokens_with_outliers()
    with torch.no_grad():
        expected = layer.train()(x.clone())
        assert torch.equal(by_token(layer)(x.clone()), expected)
    assert isinstance(layer, type(layer_of()))


def test_scores_of_an_8_bit_model_do_not_depend_on_what_shares_a_pass(tiny_model):
    artifact = Artifact("base", ModelRef("t", str(tiny_model)), quantization={"load_in_8bit": True})
    model = load_weights(artifact).eval()
    for norm in (layer.input_layernorm for layer in model.model.layers):
        norm.weight.data[::7] = 8.0  # outliers, in some features of most tokens
    draw = random.Random(0)
    requests = [
        (draw.choices(range(model.config.vocab_size), k=20), draw.choices(range(9, 99), k=4))
        for _ in range(8)
    ]

    def scores(share, rows):
        found = score_requests(
            model, requests, max_length=256, limit=Limit(2048, rows=rows), share=share
        )
        return [score.logprob for score in found]

    alone = scores(False, 1)
    assert scores(False, 8) == pytest.approx(alone, abs=1e-3)
    assert scores(True, None) == pytest.approx(alone, abs=1e-3)
