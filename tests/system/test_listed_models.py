"""Which model of a server's list a name means."""

from __future__ import annotations

import pytest

from harness.system.endpoint.listed_models import listed_as, nearest_listed


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        (["mine"], "mine"),
        (["mine:latest"], "mine:latest"),
        (["mine:latest", "mine"], "mine"),
        (["mine:q8"], None),
        (["yours:latest"], None),
        ([], None),
    ],
)
def test_a_name_is_listed_as_itself_or_with_ollamas_tag(
    listed: list[str], found: str | None
) -> None:
    assert listed_as("mine", listed) == found


def test_the_nearest_of_hundreds_is_named() -> None:
    listed = [f"model-{n}" for n in range(300)]
    hint = nearest_listed("modle-7", listed)
    assert hint.startswith("did you mean 'model-7'?")
    assert hint.endswith("and 292 more)")
