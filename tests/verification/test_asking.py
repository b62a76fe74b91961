"""Questions asked again of the very model: what holds, and what no recomputation could find."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from harness.errors import UserError
from harness.manager import Plugins
from harness.models import packaged
from harness.verification import asking, published, verify
from harness.verification.asking import Asking
from harness.verification.report import Report
from harness.verification.suites_at_hand import SuitesAtHand
from tests.conftest import ROOT
from tests.publishing.conftest import *  # noqa: F403
from tests.publishing.conftest import Published
from tests.verification.forging import cell, changed, forge, samples

EVERY = Asking(questions=1000, seed=0)


def quiet(text: str) -> None:
    """What goes on is of no interest here."""


def asked(copy: Published, at_hand: SuitesAtHand, how: Asking, finished: Any) -> Report:
    verified, told = published.check(copy.folder, at_hand)
    base = finished.content["model"]
    how = Asking(how.questions, how.seed, how.cell, base)
    asking.ask(verified, how, told, quiet)
    return verified.report


def test_a_published_model_answers_as_it_is_recorded(
    adapter: Published, at_hand: SuitesAtHand, finished: Any
) -> None:
    report = asked(adapter, at_hand, EVERY, finished)
    assert (report.verdict, report.findings) == ("holds", [])
    assert report.checked["questions asked again"] == report.checked["samples"] / 2  # the base's
    assert re.search(r"of \d+ questions asked again \d+ answers may differ", str(report.trusted))


def test_twenty_are_drawn_with_a_seed(
    adapter: Published, at_hand: SuitesAtHand, finished: Any
) -> None:
    report = asked(adapter, at_hand, Asking(20, 7), finished)
    assert (report.verdict, report.checked["questions asked again"]) == ("holds", 20)
    verified, _ = published.check(adapter.folder, at_hand)
    drawn = [
        [suite.picked for suite in asking._drawn(verified, adapter.record, Asking(20, seed))]
        for seed in (7, 7, 8)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_made_up_answers_are_found_though_all_else_follows_from_them(
    copy: Published, at_hand: SuitesAtHand, finished: Any
) -> None:
    """Other words that get the same scores, and better log-probabilities with every figure made
    to follow: no recomputation finds these."""
    name = f"samples/{copy.cell}/answers.jsonl.gz"
    rows = [json.loads(x) for x in gzip.decompress((copy.results / name).read_bytes()).splitlines()]
    for row in rows[:4]:
        row["output"] = "zzz"
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    (copy.results / name).write_bytes(packed)
    with changed(copy.results / "cells" / f"{copy.cell}.json") as data:
        stated = data["evaluation"]["suites"]["answers"]["samples"]
        stated["sha256"] = hashlib.sha256(packed).hexdigest()
    forge(copy.results)
    copy.reseal()
    told = "\n".join(map(str, asked(copy, at_hand, EVERY, finished).findings))
    assert re.search(
        r"evaluation/samples/lora\S+/answers.jsonl.gz: sample \S+: output: stated 'zzz', asked ag",
        told,
    )


def test_another_models_weights_are_found(
    copy: Published, at_hand: SuitesAtHand, finished: Any
) -> None:
    from safetensors.torch import load_file, save_file

    file = copy.folder / "adapter_model.safetensors"
    save_file({k: v + 0.3 for k, v in load_file(file).items()}, file, {"format": "pt"})
    told = "\n".join(map(str, asked(copy, at_hand, EVERY, finished).findings))
    assert re.search(r"predicts.jsonl.gz: sample \S+: scores.nll: stated", told)
    assert re.search(r"picks.jsonl.gz: sample \S+: logprobs\[\d\]: stated", told)


def test_a_cell_of_a_results_folder_is_asked(at_hand: SuitesAtHand, finished: Any) -> None:
    verified = verify.results(finished.out, at_hand)
    with pytest.raises(UserError, match="of several models are here: name one with --cell"):
        asking.ask(verified, EVERY, None, quiet)
    for label in ("lora-1", "base-0"):
        name = finished.records()[label]["id"]
        how = Asking(20, 0, name, finished.content["model"])
        verified = verify.results(finished.out, at_hand)
        asking.ask(verified, how, None, quiet)
        assert verified.report.verdict == "holds", verified.report.findings
        assert verified.report.checked["questions asked again"] == 20


def test_merged_weights_answer_as_the_adapter_did(
    publishing: Callable[..., Result], at_hand: SuitesAtHand, finished: Any, tmp_path: Path
) -> None:
    result = publishing("lora", "--to", tmp_path / "merged", "--license", "mit", "--merge")
    assert result.exit_code == 0, result.output
    merged = Published(tmp_path / "merged", finished.records()["lora-0"]["id"])
    assert (merged.folder / "model.safetensors").is_file()
    assert "before it was merged" in (merged.folder / "README.md").read_text()
    report = asked(merged, at_hand, Asking(20, 1), finished)
    assert (report.verdict, report.findings) == ("holds", [])
    assert "not the bytes that were measured" in str(report.trusted)


@pytest.mark.slow
@pytest.mark.long
def test_scores_of_an_embedder_are_computed_again(tmp_path: Path) -> None:
    folder = tmp_path / "quickstart"
    shutil.copytree(ROOT / "results/reference/quickstart", folder)
    at_hand = SuitesAtHand(Plugins(discover=False))
    packaged.pull("minilm-l6")
    verified = verify.results(folder, at_hand)
    asking.rescore(verified, quiet)
    assert (verified.report.verdict, verified.report.findings) == ("holds", [])
    assert not [line for line in verified.report.trusted if line.startswith("similarity: the sco")]
    with samples(folder, "lora", "similarity") as rows:
        rows[0]["scores"]["cosine"] += 0.01
    forge(folder)
    verified = verify.results(folder, at_hand)
    assert not verified.report.findings
    asking.rescore(verified, quiet)
    (one,) = verified.report.findings
    file = f"samples/{cell(folder, 'lora')}/similarity.jsonl.gz"
    assert str(one).startswith(f"{file}: sample support-test-0000: scores.cosine: stated 0.")
