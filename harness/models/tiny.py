"""A tiny model made in code: random weights, bytes for tokens. Its answers mean nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = ["NAME", "write_tiny_model"]

NAME = "tiny"

_CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LENGTH = 8192
"""Tokens of its context: bytes are many, and few-shot prompts are to fit."""


def write_tiny_model(folder: Path) -> None:
    """Writes a Llama of two layers, 64 wide, and its tokenizer: the same bytes every time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=_LENGTH,
        # Wide enough that answers to two prompts differ.
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    # A logit of zero is never the largest, so what it says can be printed.
    with torch.no_grad():
        model.lm_head.weight[_unprintable(tokenizer)] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _unprintable(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of all tokens but printable ASCII, blanks and the end of a turn."""
    printable = {*map(chr, range(33, 127)), "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}"}
    printable.add(tokenizer.eos_token)
    return [i for text, i in tokenizer.get_vocab().items() if text not in printable]


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token for each byte, three special ones, and the ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(vocabulary)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=special[0],
        eos_token=special[2],
        pad_token=special[0],
        additional_special_tokens=[special[1]],
        chat_template=_CHATML,
        clean_up_tokenization_spaces=False,
    )
