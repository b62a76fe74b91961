"""What the machine is said to be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.system import hardware
from harness.system.hardware import Gpu, Machine, TorchBuild, default_precision

CPU = Machine(cores=2, memory_bytes=8 << 30, cpu="some", torch=TorchBuild("2.13.0+cpu", None))
CUDA = TorchBuild("2.13.0", "13.0")

LIBCUDA = r"""
#include <string.h>
#include <stddef.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 7 + ordinal; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    if (device != 7) return 101;
    strncpy(name, "Some GPU", length);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)24 << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 6 : -1;
    return 0;
}
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


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
        (replace(CPU, gpus=(Gpu("T4", 16 << 30, (7, 5)),), torch=CUDA), "float32"),
        # a GPU that the installed torch cannot use changes nothing
        (replace(CPU, gpus=(Gpu("A100", 40 << 30, (8, 0)),)), "float32"),
    ],
)
def test_auto_precision(here: Machine, precision: str) -> None:
    assert default_precision(here) == precision


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a Linux library")
def test_gpus_are_asked_from_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cuda.c").write_text(LIBCUDA)
    command = ["cc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", tmp_path / "cuda.c"]
    subprocess.run(command, check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert hardware._gpus() == (Gpu("Some GPU", 24 << 30, (8, 6)),)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert hardware._gpus() == ()


def test_the_torch_build_is_the_one_that_torch_names() -> None:
    torch = pytest.importorskip("torch")
    build = hardware.torch_build()
    assert build == TorchBuild(torch.__version__, torch.version.cuda or torch.version.hip)


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
