"""Every family of causal language models that transformers has, tiny and random.

`python tests/zoo/zoo.py` prints the table of docs/architectures.md; with `--write` it writes it,
with names of families it tries those alone.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterable
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
    "hidden_size_global": 32,
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
    "linear_head_dim": 8,
    "linear_num_heads": 4,
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
OMITTED = object()
"""A setting that a family's configuration does not take."""
SPECIAL: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "bart": {"is_encoder_decoder": False},
    "blt": {"encoder_hash_byte_group_vocab": 500, "cross_attn_k": 2},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0}
            for kind in ("full_attention", "sliding_attention")
        }
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 64, "moe_top_k": 2},
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {"head_dim": 4},
    "mamba2": {"num_heads": 4, "head_dim": 16, "expand": 2, "n_groups": 1},
    "moshi": {"audio_vocab_size": 64},
    "nemotron_h": {"n_groups": 1},
    "prophetnet": {
        "num_hidden_layers": OMITTED,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "num_encoder_attention_heads": 4,
        "num_decoder_attention_heads": 4,
    },
    "qwen4_exp_text": {
        "hc_lowrank": 8,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
    },
    "recurrent_gemma": {"block_types": ("recurrent", "attention")},
    "reformer": {
        "axial_pos_embds_dim": (16, 16),
        "axial_pos_shape": (8, 16),
        "attn_layers": ["local", "lsh"],
        "attention_head_size": 8,
        "feed_forward_size": 64,
        "hash_seed": 0,
    },
    "xlnet": {"max_position_embeddings": OMITTED},
    "xlstm": {"v_head_dim": OMITTED},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
        "n_mamba_heads": 4,
    },
    "zaya": {"num_experts_per_tok": 1},
}
"""What families need beside SIZES."""
SHORT = (
    *("llama", "qwen2", "qwen3_moe", "gpt2", "opt", "gptj", "diffllama", "granite", "gemma2"),
    *("recurrent_gemma", "falcon_h1", "mistral", "bloom", "rwkv", "bert"),
)
"""Families of the short run: each way of scoring, each fault that there was."""
_ASSISTANT = "drafts from the states, keys and values of another model, and reads no text alone"
_MUSIC = "takes and gives several codes of audio a step, no tokens of a text"
NOT_BUILT: dict[str, str] = {
    "gemma3n": "its vision tower is a model of the timm library, which is not installed",
    "gemma4_assistant": _ASSISTANT,
    "gemma4_unified_assistant": _ASSISTANT,
    "musicgen": _MUSIC,
    "musicgen_melody": _MUSIC,
}
"""Families that are not tried, and why; its text part alone, `gemma3n_text`, is."""


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
    default.allow_global_per_layer_attribute_access = True
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
            # a part that may be of many types is of the type that the default has
            part = type(getattr(default, name, None)) if inner.__name__ == "AutoConfig" else inner
            if getattr(part, "model_type", ""):
                given[name] = _configured(part, depth + 1)
    given |= SPECIAL.get(config_class.model_type, {})
    given = {name: value for name, value in given.items() if value is not OMITTED}
    for dropped in ((), ("layer_types",), tuple(NOT_NEUTRAL), ("head_dim", "layer_types")):
        try:
            return config_class(**{k: v for k, v in given.items() if k not in dropped})
        except Exception as error:
            problem = error
    raise problem


def _config_class(config_class: Any, model_class: Any) -> Any:
    """The part of a composite configuration that the model takes, as AutoModelForCausalLM does."""
    parts = (getattr(config_class, "sub_configs", None) or {}).values()
    own = model_class.config_class
    return own if own in parts else config_class


def built(family: str) -> Any:
    """A random float32 model of a family, in eval mode."""
    import torch

    config_class, model_class = families()[family]
    config = _configured(_config_class(config_class, model_class))
    torch.manual_seed(0)
    with torch.device("meta"):
        size = sum(p.numel() for p in model_class(config).parameters())
    if size > 50_000_000:
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
    from harness.models.language_model import LanguageModel
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
    if opened.not_shared is None and opened.sharing.cache is not None:
        why = "by its cache, token by token" if opened.sharing.cache.stepwise else "by its cache"
    if not off <= 1e-3:
        return Outcome(family, "wrong", f"scores off by {off:.2g} nats ({why or 'shared'})", off)
    if not behind <= 1e-3:
        return Outcome(family, "wrong", f"an answer is {behind:.2g} nats behind ({why})", off)
    return Outcome(family, "plain" if opened.not_shared else "shared", why, off)


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
    return " ".join(str(error).split())


def reason(outcome: Outcome) -> str:
    """The kind of reason, without what was measured: that differs between processors."""
    text = re.sub(r" by [-+.\de]+ a token", "", outcome.why)
    text = re.sub(r" [-+.\de]+ nats below", " below", text)
    return text.replace("|", "/")


def counted(outcomes: list[Outcome]) -> str:
    """How many families there are of each way."""
    ways = ("shared", "plain", "refused", "wrong", "not built")
    return ", ".join(f"{sum(o.way == way for o in outcomes)} {way}" for way in ways)


def row(outcome: Outcome) -> str:
    """A family's row of the page."""
    return f"| {outcome.family} | {outcome.way} | {reason(outcome)} |"


def rows_shown() -> dict[str, str]:
    """Family -> its row, as the page has them."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    shown = [line for line in lines if line.startswith("| ")][1:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in shown}


def sampled(names: Iterable[str]) -> list[str]:
    """A quarter of the families, the same everywhere; all with HARNESS_ZOO=all (`make zoo`)."""
    return list(names)[:: 1 if os.environ.get("HARNESS_ZOO") == "all" else 4]


def page(outcomes: list[Outcome]) -> str:
    """docs/architectures.md."""
    import transformers

    rows = [row(one) for one in sorted(outcomes, key=lambda o: o.family) if one.way != "not built"]
    return "\n".join(
        [
            "# Architectures",
            "",
            "Each family of causal language models in transformers "
            f"{transformers.__version__}, built tiny and random in float32: log-likelihoods of 30 "
            "requests and five greedy answers are those of one plain forward pass per request, to "
            "1e-3 nats a token. `shared`: what requests begin with alike is computed once; `by its "
            "cache`: copies of transformers' cache go on from it, and answers share nothing. "
            "`plain`: every request runs whole, right but slower. `refused`: an error says why, in "
            "one line. `wrong`: known to differ. "
            "`python tests/zoo/zoo.py --write` makes this page.",
            "",
            f"{counted(outcomes)}.",
            "",
            "| family | way | how, or why not shared |",
            "|---|---|---|",
            *rows,
            "",
            "Not built:",
            "",
            *(f"- {name}: {why}." for name, why in NOT_BUILT.items()),
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
    right = [o for o in outcomes if o.way in {"shared", "plain"}]
    off = max((o.off for o in right), default=0.0)
    print(f"{counted(outcomes)}; largest difference where right: {off:.2g} nats", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
