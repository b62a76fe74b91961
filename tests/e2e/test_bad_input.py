"""What the user can mend: exit 2 and the very line of the table, which says what, where and how.

Nothing is written by what is refused. Where a row says how it is mended, by what its line advises,
the command then goes on.
"""

import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from harness import manager
from tests import fuzz
from tests.conftest import (
    ROOT,
    Experiment,
    conversations,
    write_distribution,
    write_experiment,
    write_jsonl,
)

Change = Callable[[Experiment], object]
RUN = ("run", "experiment.yaml", "--out", "out")
REFERENCE = ROOT / "results/reference/quickstart"
GATE = ("gate", "lora", "--baseline", "base", "--policy", "policy.yaml", "--results", "results")
BOARD = ("leaderboard", "results")
COMPARE = ("compare", "lora", "base", "--results", "results")


@dataclass(frozen=True)
class Case:
    """A wrong input, the line that it prints after `Error: `, and what that line advises.

    In the line {here} is the experiment's folder, {above} that around it, {model} its model's.
    """

    spoil: Change
    line: str
    mend: Change | None = None
    command: Sequence[str] = RUN
    variables: Mapping[str, str] = field(default_factory=dict)
    plugin: str | None = None
    """The code of an installed plugin; what mends it is to take it out."""


# ---- changes


def nothing(small):
    """The input is right; the command or a variable is not."""


def edit(name: str, old: str, new: str, count: int = 1) -> Change:
    def change(small):
        file = small.folder / name
        text = file.read_text()
        assert old in text, f"no {old!r} in {text}"
        file.write_text(text.replace(old, new, count))

    return change


def line(text: str, name: str = "experiment.yaml") -> Change:
    """A line more at a file's end."""

    def change(small):
        file = small.folder / name
        file.write_text(f"{file.read_text()}{text}\n")

    return change


def keys(**changes: Any) -> Change:
    """Top-level keys of the experiment."""
    return lambda small: small.write(**changes)


def budget(**changes: Any) -> Change:
    return lambda small: small.write(budget={**small.content["budget"], **changes})


def data(**changes: Any) -> Change:
    return lambda small: small.write(data={**small.content["data"], **changes})


def method(**entry: Any) -> Change:
    return lambda small: small.write(methods=["base", entry])


def rows(*lines: str, name: str = "train.jsonl") -> Change:
    return lambda small: (small.folder / name).write_text("".join(f"{x}\n" for x in lines))


def right_rows(small):
    write_jsonl(small.folder / "train.jsonl", conversations())


def suite(name: str = "answers", **changes: Any) -> Change:
    def change(small):
        file = small.folder / f"{name}.yaml"
        content = {**yaml.safe_load(file.read_text()), **changes}
        kept = {key: value for key, value in content.items() if value is not None}
        file.write_text(yaml.safe_dump(kept, sort_keys=False))

    return change


def file(name: str, content: str | bytes) -> Change:
    def change(small):
        path = small.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def both(*changes: Change) -> Change:
    return lambda small: [change(small) for change in changes]


def own_model(*changes: Change) -> Change:
    """A copy of the model in the experiment's folder, spoilt."""

    def change(small):
        shutil.copytree(small.content["model"], small.folder / "own", dirs_exist_ok=True)
        small.write(model="./own")
        both(*changes)(small)

    return change


def gone(name: str) -> Change:
    return lambda small: (small.folder / name).unlink()


def moved(name: str, other: str) -> Change:
    return lambda small: (small.folder / name).rename(small.folder / other)


def cut(name: str, size: int) -> Change:
    def change(small):
        path = small.folder / name
        path.write_bytes(path.read_bytes()[:size])

    return change


