"""A cell's job for a machine that does not see the results folder, sent and received for real."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CellFailed, HarnessError
from harness.runner.parcel import CHUNK, Parcel, UnpackedParcel

CELL, BASE = "lora-s0-1", "base-s0-0"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A results folder with the base, another cell, and what this cell has finished."""
    out = tmp_path / "here/out"
    for cell in (BASE, "other-s0-2"):
        write(out / f"cells/{cell}.json", cell)
        write(out / f"samples/{cell}/picks.jsonl.gz", f"rows of {cell}")
    write(out / f"samples/{CELL}/picks.json", "a finished suite")
    write(out / f"artifacts/{CELL}/old.bin", "of an earlier training")
    write(out / "artifacts/same-s0-3/training.json", "{}")
    write(out / "artifacts/same-s0-3/.weights.bin.host-1-00000000.tmp", "half")
    return out


def parcel(tmp_path: Path, out: Path, **changes: Any) -> Parcel:
    data = write(tmp_path / "here/train.jsonl", "rows")
    write(tmp_path / "here/model/weights/model.safetensors", b"\x00" * (CHUNK + 17))
    job = {
        "cell": {"id": CELL, "data": {"source": str(data)}, "label": "/no/such/place"},
        "model": {"path": str(tmp_path / "here/model"), "name": "tiny"},
        "out": str(out),
        "base": BASE,
        "reuse": str(out / "artifacts/same-s0-3"),
        "opponents": {"picks": {"folder": str(out), "cell": BASE, "own": False}},
        "warnings": [],
        "shared": str(tmp_path),
        **changes,
    }
    file = write(tmp_path / "job.json", json.dumps(job))
    return Parcel(file, out / f"logs/{CELL}.log")


def names(folder: Path) -> set[str]:
    found = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix() for file in found}


def test_what_a_cell_reads_goes_along_and_what_it_makes_comes_back(
    tmp_path: Path, out: Path
) -> None:
    mine = parcel(tmp_path, out)
    mine.warn("the first node was lost")
    assert set(mine.inputs) == {str(tmp_path / "here" / name) for name in ("model", "train.jsonl")}
    assert mine.inputs[str(tmp_path / "here/model")] == CHUNK + 17
    chunks = list(mine.chunks(results=True, inputs=mine.inputs))
    assert max(map(len, chunks)) <= CHUNK
    there = UnpackedParcel(tmp_path / "there", chunks)
    job = json.loads(there.job_file.read_text())
    # no path leads back
    assert f'"{tmp_path / "here"}' not in there.job_file.read_text()
    assert (job["warnings"], job["shared"]) == (["the first node was lost"], None)
    assert job["cell"]["label"] == "/no/such/place"
    assert Path(job["cell"]["data"]["source"]).read_text() == "rows"
    model = Path(job["model"]["path"]) / "weights/model.safetensors"
    assert model.read_bytes() == b"\x00" * (CHUNK + 17)
    assert job["opponents"]["picks"]["folder"] == job["out"]
    # what it reads, and neither another cell nor half a file
    assert names(Path(job["out"])) == {
        f"cells/{BASE}.json",
        f"samples/{BASE}/picks.jsonl.gz",
        f"samples/{CELL}/picks.json",
        f"artifacts/{CELL}/old.bin",
        "artifacts/same-s0-3/training.json",
    }
    before = names(out)
    assert there.record_digest is None
    worked = Path(job["out"])
    (worked / f"artifacts/{CELL}/old.bin").unlink()
    write(worked / f"artifacts/{CELL}/adapter.safetensors", b"\x01" * (2 * CHUNK))
    write(worked / f"cells/{CELL}.json", "the record")
    write(worked / f"samples/{CELL}/picks.json", "anew")
    write(there.log_file, "what it said\n")
    write(out / f"logs/{CELL}.log", "begun\n")
    digest = hashlib.sha256(b"the record").hexdigest()
    assert there.record_digest == digest
    with pytest.raises(CellFailed, match="is not seen here: is that folder on a disk"):
        mine.wait_for_record(digest, 0.1)
    mine.receive(there.chunks())
    assert (out / f"logs/{CELL}.log").read_text() == "begun\nwhat it said\n"
    assert (out / f"samples/{CELL}/picks.json").read_text() == "anew"
    assert (out / f"artifacts/{CELL}/adapter.safetensors").read_bytes() == b"\x01" * (2 * CHUNK)
    made = {f"cells/{CELL}.json", f"artifacts/{CELL}/adapter.safetensors", f"logs/{CELL}.log"}
    assert names(out) == before - {f"artifacts/{CELL}/old.bin"} | made
    mine.wait_for_record(digest, 0.1)
    mine.wait_for_record(None)


def test_a_folder_that_holds_the_results_is_sent_without_them(tmp_path: Path, out: Path) -> None:
    mine = parcel(tmp_path, out, mirror=str(tmp_path / "here"))
    there = UnpackedParcel(tmp_path / "there", mine.chunks(results=True, inputs=mine.inputs))
    job = json.loads(there.job_file.read_text())
    assert names(Path(job["mirror"])) == {"train.jsonl", "model/weights/model.safetensors"}
    assert Path(job["out"]) == tmp_path / "there/out"


def test_where_the_results_folder_is_seen_the_job_alone_is_sent(tmp_path: Path, out: Path) -> None:
    mine = parcel(tmp_path, out)
    there = UnpackedParcel(tmp_path / "there", mine.chunks(results=False, inputs=()))
    job = json.loads(there.job_file.read_text())
    sent = json.loads((tmp_path / "job.json").read_text())
    assert job == sent
    assert there.log_file == out / f"logs/{CELL}.log"
    assert names(tmp_path / "there") == {"job.json", "work.json"}
    assert list(there.chunks()) == []


def test_the_record_comes_last_and_a_torn_archive_leaves_none(tmp_path: Path, out: Path) -> None:
    mine = parcel(tmp_path, out)
    there = UnpackedParcel(tmp_path / "there", mine.chunks(results=True, inputs=()))
    worked = Path(json.loads(there.job_file.read_text())["out"])
    write(worked / f"cells/{CELL}.json", "the record")
    noise = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(256))
    write(worked / f"samples/{CELL}/answers.jsonl.gz", noise * 1024)
    whole = b"".join(there.chunks())

    def torn() -> Any:
        yield whole[: len(whole) // 2]
        raise ConnectionError("the node is gone")

    before = names(out)
    with pytest.raises(ConnectionError, match="the node is gone"):
        mine.receive(torn())
    assert names(out) == before
    mine.receive([whole])
    assert names(out) - before == {f"cells/{CELL}.json", f"samples/{CELL}/answers.jsonl.gz"}


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "cells/../../escaped", ""])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, out: Path, name: str) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    before = names(tmp_path)
    mine = parcel(tmp_path, out)
    with pytest.raises(HarnessError, match="is no name of a file in a folder"):
        mine.receive([archive.getvalue()])
    assert not Path("/tmp/escaped").exists()
    assert names(tmp_path) - before <= {
        "job.json",
        "here/train.jsonl",
        "here/model/weights/model.safetensors",
    }


def test_a_link_in_an_archive_is_not_followed(tmp_path: Path, out: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("artifacts/link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    parcel(tmp_path, out).receive([archive.getvalue()])
    assert not (out / "artifacts/link").is_symlink()
