"""The Hub: reachability, revisions and data sets, against a real little server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.errors import EnvironmentLack, UserError
from harness.system import hub

COMMIT = "a" * 40


class _Hub(BaseHTTPRequestHandler):
    """Answers for the model and the data set `some/thing`, and knows nothing else."""

    def do_GET(self) -> None:
        known = self.path.split("?")[0] in {"/api/models/some/thing", "/api/datasets/some/thing"}
        body = json.dumps({"id": "some/thing", "sha": COMMIT} if known else {"error": "none"})
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield address
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "cache"


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def ask(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own: the Hub's client reads its endpoint when imported."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_reachable_follows_the_endpoint_and_the_offline_switch(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.reachable()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub.reachable()
    assert "HF_HUB_OFFLINE" in hub.why_unreachable()


def test_a_port_that_nobody_listens_on_is_not_reachable(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{held.getsockname()[1]}")
        assert not hub.reachable()


def test_a_silent_network_costs_no_more_than_the_timeout(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://192.0.2.1:9")  # TEST-NET-1: nobody answers
    start = time.monotonic()
    assert not hub.reachable(timeout=0.3)
    assert time.monotonic() - start < 30, "a connection without a limit waits for minutes"


def test_a_proxy_stands_for_the_hub(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert not hub.reachable()
    monkeypatch.setenv("http_proxy", endpoint)
    assert hub.reachable()


@pytest.mark.usefixtures("cache")
def test_a_hub_model_gets_the_commit_of_its_branch(endpoint: str) -> None:
    done = ask(
        "import sys; from harness.models.packaged import resolve_model; "
        "found = resolve_model('some/thing', mirror=None); "
        "print(found.path, found.revision, found.content_hash, "
        "'torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert done.stdout.split() == ["some/thing", COMMIT, "None", "False"], done.stderr


@pytest.mark.usefixtures("cache")
def test_what_the_hub_has_not_is_an_error_with_the_mend(endpoint: str) -> None:
    done = ask(
        "from harness.models.packaged import resolve_model;resolve_model('some/other', mirror=None)"
    )
    last = done.stderr.splitlines()[-1]
    assert "ConfigError: model 'some/other': the Hub has none" in last
    assert "hf auth login" in last


@pytest.mark.usefixtures("cut_off")
def test_a_model_in_the_hugging_face_cache_keeps_its_commit(cache: Path, tmp_path: Path) -> None:
    home = tmp_path / "hf" / "hub" / "models--some--model"
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "tokenizer.json").write_text("{}")
    code = "from harness.system.hub import cached_commit; print(cached_commit('some/model', ''))"
    assert ask(code).stdout.strip() == "None", "half a download is not a model"
    (snapshot / "model.safetensors").write_text("")
    assert ask(code).stdout.strip() == COMMIT
    pinned = code.replace("''", f"'{'b' * 40}'")
    assert ask(pinned).stdout.strip() == "None"


@pytest.mark.usefixtures("cut_off")
def test_a_model_in_the_hugging_face_cache_is_read_as_a_folder_is(
    cache: Path, tmp_path: Path, tiny_model: Path
) -> None:
    home = tmp_path / "hf" / "hub" / "models--some--model"
    snapshot = home / "snapshots" / COMMIT
    shutil.copytree(tiny_model, snapshot)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    code = (
        "from harness.models import families; from harness.models.packaged import resolve_model; "
        "model = resolve_model('some/model', mirror=None); print(model.revision); "
        "families.check_answers(model, 256, 'max_new_tokens', 'set it to less')"
    )
    done = ask(code)
    assert done.stdout.strip() == COMMIT, done.stderr
    said = "UserError: max_new_tokens: 256 leaves no room for a question in the context of 256"
    assert said in done.stderr.splitlines()[-1]
    (snapshot / "tokenizer.json").write_text("[]")
    last = ask(code).stderr.splitlines()[-1]
    assert "model 'some/model': its copy in the Hugging Face cache (" in last
    assert "has a tokenizer.json that holds a list instead of an object: download it again" in last


@pytest.mark.usefixtures("cut_off")
def test_a_data_set_of_the_mirror_becomes_jsonl(cache: Path, tmp_path: Path) -> None:
    rows = [{"text": f"Zeile {n} – ä", "n": n} for n in range(3)]
    place = tmp_path / "mirror" / "some" / "thing"
    place.mkdir(parents=True)
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = hub.fetch_dataset("some/thing", None, "train", mirror=tmp_path / "mirror")
    assert found.is_relative_to(cache)
    assert [json.loads(line) for line in found.read_text("utf-8").splitlines()] == rows
    written = found.stat().st_mtime_ns
    assert hub.fetch_dataset("some/thing", None, "train", mirror=tmp_path / "mirror") == found
    assert found.stat().st_mtime_ns == written, "the second time it comes from the cache"
    with pytest.raises(UserError, match=r"'some/thing'.*split test.*cannot be loaded"):
        hub.fetch_dataset("some/thing", None, "test", mirror=tmp_path / "mirror")
    assert not [left for left in cache.rglob(".*") if left.is_file()]


@pytest.mark.usefixtures("cut_off")
def test_a_data_set_without_network_names_the_mirror(cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        hub.fetch_dataset("some/thing", "en", "train")
    said = str(caught.value)
    assert "'some/thing' (config en, split train) cannot be loaded" in said
    assert "HF_HUB_OFFLINE" in said
    assert said.endswith("--mirror DIR")
    assert "\n" not in said


@pytest.mark.usefixtures("cut_off")
def test_without_network_the_newest_copy_serves(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError):
        hub.fetch_dataset("some/thing", None, "train")
    (folder,) = (cache / "datasets").iterdir()
    for age, commit in ((20, "b" * 40), (10, COMMIT)):
        copy = folder / f"{commit}.jsonl"
        copy.write_text("{}\n")
        os.utime(copy, (time.time() - age,) * 2)
    assert hub.fetch_dataset("some/thing", None, "train").stem == COMMIT


def test_a_cache_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentLack, match="HARNESS_CACHE"):
        hub.make_cache(tmp_path / "file" / "cache")


def test_weights_edited_with_their_size_and_time_kept_have_another_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"0000")
    before, facts = hub.content_hash(weights.parent), weights.stat()
    assert hub.content_hash(weights.parent) == before
    time.sleep(0.05)  # beyond a tick of the file system's clock
    weights.write_bytes(b"1111")
    os.utime(weights, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert hub.content_hash(weights.parent) != before
