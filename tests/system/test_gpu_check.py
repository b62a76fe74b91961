"""What keeps torch from a GPU that is there, and Triton from compiling: found before a run."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import EnvironmentLack, is_out_of_memory
from harness.system import gpu_check, hardware
from harness.system.hardware import Driver, Gpu, Machine, TorchBuild, TorchView

A100 = Gpu("NVIDIA A100", 80 << 30, (8, 0))
HERE = Machine(
    cores=4,
    memory_bytes=16 << 30,
    cpu="some",
    gpus=(A100,),
    torch=TorchBuild("2.13.0", "13.0"),
    driver=Driver((13, 0)),
)
ABLE = TorchView((A100,), ("sm_75", "sm_80", "sm_90", "compute_90"))


def why(machine: Machine, view: TorchView) -> str:
    lack = gpu_check.disagreement(machine, view)
    assert lack is not None
    return f"{lack.why}: {lack.mend}"


def test_nothing_is_wrong_where_torch_sees_what_the_driver_shows() -> None:
    assert gpu_check.disagreement(HERE, ABLE) is None
    # a later minor version of the same major one, and what is compiled when it is needed
    for capability in ((8, 6), (8, 9), (10, 0), (12, 0)):
        later = replace(HERE, gpus=(replace(A100, capability=capability),))
        assert gpu_check.disagreement(later, ABLE) is None
    assert gpu_check.lack_of(replace(HERE, gpus=())) is None
    assert gpu_check.lack_of(replace(HERE, torch=TorchBuild("2.13.0+cpu", None))) is None


def test_a_driver_older_than_torch_is_told_with_what_to_install() -> None:
    old = replace(HERE, driver=Driver((12, 4)))
    told = why(old, TorchView())
    assert told.startswith(
        "torch 2.13.0 (CUDA 13.0) needs a newer driver: this one is for CUDA 12.4"
    )
    assert told.endswith("--index-url https://download.pytorch.org/whl/cu128")
    older = why(replace(HERE, driver=Driver((11, 8))), TorchView())
    assert older.endswith("update the NVIDIA driver to one for CUDA 13.0")
    # within a major version an older driver does: there is another reason, which torch may tell
    same = replace(HERE, torch=TorchBuild("2.13.0", "12.8"), driver=Driver((12, 4)))
    assert "cannot use the NVIDIA A100: no permission" in why(
        same, TorchView(reason="no permission")
    )


def test_a_card_that_torch_has_no_code_for_is_told() -> None:
    volta = replace(HERE, gpus=(Gpu("Tesla V100", 16 << 30, (7, 0)),))
    assert "no code for the Tesla V100 (sm_70): sm_75, sm_80" in why(volta, ABLE)
    assert why(volta, ABLE).endswith("whl/cu126")
    newer = replace(HERE, gpus=(replace(A100, capability=(9, 0)),))
    assert "no code for" in why(newer, replace(ABLE, compiled_for=("sm_75", "sm_80")))


def test_a_run_is_refused_where_torch_cannot_use_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the torch that is installed, on a machine that hides its GPUs or has none."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hardware.torch_view.cache_clear()
    monkeypatch.setattr(hardware, "facts", lambda: HERE)
    with pytest.raises(EnvironmentLack, match=r"cannot use the NVIDIA A100.*CUDA_VISIBLE_DEVICES="):
        gpu_check.check_device()
    hardware.torch_view.cache_clear()


def test_a_driver_that_does_not_answer_stops_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Driver(fault="the CUDA driver did not answer within 60 s", answered=False)
    monkeypatch.setattr(hardware, "facts", lambda: replace(HERE, gpus=(), driver=silent))
    with pytest.raises(EnvironmentLack, match="did not answer within 60 s: wait until nvidia-smi"):
        gpu_check.check_device()


def lack_here() -> str:
    gpu_check.compiler_lack.cache_clear()
    lack = gpu_check.compiler_lack()
    gpu_check.compiler_lack.cache_clear()
    return f"{lack.why}: {lack.mend}" if lack else ""


@pytest.mark.skipif(sys.platform == "win32", reason="Triton compiles so on Linux")
def test_tritons_compiler_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    found = shutil.which("gcc") or shutil.which("clang")
    with monkeypatch.context() as bare:
        bare.setenv("PATH", str(tmp_path))
        assert lack_here().startswith("no C compiler (gcc, clang or $CC)")
        assert "apt-get install gcc" in lack_here()
    with monkeypatch.context() as broken:
        broken.setenv("CC", "/bin/false")
        assert "the C compiler /bin/false fails" in lack_here()
        broken.setenv("CC", str(tmp_path / "gone"))
        assert lack_here().endswith("does not start (No such file or directory): unset CC")
    if found is None:
        pytest.skip("no C compiler")
    with monkeypatch.context() as headless:
        paths = {"include": str(tmp_path)}
        headless.setattr(gpu_check.sysconfig, "get_paths", lambda scheme: paths)
        assert f"no Python.h in {tmp_path}" in lack_here()


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "CUDA error: CUSPARSE_STATUS_ALLOC_FAILED when calling `cusparseCreate(handle)`",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        "HIP error: HIPBLAS_STATUS_ALLOC_FAILED",
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes",
        "std::bad_alloc",
    ],
)
def test_texts_of_memory_that_ran_out(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
        "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR",
        "CUDA error: device-side assert triggered",
    ],
)
def test_texts_of_other_faults(text: str) -> None:
    assert not is_out_of_memory(RuntimeError(text))
