"""bf16 weights that lose no update: what each rounding drops is kept in 16 bits beside the weight.

bf16 has 8 bits of precision, so an update below a 512th of its weight is rounded away, step after
step. Here a float32 weight is split into the nearest bf16 number, which the model computes with,
and the rest of its bits as an integer: together they are the float32 weight, to the last bit, in
4 bytes. This is Kahan's compensated sum with an exact compensation (Zamirai et al. 2020,
arXiv 2010.06192, weigh it against stochastic rounding). The optimizer works on the float32
weights, a part of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter
    from torch.optim import Optimizer

PART = 2**26
"""Weights that are float32 at once, if no tensor has more: half a GB with their gradients."""


def split(weights: Tensor) -> tuple[Tensor, Tensor]:
    """float32 numbers as (the nearest bf16, the rest as int16); halves are rounded away from 0."""
    import torch

    bits = weights.contiguous().view(torch.int32)
    high = (bits + 0x8000).bitwise_right_shift_(16)
    low = high << 16
    rest = torch.sub(bits, low, out=low).to(torch.int16)
    return high.to(torch.int16).view(torch.bfloat16), rest


def join(rounded: Tensor, rest: Tensor) -> Tensor:
    """The float32 numbers that `split` had."""
    import torch

    bits = rounded.contiguous().view(torch.int16).to(torch.int32) << 16
    return bits.add_(rest).view(torch.float32)


def keeping_rests(kind: type[Optimizer]) -> type[Optimizer]:
    """The optimizer class whose `step` updates bf16 parameters as `kind` updates float32 ones.

    Gradients may be bf16. Parameters of other types are updated as ever. `state_dict` has the rests
    as `rests`, by the number of the parameter.
    """
    import torch

    base: Any = kind

    class KeepingRests(base):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._rests: dict[Parameter, Tensor] = {}

        def state_dict(self) -> dict[str, Any]:
            content: dict[str, Any] = super().state_dict()
            return {**content, "rests": _by_number(self, self._rests)}

        def load_state_dict(self, content: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
            own = {name: value for name, value in content.items() if name != "rests"}
            super().load_state_dict(own, *args, **kwargs)
            self._rests = _by_parameter(self, content.get("rests", {}))
            _unround(self, content["state"])

        def step(self, closure: Callable[[], float] | None = None) -> None:
            assert closure is None
            held = _with_gradients(self)
            with torch.no_grad(), _without_gradients(held):
                for part in _parts(held):
                    self._step_of(part)

        def _step_of(self, part: Sequence[tuple[Parameter, Tensor]]) -> None:
            rounded = {}
            for parameter, grad in part:
                if parameter.dtype == torch.bfloat16:
                    rounded[parameter] = parameter.data
                    rest = self._rests.get(parameter)
                    if rest is None:
                        rest = torch.zeros_like(parameter.data, dtype=torch.int16)
                        self._rests[parameter] = rest
                    parameter.data = join(parameter.data, rest)
                parameter.grad = grad.to(parameter.dtype)
            super().step()
            for parameter, _ in part:
                parameter.grad = None
                if parameter in rounded:
                    high, rest = split(parameter.data)
                    self._rests[parameter].copy_(rest)
                    parameter.data = rounded[parameter].copy_(high)

    # transformers tells bitsandbytes' optimizers by the class's name
    KeepingRests.__qualname__ = f"KeepingRests[{kind.__module__}.{kind.__qualname__}]"
    return KeepingRests


def _numbered(optimizer: Optimizer) -> list[Parameter]:
    """The parameters in the order in which `state_dict` counts them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _with_gradients(optimizer: Optimizer) -> list[tuple[Parameter, Tensor]]:
    trained = [p for p in _numbered(optimizer) if p.requires_grad]
    return [(parameter, parameter.grad) for parameter in trained if parameter.grad is not None]


@contextmanager
def _without_gradients(held: Sequence[tuple[Parameter, Tensor]]) -> Iterator[None]:
    for parameter, _ in held:
        parameter.grad = None
    yield
    for parameter, grad in held:
        parameter.grad = grad


def _by_number(optimizer: Optimizer, rests: Mapping[Parameter, Tensor]) -> dict[int, Tensor]:
    return {n: rests[p] for n, p in enumerate(_numbered(optimizer)) if p in rests}


def _by_parameter(optimizer: Optimizer, rests: Mapping[int, Tensor]) -> dict[Parameter, Tensor]:
    parameters = _numbered(optimizer)
    return {parameters[n]: rest.to(parameters[n].device) for n, rest in rests.items()}


def _unround(optimizer: Optimizer, state: Mapping[int, Mapping[str, Any]]) -> None:
    """Give an optimizer its moments as they were saved, in float32.

    torch's `load_state_dict` rounds them to the type of their parameter.
    """
    import torch

    for number, parameter in enumerate(_numbered(optimizer)):
        for name, value in state.get(number, {}).items():
            loaded = optimizer.state[parameter].get(name)
            if isinstance(loaded, torch.Tensor) and loaded.dtype != value.dtype:
                optimizer.state[parameter][name] = value.to(loaded.device)


def _parts(
    held: Sequence[tuple[Parameter, Tensor]],
) -> Iterator[list[tuple[Parameter, Tensor]]]:
    """Parameters and gradients in parts of at most PART numbers, or of one tensor."""
    part: list[tuple[Parameter, Tensor]] = []
    for parameter, grad in held:
        if part and sum(p.numel() for p, _ in part) + parameter.numel() > PART:
            yield part
            part = []
        part.append((parameter, grad))
    if part:
        yield part
