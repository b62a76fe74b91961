"""Options and initial values of methods that train virtual tokens before a frozen model."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field

from harness.api.method import usual
from harness.errors import UserError
from harness.training.sft import train_sft
from harness.training.sft_options import SftOptions
from harness.types import Artifact, Job

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from transformers import PreTrainedTokenizerBase

    from harness.models.causal_lm import CausalLM
    from harness.training.trainer import Trainer

COMMON_WORDS = 5000
"""Lester et al. 2021 (arXiv 2104.08691), section 3.2, draw first values from the commonest tokens;
the ids of a byte-pair vocabulary grow with rarity."""


class VirtualTokenOptions(SftOptions):
    """Options of trained virtual tokens, on top of the shared recipe's."""

    virtual_tokens: int = Field(20, ge=1, le=4096, json_schema_extra=usual(5, 200, log=True))
    """Virtual tokens before every input; they count against the model's length."""
    init_text: str | None = Field(None, pattern=r"\S")
    """Text whose tokens, repeated or cut, are the first values; None draws common tokens."""
    packing: bool = False
    """Not possible here: the virtual tokens stand before every row."""

    def footprint(self) -> None:
        """Not predicted."""

    def check(self, precision: str) -> None:
        """Raise UserError where the options contradict each other or the machine."""
        super().check(precision)
        if self.packing:
            raise UserError(
                "packing lays rows end to end, but virtual tokens stand before every row: "
                "set packing: false"
            )

    def refuse_with(self, option: str) -> None:
        """Raise UserError for what cannot go with virtual tokens made by a network."""
        if self.init_text is not None:
            raise UserError(f"{option} makes the first values itself: leave out it or init_text")
        if self.keep_best:
            raise UserError(
                f"keep_best cannot load what {option} made from a checkpoint: leave out one of them"
            )


def train_virtual_tokens(
    job: Job, peft: PeftConfig, set_words: Callable[[CausalLM, torch.Tensor], None] | None = None
) -> Artifact:
    """An adapter of virtual tokens in `job.folder`; the job's options are VirtualTokenOptions.

    `peft` is its PeftConfig. `set_words(model, ids)` gives the virtual tokens of a PeftModel their
    first values: `ids` (1, virtual tokens) are those of `init_text`, or drawn with the job's seed.
    None leaves them as peft makes them. Raises UserError where rows and virtual tokens together
    exceed the model's length.
    """
    return train_sft(job, peft=peft, started=_first_values(job, set_words), **job.options.recipe())


def _first_values(
    job: Job, set_words: Callable[[CausalLM, torch.Tensor], None] | None
) -> Callable[[Trainer], None]:
    """For `train_sft(started=...)`: checks the length, then sets the words."""
    options: VirtualTokenOptions = job.options

    def start(trainer: Trainer) -> None:
        import torch

        _check_room(trainer, options.virtual_tokens)
        if set_words is not None:
            words = first_words(trainer.processing_class, options, job.seed)
            with torch.no_grad():
                set_words(trainer.model, torch.tensor([words], device=trainer.model.device))

    return start


def first_words(
    tokenizer: PreTrainedTokenizerBase, options: VirtualTokenOptions, seed: int
) -> list[int]:
    """As many token ids as there are virtual tokens."""
    count = options.virtual_tokens
    if options.init_text is None:
        special = set(tokenizer.all_special_ids)
        common = [i for i in range(min(COMMON_WORDS, len(tokenizer))) if i not in special]
        return random.Random(seed).choices(common, k=count)
    ids = tokenizer(options.init_text, add_special_tokens=False)["input_ids"]
    return [ids[i % len(ids)] for i in range(count)]


def _check_room(trainer: Trainer, count: int) -> None:
    longest = max(map(len, trainer.train_dataset["input_ids"]))
    length = getattr(trainer.model.config.get_text_config(), "max_position_embeddings", None)
    if length and longest + count > length:
        raise UserError(
            f"{count} virtual tokens and rows of {longest} tokens exceed the model's length of "
            f"{length}: set budget.max_length to {length - count} or less, or fewer virtual_tokens"
        )
