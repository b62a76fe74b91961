"""The environment that workers start in."""

import pytest

from harness.system import child_process
from harness.system.hardware import Gpu, Machine, TorchBuild

A100 = Machine(
    2, 8 << 30, "some", gpus=(Gpu("A100", 40 << 30, (8, 0)),), torch=TorchBuild("2.13.0", "13.0")
)


@pytest.fixture
def allocator(monkeypatch):
    """`allocator(machine, **set by the user)`: the setting that a worker gets."""

    def of(machine, **user):
        for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
            monkeypatch.delenv(name, raising=False)
        for name, value in user.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(child_process.hardware, "facts", lambda: machine)
        monkeypatch.setattr(child_process.sys, "platform", "linux")
        return child_process.environment().get("PYTORCH_CUDA_ALLOC_CONF")

    return of


def test_torchs_allocator_may_grow_its_blocks_on_cuda_unless_the_user_says_otherwise(allocator):
    assert allocator(A100) == "expandable_segments:True"
    assert allocator(Machine(2, 8 << 30, "some")) is None
    mine = "max_split_size_mb:64"
    assert allocator(A100, PYTORCH_CUDA_ALLOC_CONF=mine) == mine
    assert allocator(A100, PYTORCH_ALLOC_CONF=mine) is None
