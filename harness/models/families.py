"""Properties of a model family, by the configuration's `model_type`, before anything is loaded."""

from __future__ import annotations

import json
from typing import Any

from harness.errors import UserError
from harness.system.hub import cached_folder
from harness.types import ModelRef

CONTAMINATING = frozenset(
    {
        *("afmoe", "bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus", "biogpt"),
        *("blenderbot", "blenderbot-small", "bloom", "camembert", "cpmant", "data2vec-text"),
        *("deepseek_v4", "electra", "ernie", "falcon", "falcon_mamba", "gpt_oss"),
        *("inkling2_text", "inkling_text", "jamba", "lfm3", "mamba", "mamba2", "marian"),
        *("mbart", "megatron-bert", "minimax", "mpt", "mvp", "openai-gpt", "opt", "pegasus"),
        *("plbart", "recurrent_gemma", "rembert", "roberta", "roberta-prelayernorm"),
        *("roc_bert", "roformer", "rwkv", "trocr", "xglm", "xlm", "xlm-roberta"),
        *("xlm-roberta-xl", "blt", "prophetnet", "reformer", "xlnet", "xlstm", "xmod", "zaya"),
    }
)
"""Families whose packed rows depend on the rows before them, measured in transformers 5 (a test
measures it again): linear biases (ALiBi), positions or masks that are not made from `position_ids`,
and states that go on from row to row."""

LIMITED = frozenset(
    {
        *("bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus", "biogpt"),
        *("blenderbot", "blenderbot-small", "camembert", "codegen", "ctrl", "data2vec-text"),
        *("electra", "ernie", "git", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "marian"),
        *("mbart", "megatron-bert", "mpt", "mvp", "openai-gpt", "opt", "pegasus", "plbart"),
        *("rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "trocr", "xlm"),
        *("xlm-roberta", "xlm-roberta-xl", "prophetnet", "reformer", "xmod"),
    }
)
"""Families that cannot run more tokens than they have positions, measured likewise: each position
has an embedding, learned or computed once. Rotary positions go on."""

_NOT_TRAINED = frozenset({"llama4", "llama4_text"})
"""Families that TRL's recipe cannot train: it does not find the body of Llama 4's text model, nor
how many experts it has (TRL 1.16, transformers 5)."""

_READ_WEIGHTS = frozenset({"mamba"})
"""Families whose code multiplies with a linear layer's weight itself, which in 4 or 8 bits is
packed. Falcon-Mamba and Jamba do so too, and call the layer where they are quantised."""

_FROM_PADDING = frozenset(
    {
        *("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta"),
        *("xlm-roberta-xl", "xmod"),
    }
)
"""Those of them that count positions from the padding token's id on."""
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len")


def longest(text_config: Any) -> int:
    """The most tokens that a model attends to, by its text model's configuration.

    2048 where it states none, or no limit, as XLNet's.
    """
    stated = int(getattr(text_config, "max_position_embeddings", None) or 2048)
    return stated if stated >= 0 else 2048


def check_packing(model: ModelRef) -> None:
    """Raise UserError where rows of the model's family attend to each other when packed.

    Silent for an unknown family: `packing.check_rows` measures it on the loaded model.
    """
    kind = _family(model)
    if kind in CONTAMINATING:
        raise UserError(
            f"packing: in models of type {kind} packed rows depend on the rows before them: "
            "set packing: false"
        )


def check_trainable(model: ModelRef) -> None:
    """Raise UserError where the recipe for fine-tuning cannot train the model's family."""
    kind = _family(model)
    if kind in _NOT_TRAINED:
        raise UserError(
            f"models of type {kind} can be evaluated and not trained: TRL, which trains here, does "
            "not find their parts; take another model, or the method base alone"
        )


def check_quantized(model: ModelRef) -> None:
    """Raise UserError where the model's family does not run with its weights in 4 or 8 bits."""
    kind = _family(model)
    if kind in _READ_WEIGHTS:
        raise UserError(
            f"models of type {kind} cannot be quantised by bitsandbytes: their code multiplies "
            "with a layer's own weight, which would be packed; take lora or dora without "
            "quant_type, or full"
        )


def check_length(model: ModelRef, length: int) -> None:
    """Raise UserError where rows of `length` tokens are longer than the model has positions."""
    limit = positions(model)
    if limit is not None and length > limit:
        raise UserError(
            f"max_length {length} is beyond the {limit} positions of model '{model.name}', which "
            f"has an embedding for each: set max_length to {limit} or less"
        )


def check_answers(model: ModelRef, cap: int, source: str, fix: str) -> None:
    """Raise UserError where answers of `cap` new tokens leave no room for a question.

    `source` names the setting. Silent where no config.json has the model's context length; the
    tokens of an adapter are known only once it is opened.
    """
    config = _config(model)
    context = config.get("max_position_embeddings", config.get("n_positions"))
    if isinstance(context, int) and 0 < context <= cap:
        raise UserError(
            f"{source}: {cap} leaves no room for a question in the context of {context} tokens of "
            f"model '{model.name}': {fix}"
        )


def positions(model: ModelRef) -> int | None:
    """Tokens that fit in a model with one embedding for each position; None where none limit it."""
    config = _config(model)
    kind = str(config.get("model_type"))
    lengths = [config[name] for name in _LENGTHS if isinstance(config.get(name), int)]
    if kind not in LIMITED or not lengths:
        return None
    padding = config.get("pad_token_id")
    reserved = padding + 1 if kind in _FROM_PADDING and isinstance(padding, int) else 0
    return int(lengths[0]) - reserved


def _family(model: ModelRef) -> str:
    """The `model_type` of a model's configuration; `None` as text where none is read."""
    return str(_config(model).get("model_type"))


def _config(model: ModelRef) -> dict[str, Any]:
    """A model's configuration, its text model's where it has several; empty where none is read."""
    folder = cached_folder(model)
    try:
        config = json.loads((folder / "config.json").read_text("utf-8")) if folder else {}
    except (OSError, ValueError):
        return {}
    if not isinstance(config, dict):
        return {}
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) and "model_type" in inner else config
