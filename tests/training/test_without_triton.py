"""A GPU without a C compiler: the loss is computed in torch, and the record says so."""

import pytest
import torch
import transformers.utils.import_utils
from trl.kernels import chunked_logprob

from harness.system import gpu_check
from harness.training.trainer import head_without_triton

CUDA = torch.device("cuda")


@pytest.fixture
def with_triton(monkeypatch):
    """As on a machine with a GPU, as far as the choice of a kernel asks."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(transformers.utils.import_utils, "is_triton_available", lambda: True)
    monkeypatch.setattr(chunked_logprob, "_TRITON_AVAILABLE", True)
    gpu_check.compiler_lack.cache_clear()
    yield monkeypatch
    gpu_check.compiler_lack.cache_clear()


def test_without_a_compiler_the_head_is_torchs(with_triton):
    with_triton.setenv("CC", "/bin/false")
    warnings = []
    assert chunked_logprob._use_triton(CUDA)
    with head_without_triton(warnings.append):
        assert not chunked_logprob._use_triton(CUDA)
    assert chunked_logprob._use_triton(CUDA)
    (line,) = warnings
    assert "the C compiler /bin/false fails" in line
    assert "the loss is computed without Triton" in line


def test_with_a_compiler_it_stays_tritons(with_triton):
    if gpu_check.compiler_lack() is not None:
        pytest.skip("no C compiler here")
    with head_without_triton(pytest.fail):
        assert chunked_logprob._use_triton(CUDA)
