"""A language model that is open for evaluation: log-likelihoods and answers."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api.model import Generation, LogLikelihood, Progress, Request
from harness.data.tokenization import end_tokens
from harness.errors import UserError
from harness.models import adapters
from harness.models.adapter_checks.effect import Probe
from harness.models.adapter_checks.vocabulary import check_tokenizer
from harness.models.families import check_quantized, longest
from harness.models.inference.blocked_weights import blocked_weights
from harness.models.inference.forward import Limit
from harness.models.inference.generation.decoding import Ending
from harness.models.inference.generation.greedy import greedy
from harness.models.inference.generation.slots import bytes_per_token
from harness.models.inference.int8_layers import decide_outliers_by_token
from harness.models.inference.lm_head import HEAD_ROWS, unwrapped
from harness.models.inference.loglikelihood import Sharing, score_requests, sharing
from harness.models.inference.virtual_tokens import virtual_tokens
from harness.system.hardware import free_memory
from harness.types import Artifact, Precision

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedTokenizerBase

    from harness.models.causal_lm import CausalLM

CPU_TOKENS, CUDA_TOKENS = 2048, 32768
"""Tokens of a pass above which it gets no faster."""
MEMORY_SHARE = 0.5
"""The share of the free memory that a pass may use."""
_LEVELS = 2
"""Passes whose keys and values are held at once: a task's examples, and its questions' stems."""
_DYNAMO = "TORCHDYNAMO_DISABLE"


class LanguageModel:
    """A causal language model of transformers with its tokenizer, in eval mode.

    It is a `harness.Model`. `artifact` says which model it is and with which chat template;
    at most `batch` sequences run at once, None for as many as memory allows. `copies` lets a call
    make copies of weights for its own time, which a model in training has no memory for.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: PreTrainedTokenizerBase,
        artifact: Artifact,
        batch: int | None = None,
        *,
        copies: bool = False,
    ) -> None:
        from transformers import GenerationConfig

        self.model = model.eval()
        virtual = virtual_tokens(model)
        self.virtual_tokens = virtual.count if virtual else 0
        """Tokens that the adapter puts before every request."""
        self.tokenizer = tokenizer
        self.artifact = artifact
        self.chat_template = artifact.chat_template
        self.limit = Limit(tokens_that_fit(model), batch)
        """What one forward pass may hold."""
        self.copies = copies
        self.copied_bytes = 0
        """The most that copies of weights took in a call."""
        self.warnings: Sequence[str] = ()
        """What is doubtful about how it was opened, for the record."""
        self.end_ids = end_tokens(tokenizer, self.chat_template, model.generation_config)
        # Decoding is stated by the suite; nothing is inherited from the model's own file.
        model.generation_config = GenerationConfig()
        # With virtual tokens peft's `generate` asks the model inside for it.
        unwrapped(model).generation_config = GenerationConfig()
        if self.max_length < 1:
            raise UserError(
                f"the adapter's {self.virtual_tokens} virtual tokens leave no room in the "
                f"model's length of {self.max_length + self.virtual_tokens}"
            )

    @property
    def name(self) -> str:
        """As the experiment names it."""
        return self.artifact.opened.name

    @cached_property
    def sharing(self) -> Sharing:
        """How prefixes are shared between requests, where they are."""
        return sharing(self.model)

    @cached_property
    def not_shared(self) -> str | None:
        """Why prefixes are not shared between requests; None where they are."""
        return self.sharing.why_not

    @property
    def packs(self) -> bool:
        """Whether answers share prefixes too, by passes over packs."""
        return self.not_shared is None and self.sharing.cache is None

    def info(self) -> dict[str, object]:
        """How the passes ran, for the record; none of it changes a score."""
        return {
            "batch": self.limit.rows or "auto",
            "tokens_per_pass": self.limit.tokens,
            "halved": self.limit.halved,
            "cuda_graphs": self.limit.graphs,
            "copied_weights_bytes": self.copied_bytes,
            "shared_prefixes": self.not_shared is None,
            "why_not_shared": self.not_shared,
        }

    @property
    def max_length(self) -> int:
        """Longest sequence that the model can attend to, in tokens, virtual ones left out."""
        return longest(self.model.config.get_text_config()) - self.virtual_tokens

    @property
    def prefix_token(self) -> int:
        """What stands before a text without context: BOS, else EOS, as in lm-eval's HFLM.

        Where the tokenizer has neither, the token that ends an answer. Raises UserError where
        there is none.
        """
        bos = self.tokenizer.bos_token_id
        return self.end_token if bos is None else int(bos)

    @property
    def end_token(self) -> int:
        """EOS, else a token that ends an answer; UserError where there is none."""
        eos = self.tokenizer.eos_token_id
        if eos is not None:
            return int(eos)
        if not self.end_ids:
            raise UserError(
                f"model '{self.artifact.opened.name}' has no BOS or EOS token and no "
                "chat template that ends an answer with a special one: set eos_token in its "
                "tokenizer_config.json"
            )
        return self.end_ids[0]

    @property
    def padding_token(self) -> int:
        """Fills a pass's shorter rows, where the attention mask hides it."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else [*self.end_ids, 0][0]

    def loglikelihood(
        self,
        requests: Sequence[Request],
        progress: Progress | None = None,
    ) -> list[LogLikelihood]:
        """Log-probability (nats) of each continuation after its context, both as token ids.

        Shared beginnings run once; log-softmax is taken in float32 and only where it is wanted.
        """
        with self._blocked_weights(sum(len(c) + len(t) for c, t in requests)):
            return score_requests(
                self.model,
                requests,
                max_length=self.max_length,
                limit=self.limit,
                share=self.not_shared is None,
                cache=self.sharing.cache if self.not_shared is None else None,
                progress=progress,
            )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stops: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> list[Generation]:
        """Greedy answers to prompts given as token ids; they end at an end token or in `stops`.

        A prompt that leaves no room for `max_new_tokens` in the model's context loses its
        beginning, as in lm-eval, and its answer says `cut`. Raises UserError where there is no
        room for any prompt.
        """
        room = self.max_length - max_new_tokens
        if room < 1:
            raise UserError(
                f"max_new_tokens: {max_new_tokens} leaves no room for a prompt in the model's "
                f"context of {self.max_length} tokens: take less than {self.max_length}"
            )
        with self._blocked_weights(sum(len(p[-room:]) + max_new_tokens for p in prompts)):
            answers = greedy(
                self.model,
                [prompt[-room:] for prompt in prompts],
                Ending(frozenset(self.end_ids), max_new_tokens, tuple(stops), self.text),
                limit=self.limit,
                share=self.packs,
                pad=self.padding_token,
                progress=progress,
            )
        return [
            replace(answer, cut=len(prompt) > room)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]

    @contextmanager
    def _blocked_weights(self, tokens: int) -> Iterator[None]:
        """Where copies may be made, for a call of so many tokens at most."""
        if not self.copies:
            yield
            return
        _ = self.sharing  # probed as the model is, whatever the first call
        with blocked_weights(self.model, tokens) as size:
            self.copied_bytes = max(self.copied_bytes, size)
            yield

    def text(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def close(self) -> None:
        """Free the model's memory."""
        vars(self).setdefault("not_shared", "no request ran")  # it can be probed no more
        self.model = None
        free_memory()


