"""Disks and clocks that fail, and files that are damaged: a line says it, and nothing is lost."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.verification.mending import examine
from tests.conftest import Experiment, run_warm
from tests.faults import runs
from tests.faults.runs import Run
from tests.faults.tally import injected
from tests.warm import Warm

Copied = Callable[[str], Experiment]


def namespaces() -> bool:
    """Whether this process may mount a file system of its own."""
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not namespaces(), reason="no user namespaces here")


# ---- damaged files


def flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def truncate(file: Path, chance: random.Random) -> None:
    os.truncate(file, chance.randrange(file.stat().st_size))


DAMAGED = {
    "record": "cells/lora-*.json",
    "base's record": "cells/base-*.json",
    "samples": "samples/full-*/picks.jsonl.gz",
    "base's samples": "samples/base-*/answers.jsonl.gz",
    "section": "samples/ia3-*/answers.json",
    "adapter": "artifacts/lora-*/adapter_model.safetensors",
    "weights": "artifacts/full-*/model.safetensors",
    "training.json": "artifacts/ia3-*/training.json",
    "leaderboard": "leaderboard.json",
}


@pytest.mark.parametrize(
    "what", ["record", "base's samples", pytest.param(list(DAMAGED), marks=pytest.mark.faults)]
)
def test_a_damaged_file_is_found_mended_and_measured_again(
    copied: Copied, reference: Experiment, warm: Warm, what: str | list[str]
) -> None:
    chance = random.Random(5)
    for name in [what] if isinstance(what, str) else what:
        for number, damage in enumerate((flip, truncate)):
            small = copied(f"{name}-{number}")
            [file] = small.out.glob(DAMAGED[name])
            whole = file.read_bytes()
            damage(file, chance)
            assert file.read_bytes() != whole
            with injected(f"{'a flipped bit' if damage is flip else 'cut short'}: {name}"):
                found = examine(small.out)
                name_of_it = file.relative_to(small.out).as_posix()
                assert any(name_of_it.startswith(one.file) for one in found.damage)
                assert examine(small.out, mend=True).exit_code == 0
                assert not run_warm(small, warm).failed
                runs.assert_equal(small.out, reference.out)
                assert examine(small.out, mend=True).exit_code == 0
                assert examine(small.out).damage == []


@pytest.mark.faults
def test_damage_of_a_cell_that_is_not_recorded_is_not_used(
    copied: Copied, reference: Experiment, warm: Warm
) -> None:
    """Without `doctor`: what a run goes on from is checked by the run itself."""
    chance, small = random.Random(6), copied("unfinished")
    for file in (small.out / "cells").glob("[!b]*.json"):
        file.unlink()
    for pattern in ("artifacts/*/*.safetensors", "samples/[!b]*/*.jsonl.gz", "samples/ia3*/*.json"):
        for file in small.out.glob(pattern):
            flip(file, chance)
    with injected("a flipped bit: what an unfinished cell goes on from", 3):
        assert not run_warm(small, warm).failed
        runs.assert_equal(small.out, reference.out)


# ---- disks


def test_a_record_that_cannot_be_written_is_told(copied: Copied) -> None:
    """A limit of the size of files: the kernel refuses to write more, as on a full disk."""
    small = copied("limited")
    (small.out / "leaderboard.json").unlink()
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 1; exec "$@"', "bash"]
    run = Run(small, small.out, before=limited)
    with injected("a limit of the size of files"):
        ended = run.ended()
        assert "Traceback" not in ended.said
        assert ended.code in (0, 2), ended.said
        runs.assert_clean(small.out)
        assert runs.samples(small.out)


@needs_mounts
@pytest.mark.faults
@pytest.mark.parametrize("kilobytes", [40, 150, 300, 700])
def test_a_full_disk_is_told_and_loses_nothing(
    reference: Experiment, tmp_path: Path, kilobytes: int
) -> None:
    """A disk that fills up in the middle of a run, which goes on once there is room."""
    kept, disk = tmp_path / "kept", tmp_path / "disk"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size={kilobytes}k tmpfs {disk}\n"
        '"$@"; code=$?\n'
        f"mount -o remount,size=1g {disk}\n"
        '"$@" || exit 90\n'
        f"cp -a {disk}/out {kept}; exit $code\n"
    )
    run = Run(reference, disk / "out", before=["unshare", "-rm", "bash", "-c", script, "bash"])
    with injected("a full disk"):
        ended = run.ended()
        run.assert_gone()
        assert ended.code in (2, 5), ended.said
        assert "a fault of the harness" not in ended.said
        runs.assert_equal(kept, reference.out)
        runs.assert_clean(kept)


@needs_mounts
def test_a_folder_that_is_read_only(copied: Copied, reference: Experiment) -> None:
    small = copied("read-only")
    script = f'mount --bind {small.out} {small.out} && mount -o remount,ro,bind {small.out}; "$@"'
    locked = ["unshare", "-rm", "bash", "-c", script, "bash"]
    with injected("a read-only folder, finished"):
        ended = Run(small, small.out, before=locked).ended()
        assert ended.code == 0, ended.said
        assert "Nothing to do" in ended.said
    next((small.out / "cells").glob("lora*")).unlink()
    before = runs.finished(small.out)
    with injected("a read-only folder, unfinished"):
        ended = Run(small, small.out, before=locked).ended()
        assert ended.code == 2
        [line] = [line for line in ended.said.splitlines() if not line.startswith("Note")]
        assert "cannot write" in line
        runs.assert_kept(before, small.out)


# ---- clocks

BACK = """
import os, time

_begun, _time, _time_ns = time.time(), time.time, time.time_ns
time.time = lambda: _time() - (86400 if _time() - _begun > 1 else 0)
time.time_ns = lambda: int(time.time() * 1e9)
"""


@pytest.mark.faults
def test_a_clock_that_jumps_back_a_day(
    reference: Experiment, tmp_path: Path, copied: Copied
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(BACK)
    small, tomorrow = copied("jumping"), time.time() + 86400
    for cell in ("lora", "full"):
        [file] = (small.out / "cells").glob(f"{cell}-*.json")
        file.unlink()
    for file in small.out.rglob("*"):
        os.utime(file, (tomorrow, tomorrow))
    before = runs.finished(small.out)
    with injected("a clock that jumps back"):
        run = Run(small, small.out, paths=[tmp_path / "site"])
        ended = run.ended()
        run.assert_gone()
        assert ended.code == 0, ended.said
        runs.assert_kept(before, small.out)
        runs.assert_equal(small.out, reference.out)
        runs.assert_clean(small.out, run.scratch)
