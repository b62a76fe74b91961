"""Ids and hashes of what is published: a change of code changes none of them unawares.

`identities.json` was written down at commit 9755b99, before the modules moved into packages. Since
then exact_match is SQuAD's (version 3), must_contain finds whole numbers (version 2), prose is no
longer scored after a chat mark, searches begin spread evenly and go on beyond their edge, and the
data set `support` was written anew: every training on it, the suites `perplexity`, `similarity` and
`judge`, and so the ids of cells changed; and an answer's bits per byte lost those of the end token
(suite `perplexity`), and chrf is of the corpus (version 2); the suite `judge` has another judge,
with its certificate (version 3). An id changes where a result would: then, and only then, write it
anew, and say in the changelog what changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.config.experiment import load_experiment
from harness.manager import Plugins
from harness.planning.plan import Plan, Settings, make_plan
from tests.conftest import ROOT, Experiment

KNOWN = json.loads(Path(__file__).with_name("identities.json").read_text(encoding="utf-8"))
FILES = {
    "quickstart": ROOT / "harness/bundled/quickstart.yaml",
    "methods": ROOT / "benchmarks/methods.yaml",
}
ROWS = {
    "answers": '{"prompt": "Two and two?", "reference": "four"}\n',
    "texts": '{"text": "The rain falls on the roof."}\n',
    "questions": '{"question": "Two and two?", "choices": ["four", "five"], "answer": 0}\n',
}
SUITES = {
    "generate": "ask: generate\ndata: answers.jsonl\nscorers: [chrf, rougeL]\n",
    "perplexity": "ask: perplexity\ndata: {prose: texts.jsonl}\n",
    "choice": "ask: choice\ndata: questions.jsonl\n",
}


def planned(file: Path, **settings: Any) -> Plan:
    return make_plan(load_experiment(file), Plugins(discover=False), Settings(**settings))


def hashes(plan: Plan) -> dict[str, str]:
    return {suite.name: suite.hash for suite in plan.base.suites}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_published_cells_keep_their_ids(name: str) -> None:
    plan = planned(FILES[name])
    assert {cell.id: cell.training_id for cell in plan.cells} == KNOWN[name]["cells"]
    assert hashes(plan) == KNOWN[name]["suites"]


def test_suites_of_each_kind_keep_their_hash(
    tmp_path: Path, experiment: Callable[..., Experiment]
) -> None:
    for name, row in ROWS.items():
        (tmp_path / f"{name}.jsonl").write_text(row)
    for name, text in SUITES.items():
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nversion: 1\n{text}")
    file = experiment(methods=["base"], suites=list(SUITES)).file
    assert hashes(planned(file, suite_folders=(tmp_path,))) == KNOWN["kinds"]
