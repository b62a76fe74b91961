"""lm-eval's tasks give on our scoring what they give on lm-eval's own `hf` model."""

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.api.task import Requests
from harness.errors import UserError
from harness.evaluation.tasks.lm_eval import LmEval
from harness.evaluation.tasks.lm_eval.model import shared_prefix_lm
from harness.models.language_model import LanguageModel, load_weights
from harness.results import store
from harness.stats.metric_summary import summarise
from harness.types import Artifact, ModelRef
from tests.conftest import ROOT, THINGS, run_warm, write_experiment, write_jsonl
from tests.models.inference.test_loglikelihood import NF4, with_adapter

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
        assert lm.cut > 0 or not way["num_fewshot"]
        for a, b in zip(theirs, ours, strict=True):
            assert a["doc_hash"] == b["doc_hash"]
            assert a["acc"] == b["acc"]
            assert [r[1] for r in a["filtered_resps"]] == [r[1] for r in b["filtered_resps"]]
            expected = [float(r[0]) for r in a["filtered_resps"]]
            logprobs = [r[0] for r in b["filtered_resps"]]
            assert logprobs == pytest.approx(expected, abs=TOLERANCE)
    model.limit.rows = None


def instances(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, argument, i) for i, argument in enumerate(arguments)]


def test_rolling_log_likelihoods_of_texts_longer_than_the_context(full):
    texts = [" ".join(THINGS[: 1 + i % 8]) * (1 + 9 * i) for i in range(5)]
    requests = instances("loglikelihood_rolling", [(text,) for text in texts])
    theirs = reference(full, 2).loglikelihood_rolling(requests, disable_tqdm=True)
    ours = shared_prefix_lm(full).loglikelihood_rolling(requests)
    assert max(len(full.tokenizer(text)["input_ids"]) for text in texts) > full.max_length
    assert ours == pytest.approx([float(value) for value in theirs], rel=1e-5)


def test_generated_answers_stop_where_the_task_says(full):
    texts = ["Do you sell a lamp?", "x", "Is the red kettle here? " * 40, "Yes, the rope"]
    free = [shared_prefix_lm(full).generate_until(asked_for(texts, [], 12))]
    stop = free[0][0][3:6]
    for until, cap in (([stop], 12), ([], 5), (["no such text", stop[:1]], 12)):
        requests = asked_for(texts, until, cap)
        theirs = reference(full, 2).generate_until(requests, disable_tqdm=True)
        assert shared_prefix_lm(full).generate_until(requests) == theirs
    assert any(stop in text for text in free[0])


def asked_for(texts, until, cap):
    settings = {"until": list(until), "max_gen_toks": cap}
    return instances("generate_until", [(text, dict(settings)) for text in texts])


def test_a_task_that_wants_sampling_is_refused(full):
    requests = instances("generate_until", [("x", {"do_sample": True, "temperature": 0.7})])
    with pytest.raises(UserError, match="only greedy"):
        shared_prefix_lm(full).generate_until(requests)


# ---- in an experiment ----------------------------------------------------------------------------


