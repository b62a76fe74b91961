"""The libraries in the page and in its tests are those that are pinned, with their licences."""

import gzip
import hashlib
import json

import pytest

from harness.cli.report import page
from tests.conftest import ROOT

FOLDERS = [ROOT / "harness/cli/report/vendor", ROOT / "tests/cli/report/vendor"]


def files_of(folder):
    libraries = json.loads((folder / "libraries.json").read_text())
    return [(lib, file) for lib in libraries for file in (*lib["files"], *lib.get("made", ()))]


def sha256(file):
    """Of what was fetched, which is kept compressed where its name says so."""
    content = file.read_bytes()
    content = gzip.decompress(content) if file.suffix == ".gz" else content
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parts[-4])
def test_every_file_is_the_one_that_was_fetched(folder):
    files = {file["to"]: file["sha256"] for _, file in files_of(folder)}
    assert {name: sha256(folder / name) for name in files} == files
    assert {file.name for file in folder.iterdir()} == {*files, "libraries.json"}


def test_a_changed_library_is_noticed(tmp_path):
    library, file = files_of(FOLDERS[0])[0]
    content = (FOLDERS[0] / file["to"]).read_bytes()
    (tmp_path / "changed").write_bytes(content.replace(b"Plotly", b"Plotty", 1))
    assert sha256(tmp_path / "changed") != file["sha256"]
    assert f"v{library['version']}".encode() in content


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parts[-4])
def test_each_library_has_its_licence(folder):
    words = {"MIT": "Permission is hereby granted", "MPL-2.0": "Mozilla Public License"}
    for library in json.loads((folder / "libraries.json").read_text()):
        licence = next(file["to"] for file in library["files"] if file["from"] == "LICENSE")
        assert words[library["license"]] in (folder / licence).read_text(encoding="utf-8")


def test_the_page_has_the_licences_of_what_it_holds(quickstart):
    text = quickstart.read_text(encoding="utf-8")
    for name in page.LICENCES.values():
        first = (FOLDERS[0] / name).read_text(encoding="utf-8").splitlines()[0]
        assert first in text
