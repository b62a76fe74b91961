"""The packaged model with a LoRA, shipped as GGUF files under llama.cpp; four planted faults."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.export import gguf
from harness.parity import observing, shipped, worker
from harness.parity.causes import causes
from harness.parity.observing import Own, Prompt
from harness.parity.seen import USUAL
from harness.types import Artifact, ModelRef

pytestmark = [pytest.mark.slow, pytest.mark.long]
ALIAS = "smollm2-135m"
LIMITS = USUAL["float32"]
QUESTIONS = (
    "What is the capital of France?",
    "Say hello.",
    "Is water wet? Answer yes or no.",
    "How many days has a week?",
    "What is two plus two?",
    "Is the sun a star? Answer briefly.",
)
ALPACA = (
    "{% for message in messages %}### {{ message['role'] }}:\n{{ message['content'] }}\n\n"
    "{% endfor %}### assistant:\n"
)


@pytest.fixture(scope="module")
def base() -> Artifact:
    from harness.models import packaged

    return Artifact("base", ModelRef(ALIAS, str(packaged.pull(ALIAS))))


@pytest.fixture(scope="module")
def cell(base: Artifact, tmp_path_factory: Any) -> Artifact:
    """A LoRA on every layer, as far from the base as a short training leads."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base.base.path), config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(folder)
    return replace(base, kind="adapter", path=str(folder))


@pytest.fixture(scope="module")
def files(base: Artifact, cell: Artifact, tmp_path_factory: Any) -> dict[str, Path]:
    """The merge as F16 and Q8_0, and the base as F16."""
    from transformers import AutoTokenizer

    from harness.export.merge_worker import merge

    pytest.importorskip("xllamacpp")
    pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("gguf")
    merge(cell).save_pretrained(folder / "merged")
    AutoTokenizer.from_pretrained(base.base.path).save_pretrained(folder / "merged")
    found = {}
    for name, source, kind in (
        ("f16", folder / "merged", "f16"),
        ("q8_0", folder / "merged", "q8_0"),
        ("base", Path(base.base.path), "f16"),
    ):
        found[name] = folder / f"{name}.gguf"
        gguf.convert(gguf.converter(None), source, kind, found[name], name)  # type: ignore[arg-type]
    return found


@pytest.fixture(scope="module")
def template(base: Artifact) -> str:
    return (Path(base.base.path) / "chat_template.jinja").read_text(encoding="utf-8")


@pytest.fixture
def named(cell: Artifact, base: Artifact, monkeypatch: Any) -> Any:
    """`named(FILE, **fault)`: the causes that are named, and what was seen."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(worker, "_opened", _kept)
    # a few short answers tell as well, in less time
    monkeypatch.setattr(observing, "REPEATS", 2)
    monkeypatch.setattr(observing, "ENDED", 3)
    monkeypatch.setattr(observing, "LONG", 48)
    prompts = [
        Prompt("asked", f"{i}", "", 10, messages=({"role": "user", "content": text},))
        for i, text in enumerate(QUESTIONS)
    ]

    def name(file: Path, **fault: Any) -> tuple[list[str], worker.Result]:
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(file)
        parameters.n_ctx, parameters.n_parallel, parameters.verbosity = 2048, 2, 0
        for pool in (parameters.cpuparams, parameters.cpuparams_batch):
            pool.n_threads, pool.poll = 1, 0
        parameters.sampling.ignore_eos = bool(fault.pop("ignore_eos", False))
        for key, value in fault.items():
            setattr(parameters, key, value)
        server = xllamacpp.Server(parameters)
        form = shipped.served(f"{server.listening_address}/v1", None, None)
        task = worker.Task(cell, form, prompts, LIMITS, base=base)
        result = worker.carry_out(task, lambda **event: None)
        json.dumps(worker.as_json(result))
        found = causes(result.seen, LIMITS, bos=result.bos, quantisation=result.form.quantisation)
        return [cause.name for cause in found], result

    return name


_MODELS: dict[str, Own] = {}


@contextmanager
def _kept(artifact: Artifact, batch: int | None) -> Any:
    """A model that stays open for all the checks."""
    from harness.manager import plugins

    key = artifact.kind
    if key not in _MODELS:
        _MODELS[key] = Own(plugins().open_model(artifact, batch))
    yield _MODELS[key]


def test_a_file_that_rounds_to_16_bits_is_the_same(named, files):
    causes, result = named(files["f16"])
    assert causes == ["same"]
    assert (result.form.engine, result.form.quantisation) == ("llama.cpp", "F16")


def test_a_file_of_8_bits_is_quantised_and_nothing_else(named, files):
    causes, result = named(files["q8_0"])
    assert causes == ["quantisation only"]
    assert result.form.quantisation == "Q8_0"


def test_four_planted_faults_are_named(named, files, template):
    assert named(files["base"])[0] == ["adapter not applied"]
    assert named(files["f16"], chat_template=ALPACA)[0] == ["other chat template"]
    assert named(files["f16"], chat_template=f"<|im_start|>{template}")[0] == ["BOS doubled"]
    assert named(files["f16"], ignore_eos=True)[0] == ["stop token missing"]
