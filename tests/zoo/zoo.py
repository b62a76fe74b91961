"""Every family of causal language models that transformers has, tiny and random.

`python tests/zoo/zoo.py` prints the table of docs/architectures.md; with `--write` it writes it,
with names of families it tries those alone.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
VOCABULARY, LENGTH = 120, 128
SIZES = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": LENGTH,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": 8,
    "attention_window_size": 8,
    # the same under other names
    **dict.fromkeys(
        ("n_embd", "d_model", "embedding_size", "lru_width", "word_embed_proj_dim"), 32
    ),
    **dict.fromkeys(("attention_hidden_size", "dim_model", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("n_inner", "dff", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"), 64),
    **dict.fromkeys(("d_inner", "dim_ff", "d_ff", "shared_intermediate_size"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("n_layer", "n_layers", "num_layers", "num_blocks"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("n_positions", "n_ctx", "max_seq_len", "context_length"), LENGTH),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    "rotary_dim": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_ssm": 64,
    "mamba_chunk_size": 16,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 8,
    "chunk_size": 16,
    "state_size": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "num_kv_shared_layers": 0,
    "use_cache": True,
    "is_decoder": True,
    "expert_capacity": 64,
    "time_step_rank": 4,
    "conv_kernel": 4,
    "global_head_dim": 8,
    "num_global_key_value_heads": 2,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "index_topk": LENGTH,
    "relative_attention_num_buckets": 8,
}
NOT_NEUTRAL = {
    "logits_scaling": 8.0,
    "logit_scale": 0.25,
    "lm_head_multiplier": 0.3,
    "final_logit_softcapping": 2.0,
    "logits_soft_cap": 2.0,
    "output_logit_soft_cap": 2.0,
}
"""What families do to logits, set to what cannot be overlooked."""
SPECIAL: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16, "expand": 2, "n_groups": 1},
    "bart": {"is_encoder_decoder": False},
    "recurrent_gemma": {"block_types": ("recurrent", "attention")},
}
SHORT = (
    *("llama", "qwen2", "qwen3_moe", "gpt2", "opt", "gptj", "diffllama", "granite", "gemma2"),
    *("recurrent_gemma", "falcon_h1", "mistral", "bloom", "rwkv", "bert"),
)
"""Families of the short run: each way of scoring, each fault that there was."""
NOT_BUILT: dict[str, str] = {
    "blt": "ValueError: 96 million parameters with small sizes",
    "cohere_compass_text": "KeyError: 'full_attention'",
    "dbrx": "AttributeError: 'DbrxAttentionConfig' object has no attribute 'rope_",
    "dots3_note": "AmbiguousGlobalPerLayerAttributeError: 'num_attention_heads' is a pe",
    "dots3_note_text": "AmbiguousGlobalPerLayerAttributeError: 'num_attention_heads' is a pe",
    "emu3": "AttributeError: 'Emu3Config' object has no attribute 'pad_token_id'",
    "fuyu": "ValueError: 9408 million parameters with small sizes",
    "gemma3": "ValueError: 93 million parameters with small sizes",
    "gemma3n": "ImportError: TimmWrapperModel requires the timm library but it was n",
    "gemma4": "AmbiguousGlobalPerLayerAttributeError: 'head_dim' is a per-layer att",
    "gemma4_assistant": "StrictDataclassClassValidationError: Class validation error for vali",
    "gemma4_text": "AmbiguousGlobalPerLayerAttributeError: 'head_dim' is a per-layer att",
    "gemma4_unified": "AmbiguousGlobalPerLayerAttributeError: 'head_dim' is a per-layer att",
    "gemma4_unified_assistant": "ValueError: makers of a cache are not its users",
    "gemma4_unified_text": "AmbiguousGlobalPerLayerAttributeError: 'head_dim' is a per-layer att",
    "got_ocr2": "ValueError: 472 million parameters with small sizes",
    "lfm2_moe": "TypeError: 'NoneType' object is not subscriptable",
    "llama4": "AttributeError: 'Llama4Config' object has no attribute 'pad_token_id",
    "longcat_flash": "RuntimeError: The size of tensor a (2) must match the size of tensor",
    "moshi": "StrictDataclassFieldValidationError: Validation error for field 'aud",
    "moss_transcribe_diarize": "ValueError: 597 million parameters with small sizes",
    "musicgen": "AttributeError: 'MusicgenConfig' object has no attribute 'dropout'",
    "musicgen_melody": "AttributeError: 'MusicgenMelodyConfig' object has no attribute 'drop",
    "nemotron_h": "RuntimeError: repeat_interleave: Invalid output_size, expected 0 but",
    "prophetnet": "NotImplementedError: This model does not support the setting of `num",
    "qwen3_5": "AttributeError: 'Qwen3_5Config' object has no attribute 'vocab_size'",
    "qwen3_5_moe": "AttributeError: 'Qwen3_5MoeConfig' object has no attribute 'vocab_si",
    "qwen4_exp": "AttributeError: 'Qwen4ExpConfig' object has no attribute 'vocab_size",
    "qwen4_exp_text": "TypeError: unsupported operand type(s) for //: 'NoneType' and 'NoneT",
    "reformer": "ValueError: Make sure that config",
    "xlnet": "NotImplementedError: The model xlnet is one of the few models that h",
    "xlstm": "AttributeError: property 'v_head_dim' of 'xLSTMConfig' object has no",
    "xmod": "ValueError: Input language unknown",
    "zamba": "ValueError: There is an issue with your definition of `tie_weights_k",
    "zamba2": "RuntimeError: The size of tensor a (32) must match the size of tenso",
    "zaya": "StrictDataclassClassValidationError: Class validation error for vali",
}
"""Families that cannot be built tiny, and why."""


@dataclass(frozen=True)
class Outcome:
    """What became of a family."""

    family: str
    way: str
    """`shared`, `plain`, `refused`, `wrong` or `not built`."""
    why: str = ""
    off: float = 0.0
    """Largest difference of a log-probability to a plain pass, in nats."""


def families() -> dict[str, tuple[Any, Any]]:
    """Configuration and model class of each family, by its `model_type`."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    found = {}
    for config, model in MODEL_FOR_CAUSAL_LM_MAPPING.items():
        found[config.model_type] = (config, model[0] if isinstance(model, tuple) else model)
    return found


