"""Shared by all tests: a tiny random model, little experiments, and the `harness` command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

from tests.faults import tally
from tests.warm import Warm

os.environ["HF_HUB_OFFLINE"] = "1"
if not os.environ.get("HARNESS_TEST_GPU"):
    # The tests compare with a CPU's arithmetic, and models with inputs that lie on the CPU.
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # a tiny model's threads would only wait for each other

# The same examples every time, on machines of any speed; `make faults` tries many more.
settings.register_profile(
    "usual",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.register_profile("faults", settings.get_profile("usual"), max_examples=1000)
settings.load_profile("usual")

ROOT = Path(__file__).parent.parent

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

THINGS = ("kettle", "lamp", "tent", "bell", "pump", "map", "stove", "rope")
COLOURS = ("red", "green", "blue")


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "Write the counts of injected faults there."
    parser.addoption("--faults-json", metavar="FILE", default=None, help=help)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        tally.begin()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tally.report(terminalreporter, terminalreporter.config.getoption("--faults-json"))


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        tally.end()


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line that a user error is."""
        (line,) = self.stderr.splitlines()
        return line


def conversations() -> list[dict[str, Any]]:
    """24 training conversations, no two alike."""
    return [
        {
            "messages": [
                {"role": "system", "content": "You answer for a small shop."},
                {"role": "user", "content": f"Do you sell a {colour} {thing}?"},
                {"role": "assistant", "content": f"Yes, the {colour} {thing} costs {i + 3} coins."},
            ]
        }
        for i, (thing, colour) in enumerate((t, c) for t in THINGS for c in COLOURS)
    ]


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# ---- models --------------------------------------------------------------------------------------


