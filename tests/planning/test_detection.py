"""`harness plan --detect`: on records of real little trainings, whole commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import cli
from tests.conftest import Experiment, run_warm, write_experiment
from tests.warm import Warm

SEEDS = [0, 1]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, warm: Warm) -> Experiment:
    """The base and two methods on two seeds, each suite on a part of its samples."""
    small = write_experiment(
        tmp_path_factory.mktemp("detect"),
        tiny_model,
        methods=["base", {"name": "full", "lr": 5e-3}, {"name": "lora", "lr": 5e-3}],
        seeds=SEEDS,
        suites=[{"name": "predicts", "limit": 4}, {"name": "picks", "limit": 6}],
    )
    outcome = run_warm(small, warm)
    assert {record["status"] for record in small.records().values()} == {"ok"}, outcome
    return small


def plan(small: Experiment, *options: object) -> Result:
    arguments = ["plan", small.file, "--out", small.out, *options]
    return CliRunner(env={"COLUMNS": "140"}).invoke(cli, [str(each) for each in arguments])


def detected(small: Experiment, *options: object) -> dict[str, Any]:
    ran = plan(small, "--json", *options)
    assert ran.exit_code == 0, ran.output + str(ran.exception)
    document: dict[str, Any] = json.loads(ran.stdout)
    assert {"experiment", "cells", "advice", "notes"} <= document.keys()
    return {**document["detect"]}


def refused(small: Experiment, *options: object) -> str:
    """The one line of an error that the user can fix."""
    ran = plan(small, *options)
    assert getattr(ran.exception, "exit_code", ran.exit_code) == 2, ran.output
    line = str(ran.exception)
    assert "\n" not in line
    return line


def seconds(record: dict[str, Any], part: str) -> float:
    return float(sum(phase["seconds"] for phase in record[part]["phases"].values()))


def test_every_comparison_of_each_first_metric(recorded: Experiment) -> None:
    found = detected(recorded, "--detect", 0.02, "--price-per-hour", 3)
    assert (found["schema"], found["difference"], found["seeds"]) == (1, 0.02, 2)
    names = [(c["suite"], c["metric"], c["candidate"], c["baseline"]) for c in found["comparisons"]]
    pairs = [("full", "base"), ("lora", "base"), ("full", "lora")]
    picks = ("picks", recorded.records()["base-0"]["evaluation"]["suites"]["picks"])
    metrics = [("predicts", "perplexity"), (picks[0], next(iter(picks[1]["metrics"])))]
    assert names == [(*metric, *pair) for metric in metrics for pair in pairs]
    for one in found["comparisons"]:
        assert one["relative"] == (one["metric"] == "perplexity")
        assert one["between_methods"] == (one["baseline"] == "lora")
        assert one["earlier_seeds"] == 2
        assert one["shares"] is None or sum(one["shares"].values()) == pytest.approx(1)
        # the suites' own rows without the limit: 6 conversations, and 8 questions
        assert one["available"] == {"predicts": 6, "picks": 8}[one["suite"]]
        assert one["now"]["samples"] == {"predicts": 4, "picks": 6}[one["suite"]]
        more = one["more_samples"]
        assert more is None or more["samples"] <= one["available"]


def test_hours_are_those_of_the_records_and_dollars_their_price(recorded: Experiment) -> None:
    found = detected(recorded, "--detect", 0.02, "--price-per-hour", 3)
    records = recorded.records()
    of_base = seconds(records["base-0"], "evaluation")
    cells = [records[f"lora-{seed}"] for seed in SEEDS]
    of_lora = [seconds(cell, "training") + seconds(cell, "evaluation") for cell in cells]
    for one in found["comparisons"]:
        if (one["candidate"], one["baseline"]) == ("lora", "base"):
            now, another = one["now"], one["another_seed"]
            assert now["hours"] == pytest.approx((sum(of_lora) + of_base) / 3600)
            assert now["dollars"] == pytest.approx(3 * now["hours"])
            extra = another["hours"] - now["hours"]
            assert extra == pytest.approx(sum(of_lora) / len(SEEDS) / 3600)
    unpriced = detected(recorded, "--detect", 0.02)
    assert unpriced["comparisons"][0]["now"]["dollars"] is None


def test_the_cheapest_design_detects_the_difference(recorded: Experiment) -> None:
    found = detected(recorded, "--detect", 50)["comparisons"]
    for one in (one for one in found if one["cheapest"] is not None):
        cheapest = one["cheapest"]
        assert cheapest["detectable"] <= 50 * 1.001
        assert (cheapest["seeds"], cheapest["samples"]) >= (2, 2)
        assert cheapest["samples"] <= one["available"]
    assert [one["cheapest"] is not None for one in found].count(True) > 1
    small = detected(recorded, "--detect", 1e-9)["comparisons"]
    assert [one["cheapest"] for one in small] == [None] * len(small)
    assert not any(one["seeds_suffice"] for one in small if one["shares"])


def test_the_table_and_its_sentences(recorded: Experiment) -> None:
    ran = plan(recorded, "--detect", 0.02)
    assert ran.exit_code == 0, ran.output
    text = " ".join(ran.stdout.split())
    assert "What it would cost to know a difference of 0.020" in text
    assert "detectable with 2 seeds" in text
    assert "dollars" not in text.partition("What it would cost")[2]
    assert "predicts.perplexity, " in text
    assert "no number of seeds detects 0.020 on 4 samples" in text
    assert "per hour" in text
    assert "samples and seeds drawn at random" in text


def test_metrics_by_pattern(recorded: Experiment) -> None:
    found = detected(recorded, "--detect", 0.02, "--metric", "predicts.*bits_per_byte")
    assert {one["metric"] for one in found["comparisons"]} == {
        "bits_per_byte", "plain_bits_per_byte",
    }  # fmt: skip
    assert "--metric: no 'picks.sped'" in refused(
        recorded, "--detect", 0.02, "--metric", "picks.sped"
    )


def test_one_seed_leaves_the_part_of_training_unknown(recorded: Experiment, tmp_path: Path) -> None:
    for cell in (recorded.out / "cells").glob("*.json"):
        if "-s1-" not in cell.name:
            (tmp_path / "one/cells").mkdir(parents=True, exist_ok=True)
            shutil.copy(cell, tmp_path / "one/cells")
    shutil.copytree(recorded.out / "samples", tmp_path / "one/samples")
    elsewhere = ("--out", tmp_path / "none", "--from", tmp_path / "one")
    found = detected(recorded, "--detect", 0.02, *elsewhere)["comparisons"]
    for one in found:
        assert (one["earlier_seeds"], one["shares"], one["cheapest"]) == (1, None, None)
        assert one["variance"]["training"] is None
        assert one["now"]["detectable"] is None
        assert one["one_run"] >= 0
    text = plan(recorded, "--detect", 0.02, *elsewhere).stdout
    assert "full, lora: earlier records of one seed cannot be split" in text
    assert "unknown, not zero" in text


def test_one_planned_seed_detects_nothing_of_training(recorded: Experiment) -> None:
    options = ("--detect", 0.02, "--set", "seeds=[7]", "--out", recorded.out.parent / "none")
    found = detected(recorded, *options, "--from", recorded.out)
    assert found["seeds"] == 1
    split = [one for one in found["comparisons"] if one["shares"] is not None]
    assert split
    assert {one["now"]["detectable"] for one in split} == {None}
    assert {one["buys_more"] for one in split} == {"seed"}
    text = plan(recorded, *options, "--from", recorded.out).stdout
    assert "another seed comes first" in " ".join(text.split())


def test_methods_without_a_record_are_planned_by_the_others(recorded: Experiment) -> None:
    other = recorded.file.with_name("other.yaml")
    other.write_text(recorded.file.read_text().replace("name: lora", "name: dora"))
    ran = CliRunner().invoke(
        cli, ["plan", str(other), "--out", str(recorded.out), "--detect", "0.02", "--json"]
    )
    assert ran.exit_code == 0, ran.exception
    found = json.loads(ran.stdout)["detect"]
    assert found["notes"] == ["no earlier record of dora: planned by full"]
    assert {one["candidate"] for one in found["comparisons"]} == {"full"}
    told = CliRunner().invoke(
        cli, ["plan", str(other), "--out", str(recorded.out), "--detect", "0.02"]
    )
    assert "Note: no earlier record of dora: planned by full" in told.stderr


def test_without_records_of_the_same_suites_it_says_what_is_missing(
    recorded: Experiment, tmp_path: Path
) -> None:
    line = refused(recorded, "--detect", 0.02, "--out", tmp_path / "none")
    assert "--detect needs earlier records of predicts, picks" in line
    assert f"`harness run {recorded.file} --set 'seeds=[0, 1]'`" in line
    assert "--from DIR" in line
    other = refused(recorded, "--detect", 0.02, "--limit", 3)
    assert "suite 'predicts' is not the same for this plan and full" in other
    assert "--limit" in other
    assert "no records there" in refused(recorded, "--detect", 0.02, "--from", tmp_path)


def test_records_of_another_model_are_none(recorded: Experiment, tmp_path: Path) -> None:
    model = tmp_path / "other"
    shutil.copytree(recorded.content["model"], model)
    (model / "generation_config.json").write_text('{"max_length": 99}')
    line = refused(recorded, "--detect", 0.02, "--set", f"model={model}")
    assert "--detect needs earlier records" in line


def test_its_options_need_it_and_a_difference_is_above_zero(recorded: Experiment) -> None:
    assert "--from is for --detect" in refused(recorded, "--from", recorded.out)
    assert "--metric is for --detect" in refused(recorded, "--metric", "picks.*")
    assert plan(recorded, "--detect", 0).exit_code == 2
    assert plan(recorded, "--detect", "nan").exit_code == 2
