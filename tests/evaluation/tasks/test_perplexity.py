"""Perplexity: every token once, long documents whole, domains apart, tokenizers distinguished."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import stats
from harness.api.task import Suite
from harness.data.tokenization import IGNORED, document_prefix, tokenizer_hash
from harness.evaluation.evaluate import SuiteFailure, evaluate
from harness.evaluation.suite import Where, load_suite
from harness.evaluation.tasks import perplexity
from harness.manager import Plugins
from harness.models.packaged import resolve_model
from harness.results import store
from harness.stats.metric_summary import summarise
from harness.types import ModelRef, Row, SuiteResult
from tests.conftest import CHATML, THINGS, run_warm, write_jsonl

LENGTH = 256
"""The tiny model's context, in tokens."""
PROSE = " ".join(f"The {thing} stood by the door, and nobody asked why." for thing in THINGS * 6)


def suite_of(folder: Path, rows: dict[str, list[dict[str, Any]]], **settings: Any) -> Suite:
    """A perplexity suite of some sources; the empty name is the only one."""
    for name, content in rows.items():
        write_jsonl(folder / f"{name or 'rows'}.jsonl", content)
    data: Any = {name: f"{name}.jsonl" for name in rows} if "" not in rows else "rows.jsonl"
    content = {"name": "text", "version": 1, "ask": "perplexity", "data": data, **settings}
    (folder / "text.yaml").write_text(yaml.safe_dump(content))
    loaded, base = Plugins(discover=False), ModelRef("tiny", "tiny")
    return load_suite(folder / "text.yaml", {}, plugins=loaded, base_model=base, where=Where())


def measured(artifact: Any, suite: Suite) -> SuiteResult:
    (outcome,) = evaluate(
        artifact, [suite], lambda name: contextlib.nullcontext(), lambda **event: None
    )
    assert not isinstance(outcome.result, SuiteFailure), outcome.result
    return outcome.result


@pytest.fixture(scope="module")
def opened(tiny_artifact: Any) -> Any:
    from harness.models.language_model import open_artifact

    return open_artifact(tiny_artifact)


def nll_by_windows(opened: Any, ids: list[int], stride: int) -> float:
    """Plain forward passes: a first window of the whole length, then `stride` tokens each."""
    import torch

    total, at = 0.0, 1
    while at < len(ids):
        to = min(len(ids), max(LENGTH + 1, at + stride))
        window = ids[max(0, to - LENGTH - 1) : to]
        with torch.inference_mode():
            logits = opened.model(input_ids=torch.tensor([window[:-1]])).logits[0].float()
        logprobs = logits.log_softmax(-1)[range(len(window) - 1), window[1:]]
        total -= float(logprobs[-(to - at) :].sum())
        at = to
    return total


