"""What the embedder of a suite cannot read is counted and warned of."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.evaluation.evaluate import SuiteFailure, evaluate
from harness.evaluation.suite import Where, load_suite
from harness.manager import Plugins
from harness.record import Record
from harness.results.groups import Group, answer_warnings
from harness.types import ModelRef, SuiteResult
from tests.conftest import write_jsonl

LONGEST = 8
"""Tokens that the embedder reads, its marks of start and end among them."""


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of one layer whose tokenizer has a token for each letter."""
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*marks, *"abcdefgh"])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), marks, strict=True))
    folder = tmp_path_factory.mktemp("embedder")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        model_max_length=LONGEST,
        **names,  # type: ignore[arg-type]
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    whole = tmp_path_factory.mktemp("sentences")
    SentenceTransformer(str(folder)).save(str(whole))
    return whole


def measured(folder: Path, artifact: Any, embedder: Path, references: list[str]) -> SuiteResult:
    rows = [{"id": f"q{i}", "prompt": "?", "reference": r} for i, r in enumerate(references)]
    write_jsonl(folder / "rows.jsonl", rows)
    content = {
        "name": "near",
        "version": 1,
        "ask": "generate",
        "data": "rows.jsonl",
        "max_new_tokens": 2,
        "scorers": ["cosine"],
        "embedder": str(embedder),
    }
    (folder / "near.yaml").write_text(yaml.safe_dump(content))
    loaded, base = Plugins(discover=False), ModelRef("tiny", "tiny")
    suite = load_suite(folder / "near.yaml", {}, plugins=loaded, base_model=base, where=Where())
    (outcome,) = evaluate(
        artifact, [suite], lambda name: contextlib.nullcontext(), lambda **event: None
    )
    assert not isinstance(outcome.result, SuiteFailure), outcome.result
    return outcome.result


def test_texts_that_are_longer_than_the_embedder_reads_are_counted(
    tmp_path: Path, tiny_artifact: Any, embedder: Path
) -> None:
    whole, cut = "a b c d e f", "a b c d e f g"
    result = measured(tmp_path, tiny_artifact, embedder, [whole, cut, cut + " h", "a"])
    # what lies beyond is not seen: that is what the warning is of
    a, b = (result.rows[i]["scores"]["cosine_other"] is not None for i in (1, 2))
    assert a
    assert b
    note = result.notes["cut_by_embedder"]
    assert isinstance(note, dict)
    assert (note["references"], note["samples"], note["most_tokens"]) == (2, 4, LONGEST)
    assert note["answers"] <= 4  # of a random model
    line = next(line for line in result.warnings if "embedder" in line)
    assert line == (
        f"suite 'near': {note['answers']} answers and 2 references of 4 samples are longer than "
        "the 8 tokens that the embedder reads: cosines are of their beginnings"
    )
    cell: Any = {"id": "x", "evaluation": {"suites": {"near": {"notes": result.notes}}}}
    assert answer_warnings(Group([cell, cell]), lambda cell, suite: []) == [line]


def test_texts_that_fit_are_not_warned_of(
    tmp_path: Path, tiny_artifact: Any, embedder: Path
) -> None:
    result = measured(tmp_path, tiny_artifact, embedder, ["a b c d e f", "a"])
    assert not any("references" in line for line in result.warnings)
    cell: Record = {"id": "x", "evaluation": {"suites": {"near": {"notes": {}}}}}  # type: ignore
    assert answer_warnings(Group([cell]), lambda cell, suite: []) == []
