"""`harness doctor DIR`: every damage is found, told with its cost, and mended without a loss."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli.commands.facts import doctor
from harness.errors import UserError
from harness.models import trained_artifact
from harness.results import leaderboard_file, store
from harness.stats.metric_summary import summarise
from harness.system import hub
from harness.system.locks import Locks
from harness.types import Artifact, Metric, ModelRef
from harness.verification.damage import Examined
from harness.verification.mending import SET_ASIDE, examine
from tests.results.test_store import ROWS, result

CELL, OTHER = "a1b2", "c3d4"


def write_cell(out: Path, cell: str) -> None:
    """A recorded cell with one suite, the section beside its samples, and its weights."""
    record = result(out, cell)
    record["plan"] = {**record["plan"], "label": f"lora-{cell}"}
    section = dict(store.suites(record)["quiz"])
    store.write_section(out, cell, "quiz", {**section, "artifact_hash": "a" * 64})
    folder = out / "artifacts" / cell
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(os.urandom(64))
    artifact = Artifact("adapter", ModelRef("tiny", "/models/tiny"), path=str(folder))
    trained_artifact.keep(folder, f"training of {cell}", record["training"], [], artifact)
    store.write_record(out, record)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A results folder of two cells and their leaderboard: nothing is wrong with it."""
    folder = tmp_path / "out"
    for cell in (CELL, OTHER):
        write_cell(folder, cell)
    write_board(folder)
    return folder


def write_board(out: Path) -> None:
    records = store.read_records([out])
    board = leaderboard_file.build(None, records)
    store.write_json(out / leaderboard_file.NAME, leaderboard_file.sealed(board, records))


def flip(file: Path, at: int = -20) -> None:
    """Flip a bit of a file."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def gone(*arguments: str) -> int:
    """The id of a process that has ended."""
    return int(subprocess.check_output([sys.executable, "-c", "import os; print(os.getpid())"]))


def write_temporary(out: Path) -> None:
    writer = store._WRITER.pattern  # a name as a writer that is gone leaves it
    assert "tmp" in writer
    (out / f"cells/.{CELL}.json.{store._host()}-{gone()}-0a1b2c3d.tmp").write_text("{")


def write_job(out: Path) -> None:
    (out / "logs").mkdir()
    (out / f"logs/{CELL}.job").write_text("{")


def write_lock(out: Path) -> None:
    (out / "locks").mkdir()
    holder = {"host": socket.gethostname(), "pid": gone(), "since": 0}
    (out / "locks/abc.lock").write_text(json.dumps(holder))


def cut_training(out: Path) -> None:
    (out / "artifacts/e5f6").mkdir()
    (out / "artifacts/e5f6/adapter_model.safetensors").write_bytes(b"half")


def begin_suite(out: Path) -> None:
    """A worker was killed between a suite's samples and the section that vouches for them."""
    store.write_samples(out, "e5f6", "quiz", ROWS)


def replace_record(out: Path) -> None:
    (out / f"cells/{CELL}.json.invalid").write_text("{")


def forge_board(out: Path) -> None:
    file = out / leaderboard_file.NAME
    board = json.loads(file.read_text())
    board["rows"][0]["label"] = "forged"
    file.write_text(json.dumps(board))


def take_cell(out: Path) -> None:
    for file in (out / f"cells/{OTHER}.json", *(out / f"samples/{OTHER}").iterdir()):
        file.unlink()


def write_checkpoint(out: Path, training: str, step: int = 5) -> Path:
    folder = out / f"checkpoints/{training}/0a1b/step-{step:09d}"
    folder.mkdir(parents=True)
    (folder / "optimizer.bin").write_bytes(os.urandom(64))
    files = {"optimizer.bin": hub.file_sha256(folder / "optimizer.bin")}
    store.write_json(folder / "checkpoint.json", store.seal({"step": step, "files": files}))
    return folder


def flip_checkpoint(out: Path) -> None:
    write_checkpoint(out, "unfinished", 4)
    flip(write_checkpoint(out, "unfinished") / "optimizer.bin")


RECORD, SAMPLES = f"cells/{CELL}.json", f"samples/{CELL}/quiz.jsonl.gz"
SECTION, WEIGHTS = f"samples/{CELL}/quiz.json", f"artifacts/{CELL}/adapter_model.safetensors"
KEPT = f"cell {CELL} is evaluated again, its training is kept"

