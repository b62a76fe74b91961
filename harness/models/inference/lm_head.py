"""A causal model as body and head: the head runs only at positions whose logits are needed.

What a family does between the last hidden state and its logits (a scale, a cap, a transform) is
the model's own code: its forward pass runs with the body left out. The head's matrix is multiplied
in float32, so that scales, caps and the log-softmax after it are float32 as well.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from harness.errors import is_out_of_memory
from harness.models.inference.blocked_weights import float32_product
from harness.models.inference.prefix_tree import Target
from harness.system.hardware import free_memory

if TYPE_CHECKING:
    import torch

    from harness.models.causal_lm import CausalLM

HEAD_ROWS = 512
"""Positions that pass the head at once: bounds rows x vocabulary in float32."""
HEAD_BLOCK = 2**14
"""Rows of the head's weight that are copied to float32 at once, where a copy is needed."""
_CHECKED_TOKENS = (5, 2, 9, 3, 7, 4)
"""Token ids on which body and head together are compared with the whole model."""
EXACT, COARSE = 1e-3, 0.05
"""The largest difference of logits, as a share of the largest, in float32 and below it."""


class Head:
    """Collects log-probabilities; `scores[request][index]` is (log-probability, was the best).

    A log-probability that is not finite is NaN, a missing value, and never the best.
    """

    def __init__(self, model: CausalLM, rows: int = HEAD_ROWS) -> None:
        self.inner = unwrapped(model)
        self.body = body_name(model)
        self.scores: dict[int, dict[int, tuple[float, bool]]] = {}
        self.rows = rows
        """Positions at once; fewer once their logits did not fit."""

    def collect(self, hidden: torch.Tensor, wanted: Sequence[tuple[int, Target]]) -> None:
        """Score the targets at rows of `hidden` (positions, hidden size).

        Logits that do not fit in memory are computed in halves. Raises what reports that memory ran
        out where those of one position do not fit.
        """
        targets: dict[int, list[Target]] = {}
        for row, target in wanted:
            targets.setdefault(row, []).append(target)
        rows = sorted(targets)
        before, start = self.rows, 0
        while start < len(rows):
            part = rows[start : start + self.rows]
            try:
                self._score(hidden[part], [targets[row] for row in part])
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:  # the pass is what is too large
                    self.rows = before
                    raise
                self.rows = len(part) // 2
            else:
                start += len(part)
                continue
            free_memory()

    def _score(self, states: torch.Tensor, targets: Sequence[Sequence[Target]]) -> None:
        """Score the targets of each position of `states`."""
        logprobs = self.logits(states).log_softmax(dim=-1)
        best = logprobs.argmax(dim=-1)
        pairs = [(i, target) for i, of_row in enumerate(targets) for target in of_row]
        values = logprobs[[i for i, _ in pairs], [target.token for _, target in pairs]].tolist()
        most_likely = best[[i for i, _ in pairs]].tolist()
        for (_, target), value, winner in zip(pairs, values, most_likely, strict=True):
            finite = math.isfinite(value)
            score = (value, winner == target.token) if finite else (math.nan, False)
            self.scores.setdefault(target.request, {})[target.index] = score

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(positions, vocabulary) float32 logits from what `states` of a pass gave."""
        if self.body is None:
            return states.float()
        return _head_logits(self.inner, self.body, states)


def unwrapped(model: CausalLM) -> CausalLM:
    """The causal LM inside an adapter's wrapper, whose layers live inside it and stay in force."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def states(model: CausalLM, **inputs: object) -> torch.Tensor:
    """(rows, tokens, width) from a model's body, or from the whole model where it has no body.

    In the latter case they are logits already, which `Head.logits` knows. Keywords that a family's
    forward pass does not take are left out, but for `position_ids`.
    """
    inner = unwrapped(model)
    name = body_name(model)
    part = model if name is None else inner.get_submodule(name)
    out = part(**_accepted(part, inputs))
    return out.logits if name is None else out[0]


def _accepted(
    module: CausalLM | torch.nn.Module, inputs: Mapping[str, object]
) -> dict[str, object]:
    """The keywords that a module's forward pass takes; `position_ids` stay in any case."""
    parameters = inspect.signature(module.forward).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(inputs)
    return {key: inputs[key] for key in inputs if key in parameters or key == "position_ids"}


_bodies: WeakKeyDictionary[CausalLM, str | None] = WeakKeyDictionary()


def body_name(model: CausalLM) -> str | None:
    """The submodule whose last hidden states the model's head makes logits of, by its dotted name.

    Found by trying on a few tokens, once per model; None where no part is such a body, and then
    the whole model has to run.
    """
    inner = unwrapped(model)
    if inner not in _bodies:
        _bodies[inner] = next((n for n in _candidates(inner) if _is_body(inner, n)), None)
    return _bodies[inner]


