"""What training sets for float32 products ends with it."""

import pytest

from harness.training.arithmetic import float32_precision_kept


def state():
    """Per kind of product the precision in force."""
    import torch

    backends = torch.backends
    parts = [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul]
    found = [part.fp32_precision for part in (backends, *parts)]
    return ["ieee" if one == "none" else one for one in found]


def compiled_training():
    import torch

    # what transformers' TrainingArguments(torch_compile=True) does on a GPU that has TF32
    torch.backends.fp32_precision = "tf32"


def older_interface():
    import torch

    torch.set_float32_matmul_precision("high")


@pytest.mark.parametrize("change", [compiled_training, older_interface])
@pytest.mark.parametrize("fails", [False, True])
def test_what_is_set_within_is_undone(change, fails):
    import torch

    before = state()
    try:
        with float32_precision_kept():
            change()
            backends = torch.backends
            assert "tf32" in (backends.fp32_precision, backends.cuda.matmul.fp32_precision)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert state() == before
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32
