"""What the machine is said to be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.system import hardware
from harness.system.hardware import (
    Driver,
    Gpu,
    Machine,
    TorchBuild,
    check_precision,
    default_precision,
)

CPU = Machine(cores=2, memory_bytes=8 << 30, cpu="some", torch=TorchBuild("2.13.0+cpu", None))
CUDA = TorchBuild("2.13.0", "13.0")

LIBCUDA = r"""
#include <string.h>
#include <stddef.h>
#ifdef SLEEPS
#include <unistd.h>
#endif
#ifndef FAILS
#define FAILS 0
#endif
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuInit(unsigned flags) {
#ifdef SLEEPS
    sleep(60);
#endif
    return FAILS;
}
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 7 + ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device == 7 ? "Busy GPU" : "Some GPU", length);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)24 << 30; return 0; }
int cuDeviceGetUuid_v2(char *bytes, int device) { memset(bytes, device, 16); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 6 : -1;
    return 0;
}
"""
LIBNVML = r"""
#include <string.h>
typedef struct { unsigned long long total, free, used; } Memory;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    if (strncmp(uuid, "MIG-", 4)) return 6;  /* not found: both are slices */
    *handle = uuid[4] == '0' && uuid[5] == '7' ? (void *)1 : (void *)2;
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory) {
    memory->free = (handle == (void *)1 ? 10ull : 23ull) << 30;
    return 0;
}
"""
SOME = Gpu("Some GPU", 24 << 30, (8, 6), "MIG-08080808-0808-0808-0808-080808080808", 23 << 30)
BUSY = Gpu("Busy GPU", 24 << 30, (8, 6), "MIG-07070707-0707-0707-0707-070707070707", 10 << 30)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.skipif(bool(os.environ.get("HARNESS_TEST_GPU")), reason="tests on the GPU")
def test_the_tests_run_on_the_cpu_wherever_they_run() -> None:
    torch = pytest.importorskip("torch")
    assert hardware.facts().device == "cpu"
    assert not torch.cuda.is_available()


def test_facts_of_this_machine_are_plausible_and_need_no_torch() -> None:
    here = hardware.facts()
    assert 1 <= here.cores <= (os.cpu_count() or 1)
    assert here.memory_bytes > 100_000_000
    assert here.cpu
    code = "import sys, harness.system.hardware as m; m.facts(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"sys/fs/cgroup/a/b/cpu.max": "max 100000", "proc/self/cgroup": "0::/a/b"}, None),
        ({"sys/fs/cgroup/a/cpu.max": "150000 100000", "proc/self/cgroup": "0::/a/b"}, 1),
        ({"sys/fs/cgroup/cpu.max": "50000 100000", "proc/self/cgroup": "0::/"}, 1),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "proc/self/cgroup": "3:cpu:/not/mounted\n0::/",
            },
            1,
        ),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "proc/self/cgroup": "3:cpu:/"}, None),
    ],
)
def test_a_cpu_quota_binds(files: dict[str, str], cores: int | None, tmp_path: Path) -> None:
    free = hardware._cores(tmp_path)
    assert hardware._cores(write(tmp_path, files)) == (free if cores is None else cores)


def test_the_tightest_memory_limit_binds(tmp_path: Path) -> None:
    free = hardware._memory_bytes(tmp_path)
    groups = {"proc/self/cgroup": "0::/a/b\n4:memory:/c"}
    unlimited = {
        "sys/fs/cgroup/a/b/memory.max": "max",
        "sys/fs/cgroup/memory/c/memory.limit_in_bytes": "9223372036854771712",
    }
    assert hardware._memory_bytes(write(tmp_path, groups | unlimited)) == free
    write(tmp_path, {"sys/fs/cgroup/a/memory.max": "50000000\n"})
    assert hardware._memory_bytes(tmp_path) == 50_000_000
    write(tmp_path, {"sys/fs/cgroup/memory/c/memory.limit_in_bytes": "40000000"})
    assert hardware._memory_bytes(tmp_path) == 40_000_000


def test_cpu_flags_are_read_as_words(tmp_path: Path) -> None:
    text = "model name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 avx512_bf16x amx_bf16\n"
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert hardware._cpu(file) == ("Some CPU @ 2 GHz", ("avx2", "amx_bf16"))


@pytest.mark.parametrize(
    ("here", "precision"),
    [
        (CPU, "float32"),
        (replace(CPU, flags=("avx2", "avx512f")), "float32"),
        (replace(CPU, flags=("avx2", "avx512_bf16")), "bf16"),
        (replace(CPU, flags=("amx_bf16",)), "bf16"),
        (replace(CPU, gpus=(Gpu("A100", 40 << 30, (8, 0)),), torch=CUDA), "bf16"),
        (replace(CPU, gpus=(Gpu("T4", 16 << 30, (7, 5)),), torch=CUDA), "fp16"),
        (replace(CPU, gpus=(Gpu("V100", 16 << 30, (7, 0)),), torch=CUDA), "fp16"),
        # a GPU that the installed torch cannot use changes nothing
        (replace(CPU, gpus=(Gpu("A100", 40 << 30, (8, 0)),)), "float32"),
    ],
)
def test_auto_precision(here: Machine, precision: str) -> None:
    assert default_precision(here) == precision
    check_precision(precision, here)
    check_precision("auto", here)
    check_precision("float32", here)


T4 = replace(CPU, gpus=(Gpu("Tesla T4", 16 << 30, (7, 5)),), torch=CUDA)


@pytest.mark.parametrize(
    ("here", "precision", "instead"),
    [
        (T4, "bf16", r"Tesla T4 \(compute capability 7\.5\) has no bf16 .*: set it to fp16, or"),
        (CPU, "fp16", "needs a CUDA GPU, .*: set it to float32"),
        (replace(CPU, flags=("amx_bf16",)), "fp16", "needs a CUDA GPU, .*: set it to bf16"),
        (replace(T4, torch=CPU.torch), "fp16", "needs a CUDA GPU, .*: set it to float32"),
    ],
)
def test_arithmetic_that_the_device_lacks_is_refused(here, precision, instead):
    with pytest.raises(UserError, match=f"precision {precision}.* {instead}"):
        check_precision(precision, here)


def test_slow_bf16_on_a_cpu_and_fp16_on_any_card_are_allowed():
    check_precision("bf16", CPU)
    check_precision("fp16", T4)
    check_precision("fp16", replace(T4, gpus=(Gpu("A100", 40 << 30, (8, 0)),)))


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`driver("FAILS=803")` puts a driver's libraries, compiled so, where they are looked for."""
    if shutil.which("cc") is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler, and Linux")

    def put(*defined: str) -> None:
        for name, text in (("libcuda.so.1", LIBCUDA), ("libnvidia-ml.so.1", LIBNVML)):
            (tmp_path / "source.c").write_text(text)
            flags = [f"-D{text}" for text in defined]
            command = ["cc", "-w", "-shared", "-fPIC", *flags, "-o", tmp_path / name]
            subprocess.run([*command, tmp_path / "source.c"], check=True)

    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return put


