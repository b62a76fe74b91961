"""Checkpoints in a results folder: which is used, which is told, what the record goes on from."""

from __future__ import annotations

import errno
import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from harness.system.measure import Meter
from harness.system.workers import stopping
from harness.training import checkpoints
from harness.training.checkpoints import Progress, StoredCheckpoints, clear


class Process:
    """What one process has of a training; its steps cost no time."""

    def __init__(self, out: Path, training="a" * 64, minutes=1e-9):
        self.meter, self.warnings = Meter(), []
        self.notes = {"loss_curve": []}
        self.curve = self.notes["loss_curve"]
        with self.meter.phase("load"):
            pass
        progress = Progress(
            self.meter, self.notes, self.warnings, self.meter.phase, self.warnings.append
        )
        self.stored = StoredCheckpoints(out, training, progress, minutes=minutes)

    def steps(self, *numbers):
        """Run steps; each adds a point to the curve and offers a checkpoint."""
        with self.meter.phase("train"):
            for number in numbers:
                self.curve.append({"step": number, "loss": 1 / number})
                self.stored.at(number, partial(write, number=number))


def write(folder, number):
    (folder / "best").mkdir()
    (folder / "best/weights").write_text(f"best before {number}")
    (folder / "state").write_text(f"state of {number} " * 100)


def files(out):
    return sorted(path.name for path in out.glob("checkpoints/*/*/step-*"))


def newest(out):
    return sorted(out.glob("checkpoints/*/*/step-*"))[-1]


def test_the_newest_is_gone_on_from_and_two_are_kept(tmp_path):
    first = Process(tmp_path)
    assert first.stored.begin(micro_batch=2) is None
    first.steps(1, 2, 3)
    assert files(tmp_path) == ["step-000000002", "step-000000003"]
    first.warnings.append("a finding in step 2")  # not in any checkpoint
    again = Process(tmp_path)
    again.warnings.append("of loading")
    folder = again.stored.begin(micro_batch=2)
    assert (folder / "state").read_text().startswith("state of 3")
    assert again.notes["loss_curve"] is again.curve == first.curve
    assert again.warnings == ["of loading"]
    assert again.notes["resumed"]["times"] == 1
    assert again.notes["resumed"]["from_steps"] == [3]
    again.steps(4)
    assert again.notes["loss_curve"] == [{"step": n, "loss": 1 / n} for n in (1, 2, 3, 4)]
    clear(tmp_path, "a" * 64)
    assert not (tmp_path / "checkpoints").exists()


def flip(file):
    content = bytearray(file.read_bytes())
    content[7] ^= 1
    file.write_bytes(content)


