"""Weights of linear layers, copied into oneDNN's blocked layout while requests run on a CPU.

The BLAS of torch lays out a layer's weight anew in every product, which with few rows to multiply
takes as long as the product. oneDNN takes a copy that was laid out once. On two AVX-512 cores
SmolLM2-135M's layers are 1.3 to 2 times as fast with 64 rows, its head twice; with 2,048 rows 1.2
times. With AVX2 layers gain 5 to 15 %, and the head 1.5 times.

The copies live as long as the requests of one call: no change of a weight is missed, and a model's
parameters stay what they are, for whoever saves, merges or hashes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeGuard
from weakref import WeakKeyDictionary

from harness.errors import is_out_of_memory
from harness.system.hardware import free_host_memory

if TYPE_CHECKING:
    import torch

    from harness.models.causal_lm import CausalLM

MIN_WIDTH = 128
"""Numbers in and out of a layer below which a copy of its weight gains nothing: an adapter's."""
MIN_TOKENS = 1024
"""Tokens of a call below which copying takes longer than it saves; it takes as long as a pass over
about 100."""
MEMORY_SHARE = 0.25
"""The share of the free memory that the copies may take; passes take theirs of what is left."""
CAPABILITIES = ("AVX2", "AVX512")
"""What torch calls the instructions of processors on which every shape was measured to gain."""

_PRODUCT = "_linear_pointwise"

_float32_heads: WeakKeyDictionary[torch.nn.Module, _Product] = WeakKeyDictionary()
"""Of heads below float32, while copies are in force."""


class _Product:
    """The product with a blocked copy of a layer's weight, in `dtype`.

    It is called like the layer. What it does not take runs by the layer's own forward pass.
    """

    def __init__(self, layer: torch.nn.Linear, dtype: torch.dtype, weight: torch.Tensor) -> None:
        self.layer, self.dtype, self.weight = layer, dtype, weight
        self.bias = None if layer.bias is None else layer.bias.detach().to(dtype)

    @property
    def bytes(self) -> int:
        """Of the copy."""
        return self.layer.weight.numel() * self.dtype.itemsize

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., out) of (..., in)."""
        import torch

        rows = x.numel() // x.shape[-1]
        # the operator has no gradient
        if x.dtype != self.dtype or not rows or torch.is_grad_enabled():
            return torch.nn.Linear.forward(self.layer, x)
        if rows > 1:
            return self._multiplied(x)
        # One row alone takes a kernel that rounds in another order than that of several rows.
        twice = x.reshape(1, -1).repeat(2, 1)
        return self._multiplied(twice)[0].view(*x.shape[:-1], -1)

    def _multiplied(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, "none", [], ""
        )
        return product


@contextmanager
def blocked_weights(model: CausalLM, tokens: int) -> Iterator[int]:
    """Within it the model's linear layers multiply by blocked copies; gives the copies' bytes.

    None of the weights may change within it. No copy is made and nothing changes (0 bytes) where
    the call has fewer `tokens` than MIN_TOKENS, where copies would take more than MEMORY_SHARE of
    the free memory, and of all layers that `takes` refuses. A head below float32 is copied in
    float32, for `float32_product`.
    """
    products = _products(model) if tokens >= MIN_TOKENS else []
    try:
        for product in products:
            if product.dtype == product.layer.weight.dtype:
                vars(product.layer)["forward"] = product
            else:
                _float32_heads[product.layer] = product
        yield sum({id(p.weight): p.bytes for p in products}.values())
    finally:
        for product in products:
            vars(product.layer).pop("forward", None)
            _float32_heads.pop(product.layer, None)


def float32_product(head: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """That of a head below float32 with its blocked copy; None where no copy is in force."""
    return _float32_heads.get(head)


def takes(layer: torch.nn.Module) -> TypeGuard[torch.nn.Linear]:
    """Whether a layer gains by a blocked copy of its weight.

    Only a plain linear layer, on both sides MIN_WIDTH wide or more, on a CPU of CAPABILITIES; in
    float32, or in bf16 where the CPU multiplies it. An adapter's wrapper is none, but the layer
    within it is.
    """
    import torch

    # another forward pass of its own is somebody's, such as accelerate's
    if type(layer) is not torch.nn.Linear or "forward" in vars(layer):
        return False
    weight = layer.weight
    if type(weight) is not torch.nn.Parameter or weight.layout != torch.strided:
        return False
    if weight.device.type != "cpu" or min(weight.shape) < MIN_WIDTH:
        return False
    return _cpu_takes(weight.dtype)


def _cpu_takes(dtype: torch.dtype) -> bool:
    import torch

    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    if torch.backends.cpu.get_cpu_capability() not in CAPABILITIES:
        return False
    operators = torch.ops.mkldnn
    if not all(hasattr(operators, name) for name in ("_reorder_linear_weight", _PRODUCT)):
        return False
    if dtype == torch.bfloat16:
        return bool(operators._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _products(model: CausalLM) -> list[_Product]:
    """Those of the layers that gain; none where the copies do not fit."""
    import torch

    head = model.get_output_embeddings()
    layers = {
        layer: torch.float32 if layer is head else layer.weight.dtype
        for layer in model.modules()
        if takes(layer)
    }
    numbers = {(id(layer.weight), dtype): layer.weight.numel() for layer, dtype in layers.items()}
    size = sum(count * dtype.itemsize for (_, dtype), count in numbers.items())
    if size > MEMORY_SHARE * free_host_memory():
        return []
    copies: dict[tuple[int, torch.dtype], torch.Tensor] = {}
    try:
        for layer, dtype in layers.items():
            if (id(layer.weight), dtype) not in copies:
                copies[id(layer.weight), dtype] = torch.ops.mkldnn._reorder_linear_weight(
                    layer.weight.detach().to(dtype), None
                )
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return []
    return [
        _Product(layer, dtype, copies[id(layer.weight), dtype]) for layer, dtype in layers.items()
    ]
