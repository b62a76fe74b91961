"""Layout of batches and fused kernels, which make a step faster and leave its result unchanged.

It is the budget's, equal for every method.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from harness.data.tokenization import Encoded
from harness.errors import EnvironmentLack, UserError

if TYPE_CHECKING:
    from harness.models.causal_lm import CausalLM

PASS_TOKENS = {"cpu": 64, "cuda": 4096}
"""The fixed cost of a forward and backward pass, in tokens.

On a CPU the weights' way through memory: passes of 32 to 256 tokens of a 135M model took
0.70 s + 0.0107 s a token on one AVX2 core. On a GPU the launches of its kernels: an estimate.
"""


def check(*, liger: bool, compile: bool) -> None:
    """Raise UserError, naming the budget's key, for options that this machine does not support."""
    from harness.system.gpu_check import compiler_lack
    from harness.system.hardware import facts

    cuda = facts().device == "cuda"
    if liger and not cuda:
        raise UserError("budget.liger: Liger's kernels need a CUDA GPU: leave it out here")
    if liger and importlib.util.find_spec("liger_kernel") is None:
        raise EnvironmentLack(
            "budget.liger: liger-kernel is missing: pip install 'finetune-harness[liger]'"
        )
    triton = "budget.liger" if liger else "budget.compile" if compile else None
    if cuda and triton and (lack := compiler_lack()):
        raise EnvironmentLack(f"{triton}: {lack.why}: {lack.mend}; or leave it out")
    compilers = (os.environ.get("CXX"), "g++", "clang++", "c++")
    if compile and not any(name and shutil.which(name) for name in compilers):
        raise EnvironmentLack(
            "budget.compile: torch.compile needs a C++ compiler, and none is on the path: "
            "install g++ or leave it out"
        )


def micro_batch(
    requested: int | Literal["auto"] | None, rows: Sequence[Encoded], batch: int, device: str
) -> int:
    """Rows per forward pass: as requested, the whole batch for None, the cheapest for `auto`.

    The cheapest has the fewest tokens, padding and `PASS_TOKENS` per pass counted, over all
    batches of `rows` sorted by `grouped`.
    """
    if requested != "auto":
        return int(requested or batch)
    overhead = PASS_TOKENS[device]
    sizes = [n for n in range(1, batch + 1) if batch % n == 0]
    return min(
        sizes, key=lambda micro: sum(n + overhead for n in padded_passes(rows, batch, micro))
    )


def padded_passes(rows: Sequence[Encoded], batch: int, micro: int) -> list[int]:
    """Tokens of each forward pass, padding included, where `grouped` put the rows in order."""
    lengths = [len(row.input_ids) for row in grouped(rows, batch, micro)]
    parts = [lengths[i : i + micro] for i in range(0, len(lengths), micro)]
    return [max(part) * len(part) for part in parts]


def grouped(rows: Sequence[Encoded], batch: int, micro: int) -> list[Encoded]:
    """Rows in order of length inside each effective batch, the longest first.

    Every optimizer step has the rows that it had, so nothing but rounding changes; rows of one
    pass are of like length, so little of it is padding. Longest first shows at the first pass
    whether memory is enough. A batch that is one pass is left alone.
    """
    if micro == batch:
        return list(rows)
    parts = [rows[i : i + batch] for i in range(0, len(rows), batch)]
    return [row for part in parts for row in sorted(part, key=lambda row: -len(row.input_ids))]


def apply_liger(model: CausalLM) -> None:
    """Liger's kernels in the model's layers; the loss stays TRL's fused head."""
    from transformers.integrations.liger import apply_liger_kernel

    apply_liger_kernel(model, {"fused_linear_cross_entropy": False, "cross_entropy": False})
