"""Questions on one passage hang together: `cluster:` says so, and intervals know it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import UserError
from harness.stats.metric_summary import summarise
from tests.evaluation.tasks.test_perplexity import measured, suite_of

ROWS = [
    {"text": f"Lamp {i} of room {i // 6}. " * (1 + i // 6), "room": f"room {i // 6}"}
    for i in range(36)
]


def test_whole_clusters_are_drawn(tmp_path: Path, tiny_artifact: Any) -> None:
    suite = suite_of(tmp_path, {"": ROWS}, cluster="room")
    result = measured(tiny_artifact, suite)
    assert [row["cluster"] for row in result.rows] == [row["room"] for row in ROWS]
    with_clusters = summarise(result.metrics, result.rows)["perplexity"]
    plain = [{k: v for k, v in row.items() if k != "cluster"} for row in result.rows]
    without = summarise(result.metrics, plain)["perplexity"]
    assert with_clusters["value"] == without["value"]
    # texts of one room are alike: six rooms tell less than 36 texts
    assert with_clusters["stderr"] > 1.3 * without["stderr"]


def test_a_missing_column_is_reported_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'floor', which the suite's `cluster:` names"):
        suite_of(tmp_path, {"": ROWS}, cluster="floor")


def test_the_key_changes_the_hash_only_where_it_is_set(tmp_path: Path) -> None:
    plain, clustered = (
        suite_of(tmp_path, {"": ROWS}),
        suite_of(tmp_path, {"": ROWS}, cluster="room"),
    )
    assert plain.hash != clustered.hash
    assert "cluster" not in plain.parts
    assert clustered.parts["cluster"] == "room"


def test_lm_evals_questions_have_clusters_too(tmp_path: Path, tiny_artifact: Any) -> None:
    from harness.evaluation.suite import Where, load_suite
    from harness.manager import Plugins
    from harness.types import ModelRef
    from tests.conftest import write_suites

    write_suites(tmp_path)
    file = tmp_path / "tasks.yaml"
    file.write_text(file.read_text() + "cluster: group\n")
    base = ModelRef("tiny", "tiny")
    loaded = Plugins(discover=False)
    suite = load_suite(file, {}, plugins=loaded, base_model=base, where=Where())
    result = measured(tiny_artifact, suite)
    assert {row["cluster"] for row in result.rows} == {row["group"] for row in result.rows}
