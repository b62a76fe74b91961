"""Settings of torch that change float32 results and that outlive whoever set them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter

_PARTS = (
    "cuda.matmul",
    "cudnn",
    "cudnn.conv",
    "cudnn.rnn",
    "mkldnn",
    "mkldnn.matmul",
    "mkldnn.conv",
    "mkldnn.rnn",
)
"""Of torch.backends, each with a precision; what is said of a library comes before its parts."""


@contextmanager
def float32_precision_kept() -> Iterator[None]:
    """Undo on leaving what code within it set for float32 products, such as TF32.

    transformers turns TF32 on for the whole process where a model is compiled: 10 bits of mantissa
    instead of 23 in whatever is multiplied afterwards.
    """
    import torch

    settings = [torch.backends, *(attrgetter(name)(torch.backends) for name in _PARTS)]
    before = [setting.fp32_precision for setting in settings]
    matmul = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            if setting.fp32_precision != precision:  # setting what is inherited would pin it
                setting.fp32_precision = precision
        if torch.get_float32_matmul_precision() != matmul:
            torch.set_float32_matmul_precision(matmul)
