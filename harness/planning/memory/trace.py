"""One training step run symbolically: no weights, no device, the real model and adapter code.

A child, `python -m harness.planning.memory.trace`,
reads a request as JSON and prints bytes by category, from
torch's FakeTensorMode. Two depths of the model are run and the rest of its layers, which are alike,
follow from their difference. A quantised base cannot be traced. Attention has a mask, as it has
wherever rows of a batch differ in length: transformers leaves none out for fake tensors.
"""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from harness.models.shapes import NotPredicted, config_of
from harness.planning.memory.predict import Prediction, footprint_of, setting_of
from harness.system.child_process import answered
from harness.training.bf16_weights import keeping_rests
from harness.training.sft_options import EIGHT_BITS

if TYPE_CHECKING:
    from torch import Tensor, UntypedStorage, nn
    from torch.optim import Optimizer

    from harness.planning.cell import Cell
    from harness.types import Precision

DEPTHS = (2, 4)
"""Layers of the two models that are run."""


class _Request(TypedDict):
    """What the child process gets."""

    method: str
    options: dict[str, object]
    config: Mapping[str, Any]
    """The model's config.json."""
    precision: Precision
    device: str
    rows: int
    length: int
    supervised: int
    """Tokens under the loss."""


def traced(cell: Cell, device: str) -> Prediction:
    """The cell's peak from a symbolic step in a child process; about half a minute.

    What the device's allocator and process hold beside tensors is not in it.
    """
    kind: Literal["cuda", "host"] = "cuda" if device == "cuda" else "host"
    try:
        footprint, setting = footprint_of(cell), setting_of(cell, device)
        if footprint.bits is not None:
            raise NotPredicted("a quantised base cannot be traced")
        if footprint.optimizer in EIGHT_BITS:
            raise NotPredicted("an optimizer with moments in 8 bits cannot be traced")
        config = config_of(cell.model)
    except NotPredicted as why:
        return Prediction(None, {}, kind, "not traced", why_not=str(why))
    batch = setting.batch
    request: _Request = {
        "method": cell.method,
        "options": dict(cell.options),
        "config": config,
        "precision": cell.budget.precision,
        "device": device,
        "rows": batch.rows if not footprint.packing else 1,
        "length": batch.length if not footprint.packing else batch.tokens,
        "supervised": batch.supervised,
    }
    by_category: dict[str, int] = answered(
        "harness.planning.memory.trace", json.dumps(request).encode(), "the trace printed nothing"
    )
    total = sum(by_category.values())
    return Prediction(total, by_category, kind, f"trace; {batch.source}", batch=batch)


def main() -> None:
    """Answer the request on standard input."""
    request: _Request = json.loads(sys.stdin.read())
    layers = int(request["config"]["num_hidden_layers"])
    depths = [d for d in DEPTHS if d <= layers] or [layers]
    runs = {depth: _peak(request, depth) for depth in depths}
    print(json.dumps(_extended(runs, layers)))


def _extended(runs: Mapping[int, Mapping[str, int]], layers: int) -> dict[str, int]:
    """The peak at `layers`, along the line through two depths."""
    low, high = min(runs), max(runs)
    if low == high:
        return dict(runs[low])
    share = (layers - low) / (high - low)
    return {k: round(v + share * (runs[high][k] - v)) for k, v in runs[low].items()}


def _peak(request: _Request, layers: int) -> dict[str, int]:
    """Bytes by category at the peak of a step that is not the first."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    # built outside the mode: peft moves and casts parameters, which fake ones do not allow
    model, settings = _model(request, layers)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _faked(model, request["device"], settings.trains == "all")
        optimizer = _optimizer(model, request["device"], settings.optimizer)
        weights = _bytes([*model.parameters(), *model.buffers()])
        live = _live(model)
        with live:
            for _ in range(2):
                _loss(model, request).backward()
                optimizer.step()
                optimizer.zero_grad()
    states = _bytes(t for state in optimizer.state.values() for t in state.values())
    made = live.peak - states - live.gradients
    parts = {"weights": weights, "gradients": live.gradients, "optimizer": states}
    return {**parts, "activations": made}


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({id(t.untyped_storage()): t.untyped_storage().nbytes() for t in tensors}.values())


def _live(model: nn.Module) -> Any:
    """A mode that counts the bytes of storages made under it, and of gradients at their peak.

    torch's own MemTracker agrees with it, but takes no frozen parameters and is many times slower.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.weak import WeakIdKeyDictionary

    class Live(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.now = self.peak = self.gradients = 0
            self.sizes = WeakIdKeyDictionary()

        def __torch_dispatch__(
            self,
            func: Callable[..., object],
            types: Sequence[type],
            args: tuple[object, ...] = (),
            kwargs: Mapping[str, object] | None = None,
        ) -> object:
            out = func(*args, **(kwargs or {}))
            given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if _tensor(t)}
            for tensor in tree_leaves(out):
                if _tensor(tensor) and id(tensor.untyped_storage()) not in given:
                    self.add(tensor.untyped_storage())
            return out

        def add(self, storage: UntypedStorage) -> None:
            if storage in self.sizes:
                return
            size = storage.nbytes()
            self.sizes[storage] = size
            weakref.finalize(storage, self.drop, size)
            self.now += size
            if self.now > self.peak:
                self.peak = self.now
                held = [p.grad for p in model.parameters() if p.grad is not None]
                self.gradients = sum(grad.untyped_storage().nbytes() for grad in held)

        def drop(self, size: int) -> None:
            self.now -= size

    def _tensor(value: object) -> bool:
        return isinstance(value, torch.Tensor)

    return Live()


