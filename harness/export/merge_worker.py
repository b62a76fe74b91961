"""The child that fills the folder of an export.

`python -m harness.export.merge_worker` reads a Task from its standard input.

A merge adds the adapter, in float32, to the weights that it was trained on, saves them, opens the
result and compares the answers of both models.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.data.tokenization import end_tokens
from harness.errors import HarnessError, UserError, is_out_of_memory
from harness.manager import plugins
from harness.models import adapters, equivalence
from harness.models.language_model import (
    LanguageModel,
    opened_where_there_is_room,
    parameter_count,
)
from harness.models.model_files import make_portable
from harness.results import store
from harness.results.artifact_hash import LEFT_OUT
from harness.system import child_process
from harness.system.child_process import Emit
from harness.system.hardware import free_memory
from harness.system.measure import Meter
from harness.types import Artifact, ModelRef, Precision, Sample

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

Into = Literal["dequantised", "original"]
Phase = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Task:
    """An artifact to export, and its target folder."""

    artifact: Artifact
    folder: Path
    """An empty folder."""
    merge: bool
    samples: Sequence[Sample] = ()
    """Prompts that both models answer."""
    into: Into = "dequantised"
    """Which weights a quantised base's adapter is merged into: those it was trained on, or the
    ones that were quantised."""
    precision: Precision = "float32"
    """Of the merged weights."""
    shard: str = "5GB"
    """Largest safetensors file."""


def carry_out(task: Task, report: Emit) -> dict[str, object]:
    """Fill `task.folder`; `report(phase=...)` is called at the start of each phase.

    The result has `end_ids` and `phases`, and after a merge `verification`, `latency` and the
    `devices` that it ran on.
    Raises UserError for an adapter that cannot be merged.
    """
    meter = Meter()

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        report(phase=name)
        with meter.phase(name):
            yield

    result = _merged(task, phase) if task.merge else {"end_ids": _copied(task, phase)}
    make_portable(task.folder)
    return {**result, "environment": store.environment(), "phases": meter.phases}


def _merged(task: Task, phase: Phase) -> dict[str, object]:
    before, parameters = _answers(task.artifact, task.samples, phase, "open", "answer")
    with opened_where_there_is_room(parameters, "float32") as merged_on:
        with phase("merge"):
            model = merge(task.artifact, task.into)
        with phase("save"):
            end_ids = _save(model, task)
            del model
            free_memory()
    saved = Artifact(
        "base",
        ModelRef(task.artifact.base.name, str(task.folder)),
        precision=task.precision,
    )
    with opened_where_there_is_room(parameters, task.precision) as reopened_on:
        now, _ = _answers(saved, task.samples, phase, "reopen", "answer again", before)
    return {
        "end_ids": end_ids,
        "devices": {"merge": merged_on, "reopen": reopened_on},
        "verification": equivalence.compare(before, now),
        "latency": equivalence.latency(before, now),
    }


def _answers(
    artifact: Artifact,
    samples: Sequence[Sample],
    phase: Phase,
    opening: str,
    answering: str,
    after: equivalence.Outputs | None = None,
) -> tuple[equivalence.Outputs, int]:
    """What a model answers, and how many numbers it has."""
    with phase(opening):
        model = plugins().open_model(artifact)
    if not isinstance(model, LanguageModel):
        raise UserError(
            f"model '{model.name}' is opened by a plugin, not by transformers: it has no weights "
            "here to merge an adapter into; leave out --merge"
        )
    try:
        with phase(answering):
            return equivalence.observe(model, samples, after), parameter_count(model.model)
    finally:
        model.close()


def merge(artifact: Artifact, into: Into = "dequantised") -> Any:
    """The transformers model with the adapter in its weights, all in float32.

    What was trained is the adapter on the base as it was opened: in the plan's precision, and
    dequantised where it was quantised. `original` takes the weights before quantisation instead,
    which is another model. Raises UserError where the kind of adapter has no merge.
    """

    from harness.models.language_model import load_tokenizer, load_weights

    dropped = artifact.quantization is not None and into == "original"
    opened = dataclasses.replace(artifact, quantization=None) if dropped else artifact
    model = load_weights(opened)
    transposed = dequantise(model)
    model = model.float()
    if artifact.kind != "adapter":
        _transpose(model, transposed)
        return model
    assert artifact.path is not None
    _untie(model, Path(artifact.path))
    adapted = adapters.attach_adapter(model, len(load_tokenizer(artifact)), Path(artifact.path))
    kind = next(iter(adapted.peft_config.values())).peft_type.value
    if not hasattr(adapted, "merge_and_unload"):
        raise UserError(f"a {kind} adapter cannot be merged: leave --merge out")
    try:
        merged = adapted.merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the {kind} adapter cannot be merged: {reason}") from error
    _transpose(merged, transposed)
    return merged


def dequantise(model: Any) -> list[str]:
    """Give a quantised transformers model float32 weights, in place; a plain one stays as it is.

    Returns the names of layers that bitsandbytes transposed: GPT-2's Conv1D holds its matrix as
    (inputs, outputs), and is a Linear of (outputs, inputs) from then on. Raises UserError for a
    quantisation that transformers does not undo.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    if getattr(model, "hf_quantizer", None) is None:
        return []
    transposed = [
        name
        for name, module in model.named_modules()
        if issubclass(getattr(module, "source_cls", object), Conv1D)
    ]
    try:
        model.dequantize(dtype=torch.float32)
    except NotImplementedError as error:
        raise UserError(
            f"the base's weights cannot be dequantised, so nothing is merged into them: {error}; "
            "leave --merge out"
        ) from error
    # Unpacking cannot be reversed on saving, and the saved weights need no unpacking.
    conversions = getattr(model, "_weight_conversions", None) or []
    model._weight_conversions = [
        conversion for conversion in conversions if not _unpacks(conversion)
    ] or None
    return transposed