def _configured(config_class: Any, depth: int = 0) -> Any:
    """A small configuration, and small ones inside it."""
    default = config_class()
    given = {k: v for k, v in {**SIZES, **NOT_NEUTRAL}.items() if hasattr(default, k)}
    if isinstance(getattr(default, "intermediate_size", None), list):
        given["intermediate_size"] = [64] * 2
    if "qk_rope_head_dim" in given:  # latent attention: every head has keys of its own
        given.pop("head_dim", None)
        given["num_key_value_heads"] = 4
    kinds = list(dict.fromkeys(getattr(default, "layer_types", None) or []))
    if kinds:
        given["layer_types"] = kinds if len(kinds) > 1 else kinds * 2
        given["num_hidden_layers"] = len(given["layer_types"])
        if "intermediate_size" in given and isinstance(given["intermediate_size"], list):
            given["intermediate_size"] = [64] * len(given["layer_types"])
    if depth < 2:
        for name, inner in (getattr(config_class, "sub_configs", None) or {}).items():
            if isinstance(inner, type) and hasattr(inner, "model_type") and inner.model_type:
                given[name] = _configured(inner, depth + 1).to_dict()
    given |= SPECIAL.get(config_class.model_type, {})
    for dropped in ((), ("layer_types",), tuple(NOT_NEUTRAL), ("head_dim", "layer_types")):
        try:
            return config_class(**{k: v for k, v in given.items() if k not in dropped})
        except Exception as error:
            problem = error
    raise problem


def built(family: str) -> Any:
    """A random float32 model of a family, in eval mode."""
    import torch

    config_class, model_class = families()[family]
    config = _configured(config_class)
    torch.manual_seed(0)
    with torch.device("meta"):
        size = sum(p.numel() for p in model_class(config).parameters())
    if size > 20_000_000:
        raise ValueError(f"{size / 1e6:.0f} million parameters with small sizes")
    model = model_class(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2)
    if (
        len(set(model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False).logits[0, -1].tolist()))
        < 3
    ):
        raise ValueError("its logits are all the same")
    return model


