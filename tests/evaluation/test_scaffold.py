"""`harness suites new` writes a suite that `harness suites check` and an experiment run."""

import json

import pytest
import yaml

from harness.cli.commands.suites import print_report
from harness.cli.main import cli
from harness.errors import UserError
from harness.evaluation.check import SAMPLES, load
from harness.evaluation.trial import Trial, run
from harness.manager import plugins
from harness.types import ModelRef
from tests.conftest import write_jsonl

CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def new(folder, ask, name="shop"):
    cli.main(
        ["suites", "new", name, "--ask", ask, "--dir", str(folder)],
        standalone_mode=False,
    )
    return folder / f"{name}.yaml"


def tried(file, model=None):
    """What the child process does, without the seconds that it spends on importing torch."""
    suite, _ = load(file, plugins=plugins())
    return run(Trial(suite, SAMPLES, model))


# ---- from nothing to a suite that runs -----------------------------------------------------------


def test_a_suite_is_made_and_checked_with_two_commands(harness, tmp_path, capsys):
    made = harness("suites", "new", "shop", cwd=tmp_path)
    assert made.code == 0
    assert made.stdout.splitlines() == [
        "Wrote shop.yaml",
        "Wrote shop.jsonl",
        "Next: harness suites check shop.yaml",
    ]
    checked = harness("suites", "check", "shop.yaml", "--json", cwd=tmp_path)
    assert (checked.code, checked.stderr) == (0, "")
    report = json.loads(checked.stdout)
    suite, _ = load(tmp_path / "shop.yaml", plugins=plugins())
    assert (report["suite"], report["hash"], report["content"]) == (
        "shop",
        suite.hash,
        suite.content,
    )
    capsys.readouterr()
    print_report(report)  # what is printed without --json
    printed = capsys.readouterr().out
    assert "shop: version 1, 3 samples, ask: generate" in printed
    names = "shop.rougeL, shop.rougeL_own_minus_other, shop.exact_match, shop.must_contain"
    assert names in " ".join(printed.split())
    assert CHATML.format("When is the shop open on Saturdays?") in printed
    assert all(f"\N{BOX DRAWINGS LIGHT VERTICAL} {i}" in printed for i in ("opening", "delivery"))
    assert "exact_match 0" in printed


GIVEN = {
    "generate": (CHATML.format("When is the shop open on Saturdays?"), None),
    "choice": ("Question: What is ice made of?\nAnswer:", " water"),
    "perplexity": (CHATML.format("Hello, is anybody there?"), "Yes, how can I help you?<|im_end|>"),
    "lm-eval": ("Question: What is ice made of?\nAnswer:", " water"),
}


@pytest.mark.parametrize("ask", plugins().tasks.things)
def test_each_kind_works_as_it_is_written(tmp_path, ask):
    report = tried(new(tmp_path, ask))
    text, scored = GIVEN[ask]
    assert (report["prompt"]["text"], report["prompt"]["scored"]) == (text, scored)
    special = text.count("<|im_start|>") + text.count("<|im_end|>")
    plain = text.replace("<|im_start|>", "").replace("<|im_end|>", "")
    assert report["prompt"]["tokens"] == special + len(plain)  # a token is a byte
    assert report["samples"] == len(report["rows"]) == 3
    assert report["metrics"]
    for row in report["rows"]:
        assert all(isinstance(value, float | int) for value in row["scores"].values())


@pytest.mark.parametrize("name", ["123", "true", "1e4", "a.b-c"])
@pytest.mark.parametrize("ask", plugins().tasks.things)
def test_a_name_may_have_the_form_of_a_number(tmp_path, ask, name):
    suite, _ = load(new(tmp_path, ask, name), plugins=plugins())
    assert suite.name == name
    if ask == "lm-eval":
        (task,) = suite.settings["tasks"]
        assert yaml.safe_load(f"task: {task}") == {"task": task}