def _candidates(inner: CausalLM) -> list[str]:
    """Names of the submodules that transformers takes for the model without its head."""
    modules = [getattr(inner, inner.base_model_prefix, None), inner.get_decoder()]
    names = {id(module): name for name, module in inner.named_modules() if name}
    return list(dict.fromkeys(names[id(m)] for m in modules if id(m) in names))


def _is_body(inner: CausalLM, name: str) -> bool:
    """Whether body and head together give the logits of the whole model."""
    import torch

    size = int(inner.get_input_embeddings().weight.shape[0])
    ids = torch.tensor([[token % size for token in _CHECKED_TOKENS]], device=inner.device)
    body = inner.get_submodule(name)
    try:
        with torch.inference_mode():
            expected = inner(**_accepted(inner, {"input_ids": ids, "use_cache": False})).logits[0]
            hidden = body(**_accepted(body, {"input_ids": ids, "use_cache": False}))[0][0]
            logits = _head_logits(inner, name, hidden)
    except Exception as error:  # whatever an unknown architecture raises
        if is_out_of_memory(error):
            raise
        return False
    if logits.shape != expected.shape:
        return False
    share = EXACT if inner.dtype == torch.float32 else COARSE
    # logits that are not finite are not compared; their scores are reported as missing elsewhere
    finite = expected.isfinite() & logits.isfinite()
    differences = (logits - expected.float())[finite].abs()
    scale = expected.float()[finite].abs()
    return not differences.numel() or float(differences.max()) <= share * max(
        1.0, float(scale.max())
    )


def _head_logits(inner: CausalLM, name: str, hidden: torch.Tensor) -> torch.Tensor:
    """(positions, vocabulary) float32 logits of (positions, width) hidden states."""
    import torch

    ids = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
    with _body_returns(inner, name, hidden[None]), _in_float32(inner.get_output_embeddings()):
        out = inner(**_accepted(inner, {"input_ids": ids, "use_cache": False}))
    return out.logits[0].float()


class _States:
    """What the body returned, for a forward pass that asks for no more than the last states."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int | slice) -> object:
        """Of the tuple that a model's output also is."""
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        return None


class _Body:
    """Stands for a body that has run already: called, it returns its states.

    Of a class of its own for each pass the states would live until the next garbage collection.
    """

    def __init__(self, body: torch.nn.Module, hidden: torch.Tensor) -> None:
        self.body, self.hidden = body, hidden

    def forward(self, *args: object, **kwargs: object) -> _States:
        return _States(self.hidden)

    __call__ = forward

    def __getattr__(self, name: str) -> Any:
        return getattr(self.body, name)  # such as its embedding


@contextmanager
def _body_returns(inner: CausalLM, name: str, hidden: torch.Tensor) -> Iterator[None]:
    """Within it the submodule `name` of `inner` computes nothing and returns `hidden`."""
    parent_name, _, child_name = name.rpartition(".")
    modules: dict[str, Any] = inner.get_submodule(parent_name)._modules
    body = modules[child_name]
    modules[child_name] = _Body(body, hidden)
    try:
        yield
    finally:
        modules[child_name] = body


@contextmanager
def _in_float32(head: torch.nn.Module | None) -> Iterator[None]:
    """Within it a plain head is multiplied in float32.

    Another module, such as a head with an adapter, runs as it is, so that what it adds stays in
    force.
    """
    import torch

    if type(head) is not torch.nn.Linear or head.weight.dtype == torch.float32:
        yield
        return

    blocked = float32_product(head)

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        if blocked is not None:
            return blocked(hidden.float())
        product = _float32_product(hidden, head.weight)
        return product if head.bias is None else product + head.bias.float()

    before: Callable[..., object] | None = head.__dict__.get("forward")
    head.__dict__["forward"] = forward
    try:
        yield
    finally:
        del head.__dict__["forward"]
        if before is not None:
            head.__dict__["forward"] = before


def _float32_product(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(..., rows) float32 of (..., width) and (rows, width); on CUDA without a copy of `weight`."""
    import torch

    linear = torch.nn.functional.linear
    if weight.device.type != "cuda":
        return linear(hidden.float(), weight.float())
    if hidden.dtype == weight.dtype:  # 16 bits: products of two are exact in float32
        flat = hidden.reshape(-1, hidden.shape[-1])
        product = torch.mm(flat, weight.t(), out_dtype=torch.float32)
        return product.view(*hidden.shape[:-1], -1)
    blocks = weight.split(HEAD_BLOCK)
    return torch.cat([linear(hidden.float(), block.float()) for block in blocks], dim=-1)
