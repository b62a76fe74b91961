"""Records and sample files: whole or absent, checked on the way in and out."""

from __future__ import annotations

import errno
import gzip
import json
import math
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import HarnessError, UserError
from harness.record import Record, new_record
from harness.results import store as records
from harness.stats.metric_summary import summarise
from harness.types import Metric

PLAN = {
    "experiment": "support",
    "model": {"name": "tiny", "path": "/models/tiny", "content_hash": "c" * 64, "revision": None},
    "method": "lora",
    "label": "lora-r8",
    "options": {"r": 8, "lr": 2e-4},
    "data": {"name": "support", "hash": "d" * 64, "rows": 90},
    "budget": {"steps": 3, "batch": 2, "max_length": 64, "precision": "float32"},
    "seed": 0,
    "suites": ["quiz"],
}
ROWS: list[dict[str, Any]] = [
    {"id": f"q{i}", "output": f"Grüße \u2028 {i}", "scores": {"right": i % 2, "nll": 1.5 * i}}
    for i in range(6)
]


def result(out: Path, id: str = "a1b2", **changes: Any) -> Record:
    """A finished cell whose sample file lies in `out`."""
    samples = records.write_samples(out, id, "quiz", ROWS)
    metrics = summarise([Metric("right", True, "share")], ROWS)
    suite = {"hash": "5" * 64, "version": 1, "metrics": metrics, "samples": samples, "notes": {}}
    whole = new_record(
        id=id,
        status="ok",
        plan=PLAN,
        training={"phases": {"train": {"seconds": 2.0, "peak_host_bytes": 10}}, "tokens": 99},
        evaluation={"phases": {"quiz": {"seconds": 1}}, "suites": {"quiz": suite}, "base": None},
        environment=records.environment(),
    )
    return {**whole, **changes}


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = records.write_record(tmp_path, result(tmp_path))
    assert path == tmp_path / "cells" / "a1b2.json"
    data = records.read_record(path)
    assert next(iter(data)) == "schema"
    assert data["plan"] == PLAN
    assert data["evaluation"]["suites"]["quiz"]["metrics"]["right"]["value"] == 0.5
    assert data["error"] is None
    [stored] = records.read_records([tmp_path])
    assert (stored.folder, stored.data) == (tmp_path, data)
    assert [file.name for file in (tmp_path / "cells").iterdir()] == ["a1b2.json"]


def test_nan_and_infinity_become_null_with_a_reason(tmp_path: Path) -> None:
    training = {
        "loss_curve": [[1, 2.0], [2, math.nan]],
        "tokens_per_second": np.float32("inf"),
        "tokens": np.int64(5),
    }
    path = records.write_record(
        tmp_path, result(tmp_path, training=training, warnings=("short data",))
    )
    data = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert data["training"] == {
        "loss_curve": [[1, 2.0], [2, None]],
        "tokens_per_second": None,
        "tokens": 5,
    }
    assert data["warnings"] == [
        "short data",
        "training.loss_curve[1][1] was nan",
        "training.tokens_per_second was inf",
    ]


def test_an_odd_value_does_not_cost_the_record(tmp_path: Path) -> None:
    training = {"notes": {"dtype": np.dtype("float32"), "where": Path("a/b"), "loss": np.ones(2)}}
    data = records.read_record(records.write_record(tmp_path, result(tmp_path, training=training)))
    notes = data["training"]["notes"]
    assert notes["where"] == str(Path("a/b"))
    assert notes["loss"] == [1.0, 1.0]
    assert isinstance(notes["dtype"], str)
    assert data["warnings"] == [
        f"training.notes.dtype was a {type(np.dtype('float32')).__name__}, written as text"
    ]


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"status": "fine"}, "status"),
        ({"status": "oom"}, "error"),
        ({"training": {"trainable_parameters": -1}}, "trainable_parameters"),
        ({"evaluation": {"suites": {"quiz": {"hash": "x", "metrics": {"m": {}}}}}}, "quiz"),
        ({"plan": {}}, "plan"),
    ],
)
def test_what_breaks_the_schema_is_not_written(
    tmp_path: Path, changes: dict[str, Any], place: str
) -> None:
    with pytest.raises(HarnessError, match=place):
        records.write_record(tmp_path, result(tmp_path, **changes))
    assert not (tmp_path / "cells").exists()


