"""Peak memory of a training step in closed form: counts of what autograd keeps in a decoder layer.

Counted from the forward pass of transformers' Llama layout under torch's autograd; the symbolic
trace (`trace.py`) and measured runs hold the counts
(tests/planning/test_memory.py, results/reference).
The peak is the largest of three moments: the end of the forward pass, the end of the backward
pass, and the optimizer's step.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.api.footprint import Footprint
from harness.models.shapes import Linear, NotPredicted, Shapes
from harness.planning.memory.batches import Batch
from harness.training.bf16_weights import PART

HEAD_TILE = 32768
"""Columns of the vocabulary that TRL's fused head scores at once."""
HEAD_ROWS = 4096
"""Positions that it scores at once."""
HEAD_COPIES = {"cuda": 1, "cpu": 6}
"""Tiles alive at once in its backward pass: Triton works in place, the torch fallback does not."""
FLOAT32_STATE = 8
"""Bytes of AdamW's two moments in float32."""
SMALL_TENSOR = 4096
"""Numbers of a tensor below which an 8-bit optimizer keeps float32."""
BLOCK, OUTER_BLOCK = 64, 256
"""Weights of a quantisation block, and constants of a block of double quantisation."""
PROCESS_BYTES = 555 * 2**20
"""Resident memory of a CPU worker before its first step, weights apart: the interpreter, torch,
transformers, trl, the tokenizer. Measured with torch 2.13 without CUDA: 554 MiB."""
HEAP_SHARE = {"all": 0.38, "adapter": 0.95}
"""What the C library's heap holds beyond live activations, as a share of them. Batches of other
lengths leave holes that the next does not fit into; optimizer state that comes after the first
step fills them where all weights are trained. Measured with glibc on two sizes of batch: 0.23 and
0.47 where all weights are trained, 0.88 and 1.02 for an adapter. With every block returned at once
(MALLOC_MMAP_THRESHOLD_=65536) there is none, and steps are slower."""


@dataclass(frozen=True)
class Setting:
    """The inputs of the formula."""

    shapes: Shapes
    footprint: Footprint
    batch: Batch
    precision: str
    device: str
    accumulates: bool
    """Whether gradients of an earlier micro-batch are there already."""

    @property
    def compute(self) -> int:
        """Bytes of a number in the arithmetic."""
        return 4 if self.precision == "float32" else 2

    @property
    def masked(self) -> bool:
        """Whether attention has a mask tensor: not on CUDA, where padding changes nothing."""
        return self.batch.padded and self.device == "cpu"

    @property
    def trains_all(self) -> bool:
        """Whether every weight is trained."""
        return self.footprint.trains == "all"

    @property
    def stream(self) -> int:
        """Bytes of a number of the residual stream, which has the embedding's type."""
        return self.trained if self.trains_all else self.compute

    @property
    def trained(self) -> int:
        """Bytes of a trained weight, and of its gradient."""
        return 2 if self.trains_all and self.footprint.weights == "bf16" else 4

    @property
    def targets(self) -> list[Linear]:
        """The layers of one decoder layer that have an adapter."""
        return [] if self.trains_all else self.shapes.targeted(self.footprint.targets)


def adapter_parameters(shapes: Shapes, footprint: Footprint) -> int:
    """Numbers in the adapters of all layers."""
    if footprint.trains == "all":
        return 0
    return shapes.layers * sum(
        footprint.adapter(linear.inputs, linear.outputs)
        for linear in shapes.targeted(footprint.targets)
    )


def trained_parameters(shapes: Shapes, footprint: Footprint) -> int:
    """Numbers that have a gradient and optimizer state."""
    return shapes.parameters if footprint.trains == "all" else adapter_parameters(shapes, footprint)


