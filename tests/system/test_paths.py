"""Folders that other runs remove while they are empty."""

import pytest

from harness.system.paths import in_folder


def test_a_file_is_made_in_a_folder_that_is_removed_meanwhile(tmp_path):
    folder, times = tmp_path / "a/locks", [3]

    def touch():
        if times[0]:
            times[0] -= 1
            folder.rmdir()  # as another run does between this one's two steps
        (folder / "x").touch()

    in_folder(folder, touch)
    assert (folder / "x").is_file()


def test_where_a_file_is_in_its_place_it_is_an_error(tmp_path):
    (tmp_path / "locks").touch()
    with pytest.raises(FileExistsError):
        in_folder(tmp_path / "locks", lambda: None)
    with pytest.raises(NotADirectoryError):
        in_folder(tmp_path / "locks/x", lambda: None)