def _unpacks(conversion: object) -> bool:
    """Whether a conversion of transformers reads quantised files."""
    return any(
        type(operation).__module__.startswith("transformers.integrations.bitsandbytes")
        for operation in getattr(conversion, "operations", ())
    )


def _transpose(model: Any, names: Sequence[str]) -> None:
    """Put Conv1D layers back where dequantising left Linear ones, so that the class opens them."""
    import torch
    from transformers.pytorch_utils import Conv1D

    for name in names:
        linear = model.get_submodule(name)
        layer = Conv1D(linear.out_features, linear.in_features)
        layer.weight = torch.nn.Parameter(linear.weight.detach().T.contiguous())
        if linear.bias is not None:
            layer.bias = torch.nn.Parameter(linear.bias.detach())
        model.set_submodule(name, layer)


def _untie(model: Any, adapter: Path) -> None:
    """Separate the weights of embedding and head where they are tied and the adapter changes one.

    Merged into the shared weight the update would reach the other as well. What peft itself keeps
    tied (trained tokens, `ensure_weight_tying`) stays so.
    """
    import torch
    from safetensors import safe_open

    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    config = json.loads((adapter / adapters.CONFIG).read_text(encoding="utf-8"))
    if head is None or head.weight is not embedding.weight or config.get("ensure_weight_tying"):
        return
    names = [name for name, part in model.named_modules() if part is head or part is embedding]
    with safe_open(adapter / adapters.WEIGHTS, framework="pt") as file:
        keys = [key for key in file.keys() if "trainable_tokens" not in key]  # noqa: SIM118
    if any(f".{name}." in key for key in keys for name in names):
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        model.config.get_text_config().tie_word_embeddings = False
        model.config.tie_word_embeddings = False


def _save(model: Any, task: Task) -> list[int]:
    """Weights, tokenizer, template and generation config; the ids that end an answer."""
    from harness.models.language_model import torch_dtype

    tokenizer = _tokenizer(task.artifact)
    end_ids = _ends(model.generation_config, tokenizer)
    model.to(torch_dtype(task.precision))
    model.save_pretrained(task.folder, max_shard_size=task.shard)
    tokenizer.save_pretrained(task.folder)
    return end_ids


def _tokenizer(artifact: Artifact) -> PreTrainedTokenizerBase:
    """The tokenizer with the template that it was trained and evaluated with."""
    from harness.models.language_model import load_tokenizer

    tokenizer = load_tokenizer(artifact)
    if artifact.chat_template:
        tokenizer.chat_template = artifact.chat_template
    return tokenizer


def _ends(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Set the end tokens of the evaluation in a generation config; returns their ids."""
    end_ids = end_tokens(tokenizer, None, config)
    config.eos_token_id = end_ids
    if config.bos_token_id is None:
        config.bos_token_id = tokenizer.bos_token_id
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    return end_ids


# Without a merge


def _copied(task: Task, phase: Phase) -> list[int]:
    """The artifact's own files, with tokenizer, template and generation config."""
    from transformers import GenerationConfig

    artifact = task.artifact
    assert artifact.path is not None
    with phase("save"):
        for file in sorted(Path(artifact.path).iterdir()):
            aside = file.name in LEFT_OUT or file.name.startswith(".")
            if file.is_file() and not aside:
                shutil.copyfile(file, task.folder / file.name)
        tokenizer = _tokenizer(artifact)
        tokenizer.save_pretrained(task.folder)
        if artifact.kind == "adapter":
            _name_base(task.folder / adapters.CONFIG, artifact.base)
        config = _generation_config(artifact, GenerationConfig)
        end_ids = _ends(config, tokenizer)
        config.save_pretrained(task.folder)
    return end_ids


def _generation_config(artifact: Artifact, kind: Any) -> GenerationConfig:
    """The generation config of the weights; else one from the model's configuration."""
    from transformers import AutoConfig

    base = artifact.base
    whole = artifact.kind == "weights"
    place = str(artifact.path if whole else base.path)
    named = {"revision": None if whole else base.revision}
    try:
        return kind.from_pretrained(place, **named)
    except OSError:
        remote = base.trust_remote_code
        return kind.from_model_config(
            AutoConfig.from_pretrained(place, trust_remote_code=remote, **named)
        )


def _name_base(file: Path, base: ModelRef) -> None:
    """Write the base's current path: peft opens an adapter's base by this name."""
    config = json.loads(file.read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": base.path, "revision": base.revision}
    store.write_json(file, config)


def main() -> int:
    """Carry out the Task on standard input; prints phases and the result as JSON lines."""
    from pydantic import TypeAdapter

    def run(request: bytes, emit: Emit) -> object:
        return store.plain(carry_out(TypeAdapter(Task).validate_json(request), emit))

    return child_process.work(run, message)


def message(error: Exception) -> str:
    """An error of an export as one line."""
    if is_out_of_memory(error):
        return f"out of memory: {' '.join(str(error).split())[:200]}; close what else runs here"
    if isinstance(error, HarnessError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:300]
    return f"the export failed: {type(error).__name__}: {text} ({frame.filename}:{frame.lineno})"


if __name__ == "__main__":
    sys.exit(main())
