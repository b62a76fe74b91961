"""What was measured once is kept, and is never measured again for the same artifact and suite."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.config.experiment import load_experiment
from harness.errors import UserError
from harness.evaluation.cached_results import Sections, arithmetic
from harness.manager import Plugins
from harness.models import trained_artifact
from harness.planning.cell import Cell
from harness.planning.plan import Settings, make_plan
from harness.results import store
from harness.results.artifact_hash import artifact_hash
from harness.sdk.running import reusable_results
from harness.system import hardware
from harness.system.hardware import Gpu, Machine, TorchBuild
from harness.types import Artifact, ModelRef
from tests.conftest import ROOT, THINGS, Experiment, Ran, run_warm, write_distribution, write_jsonl
from tests.warm import Warm

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


@pytest.fixture
def copy(finished: Experiment, tmp_path: Path) -> Experiment:
    """The finished experiment in a folder of its own, where it may be changed."""
    folder = tmp_path / "copy"
    shutil.copytree(finished.folder, folder)
    return Experiment(folder, finished.content)


def suites_of(record: dict[str, Any]) -> dict[str, Any]:
    return dict(record["evaluation"]["suites"])


def figures(record: dict[str, Any]) -> dict[str, Any]:
    return {name: suite["metrics"] for name, suite in suites_of(record).items()}


def cell_of(small: Experiment, label: str) -> Cell:
    plan = make_plan(load_experiment(small.file), Plugins(discover=False), Settings())
    return next(cell for cell in plan.cells if cell.label == label and cell.seed == 0)


def sections(small: Experiment, label: str, warnings: list[str], base: bool = False) -> Sections:
    """What a worker of that cell would work with."""
    records = small.records()
    return Sections(
        out=small.out,
        cell_id=records[f"{label}-0"]["id"],
        base=records["base-0"]["id"] if base else None,
        artifact_hash=records[f"{label}-0"]["evaluation"]["artifact_hash"],
        warn=warnings.append,
    )


def test_answers_are_of_the_device_that_computed_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its kind and generation, whatever else the machine has."""

    def on(*gpus: Gpu, cuda: str | None = "12.8", cores: int = 2) -> str:
        torch = TorchBuild("2.13.0", cuda)
        machine = Machine(cores, 2**33, "a processor", gpus=gpus, torch=torch)
        monkeypatch.setattr(hardware, "facts", lambda: machine)
        return arithmetic()

    ampere, hopper = (Gpu("one", 2**36, capability) for capability in ((8, 0), (9, 0)))
    assert on() == on(cores=64) == on(ampere, cuda=None)
    assert on(ampere) == on(ampere, ampere)
    assert len({on(), on(ampere), on(hopper)}) == 3


# ---- the artifact --------------------------------------------------------------------------------


def adapter(folder: Path, **files: str) -> Artifact:
    folder.mkdir()
    for name, content in {"adapter_model.safetensors": "weights", **files}.items():
        (folder / name).write_text(content)
    return Artifact("adapter", ModelRef("tiny", "/tiny", content_hash="c" * 64), str(folder))


def test_an_artifact_is_its_bytes_not_its_place_or_its_story(tmp_path: Path) -> None:
    files = {"training.json": "{}", "README.md": "By me.", ".x.tmp": "half"}
    first, second = adapter(tmp_path / "a"), adapter(tmp_path / "b", **files)
    assert artifact_hash(first) == artifact_hash(second)
    elsewhere = dataclasses.replace(first.base, name="other", path="/elsewhere")
    assert artifact_hash(dataclasses.replace(first, base=elsewhere)) == artifact_hash(first)


