"""The GPUs of this machine, read from NVIDIA's driver libraries: a script of its own.

It runs in a child process with the standard library alone, because a process that has initialised
CUDA must not fork. libcuda rather than nvidia-smi names the devices, because it honours
`CUDA_VISIBLE_DEVICES` and MIG slices; libnvidia-ml adds their free memory, without a context.
"""

from __future__ import annotations

import ctypes
import json
import sys
import uuid
from typing import TypedDict

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


class Device(TypedDict):
    """One device."""

    name: str
    memory_bytes: int
    capability: list[int]
    """Major and minor."""
    uuid: str | None
    """As `CUDA_VISIBLE_DEVICES` takes it: `GPU-...` or `MIG-...`."""
    free_bytes: int | None


class Answer(TypedDict):
    """What the driver said."""

    cuda: list[int] | None
    """Major and minor of the newest CUDA that it supports; None without a driver."""
    devices: list[Device]
    fault: str | None
    """Why its devices are not known."""


def query() -> Answer:
    """The visible devices in the driver's order; none where there is no driver."""
    nothing = Answer(cuda=None, devices=[], fault=None)
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return nothing
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    if not cuda.cuDriverGetVersion(ctypes.byref(version)):  # 1000 * major + 10 * minor
        nothing["cuda"] = [version.value // 1000, version.value % 1000 // 10]
    if error := cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        if error != _NO_DEVICE:
            nothing["fault"] = f"the CUDA driver does not start (error {error})"
        return nothing
    free = _Nvml()
    found = [_device(cuda, ordinal, free) for ordinal in range(count.value)]
    return {**nothing, "devices": [device for device in found if device is not None]}


def _device(cuda: ctypes.CDLL, ordinal: int, nvml: _Nvml) -> Device | None:
    device, capability = ctypes.c_int(), (ctypes.c_int(), ctypes.c_int())
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    failed = (
        cuda.cuDeviceGet(ctypes.byref(device), ordinal)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(capability[0]), _MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(capability[1]), _MINOR, device)
    )
    if failed:
        return None
    known, free = nvml.named(_identity(cuda, device))
    return {
        "name": name.value.decode(errors="replace"),
        "memory_bytes": memory.value,
        "capability": [part.value for part in capability],
        "uuid": known,
        "free_bytes": free,
    }


def _identity(cuda: ctypes.CDLL, device: ctypes.c_int) -> str | None:
    """The 16 bytes that the driver knows a device by, as text."""
    value = ctypes.create_string_buffer(16)
    for function in ("cuDeviceGetUuid_v2", "cuDeviceGetUuid"):  # the first knows MIG slices
        try:
            if not getattr(cuda, function)(value, device):
                return str(uuid.UUID(bytes=value.raw))
        except AttributeError:  # an older driver
            continue
    return None


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class _Nvml:
    """NVIDIA's management library; without it nothing is known of a device's use."""

    def __init__(self) -> None:
        self._library: ctypes.CDLL | None = None
        try:
            library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
            if not library.nvmlInit_v2():
                self._library = library
        except (OSError, AttributeError):
            return

    def named(self, identity: str | None) -> tuple[str | None, int | None]:
        """The device's name with its prefix, and its free memory in bytes."""
        if identity is None:
            return None, None
        if self._library is None:
            return f"GPU-{identity}", None
        handle, memory = ctypes.c_void_p(), _Memory()
        for prefix in ("GPU", "MIG"):
            name = f"{prefix}-{identity}"
            if self._library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle)):
                continue
            failed = self._library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
            return name, None if failed else memory.free
        return None, None


if __name__ == "__main__":
    print(json.dumps(query()))
