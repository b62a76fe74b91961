"""A suite whose judge is behind a test's own server."""

from __future__ import annotations

import pytest
import yaml

from tests.conftest import write_suites
from tests.endpoint_server import MODEL


@pytest.fixture
def suite_file(tmp_path, served):
    """`suite_file(model=...)` writes the suite `judged` with these settings of its endpoint."""
    write_suites(tmp_path)

    def write(judge=(), **changes):
        endpoint = {"url": served.url, "model": MODEL, "key": "TEST_KEY", **changes}
        suite = {
            "name": "judged",
            "version": 1,
            "ask": "generate",
            "data": "asked.jsonl",
            "max_new_tokens": 4,
            "judge": {
                "name": "expected_score",
                "rubric": "Rate it.",
                "endpoint": {k: v for k, v in endpoint.items() if v != "left out"},
                **dict(judge),
            },
        }
        (tmp_path / "judged.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
        return tmp_path

    return write
