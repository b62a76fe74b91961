"""The state of TRL's trainer in a checkpoint's folder, and back: to the bit on a CPU.

The trained weights and every buffer are a safetensors file per few GB, by their names in the
model, in their own types: what transformers saves of a model is renamed and rounded, and what peft
saves leaves out what it can make again. Optimizer, schedule, loss scaling and random states are
the trainer's own files (`torch.save`); it opens them with `weights_only=True`, in transformers 5
wherever it loads any, and after their checksums were compared here. The rows' order is the plan's,
so their position is the step.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainerState

    from harness.models.causal_lm import CausalLM
    from harness.training.trainer import Trainer

PART = 2**31
"""Bytes of weights in a file, if no tensor has more: what they take of host memory at once."""
_WEIGHTS = "weights-{:05d}.safetensors"
_STATE = "trainer_state.json"
_BEST = "best"
_PICKLED = "training_args.bin"
"""In a checkpoint of the trainer's own; nothing here reads it."""


def save(trainer: Trainer, folder: Path) -> None:
    """Write everything that the next step depends on into an empty folder."""
    from safetensors.torch import save_file

    for number, part in enumerate(_parts(_changing(_model(trainer)))):
        save_file(_apart(part), folder / _WEIGHTS.format(number))
    trainer._save_optimizer_and_scheduler(str(folder))
    trainer._save_scaler(str(folder))
    trainer._save_rng_state(str(folder))
    trainer.state.save_to_json(str(folder / _STATE))
    best = trainer.state.best_model_checkpoint
    if best is not None:
        shutil.copytree(
            best, folder / _BEST, copy_function=_link, ignore=shutil.ignore_patterns(_PICKLED)
        )


def load_weights(trainer: Trainer, folder: Path) -> None:
    """Give the trainer's model the weights and buffers of a checkpoint.

    Raises HarnessError where they are not those of this model.
    """
    import torch
    from safetensors import safe_open

    present = dict(_changing(_model(trainer)))
    missing = set(present)
    for file in sorted(folder.glob(_WEIGHTS.format(0).replace("00000", "*"))):
        with safe_open(file, framework="pt", device="cpu") as stored, torch.no_grad():
            for name in stored.keys():  # noqa: SIM118 - no mapping
                own, value = present.get(name), stored.get_tensor(name)
                if own is None or own.shape != value.shape or own.dtype != value.dtype:
                    raise HarnessError(f"the checkpoint has other weights: {name}")
                own.data.copy_(value)
                missing.discard(name)
    if missing:
        raise HarnessError(f"the checkpoint lacks weights: {min(missing)}")


def page_again(optimizer: Any) -> None:
    """Move the moments of a paged optimizer of bitsandbytes, just loaded, back to paged memory.

    It loads them as plain tensors of the GPU, whose memory may be too short for them.
    """
    if not getattr(optimizer, "is_paged", False):
        return
    for parameter, state in optimizer.state.items():
        for name in {"state1", "state2"} & set(state):
            paged = optimizer.get_state_buffer(parameter, dtype=state[name].dtype)
            state[name] = paged.copy_(state[name])


def bring_best(trainer: Trainer, folder: Path) -> None:
    """Put the weights of the best validation loss where the trainer keeps them."""
    if (folder / _BEST).is_dir():
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        place = _best(Path(str(trainer.args.output_dir)), state["best_global_step"])
        shutil.copytree(folder / _BEST, place, copy_function=_link)


def name_best(output: Path, state: TrainerState) -> None:
    """Name the best weights in a state that was loaded: it has the path of another process."""
    if state.best_global_step and (place := _best(output, state.best_global_step)).is_dir():
        state.best_model_checkpoint = str(place)


def start_hash(trainer: Trainer, initial: Path | None) -> str | None:
    """sha256 of what an adapter that takes from its base started from; None for any other.

    `initial` is the folder of the adapter before its training. What is frozen is in no checkpoint;
    here the base is the rest of a decomposition, which another processor may round differently.
    """
    if initial is None:
        return None
    found = hashlib.sha256()
    for file in sorted(initial.glob("*.safetensors")):
        found.update(file.read_bytes())
    for name, tensor in _model(trainer).named_parameters():
        found.update(name.encode())
        found.update(_bytes(tensor))
    return found.hexdigest()


def _model(trainer: Trainer) -> CausalLM:
    return trainer.accelerator.unwrap_model(trainer.model)


def _changing(model: CausalLM) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of all that training changes: the trained weights, and buffers."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter
    yield from model.named_buffers()


def _parts(named: Iterator[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Tensors in parts of at most PART bytes, or of one tensor."""
    part: dict[str, Tensor] = {}
    for name, tensor in named:
        if part and sum(t.nbytes for t in part.values()) + tensor.nbytes > PART:
            yield part
            part = {}
        part[name] = tensor
    yield part


def _apart(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each in memory of its own, as safetensors wants them."""
    apart: dict[str, Tensor] = {}
    taken = set()
    for name, tensor in part.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in taken or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        taken.add(plain.untyped_storage().data_ptr())
        apart[name] = plain
    return apart


def _bytes(tensor: Tensor) -> Any:
    import torch

    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def _best(output: Path, step: int) -> Path:
    return output / f"checkpoint-{step}"


def _link(source: str, target: str) -> None:
    """The trainer deletes such files and writes into none: a second name is enough."""
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
