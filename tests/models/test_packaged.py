"""Pulling packaged models and resolving model names."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from harness.errors import ConfigError, EnvironmentLack, UserError
from harness.models import packaged
from harness.models.packaged import Packaged, content_hash, list_models, pull, resolve_model
from harness.system import hub


def stored(content: str) -> str:
    """A safetensors file of one tensor, as text."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, len(content)]}})
    return chr(len(header)) + 7 * chr(0) + header + content


MODEL = {
    "config.json": '{"model_type": "llama"}',
    "model.safetensors": stored("weights"),
    "tokenizer.json": '{"model": {}}',
    "1_Pooling/config.json": "{}",
    "README.md": "read me",
}


def write_model(folder: Path, files: dict[str, str] = MODEL) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def make_wheel(folder: Path, members: dict[str, str], name: str = "tiny_model") -> Path:
    """A wheel that pip accepts, with `members` beside its metadata."""
    info = f"{name}-1.0.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, text in (members | metadata).items():
            archive.writestr(member, text)
    return wheel


def entry_for(wheel: Path, **changes: object) -> Packaged:
    entry = Packaged(
        alias="tiny",
        model="Tiny",
        kind="sentence-transformer",
        package="tiny-model",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        path="tiny_model/model/",
        licence="Apache-2.0",
        download=wheel.stat().st_size,
        size=100,
    )
    return replace(entry, **changes)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and pip pointed at the folder `index` alone."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path: Path, cache: Path) -> Packaged:
    members = {f"tiny_model/model/{name}": text for name, text in MODEL.items()}
    return entry_for(make_wheel(tmp_path / "index", members | {"tiny_model/__init__.py": "code"}))


def left_in(cache: Path) -> list[str]:
    return sorted(place.name for place in (cache / "models").iterdir())


def test_pull_unpacks_only_the_model_and_reports_progress(tiny: Packaged, cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = pull("tiny", lambda done, total: seen.append((done, total)), models={"tiny": tiny})
    assert folder == cache / "models" / "tiny-1.0"
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert found == {*MODEL, ".pulled.json"}
    assert seen[-1] == (tiny.download, tiny.download)
    assert all(0 <= done <= total for done, total in seen)
    assert left_in(cache) == ["tiny-1.0", "tiny-1.0.hash.json"]


def test_pulling_again_needs_no_index(
    tiny: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pull("tiny", models={"tiny": tiny})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    assert pull("tiny", models={"tiny": tiny}) == first


def plant(folder: Path) -> None:
    """A model folder that no pull made, as somebody with the cache's folder could leave it."""
    write_model(folder)
    content_hash(folder)


def forge(folder: Path) -> None:
    (folder / "model.safetensors").write_text(stored("WEIGHTS"))


def of_another_wheel(folder: Path) -> None:
    receipt = folder / ".pulled.json"
    receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"wheel": "0" * 64}))


@pytest.mark.parametrize(
    ("change", "pulled", "fault"),
    [
        (plant, False, "no pull of this version wrote it"),
        (forge, True, "its files changed since it was pulled"),
        (of_another_wheel, True, "it was made of another wheel"),
    ],
)
def test_a_folder_that_is_not_what_was_pulled_is_refused(
    tiny: Packaged, cache: Path, change: Callable[[Path], None], pulled: bool, fault: str
) -> None:
    if pulled:
        pull("tiny", models={"tiny": tiny})
    change(tiny.folder)
    with pytest.raises(UserError, match=f"{fault}, so it is not used.*harness models pull tiny"):
        pull("tiny", models={"tiny": tiny})
    shutil.rmtree(tiny.folder)
    assert pull("tiny", models={"tiny": tiny}) == tiny.folder, "the advice works"


def test_a_folder_of_the_known_content_needs_no_receipt(tiny: Packaged, cache: Path) -> None:
    write_model(tiny.folder)
    known = replace(tiny, content=content_hash(tiny.folder))
    assert pull("tiny", models={"tiny": known}) == tiny.folder


def test_a_wrong_checksum_keeps_nothing(tiny: Packaged, cache: Path) -> None:
    with pytest.raises(UserError, match=r"sha256.*expected"):
        pull("tiny", models={"tiny": replace(tiny, sha256="0" * 64)})
    assert left_in(cache) == []


def test_a_missing_package_says_what_pip_said(tiny: Packaged, cache: Path) -> None:
    with pytest.raises(EnvironmentLack, match=r"no-such-model==1\.0.*No matching distribution"):
        pull("tiny", models={"tiny": replace(tiny, package="no-such-model")})
    assert left_in(cache) == []


@pytest.mark.parametrize(
    "member", ["tiny_model/model/../../../evil.json", "tiny_model/model/a\\..\\evil.json"]
)
def test_a_path_that_leaves_the_folder_is_refused(member: str, tmp_path: Path, cache: Path) -> None:
    members = {"tiny_model/model/config.json": "{}", member: "evil"}
    entry = entry_for(make_wheel(tmp_path / "index", members))
    with pytest.raises(UserError, match="unsafe path"):
        pull("tiny", models={"tiny": entry})
    assert left_in(cache) == []
    assert not list(tmp_path.rglob("*evil*"))


