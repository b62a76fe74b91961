"""`harness verify`: clean folders hold, and every change of one is named, sealed anew or not."""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli.main import cli
from harness.errors import UserError
from harness.evaluation.suite import Where, find_suite, load_suite
from harness.evaluation.tasks import perplexity, sample_task
from harness.manager import Plugins
from harness.models import trained_artifact
from harness.results.artifact_hash import artifact_hash
from harness.types import Artifact, ModelRef
from harness.verification import verify
from harness.verification.report import Report
from harness.verification.suites_at_hand import Found, SuitesAtHand, base_of
from tests.conftest import ROOT
from tests.verification.forging import agree, cell, changed, forge, load, record, samples

QUICKSTART = ROOT / "results/reference/quickstart"


@pytest.fixture(scope="module")
def at_hand() -> SuitesAtHand:
    return SuitesAtHand(Plugins(discover=False))


@pytest.fixture(autouse=True, scope="module")
def suites_are_read_once() -> Iterator[None]:
    """The suites' files stay as they are."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sample_task, "load_samples", functools.cache(sample_task.load_samples))
        patched.setattr(perplexity, "load_rows", functools.cache(perplexity.load_rows))
        yield


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The quickstart's results, to be changed."""
    shutil.copytree(QUICKSTART, tmp_path / "quickstart")
    return tmp_path / "quickstart"


def found(folder: Path, at_hand: SuitesAtHand) -> Report:
    return verify.results(folder, at_hand).report


def figures(section: Any) -> Any:
    return section["evaluation"]["suites"]


def test_twenty_clean_copies_raise_no_alarm(tmp_path: Path, at_hand: SuitesAtHand) -> None:
    for number in range(20):
        folder = tmp_path / f"{number}"
        shutil.copytree(QUICKSTART, folder)
        report = found(folder, at_hand)
        assert (report.verdict, report.findings, report.open) == ("holds", [], [])
    assert report.checked["figures"] > 1000
    assert report.checked["scores"] > 1000
    # all but those of perplexity, whose texts are no questions
    asked = [
        suite["samples"]["rows"]
        for file in QUICKSTART.glob("cells/*.json")
        for name, suite in figures(json.loads(file.read_text())).items()
        if name != "perplexity"
    ]
    assert report.checked["questions"] == sum(asked) > 400


def test_rows_of_several_seeds_hold_too(at_hand: SuitesAtHand) -> None:
    report = found(ROOT / "results/reference/methods", at_hand)
    assert (report.verdict, report.findings) == ("holds", [])
    assert (report.checked["records"], report.checked["figures"]) == (26, 6396)


# ---- mutations: each is sealed anew, and the files beside it follow where it says so -------------


@pytest.mark.parametrize("folder", ["dolly", "mmlu-arc", "release"])
def test_other_reference_results_hold(folder: str, at_hand: SuitesAtHand) -> None:
    """Of lm-eval's tasks on the Hub, and older than settings that stand beside their files."""
    report = found(ROOT / "results/reference" / folder, at_hand)
    assert (report.verdict, report.findings) == ("holds", [])


def test_a_suite_with_an_experiments_own_tasks_is_made_again(at_hand: SuitesAtHand) -> None:
    measured = load(QUICKSTART / "cells" / f"{cell(QUICKSTART, 'base')}.json")
    suite = load_suite(
        find_suite("forgetting", plugins=at_hand.plugins, folders=()),
        {"tasks": ["grade_school_science"], "limit": 5},
        plugins=at_hand.plugins,
        base_model=base_of(measured["plan"]),
        where=Where(None),
    )
    section: Any = {"hash": suite.hash, "version": suite.version, "parts": dict(suite.parts)}

    def looked_up(**changes: Any) -> Found:
        return at_hand.find(measured, "forgetting", {**section, **changes})

    again = looked_up().suite
    assert again is not None
    assert again.hash == suite.hash
    assert looked_up(hash="0" * 64).contradiction.startswith("the hash of its parts is ")
    other = {**suite.parts, "named_tasks": ["mmlu_dev"]}
    assert looked_up(parts=other).contradiction.startswith("the hash of its parts is ")
    older = {key: value for key, value in suite.parts.items() if key != "named_tasks"}
    assert looked_up(parts=older) == Found(None, "the one here differs in tasks")