def aliases(levels: int) -> str:
    """YAML of a line a level, each of ten aliases to the one before."""
    lines = ["a0: &a0 [1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


def policy(**content: Any) -> Change:
    """A policy beside the records of a run that was finished."""
    return both(results, file("policy.yaml", yaml.safe_dump(content, sort_keys=False)))


def results(small):
    shutil.copytree(REFERENCE, small.folder / "results", dirs_exist_ok=True)


def record(change: Callable[[str], str]) -> Change:
    """Records of a run that was finished, the one of the base changed as text."""

    def spoil(small):
        results(small)
        path = base_record(small)
        path.write_text(change(path.read_text()))

    return spoil


def base_record(small):
    (path,) = (small.folder / "results/cells").glob("base-*.json")
    return path


def adapter(config: str | None = '{"peft_type": "LORA", "task_type": "CAUSAL_LM"}', **more: str):
    """A folder `adapter`, with more files; a name's `__` is its dot."""

    def change(small):
        folder = small.folder / "adapter"
        folder.mkdir()
        written = {**({} if config is None else {"adapter_config.json": config}), **more}
        for name, text in written.items():
            (folder / name.replace("__", ".")).write_text(text)

    return change


def evaluating(*options: str) -> tuple[str, ...]:
    return ("eval", *options, "--suites", ".", "--suite", "answers", "--out", "out")


MODEL = "{model}"
ADAPTER = evaluating(MODEL, "--adapter", "adapter")
ENDPOINT = {"url": "http://127.0.0.1:9/v1", "model": "m", "key": None}
JUDGE = {"name": "expected_score", "rubric": "5: right. 1: wrong."}
RULE = {"metric": "similarity.cosine", "max_drop": 0.02}


# ---- the table

EXPERIMENT = {
    "no file": Case(
        nothing,
        "experimnt.yaml: no such file: did you mean 'experiment.yaml' or "
        "'predicts.yaml' or 'picks.yaml'?",
        command=("run", "experimnt.yaml", "--out", "out"),
    ),
    "unknown key": Case(
        line("sedes: [0]"),
        "experiment.yaml:19: unknown key 'sedes' in the experiment: did you mean "
        "'seeds'? (known: ...)",
        edit("experiment.yaml", "sedes", "seeds"),
    ),
    "unknown key of the budget": Case(
        edit("experiment.yaml", "steps: 2", "stps: 2"),
        "experiment.yaml:7: unknown key 'stps' in budget: did you mean 'steps'? (known: ...)",
        edit("experiment.yaml", "stps", "steps"),
    ),
    "word for a number": Case(
        budget(batch="two"),
        "experiment.yaml:8: budget.batch: expected a whole number, got 'two' (text)",
        budget(batch=2),
    ),
    "steps of 0": Case(
        budget(steps=0),
        "experiment.yaml:7: budget.steps: must be at least 1, got 0",
        budget(steps=1),
    ),
    "huge number": Case(
        budget(steps=10**30),
        "experiment.yaml:7: budget.steps: must be at most 100000000, got "
        "1000000000000000000000000000000",
        budget(steps=100),
    ),
    "Liger without a GPU": Case(
        budget(liger=True),
        "experiment.yaml:11: budget.liger: Liger's kernels need a CUDA GPU: leave it out here",
        budget(),
    ),
    "micro_batch that is a word": Case(
        budget(micro_batch="all"),
        "experiment.yaml:11: budget.micro_batch: expected a whole number or "
        "'auto', got 'all' (text)",
        budget(micro_batch="auto"),
    ),
    "micro_batch that does not divide": Case(
        budget(micro_batch=3, batch=4),
        "experiment.yaml:11: budget.micro_batch: 3 does not divide batch 4: take one of 1, 2, 4",
        budget(micro_batch=2, batch=4),
    ),
    "broken YAML": Case(
        line("budget: ["),
        "experiment.yaml:20: broken YAML: expected the node content, but found '<stream end>'",
        edit("experiment.yaml", "budget: [", ""),
    ),
    "key twice": Case(
        line("name: two"),
        "experiment.yaml:19: duplicate key 'name': first on line 1",
        edit("experiment.yaml", "name: two", ""),
    ),
    "tag of Python": Case(
        line("rank_by: !!python/object/apply:os.system [ls]"),
        "experiment.yaml:19: the YAML tag "
        "'tag:yaml.org,2002:python/object/apply:os.system' is not read here: "
        "write plain values",
        edit("experiment.yaml", "!!python/object/apply:os.system [ls]", "answers.exact_match"),
    ),
    "aliases that stand for billions": Case(
        file("experiment.yaml", aliases(9)),
        "experiment.yaml:1: with its aliases written out the file has more than 100000 values",
    ),
    "nested too deep": Case(
        line("track: " + "[" * 200),
        "experiment.yaml:19: broken YAML: lists and mappings more than 100 deep",
    ),
    "no UTF-8": Case(
        file("experiment.yaml", "name: caf\u00e9".encode("latin-1")),
        "experiment.yaml: not UTF-8 text: save it as UTF-8",
    ),
    "seed beyond 32 bits": Case(
        keys(seeds=[2**32]),
        "experiment.yaml:20: seeds.0: must be at most 4294967295, got 4294967296",
        keys(seeds=[2**32 - 1]),
    ),
    "seed twice": Case(
        keys(seeds=[0, 1, 0]),
        "experiment.yaml:19: seeds: duplicate seed 0: remove it",
        keys(seeds=[0, 1]),
    ),
    "name that leaves the folder": Case(
        keys(name="../x"),
        "experiment.yaml:1: name: invalid name '../x': use letters, digits, '-', "
        "'_' and '.', the first of them no '-' or '.'",
        keys(name="x"),
    ),
    "yes for true": Case(
        keys(trust_remote_code="yes"),
        "experiment.yaml:19: trust_remote_code: expected true or false, got "
        "'yes' (text): write true or false",
        keys(trust_remote_code=True),
    ),
    "method whose name is null": Case(
        keys(methods=["base", {"name": None, "r": 4}]),
        "experiment.yaml:13: missing key 'name' in methods.1",
        keys(methods=["base", {"name": "lora", "r": 4}]),
    ),
    "unknown method": Case(
        keys(methods=["base", "lroa"]),
        "experiment.yaml:13: unknown method 'lroa': did you mean 'lora'? (known: ...)",
        keys(methods=["base", "lora"]),
    ),
    "unknown option": Case(
        method(name="lora", rank=4),
        "experiment.yaml:14: unknown key 'rank' in method 'lora': (known: ...)",
        method(name="lora", r=4),
    ),
    "option out of range": Case(
        method(name="lora", r=0),
        "experiment.yaml:14: r of method 'lora': must be at least 1, got 0",
        method(name="lora", r=1),
    ),
    "option of another type": Case(
        method(name="lora", lr="fast"),
        "experiment.yaml:14: lr of method 'lora': expected a number, got 'fast' (text)",
        method(name="lora", lr=0.001),
    ),
    "options that contradict": Case(
        method(name="lora", keep_best=True),
        "experiment.yaml:13: method 'lora': keep_best needs validate_every: set "
        "it to a number of steps",
        method(name="lora", keep_best=True, validate_every=1),
    ),
    "target module that matches nothing": Case(
        method(name="lora", target_modules=["q_prj"]),
        "experiment.yaml:13: method 'lora': target_modules: 'q_prj' matches no "
        "layer: did you mean q_proj? the model has model: embed_tokens; mlp: "
        "down_proj, gate_proj, up_proj; self_attn: k_proj, o_proj, q_proj, v_proj",
        method(name="lora", target_modules=["q_proj"]),
    ),
    "rank above the layer's width": Case(
        method(name="dora", r=64),
        "experiment.yaml:13: method 'dora': r: rank 64 is above the width 32 of "
        "model.layers.self_attn.k_proj: take r of 32 or less, or leave that "
        "layer out of target_modules",
        method(name="dora", r=32),
    ),
    "unknown field of a peft configuration": Case(
        method(name="peft", config="VeraConfig", fields={"rr": 3}),
        "experiment.yaml:16: fields.rr of method 'peft': VeraConfig has no such "
        "field: did you mean 'r'? (known: ...)",
        method(name="peft", config="VeraConfig", fields={"r": 3}),
    ),
    "two methods without a label": Case(
        keys(methods=["base", "lora", {"name": "lora", "r": 2}]),
        "experiment.yaml:14: duplicate method 'lora' (lines 13 and 14): give one a `label`",
        keys(methods=["base", "lora", {"name": "lora", "r": 2, "label": "narrow"}]),
    ),
    "metric to rank by": Case(
        keys(rank_by="answers.rouge"),
        "experiment.yaml:19: cannot rank by 'answers.rouge': did you mean "
        "'answers.rougeL'? (known: ...)",
        keys(rank_by="answers.rougeL"),
    ),
    "unknown tracker": Case(
        keys(track=["tensorbord"]),
        "experiment.yaml:20: unknown tracker 'tensorbord': did you mean "
        "'tensorboard'? (known: ...)",
        keys(track=["tensorboard"]),
    ),
}
DATA = {
    "missing file": Case(
        data(train="trian.jsonl"),
        "experiment.yaml:4: {here}/trian.jsonl: no such file: did you mean "
        "'train.jsonl' or 'plain.jsonl' or 'chats.jsonl'?",
        data(train="train.jsonl"),
    ),
    "no rows": Case(rows(), "{here}/train.jsonl: the file has no rows", right_rows),
    "row without its columns": Case(
        line('{"question": "Is it?"}', "train.jsonl"),
        "{here}/train.jsonl:25: no value for 'messages or conversations' (columns there: question)",
        edit("train.jsonl", '{"question": "Is it?"}\n', ""),
    ),
    "row that is no JSON": Case(
        rows('{"text": "a"}', '{"text": '),
        "{here}/train.jsonl:2: not JSON: Expecting value: line 2 column 1 (char 10)",
        right_rows,
    ),
    "row nested for ever": Case(
        rows("[" * 100_000),
        "{here}/train.jsonl:1: not JSON: lists and objects are nested too deep",
        right_rows,
    ),
    "half a surrogate pair": Case(
        rows('{"text": "\\ud83d"}'),
        "{here}/train.jsonl:1: 'text' holds the lone surrogate \\ud83d, half of a "
        "character (an emoji that was cut?), which is no Unicode text: fix the "
        "text or remove the row",
        right_rows,
    ),
    "unknown role": Case(
        edit("train.jsonl", '"role": "user"', '"role": "usr"'),
        "{here}/train.jsonl:1: message 2 of 'messages' has the unknown role 'usr' (known: ...)",
        edit("train.jsonl", '"role": "usr"', '"role": "user"'),
    ),
    "unknown column": Case(
        data(columns={"promt": "q"}),
        "experiment.yaml:6: data.columns: unknown column 'promt': did you mean "
        "'prompt'? (known: ...)",
        data(),
    ),
    "more put aside than there is": Case(
        data(validation=24),
        "{here}/train.jsonl: cannot hold out 24 of 24 row(s) for validation: at "
        "least one must be left to train on; add rows or lower `validation`",
        data(validation=4),
    ),
    "no data to train on": Case(
        keys(data=None, methods=["lora"]),
        "experiment.yaml:1: missing key 'data' in the experiment: 'lora' trains: "
        "add `data: {train: ...}`",
        keys(methods=["base"]),
    ),
    "template that is none": Case(
        data(chat_template="{% for m in messages %}"),
        "experiment.yaml:6: the chat template is invalid Jinja: Unexpected end "
        "of template. Jinja was looking for the following tags: 'endfor' or "
        "'else'. The innermost block that needs to be closed is 'for'. (its line "
        "1)",
        data(chat_template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"),
    ),
    "template without messages": Case(
        data(chat_template="the same"),
        "experiment.yaml:6: the chat template never uses `messages`: every "
        "prompt would be the same",
        data(),
    ),
    "template with a huge value": Case(
        data(chat_template="{{ messages[0].content * 10**12 }}"),
        "{here}/train.jsonl:2: the chat template refuses the conversation (a "
        "value larger than 1000000 characters, items or bits): fix its turns, or "
        "set data.chat_template to a template that takes it",
        data(),
    ),
}
MODELS = {
    "no folder": Case(
        keys(model="./no-such-folder"),
        "experiment.yaml:2: model './no-such-folder': no such folder, and it cannot be a Hub id",
        own_model(),
    ),
    "misspelt alias": Case(
        keys(model="smollm2-135n"),
        "experiment.yaml:2: model 'smollm2-135n' cannot be found: not a packaged "
        "alias, did you mean 'smollm2-135m'? (known: ...), not a folder, not in "
        "the mirror (none given: --mirror DIR), and the Hub cannot be reached "
        "(HF_HUB_OFFLINE is set); use a packaged alias (see `harness models`)",
    ),
    "no config.json": Case(
        own_model(gone("own/config.json")),
        "experiment.yaml:2: model './own': the folder {here}/own has no "
        "config.json, so transformers cannot load it as a model",
        own_model(),
    ),
    "broken config.json": Case(
        own_model(file("own/config.json", "{")),
        "experiment.yaml:2: model './own': the folder {here}/own has a broken "
        "config.json (Expecting property name enclosed in double quotes: line 1 "
        "column 2 (char 1)): download it again",
        own_model(),
    ),
    "weights cut short": Case(
        own_model(cut("own/model.safetensors", 5000)),
        "experiment.yaml:2: model './own': the folder {here}/own has "
        "model.safetensors of 5000 bytes where its header says 451864: it was "
        "cut short or changed: download it again",
        own_model(),
    ),
    "weights in a pickle": Case(
        own_model(moved("own/model.safetensors", "own/pytorch_model.bin")),
        "experiment.yaml:2: model './own': the folder {here}/own holds weights "
        "in a pickle (pytorch_model.bin), which may run code when it is opened: "
        'where you trust it, write it anew as safetensors: python -c "import '
        "sys; from transformers import AutoModelForCausalLM as Model; "
        "Model.from_pretrained(sys.argv[1], "
        "dtype='auto').save_pretrained(sys.argv[1])\" FOLDER",
        own_model(),  # its advice is followed in tests/models/test_packaged.py
    ),
    "code of its own": Case(
        own_model(
            file("own/config.json", '{"model_type": "own", "auto_map": {"AutoConfig": "a.B"}}')
        ),
        "experiment.yaml:2: model './own': the folder {here}/own holds a model "
        "of type own, whose code comes with it: set trust_remote_code: true to "
        "run it",
        line("trust_remote_code: true"),
    ),
    "encoder": Case(
        own_model(
            file("own/config.json", '{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
        ),
        "experiment.yaml:2: model './own': the folder {here}/own holds a "
        "BertForMaskedLM, which is for another task: a causal language model is "
        "needed here",
        own_model(),
    ),
    "no chat template": Case(
        own_model(gone("own/chat_template.jinja")),
        "experiment.yaml:2: model './own' has no chat template: set "
        "data.chat_template, or give prompt/completion rows with data.format: "
        "prompt",
        data(chat_template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"),
    ),
}
SUITES = {
    "unknown suite": Case(
        keys(suites=["anwers"]),
        "experiment.yaml:15: unknown suite 'anwers': (known: ...)",
        keys(suites=["answers"]),
    ),
    "folder of suites": Case(
        nothing, "--suites nope: no such folder", command=(*RUN, "--suites", "nope")
    ),
    "unknown way of asking": Case(
        suite(ask="generat"),
        "answers.yaml:3: ask: expected 'generate', 'perplexity', 'choice' or "
        "'lm-eval', got 'generat' (text)",
        suite(ask="generate"),
    ),
    "unknown scorer": Case(
        suite(scorers=["rougel"]),
        "answers.yaml:7: unknown scorer 'rougel': did you mean 'rougeL'? (known: ...)",
        suite(scorers=["rougeL"]),
    ),
    "unknown key of a suite": Case(
        suite(tokens=4),
        "answers.yaml:9: unknown key 'tokens' in the suite: did you mean "
        "'max_new_tokens'? (known: ...)",
        suite(tokens=None),
    ),
    "another name than its file's": Case(
        edit("answers.yaml", "name: answers", "name: anwers"),
        "answers.yaml:1: the suite is called 'anwers' but its file answers.yaml: make them equal",
        edit("answers.yaml", "name: anwers", "name: answers"),
    ),
    "number out of range": Case(
        line("num_fewshot: -1", "tasks.yaml"),
        "tasks.yaml:8: num_fewshot: must be at least 0, got -1",
        edit("tasks.yaml", "-1", "0"),
    ),
    "nothing that scores": Case(
        suite(scorers=None),
        "answers.yaml:3: ask: generate needs `scorers:` or a `judge:`",
        suite(scorers=["exact_match"]),
    ),
    "pattern that is none": Case(
        suite(scorers=[{"name": "regex", "pattern": "("}]),
        "answers.yaml:7: scorer 'regex': the pattern '(' is no regular "
        "expression: missing ), unterminated subpattern at position 0",
        suite(scorers=[{"name": "regex", "pattern": r"\("}]),
    ),
    "sample twice": Case(
        rows(*['{"id": "a", "prompt": "x", "reference": "y"}'] * 2, name="asked.jsonl"),
        "asked.jsonl:2: duplicate id 'a': first in line 1",
        rows('{"id": "a", "prompt": "x", "reference": "y"}', name="asked.jsonl"),
    ),
    "data of somewhere else": Case(
        both(
            file("../asked.jsonl", '{"prompt": "x", "reference": "y"}\n'),
            suite(data="../asked.jsonl"),
        ),
        "answers.yaml:4: data: '../asked.jsonl' leads out of the suite's folder "
        ".: copy it there, or let the experiment name it (suites: [{name: "
        "answers, data: ...}])",
        both(
            suite(data="asked.jsonl"),
            keys(suites=[{"name": "answers", "data": "../asked.jsonl"}]),
        ),
    ),
    "unknown judge": Case(
        suite(judge={**JUDGE, "name": "jury"}),
        "answers.yaml:9: unknown judge 'jury': (known: ...)",
        suite(judge=JUDGE),
    ),
    "judge's key in the file": Case(
        suite(judge={**JUDGE, "endpoint": {**ENDPOINT, "key": "sk-" + "a1" * 20}}),
        "answers.yaml:15: judge.endpoint.key: key takes the NAME of an "
        "environment variable, in capitals such as OPENAI_API_KEY, and never the "
        "key itself",
        suite(judge=JUDGE),
    ),
    "judge's key that is not set": Case(
        suite(judge={**JUDGE, "endpoint": {**ENDPOINT, "key": "NO_SUCH_KEY"}}),
        "answers.yaml:15: judge.endpoint: the environment variable NO_SUCH_KEY "
        "holds no key: export NO_SUCH_KEY=..., name another variable with "
        "`key:`, or write `key: null` for a server that asks for none",
        suite(judge={**JUDGE, "endpoint": ENDPOINT}),
    ),
    "judge's address": Case(
        suite(judge={**JUDGE, "endpoint": {**ENDPOINT, "url": "host/v1"}}),
        "answers.yaml:13: judge.endpoint.url: the endpoint's url is no URL: "
        "write one such as https://api.openai.com/v1",
        suite(judge={**JUDGE, "endpoint": ENDPOINT}),
    ),
    "task file that reads elsewhere": Case(
        both(
            suite("tasks", trust_task_code=False),
            file(
                "tasks/tiny_choice.yaml",
                "task: tiny_choice\ndataset_path: json\n"
                "dataset_kwargs: {data_files: /etc/hostname}\n",
            ),
        ),
        "tasks/tiny_choice.yaml:3: data_files: '/etc/hostname' leads out of "
        "tasks: copy it there, or allow it with `trust_task_code: true` in the "
        "suite",
    ),
    "task file that is none": Case(
        file("tasks/more.yaml", "- 1\n"),
        "tasks/more.yaml:1: broken task file: expected keys such as `task:`",
        gone("tasks/more.yaml"),
    ),
}
POLICIES = {
    "no policy": Case(
        results,
        "policy.yaml: no such file: did you mean 'picks.yaml' or 'predicts.yaml' "
        "or 'experiment.yaml'?",
        policy(rules=[RULE]),
        GATE,
    ),
    "unknown key of a rule": Case(
        policy(rules=[{"metric": "similarity.cosine", "max_dorp": 1}]),
        "policy.yaml:3: unknown key 'max_dorp' in rules.0: did you mean 'max_drop'? (known: ...)",
        policy(rules=[RULE]),
        GATE,
    ),
    "unknown metric": Case(
        policy(rules=[{"metric": "similarity.cosin", "max_drop": 1}]),
        "policy.yaml:2: no metric 'similarity.cosin': did you mean "
        "'similarity.cosine'? (known: ...)",
        policy(rules=[RULE]),
        GATE,
    ),
    "rule without a limit": Case(
        policy(rules=[{"metric": "similarity.cosine"}]),
        "policy.yaml:2: rules.0: expected just one of max_drop, max_increase, "
        "min, max, better_than, got no limit",
        policy(rules=[RULE]),
        GATE,
    ),
    "confidence above 1": Case(
        policy(confidence=95, rules=[RULE]),
        "policy.yaml:1: confidence: must be less than 1.0, got 95",
        policy(confidence=0.95, rules=[RULE]),
        GATE,
    ),
    "limit of thousands of digits": Case(
        both(results, file("policy.yaml", f"rules:\n- metric: a.b\n  max_drop: {'9' * 5000}\n")),
        "policy.yaml:3: '99999999999999999999999999999999999999999999999999999999"
        "9...' does not fit its tag 'tag:yaml.org,2002:int'",
        policy(rules=[RULE]),
        GATE,
    ),
    "unknown candidate": Case(
        policy(rules=[RULE]),
        "no cell 'lroa': did you mean 'lora'? (known: ...)",
        None,
        ("gate", "lroa", *GATE[2:]),
    ),
}
ADAPTERS = {
    "no folder of an adapter": Case(
        nothing, "harness eval: adapter 'adapter': no such folder", command=ADAPTER
    ),
    "no configuration": Case(
        adapter(None),
        "harness eval: adapter '{here}/adapter': the folder has no "
        "adapter_config.json, so it is not an adapter",
        command=ADAPTER,
    ),
    "broken configuration": Case(
        adapter("["),
        "harness eval: adapter '{here}/adapter': the folder has a broken "
        "adapter_config.json: save the adapter again",
        command=ADAPTER,
    ),
    "adapter of another task": Case(
        adapter('{"task_type": "SEQ_CLS"}'),
        "harness eval: adapter '{here}/adapter' is for task SEQ_CLS; a causal "
        "language model's is needed",
        command=ADAPTER,
    ),
    "adapter in a pickle": Case(
        adapter(adapter_model__bin="x"),
        "harness eval: adapter '{here}/adapter': the folder holds a pickle "
        "(adapter_model.bin), which may run code when it is opened; convert it "
        'there: python -c "import torch, safetensors.torch as s; '
        "s.save_file(torch.load('adapter_model.bin', weights_only=True), "
        "'adapter_model.safetensors')\"",
        command=ADAPTER,
    ),
    "adapter without weights": Case(
        adapter(),
        "harness eval: adapter '{here}/adapter': the folder has no "
        "adapter_model.safetensors: save the adapter again with save_pretrained",
        command=ADAPTER,
    ),
    "adapter with broken weights": Case(
        adapter(adapter_model__safetensors="x"),
        "harness eval: adapter '{here}/adapter': the folder has "
        "adapter_model.safetensors of 1 bytes, which is not a safetensors file: "
        "download it again",
        command=ADAPTER,
    ),
}
RECORDS = {
    "no results": Case(
        nothing, "results: no records there (cells/*.json); run an experiment first", results, BOARD
    ),
    "record of brackets": Case(
        record(lambda text: "[]"),
        "results/cells/base-s0-0d80c2f61d.json: not a record (it has no "
        "'schema'); name a file under cells/",
        results,
        COMPARE,
    ),
    "record cut short": Case(
        record(lambda text: text[: len(text) // 2]),
        "results/cells/base-s0-0d80c2f61d.json:538: broken JSON (Expecting "
        "property name enclosed in double quotes); run the experiment again: it "
        "is set aside and its cell measured anew",
        results,
        COMPARE,
    ),
    "record of another layout": Case(
        record(lambda text: text.replace('"schema": ', '"schema": 9')),
        "results/cells/base-s0-0d80c2f61d.json: schema 91, this harness reads 1; "
        "install the finetune-harness that wrote it, or run the experiment "
        "again: it is set aside and its cell measured anew",
        results,
        COMPARE,
    ),
    "record of ten million brackets": Case(
        record(lambda text: "[" * 1_000_000),
        "results/cells/base-s0-0d80c2f61d.json: broken JSON (RecursionError); "
        "run the experiment again: it is set aside and its cell measured anew",
        results,
        COMPARE,
    ),
    "cell that is not there": Case(
        results,
        "no cell 'lroa': did you mean 'lora'? (known: ...)",
        None,
        ("export", "results/lroa", "--to", "there"),
    ),
}
ADDRESSES = {
    "no URL": Case(
        nothing,
        "--served, --gguf: the endpoint's url is no URL: write one such as "
        "https://api.openai.com/v1",
        command=evaluating("--served", "127.0.0.1:80"),
    ),
    "password in a URL": Case(
        nothing,
        "--served, --gguf: the endpoint's url may hold no user, password, query "
        "or fragment: it is recorded; a key belongs into an environment variable",
        command=evaluating("--served", "https://me:pa55word@host/v1"),
    ),
    "token in a URL": Case(
        nothing,
        "--served, --gguf: the endpoint's url may hold no user, password, query "
        "or fragment: it is recorded; a key belongs into an environment variable",
        command=evaluating("--served", "https://host/v1?token=abcdefgh"),
    ),
    "port that is none": Case(
        nothing,
        "--served, --gguf: the endpoint's url is no URL (Port out of range 0-65535)",
        command=evaluating("--served", "http://host:99999/v1"),
    ),
    "nobody answers": Case(
        nothing,
        "no OpenAI-compatible server answers at http://127.0.0.1:9/v1/models "
        "(ConnectError: All connection attempts failed): start it, or correct "
        "the URL, which often ends in /v1",
        command=evaluating("--served", "http://127.0.0.1:9/v1"),
        variables={"NO_PROXY": "127.0.0.1"},
    ),
    "no key": Case(
        nothing,
        "the environment variable NO_SUCH_KEY holds no key: export "
        "NO_SUCH_KEY=..., name another variable with `key:`, or write `key: "
        "null` for a server that asks for none",
        command=evaluating("--served", "http://127.0.0.1:9/v1", "--key", "NO_SUCH_KEY"),
    ),
    "GGUF file that is none": Case(
        file("x.gguf", "GGUF"),
        "{here}/x.gguf is truncated or damaged within its header; download or copy it again",
        command=evaluating("--gguf", "x.gguf"),
    ),
    "mirror": Case(
        nothing,
        "mirror /no/such/mirror: no such folder: make it, or name another "
        "(--mirror, `mirror:` or HARNESS_MIRROR)",
        command=(*RUN, "--mirror", "/no/such/mirror"),
    ),
    "data that the mirror lacks": Case(
        both(file("mirror/some/data/train.jsonl", '{"text": "a"}\n'), data(train="some/dta")),
        "experiment.yaml:4: no 'some/dta' in the mirror {here}/mirror: did you "
        "mean 'some/data'? (known: ...)",
        both(
            rows(
                *[f'{{"text": "a {i}"}}' for i in range(24)],
                name="mirror/some/data/train.jsonl",
            ),
            data(train="some/data"),
        ),
        (*RUN, "--mirror", "mirror"),
    ),
}
VARIABLES = {
    "threads that are a word": Case(
        nothing,
        "the environment variable OMP_NUM_THREADS holds 'abc': expected a whole "
        "number from 1: export OMP_NUM_THREADS=4, or unset OMP_NUM_THREADS",
        nothing,
        variables={"OMP_NUM_THREADS": "abc"},
    ),
    "no threads": Case(
        nothing,
        "the environment variable OMP_NUM_THREADS holds '0': expected a whole "
        "number from 1: export OMP_NUM_THREADS=4, or unset OMP_NUM_THREADS",
        nothing,
        variables={"OMP_NUM_THREADS": "0"},
    ),
    "GPU by its make": Case(
        nothing,
        "the environment variable CUDA_VISIBLE_DEVICES holds 'H100': expected "
        "numbers or UUIDs of GPUs, with commas: export CUDA_VISIBLE_DEVICES=0, "
        "or unset CUDA_VISIBLE_DEVICES",
        nothing,
        variables={"CUDA_VISIBLE_DEVICES": "H100"},
    ),
    "cache that is a file": Case(
        nothing,
        "the environment variable HARNESS_CACHE holds 'experiment.yaml': "
        "experiment.yaml is no folder: export HARNESS_CACHE=DIR, or unset "
        "HARNESS_CACHE",
        nothing,
        variables={"HARNESS_CACHE": "experiment.yaml"},
    ),
    "misspelt variable": Case(
        nothing,
        "the environment variable HARNESS_CAHCE is not read: did you mean "
        "HARNESS_CACHE? unset HARNESS_CAHCE",
        nothing,
        variables={"HARNESS_CAHCE": "/tmp"},
    ),
    "address of the Hub": Case(
        nothing,
        "the environment variable HF_ENDPOINT holds 'huggingface.co': expected a "
        "URL: export HF_ENDPOINT=https://huggingface.co, or unset HF_ENDPOINT",
        nothing,
        variables={"HF_ENDPOINT": "huggingface.co"},
    ),
    "switch of the Hub": Case(
        nothing,
        "the environment variable HF_HUB_OFFLINE holds 'maybe': expected 1 or 0: "
        "export HF_HUB_OFFLINE=1, or unset HF_HUB_OFFLINE",
        nothing,
        variables={"HF_HUB_OFFLINE": "maybe"},
    ),
    "mirror by a variable": Case(
        nothing,
        "mirror /no/such/mirror: no such folder: make it, or name another "
        "(--mirror, `mirror:` or HARNESS_MIRROR)",
        nothing,
        variables={"HARNESS_MIRROR": "/no/such/mirror"},
    ),
}
HOOK = "from harness import hookimpl, Method\n@hookimpl\ndef register_methods(register):\n    "
PLUGINS = {
    "raises at import": Case(
        nothing,
        "plugin 'bad' (bad) cannot be imported: raised ZeroDivisionError: "
        "division by zero ({above}/site/bad.py:1); reinstall or uninstall its "
        "distribution",
        nothing,
        plugin="1 / 0",
    ),
    "ends at import": Case(
        nothing,
        "plugin 'bad' (bad) cannot be imported: called exit with 0 "
        "({above}/site/bad.py:2); reinstall or uninstall its distribution",
        nothing,
        plugin="import sys\nsys.exit(0)",
    ),
    "raises in a hook": Case(
        nothing,
        "plugin 'bad' raised ZeroDivisionError: division by zero "
        "({above}/site/bad.py:4); fix it or leave it out",
        nothing,
        plugin=HOOK + "1 / 0",
    ),
    "registers a class": Case(
        nothing,
        "plugin 'bad': the class Method is not a method: register an instance of harness.Method",
        nothing,
        plugin=HOOK + "register(Method)",
    ),
    "misspells a hook": Case(
        nothing,
        "plugin 'bad': unknown hook 'register_metods': did you mean "
        "'register_methods'? (known: ...)",
        nothing,
        plugin=HOOK.replace("methods", "metods") + "pass",
    ),
}
OPTIONS = {
    "--set with an unknown key": Case(
        nothing,
        "--set budget.stps=3: unknown key 'stps' in budget: did you mean 'steps'? (known: ...)",
        command=(*RUN, "--set", "budget.stps=3"),
    ),
    "--set without a value": Case(
        nothing,
        "--set budget.steps: expected KEY.KEY=VALUE, such as budget.steps=20",
        command=(*RUN, "--set", "budget.steps"),
    ),
    "--methods unknown": Case(
        nothing,
        "--methods: no 'lroa' in experiment.yaml: did you mean 'lora'? (known: ...)",
        command=(*RUN, "--methods", "lroa"),
    ),
    "--executor unknown": Case(
        nothing, "unknown executor 'cloud': (known: ...)", command=(*RUN, "--executor", "cloud")
    ),
    "--limit 0": Case(
        nothing,
        "Invalid value for '--limit': 0 is not in the range x>=1. (see harness run --help)",
        command=(*RUN, "--limit", "0"),
    ),
    "--out that is a file": Case(
        nothing,
        "--out train.jsonl: cannot write cells/ (Not a directory); name a folder to write to",
        command=("run", "experiment.yaml", "--out", "train.jsonl"),
    ),
    "unknown command": Case(
        nothing, "No such command 'rum'. Did you mean 'run'? (see harness --help)", command=("rum",)
    ),
    "nothing to run": Case(
        nothing, "Missing argument 'FILE'. (see harness run --help)", command=("run",)
    ),
}
TABLE = {
    f"{kind}: {name}": case
    for kind, cases in (
        ("experiment", EXPERIMENT),
        ("data", DATA),
        ("model", MODELS),
        ("suite", SUITES),
        ("policy", POLICIES),
        ("adapter", ADAPTERS),
        ("record", RECORDS),
        ("address", ADDRESSES),
        ("variable", VARIABLES),
        ("plugin", PLUGINS),
        ("option", OPTIONS),
    )
    for name, case in cases.items()
}


# ---- the tests


@pytest.fixture
def small(tmp_path, tiny_model):
    return write_experiment(tmp_path / "e", tiny_model, methods=["base", "lora"])


@contextmanager
def around(case, monkeypatch, folder):
    """The case's environment variables, and its plugin as an installer would put it there."""
    manager.plugins.cache_clear()
    with monkeypatch.context() as patch:
        for name, value in case.variables.items():
            patch.setenv(name, value)
        if case.plugin is not None:
            (folder / "source").mkdir()
            (folder / "source/bad.py").write_text(case.plugin)
            site = write_distribution(folder / "site", folder / "source/bad.py", "bad")
            patch.syspath_prepend(site)
        yield
    sys.modules.pop("bad", None)
    manager.plugins.cache_clear()


def ran(small, command, model):
    return fuzz.harness([str(word).replace(MODEL, str(model)) for word in command], small.folder)


def entries(folder):
    return sorted(folder.rglob("*"))


def told(outcome, small, model):
    """What a command says, without places of this test, and without lists that grow."""
    text = (
        outcome.stderr.replace(str(small.folder), "{here}")
        .replace(str(small.folder.parent), "{above}")
        .replace(str(model), MODEL)
    )
    return re.sub(r"\(known: [^)]*\)", "(known: ...)", text)


@pytest.mark.parametrize("what", TABLE)
def test_a_wrong_input_is_one_line_and_its_advice_helps(
    what, small, tiny_model, tmp_path, monkeypatch
):
    case = TABLE[what]
    case.spoil(small)
    before = entries(small.folder)
    with around(case, monkeypatch, tmp_path):
        refused = ran(small, case.command, tiny_model)
    assert told(refused, small, tiny_model) == f"Error: {case.line}\n"
    assert (refused.code, refused.stdout) == (2, "")
    assert entries(small.folder) == before
    if case.mend is not None:
        case.mend(small)
        command = ["plan" if word == "run" else word for word in case.command]
        mended = ran(small, command, tiny_model)
        assert mended.kind in ("accepted", "verdict"), mended.stderr


def test_what_is_right_is_accepted(small, tiny_model):
    assert ran(small, ("plan", *RUN[1:]), tiny_model).code == 0


def test_the_table_is_long_and_most_of_its_advice_is_tried():
    assert len(TABLE) >= 60
    assert sum(case.mend is not None for case in TABLE.values()) >= 50
