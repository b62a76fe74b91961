"""A language model that is open for evaluation: log-likelihoods and answers."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from harness.errors import UserError
from harness.scoring import Score, score_requests
from harness.tokens import end_tokens
from harness.types import Artifact

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Generated:
    """An answer as token ids, without the end token."""

    ids: tuple[int, ...]
    capped: bool
    """True where `max_new_tokens` came before an end token."""


class LanguageModel:
    """A causal language model with its tokenizer, in eval mode.

    `tokens_per_pass` bounds rows x length of one forward pass, and so the memory.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        artifact: Artifact,
        *,
        tokens_per_pass: int = 4096,
        generate_batch: int = 64,
    ) -> None:
        from transformers import GenerationConfig

        self.model = model.eval()
        self.tokenizer = tokenizer
        self.artifact = artifact
        self.chat_template = artifact.chat_template
        self.tokens_per_pass = tokens_per_pass
        self.generate_batch = generate_batch
        self.end_ids = end_tokens(tokenizer, self.chat_template, model.generation_config)
        # Decoding is stated by the suite; nothing is inherited from the model's own file.
        model.generation_config = GenerationConfig()

    @property
    def max_length(self) -> int:
        """Longest sequence that the model can attend to, in tokens."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or 2048)

    @property
    def prefix_token(self) -> int:
        """What stands before a text without context: BOS, else EOS, as in lm-eval's HFLM."""
        bos = self.tokenizer.bos_token_id
        return int(self.tokenizer.eos_token_id if bos is None else bos)

    def loglikelihood(
        self,
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
        progress: Progress | None = None,
    ) -> list[Score]:
        """Log-probability (nats) of each continuation after its context, both as token ids.

        Shared beginnings run once; log-softmax is taken in float32 and only where it is wanted.
        """
        return score_requests(
            self.model,
            requests,
            max_length=self.max_length,
            tokens_per_pass=self.tokens_per_pass,
            progress=progress,
        )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        progress: Progress | None = None,
    ) -> list[Generated]:
        """Greedy answers to prompts given as token ids, batched by length."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers: dict[int, Generated] = {}
        for start in range(0, len(order), self.generate_batch):
            batch = order[start : start + self.generate_batch]
            generated = self._generate_batch([prompts[i] for i in batch], max_new_tokens)
            answers.update(zip(batch, generated, strict=True))
            if progress:
                progress(len(answers), len(prompts))
        return [answers[i] for i in range(len(prompts))]

    def _generate_batch(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int
    ) -> list[Generated]:
        import torch
        from transformers import GenerationConfig

        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id
        pad = self.end_ids[0] if pad is None else pad
        ids = torch.full((len(prompts), width), pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.end_ids,
            pad_token_id=pad,
        )
        device = self.model.device
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config
            )
        return [self._until_end(row) for row in out[:, width:].tolist()]

    def _until_end(self, ids: Sequence[int]) -> Generated:
        for i, token in enumerate(ids):
            if token in self.end_ids:
                return Generated(tuple(ids[:i]), capped=False)
        return Generated(tuple(ids), capped=True)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def close(self) -> None:
        """Free the model's memory."""
        import torch

        self.model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def open_artifact(artifact: Artifact) -> LanguageModel:
    """Open an artifact as it was trained: its adapter on its base, quantised as it was."""
    model = load_weights(artifact)
    if artifact.kind == "adapter":
        assert artifact.path is not None
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, artifact.path)
    return LanguageModel(model, load_tokenizer(artifact), artifact)


def load_weights(artifact: Artifact, *, dtype: str | None = None) -> Any:
    """The transformers model of an artifact, without its adapter, on the best device.

    `dtype` is 'float32' or 'bf16'; None means the artifact's precision. Raises UserError where
    the model is no causal language model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    path = artifact.path if artifact.kind == "weights" and artifact.path else artifact.base.path
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            revision=artifact.base.revision,
            trust_remote_code=artifact.base.trust_remote_code,
            dtype=torch_dtype(dtype or artifact.precision),
            quantization_config=_bitsandbytes(artifact.quantization),
            device_map={"": 0} if torch.cuda.is_available() else None,
        )
    except ValueError as error:
        raise UserError(f"model '{artifact.base.name}' cannot be opened: {error}") from error
    return model


def load_tokenizer(artifact: Artifact) -> Any:
    """The base's tokenizer, padding on the left for generation."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        artifact.base.path,
        revision=artifact.base.revision,
        trust_remote_code=artifact.base.trust_remote_code,
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def torch_dtype(precision: str) -> Any:
    """`float32` or `bf16` as a torch dtype."""
    import torch

    return {"float32": torch.float32, "bf16": torch.bfloat16}[precision]


def _bitsandbytes(quantization: Mapping[str, Any] | None) -> Any:
    """A BitsAndBytesConfig from JSON-able keywords; dtypes are given by name."""
    if quantization is None:
        return None
    from transformers import BitsAndBytesConfig

    keywords = dict(quantization)
    with suppress(KeyError):
        keywords["bnb_4bit_compute_dtype"] = torch_dtype(keywords["bnb_4bit_compute_dtype"])
    return BitsAndBytesConfig(**keywords)
