"""Which cards the table of speeds knows, by whole names."""

from dataclasses import replace

import pytest

from harness.planning.memory.training_time import GPUS, operations_per_second, speed_of
from harness.system.hardware import Gpu, Machine, TorchBuild

HERE = Machine(
    cores=2,
    memory_bytes=8 << 30,
    cpu="some",
    gpus=(Gpu("Tesla T4", 16 << 30, (7, 5)),),
    torch=TorchBuild("2.13.0", "13.0"),
)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada Generation"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla V100-PCIE-32GB", "V100 PCIe"),
    ],
)
def test_a_card_is_known_by_its_whole_name(name, model):
    assert speed_of(name) is GPUS[model]


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA L400",
        "Quadro RTX 6000",
        "",
    ],
)
def test_of_another_card_the_speed_is_unknown(name):
    assert speed_of(name) is None
    other = replace(HERE, gpus=(Gpu(name, 24 << 30, (8, 6)),))
    assert operations_per_second(other, "bf16") is None


def test_the_rate_is_that_of_the_precision():
    rates = [operations_per_second(HERE, precision) for precision in ("float32", "fp16", "bf16")]
    float32, fp16, bf16 = rates
    assert fp16 == pytest.approx(float32 * 65 / 8.1)
    assert bf16 is None  # emulated
    ada = replace(HERE, gpus=(Gpu("NVIDIA GeForce RTX 4090", 24 << 30, (8, 9)),))
    half, full = (operations_per_second(ada, precision) for precision in ("bf16", "float32"))
    assert half == pytest.approx(2 * full, rel=0.01)
