"""A sample of tests/fuzz.py, which tries thousands of wrong files and options."""

import collections

import pytest

from harness.models.tiny import write_tiny_model
from tests import fuzz


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    write_tiny_model(folder)
    return folder


def test_mutated_files_end_in_a_line_or_a_result(model):
    ends, bad = fuzz.fuzz(240, model, fuzz.ROOT / "results/reference/quickstart", seed=11)
    assert bad == []
    kinds = collections.Counter(kind for kind, _ in ends.elements())
    assert set(kinds) == {"experiment", "suite", "policy", "data"}
    assert any(end == "refused" for _, end in ends)


def test_bad_inputs_of_every_class_are_refused_by_one_line(model):
    cases = fuzz.inputs()
    assert len(cases) >= 500
    _, bad = fuzz.try_inputs(cases, model)
    assert bad == []


def test_what_is_right_is_accepted(model, tmp_path):
    fuzz.write_folder(tmp_path, model)
    for name, command in [f for files in fuzz.targets(None).values() for f in files]:
        assert fuzz.harness(command, tmp_path).kind == "accepted", name