@cache
def tokenizer() -> Any:
    """A tokenizer of as many words as the models know."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w3")),
        pad_token="w0",
        bos_token="w1",
        eos_token="w2",
    )


def requests() -> list[tuple[list[int], list[int]]]:
    """Four endings to each of five questions after one stem, and lone ones of many lengths."""
    import random

    draw = random.Random(1)

    def tokens(count: int) -> list[int]:
        return draw.choices(range(3, VOCABULARY), k=count)

    stem = tokens(24)
    asked = []
    for _ in range(5):
        question = [*stem, *tokens(draw.randrange(3, 14))]
        asked += [(question, tokens(draw.randrange(1, 5))) for _ in range(4)]
    return asked + [(tokens(draw.randrange(1, 60)), tokens(1 + i % 4)) for i in range(10)]


def tried(family: str) -> Outcome:
    """Build a family and hold its scores and answers to a plain forward pass of each alone."""
    warnings.filterwarnings("ignore")
    import torch

    from harness.errors import UserError
    from harness.model import LanguageModel
    from harness.types import Artifact, ModelRef

    try:
        model = built(family)
    except Exception as error:
        return Outcome(family, "not built", f"{type(error).__name__}: {_line(error)}")
    asked = requests()
    try:
        opened = LanguageModel(model, tokenizer(), Artifact("base", ModelRef(family, family)))
        found = opened.loglikelihood(asked)
        prompts = [
            context[:n] for (context, _), n in zip(asked[::6], (9, 20, 9, 26, 14), strict=True)
        ]
        answers = opened.generate(prompts, max_new_tokens=5)
    except UserError as error:
        return Outcome(family, "refused", _line(error))
    except Exception as error:
        return Outcome(family, "wrong", f"{type(error).__name__}: {_line(error)}")
    off = 0.0
    with torch.inference_mode():
        for (context, continuation), score in zip(asked, found, strict=True):
            logprobs = _plain(model, [*context, *continuation])[len(context) - 1 : -1]
            plain = logprobs[range(len(continuation)), continuation]
            off = max(off, float((plain - torch.tensor(score.token_logprobs)).abs().max()))
        behind = 0.0
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = [*prompt, *answer.ids, *([] if answer.capped else [2])]
            said = _plain(model, ids)[len(prompt) - 1 : -1]
            taken = said[range(len(said)), ids[len(prompt) :]]
            behind = max(behind, float((said.max(-1).values - taken).max()))
    why = opened.not_shared or ""
    if not off <= 1e-3:
        return Outcome(family, "wrong", f"scores off by {off:.2g} nats ({why or 'shared'})", off)
    if not behind <= 1e-3:
        return Outcome(family, "wrong", f"an answer is {behind:.2g} nats behind ({why})", off)
    return Outcome(family, "plain" if why else "shared", why, off)


def _plain(model: Any, ids: list[int]) -> Any:
    """(tokens, vocabulary) log-probabilities of one pass over a text alone."""
    import torch

    tensor = torch.tensor([ids])
    with torch.inference_mode():
        try:
            out = model(input_ids=tensor, use_cache=False)
        except TypeError:  # no such keyword
            out = model(input_ids=tensor)
    return out.logits[0].float().log_softmax(-1)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def page(outcomes: list[Outcome]) -> str:
    """docs/architectures.md."""
    import transformers

    counts = {way: sum(o.way == way for o in outcomes) for way in ("shared", "plain", "refused")}
    rows = [
        f"| {o.family} | {o.way} | {o.why.replace('|', '/')} |"
        for o in sorted(outcomes, key=lambda o: o.family)
        if o.way != "not built"
    ]
    return "\n".join(
        [
            "# Architectures",
            "",
            "Each family of causal language models in transformers "
            f"{transformers.__version__}, built tiny and random in float32: log-likelihoods of 30 "
            "requests and five greedy answers are those of one plain forward pass per request. "
            "`shared`: what requests begin with alike is computed once. `plain`: every request "
            "runs whole, right but slower. `refused`: an error says why, in one line. "
            "`python tests/zoo/zoo.py --write` makes this page.",
            "",
            f"{counts['shared']} shared, {counts['plain']} plain, {counts['refused']} refused.",
            "",
            "| family | way | why not shared |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def main(arguments: list[str]) -> None:
    """Print or write the table."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    names = [one for one in arguments if not one.startswith("--")]
    outcomes = []
    for family in names or families():
        outcomes.append(tried(family))
        print(outcomes[-1], file=sys.stderr, flush=True)
    if "--write" in arguments:
        PAGE.write_text(page(outcomes), encoding="utf-8")
    else:
        print(page(outcomes))


if __name__ == "__main__":
    main(sys.argv[1:])