def _figure(suite: str, metric: str, key: str, value: Any) -> Callable[[Path], None]:
    def mutate(folder: Path) -> None:
        with record(folder, "lora") as data:
            section = figures(data)[suite]["metrics"][metric]
            section[key] = value(section[key]) if callable(value) else value
        agree(folder)

    return mutate


def _answer(suite: str, at: int, *, forged: bool = True, **parts: Any) -> Callable[[Path], None]:
    """Other parts of a sample of LoRA's, and of its scores, with every figure made to follow."""

    def mutate(folder: Path) -> None:
        with samples(folder, "lora", suite) as rows:
            rows[at]["scores"] |= parts.pop("scores", {})
            rows[at] |= parts
        forge(folder) if forged else agree(folder)

    return mutate


def _suite(name: str, **parts: Any) -> Callable[[Path], None]:
    def mutate(folder: Path) -> None:
        with record(folder, "lora") as data:
            figures(data)[name] |= parts
        agree(folder)

    return mutate


def _board(change: Callable[[Any], object]) -> Callable[[Path], None]:
    def mutate(folder: Path) -> None:
        with changed(folder / "leaderboard.json") as board:
            change(board)

    return mutate


def removed_sample(folder: Path) -> None:
    with samples(folder, "lora", "similarity") as rows:
        del rows[3]
    forge(folder)


def removed_choice(folder: Path) -> None:
    with samples(folder, "lora", "forgetting") as rows:
        del rows[3]
    forge(folder)


def duplicated_sample(folder: Path) -> None:
    with samples(folder, "lora", "similarity") as rows:
        rows.append(max(rows, key=lambda row: row["scores"]["cosine"]))


def added_sample(folder: Path) -> None:
    with samples(folder, "lora", "similarity") as rows:
        rows.append({**rows[0], "id": "support-test-9999", "output": rows[0]["reference"]})
        rows[-1]["scores"] = dict.fromkeys(rows[0]["scores"], 1.0)
    forge(folder)


def samples_of_the_best(folder: Path) -> None:
    best, worst = (cell(folder, label) for label in ("full", "lora"))
    name = "perplexity.jsonl.gz"
    shutil.copy(folder / "samples" / best / name, folder / "samples" / worst / name)


def samples_gone(folder: Path) -> None:
    (folder / "samples" / cell(folder, "lora") / "judge.jsonl.gz").unlink()


def samples_cut(folder: Path) -> None:
    file = folder / "samples" / cell(folder, "lora") / "judge.jsonl.gz"
    file.write_bytes(file.read_bytes()[:500])


def cell_gone(label: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "cells" / f"{cell(folder, label)}.json").unlink()


def cell_cut(folder: Path) -> None:
    file = folder / "cells" / f"{cell(folder, 'lora')}.json"
    file.write_text(file.read_text()[:900])


def cell_of_another(folder: Path) -> None:
    best, worst = (cell(folder, label) for label in ("full", "lora"))
    shutil.copy(folder / "cells" / f"{best}.json", folder / "cells" / f"{worst}.json")


def metric_left_out(folder: Path) -> None:
    with record(folder, "lora") as data:
        del figures(data)["similarity"]["metrics"]["exact_match"]
    agree(folder)


def suite_left_out(folder: Path) -> None:
    with record(folder, "lora") as data:
        del figures(data)["forgetting"]
    agree(folder)


def easier_estimator(folder: Path) -> None:
    with record(folder, "lora") as data:
        section = figures(data)["perplexity"]["metrics"]["plain_perplexity"]
        section["estimator"]["where"] = "support"
    forge(folder)


def another_suite_everywhere(folder: Path) -> None:
    for label in ("base", "full", "lora", "qlora"):
        with record(folder, label) as data:
            figures(data)["similarity"]["hash"] = "0" * 64
    agree(folder)


MUTATIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a digit of a value": (
        _figure("similarity", "cosine", "value", lambda v: v + 0.1),
        r"cells/lora\S+: similarity.cosine.value: stated 0.634\d+, recomputed 0.534",
    ),
    "a narrower interval": (
        _figure("similarity", "cosine", "ci_low", 0.52),
        r"similarity.cosine.ci_low: stated 0.52, recomputed 0.460",
    ),
    "a smaller error": (
        _figure("similarity", "cosine", "stderr", 0.01),
        r"cosine.stderr: stated 0.01, rec",
    ),
    "a larger gain": (
        _figure("similarity", "cosine", "delta", 0.4),
        r"similarity.cosine.delta: stated 0.4, recomputed 0.2449",
    ),
    "a surer gain": (
        _figure("judge", "score", "delta_p", 0.01),
        r"judge.score.delta_p: stated 0.01, recomputed 0.\d+",
    ),
    "more samples": (
        _figure("similarity", "cosine", "n", 480),
        r"cosine.n: stated 480, recomputed 48",
    ),
    "less lost": (
        _figure("similarity", "must_contain", "gained", 31),
        r"must_contain.gained: stated 31, recomputed 21",
    ),
    "samples left out": (
        _figure("similarity", "cosine", "left_out", 2),
        r"cosine.left_out: stated 2, recomputed 0",
    ),
    "the other direction": (
        _figure("perplexity", "plain_perplexity", "higher_is_better", True),
        r"plain_perplexity.higher_is_better: stated True, recomputed False",
    ),
    "nothing forgotten": (
        _figure("forgetting", "retained", "value", 1.0),
        r"forgetting.retained.value: stated 1.0, recomputed 0.833",
    ),
    "a better answer": (
        _answer("similarity", 0, output="Allow 17 days for mending."),
        r"sample support-test-0000: scores.rougeL: stated 0.\d+, recomputed 1.0",
    ),
    "a better answer to the judge": (
        _answer("judge", 0, output="Allow 17 days for mending."),
        r"judge.jsonl.gz: sample support-test-0000: output: answers otherwise than in suite simi",
    ),
    "a choice that was not the likeliest": (
        _answer("forgetting", 0, scores={"acc": 1.0, "right": 1.0}),
        r"forgetting.jsonl.gz: sample \S+: scores.acc: stated 1.0, recomputed 0.0",
    ),
    "another choice": (
        _answer("forgetting", 0, output=" C"),
        r"forgetting.jsonl.gz: sample \S+: output: ' C', where",
    ),
    "a fact that is not there": (
        _answer("similarity", 1, scores={"must_contain": 1.0, "exact_match": 1.0}),
        r"sample support-test-0001: scores.exact_match: stated 1.0, recomputed 0.0",
    ),
    "a likelier text": (
        _answer("perplexity", 0, forged=False, scores={"nll": 1.0}),
        r"perplexity.perplexity.value: stated 2.42\d+, recomputed",
    ),
    "an easier reference": (
        _answer("similarity", 2, reference="Yes."),
        r"similarity.jsonl.gz: sample support-test-0002: reference: 'Yes.', where the suite has",
    ),
    "an easier question": (
        _answer("forgetting", 2, prompt="2 + 2 ="),
        r"forgetting.jsonl.gz: sample \S+: asks something else than in other cells",
    ),
    "a removed sample": (
        removed_sample,
        r"sample support-test-0003: is asked by the suite, and not there",
    ),
    "a removed choice": (
        removed_choice,
        r"forgetting.jsonl.gz: sample \S+: is not there, and in other",
    ),
    "a duplicated sample": (duplicated_sample, r"similarity.jsonl.gz: sample \S+: stands there tw"),
    "an added sample": (added_sample, r"sample support-test-9999: is no question of the suite"),
    "samples of another cell": (samples_of_the_best, r"perplexity.jsonl.gz: sha256: stated"),
    "a sample file gone": (samples_gone, r"judge.jsonl.gz: is missing; cells/lora\S+ names it"),
    "a sample file cut": (samples_cut, r"judge.jsonl.gz: cannot be read"),
    "another suite version": (
        _suite("similarity", version=3),
        r"similarity: suite: version 3, where its parts say version 2",
    ),
    "another suite": (
        _suite("similarity", hash="0" * 64),
        r"similarity: suite: the hash of its parts is 2fff06560767, not 000000000000",
    ),
    "another suite in every cell": (another_suite_everywhere, r"the hash of its parts is 2fff06"),
    "other parts of a suite": (
        _suite("similarity", parts={"version": 2, "limit": 48, "max_new_tokens": 12}),
        r"cells/lora\S+: similarity: suite: has other parts than in other cells, under one",
    ),
    "a metric left out": (
        metric_left_out,
        r"similarity.exact_match: is a metric of the suite, and not stated",
    ),
    "a suite left out": (suite_left_out, r"lora\S+: forgetting: is in the plan, and has no figur"),
    "an easier estimator": (
        easier_estimator,
        r"plain_perplexity.estimator.where: stated 'support', recomputed 'plain'",
    ),
    "a cell gone": (cell_gone("qlora"), r"cells/qlora\S+: is missing, and samples"),
    "the base gone": (cell_gone("base"), r"cells/base\S+: is missing, and samples"),
    "a record cut": (cell_cut, r"cells/lora\S+: cannot be read as JSON"),
    "a record of another cell": (cell_of_another, r"cells/lora\S+: id: stated 'full"),
    "a changed rank": (
        _board(lambda board: board["rows"][2].update(rank=1)),
        r"leaderboard.json: row qlora.rank: stated 1, recomputed 3",
    ),
    "a tie broken": (
        _board(lambda board: board["rows"][1].update(tied_with=[])),
        r"leaderboard.json: row lora.tied_with: stated \[\], recomputed \['qlora'\]",
    ),
    "a value in the table": (
        _board(lambda b: b["rows"][1]["metrics"]["similarity.cosine"].update(value=0.9)),
        r"row lora.metrics.similarity.cosine.value: stated 0.9, recomputed 0.534",
    ),
    "less memory in the table": (
        _board(lambda board: board["rows"][1]["cost"].update(peak_memory_bytes=10**9)),
        r"row lora.cost.peak_memory_bytes: stated 1000000000, recomputed \d{10}\b",
    ),
    "a row left out": (_board(lambda board: board["rows"].pop(0)), r"leaderboard.json: rows: st"),
    "rows changed about": (_board(lambda board: board["rows"].reverse()), r"leaderboard.json: row"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_named_though_it_is_sealed_anew(
    name: str, copy: Path, at_hand: SuitesAtHand
) -> None:
    mutate, expected = MUTATIONS[name]
    mutate(copy)
    report = found(copy, at_hand)
    said = "\n".join(map(str, report.findings))
    assert re.search(expected, said), said
    assert report.exit_code == 1


# ---- the same without a new seal, and what else ends in 1 ----------------------------------------


def test_what_is_not_sealed_anew_is_named_by_its_seal(copy: Path, at_hand: SuitesAtHand) -> None:
    with record(copy, "lora", sealed=False) as data:
        figures(data)["similarity"]["metrics"]["cosine"]["value"] = 0.9
    with samples(copy, "full", "judge", sealed=False) as rows:
        rows[0]["output"] = "Allow 17 days for mending."
    with changed(copy / "leaderboard.json", sealed=False) as board:
        board["rows"][2]["rank"] = 1
    beside = copy / "samples" / cell(copy, "qlora") / "judge.json"
    with changed(beside, sealed=False) as section:
        section["version"] += 1
    said = "\n".join(map(str, found(copy, at_hand).findings))
    assert "the seal is not that of the record: it changed since it was written" in said
    assert re.search(r"samples/full\S+judge.jsonl.gz: sha256: stated \S+, recomputed", said)
    assert "leaderboard.json: sha256: the seal is not that of the file" in said
    assert re.search(r"samples/qlora\S+judge.json: sha256: the seal", said)
    assert re.search(r"samples/qlora\S+judge.json: version: is not what cells/qlora", said)


def test_a_seal_that_is_taken_off_is_named(copy: Path, at_hand: SuitesAtHand) -> None:
    with record(copy, "lora") as data:
        del data["sha256"]
    assert "has no seal, where other records have one" in str(found(copy, at_hand).findings)


@pytest.fixture
def with_adapter(copy: Path) -> Path:
    """The results with an adapter beside LoRA's record that has the hash stated there."""
    name = cell(copy, "lora")
    folder = copy / "artifacts" / name
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"trained")
    data = load(copy / "cells" / f"{name}.json")
    artifact = Artifact("adapter", ModelRef("smollm2-135m", "/base", "4842"), str(folder))
    plan = data["plan"]
    trained_artifact.keep(folder, plan["training_id"], data["training"], [], artifact)
    with record(copy, "lora") as content:
        content["evaluation"]["artifact_hash"] = artifact_hash(artifact)
    agree(copy)
    return folder


