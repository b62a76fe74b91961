"""Memory and speed of training, scoring and generation on one GPU.

    python benchmarks/gpu.py [--parts training,inference] [--sizes 1B,3B,7B] [--lengths 512,2048]
        [--steps 4] [--to FILE]

Training is held against its prediction and against bare peft; scoring against lm-eval and
generation against transformers (gpu_inference.py).

Random-weight Llamas are built on the device: nothing is downloaded and no weights are written.
Every case goes through the harness's own recipe (`train_sft`) with two things replaced: the weights
come from a generator instead of a folder, and nothing is saved. Prints, and writes to --to with the
machine's description: peak allocated and reserved memory by phase, tokens a second, predicted
against measured memory, and the same step in bare peft + torch. Meant for less than 8 minutes on
one GPU of 80 GB; a case that is predicted not to fit is left out and said to be.

Without a GPU it runs tiny shapes on the CPU, to show that it works. Those figures claim nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import gpu_inference

from harness.errors import is_out_of_memory
from harness.manager import plugins
from harness.models.shapes import Shapes, shapes_of
from harness.planning.memory.batches import Batch
from harness.planning.memory.formula import Setting, peak
from harness.results import store
from harness.system.child_process import one_gpu, quiet_libraries
from harness.system.environment import environment
from harness.system.hardware import facts, free_memory
from harness.system.measure import Meter, StepClock
from harness.types import Artifact, Budget, Job, ModelRef, Precision, Row

METHODS = ("full", "lora", "qlora", "dora")
"""Those that are registered are run."""
ROWS = 2
"""Of a batch."""
SIZES = {
    "1B": (2048, 5632, 22, 32, 4),
    "3B": (3072, 8192, 28, 24, 8),
    "7B": (4096, 11008, 32, 32, 32),
    "tiny": (64, 176, 2, 4, 2),
}
"""Hidden, inner, layers, heads and key heads; those of well-known models of about that size."""


@dataclass(frozen=True)
class Case:
    """One method on one model and length."""

    size: str
    method: str
    length: int
    steps: int
    precision: str

    @property
    def label(self) -> str:
        """As it is printed."""
        return f"{self.size} {self.method} {ROWS}x{self.length} {self.precision}"


def config_of(size: str) -> Any:
    from transformers import LlamaConfig

    hidden, inner, layers, heads, keys = SIZES[size]
    return LlamaConfig(
        vocab_size=32000 if size != "tiny" else 512,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        max_position_embeddings=4096,
    )


def shapes(size: str) -> Shapes:
    return shapes_of(config_of(size).to_dict())


# ---- models --------------------------------------------------------------------------------------


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def random_weights(size: str, dtype: str, quantization: Mapping[str, Any] | None) -> Any:
    """A model on the device, its linear layers in 4 bits where `quantization` says so."""
    import torch
    from transformers import AutoModelForCausalLM

    from harness.models.language_model import torch_dtype

    torch.manual_seed(0)
    with torch.device(device()):
        model = AutoModelForCausalLM.from_config(config_of(size), dtype=torch_dtype(dtype))
    if quantization is not None:
        _quantise(model, quantization)
    return model


def _quantise(model: Any, told: Mapping[str, Any]) -> None:
    """What transformers does while it loads, layer by layer, on weights that are there already."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    from harness.models.language_model import torch_dtype

    for parent in list(model.model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is not torch.nn.Linear:
                continue
            packed = Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=False,
                compute_dtype=torch_dtype(told["bnb_4bit_compute_dtype"]),
                compress_statistics=told["bnb_4bit_use_double_quant"],
                quant_type=told["bnb_4bit_quant_type"],
                device="meta",
            )
            packed.weight = Params4bit(
                layer.weight.data.cpu() if device() == "cpu" else layer.weight.data,
                requires_grad=False,
                compress_statistics=told["bnb_4bit_use_double_quant"],
                quant_type=told["bnb_4bit_quant_type"],
                module=packed,
            ).to(device())
            setattr(parent, name, packed)
    model.is_loaded_in_4bit = True
    free_memory()


