"""The part of vLLM's interface that the harness uses, with transformers underneath.

Names, keywords and what comes back are those of vLLM 0.33: an answer's `token_ids` hold the token
that ended it, `finish_reason` is `stop` or `length`. A keyword that vLLM does not have is refused,
as there.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

__version__ = "0.33.0+stub"


class TokensPrompt(dict):
    """A prompt as token ids."""


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int | None = 16
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    detokenize: bool = True


@dataclass
class CompletionOutput:
    token_ids: list[int]
    finish_reason: str


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput] = field(default_factory=list)


class LLM:
    """Greedy answers, one prompt at a time."""

    opened: ClassVar[list[dict[str, Any]]] = []
    """The keywords of each engine that was made in this process."""

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        load_format: str = "auto",
        dtype: str = "auto",
        max_model_len: int | None = None,
        seed: int = 0,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
        max_num_seqs: int | None = None,
    ) -> None:
        self.opened.append({"model": model, "max_lora_rank": max_lora_rank, "dtype": dtype})
        self.model = AutoModelForCausalLM.from_pretrained(
            model, revision=revision, dtype=getattr(torch, dtype)
        )
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.enable_lora, self.max_lora_rank = enable_lora, max_lora_rank
        self.max_model_len = max_model_len
        self.adapted: Any = None

    def generate(
        self,
        prompts: list[TokensPrompt],
        sampling_params: SamplingParams,
        *,
        use_tqdm: bool = True,
        lora_request: Any = None,
    ) -> list[RequestOutput]:
        assert sampling_params.temperature == 0
        assert sampling_params.ignore_eos
        model = self._with(lora_request)
        return [self._answer(model, p["prompt_token_ids"], sampling_params) for p in prompts]

    def _stops(self, answer: list[int], sampling: SamplingParams) -> bool:
        if not sampling.stop:
            return False
        assert sampling.detokenize, "stop strings need detokenize"
        said = self.tokenizer.decode(answer, skip_special_tokens=True)
        return any(stop in said for stop in sampling.stop)

    def _with(self, lora: Any) -> Any:
        if lora is None:
            return self.model
        assert self.enable_lora
        if self.adapted is None:
            from peft import PeftModel

            self.adapted = PeftModel.from_pretrained(self.model, lora.lora_path)
            ranks = [c.r for c in self.adapted.peft_config.values()]
            assert max(ranks) <= self.max_lora_rank
        return self.adapted

    def _answer(self, model: Any, prompt: list[int], sampling: SamplingParams) -> RequestOutput:
        most = sampling.max_tokens or 16
        assert self.max_model_len is None or len(prompt) + most <= self.max_model_len
        ids = list(prompt)
        for _ in range(most):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            ids.append(int(logits.argmax()))
            if ids[-1] in (sampling.stop_token_ids or []) or self._stops(
                ids[len(prompt) :], sampling
            ):
                return RequestOutput(prompt, [CompletionOutput(ids[len(prompt) :], "stop")])
        return RequestOutput(prompt, [CompletionOutput(ids[len(prompt) :], "length")])