def add_group(folder: Path) -> None:
    """`shop`: eight questions of tiny_choice and two of another task."""
    tasks = folder / "tasks"
    rows = [json.loads(line) for line in (tasks / "tiny_choice.jsonl").read_text().splitlines()]
    text = (tasks / "tiny_choice.yaml").read_text()
    write_jsonl(
        tasks / "few_choice.jsonl", [{**r, "question": r["question"][:-5]} for r in rows[:2]]
    )
    (tasks / "few_choice.yaml").write_text(text.replace("tiny_choice", "few_choice"))
    (tasks / "few_choice.py").write_text((tasks / "tiny_choice.py").read_text())
    (tasks / "shop.yaml").write_text(
        "group: shop\ntask: [tiny_choice, few_choice]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )


@pytest.fixture(scope="module")
def grouped(tmp_path_factory, tiny_model, warm):
    small = write_experiment(
        tmp_path_factory.mktemp("grouped"),
        tiny_model,
        methods=["base", {"name": "full", "lr": 0.05}],
        suites=[{"name": "tasks", "tasks": ["shop"]}],
    )
    add_group(small.folder)
    assert not run_warm(small, warm).failed
    return small


def verdicts(experiment, label):
    record = experiment.records()[label]
    rows = store.read_samples(experiment.out, record, "tasks")
    return record["evaluation"]["suites"]["tasks"]["metrics"], {r["doc_hash"]: r for r in rows}


def test_micro_and_macro_averages_of_a_group_are_kept_apart(grouped):
    metrics, rows = verdicts(grouped, "full-0")
    by_task = {"tiny_choice": [], "few_choice": []}
    for row in rows.values():
        by_task[row["group"]].append(row["scores"]["acc"])
    shares = [sum(scores) / len(scores) for scores in by_task.values()]
    assert [len(scores) for scores in by_task.values()] == [8, 2]
    assert metrics["shop"]["value"] == pytest.approx(sum(map(sum, by_task.values())) / 10)
    assert metrics["shop.macro"]["value"] == pytest.approx(sum(shares) / 2)
    assert metrics["tiny_choice"]["value"] == pytest.approx(shares[0])


def test_each_question_is_paired_with_the_base_by_its_doc_hash(grouped):
    metrics, tuned = verdicts(grouped, "full-0")
    _, base = verdicts(grouped, "base-0")
    assert tuned.keys() == base.keys()
    pairs = [(base[key]["scores"]["acc"], tuned[key]["scores"]["acc"]) for key in base]
    was_right = [after for before, after in pairs if before == 1]
    assert metrics["shop"]["delta"] == pytest.approx(sum(b - a for a, b in pairs) / len(pairs))
    assert metrics["shop"]["gained"] == sum(b > a for a, b in pairs)
    assert metrics["shop"]["lost"] == sum(b < a for a, b in pairs)
    assert 0 <= metrics["shop"]["delta_p"] <= 1
    assert metrics["retained"]["n"] == len(was_right) > 0
    assert metrics["retained"]["value"] == pytest.approx(sum(was_right) / len(was_right))


def test_a_row_has_every_choice_with_its_log_probability(grouped):
    _, rows = verdicts(grouped, "base-0")
    for row in rows.values():
        assert len(row["choices"]) == len(row["logprobs"]) == 3
        assert row["output"] == row["choices"][row["logprobs"].index(max(row["logprobs"]))]


# ---- a mirror ------------------------------------------------------------------------------------

HUB_TASK = """\
task: hub_choice
dataset_path: shop/colours
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: answer
doc_to_choice: "{{choices}}"
"""


@pytest.fixture
def mirrored(experiment):
    """A suite whose task names a data set of the Hub, and a mirror that has it."""
    small = experiment(suites=[{"name": "tasks", "tasks": ["hub_choice"]}])
    rows = (small.folder / "choices.jsonl").read_text()
    data = small.folder / "mirror/shop/colours/test.jsonl"
    data.parent.mkdir(parents=True)
    data.write_text(rows)
    (small.folder / "tasks/hub_choice.yaml").write_text(HUB_TASK)
    return small


def test_a_hub_data_set_is_read_from_the_mirror(mirrored, harness):
    mirror = mirrored.folder / "mirror"
    result = harness("run", mirrored.file, "--out", mirrored.out, "--mirror", mirror)
    assert result.code == 0, result.stderr
    metrics, rows = verdicts(mirrored, "base-0")
    assert metrics["hub_choice"]["n"] == len(rows) == 8


def test_a_data_set_that_is_not_in_the_mirror_is_refused_before_any_model_is_opened(
    mirrored, harness
):
    empty = mirrored.folder / "empty"
    empty.mkdir()
    result = harness("run", mirrored.file, "--out", mirrored.out, "--mirror", empty)
    assert result.code == 2
    assert f"'shop/colours' is neither in the mirror {empty} nor on the Hub" in result.error
    assert not list(mirrored.out.glob("cells/*"))


ARC_ROW = {
    "id": "one",
    "question": "What is red?",
    "choices": {"text": ["a rose", "the sky"], "label": ["A", "B"]},
    "answerKey": "A",
}


@pytest.mark.slow
def test_lm_evals_own_index_is_read_once_for_the_same_tasks(experiment, tmp_path, monkeypatch):
    from harness.evaluation.tasks.lm_eval import index
    from harness.evaluation.tasks.lm_eval.tasks import load_tasks

    home = tmp_path / "mirror/allenai/ai2_arc"
    configs = [
        {
            "config_name": name,
            "data_files": [
                {"split": split, "path": f"{name}.jsonl"}
                for split in ("train", "validation", "test")
            ],
        }
        for name in ("ARC-Easy", "ARC-Challenge")
    ]
    home.mkdir(parents=True)
    (home / "README.md").write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    for config in configs:
        (home / f"{config['config_name']}.jsonl").write_text(json.dumps(ARC_ROW))
    small = experiment(suites=[{"name": "tasks", "tasks": ["ai2_arc", "tiny_choice"]}])
    suite = planned(small, mirror=tmp_path / "mirror").base.suites[0]
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))

    def content():
        tasks = load_tasks(suite)["tasks"]
        return {name: (task.dump_config(), list(task.eval_docs)) for name, task in tasks.items()}

    before = content()
    assert sorted(before) == ["arc_challenge", "arc_easy", "tiny_choice"]
    whole = index.every_task

    def not_again(include_path):
        raise AssertionError("the whole index was read again")

    monkeypatch.setattr(index, "every_task", not_again)
    assert str(content()) == str(before)
    # where lm-eval now has more of them, or the folders lack one, all of it is read
    monkeypatch.setattr(index, "every_task", whole)
    (kept,) = (tmp_path / "cache/lm-eval").glob("*.json")
    for change in ({"tasks": [*before, "arc_new"]}, {"folders": []}):
        kept.write_text(json.dumps(json.loads(kept.read_text()) | change))
        read = whole.cache_info().hits
        assert sorted(content()) == sorted(before)
        assert whole.cache_info().hits > read