@contextmanager
def own_weights(size: str, tokenizer: Any) -> Iterator[None]:
    """Have the recipe build its model instead of loading it, and save nothing."""
    from harness.training import sft

    def load(artifact: Artifact) -> tuple[Any, Any]:
        return random_weights(size, artifact.precision, artifact.quantization), tokenizer

    kept = sft._load, sft._save
    sft._load = load
    sft._save = lambda job, trainer, tokenizer, base, initial, adapter: base
    try:
        yield
    finally:
        sft._load, sft._save = kept


# ---- a case --------------------------------------------------------------------------------------


def predicted(case: Case) -> dict[str, int]:
    """Bytes by category, of tensors alone."""
    method = plugins().methods.get(case.method)
    setting = Setting(
        shapes(case.size),
        method.footprint(method.Options()),
        Batch(ROWS, case.length, ROWS * case.length, ROWS * (case.length - 1), False, ""),
        case.precision,
        device(),
        accumulates=False,
    )
    return {k: v for k, v in peak(setting).items() if k not in ("process", "heap", "load buffers")}


def harness_step(case: Case, tokenizer: Any) -> dict[str, Any]:
    """The case through the harness's recipe: phases and tokens a second."""
    method, meter = plugins().methods.get(case.method), Meter()
    # a byte is a token, and the end of the row is one too
    text = "a" * (case.length - 1)
    with tempfile.TemporaryDirectory() as folder, own_weights(case.size, tokenizer):
        job = Job(
            model=ModelRef(case.size, folder),
            options=method.Options(),
            budget=Budget(case.steps, ROWS, case.length, case.precision),
            seed=0,
            train=[Row(str(i), text=text) for i in range(case.steps * ROWS)],
            validation=[],
            folder=Path(folder),
            chat_template=None,
            loss="all",
            phase=meter.phase,
            report=lambda **event: None,
        )
        with redirect_stdout(sys.stderr):  # what TRL prints
            method.train(job)
    free_memory()
    return {
        "phases": meter.phases,
        "tokens_per_second": job.notes["tokens_per_second"],
        "trainable_parameters": job.notes["trainable_parameters"],
    }


def bare_step(case: Case) -> dict[str, Any]:
    """The same step as a user of peft and torch writes it: full logits and a plain loop."""
    import torch

    method = plugins().methods.get(case.method)
    options, meter, clock = method.Options(), Meter(), StepClock()
    footprint = method.footprint(options)
    whole = footprint.trains == "all"
    quantization = options.quantization(case.precision) if footprint.bits else None
    with meter.phase("load"):
        weights = "float32" if whole else case.precision
        model = random_weights(case.size, weights, quantization)
        if not whole:
            from peft import get_peft_model

            model = get_peft_model(model, footprint.peft())
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.lr)
    ids = torch.full((ROWS, case.length), 5, device=device())
    with meter.phase("train"):
        model.train()
        for _ in range(case.steps):
            clock.begin()
            with torch.autocast(device(), torch.bfloat16, enabled=case.precision == "bf16"):
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, options.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            clock.end()
    later = clock.seconds[1:]
    del model, optimizer, trained, loss
    free_memory()
    return {
        "phases": meter.phases,
        "tokens_per_second": ROWS * case.length * len(later) / sum(later),
    }


def run(case: Case, tokenizer: Any, memory: int | None) -> dict[str, Any]:
    """A case's figures; `left_out` or `oom` where there are none."""
    parts = predicted(case)
    told: dict[str, Any] = {**asdict(case), "rows": ROWS, "predicted": parts}
    told["predicted_bytes"] = sum(parts.values())
    if memory is not None and told["predicted_bytes"] > memory:
        told["left_out"] = "predicted not to fit"
        return told
    for side, work in (
        ("harness", lambda: harness_step(case, tokenizer)),
        ("bare", lambda: bare_step(case)),
    ):
        try:
            told[side] = work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            told[side] = {"oom": str(error).splitlines()[0][:200]}
            error.__traceback__ = None
        free_memory()
    _compare(told)
    return told