def test_a_long_error_loses_its_middle(tmp_path: Path) -> None:
    message = f"first {'x' * 10_000_000} last"
    error = {"type": "X", "message": message, "phase": "train", "traceback": [message]}
    path = records.write_record(tmp_path, result(tmp_path, status="error", error=error))
    kept = records.read_record(path)["error"]
    for text in (kept["message"], *kept["traceback"]):
        assert text.startswith("first ")
        assert text.endswith(" last")
        assert "characters left out" in text
    assert path.stat().st_size < 100_000


def test_names_cannot_leave_the_results_folder(tmp_path: Path) -> None:
    for name in ("../x", "", ".hidden", "a/b"):
        with pytest.raises(HarnessError, match="cannot name"):
            records.write_samples(tmp_path, name, "quiz", ROWS)
        with pytest.raises(HarnessError, match="cannot name"):
            records.write_samples(tmp_path, "a1", name, ROWS)


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = records.write_json(tmp_path / "board.json", {"old": True})
    program = (
        "import os, sys, pathlib\n"
        "from harness.results import store as record\n"
        "os.fsync = lambda _: os._exit(9)\n"  # dies with the bytes written, before they count
        "record.write_json(pathlib.Path(sys.argv[1]), {'new': True})\n"
    )
    process = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert process.returncode == 9
    assert json.loads(path.read_text()) == {"old": True}
    [left] = tmp_path.glob(f".*{records.TEMPORARY}")
    own = left.with_name(re.sub(r"-\d+-", f"-{os.getpid()}-", left.name))
    own.write_text("a process that lives is writing it")
    elsewhere = left.with_name(left.name.replace(f".{platform.node()[:9]}", ".elsewhere", 1))
    elsewhere.write_text("another machine may be")
    other = left.with_name(left.name.replace("board.json", "other.json", 1))
    other.write_text("nobody writes the file of this name now")
    records.write_json(path, {"new": True})
    assert {file.name for file in tmp_path.iterdir()} == {
        path.name,
        own.name,
        elsewhere.name,
        other.name,
    }


def test_a_write_that_fails_leaves_no_rubbish(tmp_path: Path) -> None:
    (tmp_path / "board.json").mkdir()
    with pytest.raises(OSError, match=r"board\.json"):
        records.write_json(tmp_path / "board.json", {})
    assert [file.name for file in tmp_path.iterdir()] == ["board.json"]


def edited(path: Path, **changes: Any) -> str:
    return json.dumps(records.seal(json.loads(path.read_text()) | changes))


def unsealed(path: Path, **changes: Any) -> str:
    """As older versions wrote it."""
    data = json.loads(path.read_text()) | changes
    return json.dumps({key: value for key, value in data.items() if key != "sha256"})


def test_unreadable_records_name_the_file_and_the_mend(tmp_path: Path) -> None:
    path = records.write_record(tmp_path, result(tmp_path))
    good = path.read_text()
    cases = {
        good[:-40]: r"a1b2\.json:\d+: broken JSON .* run the experiment again",
        "[]": "not a record",
        '{"rows": []}': "not a record",
        edited(path, schema=2): r"schema 2, this harness reads 1; install",
        good.replace('"tokens": 99', '"tokens": 98'): r"changed since it was written",
        unsealed(path, status="great"): r"not a valid record \(\$\.status",
    }
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(UserError, match=message) as error:
            records.read_records([tmp_path])
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        records.read_record(tmp_path / "cells" / "none.json")