def test_what_is_there_is_not_overwritten(harness, tmp_path):
    (tmp_path / "shop.jsonl").write_text("mine")
    result = harness("suites", "new", "shop", cwd=tmp_path)
    assert result.code == 2
    assert result.error.startswith("Error: shop.jsonl already exists")
    assert [f.name for f in tmp_path.iterdir()] == ["shop.jsonl"]
    assert (tmp_path / "shop.jsonl").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../shop", "'../shop' cannot name a suite"),
        ("my shop", "'my shop' cannot name a suite"),
        ("judge", "a suite 'judge' is built in"),
    ],
)
def test_a_wrong_name_is_refused(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        new(tmp_path, "generate", name)
    assert not any(tmp_path.iterdir())


# ---- what a check finds out ----------------------------------------------------------------------


def test_only_the_first_samples_run_and_all_are_counted(tmp_path):
    file = new(tmp_path, "generate")
    rows = [{"id": f"q{i}", "prompt": f"Number {i}?", "reference": f"{i}"} for i in range(5)]
    write_jsonl(tmp_path / "shop.jsonl", rows)
    report = tried(file)
    assert report["samples"] == 5
    assert [row["id"] for row in report["rows"]] == ["q0", "q1", "q2"]


def test_a_corpus_score_is_shown_of_each_answer_alone(tmp_path):
    file = new(tmp_path, "generate")
    file.write_text(file.read_text().replace("[rougeL, exact_match, must_contain]", "[chrf, bleu]"))
    report = tried(file)
    assert report["metrics"] == ["chrf", "bleu"]
    for row in report["rows"]:
        assert set(row["scores"]) == {"chrf", "bleu"}
        assert all(0 <= score <= 100 for score in row["scores"].values())


def test_another_model_shows_its_own_tokens(tmp_path, tiny_model, tokenizer):
    report = tried(new(tmp_path, "generate"), ModelRef("mine", str(tiny_model)))
    turn = {"role": "user", "content": "When is the shop open on Saturdays?"}
    text = tokenizer.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
    assert report["prompt"]["text"] == text
    assert report["prompt"]["tokens"] == len(tokenizer(text)["input_ids"]) < len(text) / 2


def test_a_judge_judges_with_the_same_model(tmp_path):
    file = new(tmp_path, "generate")
    file.write_text(file.read_text().replace("# judge:", "judge:").replace("#   ", "  "))
    report = tried(file)
    assert report["metrics"][-1] == "score"
    assert all("score" in row["scores"] for row in report["rows"])
    assert CHATML.format("When is the shop open on Saturdays?") == report["prompt"]["text"]


def test_a_wrong_row_is_reported_with_its_line(harness, tmp_path):
    new(tmp_path, "generate")
    with (tmp_path / "shop.jsonl").open("a") as rows:
        rows.write('{"prompt": 3}\n')
    result = harness("suites", "check", "shop.yaml", cwd=tmp_path)
    assert result.code == 2
    assert result.error == "Error: shop.jsonl:4: 'prompt' must be text, got 3"


def test_a_prompt_without_its_question_is_refused(tmp_path):
    file = new(tmp_path, "choice")
    file.write_text(file.read_text().replace("{question}", "{query}"))
    with pytest.raises(UserError, match=r"shop\.yaml:6: prompt: has no \{question\}"):
        load(file, plugins=plugins())


def test_a_broken_task_file_is_reported_with_its_line(tmp_path):
    file = new(tmp_path, "lm-eval")
    task = tmp_path / "shop-tasks" / "shop_task.yaml"
    task.write_text(task.read_text().replace("{metric: acc,", "{metric: acc,,"))
    with pytest.raises(UserError, match=r"shop_task\.yaml:\d+: broken task file"):
        load(file, plugins=plugins())


def test_what_breaks_while_it_runs_is_one_line(tmp_path):
    file = new(tmp_path, "lm-eval")
    task = tmp_path / "shop-tasks" / "shop_task.yaml"
    task.write_text(task.read_text().replace("{{question}}", "{{query}}"))
    with pytest.raises(UserError, match=r"shop\.yaml.*'query' is undefined") as error:
        tried(file)
    assert "\n" not in str(error.value)
