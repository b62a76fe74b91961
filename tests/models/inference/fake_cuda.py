"""A CUDA device without a GPU: tensors with shapes and a device, and no numbers.

Operations run through torch's own shape functions, so that what mixes devices or has the wrong
shape for a kernel raises as it would. Results are not computed: `tolist` gives zeros.
"""

from __future__ import annotations

import re
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten

_VIEW = re.compile(
    r"(_unsafe_)?view|slice|expand|transpose|unsqueeze|select\.int|t\.default|squeeze|detach|empty"
    r"|alias|split|permute|unbind|prim"
)
"""Operations that launch nothing."""


def _indexed(tensor: torch.Tensor, index: Any) -> tuple[torch.Tensor, list[Any]]:
    """A view by everything in an index but its tensors, and those by dimension."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [part for part in parts if part is Ellipsis]:
        at = next(i for i, part in enumerate(parts) if part is Ellipsis)
        used = sum(part is not None for part in parts) - 1
        parts[at : at + 1] = [slice(None)] * (tensor.dim() - used)
    dimension, tensors = 0, {}
    for part in parts:
        if part is None:
            tensor = aten.unsqueeze(tensor, dimension)
        elif isinstance(part, int):
            tensor = aten.select(tensor, dimension, part)
            continue
        elif isinstance(part, slice):
            if part != slice(None):
                step = part.step or 1
                tensor = aten.slice(tensor, dimension, part.start, part.stop, step)
        else:
            tensors[dimension] = torch.as_tensor(part).to(tensor.device)
        dimension += 1
    return tensor, [tensors.get(i) for i in range(max(tensors, default=-1) + 1)]


class _Indexing(TorchFunctionMode):
    """Indexing and copies as plain operations: torch's own ask a real device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fake = bool(args) and isinstance(args[0], FakeTensor)
        if fake and func is torch.Tensor.__getitem__:
            tensor, tensors = _indexed(*args)
            return aten.index(tensor, tensors) if tensors else tensor
        if fake and func is torch.Tensor.__setitem__:
            tensor, tensors = _indexed(args[0], args[1])
            value = args[2]
            if not isinstance(value, torch.Tensor):
                value = torch.full((), value, dtype=tensor.dtype, device=tensor.device)
            if tensors:
                aten.index_put_(tensor, tensors, value)
            else:
                aten.copy_(tensor, value)
            return None
        if fake and func is torch.Tensor.copy_:
            return aten.copy_(*args)
        if fake and func is torch.Tensor.contiguous:
            return (
                args[0]
                if args[0].is_contiguous()
                else aten.clone(args[0], memory_format=torch.contiguous_format)
            )
        return func(*args, **(kwargs or {}))


def _zeros(tensor: torch.Tensor) -> Any:
    def nested(shape: tuple[int, ...]) -> Any:
        return [nested(shape[1:]) for _ in range(shape[0])] if shape else 0

    return nested(tuple(tensor.shape))


_real_inference_mode = torch.inference_mode


def _inference_mode(mode: bool | None = None) -> Any:
    """Without gradients alone where a caller opens it, for no fake tensor can be made in it."""
    return torch.no_grad() if mode is None else _real_inference_mode(mode)


@contextmanager
def fake_cuda(capability: tuple[int, int] = (8, 0)) -> Iterator[None]:
    """Within it tensors are fake and "cuda" is a device of that compute capability."""
    inference = "harness.models.inference"
    with ExitStack() as stack:
        stack.enter_context(
            mock.patch(f"{inference}.attention.kernels.capability", return_value=capability)
        )
        # it compares numbers
        stack.enter_context(mock.patch(f"{inference}.lm_head._is_body", return_value=True))
        stack.enter_context(mock.patch("torch.inference_mode", _inference_mode))
        stack.enter_context(mock.patch.object(FakeTensor, "tolist", _zeros, create=True))
        stack.enter_context(FakeTensorMode())
        stack.enter_context(_Indexing())
        yield


def on_cuda(model: Any) -> Any:
    """A model made on "meta", its tensors now on the fake device; within `fake_cuda` alone."""

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")

    for module in model.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None:
                module._parameters[name] = torch.nn.Parameter(moved(tensor), requires_grad=False)
        for name, tensor in module._buffers.items():
            if tensor is not None:
                module._buffers[name] = moved(tensor)
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor):
                setattr(module, name, moved(value))
    return model


class Traced(TorchDispatchMode):
    """What the operations within it launch, move and hold on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: Counter[str] = Counter()
        """Operations that are no mere views, by name."""
        self.bytes: Counter[str] = Counter()
        """Bytes that they read and write, by name."""
        self.held = self.peak = 0
        """Bytes of tensors made within, now and at most."""
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs, outputs = (
            [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor) and x.is_cuda]
            for tree in ((args, kwargs), out)
        )
        name = str(func).removeprefix("aten.")
        if (inputs or outputs) and not _VIEW.match(name):
            self.launched[name] += 1
            self.bytes[name] += _moved(name, inputs, outputs)
        earlier = [tensor.untyped_storage() for tensor in inputs]
        for tensor in outputs:
            storage = tensor.untyped_storage()
            if not any(storage is other for other in earlier):
                self._hold(storage)
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        size = self._known[storage] = storage.nbytes()
        weakref.finalize(storage, self._free, size)
        self.held += size
        self.peak = max(self.peak, self.held)

    def _free(self, size: int) -> None:
        self.held -= size


def _moved(name: str, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> int:
    """Bytes read and written; of what is looked up, only what is found is read."""
    read, written = (sum(_distinct_bytes(x) for x in some) for some in (inputs, outputs))
    if name.startswith(("embedding", "index.", "index_select")):
        return 2 * written
    if name.startswith(("index_copy_", "index_put", "copy_")):  # what is written is the last input
        return 2 * _distinct_bytes(inputs[-1])
    return read + written


def _distinct_bytes(tensor: torch.Tensor) -> int:
    """Without what a stride of 0 repeats."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * tensor.element_size()
