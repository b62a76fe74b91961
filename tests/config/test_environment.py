"""Environment variables: what means nothing is refused, what means something is not."""

import pytest

from harness.config import environment
from harness.errors import UserError

WRONG = {
    "OMP_NUM_THREADS": ("abc", "0", "-1", "1.5", "9" * 400),
    "CUDA_VISIBLE_DEVICES": ("H100", "0;1", "gpu0"),
    "HF_ENDPOINT": ("huggingface.co", "ftp://x", "https://", "::::", "http://h:99999"),
    "HF_HUB_OFFLINE": ("maybe", "2"),
    "HARNESS_CACHE": ("/dev/null/x", "x" * 300),
    "HARNESS_CAHCE": ("/tmp",),
    "HARNES_MIRROR": ("/tmp",),
}
RIGHT = {
    "OMP_NUM_THREADS": ("", "4", "4,2", " 8 "),
    "CUDA_VISIBLE_DEVICES": ("", "-1", "0", "0, 1", "GPU-8f2a-11", "MIG-GPU-a/1/0", "NoDevFiles"),
    "HF_ENDPOINT": ("", "https://hf-mirror.com", "http://localhost:8080/x"),
    "HF_HUB_OFFLINE": ("", "1", "0", "ON", "true"),
    "HARNESS_CACHE": ("", "/tmp", "/tmp/not/there/yet"),
    "HARNESS_SITE_NAME": ("anything of a plugin's",),
    "TOKENIZERS_PARALLELISM": ("nonsense of another library",),
}


def pairs(table):
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), pairs(WRONG))
def test_what_means_nothing_is_refused_with_what_to_do(name, value):
    with pytest.raises(UserError, match=rf"^the environment variable {name} .*unset {name}$"):
        environment.check({name: value})


@pytest.mark.parametrize(("name", "value"), pairs(RIGHT))
def test_what_means_something_is_left_alone(name, value):
    environment.check({name: value})