def open_artifact(artifact: Artifact, batch: int | None = None) -> LanguageModel:
    """Open an artifact as it was trained: its adapter on its base, quantised as it was.

    At most `batch` sequences will run at once; None for as many as memory allows. Raises UserError
    where the model or its adapter cannot be opened.
    """
    model = load_weights(artifact)
    tokenizer = load_tokenizer(artifact)
    doubts: list[str] = []
    if artifact.kind == "adapter":
        model, doubts = _adapted(model, tokenizer, artifact)
    opened = LanguageModel(model, tokenizer, artifact, batch, copies=True)
    opened.warnings = doubts
    _ = opened.not_shared  # probed here, so that no suite's time has it
    return opened


def _adapted(
    model: CausalLM, tokenizer: PreTrainedTokenizerBase, artifact: Artifact
) -> tuple[CausalLM, list[str]]:
    """The model with the artifact's adapter, and what is doubtful about that adapter."""
    assert artifact.path is not None
    folder = Path(artifact.path)
    doubts: list[str | None] = []
    if adapters.has_tokenizer(folder):
        base = load_tokenizer(replace(artifact, kind="base", path=None))
        doubts.append(check_tokenizer(tokenizer, base, folder, f"the adapter {folder.name}"))
    probe = Probe(model, tokenizer, folder)
    model = adapters.attach_adapter(model, len(tokenizer), folder)
    doubts.append(probe.check(model, f"the adapter {folder.name}"))
    adapters.compute_in(model, torch_dtype(artifact.precision))
    return model, [doubt for doubt in doubts if doubt]


_ON_CPU: ContextVar[bool] = ContextVar("_ON_CPU", default=False)


@contextmanager
def opened_where_there_is_room(parameters: int, precision: Precision) -> Iterator[str]:
    """Open models on the GPU where it has room for so many numbers, else on the CPU: its name.

    Beside the weights a tenth of them and a gigabyte are wanted, for what is computed with them.
    """
    import torch

    device = "cpu"
    if torch.cuda.is_available():
        size = parameters * torch_dtype(precision).itemsize
        if torch.cuda.mem_get_info()[0] >= 1.1 * size + 10**9:
            device = "cuda"
    before = _ON_CPU.set(device == "cpu")
    try:
        yield device
    finally:
        _ON_CPU.reset(before)


def parameter_count(model: CausalLM) -> int:
    """All numbers of a model; 4-bit weights, stored two to a byte, by their true shape."""
    states = ((p, getattr(p, "quant_state", None)) for p in model.parameters())
    return sum(p.numel() if state is None else math.prod(state.shape) for p, state in states)


