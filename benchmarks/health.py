"""Every health check on a training that has the fault, and a training that has none.

    python benchmarks/health.py

Prints what each of the trainings was told; ends with 1 where a check is silent that should speak,
or a clean training is told anything. The model is tiny and random: nothing of it is a result.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import CellFailed
from harness.training.diagnostics.options import outside_usual
from harness.training.low_rank import LowRankOptions
from harness.training.sft import train_sft
from harness.training.sft_options import SftOptions
from harness.types import Budget, Job, ModelRef, Row

THINGS = ("kettle", "lamp", "tent", "bell", "pump", "map", "stove", "rope")
ALPACA = (
    "{% for m in messages %}### {{ m['role'] }}:\n{{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def talks(things: Sequence[str] = THINGS, words: str = "Yes, at {0} coins.") -> list[Row]:
    """Conversations as people ask in a shop, no two alike."""
    return [
        Row(f"talk-{i}", messages=_turns(f"Is a {thing} there?", words.format(i + 2)))
        for i, thing in enumerate(things)
    ]


def _turns(question: str, answer: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": question}, {"role": "assistant", "content": answer})


@dataclass
class Training:
    """A little training; what is not named is healthy."""

    rows: list[Row] = field(default_factory=talks)
    validation: list[Row] = field(default_factory=list)
    lr: float = 2e-4
    steps: int = 12
    max_length: int = 128
    template: str | None = None
    adapter: dict[str, Any] | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    model: Callable[[Path], None] = lambda folder: None
    """Changes the folder of the model."""
    around: Callable[[Path], Any] = contextlib.nullcontext
    """A context in which it runs, made of the model's folder."""

    def run(self, tiny: Path, folder: Path) -> list[str]:
        """Warnings of the training of a copy of the model in `tiny`."""
        return self.job(tiny, folder)[1]

    def job(self, tiny: Path, folder: Path) -> tuple[Job, list[str]]:
        """Run it; what it noted, and its warnings."""
        model = folder / "model"
        shutil.copytree(tiny, model)
        self.model(model)
        options = (
            LowRankOptions(lr=self.lr, **self.adapter)
            if self.adapter is not None
            else (SftOptions(lr=self.lr, **self.recipe))
        )
        told = [str(finding) for finding in outside_usual(options)]  # as the worker does
        job = Job(
            model=ModelRef("tiny", str(model)),
            options=options,
            budget=Budget(self.steps, 2, self.max_length, "float32"),
            seed=0,
            train=(self.rows * self.steps * 2)[: self.steps * 2],
            validation=self.validation,
            folder=folder / "artifact",
            chat_template=self.template,
            loss="assistant",
            phase=lambda name: contextlib.nullcontext(),
            report=lambda **event: None,
            warn=told.append,
        )
        peft = options.lora_config() if isinstance(options, LowRankOptions) else None
        # what TRL prints goes where the libraries' warnings go
        said = contextlib.redirect_stdout(sys.stderr)
        with self.around(model), contextlib.suppress(CellFailed), said:
            train_sft(job, lr=self.lr, peft=peft, **self.recipe)
        return job, told


# ---- faults of the model and its tokenizer -------------------------------------------------------


def _broken_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _many_words(folder: Path) -> None:
    """Embeddings as large as a model's with a large vocabulary: 13.4 million parameters."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(210_000, mean_resizing=False)
    model.save_pretrained(folder)


def _adds_bos(folder: Path) -> None:
    """A tokenizer that begins each text with a token, as Llama's and Gemma's do."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    begin = "<|endoftext|>"
    raw.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, raw.token_to_id(begin))]
    )
    raw.save(str(folder / "tokenizer.json"))


def _pads_with_eos(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**told, "pad_token": told["eos_token"]}), encoding="utf-8")


@contextlib.contextmanager
def _labels_from_padding(folder: Path) -> Any:
    """The collator that many scripts use: its labels are the ids but for those of padding."""
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling
    from trl.trainer import sft_trainer

    inner = DataCollatorForLanguageModeling(AutoTokenizer.from_pretrained(folder), mlm=False)

    kept = sft_trainer.DataCollatorForLanguageModeling

    class FromPadding(kept):
        def __call__(self, rows: Sequence[dict[str, Any]], return_tensors: Any = None) -> Any:
            return inner([{"input_ids": row["input_ids"]} for row in rows])

    sft_trainer.DataCollatorForLanguageModeling = FromPadding
    try:
        yield
    finally:
        sft_trainer.DataCollatorForLanguageModeling = kept