def _model(request: _Request, layers: int) -> tuple[Any, Any]:
    """The model with its adapter, as the recipe prepares it, and the method's footprint."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from harness.manager import plugins
    from harness.models.language_model import torch_dtype

    method = plugins().methods.get(request["method"])
    settings = method.footprint(method.Options.model_validate(request["options"]))
    fields = {**request["config"], "num_hidden_layers": layers}
    if isinstance(fields.get("layer_types"), list):
        fields["layer_types"] = fields["layer_types"][:layers]
    config = AutoConfig.for_model(**fields)
    whole = settings.trains == "all"
    dtype = torch_dtype(settings.weights if whole else request["precision"])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if not whole:
        if settings.peft is None:
            raise SystemExit(f"the method '{request['method']}' names no peft configuration")
        from peft import get_peft_model

        model = get_peft_model(model, settings.peft())
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if not whole:
            model.enable_input_require_grads()
    return model.train(), settings


def _faked(model: Any, device: str, whole: bool) -> None:
    """Put fake tensors of `device` in the place of meta ones; adapters are float32."""
    import torch

    made: dict[int, Any] = {}
    for module in model.modules():
        for name, old in list(module._parameters.items()):
            if old is None:
                continue
            if id(old) not in made:
                dtype = torch.float32 if old.requires_grad and not whole else old.dtype
                new = torch.empty(old.shape, dtype=dtype, device=device)
                made[id(old)] = torch.nn.Parameter(new) if old.requires_grad else new
            if old.requires_grad:
                module._parameters[name] = made[id(old)]
            else:
                del module._parameters[name]
                module.register_buffer(name, made[id(old)])
        for name, old in list(module._buffers.items()):
            if old is not None and old.device.type == "meta":
                module._buffers[name] = torch.empty(old.shape, dtype=old.dtype, device=device)
        for name, old in list(vars(module).items()):
            if isinstance(old, torch.Tensor) and old.device.type == "meta":
                setattr(module, name, torch.empty(old.shape, dtype=old.dtype, device=device))


def _optimizer(model: nn.Module, device: str, name: str) -> Optimizer:
    import torch

    trained = [p for p in model.parameters() if p.requires_grad]
    fused = name == "adamw_torch_fused"
    # fake tensors have no device, so torch cannot choose as it does on a real one
    foreach = device == "cuda" and not fused
    rounded = any(p.dtype == torch.bfloat16 for p in trained)
    kind = keeping_rests(torch.optim.AdamW) if rounded else torch.optim.AdamW
    return kind(trained, foreach=foreach, fused=fused)  # type: ignore[call-arg]


def _loss(model: Any, request: _Request) -> Tensor:
    """The recipe's loss: the body, then TRL's fused head on the trained positions alone."""
    import torch
    from trl.trainer import utils

    from harness.models.language_model import torch_dtype

    device, count = request["device"], request["supervised"]
    dtype = torch_dtype(request["precision"])
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    ids = torch.zeros(request["rows"], request["length"], dtype=torch.long, device=device)
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        hidden = inner.base_model(input_ids=ids, use_cache=False).last_hidden_state
        scored = hidden.reshape(-1, hidden.size(-1))[:count]
        log_probabilities = utils._ChunkedLogProbFunction.apply(
            scored,
            inner.get_output_embeddings().weight,
            None,
            torch.zeros(count, dtype=torch.long, device=device),
            1.0,
            utils._CHUNKED_LOGPROB_CHUNK_SIZE,
        )[0]
        return -log_probabilities.sum() / count


if __name__ == "__main__":
    main()