DAMAGE: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "truncated record": (
        lambda out: truncate(out / RECORD),
        "record",
        KEPT,
        f"now cells/{CELL}.json.invalid",
    ),
    "flipped record": (
        lambda out: flip(out / RECORD, 200),
        "record",
        KEPT,
        f"now cells/{CELL}.json.invalid",
    ),
    "empty record": (lambda out: (out / RECORD).write_bytes(b""), "record", KEPT, "invalid"),
    "another cell's record": (
        lambda out: (out / RECORD).write_bytes((out / f"cells/{OTHER}.json").read_bytes()),
        "record",
        KEPT,
        "invalid",
    ),
    "flipped samples": (lambda out: flip(out / SAMPLES), "samples", KEPT, SET_ASIDE),
    "truncated samples": (lambda out: truncate(out / SAMPLES), "samples", KEPT, SET_ASIDE),
    "missing samples": (lambda out: (out / SAMPLES).unlink(), "samples", KEPT, "invalid"),
    "flipped section": (
        lambda out: flip(out / SECTION),
        "section",
        "says the same, stands",
        "deleted",
    ),
    "flipped weights": (
        lambda out: flip(out / WEIGHTS),
        "artifact",
        "the figures of its record stand",
        SET_ASIDE,
    ),
    "truncated weights": (
        lambda out: truncate(out / WEIGHTS),
        "artifact",
        "figures of its record stand",
        SET_ASIDE,
    ),
    "broken training.json": (
        lambda out: truncate(out / f"artifacts/{CELL}/training.json"),
        "artifact",
        "figures of its record stand",
        SET_ASIDE,
    ),
    "cut training": (cut_training, "artifact", "begins again", "deleted"),
    "flipped checkpoint": (flip_checkpoint, "checkpoint", "the one before it", "deleted"),
    "stale checkpoint": (
        lambda out: write_checkpoint(out, f"training of {CELL}"),
        "checkpoint",
        "nothing is lost",
        "deleted",
    ),
    "temporary file": (write_temporary, "leftover", "what it was to replace is whole", "deleted"),
    "job": (write_job, "leftover", "its cell runs", "deleted"),
    "samples alone": (begin_suite, "leftover", "their suite is measured again", "deleted"),
    "replaced record": (replace_record, "leftover", f"{CELL} is recorded anew", "deleted"),
    "lock": (write_lock, "lock", "the next run takes it over", "deleted"),
    "forged leaderboard": (forge_board, "leaderboard", "nothing is lost", "made anew"),
    "truncated leaderboard": (
        lambda out: truncate(out / leaderboard_file.NAME),
        "leaderboard",
        "nothing is",
        "of 2 rec",
    ),
    "a cell is gone": (take_cell, "leaderboard", "nothing is lost", "made anew of 1 records"),
}


def test_nothing_is_wrong_with_a_whole_folder(out: Path) -> None:
    before = contents(out)
    examined = examine(out)
    assert (examined.damage, examined.unfinished, examined.exit_code) == ([], [], 0)
    assert examine(out, mend=True).damage == []
    assert contents(out) == before


def contents(out: Path) -> dict[str, bytes]:
    return {str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file()}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_told_and_mended(out: Path, what: str) -> None:
    injure, kind, meaning, mend = DAMAGE[what]
    injure(out)
    before = contents(out)
    found = examine(out)
    assert contents(out) == before
    assert found.exit_code == 2
    first = next(one for one in found.damage if one.kind == kind)
    assert meaning in first.meaning
    assert not first.mended
    mended = examine(out, mend=True)
    assert mended.exit_code == 0
    assert mend in next(one for one in mended.damage if one.kind == kind).mend
    again = examine(out)
    assert (again.damage, again.exit_code) == ([], 0)
    # what was set aside is there, under another name
    if "deleted" not in mend and kind != "leaderboard":
        assert set(before.values()) - {b""} <= {*contents(out).values(), *board(before)}
    store.read_records([out])


def board(before: dict[str, bytes]) -> set[bytes]:
    """The leaderboard, which is derived."""
    return {before[leaderboard_file.NAME]}