@pytest.mark.parametrize(("stride", "used"), [(None, LENGTH // 2), (50, 50), (9999, LENGTH)])
def test_a_document_longer_than_the_context_is_scored_whole(
    tmp_path: Path, tiny_artifact: Any, opened: Any, stride: int | None, used: int
) -> None:
    short = "A short text."
    suite = suite_of(tmp_path, {"": [{"text": PROSE}, {"text": short}]}, stride=stride)
    result = measured(tiny_artifact, suite)
    ids = opened.tokenizer(PROSE)["input_ids"]
    assert len(ids) > 2 * LENGTH
    long, brief = (row["scores"] for row in result.rows)
    assert long["tokens"] == len(ids)
    assert brief["tokens"] == len(opened.tokenizer(short)["input_ids"])
    expected = nll_by_windows(opened, [opened.prefix_token, *ids], used)
    assert long["nll"] == pytest.approx(expected, rel=1e-4)
    assert long["bits"] == pytest.approx(long["nll"] / math.log(2))
    assert long["bytes"] == len(PROSE.encode())
    assert (result.notes["stride"], result.notes["context"]) == (used, LENGTH)
    assert result.notes["longer_than_context"] == 1
    assert result.notes["sources"]["data"]["stride"] == used


def test_the_stride_is_part_of_the_suite(tmp_path: Path) -> None:
    rows = {"": [{"text": "One."}]}
    assert suite_of(tmp_path, rows).hash != suite_of(tmp_path, rows, stride=9).hash


@pytest.mark.parametrize("length", [1, 2, 255, 256, 257, 258, 600])
@pytest.mark.parametrize("start", [1, 200, 300])
@pytest.mark.parametrize("stride", [1, 128, 256])
def test_pieces_hold_each_token_once_and_fit(length: int, start: int, stride: int) -> None:
    ids = list(range(start + length))
    pieces = perplexity._pieces(ids, start, len(ids), LENGTH, stride)
    assert [token for _, scored in pieces for token in scored] == ids[start:]
    for context, scored in pieces:
        assert context
        assert len(context) + len(scored) <= LENGTH + 1
        assert [*context, *scored] == list(range(context[0], scored[-1] + 1))
    # what follows the first window has as much before it as fits
    full = [context for context, scored in pieces if scored[-1] > LENGTH]
    assert all(len(context) >= LENGTH + 1 - max(stride, 1) for context in full[1:])


def test_a_long_conversation_counts_every_answer(
    tmp_path: Path, tiny_artifact: Any, opened: Any
) -> None:
    turns = [
        turn
        for thing in THINGS * 3
        for turn in (
            {"role": "user", "content": f"Where is the {thing}?"},
            {"role": "assistant", "content": f"The {thing} is by the door."},
        )
    ]
    suite = suite_of(tmp_path, {"": [{"messages": turns}]})
    (row,) = measured(tiny_artifact, suite).rows
    answers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
    counted = [len(opened.tokenizer(f"{text}<|im_end|>")["input_ids"]) for text in answers]
    assert row["scores"]["tokens"] == sum(counted) > LENGTH
    assert row["scores"]["bytes"] == len("".join(answers).encode())


THINKING = CHATML.replace("message['content'] +", "'<think></think>' + message['content'] +")
"""Writes an empty thought before each answer, after the generation prompt."""


@pytest.mark.parametrize("template", [CHATML, THINKING])
def test_bits_per_byte_has_the_bits_of_the_texts_own_bytes_alone(
    tmp_path: Path, tiny_artifact: Any, opened: Any, template: str
) -> None:
    text = "It is by the door."
    talk = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": text}]
    rows: dict[str, list[dict[str, Any]]] = {
        "talk": [{"messages": talk}],
        "asked": [{"prompt": "Where is it? ", "completion": text}],
        "prose": [{"text": text}],
    }
    artifact = dataclasses.replace(tiny_artifact, chat_template=template)
    for row in measured(artifact, suite_of(tmp_path, rows)).rows:
        scores, form = row["scores"], row["group"]
        encode = opened.tokenizer
        before = "" if template == CHATML or form != "talk" else "<think></think>"
        after = {"talk": "<|im_end|>", "prose": ""}.get(form, encode.eos_token)
        counted = encode(before + text + after)["input_ids"]
        own = encode(text)["input_ids"]
        assert (scores["tokens"], scores["bytes"]) == (len(counted), len(text)), form
        at = len(encode(before)["input_ids"]) if before else 0
        assert counted[at : at + len(own)] == own
        context = {
            "talk": render(opened, talk[:1], template),
            "asked": rows["asked"][0]["prompt"],
        }.get(form, "<|endoftext|>")
        scored = opened.loglikelihood([(encode(context)["input_ids"], counted)])[0]
        assert scores["nll"] == pytest.approx(-scored.logprob, rel=1e-4)
        bits = -sum(scored.token_logprobs[at : at + len(own)]) / math.log(2)
        assert scores["bits"] == pytest.approx(bits, rel=1e-4)
        assert (scores["bits"] < scores["nll"] / math.log(2)) == (form != "prose")


def render(opened: Any, messages: list[dict[str, str]], template: str) -> str:
    from harness.data.tokenization import render as rendered

    return rendered(opened.tokenizer, messages, template, generation_prompt=True)


def test_figures_by_the_two_rules_for_an_answers_bits_have_different_hashes(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
    for row in ({"messages": talk}, {"prompt": "A", "completion": "B"}):
        assert "bits" in suite_of(tmp_path, {"": [row]}).parts
    assert "bits" not in suite_of(tmp_path, {"": [{"text": "One."}]}).parts


def test_the_first_token_of_a_text_counts_too(opened: Any) -> None:
    """After the token that begins a text, whether or not the tokenizer puts one there."""
    start = opened.prefix_token
    assert document_prefix(opened.tokenizer, None) == start
    for row in (Row("a", text="Yes."), Row("b", prompt="", completion="Yes.")):
        encoded = perplexity._encode(row, opened, start)
        assert encoded.labels == [IGNORED, *encoded.input_ids[1:]]
        assert encoded.input_ids[0] == start
    begun = perplexity._encode(Row("c", text="<|endoftext|>Yes."), opened, start)
    assert begun.input_ids == perplexity._encode(Row("a", text="Yes."), opened, start).input_ids


LLAMA_2 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST] {{ message['content'] }} [/INST]{% else %} {{ message['content'] }} {{ eos_token }}"
    "{% endif %}{% endfor %}"
)
REFUSING = "{{ raise_exception('no') }}" + CHATML


@pytest.mark.parametrize(
    ("template", "bos", "eos", "expected"),
    [
        (CHATML, "<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        (CHATML, None, "<|im_end|>", "<|endoftext|>"),
        (CHATML, "<|endoftext|>", "<|im_end|>", "<|endoftext|>"),
        ("{{ bos_token }}" + CHATML, "<s>", "<|im_end|>", "<s>"),
        (LLAMA_2, "<s>", "</s>", "<s>"),
        (LLAMA_2, None, "</s>", "</s>"),
        (REFUSING, "<|im_start|>", "<|endoftext|>", "<|endoftext|>"),
        (None, "<|im_start|>", "<|im_end|>", "<|im_start|>"),
    ],
)
def test_a_document_begins_after_a_token_that_is_no_chat_mark(
    opened: Any, template: str | None, bos: str | None, eos: str, expected: str
) -> None:
    tokenizer = copy.deepcopy(opened.tokenizer)
    tokenizer.chat_template = template
    tokenizer.add_special_tokens({"additional_special_tokens": ["<s>", "</s>", "<|im_start|>"]})
    tokenizer.bos_token, tokenizer.eos_token = bos, eos
    found = document_prefix(tokenizer, None)
    assert tokenizer.convert_ids_to_tokens(found) == expected
    # a template that replaces the tokenizer's own decides in its place
    tokenizer.chat_template = None
    assert document_prefix(tokenizer, template) == found


def chat_marks_alone(tiny_model: Path, folder: Path) -> ModelRef:
    """The tiny model with a tokenizer whose special tokens all stand inside conversations."""
    shutil.copytree(tiny_model, folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8")
            (folder / name).write_text(text.replace("<|endoftext|>", "<|im_start|>"))
    return ModelRef("marks", str(folder))


def test_without_such_a_token_the_first_of_a_text_is_not_scored(
    tmp_path: Path, tiny_model: Path, tiny_artifact: Any, opened: Any
) -> None:
    marked = chat_marks_alone(tiny_model, tmp_path / "model")
    text, talk = "Yes, we do.", [{"role": "user", "content": "A"}]
    talk.append({"role": "assistant", "content": "B"})
    suite = suite_of(tmp_path, {"prose": [{"text": text}], "talk": [{"messages": talk}]})
    ours = measured(dataclasses.replace(tiny_artifact, base=marked), suite)
    theirs = measured(tiny_artifact, suite)
    assert ours.notes["document_prefix"] is None
    assert theirs.notes["document_prefix"] == "<|endoftext|>"
    (bare, chat), (begun, same) = ([row["scores"] for row in r.rows] for r in (ours, theirs))
    first = opened.tokenizer.tokenize(text)[0]
    assert bare["tokens"] == begun["tokens"] - 1
    assert bare["bytes"] == begun["bytes"] - len(first) == len(text) - len(first)
    assert (chat["tokens"], chat["bytes"]) == (same["tokens"], same["bytes"])


def test_only_a_suite_with_documents_depends_on_what_stands_before_them(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
    assert "document_prefix" in suite_of(tmp_path, {"": [{"text": "One."}]}).parts
    assert "document_prefix" not in suite_of(tmp_path, {"": [{"messages": talk}]}).parts
    asked = {"prompt": "One?", "completion": "One."}
    assert "document_prefix" not in suite_of(tmp_path, {"": [asked]}).parts


@pytest.mark.slow
def test_prose_does_not_follow_a_chat_mark_of_smollm2() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("smollm2-135m", mirror=None).path)
    assert tokenizer.bos_token == "<|im_start|>"
    found = document_prefix(tokenizer, None)
    assert tokenizer.convert_ids_to_tokens(found) == "<|endoftext|>"


def test_the_interval_is_a_bootstrap_over_documents(tmp_path: Path, tiny_artifact: Any) -> None:
    texts = [{"text": f"{PROSE[: 20 + 30 * i]}"} for i in range(12)]
    result = measured(tiny_artifact, suite_of(tmp_path, {"": texts}))
    metrics = summarise(result.metrics, result.rows)
    rows = sorted(result.rows, key=lambda row: row["id"])
    nll, tokens = ([row["scores"][key] for row in rows] for key in ("nll", "tokens"))
    expected = stats.estimate("exp_ratio", nll, tokens)
    assert metrics["perplexity"]["value"] == pytest.approx(math.exp(sum(nll) / sum(tokens)))
    assert metrics["perplexity"]["ci_low"] == expected.ci_low < metrics["perplexity"]["value"]
    assert (metrics["perplexity"]["ci_high"], metrics["perplexity"]["n"]) == (expected.ci_high, 12)


# ---- domains -------------------------------------------------------------------------------------


def texts(*domains: Any) -> list[dict[str, Any]]:
    return [{"text": f"Text {i} of {d}.", "domain": d} for i, d in enumerate(domains)]


def names(folder: Path, *domains: Any, **others: list[dict[str, Any]]) -> list[str]:
    """Metrics with a domain, of a suite whose first source has rows of these domains."""
    suite = suite_of(folder, {"first": texts(*domains), **others})
    metrics = perplexity.Perplexity().metrics(suite)
    assert metrics is not None
    return [name for name in metrics if "." in name]


def test_each_domain_has_its_figures_in_the_order_of_appearance(tmp_path: Path) -> None:
    assert names(tmp_path, "news", "law", "law", "news", second=texts("a", "a", "b", "b")) == [
        "perplexity.news",
        "bits_per_byte.news",
        "perplexity.law",
        "bits_per_byte.law",
        "second_perplexity.a",
        "second_bits_per_byte.a",
        "second_perplexity.b",
        "second_bits_per_byte.b",
    ]


@pytest.mark.parametrize(
    "domains", [["news"] * 4, ["news", "news", "law"], [None, None, "law", "law"], [["a"], ["b"]]]
)
def test_what_is_no_domain_has_no_figures(tmp_path: Path, domains: list[Any]) -> None:
    assert names(tmp_path, *domains) == []


def test_domains_become_plain_names_that_do_not_clash(tmp_path: Path) -> None:
    odd = ["a b", "a.b", "/", "Straße", 7]
    metrics = names(tmp_path, *odd, *odd)
    assert [name.partition(".")[2] for name in metrics[::2]] == [
        "a-b",
        "a-b-2",
        "domain",
        "Straße",
        "7",
    ]


def test_domains_of_a_run(experiment: Any, warm: Any) -> None:
    """From rows to the record and the leaderboard, which can rank by a domain."""
    small = experiment(suites=["predicts"], rank_by="predicts.plain_bits_per_byte.b")
    rows = [{"text": f"The {t} is here.", "domain": "ab"[i % 2]} for i, t in enumerate(THINGS)]
    write_jsonl(small.folder / "plain.jsonl", rows)
    outcome = run_warm(small, warm)
    assert not outcome.failed
    record = small.records()["base-0"]
    store.validate(record, "record")
    suite = record["evaluation"]["suites"]["predicts"]
    metrics = suite["metrics"]
    assert list(metrics)[4:] == [
        "plain_perplexity.a",
        "plain_bits_per_byte.a",
        "plain_perplexity.b",
        "plain_bits_per_byte.b",
    ]
    scores = [
        row["scores"]
        for row in store.read_samples(small.out, record, "predicts")
        if (row["group"], row["domain"]) == ("plain", "b")
    ]
    assert metrics["plain_perplexity.b"]["n"] == len(scores) == 4
    figure = sum(s["bits"] for s in scores) / sum(s["bytes"] for s in scores)
    assert metrics["plain_bits_per_byte.b"]["value"] == pytest.approx(figure)
    assert suite["notes"]["sources"]["plain"]["domains"] == {"a": 4, "b": 4}
    assert outcome.board["ranked_by"] == "predicts.plain_bits_per_byte.b"


# ---- tokenizers ----------------------------------------------------------------------------------


def test_a_tokenizers_hash_is_what_it_does_to_text(tiny_model: Path, tokenizer: Any) -> None:
    from transformers import AutoTokenizer

    before = tokenizer_hash(tokenizer)
    other = AutoTokenizer.from_pretrained(tiny_model)
    other(["One text.", "And two texts."], padding=True, truncation=True, max_length=3)
    other.chat_template = "{{ messages }}"
    assert tokenizer_hash(other) == before
    other.add_tokens(["kettles"])
    assert tokenizer_hash(other) != before


def test_another_vocabulary_or_end_is_another_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    first = AutoTokenizer.from_pretrained(tiny_model)
    ended = AutoTokenizer.from_pretrained(tiny_model, eos_token="<|endoftext|>")
    first.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["merges"].pop()
    file.write_text(json.dumps(content))
    merged = AutoTokenizer.from_pretrained(tmp_path)
    assert len({tokenizer_hash(tokenizer) for tokenizer in (first, ended, merged)}) == 3
