"""How TRL's trainer is set up for a job: its arguments, its phases, its data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from harness.data.tokenization import Encoded
from harness.errors import EnvironmentLack, UserError
from harness.system.gpu_check import compiler_lack
from harness.training import resuming
from harness.training.packing import check_rows
from harness.types import Job

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, TrainerState
    from trl import SFTConfig

    from harness.models.causal_lm import CausalLM
    from harness.training.packing import Collator
    from harness.training.sft_options import SftOptions

_COMPARED = 16
"""Tokens on which TRL's loss is compared with the model's."""
_CAPS = ("output_logit_soft_cap", "logits_soft_cap")
"""Names of other configurations for `final_logit_softcapping`."""
_ROUNDING = {False: 0.005, True: 0.05}
"""What rounding may make of a log-probability, as a share of it: in float32, and in 16 bits."""


class Trainer(Protocol):
    """What is used of TRL's SFTTrainer, as `train_sft` sets it up."""

    model: CausalLM
    args: SFTConfig
    processing_class: PreTrainedTokenizerBase
    train_dataset: Dataset
    data_collator: Collator
    accelerator: Accelerator
    state: TrainerState
    padding_free: bool
    aux_loss_enabled: bool

    def train(self, resume_from_checkpoint: str | None = None) -> object:
        """Run the training, from a checkpoint's folder where one is given."""

    def compute_loss(self, model: CausalLM, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The mean loss over the tokens of a batch."""

    def compute_loss_context_manager(self) -> AbstractContextManager[None]:
        """The precision that losses are computed in."""

    def _prepare_inputs(self, inputs: Mapping[str, object]) -> dict[str, torch.Tensor]:
        """A batch on the model's device."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Their state into a folder."""

    def _save_scaler(self, output_dir: str) -> None:
        """That of fp16's loss scaling into a folder; nothing in other precisions."""

    def _save_rng_state(self, output_dir: str) -> None:
        """The random states of Python, numpy, torch and CUDA into a folder."""


def arguments(job: Job, settings: SftOptions, micro: int) -> SFTConfig:
    """TRL's SFTConfig: the plan's budget in passes of `micro` rows, and the method's recipe."""
    import torch
    from trl import SFTConfig

    budget = job.budget
    every = settings.validate_every
    gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(job.folder / "checkpoints"),
        max_steps=budget.steps,
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=budget.batch // micro,
        learning_rate=settings.lr,
        lr_scheduler_type=settings.schedule,
        # The first step of a warm-up has rate zero: a few steps are too dear for one.
        warmup_steps=math.floor(settings.warmup * budget.steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=settings.optimizer,
        gradient_checkpointing=settings.gradient_checkpointing,
        torch_compile=budget.compile,
        bf16=budget.precision == "bf16",
        fp16=budget.precision == "fp16",
        # Where the plan says float32, torch.compile would take TF32, for all that follows too.
        tf32=False,
        use_cpu=not gpu,
        dataloader_pin_memory=gpu,
        seed=job.seed,
        data_seed=job.seed,
        # The rows come in the plan's order already.
        train_sampling_strategy="sequential",
        max_length=None,
        padding_free=settings.packing,
        dataset_kwargs={"skip_prepare_dataset": True},
        eval_strategy="steps" if every else "no",
        eval_steps=every or None,
        save_strategy="best" if settings.keep_best else "no",
        metric_for_best_model="eval_loss" if settings.keep_best else None,
        greater_is_better=False if settings.keep_best else None,
        load_best_model_at_end=settings.keep_best,
        save_only_model=True,
        save_total_limit=1,
        # Every step, so that the first loss that is not finite is seen.
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
    )


def in_16_bits(arguments: SFTConfig) -> bool:
    """Whether the arithmetic is bf16 or fp16."""
    return bool(arguments.bf16 or arguments.fp16)


def trainer_class(job: Job) -> type[Any]:
    """SFTTrainer whose validation and checkpoints are phases of their own, not training time.

    Weights that are trained in bf16 keep what their rounding drops. After each step the job is
    offered a checkpoint of ours; the trainer's own hold the weights of the best validation loss.
    """
    import torch
    from trl import SFTTrainer

    class PhasedTrainer(SFTTrainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            with job.phase("validate"):
                return super().evaluate(*args, **kwargs)

        @staticmethod
        def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, Any]:
            from harness.training.bf16_weights import keeping_rests

            kind, keywords = SFTTrainer.get_optimizer_cls_and_kwargs(args, model)
            trained = [p.dtype for p in model.parameters() if p.requires_grad] if model else []
            return (keeping_rests(kind) if torch.bfloat16 in trained else kind), keywords

        def _save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
            with job.phase("checkpoint"):
                return super()._save_checkpoint(*args, **kwargs)

        def _load_best_model(self, *args: Any, **kwargs: Any) -> Any:
            with job.phase("checkpoint"):
                return super()._load_best_model(*args, **kwargs)

        def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
            super()._maybe_log_save_evaluate(*args, **kwargs)
            whole: Any = self
            if self.state.global_step < self.state.max_steps:
                job.checkpoints.at(self.state.global_step, partial(resuming.save, whole))

        def _load_from_checkpoint(self, folder: str, model: Any = None) -> None:
            whole: Any = self
            with job.phase("checkpoint"):
                resuming.load_weights(whole, Path(folder))

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            with job.phase("checkpoint"):
                super()._load_optimizer_and_scheduler(checkpoint)
                resuming.page_again(getattr(self.optimizer, "optimizer", self.optimizer))

    return PhasedTrainer


def name_experts(model: CausalLM) -> None:
    """Have the configuration of a mixture of experts say how many it has.

    The loss that balances experts reads `num_experts` of it, where some families (PhiMoE) have
    another name and only the model itself says `num_experts`.
    """
    config = model.config.get_text_config()
    count = getattr(model, "num_experts", None)
    if isinstance(count, int) and not hasattr(config, "num_experts"):
        config.num_experts = count


def name_cap(model: CausalLM) -> None:
    """Have the configuration name the cap on the logits as TRL reads it.

    TRL caps what its fused head gives by `final_logit_softcapping`, which xLSTM and RecurrentGemma
    call otherwise.
    """
    config = model.config.get_text_config()
    caps = [getattr(config, name, None) for name in _CAPS]
    cap = next((cap for cap in caps if cap), None)
    if cap and not hasattr(config, "final_logit_softcapping"):
        config.final_logit_softcapping = cap


def check_loss(trainer: Trainer) -> None:
    """Raise UserError where TRL's loss is not that of the model's own logits.

    TRL scores the body's states with the head itself and knows by name what else a family does to
    its logits. Both are compared on the first tokens of the first row, with equal random numbers.
    """
    import torch

    model = trainer.accelerator.unwrap_model(trainer.model)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    row = trainer.train_dataset[0]["input_ids"][:_COMPARED]
    if len(row) < 2:
        return
    ids = torch.tensor([row], device=inner.device)
    training = model.training
    model.train()  # eval mode packs 4-bit weights on some CPUs, for good

    def run(**arguments: object) -> Any:
        torch.manual_seed(trainer.args.seed)  # the same dropout and the same random routes
        return inner(input_ids=ids, **arguments)

    try:
        with torch.random.fork_rng(), torch.no_grad(), trainer.compute_loss_context_manager():
            logits = run(use_cache=False).logits[:, :-1].float()
            own = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
            fused = run(labels=ids, fused_lm_head=True).log_probs.float()
    except AttributeError as error:
        raise UserError(
            f"{type(inner).__name__} cannot be trained by TRL {version('trl')} ({error}): "
            "take another model"
        ) from error
    finally:
        model.train(training)
    allowed = _ROUNDING[in_16_bits(trainer.args)] * float(1 + own.abs().max())
    difference = float((own - fused).abs().max())
    if math.isfinite(difference) and difference > allowed:
        raise UserError(
            f"TRL {version('trl')} computes another loss than {type(inner).__name__} does (up to "
            f"{difference:.3g} nats a token): its training would be wrong; take another model"
        )


def check_packed(trainer: Trainer) -> None:
    """Raise UserError where rows that are laid end to end depend on each other.

    Two rows are compared that the first pass has together, if passes have more than one.
    """
    arguments, rows = trainer.args, trainer.train_dataset
    if not trainer.padding_free or arguments.per_device_train_batch_size < 2:
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    first = rows[: arguments.per_device_train_batch_size]["input_ids"]
    coarse = in_16_bits(arguments) or bool(getattr(inner, "is_quantized", False))
    with trainer.compute_loss_context_manager():
        check_rows(inner, trainer.data_collator, first, coarse=coarse)


@contextmanager
def head_on_trained_positions() -> Iterator[None]:
    """Have TRL's fused head skip positions without a label on the CPU too.

    TRL 1.16 does so on devices with Triton only and elsewhere scores the prompt as well; the loss
    is the same. On two AVX2 cores a step of 400 tokens, 160 of them trained on, spent 2.1 of its
    4.6 seconds there. Where TRL has moved the switch, training is slower and nothing else.
    """
    from trl.trainer import utils

    switch = getattr(utils, "_use_triton", None)
    if switch is None:
        yield
        return
    utils._use_triton = lambda device: device.type == "cpu" or switch(device)
    try:
        yield
    finally:
        utils._use_triton = switch


@contextmanager
def head_without_triton(warn: Callable[[str], None]) -> Iterator[None]:
    """Have TRL's fused head run in torch on a GPU where Triton cannot compile.

    TRL takes Triton wherever it imports, and Triton wants a C compiler and Python.h at its first
    kernel: a slim container would fail at the first step. The loss is the same, its tiles take
    more memory. Raises EnvironmentLack where this TRL has no such switch.
    """
    import torch
    from transformers.utils.import_utils import is_triton_available

    lack = compiler_lack() if torch.cuda.is_available() and is_triton_available() else None
    if lack is None:
        yield
        return
    try:
        from trl.kernels import chunked_logprob

        before = chunked_logprob._use_triton
    except (ImportError, AttributeError):
        raise EnvironmentLack(f"{lack.why}: {lack.mend}") from None
    warn(f"{lack.why}: the loss is computed without Triton, slower; {lack.mend}")
    chunked_logprob._use_triton = lambda device: False
    try:
        yield
    finally:
        chunked_logprob._use_triton = before


def dataset(encoded: Sequence[Encoded]) -> Dataset:
    """Rows as a `datasets.Dataset` of token ids and labels."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [e.input_ids for e in encoded],
            "labels": [e.labels for e in encoded],
        }
    )
