"""Answers in the model's own words: what a suite with corpus scores writes and sums up."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.evaluation.evaluate import SuiteFailure, evaluate
from harness.evaluation.suite import Where, load_suite
from harness.evaluation.tasks.generate import Generate
from harness.manager import Plugins
from harness.results import store
from harness.stats.metric_summary import metrics_of, summarise
from harness.types import ModelRef
from tests.conftest import write_jsonl

REFERENCES = ["the lamp is by the door", "yes", "Палатка красная.", "no, we do not sell it"]


def test_corpus_scores_of_a_run_are_those_of_sacrebleu(tmp_path: Path, tiny_artifact: Any) -> None:
    import sacrebleu

    rows = [{"id": f"q{i}", "prompt": text, "reference": text} for i, text in enumerate(REFERENCES)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    scorers = [{"name": "bleu", "tokenize": "char"}, "chrf", "sentence_chrf", "rougeL"]
    content = {"name": "own", "version": 1, "ask": "generate", "data": "rows.jsonl"}
    text = yaml.safe_dump({**content, "max_new_tokens": 16, "scorers": scorers})
    (tmp_path / "own.yaml").write_text(text)
    suite = load_suite(
        tmp_path / "own.yaml",
        {},
        plugins=Plugins(discover=False),
        base_model=ModelRef("tiny", "tiny"),
        where=Where(),
    )
    (outcome,) = evaluate(
        tiny_artifact, [suite], lambda name: contextlib.nullcontext(), lambda **event: None
    )
    result = outcome.result
    assert not isinstance(result, SuiteFailure), result
    assert [metric.name for metric in result.metrics] == Generate().metrics(suite)
    assert "bleu_own_minus_other" not in Generate().metrics(suite)
    section = {"file": store.write_samples(tmp_path, "cell", "own", result.rows)}
    record: Any = {
        "id": "cell",
        "evaluation": {"suites": {"own": {"samples": section["file"], "metrics": {}}}},
    }
    read = store.read_samples(tmp_path, record, "own")
    found = summarise(result.metrics, read)
    answers = [row["output"] for row in read]
    bleu = sacrebleu.corpus_bleu(answers, [REFERENCES], tokenize="char").score
    assert found["bleu"]["value"] == pytest.approx(bleu)
    assert found["chrf"]["value"] == pytest.approx(
        sacrebleu.corpus_chrf(answers, [REFERENCES]).score
    )
    pairs = zip(answers, REFERENCES, strict=True)
    each = [sacrebleu.sentence_chrf(answer, [wanted]).score for answer, wanted in pairs]
    assert found["sentence_chrf"]["value"] == pytest.approx(sum(each) / len(each))
    assert [metric.kind for metric in metrics_of(found)][:2] == ["corpus_bleu", "corpus_chrf"]
    # scores are numbers, as they were; counts stand apart
    for row in read:
        assert all(isinstance(score, float) for score in row["scores"].values())
        assert set(row["statistics"]) == {"bleu", "chrf"}