def _compare(told: dict[str, Any]) -> None:
    """Ratios: of prediction to measurement (on a GPU), and of the harness to the bare step."""
    ours, bare = told["harness"], told["bare"]
    measured = _allocated(ours)
    told["predicted_by_measured"] = told["predicted_bytes"] / measured if measured else None
    if "oom" in ours or "oom" in bare:
        return
    told["speed_ratio"] = ours["tokens_per_second"] / bare["tokens_per_second"]
    other = _allocated(bare)
    told["memory_ratio"] = measured / other if measured and other else None


def _allocated(side: Mapping[str, Any]) -> int | None:
    found: int | None = side.get("phases", {}).get("train", {}).get("peak_allocated_bytes")
    return found


def line(case: Case, told: Mapping[str, Any]) -> str:
    """A case as one line."""
    if "left_out" in told:
        return f"{case.label}: left out, {told['predicted_bytes'] / 2**30:.1f} GiB predicted"
    ours = told["harness"]
    if "oom" in ours:
        return f"{case.label}: out of memory, {told['predicted_bytes'] / 2**30:.1f} GiB predicted"
    measured = _allocated(ours)
    peak_text = (
        f"{measured / 2**30:.2f} GiB, predicted {told['predicted_bytes'] / 2**30:.2f} "
        f"({told['predicted_by_measured']:.2f})"
        if measured
        else f"no GPU, {told['predicted_bytes'] / 2**20:.1f} MiB of tensors predicted"
    )
    against = f", {told['speed_ratio']:.2f} times bare" if "speed_ratio" in told else ", bare: oom"
    return f"{case.label}: {peak_text}; {ours['tokens_per_second']:.0f} tokens/s{against}"


def main() -> None:
    """All cases in one process; what a case held is freed before the next."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="training,inference")
    parser.add_argument("--sizes", default="1B,3B,7B")
    parser.add_argument("--lengths", default="512,2048")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--to", type=Path, help="a JSON file")
    asked = parser.parse_args()
    one_gpu()
    quiet_libraries()
    from harness.models.tiny import _tokenizer

    gpu = device() == "cuda"
    sizes = asked.sizes.split(",") if gpu else ["tiny"]
    lengths = [int(n) for n in asked.lengths.split(",")] if gpu else [32, 64]
    methods = [m for m in asked.methods.split(",") if m in plugins().methods.things]
    memory = facts().gpus[0].memory_bytes if gpu else None
    precision: Precision = "bf16" if gpu else "float32"
    parts = asked.parts.split(",")
    told: dict[str, Any] = {"environment": environment(), "claims": gpu, "cases": []}
    told["inference"] = []
    if not gpu:
        print("no GPU: tiny shapes on the CPU, to show that it works; the figures claim nothing")
    meter = Meter()
    with meter.phase("all"):
        for size in sizes:
            if "training" in parts:
                for method in methods:
                    for length in lengths:
                        case = Case(size, method, length, asked.steps, precision)
                        told["cases"].append(run(case, _tokenizer(), memory))
                        print(line(case, told["cases"][-1]), flush=True)
            if "inference" in parts:
                model = random_weights(size, precision, None)
                told["inference"].append(
                    gpu_inference.measure(model, _tokenizer(), size, precision)
                )
                del model
                free_memory()
                print(*gpu_inference.lines(told["inference"][-1]), sep="\n", flush=True)
            if asked.to:
                store.write_json(asked.to, told)
    told["seconds"] = meter.phases["all"]["seconds"]
    if asked.to:
        store.write_json(asked.to, told)
    print(json.dumps({"seconds": round(told["seconds"], 1), "gpu": told["environment"]["gpu"]}))


if __name__ == "__main__":
    main()