def test_gpus_are_asked_from_the_driver_and_free_ones_come_first(
    driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver()
    assert hardware._gpus() == ((SOME, BUSY), Driver((12, 4)))
    assert (SOME.busy, BUSY.busy) == (False, True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert hardware._gpus() == ((), Driver())


def test_a_driver_that_is_slow_or_broken_does_not_look_like_none(
    driver: Callable[..., None],
) -> None:
    driver("SLEEPS")
    gpus, said = hardware._gpus(seconds=1)
    assert (gpus, said.answered) == ((), False)
    assert said.fault == "the CUDA driver did not answer within 1 s"
    driver("FAILS=803")
    fault = "the CUDA driver does not start (error 803)"
    assert hardware._gpus() == ((), Driver((12, 4), fault))
    driver("FAILS=100")  # the library without a device
    assert hardware._gpus() == ((), Driver((12, 4)))


def test_the_torch_build_is_the_one_that_torch_names() -> None:
    torch = pytest.importorskip("torch")
    build = hardware.torch_build()
    cuda, hip = torch.version.cuda, torch.version.hip
    assert build == TorchBuild(torch.__version__, cuda or hip, rocm=bool(hip))
    seen = hardware.torch_view()
    assert len(seen.gpus) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert list(seen.compiled_for) == torch.cuda.get_arch_list()


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_on_the_process_bounds_the_memory_there_is(kind):
    """As `ulimit -v` and `ulimit -d` set it, for what is asked after an OOM."""
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import resource; resource.setrlimit(resource.{kind}, (2_000_000_000,) * 2)\n"
            "from harness.system.hardware import available_memory; print(available_memory())",
        ],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(told.stdout) == 2_000_000_000
