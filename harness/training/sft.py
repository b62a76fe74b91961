"""The one supervised fine-tuning recipe that the training plugins parametrise: TRL's SFTTrainer.

What must be equal between methods comes from the job (rows and their order, steps, batch, length,
precision, seed); what is a method's own comes as arguments.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.data.tokenization import IGNORED, Encoded, encode_row
from harness.errors import UserError
from harness.models import initial_adapter
from harness.models.stored_quantization import check_full_precision
from harness.system.measure import StepClock
from harness.training import batching, resuming
from harness.training.diagnostics import recipe_checks as health
from harness.training.loss_scaling import LossScaling, warn_of_skipped
from harness.training.masks import without_masks
from harness.training.reload_check import Remembered
from harness.training.sft_options import SftOptions, has_gpu
from harness.training.trainer import (
    arguments,
    check_loss,
    check_packed,
    dataset,
    head_on_trained_positions,
    head_without_triton,
    name_cap,
    name_experts,
    trainer_class,
)
from harness.types import Artifact, Job, Precision, Row

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import (
        GenerationConfig,
        PreTrainedConfig,
        PreTrainedTokenizerBase,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

    from harness.models.causal_lm import CausalLM
    from harness.training.trainer import Trainer

    Configurations = tuple[PreTrainedConfig, GenerationConfig | None]
    """A model's own and its generation's."""

CURVE_POINTS = 500


def train_sft(
    job: Job,
    *,
    lr: float,
    peft: PeftConfig | None = None,
    quantization: Mapping[str, object] | None = None,
    started: Callable[[Trainer], None] | None = None,
    verify: bool = False,
    weights: Literal["float32", "bf16"] = "float32",
    **recipe: Any,
) -> Artifact:
    """Train with TRL's SFTTrainer and save safetensors in `job.folder`.

    `peft` is a PeftConfig, or None to train every weight. `quantization` holds JSON-able keywords
    of BitsAndBytesConfig for the frozen base. `started(trainer)` is called before the first step,
    for what peft cannot initialise. With `verify` the artifact is opened again and compared with
    what was trained, for adapters that may not save all that they change. Other keywords are fields
    of `SftOptions`.
    The arithmetic has the plan's precision, for all methods, and trainable weights are float32;
    with `weights` bf16, where every weight is trained, their rounding is kept beside them.
    Raises CellFailed where the artifact does not answer as what was trained, and (status
    `diverged`) at the first loss that is not finite.
    """
    with head_without_triton(job.warn):
        settings = SftOptions(lr=lr, **{k: v for k, v in recipe.items() if k != "lr"})
        # A frozen base is stored in the arithmetic's own precision.
        stored: Precision = weights if peft is None else job.budget.precision
        base = Artifact(
            "base",
            job.model,
            quantization=quantization,
            precision=stored,
            chat_template=job.chat_template,
        )
        if not verify:
            return _train(job, settings, base, peft, started)
        remembered = Remembered(job)
        watched = dataclasses.replace(job, trained=remembered.see)
        return remembered.check(_train(watched, settings, base, peft, started))


def _train(
    job: Job,
    settings: SftOptions,
    base: Artifact,
    peft: PeftConfig | None,
    started: Callable[[Trainer], None] | None,
) -> Artifact:
    """`train_sft` without its check; nothing of the trained model is held when it returns.

    `base` is opened as it is trained.
    """
    if peft is None:
        check_full_precision(job.model)
    with job.phase("load"):
        model, tokenizer = _load(base)
        if tokenizer.pad_token is None:
            raise UserError(
                f"model '{job.model.name}' has no special token to fill short rows with: set "
                "pad_token (and eos_token) in its tokenizer_config.json"
            )
        if job.budget.liger:
            batching.apply_liger(model)
        own = _configurations(model)
    with job.phase("prepare"):
        for left_out in initial_adapter.check(model, peft):
            job.warn(left_out)
        train, micro = _laid_out(job, settings, _encode(job, tokenizer, job.train))
        validation = _encode(job, tokenizer, job.validation) if settings.validate_every else []
        with initial_adapter.refused(peft):
            trainer = _trainer(job, settings, model, tokenizer, peft, train, validation, micro)
        if started is not None:
            started(trainer)
        initial = initial_adapter.keep(trainer.model, peft, job.folder)
    parameters = _parameters(trainer.model)
    job.training["trainable_parameters"], job.training["total_parameters"] = parameters
    health.before_training(job, trainer, train, parameters)
    resumed = _resumed(job, trainer, resuming.start_hash(trainer, initial))
    masks = without_masks(trainer) if has_gpu() else nullcontext()
    with masks, job.phase("train"), head_on_trained_positions():
        trainer.train(resume_from_checkpoint=resumed)
    warn_of_skipped(job)
    health.after_training(job, trainer)
    _note_curve(job, trainer, train)
    with job.phase("save"):
        _restore(trainer.accelerator.unwrap_model(trainer.model), own)
        artifact = _save(job, trainer, tokenizer, base, initial, adapter=peft is not None)
    return artifact


def _resumed(job: Job, trainer: Trainer, start: str | None) -> str | None:
    """The folder of the checkpoint to go on from; None where the training begins."""
    folder = job.checkpoints.begin(
        micro_batch=job.training["micro_batch"],
        gradient_checkpointing=job.training["gradient_checkpointing"],
        device="cuda" if has_gpu() else "cpu",
        start=start,
    )
    if folder is None:
        return None
    resuming.bring_best(trainer, folder)
    return str(folder)


def _load(artifact: Artifact) -> tuple[CausalLM, PreTrainedTokenizerBase]:
    from harness.models.language_model import load_tokenizer, load_weights

    return load_weights(artifact), load_tokenizer(artifact)


def _configurations(model: CausalLM) -> Configurations:
    """Copies of a model's configuration and of its generation's, as they were loaded."""
    return copy.deepcopy(model.config), copy.deepcopy(getattr(model, "generation_config", None))


def _restore(model: CausalLM, own: Configurations) -> None:
    """Give a model the configurations of `own` again.

    For its training TRL has a mixture of experts return its router's logits, and the trainer
    writes the tokenizer's special tokens and `use_cache` into the configuration. Saved, they would
    change how the model answers: with router logits a padded batch cannot be generated from.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    configuration, generation = own
    inner.config = configuration
    if generation is not None:
        inner.generation_config = generation


