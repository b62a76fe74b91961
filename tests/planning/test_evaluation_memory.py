"""What an evaluation takes at least, and what to write where a base or a judge does not fit."""

import dataclasses
import json

import pytest

from harness.config.experiment import load_experiment
from harness.manager import Plugins
from harness.planning.memory.card import needed
from harness.planning.memory.evaluation import advice, copied_weights, evaluation_peak, need_of
from harness.planning.plan import Settings, make_plan
from harness.types import ModelRef
from tests.conftest import ROOT

GB = 10**9
LLAMA_13B = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "torch_dtype": "float16",
}
JUDGE = {"name": "expected_score", "rubric": "Rate it."}


@pytest.fixture
def cells(experiment, tmp_path):
    """`cells(**changes)`: label -> cell, the model as large as Llama 2 13B."""
    folder = tmp_path / "13b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_13B))

    def planned(**changes):
        content = {
            "methods": ["base", {"name": "base", "quant_type": "nf4"}, "lora", "qlora"],
            "suites": [{"name": "answers", "judge": JUDGE}],
            **changes,
        }
        plan = make_plan(load_experiment(experiment(**content).file), Plugins(), Settings())
        large = {"model": ModelRef("13b", str(folder))}
        budget = {"budget": dataclasses.replace(plan.cells[-1].budget, precision="bf16")}
        return {cell.label: dataclasses.replace(cell, **large, **budget) for cell in plan.cells}

    return planned


def test_a_13b_in_4_bits_fits_24_gb_and_the_plan_says_what_to_write_for_its_base_and_judge(cells):
    found = {label: (cell, need_of(cell, "cuda")) for label, cell in cells().items()}
    fits = {label: need.fits(24 * GB) for label, (_, need) in found.items()}
    # the judge is the base as it is, whoever is judged
    assert fits == dict.fromkeys(found, False)
    alone = {label: needed(need.total, "cuda") <= 24 * GB for label, (_, need) in found.items()}
    assert alone == {"base": False, "base-nf4": True, "lora": False, "qlora": True}
    assert found["base"][1].total > 26 * GB
    sentences = advice(list(found.values()), 24 * GB)
    assert [text.partition(" does not fit")[0] for text in sentences] == [
        "base",
        "the judge of answers",
        "lora",
    ]
    for text in sentences[:2]:
        assert text.endswith("{name: base, quant_type: nf4} among the methods, and base: base-nf4")
    assert "qlora" not in sentences[2].partition(":")[0]


def test_what_the_advice_says_to_write_fits(cells):
    four = {"name": "base", "quant_type": "nf4"}
    written = cells(methods=[four, "qlora"], base="base-nf4")
    assert list(written) == ["base-nf4", "qlora"]
    found = [(cell, need_of(cell, "cuda")) for cell in written.values()]
    assert [need.fits(24 * GB) for _, need in found] == [True, True]
    assert advice(found, 24 * GB) == []


def test_a_judge_of_its_own_is_told_to_be_quantised(cells, tiny_model):
    for quant_type, told in ((None, 1), ("nf4", 0)):
        judge = {**JUDGE, "model": str(tiny_model)} | (
            {"quant_type": quant_type} if quant_type else {}
        )
        (cell,) = [
            cell
            for cell in cells(suites=[{"name": "answers", "judge": judge}]).values()
            if cell.label == "qlora"
        ]
        large = dataclasses.replace(cell.suites[0], judge_model=cell.model)
        cell = dataclasses.replace(cell, suites=(large,))
        sentences = advice([(cell, need_of(cell, "cuda"))], 24 * GB)
        assert len(sentences) == told
        assert all("write quant_type: nf4 in the suite's judge" in text for text in sentences)


@pytest.mark.parametrize("place", ["quickstart", "methods", "mmlu-arc"])
def test_measured_peaks_of_a_base_are_near_the_prediction(cells, place, tmp_path):
    """SmolLM2-135M on CPUs, whose processes differ by some tens of MB; longer questions than a
    pass of 2,048 tokens take more."""
    (file,) = (ROOT / "results/reference" / place / "cells").glob("base-s0-*.json")
    evaluation = json.loads(file.read_text())["evaluation"]
    measured = max(phase["peak_host_bytes"] for phase in evaluation["phases"].values())
    copies = evaluation["passes"].get("copied_weights_bytes", 0)
    folder = tmp_path / "135m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMOLLM2_135M))
    base = cells()["base"]
    cell = dataclasses.replace(
        base,
        model=ModelRef("135m", str(folder)),
        budget=dataclasses.replace(base.budget, precision="float32"),
    )
    assert copies in (0, copied_weights(cell, "cpu"))
    predicted = copies + sum(evaluation_peak(cell, "cpu").values())
    assert 0.8 < measured / predicted < 1.3


def test_copies_of_weights_are_as_wide_as_layers_are_and_the_head_in_float32(cells, tmp_path):
    folder = tmp_path / "135m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMOLLM2_135M))
    head, layers = 49152 * 576, 30 * (2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576)
    expected = {
        "float32": (4 * (layers + head), 4 * head),
        "bf16": (2 * layers + 4 * head, 4 * head),
    }
    for precision, sizes in expected.items():
        for label, size in zip(("base", "base-nf4"), sizes, strict=True):
            cell = cells()[label]
            budget = dataclasses.replace(cell.budget, precision=precision)
            cell = dataclasses.replace(cell, model=ModelRef("135m", str(folder)), budget=budget)
            need = need_of(cell, "cpu")
            assert need.as_json()["copied_weights_bytes"] == need.copies == size
            assert need_of(cell, "cuda").copies == 0
            # where there is no room no copy is made, so that less memory is enough
            assert need.fits(needed(max(need.total, *need.judges.values()), "host"))


SMOLLM2_135M = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