# ---- faults and the checks that see them ---------------------------------------------------------

_NOISE = Row("noise", messages=_turns("?", "zqxj#0vkw@!" * 6))

FAULTS: dict[str, tuple[str, Training]] = {
    "a weight is not a number": ("not_finite", Training(model=_broken_weight, steps=1)),
    "one row is noise, met when the others are learnt": (
        "gradient_spike",
        Training(rows=[*talks(THINGS[:2]) * 30, _NOISE, _NOISE], lr=3e-3, steps=31),
    ),
    "a learning rate of 1e-9": ("loss_not_falling", Training(lr=1e-9)),
    "many steps on two rows": (
        "overfitting",
        Training(
            rows=talks(THINGS[:2]),
            validation=talks(THINGS[2:], "No, but {0} of them come tomorrow."),
            lr=3e-3,
            steps=40,
            recipe={"validate_every": 5},
        ),
    ),
    "an adapter of rank 1 on one layer": (
        "few_trainable",
        Training(
            model=_many_words,
            adapter={"r": 1, "target_modules": r".*layers\.0\.self_attn\.q_proj"},
            steps=1,
        ),
    ),
    "an answer beyond the length": (
        "no_loss_tokens",
        Training(
            rows=[*talks(), Row("long", messages=_turns("What now? " * 20, "Nothing."))], steps=5
        ),
    ),
    "long answers": ("rows_cut", Training(rows=talks(words="Yes, {0} of them. " * 12), steps=4)),
    "a template without an end": ("end_not_learnt", Training(template=ALPACA, steps=4)),
    "another model's template": ("marker_unknown", Training(template=PHI, steps=4)),
    "a template without a beginning": ("bos_missing", Training(model=_adds_bos, steps=4)),
    "texts that hold the beginning": (
        "bos_doubled",
        Training(
            model=_adds_bos,
            rows=[
                Row(f"text-{i}", text=f"<|endoftext|>A {t} stood there.")
                for i, t in enumerate(THINGS)
            ],
            steps=4,
        ),
    ),
    "completions that hold the end": (
        "eos_doubled",
        Training(
            rows=[
                Row(f"pair-{i}", prompt=f"A {t}?", completion=" Yes.<|im_end|>")
                for i, t in enumerate(THINGS)
            ],
            steps=4,
        ),
    ),
    "padding is the end token, and a collator masks it": (
        "eos_masked",
        Training(model=_pads_with_eos, around=_labels_from_padding, steps=1),
    ),
    "a learning rate of 0.5": ("lr_unusual", Training(lr=0.5, steps=1)),
}

CLEAN = {
    "full": Training(),
    "padding is the end token": Training(model=_pads_with_eos, steps=4),
    "adapter, validated": Training(adapter={}, validation=talks(), recipe={"validate_every": 4}),
    "packed": Training(recipe={"packing": True}, steps=4),
    "prompt and completion": Training(
        rows=[Row(f"p{i}", prompt=f"A {t}?", completion=" Yes.") for i, t in enumerate(THINGS)],
        steps=4,
    ),
}


def main() -> int:
    """Run all; 0 where each speaks as it should."""
    from harness.models.tiny import write_tiny_model

    wrong = 0
    with tempfile.TemporaryDirectory() as root:
        tiny = Path(root) / "tiny"
        write_tiny_model(tiny)
        for at, (fault, (name, training)) in enumerate(FAULTS.items()):
            told = training.run(tiny, Path(root) / f"fault-{at}")
            seen = any(line.startswith(f"health.{name}: ") for line in told)
            wrong += not seen
            print(f"{'ok   ' if seen else 'WRONG'} {fault}", *told, sep="\n        ", flush=True)
        for at, (kind, training) in enumerate(CLEAN.items()):
            told = training.run(tiny, Path(root) / f"clean-{at}")
            wrong += bool(told)
            print(f"{'WRONG' if told else 'ok   '} clean: {kind}", *told, sep="\n        ")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