def test_the_adapter_that_was_evaluated_holds(
    with_adapter: Path, copy: Path, at_hand: SuitesAtHand
) -> None:
    report = found(copy, at_hand)
    assert (report.verdict, report.checked["artifacts"]) == ("holds", 1)


def test_a_swapped_adapter_is_named(with_adapter: Path, copy: Path, at_hand: SuitesAtHand) -> None:
    (with_adapter / "adapter_model.safetensors").write_bytes(b"another")
    said = str(found(copy, at_hand).findings[0])
    place = f"artifacts/{with_adapter.name}"
    assert said == f"{place}: adapter_model.safetensors changed since it was saved"
    data = load(copy / "cells" / f"{with_adapter.name}.json")
    artifact = Artifact("adapter", ModelRef("smollm2-135m", "/base", "4842"), str(with_adapter))
    plan = data["plan"]
    trained_artifact.keep(with_adapter, plan["training_id"], data["training"], [], artifact)
    (finding,) = found(copy, at_hand).findings
    assert str(finding).startswith(f"{place}: artifact_hash: its files are not those that cells/")


# ---- what cannot be told -------------------------------------------------------------------------


def test_figures_whose_samples_are_not_shipped_are_open_and_not_fine(
    copy: Path, at_hand: SuitesAtHand
) -> None:
    shutil.rmtree(copy / "samples")
    report = found(copy, at_hand)
    assert (report.verdict, report.exit_code, report.findings) == ("cannot tell", 2, [])
    named = [one for one in report.open if one.file.startswith("cells/")]
    assert len(named) == 16
    assert named[1].figures.startswith("similarity: cosine, cosine_own_minus_other, rougeL")
    assert {one.reason for one in named} == {"the samples are not shipped"}


