"""Judges of known behaviour: small models whose weights make them say one thing, or nothing."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.api.judge import JudgeBackend
from harness.evaluation.judging.local import LocalBackend
from harness.models.language_model import LanguageModel, open_artifact
from harness.types import Artifact, ModelRef, Output, Sample


def opened(folder: Path) -> LanguageModel:
    """A model that is open for evaluation."""
    return open_artifact(Artifact("base", ModelRef(folder.name, str(folder))))


def loving(source: Path, folder: Path, text: str) -> Path:
    """The model with weights that make the tokens of `text` likely after everything.

    One number of each state is the same large constant, on which these tokens' rows alone of the
    head depend: their logits are 8, all others are 0.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    head = torch.zeros_like(model.lm_head.weight)
    head[tokens, 0] = 1.0
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1e4
        model.model.norm.weight.fill_(1.0)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(head)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def broken(source: Path, folder: Path) -> Path:
    """The model with a NaN in its last norm, so that no logit is a number."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


class Lent:
    """What a worker lends to a judge: here a model that is open already."""

    def __init__(self, model: LanguageModel, base: Sequence[str] = ()) -> None:
        self.model, self.base = model, base

    def judge_model(self) -> LanguageModel:
        return self.model

    def judge_backend(self) -> JudgeBackend:
        return LocalBackend(self.model)

    def base_answers(self) -> Sequence[str]:
        return self.base

    def row_answers(self) -> Sequence[str]:
        return self.base

    def embed(self, texts: Sequence[str]) -> Any:
        raise NotImplementedError

    def progress(self, done: int, total: int) -> None:
        """Nobody watches."""


def samples(count: int = 4) -> list[Sample]:
    """Questions with references, no two alike."""
    return [
        Sample(f"s{i}", prompt=f"What costs lamp {i}?", reference=f"It costs {i} coins.")
        for i in range(count)
    ]


def outputs(texts: Sequence[str]) -> list[Output]:
    """Answers with these texts."""
    return [Output(f"s{i}", text, len(text), False) for i, text in enumerate(texts)]