def test_what_was_set_aside_goes_once_its_cell_is_recorded_anew(out: Path) -> None:
    flip(out / SAMPLES)
    examine(out, mend=True)
    assert (out / SET_ASIDE / SAMPLES).is_file()
    section = store.read_record(out / f"cells/{OTHER}.json")["evaluation"]
    assert section is not None
    record = result(out, CELL)
    store.write_record(out, record)
    told = [str(one) for one in examine(out, mend=True).damage]
    assert any(f"{SET_ASIDE}/samples/{CELL}: it was set aside" in line for line in told)
    assert not list(out.glob("cells/*.invalid"))
    assert not list((out / SET_ASIDE).glob("*/*"))
    assert examine(out).exit_code == 0


def test_samples_of_a_broken_record_are_kept_where_no_suite_vouches_for_them(out: Path) -> None:
    """As of an imported record, which no run can make again."""
    (out / SECTION).unlink()
    truncate(out / RECORD)
    examine(out, mend=True)
    examine(out, mend=True)
    assert (out / SAMPLES).is_file()


def test_a_folder_without_any_samples_is_told_and_left(out: Path) -> None:
    for file in out.glob("samples/*/*"):
        file.unlink()
    before = contents(out)
    examined = examine(out, mend=True)
    assert [one.kind for one in examined.damage] == ["samples"]
    assert examined.exit_code == 2
    assert contents(out) == before


def test_a_record_leads_no_mending_out_of_the_folder(out: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.jsonl.gz"
    foreign.write_bytes(b"not of this folder")
    record: dict[str, Any] = json.loads((out / RECORD).read_text())
    record["evaluation"]["suites"]["quiz"]["samples"]["file"] = "../foreign.jsonl.gz"
    (out / RECORD).write_text(json.dumps(store.seal(record)))
    examine(out, mend=True)
    assert foreign.read_bytes() == b"not of this folder"


def test_nothing_is_mended_beside_a_run(out: Path) -> None:
    flip(out / RECORD, 200)
    before = (out / RECORD).read_bytes()
    with Locks(out / "locks").held("training"):
        assert [one.kind for one in examine(out).damage] == ["record", "leaderboard"]
        with pytest.raises(UserError, match=rf"process {os.getpid()}.*is at work there"):
            examine(out, mend=True)
    assert (out / RECORD).read_bytes() == before


def test_unfinished_cells_are_no_damage(out: Path) -> None:
    (out / RECORD).unlink()
    checkpoint = write_checkpoint(out, "another training")
    (out / leaderboard_file.NAME).unlink()
    examined = examine(out, mend=True)
    assert (examined.damage, examined.unfinished) == ([], [CELL])
    assert (out / SAMPLES).is_file()
    assert checkpoint.is_dir()


def test_the_command_says_a_line_for_each_and_ends_with_2_until_all_is_mended(out: Path) -> None:
    runner = CliRunner()
    flip(out / SAMPLES)
    said = runner.invoke(doctor.command, [str(out)])
    assert said.exit_code == 2
    assert said.output.splitlines()[0] == (
        f"{SAMPLES}: changed since it was recorded (sha256 differs); {KEPT}; "
        "--mend: the cell's record is set aside"
    )
    assert said.output.splitlines()[-1].endswith(f"harness doctor {out} --mend")
    said = runner.invoke(doctor.command, [str(out), "--mend", "--json"])
    assert said.exit_code == 0
    told = json.loads(said.output)
    assert told["schema"] == 1
    assert [one["kind"] for one in told["damage"]] == ["samples", "leaderboard"]
    assert all(one["mended"] for one in told["damage"])
    assert told["unfinished"] == [CELL]
    assert runner.invoke(doctor.command, ["--mend"]).exit_code == 2
    with pytest.raises(UserError, match="no results folder"):
        examine(out.parent)


def test_what_cannot_be_mended_is_told(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(out / RECORD, 200)

    def full(file: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "put_aside", full)
    examined = examine(out, mend=True)
    assert examined.exit_code == 2
    assert "not mended (No space left on device)" in str(examined.damage[0])


def test_figures_follow_from_the_samples_that_are_left(out: Path) -> None:
    """The control of the tests above: their records have figures of these very samples."""
    record = store.read_record(out / RECORD)
    rows = store.read_samples(out, record, "quiz")
    metrics = summarise([Metric("right", True, "share")], rows)
    assert store.plain(metrics) == store.suites(record)["quiz"]["metrics"]
    assert isinstance(examine(out), Examined)
