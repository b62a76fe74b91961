"""The tiny model of the tests as a GGUF file that llama.cpp serves, whole or with planted faults.

llama.cpp's own converter knows tokenizers by a hash, and not one that a test has trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(
    path: Path,
    model: Path,
    *,
    architecture: str = "llama",
    template: str | None = None,
    eos: str = "<|im_end|>",
    renamed: tuple[str, str] | None = None,
    add_bos: bool = False,
    **strings: str,
) -> Path:
    """Write a folder of transformers with a small Llama and a byte-pair tokenizer as GGUF.

    `template` takes the place of its chat template, `renamed` gives a token another text, and
    `strings` are further entries of the header, with `__` for a dot.
    """
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_type("model")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index(eos))
    writer.add_add_bos_token(add_bos)
    writer.add_chat_template(template or (model / "chat_template.jinja").read_text())
    before, after = renamed or ("", "")
    writer.add_token_list([after if token == before else token for token in tokens])
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([_merge(merge) for merge in tokenizer["merges"]])
    for key, value in strings.items():
        writer.add_string(key.replace("__", "."), value)
    for name, weights in load_file(model / "model.safetensors").items():
        writer.add_tensor(_name(name), _rotated(name, weights, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_lora(path: Path, model: Path) -> Path:
    """Write a LoRA file of rank 2 with random deltas of the first layer's value projection."""
    import gguf
    import numpy as np

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    width = config["hidden_size"]
    out = width * config["num_key_value_heads"] // config["num_attention_heads"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0)
    random = np.random.default_rng(0)
    for part, shape in (("a", (2, width)), ("b", (out, 2))):
        values = random.normal(0, 1, shape).astype(np.float32)
        writer.add_tensor(f"blk.0.attn_v.weight.lora_{part}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return f"{_NAMES[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_NAMES[part]}.weight"


def _rotated(name: str, weights: Any, config: dict[str, Any]) -> Any:
    """A weight; those that RoPE turns in ggml's order, pairs side by side."""
    import numpy as np

    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    part = name.split(".")[-2]
    weights = weights.astype(np.float32)
    if part not in heads:
        return weights
    rows, columns = weights.shape
    count = config[heads[part]]
    halves = weights.reshape(count, 2, rows // count // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def _merge(merge: Any) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)