def _encode(job: Job, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[Encoded]:
    """Token ids of the rows, their health checked."""
    distinct = {
        row.id: encode_row(
            tokenizer,
            row,
            max_length=job.budget.max_length,
            loss=job.loss,
            chat_template=job.chat_template,
        )
        for row in {row.id: row for row in rows}.values()
    }
    health.after_encoding(job, tokenizer, distinct, rows)
    if all(i == IGNORED for e in distinct.values() for i in e.labels):
        raise UserError("no row has a token to train on: raise budget.max_length")
    return [distinct[row.id] for row in rows]


def _laid_out(job: Job, settings: SftOptions, train: list[Encoded]) -> tuple[list[Encoded], int]:
    """The rows in the order of their passes, and how many go into one; noted for the record."""
    budget = job.budget
    device = "cuda" if has_gpu() else "cpu"
    micro = batching.micro_batch(budget.micro_batch, train, budget.batch, device)
    if budget.group_by_length and not settings.packing:
        train = batching.grouped(train, budget.batch, micro)
    job.training["micro_batch"] = micro
    job.training["gradient_checkpointing"] = settings.gradient_checkpointing
    job.report(micro_batch=micro)
    return train, micro


def _trainer(
    job: Job,
    settings: SftOptions,
    model: CausalLM,
    tokenizer: PreTrainedTokenizerBase,
    peft: PeftConfig | None,
    train: Sequence[Encoded],
    validation: Sequence[Encoded],
    micro: int,
) -> Trainer:
    import torch

    name_experts(model)
    name_cap(model)
    trainer = trainer_class(job)(
        model=model,
        args=arguments(job, settings, micro),
        train_dataset=dataset(train),
        eval_dataset=dataset(validation) if validation else None,
        processing_class=tokenizer,
        peft_config=peft,
        callbacks=[_watcher(job, _unlabelled_steps(train, job.budget.batch))],
    )
    check_loss(trainer)
    check_packed(trainer)
    # TRL stores the adapter of a quantised base in bf16 whatever the budget's precision; the
    # plan keeps them in float32 for every method.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad and peft is not None:
            parameter.data = parameter.data.to(torch.float32)
    return trainer


def _unlabelled_steps(train: Sequence[Encoded], batch: int) -> frozenset[int]:
    """Optimizer steps, counted from 1, none of whose rows has a token under the loss."""
    steps = range(0, len(train), batch)
    labels = [[e.labels[1:] for e in train[at : at + batch]] for at in steps]
    return frozenset(
        step
        for step, rows in enumerate(labels, 1)
        if all(label == IGNORED for row in rows for label in row)
    )


def _watcher(job: Job, unlabelled: Collection[int] = ()) -> TrainerCallback:
    """Reports progress, keeps the step times and the loss curve, stops a diverged run.

    Steps that are `unlabelled` have no loss: the zero that the trainer logs is none.
    """
    from transformers import TrainerCallback

    clock = StepClock()
    curve: list[dict[str, float]] = []
    job.training["loss_curve"] = curve
    job.training["step_seconds"] = clock.seconds
    monitor = health.Monitor(job, curve)
    scaling = LossScaling(job)

    class Watcher(TrainerCallback):
        def on_train_begin(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            **kwargs: object,
        ) -> None:
            resuming.name_best(Path(str(args.output_dir)), state)

        def on_step_begin(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            **kwargs: object,
        ) -> None:
            clock.begin()

        def on_step_end(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            **kwargs: object,
        ) -> None:
            clock.end()
            job.report(step=state.global_step, steps=state.max_steps)

        def on_optimizer_step(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            optimizer: Any = None,
            **kwargs: object,
        ) -> None:
            if args.fp16:
                scaling.after_step(optimizer)

        def on_log(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            logs: Any = None,
            **kwargs: object,
        ) -> None:
            names = {"loss": "loss", "eval_loss": "validation_loss"}
            names |= {same: same for same in ("grad_norm", "learning_rate")}
            point = {new: float(logs[old]) for old, new in names.items() if old in logs}
            if "loss" in point and state.global_step in unlabelled:
                return
            if not {"loss", "validation_loss"} & set(point):
                return
            if scaling.skipped_last and not math.isfinite(point.get("grad_norm", 0.0)):
                del point["grad_norm"]  # it overflowed because the loss was scaled
            monitor.stop_where_not_finite(point, state.global_step)
            curve.append({"step": state.global_step, **point})
            monitor.check()
            job.report(step=state.global_step, steps=state.max_steps, **point)

    return Watcher()


def _parameters(model: CausalLM) -> tuple[int, int]:
    """How many parameters are trained, and how many there are."""
    from harness.models.language_model import parameter_count

    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return trainable, parameter_count(model)


def _note_curve(job: Job, trainer: Trainer, train: Sequence[Encoded]) -> None:
    """Token counts, and the speed with the first step (which warms up) left out."""
    batch = job.budget.batch
    training = job.training
    seconds = training.pop("step_seconds")
    later = sum(len(e.input_ids) for e in train[batch:])
    spent = sum(seconds[1:])
    training["tokens"] = sum(len(e.input_ids) for e in train)
    training["supervised_tokens"] = sum(sum(i != IGNORED for i in e.labels) for e in train)
    training["tokens_per_second"] = later / spent if spent else None
    training["seconds_per_step"] = spent / len(seconds[1:]) if spent else None
    training["loss_curve"] = _thinned(training["loss_curve"] or [])
    training["best_checkpoint"] = trainer.state.best_global_step


def _thinned(curve: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """At most CURVE_POINTS of the training losses, the last among them; every validation loss."""
    every = max(1, math.ceil(len(curve) / CURVE_POINTS))
    return [
        point
        for i, point in enumerate(curve)
        if i % every == 0 or i == len(curve) - 1 or "validation_loss" in point
    ]


def _save(
    job: Job,
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    base: Artifact,
    initial: Path | None,
    *,
    adapter: bool,
) -> Artifact:
    """Write the adapter, or the weights in the plan's precision, and drop the checkpoints."""
    from harness.models.language_model import torch_dtype

    model = trainer.accelerator.unwrap_model(trainer.model)
    if not adapter:
        model.to(torch_dtype(job.budget.precision))
        tokenizer.save_pretrained(job.folder)
    job.trained(model, tokenizer)
    if initial is None:
        model.save_pretrained(job.folder)
    else:
        initial_adapter.save(model, job.folder, initial)
    shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)
    job.training["artifact_bytes"] = folder_bytes(job.folder)
    return Artifact(
        kind="adapter" if adapter else "weights",
        base=base.base,
        path=str(job.folder),
        quantization=base.quantization,
        precision=job.budget.precision,
        chat_template=base.chat_template,
    )


def folder_bytes(folder: Path) -> int:
    """Size on disk of the safetensors of an artifact and its configuration."""
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
