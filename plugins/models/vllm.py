"""Answers by vLLM in this process (extra `vllm`; Kwon et al. 2023, arXiv 2309.06180).

Prompts go to vLLM as token ids, so that templates and stops are the harness's own. Log-likelihoods
stay with the passes over shared prefixes, which are faster for them. Written for the interface of
vLLM 0.33 and tested against a stub of it: it has not been run on a vLLM.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness import (
    Artifact,
    Engine,
    EnvironmentLack,
    Generation,
    LanguageModel,
    LogLikelihood,
    Model,
    UserError,
    adapter_config,
    hookimpl,
    open_artifact,
)

DTYPES = {"float32": "float32", "bf16": "bfloat16", "fp16": "float16"}
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `max_lora_rank` may be."""
UNSERVED = ("dora", "ia3", "prompt", "prefix")
"""Methods whose adapters are no plain LoRA."""
BEYOND_LORA = (
    *("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters"),
    *("rank_pattern", "alpha_pattern", "layer_replication", "lora_bias"),
)
"""Fields of a LoRA's configuration that vLLM refuses, or passes over in silence."""
MERGE = "merge it (harness export CELL --merge) and measure that folder"


class Vllm(Engine):
    """Continuous batching by vLLM, on its CUDA kernels."""

    name = "vllm"

    def check(self, method: str, options: Mapping[str, object]) -> None:
        """Raise EnvironmentLack without vLLM, UserError for what it cannot open as it was made."""
        if find_spec("vllm") is None:
            raise EnvironmentLack("engine vllm is not installed: pip install vllm (extra `vllm`)")
        if options.get("load_in_4bit") or options.get("quant_type", "none") != "none":
            raise UserError(
                f"engine vllm answers from weights in full precision, and '{method}' quantises "
                "them by bitsandbytes: leave the engine out, or the row"
            )
        adapter = options.get("adapter")
        fault = _fault(Path(str(adapter["path"]))) if isinstance(adapter, Mapping) else None
        if method in UNSERVED:
            fault = f"{method} trains no plain LoRA"
        if fault:
            raise UserError(f"engine vllm serves plain LoRA adapters: {fault}; {MERGE}")


class VllmModel:
    """A `harness.Model` whose answers vLLM generates; the passes and it take turns in memory."""

    def __init__(self, artifact: Artifact, batch: int | None) -> None:
        self.artifact, self.batch = artifact, batch
        if artifact.kind == "adapter" and (fault := _fault(Path(str(artifact.path)))):
            raise UserError(f"engine vllm serves plain LoRA adapters: {fault}; {MERGE}")
        self._scores: LanguageModel = self._opened()
        self._engine: Any = None
        self.name, self.tokenizer = self._scores.name, self._scores.tokenizer
        self.chat_template, self.max_length = self._scores.chat_template, self._scores.max_length
        self.warnings = self._scores.warnings
        self.text = self._scores.text

    def _opened(self) -> LanguageModel:
        return open_artifact(replace(self.artifact, engine=None), self.batch)

    @property
    def prefix_token(self) -> int:
        """BOS, else EOS."""
        return self._scores.prefix_token

    @property
    def end_token(self) -> int:
        """EOS, else a token that ends an answer."""
        return self._scores.end_token

    def loglikelihood(
        self,
        requests: Sequence[tuple[Sequence[int], Sequence[int]]],
        progress: Callable[[int, int], None] | None = None,
    ) -> list[LogLikelihood]:
        """By this process's passes; vLLM makes room for them."""
        self._stop()
        if self._scores.model is None:
            self._scores = self._opened()
        return self._scores.loglikelihood(requests, progress)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stops: Sequence[str] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Generation]:
        """Greedy answers, which end where those of this process's passes end.

        Raises UserError where there is no room for any prompt. vLLM does not tell of logits that
        are not finite.
        """
        room = self.max_length - max_new_tokens
        if room < 1:
            raise UserError(
                f"max_new_tokens: {max_new_tokens} leaves no room for a prompt in the model's "
                f"context of {self.max_length} tokens: take less than {self.max_length}"
            )
        engine, lora = self._started()
        from vllm import SamplingParams, TokensPrompt

        ends = list(self._scores.end_ids)
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=max_new_tokens,
            stop_token_ids=ends,
            stop=list(stops) or None,
            ignore_eos=True,  # what ends an answer is in `ends`
            detokenize=bool(stops),
        )
        asked = [TokensPrompt(prompt_token_ids=list(prompt[-room:])) for prompt in prompts]
        outputs = engine.generate(asked, sampling, lora_request=lora, use_tqdm=False)
        if progress:
            progress(len(prompts), len(prompts))
        return [
            _generation(output.outputs[0], ends, cut=len(prompt) > room)
            for prompt, output in zip(prompts, outputs, strict=True)
        ]

    def _started(self) -> tuple[Any, Any]:
        """The engine and, for an adapter, its request; the model of the passes makes room."""
        source, folder = self.artifact.opened, self.artifact.path
        adapted = self.artifact.kind == "adapter"
        if self._engine is None:
            self._scores.close()
            from vllm import LLM

            lora: dict[str, Any] = {}
            if adapted:
                rank = int(adapter_config(Path(str(folder)))["r"])
                lora = {"enable_lora": True, "max_lora_rank": next(r for r in RANKS if r >= rank)}
            if self.batch:
                lora["max_num_seqs"] = self.batch
            self._engine = LLM(
                model=folder if self.artifact.kind == "weights" and folder else source.path,
                revision=source.revision,
                trust_remote_code=source.trust_remote_code,
                load_format="safetensors",
                dtype=DTYPES[self.artifact.precision],
                max_model_len=self.max_length,
                seed=0,
                **lora,
            )
        if not adapted:
            return self._engine, None
        from vllm.lora.request import LoRARequest

        return self._engine, LoRARequest("adapter", 1, folder)

    def _stop(self) -> None:
        """Free vLLM's memory, which its engine gives back when it is gone."""
        if self._engine is not None:
            self._engine = None
            gc.collect()

    def info(self) -> dict[str, object]:
        """How it ran: the engine's version beside the passes' own facts."""
        import vllm

        return {**self._scores.info(), "engine": f"vllm {vllm.__version__}"}

    def close(self) -> None:
        """Free the memory of both."""
        self._stop()
        self._scores.close()


def _generation(output: Any, ends: Sequence[int], *, cut: bool) -> Generation:
    """vLLM's answer, which holds the token that ended it."""
    ids = tuple(output.token_ids)
    kept = ids[:-1] if ids and ids[-1] in ends else ids
    return Generation(kept, capped=output.finish_reason == "length", cut=cut)


def _fault(folder: Path) -> str | None:
    """Why an adapter is none that vLLM serves; None where it is one."""
    config = adapter_config(folder)
    if config.get("peft_type") != "LORA":
        return f"this one is {config.get('peft_type')}"
    named = [field for field in BEYOND_LORA if config.get(field)]
    if config.get("bias", "none") != "none":
        named.append("bias")
    if int(config.get("r", 0)) > RANKS[-1]:
        named.append("r")
    return f"this one sets {', '.join(named)}" if named else None


@hookimpl
def register_engines(register: Callable[[Engine], None]) -> None:
    """The engine `vllm`."""
    register(Vllm())


@hookimpl
def open_model(artifact: Artifact, batch: int | None) -> Model | None:
    """A model whose answers vLLM generates, where the artifact says so."""
    return VllmModel(artifact, batch) if artifact.engine == Vllm.name else None