def test_records_are_read_by_folder_and_by_file(tmp_path: Path) -> None:
    folder, other = tmp_path / "one", tmp_path / "two"
    first = records.write_record(folder, result(folder, "aa"))
    records.write_record(other, result(other, "bb"))
    results = records.read_records([first, folder, other])
    assert [(stored.id, stored.folder) for stored in results] == [("aa", folder), ("bb", other)]
    with pytest.raises(UserError, match=r"no records there.*did you mean .*one or .*two"):
        records.read_records([tmp_path])
    with pytest.raises(UserError, match="run an experiment first"):
        records.read_records([tmp_path / "nowhere"])


def test_one_cell_with_two_results_is_refused(tmp_path: Path) -> None:
    folder, other = tmp_path / "one", tmp_path / "two"
    records.write_record(folder, result(folder))
    records.write_record(other, result(other, warnings=["another run"]))
    with pytest.raises(UserError, match="a1b2 has different results"):
        records.read_records([folder, other])


def test_samples_come_back_and_have_the_same_bytes_each_time(tmp_path: Path) -> None:
    entry = records.write_samples(tmp_path, "a1b2", "quiz", ROWS)
    copy = records.write_samples(tmp_path / "again", "a1b2", "quiz", iter(ROWS))
    assert entry == copy
    assert entry["file"] == "samples/a1b2/quiz.jsonl.gz"
    assert entry["rows"] == 6
    records.write_record(tmp_path, result(tmp_path))
    [stored] = records.read_records([tmp_path])
    assert records.read_samples(tmp_path, stored.data, "quiz") == ROWS
    assert records.rows_reader([stored])(stored.data, "quiz") == ROWS


def test_a_score_that_is_not_finite_is_null_in_the_sample_file(tmp_path: Path) -> None:
    entry = records.write_samples(tmp_path, "a1", "quiz", [{"id": "q", "scores": {"x": math.nan}}])
    assert entry["non_finite"] == 1
    content = gzip.decompress((tmp_path / entry["file"]).read_bytes())
    assert json.loads(content) == {"id": "q", "scores": {"x": None}}


def test_changed_samples_are_not_read(tmp_path: Path) -> None:
    data = records.read_record(records.write_record(tmp_path, result(tmp_path)))
    path = tmp_path / "samples" / "a1b2" / "quiz.jsonl.gz"
    good = path.read_bytes()
    better = gzip.decompress(good).replace(b'"right": 0', b'"right": 1')
    for content in (good[:-9], gzip.compress(better)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"quiz\.jsonl\.gz: changed since it was recorded"):
            records.read_samples(tmp_path, data, "quiz")
    path.unlink()
    with pytest.raises(UserError, match="keep samples/ beside cells/"):
        records.read_samples(tmp_path, data, "quiz")
    with pytest.raises(UserError, match="did you mean 'quiz'"):
        records.read_samples(tmp_path, data, "quizz")


def test_the_environment_is_described_without_importing_torch() -> None:
    program = (
        "import json, sys; from harness.results import store; environment = store.environment();"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules);"
        "print(json.dumps(environment))"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    environment = json.loads(process.stdout)
    assert environment["python"] == sys.version.split()[0]
    assert environment["memory_bytes"] > 2**20
    assert environment["cores"] >= 1
    assert environment["packages"]["torch"]
    assert environment["gpu"] is None


def test_a_full_disk_is_an_error_that_names_the_file_and_the_old_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = records.write_json(tmp_path / "leaderboard.json", {"rows": []})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{file}'")):
        records.write_json(file, {"rows": [1]})
    assert json.loads(file.read_text()) == {"rows": []}
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "cells").touch()
    with pytest.raises(FileExistsError) as caught:
        records.write_json(tmp_path / "cells/x.json", {})
    assert str(caught.value.filename) == str(tmp_path / "cells")