def test_what_changes_an_answer_changes_the_hash(tmp_path: Path) -> None:
    first = adapter(tmp_path / "a")
    base = first.base
    others = [
        adapter(tmp_path / "bytes", **{"adapter_model.safetensors": "other"}),
        adapter(tmp_path / "file", **{"adapter_config.json": "{}"}),
        dataclasses.replace(first, path=None),
        dataclasses.replace(first, quantization=NF4),
        dataclasses.replace(first, precision="bf16"),
        dataclasses.replace(first, chat_template="{{ messages }}"),
        dataclasses.replace(first, base=dataclasses.replace(base, content_hash="d" * 64)),
        dataclasses.replace(first, base=ModelRef("tiny", "org/tiny", revision="1")),
        dataclasses.replace(first, base=ModelRef("tiny", "org/tiny", revision="2")),
        dataclasses.replace(first, weights=ModelRef("w", "/w", content_hash="e" * 64)),
    ]
    hashes = [artifact_hash(artifact) for artifact in (first, *others)]
    assert len(set(hashes)) == len(hashes)


def test_files_have_the_modes_of_the_users_umask(finished: Experiment, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.touch()
    logs = finished.out / "logs"  # the executor's
    saved = [f for f in finished.out.rglob("*") if f.is_file() and f.parent != logs]
    assert {file.suffix for file in saved} >= {".safetensors", ".json", ".gz"}
    assert {oct(file.stat().st_mode) for file in saved} == {oct(new.stat().st_mode)}


def test_cells_with_other_weights_have_other_hashes(finished: Experiment) -> None:
    records = finished.records()
    hashes = {label: record["evaluation"]["artifact_hash"] for label, record in records.items()}
    assert len(set(hashes.values())) == len(hashes)
    assert len({record["evaluation"]["tokenizer_hash"] for record in records.values()}) == 1


# ---- what runs and what does not -----------------------------------------------------------------


def stumbling(experiment: Callable[..., Experiment], site: Path, stone: Path) -> Experiment:
    """An experiment whose last suite kills its worker while `stone` lies in its way."""
    small = experiment(suites=["picks", "answers", "stumbles"])
    rows = [{"id": t, "prompt": t, "reference": t, "stone": str(stone)} for t in THINGS[:2]]
    write_jsonl(small.folder / "stumbles.jsonl", rows)
    suite = {"name": "stumbles", "version": 1, "ask": "generate", "data": "stumbles.jsonl"}
    suite |= {"scorers": ["stumble"], "max_new_tokens": 2}
    (small.folder / "stumbles.yaml").write_text(yaml.safe_dump(suite))
    write_distribution(site, ROOT / "tests/sample_plugins/trouble.py", "trouble")
    return small


def test_a_worker_that_is_killed_in_its_last_suite_loses_that_suite_alone(
    experiment: Callable[..., Experiment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    warm: Warm,
) -> None:
    stone = tmp_path / "stone"
    stone.touch()
    small = stumbling(experiment, tmp_path / "site", stone)
    monkeypatch.syspath_prepend(tmp_path / "site")
    (id,) = run_warm(small, warm).failed
    assert "SIGKILL" in small.records()["base-0"]["error"]["message"]
    kept = sorted(file.name for file in (small.out / "samples" / id).glob("*.json"))
    assert kept == ["answers.json", "picks.json"]

    stone.unlink()
    outcome = run_warm(small, warm)
    assert not outcome.failed
    record = small.records()["base-0"]
    store.validate(record, "record")
    assert list(suites_of(record)) == ["picks", "answers", "stumbles"]
    reused = {name: suite.get("reused") for name, suite in suites_of(record).items()}
    assert reused == {"picks": id, "answers": id, "stumbles": None}
    assert set(record["evaluation"]["phases"]) == {"reload", "generate", "stumbles"}
    # what ran now is not what the evaluation takes
    (row,) = outcome.board["rows"]
    assert row["cost"]["evaluation_seconds"] is None
    assert row["cost"]["peak_memory_bytes"] is None


def test_a_suite_that_is_added_is_the_only_one_that_runs(copy: Experiment, warm: Warm) -> None:
    before = copy.records()
    write_jsonl(copy.folder / "more.jsonl", [{"text": "One more text."}, {"text": "And two."}])
    added = {"name": "more", "version": 1, "ask": "perplexity", "data": "more.jsonl"}
    (copy.folder / "more.yaml").write_text(yaml.safe_dump(added))
    changed = copy.write(
        suites=["picks", "more", "answers"], methods=["base", {"name": "lora", "r": 4}], seeds=[0]
    )
    outcome = run_warm(changed, warm)
    assert not outcome.failed
    for id, label in zip(outcome.ran, ("base-0", "lora-0"), strict=True):
        record = store.read_record(copy.out / "cells" / f"{id}.json")
        assert set(record["evaluation"]["phases"]) == {"reload", "loglikelihood", "more"}
        assert {n for n, s in suites_of(record).items() if "reused" not in s} == {"more"}
        assert suites_of(record)["picks"]["reused"] == before[label]["id"]
        for name in ("picks", "answers"):
            assert suites_of(record)[name]["metrics"] == suites_of(before[label])[name]["metrics"]
            rows = store.read_samples(copy.out, record, name)
            assert rows == store.read_samples(copy.out, before[label], name)


def test_a_base_is_measured_once_for_all_experiments(
    harness: Callable[..., Ran], copy: Experiment
) -> None:
    """The command, with a folder beside another in `results/`: no model is opened."""
    before, out = copy.records()["base-0"], copy.folder / "results/second"
    shutil.copytree(copy.out, copy.folder / "results/first")
    other = copy.write(name="other", methods=["base"], seeds=[0])
    result = harness("run", other.file, "--out", out, cwd=copy.folder)
    assert result.code == 0
    (record,) = (json.loads(path.read_text()) for path in (out / "cells").glob("*.json"))
    assert result.stderr.splitlines() == [f"{record['id']}: ok"]
    store.validate(record, "record")
    assert record["evaluation"]["phases"] == {}
    assert {suite["reused"] for suite in suites_of(record).values()} == {before["id"]}
    assert figures(record) == figures(before)
    for name, suite in suites_of(record).items():
        assert suite["samples"]["sha256"] == suites_of(before)[name]["samples"]["sha256"]
        assert store.read_samples(out, record, name)
    assert record["evaluation"]["tokenizer_hash"] == before["evaluation"]["tokenizer_hash"]
    assert "eval" in result.stdout  # the table has its column, without a figure


def test_answers_are_only_searched_beside_a_folder_of_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody named what lies beside an `--out` elsewhere."""
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results"
    assert (
        reusable_results(Path("results/second")) == reusable_results(results / "second") == results
    )
    for elsewhere in ("second", "results", "results/group/second", "../second"):
        assert reusable_results(Path(elsewhere)) is None


def test_a_broken_training_of_another_cell_stops_no_run(tmp_path: Path) -> None:
    artifact = adapter(tmp_path / "good", **{"adapter_config.json": "{}"})
    places = [tmp_path / "artifacts" / str(number) for number in range(7)]
    for place in places:
        place.mkdir(parents=True)
        trained_artifact.keep(place, "one", {}, [], artifact)
    broken = (b"", b"{", b"[]", b"null", b"\xff\x00", b"[" * 100_000)
    for place, content in zip(places[1:], broken, strict=True):
        (place / trained_artifact.TRAINING_FILE).write_bytes(content)
    assert trained_artifact.with_training(tmp_path, "one") == places[:1]


def test_what_was_edited_is_measured_again_with_a_warning(copy: Experiment, warm: Warm) -> None:
    before = copy.records()["base-0"]
    kept = copy.out / "samples" / before["id"]
    section = json.loads((kept / "picks.json").read_text())
    section["metrics"]["acc"]["value"] = 1.0
    (kept / "picks.json").write_text(json.dumps(section))
    (kept / "answers.json").write_text((kept / "answers.json").read_text()[:-200])
    (kept / "predicts.jsonl.gz").write_bytes((kept / "predicts.jsonl.gz").read_bytes()[:-30])
    (copy.out / "cells" / f"{before['id']}.json").unlink()
    outcome = run_warm(copy, warm)
    assert outcome.ran == (before["id"],)
    after = copy.records()["base-0"]
    assert after["status"] == "ok"
    assert figures(after) == figures(before)
    assert {n for n, s in suites_of(after).items() if "reused" in s} == {"tasks"}
    warnings = [line for line in after["warnings"] if "are not used" in line]
    assert len(warnings) == 3
    for name in ("picks", "answers", "predicts"):
        assert any(line.startswith(f"suite '{name}': the answers kept for") for line in warnings)
    assert not any(str(copy.out) in line for line in after["warnings"])


# ---- what counts as the same ---------------------------------------------------------------------


def test_answers_to_other_data_or_of_another_layout_are_not_the_same(copy: Experiment) -> None:
    cell, warnings = cell_of(copy, "base"), list[str]()
    (suite,) = (candidate for candidate in cell.suites if candidate.name == "picks")
    file = copy.out / "samples" / cell.id / "picks.json"
    section, rows = store.read_section(file)
    assert sections(copy, "base", warnings).reuse(suite) == cell.id
    assert rows == store.read_samples(copy.out, copy.records()["base-0"], "picks")
    changes = ({"data_hash": "d" * 64}, {"schema": 0}, {"hash": "0" * 64})
    for change in (*changes, {"arithmetic": "cuda 8.0, passes 1"}, {"arithmetic": None}):
        store.write_section(copy.out, cell.id, "picks", {**section, **change})
        assert sections(copy, "base", warnings).reuse(suite) is None
    # nothing is broken: these are answers to something else
    assert warnings == []


def test_a_kept_suite_vouches_for_its_rows(copy: Experiment) -> None:
    id = copy.records()["base-0"]["id"]
    file = copy.out / "samples" / id / "picks.json"
    good = file.read_text()
    for text in ("[]", "{", '{"sha256": 1}', good.replace('"version": 1', '"version": 2')):
        file.write_text(text)
        with pytest.raises(UserError, match=r"picks\.json: "):
            store.read_section(file)
    file.write_text(good)
    store.read_section(file)
    (file.with_name("picks.jsonl.gz")).unlink()
    with pytest.raises(UserError, match=r"picks\.jsonl\.gz: cannot be read"):
        store.read_section(file)


def but_degenerate(warnings: list[str]) -> list[str]:
    """Without what is told of the answers of a random model, which are kept with them."""
    return [line for line in warnings if ": degenerate." not in line]


def test_reused_answers_are_compared_with_this_cells_base(copy: Experiment) -> None:
    warnings: list[str] = []
    lora = sections(copy, "lora", warnings, base=True)
    alone = sections(copy, "lora", warnings)
    for suite in cell_of(copy, "lora").suites:
        lora.reuse(suite)
        alone.reuse(suite)
    record = copy.records()["lora-0"]
    assert {n: s["metrics"] for n, s in lora.done.items()} == figures(record)
    assert alone.done["picks"]["metrics"]["acc"]["delta"] is None
    assert but_degenerate(warnings) == []


def test_perplexity_per_token_is_not_compared_with_another_tokenizer(copy: Experiment) -> None:
    base = copy.records()["base-0"]
    base["evaluation"]["tokenizer_hash"] = "0" * 64
    store.write_json(copy.out / "cells" / f"{base['id']}.json", store.seal(base))
    warnings: list[str] = []
    lora = sections(copy, "lora", warnings, base=True)
    for suite in cell_of(copy, "lora").suites:
        lora.reuse(suite)
    metrics = lora.done["predicts"]["metrics"]
    assert metrics["perplexity"]["delta"] is metrics["plain_perplexity"]["delta_p"] is None
    assert metrics["bits_per_byte"]["delta"] is not None
    assert lora.done["picks"]["metrics"]["acc"]["delta"] is not None
    (warning,) = but_degenerate(warnings)
    assert warning.startswith("suite 'predicts': the base has another tokenizer")
    assert "bits_per_byte" in warning


def test_a_base_that_cannot_be_read_does_not_cost_the_answers(copy: Experiment) -> None:
    records = copy.records()
    kept = copy.out / "samples" / records["base-0"]["id"] / "picks.jsonl.gz"
    kept.write_bytes(kept.read_bytes()[:-9])
    own = copy.out / "samples" / records["lora-0"]["id"] / "picks.json"
    rows = store.read_section(own)[1]
    (suite,) = (
        candidate for candidate in cell_of(copy, "lora").suites if candidate.name == "picks"
    )
    with pytest.raises(UserError, match="changed since it was recorded"):
        sections(copy, "lora", [], base=True).reuse(suite)
    assert store.read_section(own)[1] == rows