def test_a_wheel_that_unpacks_to_far_more_than_it_is_is_refused(
    tmp_path: Path, cache: Path
) -> None:
    members = {"tiny_model/model/config.json": "0" * 5_000_000}
    entry = entry_for(make_wheel(tmp_path / "index", members))
    with pytest.raises(UserError, match="unpacks to more than 20 times its size"):
        pull("tiny", models={"tiny": entry})
    assert left_in(cache) == []


def test_a_wheel_without_the_model_is_an_error(tiny: Packaged, cache: Path) -> None:
    with pytest.raises(UserError, match="holds no elsewhere/"):
        pull("tiny", models={"tiny": replace(tiny, path="elsewhere/")})
    assert left_in(cache) == []


def test_too_little_disk_is_said_before_the_download(tiny: Packaged, cache: Path) -> None:
    with pytest.raises(EnvironmentLack, match="HARNESS_CACHE"):
        pull("tiny", models={"tiny": replace(tiny, size=10**18)})
    assert left_in(cache) == []


def test_an_unknown_alias_names_the_nearest(cache: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'smollm2-135m'"):
        pull("smollm2-135")


def test_two_pulls_at_once_both_get_the_folder(tiny: Packaged, cache: Path) -> None:
    code = (
        "import json, sys; from harness.models.packaged import Packaged, pull; "
        "entry = Packaged(**json.loads(sys.argv[1])); print(pull('tiny', models={'tiny': entry}))"
    )
    command = [sys.executable, "-c", code, json.dumps(asdict(tiny))]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {child.communicate(timeout=60)[0].strip() for child in both}
    assert [child.returncode for child in both] == [0, 0]
    assert said == {str(cache / "models" / "tiny-1.0")}
    assert left_in(cache) == ["tiny-1.0", "tiny-1.0.hash.json"]


def test_the_one_that_is_late_keeps_the_folder_of_the_first(
    tiny: Packaged, tmp_path: Path, cache: Path
) -> None:
    first = pull("tiny", models={"tiny": tiny})
    late = write_model(tmp_path / "late", MODEL | {"model.safetensors": stored("other")})
    packaged._publish(late, first)
    assert (first / "model.safetensors").read_text() == stored("weights")


def test_content_hash_is_of_what_the_model_is(cache: Path, tmp_path: Path) -> None:
    one = write_model(tmp_path / "one")
    first = content_hash(one)
    twin = write_model(tmp_path / "twin", MODEL | {"README.md": "other", ".note.json": "x"})
    (twin / "checkpoint-5").mkdir()
    (twin / "checkpoint-5" / "model.safetensors").write_text("older")
    assert content_hash(twin) == first
    renamed = {**MODEL, "model-2.safetensors": MODEL["model.safetensors"]}
    del renamed["model.safetensors"]
    assert content_hash(write_model(tmp_path / "renamed", renamed)) != first
    (one / "tokenizer.json").write_text("[]")
    os.utime(one / "tokenizer.json", (1, 1))
    assert content_hash(one) != first


def test_content_hash_does_not_read_unchanged_files_again(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "model")
    first = content_hash(folder)

    def read(file: Path) -> str:
        raise AssertionError(f"{file} was read again")

    with monkeypatch.context() as patch:
        patch.setattr(hub, "file_sha256", read)
        assert content_hash(folder) == first
    weights = folder / "model.safetensors"
    facts = weights.stat()
    weights.write_text(stored("WEIGHTS"))
    os.utime(weights, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert content_hash(folder) != first, "size and time were kept, the bytes were not"


def test_content_hash_survives_a_broken_side_file(cache: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    first = content_hash(folder)
    for side in (cache / "hashes").iterdir():
        side.write_text("{")
    assert content_hash(folder) == first


def test_a_folder_resolves_to_its_bytes(cache: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "runs" / "mine")
    found = resolve_model("mine", mirror=None, file=tmp_path / "runs" / "experiment.yaml")
    assert (found.name, found.path) == ("mine", str(folder))
    assert found.content_hash == content_hash(folder)
    assert found.revision is None


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no weights"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_an_incomplete_folder_says_what_is_missing(
    gone: str, said: str, cache: Path, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model")
    (folder / gone).unlink()
    file = tmp_path / "e.yaml"
    with pytest.raises(ConfigError, match=said) as caught:
        resolve_model(str(folder), mirror=None, file=file, line=2)
    assert str(caught.value).startswith(f"{file}:2: ")


def test_weights_in_a_pickle_are_refused_and_the_advice_makes_them_safetensors(
    cache: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "pickled"
    shutil.copytree(tiny_model, folder)
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    assert resolve_model(str(folder), mirror=None).path == str(folder)  # safetensors go before
    weights.unlink()
    with pytest.raises(ConfigError, match=r"in a pickle \(pytorch_model.bin\)") as caught:
        resolve_model(str(folder), mirror=None)
    advised = re.search(r'python -c "(.*)" FOLDER', str(caught.value))
    assert advised
    monkeypatch.setattr("sys.argv", ["-c", str(folder)])
    exec(advised[1])
    assert resolve_model(str(folder), mirror=None).path == str(folder)
    assert load_file(weights).keys() == load_file(tiny_model / "model.safetensors").keys()


def test_a_pickle_is_not_opened_where_the_check_is_passed_by(
    tmp_path: Path, tiny_model: Path
) -> None:
    import torch

    from harness.models.language_model import load_weights
    from harness.types import Artifact, ModelRef

    folder = tmp_path / "pickled"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").unlink()
    torch.save(_Evil(tmp_path / "ran"), folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_weights(Artifact("base", ModelRef("evil", str(folder))))
    assert not (tmp_path / "ran").exists()


class _Evil:
    """Makes a folder where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.mark,)


def test_a_missing_shard_is_named(cache: Path, tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    files = {**MODEL, "model-1.safetensors": "a"}
    files["model.safetensors.index.json"] = json.dumps(index)
    folder = write_model(tmp_path / "model", files)
    with pytest.raises(ConfigError, match=r"model-2\.safetensors"):
        resolve_model(str(folder), mirror=None)


def test_an_adapter_is_told_from_a_model(cache: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "a", {"adapter_config.json": "{}", "adapter_model.safetensors": ""})
    with pytest.raises(ConfigError, match="is an adapter"):
        resolve_model(str(tmp_path / "a"), mirror=None)


def test_a_hub_id_is_taken_from_the_mirror(cache: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "mirror" / "some" / "model")
    found = resolve_model("some/model", mirror=tmp_path / "mirror")
    assert found.path == str(folder)
    assert found.content_hash == content_hash(folder)


def test_without_network_an_unknown_name_says_where_it_was_looked_for(
    cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_model("smollm2-135", mirror=None, file=Path("e.yaml"), line=3)
    said = str(caught.value)
    assert said.startswith("e.yaml:3: model 'smollm2-135' cannot be found")
    for part in ("did you mean 'smollm2-135m'", "--mirror DIR", "HF_HUB_OFFLINE", "harness models"):
        assert part in said
    assert "\n" not in said


def test_a_name_that_is_no_hub_id_is_no_such_folder(cache: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        resolve_model("./not/here", mirror=None)


def test_an_alias_that_is_not_pulled_names_the_command(cache: Path) -> None:
    with pytest.raises(EnvironmentLack, match="harness models pull minilm-l6"):
        resolve_model("minilm-l6", mirror=None, pull_missing=False)
    with pytest.raises(ConfigError, match="is a sentence-transformer"):
        resolve_model("minilm-l6", mirror=None, kind="causal-lm-gguf")


def test_list_models_tells_what_is_pulled(cache: Path) -> None:
    rows = {row["alias"]: row for row in list_models()}
    assert rows["smollm2-135m"]["pulled"] is False
    write_model(cache / "models" / "minilm-l6-0.1.0")
    rows = {row["alias"]: row for row in list_models()}
    assert rows["minilm-l6"]["folder"] == str(cache / "models" / "minilm-l6-0.1.0")
    assert rows["minilm-l6"]["licence"] == "Apache-2.0"


@pytest.fixture
def real_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and pip as the user has set it up."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.usefixtures("real_index")
def test_minilm_is_pulled_and_embeds() -> None:
    folder = pull("minilm-l6")
    entry = packaged.registry()["minilm-l6"]
    assert sum(f.stat().st_size for f in folder.rglob("*")) == pytest.approx(entry.size, rel=0.01)
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    cat, kitten, tax = model.encode(["a cat", "a kitten", "the tax office"])
    assert model.similarity(cat, kitten).item() > model.similarity(cat, tax).item() + 0.3


@pytest.mark.slow
@pytest.mark.usefixtures("real_index")
def test_smollm_is_pulled_exactly_and_splits_digits_as_it_was_trained() -> None:
    folder = pull("smollm2-135m")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert content_hash(folder) == packaged.registry()["smollm2-135m"].content
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("\n\n12") == ["ĊĊ", "1", "2"]
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ask = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(
        ask, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])


@pytest.mark.slow
def test_a_file_that_is_no_gguf_keeps_nothing(tiny: Packaged, cache: Path) -> None:
    broken = replace(tiny, kind="causal-lm-gguf", path="tiny_model/model/config.json")
    with pytest.raises(EnvironmentLack, match=r"config\.json cannot be converted.*harness doctor"):
        pull("tiny", models={"tiny": broken})
    assert left_in(cache) == []
