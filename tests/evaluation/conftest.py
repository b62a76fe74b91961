"""The folder of suites that tests of suites read and change."""

from __future__ import annotations

import pytest

from tests.conftest import write_suites


@pytest.fixture
def folder(tmp_path):
    write_suites(tmp_path)
    return tmp_path
