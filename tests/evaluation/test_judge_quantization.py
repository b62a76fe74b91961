"""A judge in 4 bits: opened so, or the model under test itself where that is opened alike."""

from contextlib import nullcontext

import pytest
import yaml

from harness.evaluation import evaluate as evaluation
from harness.evaluation.evaluate import evaluate
from harness.evaluation.suite import Where, load_suite
from harness.manager import Plugins, plugins
from harness.models.quantization import four_bit_config, keywords_of
from harness.types import Artifact, ModelRef
from tests.conftest import write_suites

NF4 = four_bit_config("float32")


@pytest.fixture
def judged(tmp_path, tiny_model):
    """`judged(artifact, base_quantization)`: a suite's result, and how models were opened."""
    write_suites(tmp_path)
    suite = {
        "name": "judged",
        "version": 1,
        "ask": "generate",
        "data": "asked.jsonl",
        "max_new_tokens": 4,
        "judge": {"name": "expected_score", "rubric": "Rate it."},
    }
    (tmp_path / "judged.yaml").write_text(yaml.safe_dump(suite))

    def run(artifact, base_quantization, monkeypatch):
        loaded = load_suite(
            tmp_path / "judged.yaml",
            {},
            plugins=Plugins(discover=False),
            base_model=artifact.base,
            where=Where(base_quantization=base_quantization),
        )
        opened, real = [], plugins()

        class Watched:
            def open_model(self, wanted, batch=None):
                opened.append(wanted.quantization)
                return real.open_model(wanted, batch)

            def __getattr__(self, name):
                return getattr(real, name)

        monkeypatch.setattr(evaluation, "plugins", Watched)
        (measured,) = evaluate(artifact, [loaded], lambda _: nullcontext(), lambda **_: None)
        return measured.result, opened

    return run


def test_a_base_in_4_bits_judges_itself_and_others(judged, tiny_model, monkeypatch):
    base = ModelRef("tiny", str(tiny_model))
    row = Artifact("weights", base, quantization=NF4, weights=base)  # as the method `base` has it
    itself, opened = judged(row, keywords_of("nf4"), monkeypatch)
    assert opened == [NF4]  # once: it is the judge too
    judge = itself.notes["judge"]
    assert judge["quantization"] == NF4
    full, opened = judged(Artifact("base", base), keywords_of("nf4"), monkeypatch)
    assert opened == [None, NF4]
    plain, opened = judged(Artifact("base", base), None, monkeypatch)
    assert opened == [None]
    assert "quantization" not in plain.notes["judge"]
    # the judge's weights are in the scores
    scores = [[row["scores"]["score"] for row in result.rows] for result in (full, plain)]
    assert scores[0] != scores[1]
