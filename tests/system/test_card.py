"""What a GPU's driver says beside torch's allocator, and paged state that is freed.

The management library and CUDA are stood in for: its functions are those of nvidia-ml-py.
"""

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from harness.results import schema
from harness.system import hardware, measure
from harness.system.measure import Meter


class NVMLError(Exception):
    pass


@pytest.fixture
def nvml(monkeypatch):
    """A card whose counters the test sets; as nvidia-ml-py and torch tell of it."""
    said = SimpleNamespace(pid=os.getpid(), process=3_000, millijoules=5_000, handle=None)
    module = ModuleType("pynvml")

    def energy(handle):
        assert handle == said.handle
        if said.millijoules is None:
            raise NVMLError("not supported")
        return said.millijoules

    def by_uuid(uuid):
        said.handle = uuid
        return uuid

    module.NVMLError = NVMLError
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByUUID = by_uuid
    module.nvmlDeviceGetTotalEnergyConsumption = energy
    module.nvmlDeviceGetComputeRunningProcesses = lambda handle: [
        SimpleNamespace(pid=1, usedGpuMemory=None),
        SimpleNamespace(pid=said.pid, usedGpuMemory=said.process),
    ]
    cuda = SimpleNamespace(
        synchronize=lambda: None,
        reset_peak_memory_stats=lambda: None,
        max_memory_allocated=lambda: 1_000,
        max_memory_reserved=lambda: 2_000,
        memory_reserved=lambda: 2_000,
        get_device_properties=lambda at: SimpleNamespace(uuid="12-34"),
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(measure, "_cuda", lambda: cuda)
    monkeypatch.setattr(measure, "_CARDS", [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return said


def test_memory_beside_the_allocators_and_energy_have_names_of_their_own(nvml):
    meter = Meter()
    with meter.phase("train"):
        nvml.millijoules += 2_500
        nvml.process = 4_000
    assert nvml.handle == "GPU-12-34"
    phase = meter.phases["train"]
    assert phase["peak_allocated_bytes"] == 1_000
    assert phase["peak_process_bytes"] == 4_000
    assert phase["context_bytes"] == 4_000 - 2_000
    assert phase["joules"] == 2.5
    assert "paged_bytes" not in phase
    with meter.phase("train"):
        nvml.millijoules += 1_000
    assert meter.phases["train"]["joules"] == 3.5
    assert schema.training_problem({"phases": meter.phases}) is None


def test_the_card_is_the_one_that_the_worker_is_pinned_to(nvml, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-56")
    with Meter().phase("load"):
        pass
    assert nvml.handle == "MIG-56"


def test_what_the_driver_does_not_tell_is_left_out(nvml):
    nvml.pid, nvml.millijoules = 2, None  # in a container, and before Volta
    meter = Meter()
    with meter.phase("train"):
        pass
    assert not {"joules", "peak_process_bytes", "context_bytes"} & set(meter.phases["train"])


def test_without_the_library_nothing_is_added(nvml, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = Meter()
    with meter.phase("train"):
        pass
    assert set(meter.phases["train"]) == {
        "seconds",
        "peak_allocated_bytes",
        "peak_reserved_bytes",
        "peak_host_bytes",
    }


def test_paged_state_is_counted_and_freed_once_no_optimizer_uses_it(monkeypatch):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("bitsandbytes.functional")
    pages = functional.GlobalPageManager.get_instance().paged_tensors
    monkeypatch.setattr(functional.GlobalPageManager.get_instance(), "paged_tensors", [])
    pages = functional.GlobalPageManager.get_instance().paged_tensors
    freed = []
    monkeypatch.setattr(hardware, "_free_managed", lambda address: not freed.append(address))
    used = torch.zeros(100)
    pages += [torch.zeros(1_000), used, torch.zeros(10)]
    first = pages[0].data_ptr()
    meter = Meter()
    with meter.phase("train"):
        pass
    assert meter.phases["train"]["paged_bytes"] == 4 * 1_110
    assert hardware.free_paged_state() == 4 * 1_010
    assert first in freed
    assert len(freed) == 2
    assert pages[0] is used
    assert len(pages) == 1
