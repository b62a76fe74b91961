"""Samples without a reference are named, with who needs it and what to do."""

from __future__ import annotations

import pytest

from harness.data.references import check_references
from harness.errors import DataError
from harness.types import Sample


@pytest.mark.parametrize("reference", [None, "", "  \n"])
def test_the_first_sample_without_a_reference_is_named(reference):
    samples = [
        Sample("a", prompt="?", reference="yes"),
        Sample("b", prompt="?", reference=reference),
    ]
    check_references(samples[:1])
    with pytest.raises(DataError) as caught:
        check_references(samples, whose="scorer rougeL", file="asked.jsonl")
    message = "asked.jsonl: sample b has no reference, which scorer rougeL needs: write one"
    assert str(caught.value) == message