def test_a_folder_without_records_cannot_be_verified(tmp_path: Path, at_hand: SuitesAtHand) -> None:
    with pytest.raises(UserError, match=r"no records there \(cells/\*.json\)"):
        found(tmp_path, at_hand)


def test_another_suite_of_that_name_leaves_scores_as_stated(
    copy: Path, tmp_path: Path, at_hand: SuitesAtHand
) -> None:
    """Figures are recomputed; questions and scores are not claimed to be checked."""
    own = tmp_path / "suites"
    shutil.copytree(ROOT / "suites", own)
    text = (own / "similarity.yaml").read_text().replace("version: 2", "version: 9")
    (own / "similarity.yaml").write_text(text)
    report = found(copy, SuitesAtHand(Plugins(discover=False), [own]))
    assert report.verdict == "holds"
    told = next(line for line in report.trusted if line.startswith("similarity: the suite"))
    assert "is not at hand (the one here differs in version)" in told


@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"schema": 1}', '{"schema": 1, "id": 3}', "\x00", '{"a": NaN}']
)
def test_a_record_that_is_none_is_named_and_the_rest_verified(
    text: str, copy: Path, at_hand: SuitesAtHand
) -> None:
    (copy / "cells" / f"{cell(copy, 'lora')}.json").write_text(text)
    report = found(copy, at_hand)
    assert re.search(
        r"cells/lora\S+: (cannot be read as JSON|is no valid record)", str(report.findings[0])
    )
    assert report.checked["figures"] > 900


def test_samples_outside_the_folder_are_not_read(copy: Path, at_hand: SuitesAtHand) -> None:
    with record(copy, "lora") as data:
        figures(data)["judge"]["samples"]["file"] = "../elsewhere.jsonl.gz"
    assert "judge.samples.file: leads out of the folder" in str(found(copy, at_hand).findings[0])


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_says_what_was_checked_and_what_was_not(copy: Path) -> None:
    result = CliRunner().invoke(cli, ["verify", str(copy)])
    assert result.exit_code == 0
    assert "holds" in result.output
    assert re.search(
        r"Checked: 4 seals, 4 records, 16 sample files, \d{3} samples, \d{4} figures", result.output
    )
    assert "judge: a judge's verdicts are the judge's: nobody asked it again" in result.output
    with record(copy, "lora") as data:
        figures(data)["similarity"]["metrics"]["cosine"]["value"] = 0.9
    result = CliRunner().invoke(cli, ["verify", str(copy), "--json"])
    assert result.exit_code == 1
    told = json.loads(result.output)
    assert told["verdict"] == "does not hold"
    assert {
        "file": f"cells/{cell(copy, 'lora')}.json",
        "figure": "similarity.cosine.value",
        "problem": "",
        "stated": 0.9,
        "recomputed": pytest.approx(0.5346583345284065),
    } in told["findings"]


def test_verifying_loads_nothing_heavy() -> None:
    from tests.test_structure import loaded_by

    assert loaded_by("verify", QUICKSTART) == "HEAVY [] CODE 0"
