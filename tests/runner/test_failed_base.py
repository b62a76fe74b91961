"""Cells that were measured while the base had failed are compared with it later."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from harness.config.experiment import load_experiment
from harness.manager import plugins
from harness.planning.plan import Settings, make_plan
from harness.results import store
from harness.runner.why import why
from harness.stats import metric_summary
from tests.conftest import Experiment, run_warm
from tests.warm import Warm


def plain(record: Any, *but: str) -> Any:
    return {key: value for key, value in store.plain(record).items() if key not in but}


def test_a_cell_measured_without_the_base_is_compared_with_it_once_it_is_there(
    finished: Experiment, warm: Warm, tmp_path: Path
) -> None:
    small = Experiment(tmp_path, finished.content)
    shutil.copytree(finished.folder, tmp_path, dirs_exist_ok=True)
    before = small.records()
    lora = before["lora-0"]
    base = next(one for one in before.values() if one["plan"]["label"] == "base")
    lone = store.plain(lora)
    lone["evaluation"]["base"] = None
    for suite, section in lone["evaluation"]["suites"].items():
        rows = store.read_samples(small.out, lora, suite)
        metrics = metric_summary.metrics_of(section["metrics"])
        section["metrics"] = metric_summary.summarise(metrics, rows)
    store.write_record(small.out, lone)
    (small.out / "cells" / f"{base['id']}.json").unlink()

    plan = make_plan(load_experiment(small.file), plugins(), Settings())
    kinds = {one.cell: one.kind for one in why(plan, small.out) if one.runs}
    assert kinds == {base["id"]: "no record", lora["id"]: "no base"}

    outcome = run_warm(small, warm)

    assert set(outcome.ran) == {base["id"], lora["id"]}
    after = small.records()["lora-0"]
    own = ("created", "warnings", "sha256", "environment")
    assert plain(after, *own) == plain(lora, *own)
    assert set(after["warnings"]) - set(lora["warnings"]) == {
        "compared with the base later: it had failed when this ran"
    }
    assert run_warm(small, warm).ran == ()