def quantised_bytes(linear: Linear, footprint: Footprint) -> int:
    """A linear layer's matrix as bitsandbytes stores it: values, block constants, code book.

    Dettmers et al. 2023 (arXiv 2305.14314), section 3: blocks of 64 with a float32 constant each;
    doubly quantised, a byte each and a float32 for 256 of them. In 8 bits a float32 for each row.
    """
    if footprint.bits == 8:
        return linear.weights + 4 * linear.outputs
    if footprint.bits != 4:
        raise NotPredicted(f"no formula for {footprint.bits} bits")
    blocks = -(-linear.weights // BLOCK)
    values, code = -(-linear.weights // 2), 16 * 4
    if not footprint.double_quant:
        return values + 4 * blocks + code
    return values + blocks + 4 * -(-blocks // OUTER_BLOCK) + 256 * 4 + 4 + code


def peak(setting: Setting) -> dict[str, int]:
    """Bytes by category at the moment of the peak; their sum is the peak."""
    held = _held(setting)
    trained = trained_parameters(setting.shapes, setting.footprint)
    layers = _kept_by_layers(setting)
    one_layer = _kept_by_layer(setting, checkpointed=False)
    gradients, buffers = setting.trained * trained, _dequantisation(setting)
    heap = _heap(setting, layers)
    cast = _cast_copies(setting)
    moments = (
        {
            "activations": layers
            + max(
                _head(setting),
                _turned(setting) + (one_layer if _checkpointed(setting) else 0),
                _scratch(setting),
            ),
            "gradients": gradients if setting.accumulates else _head_gradient(setting),
            "cast weights": cast,
            "dequantisation": buffers,
        },
        {
            "activations": one_layer
            + max(_turned(setting), _scratch(setting) if _checkpointed(setting) else 0),
            "gradients": gradients,
            "cast weights": cast,
            "dequantisation": buffers,
        },
        {"gradients": gradients, "optimizer step": _step(setting)},
    )
    largest = max(moments, key=lambda moment: sum(moment.values()))
    return {k: v for k, v in {**held, **largest, "heap": heap}.items() if v}


def optimizer_bytes(shapes: Shapes, footprint: Footprint) -> int:
    """State of the optimizer. Raises NotPredicted for one that is not known.

    bitsandbytes' 8-bit ones keep the moments of embeddings (as transformers sets them up) and of
    tensors of less than 4,096 numbers in float32.
    """
    state = footprint.state_bytes()
    if state is None:
        raise NotPredicted(f"no formula for the optimizer '{footprint.optimizer}'")
    trained = trained_parameters(shapes, footprint)
    whole = 0
    if state < FLOAT32_STATE and footprint.trains == "all":
        norms = shapes.layers * shapes.norms + shapes.hidden
        whole = shapes.embedding + (norms if shapes.hidden < SMALL_TENSOR else 0)
    return round(state * (trained - whole) + FLOAT32_STATE * whole)


def floor(setting: Setting) -> int:
    """Bytes that no micro-batch makes less: weights, all gradients and the optimizer's state.

    A paged optimizer's state may lie in host memory.
    """
    held = _held(setting)
    paged = setting.footprint.optimizer.startswith("paged_")
    state = 0 if paged and setting.device == "cuda" else held["optimizer"]
    weights = held["weights"] + held["rounding"] + held["quantised base"]
    if setting.device == "cpu" and not setting.trains_all:
        weights = 0  # frozen weights are a mapped file, which the system may drop and read again
    gradients = setting.trained * trained_parameters(setting.shapes, setting.footprint)
    return weights + gradients + state


def _held(setting: Setting) -> dict[str, int]:
    """What is there from the second step on, whatever the moment."""
    shapes, footprint = setting.shapes, setting.footprint
    trained = trained_parameters(shapes, footprint)
    plain, quantised = shapes.parameters, 0
    if footprint.bits is not None:
        plain -= shapes.linear_weights
        quantised = shapes.layers * sum(
            quantised_bytes(linear, footprint) for linear in shapes.linears
        )
    frozen = 0 if setting.trains_all else trained
    return {
        "weights": plain * setting.stream + 4 * frozen,
        "rounding": 2 * trained if setting.trained == 2 else 0,
        "quantised base": quantised,
        "optimizer": optimizer_bytes(shapes, footprint),
        "process": PROCESS_BYTES if setting.device == "cpu" else 0,
        "load buffers": _load_buffers(setting),
    }


def _load_buffers(setting: Setting) -> int:
    """On the CPU the mapped weights file stays resident while a tensor still lies in it.

    What was quantised was read from it and counts a second time; trained and frozen weights are
    the mapping itself.
    """
    on_cpu, footprint = setting.device == "cpu", setting.footprint
    if not on_cpu or footprint.bits is None:
        return 0
    names = {"bf16": "bfloat16", "fp16": "float16"}
    same_type = setting.shapes.dtype == names.get(setting.precision, "float32")
    return setting.compute * setting.shapes.linear_weights if same_type else 0


def _checkpointed(setting: Setting) -> bool:
    return setting.footprint.gradient_checkpointing


def _kept_by_layers(setting: Setting) -> int:
    return setting.shapes.layers * _kept_by_layer(setting, checkpointed=_checkpointed(setting))


def _kept_by_layer(setting: Setting, *, checkpointed: bool) -> int:
    """Bytes that one decoder layer keeps for its backward pass."""
    shapes, batch, compute = setting.shapes, setting.batch, setting.compute
    if checkpointed:
        return batch.tokens * setting.stream * shapes.hidden
    queries, keys = shapes.attention, shapes.keys
    # with a mask torch's attention gets one key for each query, copied
    keys = queries if setting.masked else keys
    attention = compute * (2 * queries + 2 * keys) + 4 * shapes.heads
    feed_forward = 3 * compute * shapes.inner  # gate, its activation, up
    per_token = 2 * _kept_by_norm(setting) + attention + feed_forward + _kept_inputs(setting)
    mask = compute * batch.rows * batch.length**2 if setting.masked else 0
    return batch.tokens * per_token + mask


def _kept_by_norm(setting: Setting) -> int:
    """An RMSNorm's float32 input, its scale and, where its weight is trained, the normed input."""
    hidden = setting.shapes.hidden
    return 4 * hidden + 4 + (setting.stream * hidden if setting.trains_all else 0)


def _kept_inputs(setting: Setting) -> int:
    """Inputs of linear layers, beside what others keep already (attention's output).

    Layers that read one tensor keep it once in float32; autocast copies it for each of them.
    """
    shapes, compute = setting.shapes, setting.compute
    inputs = {"q_proj": "attention", "k_proj": "attention", "v_proj": "attention"}
    inputs |= {"gate_proj": "feed-forward", "up_proj": "feed-forward"}
    if setting.trains_all:
        # under float32 a norm's output is kept for all that read it; under autocast each casts it
        readers = 5 if compute < setting.stream else 2
        return compute * (readers * shapes.hidden + shapes.inner)
    keeps = sum(
        setting.footprint.keeps(linear.inputs, linear.outputs) for linear in setting.targets
    )
    if compute == 2:
        return compute * (sum(linear.inputs for linear in setting.targets) + keeps)
    kept = {inputs.get(linear.name, linear.name): linear.inputs for linear in setting.targets}
    kept.pop("o_proj", None)  # attention keeps its output already
    return compute * (sum(kept.values()) + keeps)


def _head(setting: Setting) -> int:
    """The fused head's tiles, and the float32 gradient of what it scores."""
    batch, shapes = setting.batch, setting.shapes
    rows, columns = min(batch.supervised, HEAD_ROWS), min(HEAD_TILE, shapes.vocabulary)
    on_cpu = setting.device == "cpu"
    tile = rows * columns * (4 if on_cpu else setting.compute)
    scored = batch.supervised * shapes.hidden * (4 + setting.stream)
    cast = setting.compute * columns * shapes.hidden if setting.compute < setting.stream else 0
    return HEAD_COPIES[setting.device] * tile + scored + cast


def _turned(setting: Setting) -> int:
    """Gradients of one layer's activations, alive at once while the feed-forward goes back."""
    shapes = setting.shapes
    return setting.batch.tokens * (2 * setting.compute * shapes.inner + 8 * shapes.hidden)


def _scratch(setting: Setting) -> int:
    """What the largest adapter holds during its own forward pass."""
    held = [setting.footprint.scratch(linear.inputs, linear.outputs) for linear in setting.targets]
    return 4 * max(held, default=0)


def _head_gradient(setting: Setting) -> int:
    """The head's float32 gradient is there before any layer has given back what it keeps."""
    return 4 * setting.shapes.embedding if setting.trains_all else 0


def _cast_copies(setting: Setting) -> int:
    """Autocast's copies of float32 weights, kept for the backward pass."""
    if setting.compute == 4 or (setting.trains_all and setting.stream == 2):
        return 0
    if setting.trains_all:
        return setting.compute * setting.shapes.linear_weights
    return setting.compute * adapter_parameters(setting.shapes, setting.footprint)


def _dequantisation(setting: Setting) -> int:
    """The largest quantised matrix, dequantised for one product."""
    if setting.footprint.bits is None:
        return 0
    return setting.compute * max(linear.weights for linear in setting.shapes.linears)


def _step(setting: Setting) -> int:
    """What AdamW's update holds for a while: of all weights at once on CUDA (foreach), where it
    is not fused; of the largest, twice, on the CPU. bf16 weights are float32 meanwhile, with their
    gradients, a part at a time, and the largest is split into bf16 and the rest.
    """
    trained = trained_parameters(setting.shapes, setting.footprint)
    part, converted = trained, 0
    if setting.trained == 2:
        widest = max(setting.shapes.embedding, *(x.weights for x in setting.shapes.linears))
        part = min(trained, max(PART, widest))
        converted = 8 * part + 10 * widest
    if setting.device == "cuda":
        return converted + (4 * part if setting.footprint.optimizer == "adamw_torch" else 0)
    adapters = [
        setting.footprint.adapter(linear.inputs, linear.outputs) for linear in setting.targets
    ]
    largest = setting.shapes.embedding if setting.trains_all else max(adapters, default=0)
    return converted + 2 * 4 * largest


def _heap(setting: Setting, layers: int) -> int:
    share = HEAP_SHARE[setting.footprint.trains]
    return round(share * layers) if setting.device == "cpu" else 0
