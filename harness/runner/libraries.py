"""Libraries that are imported before a phase begins: its seconds are those of the work alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module

from harness.models.language_model import import_bitsandbytes

OPENING = (
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
)
"""What opening a model needs."""
TRAINING = (*OPENING, "datasets", "peft", "trl.trainer.sft_trainer")
"""What the built-in methods need besides."""
SUITES = ("sentence_transformers", "rouge_score.rouge_scorer", "lm_eval.tasks")
"""What the built-in scorers and tasks need."""


def imported(libraries: Sequence[str]) -> None:
    """Import them all."""
    for _ in importing(libraries):
        pass


def importing(libraries: Sequence[str]) -> Iterator[None]:
    """Import them one by one; what cannot be imported is left to whoever needs it to report."""
    for library in libraries:
        with suppress(Exception):
            import_module(library)
        if library == "torch":
            import_bitsandbytes()
        yield