DAMAGE = {
    "truncated": lambda folder: (folder / "state").write_text("state"),
    "flipped": lambda folder: flip(folder / "state"),
    "flipped below": lambda folder: flip(folder / "best/weights"),
    "missing": lambda folder: (folder / "state").unlink(),
    "added": lambda folder: (folder / "more").write_text(""),
    "seal truncated": lambda folder: (folder / "checkpoint.json").write_text("{"),
    "seal changed": lambda folder: (folder / "checkpoint.json").write_text(
        (folder / "checkpoint.json").read_text().replace('"step": 3', '"step": 4')
    ),
    "no seal": lambda folder: (folder / "checkpoint.json").unlink(),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_one_is_told_and_the_one_before_is_used(tmp_path, how):
    first = Process(tmp_path)
    first.stored.begin()
    first.steps(1, 2, 3)
    damaged = newest(tmp_path)
    DAMAGE[how](damaged)
    again = Process(tmp_path)
    folder = again.stored.begin()
    assert folder.name == "step-000000002"
    assert again.curve == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
    (told,) = again.warnings
    assert told.startswith("a checkpoint of the training is not used: ")
    assert damaged.name in told
    assert not damaged.exists()


def test_where_all_are_damaged_the_training_begins_again_and_says_so(tmp_path):
    first = Process(tmp_path)
    first.stored.begin()
    first.steps(1, 2)
    for folder in tmp_path.glob("checkpoints/*/*/step-*"):
        flip(folder / "state")
    again = Process(tmp_path)
    assert again.stored.begin() is None
    assert again.curve == []
    assert len(again.warnings) == 2
    assert again.notes["resumed"]["from_steps"] == [0]


def test_after_an_oom_the_rows_per_pass_are_others_and_so_is_the_training(tmp_path):
    first = Process(tmp_path)
    first.stored.begin(micro_batch=4)
    first.steps(1)
    smaller = Process(tmp_path)
    assert smaller.stored.begin(micro_batch=2) is None
    assert smaller.warnings == []
    assert "resumed" not in smaller.notes
    assert Process(tmp_path).stored.begin(micro_batch=4) is not None


def test_one_of_another_training_is_told(tmp_path):
    for training in "ab":
        process = Process(tmp_path, training * 64)
        assert process.stored.begin() is None
        process.steps(*range(1, 3 if training == "a" else 2))
    (mine,) = tmp_path.glob(f"checkpoints/{'b' * 64}/*/step-*")
    theirs = next(tmp_path.glob(f"checkpoints/{'a' * 64}/*/step-000000002"))
    shutil.copytree(theirs, mine.with_name("step-000000009"))
    again = Process(tmp_path, "b" * 64)
    assert again.stored.begin() == mine
    (told,) = again.warnings
    assert "step-000000009 is of another training" in told


def test_one_of_other_versions_is_told(tmp_path, monkeypatch):
    first = Process(tmp_path)
    first.stored.begin()
    first.steps(1)
    monkeypatch.setattr(checkpoints, "version", lambda name: "99.0")
    again = Process(tmp_path)
    assert again.stored.begin() is None
    (told,) = again.warnings
    assert "torch" in told
    assert "99.0" in told


def test_a_full_disk_ends_no_training(tmp_path):
    process = Process(tmp_path)
    process.stored.begin()
    process.steps(1)

    def fails(folder):
        (folder / "state").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with process.meter.phase("train"):
        process.stored.at(2, fails)
    (told,) = process.warnings
    assert "checkpoint of step 2 could not be written" in told
    assert "No space left" in told
    assert files(tmp_path) == ["step-000000001"]
    assert not list(tmp_path.glob("checkpoints/*/*/.writing"))


def test_one_is_written_where_the_worker_is_told_to_stop_and_else_only_every_so_often(
    tmp_path, monkeypatch
):
    process = Process(tmp_path, minutes=None)
    process.stored.begin()
    process.steps(1, 2)
    assert not (tmp_path / "checkpoints").exists()
    monkeypatch.setattr(stopping, "requested", lambda: True)
    monkeypatch.setattr(stopping, "_requested", type("Told", (), {"is_set": lambda self: True})())
    with pytest.raises(stopping.Stopped):
        process.steps(3)
    assert files(tmp_path) == ["step-000000003"]


def test_seconds_of_what_ran_twice_are_told_apart_and_peaks_are_the_largest(tmp_path):
    first = Process(tmp_path)
    first.stored.begin()
    first.meter.phases["load"] |= {"seconds": 50.0, "peak_host_bytes": 10**15}
    first.meter.phases["train"] = {**first.meter.phases["load"], "seconds": 100.0}
    first.stored.at(1, lambda folder: write(folder, 1))
    (noted,) = tmp_path.glob("checkpoints/*/*/progress.json")
    # it died 30 seconds of training later
    noted.write_text(json.dumps({**json.loads(noted.read_text()), "seconds": 180.0}))
    again = Process(tmp_path)
    again.meter.phases["load"]["seconds"] = 40.0
    again.stored.begin()
    phases = again.meter.phases
    assert phases["train"]["seconds"] == 100.0
    assert phases["load"]["seconds"] == 40.0
    assert phases["load"]["peak_host_bytes"] == phases["train"]["peak_host_bytes"] == 10**15
    assert again.notes["resumed"]["lost_seconds"] == pytest.approx(50 + 30, abs=1)
    third = Process(tmp_path)  # the second died before it trained
    third.stored.begin()
    assert third.notes["resumed"]["times"] == 2
    assert third.notes["resumed"]["lost_seconds"] == pytest.approx(50 + 30 + 40, abs=1)
    assert third.meter.phases["train"]["seconds"] == 100.0