def _tokenizer(template: str | None) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [turn["content"] for row in conversations() for turn in row["messages"]]
    # A text of its own: how long a test's texts are in tokens does not change with shipped data.
    shop = (ROOT / "tests/tokenizer_text.jsonl").read_text(encoding="utf-8")
    raw.train_from_iterator([*texts, *shop.splitlines(), "system user assistant"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=template,
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama and a ChatML tokenizer whose padding is its EOS."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = _tokenizer(CHATML)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def judging_model(tiny_model: Path) -> Path:
    """The same weights, which attend to enough tokens for what a judge is asked."""
    folder = tiny_model.with_name("judging")
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return folder


@pytest.fixture(scope="session")
def tiny_model_without_template(tiny_model: Path) -> Path:
    """The same weights, and a tokenizer that knows no conversations."""
    folder = tiny_model.with_name("tiny-without-template")
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    _tokenizer(None).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="session")
def tiny_artifact(tiny_model: Path) -> Any:
    """The untouched tiny model in float32."""
    from harness.types import Artifact, ModelRef

    return Artifact("base", ModelRef("tiny", str(tiny_model)))


# ---- experiments ---------------------------------------------------------------------------------

_TASK = """\
task: tiny_choice
custom_dataset: !function tiny_choice.questions
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: answer
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""

_QUESTIONS = """\
from pathlib import Path

import datasets


def questions(**_):
    file = Path(__file__).with_suffix(".jsonl")
    return {"test": datasets.Dataset.from_json(str(file))}
"""


def _choices() -> list[dict[str, Any]]:
    return [
        {"question": f"Which colour has the {t}?", "choices": list(COLOURS), "answer": i % 3}
        for i, t in enumerate(THINGS)
    ]


def write_suites(folder: Path) -> list[str]:
    """One suite of each way of asking, with its data; their names."""
    asked = [
        {"id": f"{thing}", "prompt": f"Is the {thing} here?", "reference": f"The {thing} is here."}
        for thing in THINGS
    ]
    write_jsonl(folder / "asked.jsonl", asked)
    write_jsonl(folder / "choices.jsonl", _choices())
    write_jsonl(folder / "tasks/tiny_choice.jsonl", _choices())
    (folder / "tasks/tiny_choice.yaml").write_text(_TASK)
    (folder / "tasks/tiny_choice.py").write_text(_QUESTIONS)
    write_jsonl(folder / "chats.jsonl", conversations()[::4])
    write_jsonl(folder / "plain.jsonl", [{"text": f"The {t} stood by the door."} for t in THINGS])
    suites: dict[str, dict[str, Any]] = {
        "predicts": {"ask": "perplexity", "data": {"chats": "chats.jsonl", "plain": "plain.jsonl"}},
        "answers": {
            "ask": "generate",
            "data": "asked.jsonl",
            "max_new_tokens": 8,
            "scorers": ["exact_match", "rougeL"],
        },
        "picks": {"ask": "choice", "data": "choices.jsonl"},
        "tasks": {
            "ask": "lm-eval",
            "include_path": "tasks",
            "trust_task_code": True,
            "tasks": ["tiny_choice"],
        },
    }
    for name, suite in suites.items():
        text = yaml.safe_dump({"name": name, "version": 1, **suite}, sort_keys=False)
        (folder / f"{name}.yaml").write_text(text)
    return list(suites)


@dataclass(frozen=True)
class Experiment:
    """An experiment in a folder of its own, and where its results go."""

    folder: Path
    content: dict[str, Any]

    @property
    def file(self) -> Path:
        return self.folder / "experiment.yaml"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def write(self, **changes: Any) -> Experiment:
        """The same experiment with other top-level keys; None removes a key."""
        content = {k: v for k, v in {**self.content, **changes}.items() if v is not None}
        self.file.write_text(yaml.safe_dump(content, sort_keys=False))
        return Experiment(self.folder, content)

    def records(self) -> dict[str, dict[str, Any]]:
        """Label and seed -> record, of all cells recorded so far."""
        found = {}
        for file in sorted((self.out / "cells").glob("*.json")):
            record = json.loads(file.read_text())
            found[f"{record['plan']['label']}-{record['plan']['seed']}"] = record
        return found


def write_experiment(folder: Path, model: Path, **changes: Any) -> Experiment:
    """A small experiment on `model`: 24 rows, two steps, four suites, and the base alone."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "train.jsonl", conversations())
    content = {
        "name": "small",
        "model": str(model),
        "data": {"train": "train.jsonl", "validation": 4},
        "budget": {"steps": 2, "batch": 2, "max_length": 96, "precision": "float32"},
        "methods": ["base"],
        "suites": write_suites(folder),
    }
    return Experiment(folder, content).write(**changes)


@pytest.fixture
def experiment(tmp_path: Path, tiny_model: Path) -> Callable[..., Experiment]:
    """`experiment(methods=[...])` writes a small experiment in `tmp_path`."""
    return lambda **changes: write_experiment(tmp_path, tiny_model, **changes)


# ---- plugins -------------------------------------------------------------------------------------


def write_distribution(folder: Path, module: Path, name: str) -> Path:
    """Put a plugin in `folder` as an installer would: its code, and metadata with its entry point.

    A folder that stands on the import path is all that a distribution needs to be found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if module.is_dir():
        shutil.copytree(module, folder / module.name, dirs_exist_ok=True)
    else:
        shutil.copy(module, folder)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[harness]\n{name} = {module.stem}\n")
    return folder


@pytest.fixture
def install_by_hand(tmp_path: Path) -> Callable[[str], Path]:
    """`install_by_hand("twin")` installs tests/sample_plugins/twin.py; the folder."""
    return lambda name: write_distribution(
        tmp_path / "site", ROOT / "tests/sample_plugins" / f"{name}.py", name
    )


# ---- the command ---------------------------------------------------------------------------------


def run_harness(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Ran:
    """`harness arguments...` as a process of its own."""
    paths = [str(ROOT), *filter(None, [(env or {}).get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *map(str, arguments)],
        cwd=cwd or ROOT,
        env={**os.environ, **(env or {}), "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def harness() -> Callable[..., Ran]:
    """`harness("plan", file)` runs the command and returns code, stdout and stderr."""
    return run_harness


# ---- results -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """An executor that saves the seconds of importing torch in each cell."""
    site = tmp_path_factory.mktemp("warm")
    for name in ("trouble", "narrow", "wild"):
        write_distribution(site, ROOT / "tests/sample_plugins" / f"{name}.py", name)
    executor = Warm(site)
    yield executor
    executor.close()


@pytest.fixture(scope="session", autouse=True)
def warm_early(request: pytest.FixtureRequest) -> None:
    """Let it import while the first tests run."""
    if any("warm" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("warm")


def run_warm(
    small: Experiment,
    executor: Warm,
    told: Callable[..., None] = lambda cell, event: None,
    **settings: Any,
) -> Any:
    """Run an experiment without the command line; the Outcome. `told` gets each cell's events."""
    from harness.config.experiment import load_experiment
    from harness.manager import Plugins
    from harness.planning.plan import Settings, make_plan
    from harness.runner.run import run_plan

    plan = make_plan(load_experiment(small.file), Plugins(), Settings(**settings))
    return run_plan(plan, small.out, executor, told)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, warm: Warm) -> Experiment:
    """An experiment that ran: four methods, two seeds of LoRA, four suites. Read it, no more."""
    small = write_experiment(
        tmp_path_factory.mktemp("finished"),
        tiny_model,
        methods=["base", "full", {"name": "lora", "r": 4}, {"name": "qlora", "r": 4}],
        seeds=[0, 1],
    )
    outcome = run_warm(small, warm)
    logs = {cell: (small.out / "logs" / f"{cell}.log").read_text() for cell in outcome.failed}
    assert not logs, logs
    return small


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """Where tests run in the background SIGINT is ignored, and a run keeps to that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
