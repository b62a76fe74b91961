"""`harness verify` on a published folder: every change is named, sealed anew or not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import cli
from harness.errors import UserError
from harness.publishing import publication
from harness.results import store
from harness.verification import published
from harness.verification.suites_at_hand import SuitesAtHand
from tests.publishing.conftest import *  # noqa: F403
from tests.publishing.conftest import Published
from tests.verification.forging import changed, forge


def said(copy: Published, at_hand: SuitesAtHand) -> str:
    return "\n".join(map(str, published.check(copy.folder, at_hand)[0].report.findings))


def eee(copy: Published, ending: str) -> Path:
    (file,) = (copy.folder / "every_eval_ever").rglob(f"*[0-9a-f]{ending}")
    return file


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


# ---- mutations; `publication.json` is made anew after each ---------------------------------------


def card_figure(copy: Published) -> None:
    replace(copy.folder / "README.md", "| acc ↑ | 0.125 [", "| acc ↑ | 0.925 [")


def card_metadata(copy: Published) -> None:
    replace(copy.folder / "README.md", "value: 0.125", "value: 0.925")


def card_warning(copy: Published) -> None:
    text = (copy.folder / "README.md").read_text().splitlines(keepends=True)
    kept = [line for line in text if "data.few_rows" not in line]
    assert len(kept) == len(text) - 1
    (copy.folder / "README.md").write_text("".join(kept))


def card_gone(copy: Published) -> None:
    (copy.folder / "README.md").unlink()


def swapped_adapter(copy: Published) -> None:
    file = copy.folder / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def swapped_adapter_with_its_hash(copy: Published) -> None:
    swapped_adapter(copy)
    sha = publication.hashes(copy.folder)["adapter_model.safetensors"]
    with changed(copy.folder / "publication.json") as told:
        for pair in told["artifact"]["files"]:
            if pair[0] == "adapter_model.safetensors":
                pair[1] = sha


def score_of_the_datastore(copy: Published) -> None:
    with changed(eee(copy, ".json")) as told:
        for result in told["evaluation_results"]:
            if result["evaluation_result_id"] == "picks.acc":
                result["score_details"]["score"] = 0.925


def instance_of_the_datastore(copy: Published) -> None:
    replace(eee(copy, "_samples.jsonl"), '"is_correct": false', '"is_correct": true')


def figure_of_the_record(copy: Published) -> None:
    with changed(copy.results / "cells" / f"{copy.cell}.json") as data:
        data["evaluation"]["suites"]["picks"]["metrics"]["acc"]["value"] = 0.925


def samples_gone(copy: Published) -> None:
    (copy.results / f"samples/{copy.cell}/picks.jsonl.gz").unlink()


def base_gone(copy: Published) -> None:
    (copy.results / f"cells/{copy.told.base}.json").unlink()


def results_of_a_benchmark(copy: Published) -> None:
    (copy.folder / ".eval_results").mkdir()
    text = "- dataset: {id: cais/hle, task_id: hle}\n  value: 99.0\n"
    (copy.folder / ".eval_results/hle.yaml").write_text(text)


def benchmark_that_was_not_asked(copy: Published) -> None:
    with changed(copy.folder / "publication.json") as told:
        told["benchmarks"] = [{"metric": "picks.acc", "dataset": "a/b", "task_id": "c"}]


def other_precision(copy: Published) -> None:
    with changed(copy.folder / "publication.json") as told:
        told["artifact"]["precision"] = "bf16"


MUTATIONS: dict[str, tuple[Callable[[Published], None], str]] = {
    "a figure of the card": (
        card_figure,
        r"README.md: line \d+: stated '\| acc ↑ \| 0.925 \[.*, recomputed '\| acc ↑ \| 0.125 \[",
    ),
    "a figure of its metadata": (
        card_metadata,
        r"README.md: line \d+: stated '      value: 0.925', recomputed '      value: 0.125'",
    ),
    "a warning of the card": (card_warning, r"README.md: line \d+: lacks '- data.few_rows"),
    "the card": (card_gone, r"README.md: cannot be read"),
    "the adapter": (
        swapped_adapter,
        r"adapter_model.safetensors: sha256: is not the file that was trained and measured",
    ),
    "the adapter and its hash": (
        swapped_adapter_with_its_hash,
        r"publication.json: artifact: is not what the record was measured on",
    ),
    "a score of the datastore": (
        score_of_the_datastore,
        r"tiny-lora/\S+.json: evaluation_results\[\d+\].score_details.score: stated 0.925, rec",
    ),
    "an instance of the datastore": (
        instance_of_the_datastore,
        r"_samples.jsonl: \[\d+\].evaluation.is_correct: stated True, recomputed False",
    ),
    "a figure of the record": (
        figure_of_the_record,
        r"evaluation/cells/lora\S+: picks.acc.value: stated 0.925, recomputed 0.125",
    ),
    "a sample file": (samples_gone, r"evaluation/samples/lora\S+/picks.jsonl.gz: is missing"),
    "the base": (base_gone, r"evaluation/cells/base\S+.json: is missing"),
    "a benchmark": (results_of_a_benchmark, r"hle.yaml: does not follow from the record"),
    "a benchmark that is stated": (
        benchmark_that_was_not_asked,
        r".eval_results/a_b_c.yaml: cannot be read",
    ),
    "another precision": (other_precision, r"publication.json: artifact: is not what the record"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_named_though_the_publication_is_sealed_anew(
    name: str, copy: Published, at_hand: SuitesAtHand
) -> None:
    mutate, expected = MUTATIONS[name]
    mutate(copy)
    copy.reseal()
    told = said(copy, at_hand)
    assert re.search(expected, told), told


def test_a_better_answer_is_found_though_all_figures_and_texts_follow(
    copy: Published, at_hand: SuitesAtHand, finished: Any
) -> None:
    """The score is made to follow from the answer, and all else from the score: but not twice."""
    import gzip
    import hashlib

    from harness.publishing import content

    name = f"samples/{copy.cell}/answers.jsonl.gz"
    packed = (copy.results / name).read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    rows[0]["scores"]["exact_match"] = 1.0
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    (copy.results / name).write_bytes(packed)
    with changed(copy.results / "cells" / f"{copy.cell}.json") as data:
        stated = data["evaluation"]["suites"]["answers"]["samples"]
        stated["sha256"] = hashlib.sha256(packed).hexdigest()
    forge(copy.results)
    store._records.clear()
    told = copy.told
    base = store.read_record(copy.results / "cells" / f"{told.base}.json")
    shutil.rmtree(copy.folder / "every_eval_ever")
    for file, text in content.derived(told, copy.record, base, copy.rows()).items():
        store.write_text(copy.folder / file, text)
    copy.reseal()
    found = said(copy, at_hand)
    assert (
        "answers.jsonl.gz: sample kettle: scores.exact_match: stated 1.0, recomputed 0.0" in found
    )


def test_without_a_new_seal_the_file_itself_is_named(
    copy: Published, at_hand: SuitesAtHand
) -> None:
    swapped_adapter(copy)
    (copy.folder / "extra.safetensors").write_bytes(b"x")
    with changed(copy.folder / "publication.json", sealed=False) as told:
        told["license"]["id"] = "mit"
    found = said(copy, at_hand)
    assert re.search(r"adapter_model.safetensors: sha256: stated '\w+', recomputed", found)
    assert "extra.safetensors: was not there when it was published" in found
    assert "publication.json: sha256: the seal is not that of the file" in found


def test_lines_that_are_added_to_the_card_are_no_alarm_and_not_vouched_for(
    copy: Published, at_hand: SuitesAtHand
) -> None:
    with (copy.folder / "README.md").open("a") as file:
        file.write("\nThanks to all who helped.\n")
    report = published.check(copy.folder, at_hand)[0].report
    assert report.verdict == "holds"
    assert "README.md: 2 lines were added after it was published" in report.trusted


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', '{"schema": 7}'])
def test_a_publication_that_is_none_is_said_in_a_line(
    text: str, copy: Published, at_hand: SuitesAtHand
) -> None:
    (copy.folder / "publication.json").write_text(text)
    with pytest.raises(UserError, match="publish anew"):
        published.check(copy.folder, at_hand)


def test_what_is_published_without_samples_cannot_be_told(
    publishing: Callable[..., Result], tmp_path: Path
) -> None:
    to = tmp_path / "bare"
    result = publishing("lora", "--to", to, "--license", "mit", "--no-samples")
    assert result.exit_code == 0, result.output
    assert not list(to.rglob("*.jsonl*"))
    assert "no reader can recompute the figures" in (to / "README.md").read_text()
    result = CliRunner().invoke(cli, ["verify", str(to), "--json"])
    assert result.exit_code == 2
    told = json.loads(result.output)
    assert (told["verdict"], told["findings"]) == ("cannot tell", [])
    assert "it was published without samples (--no-samples)" in str(told["cannot"])