def load_weights(artifact: Artifact, *, dtype: str | None = None) -> CausalLM:
    """The transformers model of an artifact, without its adapter, on the best device.

    `dtype` is 'float32', 'bf16' or 'fp16'; None means the artifact's precision. Raises UserError
    where the model is no causal language model.
    """
    import_bitsandbytes()
    import torch
    from transformers import AutoModelForCausalLM

    source = artifact.opened
    path = artifact.path if artifact.kind == "weights" and artifact.path else source.path
    # None given by name would hide that the files themselves are quantised
    quantization = _bitsandbytes(artifact.quantization)
    quantised = {} if quantization is None else {"quantization_config": quantization}
    if quantised:
        check_quantized(source)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            revision=source.revision,
            trust_remote_code=source.trust_remote_code,
            use_safetensors=True,  # a pickle may run code
            dtype=torch_dtype(dtype or artifact.precision),
            device_map={"": 0} if torch.cuda.is_available() and not _ON_CPU.get() else None,
            **quantised,
        )
    except ValueError as error:
        raise UserError(f"model '{source.name}' cannot be opened: {error}") from error
    keep_training_arithmetic(model)
    decide_outliers_by_token(model)
    return model


def keep_training_arithmetic(model: CausalLM) -> None:
    """Have 4-bit layers compute in eval mode as they do in training, on any CPU.

    On a CPU with AVX512-BF16 bitsandbytes (0.50) repacks each weight at its first pass without
    gradients, for a kernel of its own that multiplies in bf16 whatever the model's precision.
    Scores would depend on the processor and on the shape of a pass, DoRA and a merge would read
    the packed bytes as 4-bit weights, and widths that are no multiple of 32 would raise.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_tokenizer(artifact: Artifact) -> PreTrainedTokenizerBase:
    """The tokenizer of what is opened: an adapter's own where its folder has one, or the model's.

    The embedding is never resized for it. A chat template beside an adapter goes with it.
    """
    from transformers import AutoTokenizer

    source = artifact.opened
    folder = Path(artifact.path) if artifact.kind == "adapter" and artifact.path else None
    own = folder is not None and adapters.has_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(
        folder if own else source.path,
        revision=None if own else source.revision,
        trust_remote_code=source.trust_remote_code,
    )
    if folder is not None and (folder / adapters.TEMPLATE).is_file():
        tokenizer.chat_template = (folder / adapters.TEMPLATE).read_text(encoding="utf-8")
    if tokenizer.pad_token is None:
        # any special token does: padding is hidden from the model and from the loss
        tokenizer.pad_token = tokenizer.eos_token or next(iter(tokenizer.all_special_tokens), None)
    return tokenizer


def torch_dtype(precision: str) -> torch.dtype:
    """`float32`, `bf16` or `fp16` as a torch dtype."""
    import torch

    names = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return names[precision]


def import_bitsandbytes() -> None:
    """Import it, before peft does, without torch's compiler, on which its import spends most time.

    It decorates kernels with `torch.compile` that neither a CPU nor a CUDA GPU uses, for those
    have kernels of their own. On other accelerators its import is left as it is.
    """
    if "bitsandbytes" in sys.modules or _DYNAMO in os.environ:
        return
    import torch

    accelerator = torch.accelerator.current_accelerator()
    if accelerator and accelerator.type != "cuda":
        return
    os.environ[_DYNAMO] = "1"  # read by each torch.compile, so it is in force here alone
    with suppress(Exception):  # its user reports the error
        import bitsandbytes  # noqa: F401
    del os.environ[_DYNAMO]


def _bitsandbytes(quantization: Mapping[str, Any] | None) -> BitsAndBytesConfig | None:
    """A BitsAndBytesConfig from JSON-able keywords; dtypes are given by name."""
    if quantization is None:
        return None
    from transformers import BitsAndBytesConfig

    keywords = dict(quantization)
    with suppress(KeyError):
        keywords["bnb_4bit_compute_dtype"] = torch_dtype(keywords["bnb_4bit_compute_dtype"])
    return BitsAndBytesConfig(**keywords)


def tokens_that_fit(model: CausalLM) -> int:
    """Tokens of a forward pass that free memory allows, estimated from the model's widths."""
    import psutil
    import torch

    config = model.config.get_text_config()
    hidden = int(getattr(config, "hidden_size", None) or model.get_input_embeddings().embedding_dim)
    inner_width = getattr(config, "intermediate_size", None) or 4 * hidden
    inner = (
        max(map(int, inner_width)) if isinstance(inner_width, (list, tuple)) else int(inner_width)
    )
    # states and the feed-forward's three in float32, and what other passes go on from
    per_token = 4 * (16 * hidden + 3 * inner)
    per_token += _LEVELS * bytes_per_token(model)
    if model.device.type == "cuda":
        free, limit = torch.cuda.mem_get_info()[0], CUDA_TOKENS
    else:
        free, limit = psutil.virtual_memory().available, CPU_TOKENS
    # logits, their log-softmax and its working copy, in float32
    head = 3 * 4 * HEAD_ROWS * unwrapped(model).get_input_embeddings().weight.shape[0]
    return max(1, min(limit, int((MEMORY_SHARE * free - head) / per_token)))
