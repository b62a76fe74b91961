"""Scorers that compare embeddings: of whole answers, or token by token."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import ModelRef, Output, Sample, Scorer, Tools, UserError, hookimpl, scorer

if TYPE_CHECKING:
    from torch import Tensor

    States = tuple[Tensor, Tensor]

BATCH = 32
"""Texts in one pass of the encoder."""


@scorer("cosine", batch=True, embeds=True, needs_reference=True, bounds=(-1.0, 1.0))
def cosine(outputs: Sequence[Output], samples: Sequence[Sample], tools: Tools) -> list[float]:
    """Cosine of the sentence embeddings of answer and reference, -1 to 1."""
    answers = tools.embed([output.text for output in outputs])
    references = tools.embed([sample.reference or "" for sample in samples])
    return [float(value) for value in (answers * references).sum(axis=1)]


def _check_layer(samples: Sequence[Sample], *, model: ModelRef, num_layers: int) -> None:
    file = Path(model.path) / "config.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    most = known.get("num_hidden_layers") or known.get("num_layers") or num_layers
    if not 1 <= num_layers <= most:
        raise UserError(f"num_layers: {model.name} has layers 1 to {most}, got {num_layers}")


@scorer("bertscore", batch=True, needs_reference=True, check=_check_layer)
def bertscore(
    outputs: Sequence[Output],
    samples: Sequence[Sample],
    tools: Tools,
    *,
    model: ModelRef,
    num_layers: int,
) -> list[float]:
    """F1 of BERTScore (Zhang et al. 2020, arXiv 1904.09675), without idf or rescaling.

    `model` is an encoder, `num_layers` the layer whose states are compared: 17 for
    roberta-large, 9 for bert-base-uncased. A blank answer has 0; longer texts are cut.
    """
    encoder = _Encoder(model, num_layers)
    scores = []
    for start in range(0, len(outputs), BATCH):
        some = slice(start, start + BATCH)
        answers = encoder.states([output.text for output in outputs[some]])
        references = encoder.states([sample.reference or "" for sample in samples[some]])
        scores += [_f1(*pair) for pair in zip(answers, references, strict=True)]
        tools.progress(len(scores), len(outputs))
    return scores


class _Encoder:
    """The model's states of a layer, as unit vectors."""

    def __init__(self, ref: ModelRef, layer: int) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        how = {"revision": ref.revision, "trust_remote_code": ref.trust_remote_code}
        self.tokenizer = AutoTokenizer.from_pretrained(ref.path, **how)
        model = AutoModel.from_pretrained(
            ref.path, dtype=torch.float32, use_safetensors=True, **how
        )
        model = model.get_encoder() if model.config.is_encoder_decoder else model
        self.model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.layer = layer
        # RoBERTa numbers its positions from 2 on.
        positions = getattr(model.config, "max_position_embeddings", 0) or 514
        self.length = min(self.tokenizer.model_max_length, positions - 2)
        # What byte-level tokenizers see a first word with wherever else it stands in a text.
        self.before = " " if type(self.tokenizer).__name__.startswith(("Roberta", "GPT2")) else ""

    def states(self, texts: Sequence[str]) -> "list[States | None]":
        """(tokens, dimensions) unit vectors and (tokens,) weights; None for a blank text.

        The marks of start and end may be matched, but have no weight. A text runs once.
        """
        distinct = list(dict.fromkeys(texts))
        states = dict(zip(distinct, self._states(distinct), strict=True))
        return [states[text] for text in texts]

    def _states(self, texts: Sequence[str]) -> "list[States | None]":
        import torch

        inputs = [self.before + text.strip() for text in texts]
        batch = self.tokenizer(
            inputs, padding=True, truncation=True, max_length=self.length, return_tensors="pt"
        ).to(self.model.device)
        with torch.inference_mode():
            hidden = self.model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                output_hidden_states=True,
            ).hidden_states[self.layer]
        unit = torch.nn.functional.normalize(hidden, dim=-1)
        marks = torch.tensor(
            [i for i in (self.tokenizer.cls_token_id, self.tokenizer.sep_token_id) if i is not None]
        )
        weights = ~torch.isin(batch["input_ids"], marks.to(hidden.device))
        seen = batch["attention_mask"].bool()
        return [
            (unit[i][seen[i]], weights[i][seen[i]]) if texts[i].strip() else None
            for i in range(len(texts))
        ]


def _f1(answer: "States | None", reference: "States | None") -> float:
    """Every token with the most similar one of the other text (the paper's equations)."""
    if answer is None or reference is None:
        return 0.0
    similarity = answer[0] @ reference[0].T
    precision = similarity.max(dim=1).values[answer[1]].mean()
    recall = similarity.max(dim=0).values[reference[1]].mean()
    return float(2 * precision * recall / (precision + recall))


@hookimpl
def register_scorers(register: Callable[[Scorer], None]) -> None:
    """cosine, bertscore."""
    for one in (cosine, bertscore):
        register(one)