# ---- what is wrong with a suite ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("broken.yaml", "task: [a\ngroup: b", r"broken\.yaml:2: broken task file"),
        ("list.yaml", "- task", r"list\.yaml:1: broken task file"),
        (
            "binary.yaml",
            b"task: a\n\xff\xfe\x00",
            r"binary\.yaml:2: broken task file: no UTF-8 text",
        ),
        ("null.yaml", "task: \0", r"null\.yaml: broken task file: .*not allowed"),
    ],
)
def test_a_broken_task_file_is_reported(experiment, harness, file, text, message):
    small = experiment(suites=["tasks"])
    (small.folder / "tasks" / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    result = harness("run", small.file, "--out", small.out)
    assert result.code == 2
    assert re.search(message, result.error)


def test_an_unknown_task_is_refused_with_the_nearest_names(experiment, harness):
    small = experiment(suites=[{"name": "tasks", "tasks": ["tiny_chioce"]}])
    result = harness("run", small.file, "--out", small.out)
    assert result.code == 2
    assert "no lm-eval task 'tiny_chioce': did you mean 'tiny_choice'?" in result.error


def test_a_task_without_questions_is_refused(experiment, warm):
    small = experiment(suites=["tasks"])
    (small.folder / "tasks/tiny_choice.jsonl").write_text("")
    with pytest.raises(UserError, match="tiny_choice"):
        data_hash_of(small)


def test_the_hash_of_the_data_follows_a_question(experiment):
    small = experiment(suites=["tasks"])
    before = data_hash_of(small)
    assert data_hash_of(small) == before
    file = small.folder / "tasks/tiny_choice.jsonl"
    file.write_text(file.read_text().replace("lamp", "lantern"))
    assert data_hash_of(small) != before


def planned(small, **settings):
    from harness.config.experiment import load_experiment
    from harness.manager import Plugins
    from harness.planning.plan import Settings, make_plan

    return make_plan(load_experiment(small.file), Plugins(), Settings(**settings))


def data_hash_of(small):
    return LmEval().data_hash(planned(small).base.suites[0])


def test_limits_count_for_a_task_before_its_group(experiment):
    from harness.evaluation.tasks.lm_eval.tasks import counts, load_tasks

    wanted = {"shop": 5, "few_choice": 1}
    small = experiment(suites=[{"name": "tasks", "tasks": ["shop"], "limits": wanted, "limit": 3}])
    add_group(small.folder)
    suite = planned(small).base.suites[0]
    assert counts(suite, load_tasks(suite)) == {"tiny_choice": 5, "few_choice": 1}
    suite = planned(small, limit=2).base.suites[0]
    assert counts(suite, load_tasks(suite)) == {"tiny_choice": 2, "few_choice": 1}


def test_limits_for_a_task_outside_the_suite_are_refused(experiment, harness):
    small = experiment(suites=[{"name": "tasks", "limits": {"tiny_chioce": 5}}])
    result = harness("run", small.file, "--out", small.out)
    assert result.code == 2
    assert "no task 'tiny_chioce' for `limits`: did you mean 'tiny_choice'?" in result.error


# ---- figures -------------------------------------------------------------------------------------

TASK_HEAD = "test_split: test\nmetadata: {version: 1.0}\n"
LAST_WORD = 'output_type: loglikelihood\ndoc_to_text: "{{q}}"\ndoc_to_target: " {{a}}"\n'
ROLLING = 'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{page}}"\n'
PICK = (
    'output_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_target: gold\n'
    'doc_to_choice: ["cheap", "dear and long"]\n'
)
WRITE = (
    'output_type: generate_until\ndoc_to_text: "{{q}}"\ndoc_to_target: "{{page}}"\n'
    'generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 4}\n'
)
READER = """\
from pathlib import Path

import datasets
import numpy as np


def read(name):
    file = Path(__file__).with_name(name)
    return {"test": datasets.Dataset.from_json(str(file))}


def most(**_):
    return read("most.jsonl")


def few(**_):
    return read("few.jsonl")


def numpy_types(doc, results):
    return {"hit": np.int64(doc["gold"]), "near": np.bool_(True), "half": np.float32(0.5)}


def later(doc, results):
    return {"always": 1.0} | ({"odd": float(doc["number"] > 2)} if doc["number"] % 2 else {})


def none_first(doc, results):
    return {"always": 1.0, "mostly": None if doc["number"] == 0 else 1.0}


def no_number(doc, results):
    return {"always": 1.0, "word": "yes"}
"""


def listed(*metrics):
    """`metric_list` of (metric, aggregation, higher_is_better) or a metric's name alone."""
    lines = ["metric_list:"]
    for metric in metrics:
        name, *more = metric if isinstance(metric, tuple) else (metric,)
        pairs = zip(("aggregation", "higher_is_better"), more, strict=False)
        parts = [f"metric: {name}", *(f"{key}: {str(value).lower()}" for key, value in pairs)]
        lines.append(f"  - {{{', '.join(parts)}}}")
    return "\n".join(lines) + "\n"


def processed(function, *metrics):
    own = [(metric, "mean", True) for metric in metrics]
    return f"{WRITE}process_results: !function rows.{function}\n{listed(*own)}"


ACC, ACC_NORM = ("acc", "mean", True), ("acc_norm", "mean", True)
BODIES = {
    "last_word": LAST_WORD + listed(("perplexity", "perplexity", False), ACC),
    "rolling": ROLLING + listed("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "pick": PICK
    + listed(
        ACC,
        ("f1", "f1", True),
        ("brier_score", "brier_score", False),
        ("mcc", "matthews_corrcoef", True),
    ),
    "write": WRITE + listed(("bleu", "bleu", True), ("chrf", "chrf", True)),
    "numpy_types": processed("numpy_types", "hit", "near", "half"),
    "later": processed("later", "always", "odd"),
    "none_first": processed("none_first", "always", "mostly"),
    "no_number": processed("no_number", "always", "word"),
}
PAIRS = {
    "ll": LAST_WORD + listed(("perplexity", "perplexity", False)),
    "mc": PICK + listed(ACC, ACC_NORM),
}


def write_tasks(folder: Path) -> Path:
    """A task for each of BODIES, and two tasks and a group for each of PAIRS."""
    rows = [
        {
            "number": number,
            "q": f"The {colour} {thing} is",
            "a": ("cheap", "dear")[number % 2],
            "gold": number % 2,
            "page": f"The {colour} {thing} stood by the door. It was {colour} again.",
        }
        for number, (thing, colour) in enumerate((t, c) for t in THINGS for c in ("red", "green"))
    ]
    write_jsonl(folder / "most.jsonl", rows[:12])
    write_jsonl(folder / "few.jsonl", rows[12:])
    (folder / "rows.py").write_text(READER)
    bodies = {name: ("most", body) for name, body in BODIES.items()}
    for group, body in PAIRS.items():
        bodies |= {f"{group}_{part}": (part, body) for part in ("most", "few")}
    for name, (part, body) in bodies.items():
        data = f"task: {name}\ncustom_dataset: !function rows.{part}\n"
        (folder / f"{name}.yaml").write_text(f"{data}{TASK_HEAD}{body}")
    for group, metric, by_size in (("ll", "perplexity", "true"), ("mc", "acc_norm", "false")):
        (folder / f"{group}.yaml").write_text(
            f"group: {group}\ntask: [{group}_most, {group}_few]\naggregate_metric_list:\n"
            f"  - {{metric: {metric}, aggregation: mean, weight_by_size: {by_size}}}\n"
        )
    return folder


@pytest.fixture(scope="module")
def figures(tmp_path_factory, tiny_model, full):
    """All of BODIES and PAIRS: what the harness makes of them, its metrics, lm-eval's results."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    names = [*BODIES, *PAIRS]
    small = write_experiment(
        tmp_path_factory.mktemp("figures"),
        tiny_model,
        suites=[{"name": "tasks", "include_path": "own", "tasks": names}],
    )
    folder = write_tasks(small.folder / "own")
    tools = SimpleNamespace(model=full, progress=None)
    result = LmEval().score(planned(small).base.suites[0], Requests(), tools)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    own = {}
    for name in names:
        # lm-eval itself stops at what one of these tasks returns
        with suppress(TypeError, KeyError):
            evaluation = lm_eval.simple_evaluate(
                model=reference(full, 4), tasks=[name], task_manager=manager, bootstrap_iters=0
            )
            own |= evaluation["results"]
    return result, summarise(result.metrics, result.rows), own


@pytest.mark.parametrize(
    ("ours", "task", "theirs"),
    [
        ("last_word", "last_word", "acc"),
        ("last_word.perplexity", "last_word", "perplexity"),
        ("rolling", "rolling", "word_perplexity"),
        ("rolling.byte_perplexity", "rolling", "byte_perplexity"),
        ("rolling.bits_per_byte", "rolling", "bits_per_byte"),
        ("pick", "pick", "acc"),
        ("pick.f1", "pick", "f1"),
        ("pick.brier_score", "pick", "brier_score"),
        ("numpy_types", "numpy_types", "hit"),
        ("numpy_types.near", "numpy_types", "near"),
        ("numpy_types.half", "numpy_types", "half"),
        ("ll_few", "ll_few", "perplexity"),
        ("mc_most", "mc_most", "acc"),
        ("mc_most.acc_norm", "mc_most", "acc_norm"),
        ("mc", "mc", "acc_norm"),
    ],
)
def test_a_figure_is_the_one_that_lm_eval_gives(figures, ours, task, theirs):
    _, metrics, own = figures
    assert metrics[ours]["value"] == pytest.approx(float(own[task][f"{theirs},none"]), rel=1e-4)
    assert metrics[ours]["ci_low"] <= metrics[ours]["value"] <= metrics[ours]["ci_high"]


def test_the_probability_of_the_right_choice_is_that_of_lm_evals_brier_score(figures):
    """Of two choices the Brier score is 2 (1 - p)^2, with lm-eval's own softmax."""
    result, metrics, own = figures
    chances = [r["scores"]["probability"] for r in result.rows if r["group"] == "pick"]
    assert len(chances) == 12
    assert metrics["pick.probability"]["value"] == pytest.approx(sum(chances) / 12)
    brier = sum(2 * (1 - chance) ** 2 for chance in chances) / 12
    assert brier == pytest.approx(own["pick"]["brier_score,none"], rel=1e-4)
    for row in result.rows:
        if row["group"] == "pick":
            assert (row["scores"]["probability"] > 0.5) == (row["scores"]["acc"] == 1)


def test_a_group_averages_the_probability_as_its_figure_and_other_tasks_have_none(figures):
    result, metrics, _ = figures
    by_task = {"mc_most": [], "mc_few": []}
    for row in result.rows:
        if row["group"] in by_task:
            by_task[row["group"]].append(row["scores"]["probability"])
    means = [sum(chances) / len(chances) for chances in by_task.values()]
    assert metrics["mc.probability"]["value"] == pytest.approx(sum(means) / 2)
    assert metrics["mc_most.probability"]["value"] == pytest.approx(means[0])
    having = {name for name in metrics if "probability" in name}
    tasks = {f"{name}.probability" for name in ("pick", "mc", "mc_most", "mc_few")}
    assert having == tasks | {"mc.probability.micro"}


def test_directions_are_those_of_the_tasks(figures):
    _, metrics, _ = figures
    falling = {name for name, metric in metrics.items() if not metric["higher_is_better"]}
    assert falling == {
        "last_word.perplexity",
        "rolling",
        "rolling.byte_perplexity",
        "rolling.bits_per_byte",
        "pick.brier_score",
        "ll_most",
        "ll_few",
    }


def test_what_is_no_figure_of_sums_is_left_out_and_named_with_lm_evals_value(figures):
    result, metrics, own = figures
    left_out = result.notes["left_out"]
    assert set(left_out) == {"pick.mcc", "write", "write.chrf", "no_number.word", "ll"}
    assert not set(left_out) & set(metrics)
    for name, task, theirs in (("pick.mcc", "pick", "mcc"), ("ll", "ll", "perplexity")):
        expected = pytest.approx(float(own[task][f"{theirs},none"]), rel=1e-4)
        assert left_out[name]["value"] == expected
    for name, entry in left_out.items():
        assert f"{name} is left out: {entry['reason']}" in "\n".join(result.warnings)


def test_questions_without_a_value_are_reported_and_the_others_averaged(figures):
    result, metrics, _ = figures
    assert metrics["later.odd"]["value"] == pytest.approx(5 / 6)
    assert metrics["later.odd"]["n"] == 6
    assert metrics["none_first.mostly"]["n"] == 11
    warnings = "\n".join(result.warnings)
    assert "later.odd: 6 of 12 questions have no value; the others are averaged" in warnings
    assert "none_first.mostly: 1 of 12 questions have no value" in warnings


def test_a_group_has_the_metric_and_the_weights_that_it_names(figures):
    result, metrics, _ = figures
    normed = {"mc_most": [], "mc_few": []}
    for row in result.rows:
        if row["group"] in normed:
            normed[row["group"]].append(row["scores"]["acc_norm"])
    every = [score for scores in normed.values() for score in scores]
    assert metrics["mc.micro"]["value"] == pytest.approx(sum(every) / len(every))
    assert metrics["mc"]["value"] != metrics["mc.micro"]["value"]


# ---- task files ----------------------------------------------------------------------------------

PLAIN_TASK = """\
task: plain_choice
dataset_path: json
dataset_kwargs: {data_files: {test: choices.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: answer
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


def own_tasks(experiment, text=PLAIN_TASK, **settings):
    """An experiment whose suite `tasks` has one task file, not trusted unless `settings` say so."""
    settings = {"trust_task_code": False, "include_path": "own", **settings}
    small = experiment(suites=[{"name": "tasks", "tasks": ["plain_choice"], **settings}])
    folder = small.folder / "own"
    folder.mkdir()
    (folder / "plain.yaml").write_text(text)
    shutil.copy(small.folder / "choices.jsonl", folder)
    return small


def checked(small):
    """What a plan finds out about the tasks, without a process of its own."""
    from harness.evaluation.tasks.lm_eval import task_files
    from harness.evaluation.tasks.lm_eval.tasks import load_tasks

    suite = planned(small).base.suites[0]
    assert not task_files.need_nothing_else(suite)
    return load_tasks(suite)["tasks"]["plain_choice"]


@pytest.mark.parametrize(
    "line",
    ["process_docs: !function evil.run", "class: !function evil.run", "include: more.inc"],
)
def test_a_task_file_runs_python_only_where_the_suite_trusts_it(experiment, line, tmp_path):
    small = own_tasks(experiment, f"{PLAIN_TASK}{line}\n")
    mark = tmp_path / "ran"
    code = f"import os\n\nos.mkdir({str(mark)!r})\n\n\ndef run(docs):\n    return docs\n"
    (small.folder / "own/evil.py").write_text(code)
    (small.folder / "own/more.inc").write_text("process_docs: !function evil.run\n")
    with pytest.raises(
        UserError, match=r"own/\S+:\d+: `!function evil.run` runs Python code"
    ) as error:
        checked(small)
    assert "allow it with `trust_task_code: true` in the suite" in str(error.value)
    assert not mark.exists()
    if not line.startswith("class"):
        name = {"name": "tasks", "tasks": ["plain_choice"], "include_path": "own"}
        small.write(suites=[{**name, "trust_task_code": True}])
        assert len(list(load_trusted(small).eval_docs)) == 8
        assert mark.exists()


def load_trusted(small):
    from harness.evaluation.tasks.lm_eval.tasks import load_tasks

    return load_tasks(planned(small).base.suites[0])["tasks"]["plain_choice"]


def test_code_that_is_not_trusted_is_refused_before_anything_is_loaded(experiment, harness):
    small = experiment(suites=[{"name": "tasks", "trust_task_code": False}])
    result = harness("run", small.file, "--out", small.out)
    assert result.code == 2
    assert "tiny_choice.yaml:2: `!function tiny_choice.questions` runs Python code" in result.error


def test_trust_changes_no_hash_and_the_suites_of_the_harness_need_no_word(experiment):
    small = own_tasks(experiment)
    before = planned(small).base.suites[0]
    name = {"name": "tasks", "tasks": ["plain_choice"], "include_path": "own"}
    after = planned(small.write(suites=[{**name, "trust_task_code": True}])).base.suites[0]
    assert (before.trusted, after.trusted) == (False, True)
    assert before.hash == after.hash
    packaged = planned(small.write(suites=["forgetting"])).base.suites[0]
    assert packaged.trusted
    assert not packaged.settings["trust_task_code"]


def test_a_record_keeps_that_the_code_of_tasks_was_trusted(grouped):
    section = grouped.records()["base-0"]["evaluation"]["suites"]["tasks"]
    assert section["notes"]["trust_task_code"] is True


def test_a_template_of_a_task_cannot_reach_python(experiment):
    escape = "{{ cycler.__init__.__globals__.os.getcwd() }}"
    small = own_tasks(experiment, PLAIN_TASK.replace("{{question}}", escape))
    with pytest.raises(UserError, match="SecurityError: access to attribute '__init__'"):
        checked(small)


@pytest.mark.parametrize("data_files", ["choices.jsonl", "{test: choices.jsonl}", "['*.jsonl']"])
def test_data_files_are_those_beside_the_task_file(experiment, tmp_path, monkeypatch, data_files):
    split = "test" if "test" in data_files else "train"
    text = PLAIN_TASK.replace("{test: choices.jsonl}", data_files)
    small = own_tasks(experiment, text.replace("test_split: test", f"test_split: {split}"))
    for place in (small.folder, small.folder / "own"):
        monkeypatch.chdir(place)
        assert len(list(checked(small).eval_docs)) == 8


def test_missing_data_files_are_reported_with_the_searched_folders(experiment):
    small = own_tasks(experiment, PLAIN_TASK.replace("choices.jsonl", "chioces.jsonl"))
    with pytest.raises(
        UserError, match=r"plain.yaml: data_files: no 'chioces.jsonl' in \S+own; write its path"
    ):
        checked(small)


@pytest.mark.parametrize("cap", [256, 1000])
def test_more_new_tokens_than_the_context_holds_are_refused(full, cap):
    with pytest.raises(UserError, match=f"asks for {cap} new tokens, which leaves no room"):
        shared_prefix_lm(full).generate_until(asked_for(["Do you sell a lamp?"], [], cap))
