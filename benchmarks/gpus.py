"""Which model and method fit which card, as `harness plan --memory` says: the table of a docs page.

    python benchmarks/gpus.py     # prints it; `make tables` writes it into docs/how-to/gpus.md

Nothing is trained and no GPU is needed: the command predicts by formula from a model's
configuration. --gpu names a card; the models have a configuration and no weights.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from click.testing import CliRunner
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from harness.cli.main import cli

CARDS = (8, 16, 24, 80)
"""GB of memory."""
LENGTH, BATCH = 1024, 8
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
METHODS: dict[str, dict[str, Any]] = {
    "full": {"name": "full"},
    "full, 8-bit AdamW": {"name": "full", "weights": "bf16", "optimizer": "adamw_8bit"},
    "lora": {"name": "lora", "r": 16},
    "qlora": {"name": "qlora", "r": 16},
}


def _shape(model: str, *numbers: int, tied: bool = False) -> dict[str, Any]:
    keys = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    widths = dict(zip(keys, numbers, strict=True))
    return {"model_type": model, **widths, "tie_word_embeddings": tied}


SHAPES: dict[str, dict[str, Any]] = {
    "Qwen2.5-0.5B": _shape("qwen2", 896, 4864, 24, 14, 2, 151936, tied=True),
    "Qwen2.5-1.5B": _shape("qwen2", 1536, 8960, 28, 12, 2, 151936, tied=True),
    "Qwen2.5-3B": _shape("qwen2", 2048, 11008, 36, 16, 2, 151936, tied=True),
    "Qwen2.5-7B": _shape("qwen2", 3584, 18944, 28, 28, 4, 152064),
    "Llama-3.1-8B": _shape("llama", 4096, 14336, 32, 32, 8, 128256),
    "Qwen2.5-14B": _shape("qwen2", 5120, 13824, 48, 40, 8, 152064),
    "Qwen2.5-32B": _shape("qwen2", 5120, 27648, 64, 40, 8, 152064),
    "Llama-3.1-70B": _shape("llama", 8192, 28672, 80, 64, 8, 128256),
}
"""The config.json of each, as its makers published it."""


def plan(folder: Path, shape: Mapping[str, Any], gigabytes: int) -> dict[str, Any]:
    """What `harness plan --memory --json` says of a model of this shape."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model/config.json").write_text(json.dumps(shape), "utf-8")
    save_file({"none": np.zeros(1, np.float32)}, folder / "model/model.safetensors")
    words = Tokenizer(WordLevel({"word": 0, "?": 1}, unk_token="?"))
    words.pre_tokenizer = WhitespaceSplit()
    words.save(str(folder / "model/tokenizer.json"))
    (folder / "model/chat_template.jinja").write_text(TEMPLATE, "utf-8")
    rows = [json.dumps({"text": f"{i} " + "word " * LENGTH}) + "\n" for i in range(BATCH)]
    (folder / "rows.jsonl").write_text("".join(rows), "utf-8")
    methods = [{**method, "label": _plain(label)} for label, method in METHODS.items()]
    experiment = {
        "model": "model",
        "data": {"train": "rows.jsonl"},
        "budget": {"steps": 1, "batch": BATCH, "max_length": LENGTH, "precision": "bf16"},
        "methods": methods,
        "suites": ["perplexity"],
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment), "utf-8")
    before = Path.cwd()
    os.chdir(folder)
    try:
        card = ["--memory", f"{gigabytes}GB", "--gpu", "a card with bf16"]
        done = CliRunner().invoke(cli, ["plan", "experiment.yaml", *card, "--json"])
    finally:
        os.chdir(before)
    if done.exit_code:
        raise SystemExit(done.stderr or repr(done.exception))
    return dict(json.loads(done.stdout))


def said(told: Mapping[str, Any], label: str) -> str:
    """A cell of the table: rows per pass, `1 +gc` with gradient checkpointing, or a dash."""
    label = _plain(label)
    (cell,) = (cell for cell in told["cells"] if cell["label"] == label)
    memory = cell["memory"]
    assert memory["bytes"] is not None, memory["why_not"]
    if memory["largest_micro_batch"]:
        return str(memory["largest_micro_batch"])
    begins = f"{label} does not fit: it does with"
    return "1 +gc" if any(text.startswith(begins) for text in told["advice"]) else "-"


def _plain(label: str) -> str:
    """A label without what labels may not hold."""
    return label.replace(", ", "-").replace(" ", "-")


@functools.cache
def table() -> str:
    """In Markdown."""
    lines = [
        "| model | method | " + " | ".join(f"{card} GB" for card in CARDS) + " |",
        "|---|---|" + "---|" * len(CARDS),
    ]
    with tempfile.TemporaryDirectory() as name:
        for model, shape in SHAPES.items():
            plans = [plan(Path(name), shape, card) for card in CARDS]
            for label in METHODS:
                cells = " | ".join(said(told, label) for told in plans)
                lines.append(f"| {model} | {label} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
