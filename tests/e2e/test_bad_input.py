"""What the user can mend: exit 2, one line that says what and where and how, nothing written."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import yaml

from tests.conftest import conversations, write_experiment, write_jsonl


def budget(small, **changes):
    small.write(budget={**small.content["budget"], **changes})


def data(small, **changes):
    small.write(data={**small.content["data"], **changes})


def method(small, **entry):
    small.write(methods=["base", entry])


def rows(small, content):
    write_jsonl(small.folder / "train.jsonl", content)


def with_line(small, line):
    small.file.write_text(small.file.read_text() + line)


def without_column(small):
    rows(small, [*conversations()[:6], {"question": "Is it?"}])


def duplicate_ids(small):
    write_jsonl(small.folder / "asked.jsonl", [{"id": "a", "prompt": "x", "reference": "y"}] * 2)


def suite(small, **changes):
    file = small.folder / "answers.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **changes}))


def bad_task(small):
    file = small.folder / "tasks.yaml"
    file.write_text(file.read_text().replace("version: 1", "version: 1\nnum_fewshot: -1"))


YAML = r"experiment\.yaml:\d+: "

# What is wrong -> (how to make it so, what the line says); the place comes first.
CASES = {
    "unknown key": (partial(with_line, line="sedes: [0]\n"), YAML + "unknown key 'sedes'.*'seeds'"),
    "unknown budget key": (
        lambda s: budget(s, step=3),
        YAML + "unknown key 'step' in budget.*did you mean 'steps'",
    ),
    "wrong type": (
        lambda s: budget(s, batch="two"),
        YAML + "budget.batch: expected a whole number",
    ),
    "steps 0": (lambda s: budget(s, steps=0), YAML + "budget.steps: must be at least 1, got 0"),
    "Liger without a GPU": (
        lambda s: budget(s, liger=True),
        YAML + "budget.liger: Liger's kernels need a CUDA GPU: leave it out here",
    ),
    "micro_batch that is a word": (
        lambda s: budget(s, micro_batch="all"),
        YAML + "budget.micro_batch",
    ),
    "micro_batch that does not divide": (
        lambda s: budget(s, micro_batch=3, batch=4),
        YAML + "budget.micro_batch: 3 does not divide batch 4: take one of 1, 2, 4",
    ),
    "broken YAML": (partial(with_line, line="budget: [\n"), YAML + "broken YAML"),
    "key twice": (partial(with_line, line="name: two\n"), YAML + "duplicate key 'name'"),
    "missing data file": (
        lambda s: data(s, train="trian.jsonl"),
        YAML + r".*trian\.jsonl: no such file: did you mean 'train\.jsonl'",
    ),
    "no rows": (lambda s: rows(s, []), r"train\.jsonl: the file has no rows"),
    "row without its columns": (without_column, r"train\.jsonl:7: no value for 'messages"),
    "row that is no JSON": (
        lambda s: (s.folder / "train.jsonl").write_text('{"text": "a"}\n{"text": \n'),
        r"train\.jsonl:2: not JSON",
    ),
    "unknown column in the mapping": (
        lambda s: data(s, columns={"promt": "q"}),
        YAML + r"data\.columns: unknown column 'promt': did you mean 'prompt'",
    ),
    "too much put aside": (lambda s: data(s, validation=24), "cannot hold out 24 of 24 row"),
    "no data": (
        lambda s: s.write(data=None, methods=["lora"]),
        YAML + "missing key 'data'.*'lora' trains",
    ),
    "model that is not there": (
        lambda s: s.write(model="./no-such-folder"),
        YAML + ".*no-such-folder",
    ),
    "unknown model alias": (
        lambda s: s.write(model="smollm2-135n"),
        YAML + ".*did you mean 'smollm2-135m'",
    ),
    "unknown method": (
        lambda s: s.write(methods=["base", "lroa"]),
        YAML + "unknown method 'lroa': did you mean 'lora'",
    ),
    "unknown option": (
        lambda s: method(s, name="lora", rank=4),
        YAML + "unknown key 'rank' in method 'lora'",
    ),
    "option out of range": (
        lambda s: method(s, name="lora", r=0),
        YAML + "r of method 'lora': must be at least 1, got 0",
    ),
    "option of the wrong type": (
        lambda s: method(s, name="lora", lr="fast"),
        YAML + "lr of method 'lora': expected a number, got 'fast'",
    ),
    "options that contradict": (
        lambda s: method(s, name="lora", keep_best=True),
        YAML + "method 'lora': keep_best needs validate_every",
    ),
    "target module that matches nothing": (
        lambda s: method(s, name="lora", target_modules=["q_prj"]),
        YAML + "method 'lora': target_modules: 'q_prj' matches no layer.*q_proj.*self_attn: k_proj",
    ),
    "rank above the layer's width": (
        lambda s: method(s, name="dora", r=64),
        YAML + "method 'dora': r: rank 64 is above the width 32 of",
    ),
    "unknown field of a peft configuration": (
        lambda s: method(s, name="peft", config="VeraConfig", fields={"rr": 3}),
        YAML + "fields.rr of method 'peft': VeraConfig has no such field: did you mean 'r'",
    ),
    "two methods without a label": (
        lambda s: s.write(methods=["base", "lora", {"name": "lora", "r": 2}]),
        YAML + "duplicate method 'lora'.*give one a `label`",
    ),
    "unknown suite": (
        lambda s: s.write(suites=["anwers"]),
        YAML + "unknown suite 'anwers'",
    ),
    "suite with duplicate ids": (duplicate_ids, r"asked\.jsonl:2: duplicate id 'a'"),
    "unknown scorer": (
        lambda s: suite(s, scorers=["rougel"]),
        YAML + "suite 'answers': unknown scorer 'rougel': did you mean 'rougeL'",
    ),
    "unknown suite key": (lambda s: suite(s, tokens=4), r"answers\.yaml:\d+: unknown key 'tokens'"),
    "suite's number out of range": (bad_task, r"tasks\.yaml:\d+: num_fewshot: must be at least 0"),
    "unknown metric to rank by": (
        lambda s: s.write(rank_by="answers.rouge"),
        YAML + ".*answers.rouge",
    ),
}

OPTIONS = {
    "--set with an unknown key": (["--set", "budget.stps=3"], r"--set budget\.stps=3: .*'steps'"),
    "--set without a value": (["--set", "budget.steps"], "--set budget.steps: expected KEY"),
    "--methods unknown": (["--methods", "lroa"], r"--methods: no 'lroa' in .*experiment\.yaml"),
    "--mirror missing": (["--mirror", "/no/such/mirror"], "mirror /no/such/mirror: no such folder"),
    "--executor unknown": (["--executor", "cloud"], "unknown executor 'cloud'.*'?local'?"),
    "--suites missing": (["--suites", "/no/such/suites"], "/no/such/suites"),
    "--limit 0": (["--limit", "0"], "--limit"),
}


def refused(small, ran, message):
    assert ran.code == 2, ran.stderr
    assert ran.stdout == ""
    assert ran.error.startswith("Error: ")
    assert re.search(message, ran.error), ran.error
    assert "Traceback" not in ran.stderr
    assert not small.out.exists()


@pytest.fixture(scope="module")
def tried(harness, tiny_model, tmp_path_factory):
    """Every case as it ended, two at a time."""

    def attempt(what):
        small = write_experiment(
            tmp_path_factory.mktemp("bad"), tiny_model, methods=["base", "lora"]
        )
        CASES.get(what, (lambda small: None, ""))[0](small)
        arguments = OPTIONS.get(what, ([], ""))[0]
        return small, harness("run", small.file, "--out", small.out, *arguments)

    names = [*CASES, *OPTIONS]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(attempt, names), strict=True))


@pytest.mark.parametrize("what", CASES)
def test_a_wrong_experiment(tried, what):
    refused(*tried[what], CASES[what][1])


@pytest.mark.parametrize("what", OPTIONS)
def test_a_wrong_option(tried, what):
    refused(*tried[what], OPTIONS[what][1])


def test_conversations_for_a_model_without_template(
    harness, experiment, tiny_model_without_template
):
    small = experiment().write(methods=["lora"], model=str(tiny_model_without_template))
    ran = harness("run", small.file, "--out", small.out)
    refused(small, ran, YAML + ".*has no chat template: set data.chat_template")


def test_an_experiment_that_is_not_there(harness, experiment):
    small = experiment()
    ran = harness("run", small.folder / "experimnt.yaml", "--out", small.out)
    refused(small, ran, r"experimnt\.yaml: no such file: did you mean 'experiment\.yaml'")


@pytest.mark.parametrize("command", [["rum"], ["run"], ["leaderboard", "/no/such/results"]])
def test_a_wrong_command(harness, tmp_path, command):
    ran = harness(*command, cwd=tmp_path)
    assert ran.code == 2
    assert ran.error.startswith("Error: ")
    assert list(tmp_path.iterdir()) == []
