"""lm-eval's tasks give on our scoring what they give on lm-eval's own `hf` model."""

import json
from pathlib import Path

import pytest
from test_scoring import NF4, with_adapter

from conftest import ROOT, THINGS, write_jsonl
from harness.asks.lm_eval.model import shared_prefix_lm
from harness.model import LanguageModel, load_weights
from harness.types import Artifact, ModelRef

TASKS = ("grade_school_science", "mmlu_dev")
WAYS = {
    "plain": {"num_fewshot": 0, "template": False},
    "chat template": {"num_fewshot": 0, "template": True},
    "few shots, longer than the context": {"num_fewshot": 4, "template": False},
}
TOLERANCE = 1e-4


def opened(kind, tiny_model, tokenizer):
    artifact = Artifact("base", ModelRef("tiny", str(tiny_model)))
    if kind == "4-bit":
        artifact = Artifact("base", ModelRef("tiny", str(tiny_model)), quantization=NF4)
    model = load_weights(artifact).eval()
    return LanguageModel(with_adapter(model) if kind == "LoRA" else model, tokenizer, artifact)


@pytest.fixture(scope="module", params=["full", "LoRA", "4-bit"])
def model(request, tiny_model, tokenizer):
    return opened(request.param, tiny_model, tokenizer)


@pytest.fixture(scope="module")
def full(tiny_model, tokenizer):
    return opened("full", tiny_model, tokenizer)


def reference(model, batch):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=batch)


def run(lm, num_fewshot, template):
    """Every logged sample of the bundled tasks, three questions of each."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(ROOT / "suites/tasks"), include_defaults=False)
    tasks = manager.load(list(TASKS))
    for task in tasks["tasks"].values():
        task.set_config(key="num_fewshot", value=num_fewshot)
        task.set_fewshot_seed(seed=1234)
    result = lm_eval.evaluate(
        lm=lm, task_dict=tasks, limit=3, bootstrap_iters=0, apply_chat_template=template
    )
    return [sample for task in TASKS for sample in result["samples"][task]]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_predictions_are_lm_evals_and_log_probabilities_within_1e_4(model, way):
    for batch in (1, 3, 16):
        model.limit.rows = batch
        lm = shared_prefix_lm(model)
        theirs, ours = run(reference(model, batch), **way), run(lm, **way)
        assert len(ours) == 6
        assert (lm.cut > 0) == (way["num_fewshot"] > 0)
        for a, b in zip(theirs, ours, strict=True):
            assert a["doc_hash"] == b["doc_hash"]
            assert a["acc"] == b["acc"]
            assert [r[1] for r in a["filtered_resps"]] == [r[1] for r in b["filtered_resps"]]
            expected = [float(r[0]) for r in a["filtered_resps"]]
            found = [r[0] for r in b["filtered_resps"]]
            assert found == pytest.approx(expected, abs=TOLERANCE)
    model.limit.rows = None


def instances(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


def test_rolling_log_likelihoods_of_texts_longer_than_the_context(full):
    texts = [" ".join(THINGS[: 1 + i % 8]) * (1 + 9 * i) for i in range(5)]
    asked = instances("loglikelihood_rolling", [(text,) for text in texts])
    theirs = reference(full, 2).loglikelihood_rolling(asked, disable_tqdm=True)
    ours = shared_prefix_lm(full).loglikelihood_rolling(asked)
    assert max(len(full.tokenizer(text)["input_ids"]) for text in texts) > full.max_length
    assert ours == pytest.approx([float(one) for one in theirs], rel=1e-5)


def test_generated_answers_stop_where_the_task_says(full):
    texts = ["Do you sell a lamp?", "x", "Is the red kettle here? " * 40, "Yes, the rope"]
    free = [shared_prefix_lm(full).generate_until(asked_for(texts, [], 12))]
    stop = free[0][0][3:6]
    for until, cap in (([stop], 12), ([], 5), (["no such text", stop[:1]], 12)):
        asked = asked_for(texts, until, cap)
        theirs = reference(full, 2).generate_until(asked, disable_tqdm=True)
        assert shared_prefix_lm(full).generate_until(asked) == theirs
    assert any(stop in text for text in free[0])


def asked_for(texts, until, cap):
    settings = {"until": list(until), "max_gen_toks": cap}
    return instances("generate_until", [(text, dict(settings)) for text in texts])


def test_a_task_that_wants_sampling_is_refused(full):
    from harness.errors import UserError

    asked = instances("generate_until", [("x", {"do_sample": True, "temperature": 0.7})])
    with pytest.raises(UserError, match="only greedy"):
        shared_prefix_lm(full).generate_until(asked)


# ---- in an experiment ----------------------------------------------------------------------------


def add_group(folder: Path) -> None:
    """`shop`: eight questions of tiny_choice and two of another task."""
    tasks = folder / "tasks"
    rows = [json.loads(line) for line in (tasks / "tiny_choice.jsonl").read_text().splitlines()]
    text = (tasks / "tiny_choice.yaml").read_text()
    write_jsonl(tasks / "few_choice.jsonl", [{**r, "question": r["question"][:-5]} for r in rows[:2]])
    (tasks / "few_choice.yaml").write_text(text.replace("tiny_choice", "few_choice"))
    (tasks / "few_choice.py").write_text((tasks / "tiny_choice.py").read_text())
    (tasks / "shop.yaml").write_text(
        "group: shop\ntask: [tiny_choice, few_choice]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )


@pytest.fixture(scope="module")
def grouped(tmp_path_factory, tiny_model, warm, in_process_run):
    from conftest import write_experiment

    experiment = write_experiment(
        tmp_path_factory.mktemp("grouped"),
        tiny_model,
        methods=["base", {"name": "full", "lr": 0.05}],
        suites=[{"name": "tasks", "tasks": ["shop"]}],
    )
    add_group(experiment.folder)
    in_process_run(experiment)
    return experiment
