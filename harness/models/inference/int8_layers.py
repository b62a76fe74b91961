"""8-bit layers in which no token's result depends on the tokens beside it.

LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339) multiplies features beyond a threshold, the
outliers, in 16 bits and all others in 8. bitsandbytes takes a feature for all tokens of a pass as
soon as one of them is beyond it: a score would depend on what shares its pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch

    from harness.models.causal_lm import CausalLM


def decide_outliers_by_token(model: CausalLM) -> None:
    """Have 8-bit layers take outliers token by token in eval mode, as for a token on its own."""
    layers = [layer for layer in model.modules() if _is_8_bit(type(layer))]
    if not layers:
        return
    by_token = _by_token(type(layers[0]))
    for layer in layers:
        layer.__class__ = by_token


def _is_8_bit(layer: type) -> bool:
    """Whether it is bitsandbytes' class, and not an adapter's of the same name."""
    return layer.__name__ == "Linear8bitLt" and layer.__module__.startswith("bitsandbytes")


def _by_token(layer: Any) -> Any:
    """bitsandbytes' class of 8-bit layers, `layer`, with another forward pass in eval mode."""
    import torch

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        state = self.state
        differentiated = torch.is_grad_enabled() and x.requires_grad
        if self.training or differentiated or state.has_fp16_weights or state.threshold <= 0:
            return cast("torch.Tensor", layer.forward(self, x))
        if self.weight.CB is not None:
            self.init_8bit_state()
        flat = x.reshape(-1, x.shape[-1])
        product = _product(flat, state.CB, state.SCB, state.threshold)
        if self.bias is not None:
            product = product + self.bias.to(x.dtype)
        return product.view(*x.shape[:-1], -1)

    # The name is kept: libraries ask for it.
    return type(layer.__name__, (layer,), {"forward": forward, "__module__": __name__})


def _product(
    x: torch.Tensor, weight: torch.Tensor, scales: torch.Tensor, threshold: float
) -> torch.Tensor:
    """(tokens, rows) of (tokens, width) and int8 (rows, width) whose rows have such scales."""
    import torch

    bitsandbytes = torch.ops.bitsandbytes
    half = x.to(torch.float16)
    outliers = half.abs() >= threshold
    codes, token_scales, _ = bitsandbytes.int8_vectorwise_quant(half.masked_fill(outliers, 0))
    product: torch.Tensor = bitsandbytes.int8_scaled_mm(
        codes, weight, token_scales, scales, dtype=x.dtype
    )
    columns = outliers.any(dim=0).nonzero().flatten()
    if not len(columns):
        return product
    own = x[:, columns].masked_fill(~outliers[:, columns], 0)
    some = bitsandbytes.int8_vectorwise_dequant(weight[:, columns].contiguous(), scales)
    return product.addmm(own, some.to(x.dtype).t())
