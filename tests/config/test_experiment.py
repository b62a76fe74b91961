from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from harness.config import strict_yaml
from harness.config.experiment import Experiment, load_experiment
from harness.config.strict_yaml import StrictModel
from harness.errors import ConfigError

GOOD = """\
model: smollm2-135m
data: {train: support, validation: 0.1}
budget:
  steps: 60
  batch: 8
methods:
  - base
  - {name: full, lr: 5e-5}
  - name: lora
    r: 16
    label: lora-r16
suites:
  - perplexity
  - {name: judge, limit: 5}
"""


def write(tmp_path: Path, text: str, name: str = "exp.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def fails(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_experiment(write(tmp_path, text), overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path}/")


def load(tmp_path: Path, text: str, *overrides: str) -> Experiment:
    return load_experiment(write(tmp_path, text), overrides)


# YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("5e-5", 5e-5),
        ("1E3", 1000.0),
        ("5.0e-5", 5e-5),
        (".5", 0.5),
        ("-2.", -2.0),
        (".inf", float("inf")),
        ("1_000", 1000),
        ("0x10", 16),
        ("-3", -3),
        ("true", True),
        ("yes", "yes"),
        ("on", "on"),
        ("no", "no"),
        ("007", "007"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("'60'", "60"),
        ("~", None),
        ("!!str 1e-4", "1e-4"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    read = strict_yaml.parse(text, "x.yaml").data
    assert read == value
    assert type(read) is type(value)


def test_every_key_and_item_has_its_line(tmp_path: Path) -> None:
    located = strict_yaml.load(write(tmp_path, GOOD))
    assert located.line(("budget", "batch")) == 5
    assert located.line(("methods", 1, "lr")) == 8
    assert located.line(("methods", 2)) == 9
    assert located.line(("methods", 2, "r")) == 10
    assert located.line(("methods", 2, "alpha")) == 9
    assert located.line(("nowhere", "at", "all")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", ":3: duplicate key 'a': first on line 1"),
        ("a: 1\nb: [1, 2\nc: 3\n", ":3: broken YAML"),
        ("a: 1\n1.5: 2\n", ":2: the key 1.5 is not text: put it in quotes"),
        ("a: 1\nb: !!python/object:os.system x\n", ":2: the YAML tag"),
        ("a: &x\n  - *x\n", ":1: an alias is inside its own anchor"),
        ("a: 1\nb: !!int x\n", ":2: 'x' does not fit its tag"),
    ],
)
def test_broken_yaml_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"exp\.yaml") as caught:
        strict_yaml.load(write(tmp_path, text))
    assert message in str(caught.value)


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, GOOD, "experiment.yaml")
    with pytest.raises(ConfigError, match=r"did you mean 'experiment\.yaml'"):
        load_experiment(tmp_path / "experimnt.yaml")


def test_not_utf8_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "exp.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        strict_yaml.load(tmp_path / "exp.yaml")


def test_anchors_and_merges(tmp_path: Path) -> None:
    text = GOOD.replace(
        "- {name: full, lr: 5e-5}", "- &full {name: full, lr: 5e-5, wd: 0}"
    ).replace("  - name: lora\n    r: 16", "  - <<: *full\n    wd: 1")
    full, again = load(tmp_path, text).methods[1:]
    assert again.name == "full"
    assert again.options == {"lr": 5e-5, "wd": 1}
    assert full.options == {"lr": 5e-5, "wd": 0}


# Experiments


def test_a_whole_experiment(tmp_path: Path) -> None:
    experiment = load(tmp_path, GOOD)
    assert (experiment.name, experiment.seeds) == ("exp", (0,))
    assert experiment.folder == tmp_path
    assert [(m.name, m.label, m.options, m.line) for m in experiment.methods] == [
        ("base", "base", {}, 7),
        ("full", "full", {"lr": 5e-5}, 8),
        ("lora", "lora-r16", {"r": 16}, 9),
    ]
    assert [(s.name, s.overrides, s.line) for s in experiment.suites] == [
        ("perplexity", {}, 13),
        ("judge", {"limit": 5}, 14),
    ]
    assert experiment.budget.max_length == 512
    assert experiment.line("methods", 2, "r") == 10
    assert str(experiment.error("bad", "budget", "steps")).endswith("exp.yaml:4: bad")


def test_only_untrained_methods_need_no_data(tmp_path: Path) -> None:
    start, rest = GOOD.split("methods:\n")
    start = start.replace("data: {train: support, validation: 0.1}\n", "")
    suites = "suites:" + rest.split("suites:")[1]
    assert load(tmp_path, f"{start}methods: [base]\n{suites}").data is None
    message = fails(tmp_path, f"{start}methods: [base, lora]\n{suites}")
    assert "missing key 'data' in the experiment: 'lora' trains" in message


WRONG = [
    ("  steps: 60", "  stepss: 60", ":4: unknown key 'stepss' in budget: did you mean 'steps'?"),
    ("  steps: 60\n", "", ":3: missing key 'steps' in budget: add it, or epochs"),
    ("  steps: 60", "  steps: '60'", ":4: budget.steps: expected a whole number, got '60' (text)"),
    ("  steps: 60", "  steps: 60.5", ":4: budget.steps: expected a whole number, got 60.5"),
    ("  steps: 60", "  steps: true", ":4: budget.steps: expected a whole number, got true"),
    ("  steps: 60", "  steps:", ":4: budget.steps: expected a whole number, got nothing"),
    ("  steps: 60", "  steps: 0", ":4: budget.steps: must be at least 1, got 0"),
    ("  batch: 8", "  batch: 8\n  micro_batch: 3", ":6: budget.micro_batch: 3 does not divide"),
    (
        "  batch: 8",
        "  batch: 8\n  precision: fp8",
        "expected 'auto', 'float32', 'bf16' or 'fp16'",
    ),
    ("  batch: 8", "  batch: 8\n  epochs: 2", ":6: budget has steps and epochs, and each says"),
    ("  steps: 60", "  epochs: 0", ":4: budget.epochs: must be greater than 0"),
    ("model: smollm2-135m", "modl: x", ":1: unknown key 'modl' in the experiment: did you mean"),
    ("model: smollm2-135m", "model: 135", ":1: model: expected text, got 135: put it in quotes"),
    ("model:", "trust_remote_code: yes\nmodel:", "expected true or false, got 'yes' (text): write"),
    ("model:", "name: a/b\nmodel:", ":1: name: invalid name 'a/b'"),
    ("model:", "name: ..\nmodel:", ":1: name: invalid name '..'"),
    ("model:", "file: x\nmodel:", ":1: unknown key 'file'"),
    ("model:", "seeds: [0, 1, 0]\nmodel:", ":1: seeds: duplicate seed 0: remove it"),
    ("model:", "seeds: 1\nmodel:", ":1: seeds: expected a list, got 1"),
    ("model:", "seeds: []\nmodel:", ":1: seeds: needs at least 1 item"),
    ("validation: 0.1", "validation: 1.5", ":2: data.validation: expected a fraction between 0"),
    ("validation: 0.1", "validation: 0", ":2: data.validation: expected a fraction between 0"),
    ("validation: 0.1", "validation: [1]", "or text, got a list"),
    ("validation: 0.1", "validation: true", "or text, got true"),
    ("validation: 0.1", "columns: {promt: q}", "unknown column 'promt': did you mean 'prompt'"),
    ("validation: 0.1", "los: all", ":2: unknown key 'los' in data: did you mean 'loss'"),
    ("- base", "- 3", ":7: methods.0: expected a name or a mapping with a `name`, got 3"),
    ("- base", "- lora: {r: 2}", ":7: missing key 'name' in methods.0: write {name: lora, ...}"),
    ("- base", "- {name: lora, label: 3}", ":7: methods.0.label: expected text, got 3"),
    ("- base", "- {name: lora, label: 'a,b'}", ":7: methods.0.label: 'a,b' has a comma"),
    ("- base", "- full", ":8: duplicate method 'full' (lines 7 and 8): give one a `label`"),
    ("- base", "- lora-r16", ":9: duplicate label 'lora-r16' (lines 7 and 9)"),
    ("- {name: judge,", "- {name: perplexity,", ":14: duplicate suite 'perplexity' (lines"),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG)
def test_what_is_wrong_is_said_with_its_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert GOOD.count(old) >= 1
    said = fails(tmp_path, GOOD.replace(old, new, 1))
    assert said.startswith("exp.yaml:")
    assert message in said


def test_an_empty_file_and_a_list_are_said_plainly(tmp_path: Path) -> None:
    assert fails(tmp_path, "# nothing\n") == "exp.yaml:1: the experiment is empty"
    assert fails(tmp_path, "[1]") == "exp.yaml:1: the experiment: expected a mapping, got a list"


def test_a_file_name_that_is_no_name_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name: invalid name 'my exp'"):
        load_experiment(write(tmp_path, GOOD, "my exp.yaml"))


# --set


def test_overrides(tmp_path: Path) -> None:
    experiment = load(
        tmp_path,
        GOOD,
        "budget.steps=20",
        "methods.0.r=8",
        "methods.2.lr=1e-4",
        "seeds=[1, 2]",
        "suites.0.limit=3",
        "data.columns.prompt=question",
        "data.validation=",
    )
    assert experiment.budget.steps == 20
    assert experiment.methods[0].options == {"r": 8}
    assert experiment.methods[2].options == {"r": 16, "lr": 1e-4}
    assert experiment.methods[2].line == 9
    assert experiment.seeds == (1, 2)
    assert experiment.suites[0].overrides == {"limit": 3}
    assert experiment.data is not None
    assert experiment.data.columns == {"prompt": "question"}
    assert experiment.data.validation is None
    assert experiment.line("budget", "steps") is None
    assert experiment.line("budget", "batch") == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.stepss=3", "unknown key 'stepss' in budget: did you mean 'steps'"),
        ("budget.steps=many", "budget.steps: expected a whole number, got 'many' (text)"),
        ("methods.7.r=8", "methods is a list and has no item '7' (items: 0 to 2)"),
        ("methods.lora.r=8", "methods is a list and has no item 'lora' (items: 0 to 2)"),
        ("model.size=8", "model is 'smollm2-135m', which holds no 'size'"),
        ("budget.steps", "expected KEY.KEY=VALUE"),
        ("budget..steps=3", "expected KEY.KEY=VALUE"),
        ("seeds=[1", "broken YAML"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    said = fails(tmp_path, GOOD, override)
    assert said.startswith(f"--set {override}:")
    assert message in said


# Other models


class Inner(StrictModel):
    depth: int = Field(default=1, ge=1)


class Options(StrictModel):
    r: int = Field(default=16, ge=1)
    lr: float = 2e-4
    targets: tuple[str, ...] | str = "all"
    inner: Inner | str | None = None


def options(tmp_path: Path, **values: object) -> Options:
    located = strict_yaml.load(write(tmp_path, GOOD))
    return strict_yaml.validate_options(
        Options, values, located, ("methods", 2), "method 'lora'", also=("label",)
    )


def test_options_take_lists_for_tuples_and_whole_numbers_for_floats(tmp_path: Path) -> None:
    checked = options(tmp_path, lr=1, targets=["q", "v"])
    assert (checked.lr, checked.targets) == (1.0, ("q", "v"))
    assert isinstance(checked.lr, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rr": 8}, "exp.yaml:9: unknown key 'rr' in method 'lora': did you mean 'r'?"),
        ({"labl": 8}, "did you mean 'label'?"),
        ({"r": "8"}, "exp.yaml:10: r of method 'lora': expected a whole number, got '8' (text)"),
        ({"r": 0}, "r of method 'lora': must be at least 1, got 0"),
        ({"lr": True}, "lr of method 'lora': expected a number, got true"),
        ({"lr": float("nan")}, "lr of method 'lora': expected a finite number, got NaN"),
        ({"targets": 3}, "targets of method 'lora': expected a list or text, got 3"),
        ({"targets": ["q", 3]}, "targets.1 of method 'lora': expected text, got 3"),
        ({"inner": {"dept": 3}}, "unknown key 'dept' in inner of method 'lora': did you mean 'd"),
        ({"inner": {"depth": 0}}, "inner.depth of method 'lora': must be at least 1, got 0"),
        ({"inner": 4}, "inner of method 'lora': expected a mapping or text, got 4"),
    ],
)
def test_wrong_options_name_the_method_and_the_line(
    tmp_path: Path, values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        options(tmp_path, **values)
    assert message in str(caught.value)


def test_options_without_a_file() -> None:
    with pytest.raises(ConfigError, match=r"^method 'x': unknown key 'rr'"):
        strict_yaml.validate_options(Options, {"rr": 1}, what="method 'x'")


# ---- limits of a file


BOMBS = {
    "aliases": "\n".join(
        ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
        + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    ),
    "merges": "\n".join(
        ["a0: &a0 {k: v}"] + [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 40)]
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_aliases_that_stand_for_billions_are_refused(tmp_path, bomb):
    file = tmp_path / "experiment.yaml"
    file.write_text(BOMBS[bomb])
    with pytest.raises(ConfigError, match=r"experiment\.yaml:\d+: with its aliases written out"):
        load_experiment(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: " + "[" * 2000, "experiment.yaml:1: broken YAML: .*more than 100 deep"),
        ("a: " + "{b: " * 2000, "experiment.yaml:1: broken YAML: .*more than 100 deep"),
        (
            "".join(f"{' ' * i}a:\n" for i in range(300)),
            "experiment.yaml:100: broken YAML: .*more than 100 deep",
        ),
        ("name: x\nseeds: [" + "1" * 5000 + "]", r"experiment.yaml:2: '1{57}\.\.\.' does not fit"),
        ('name: x\nmodel: "a\\0b"', r"experiment.yaml:2: a text holds the character U\+0000"),
        ('name: x\nmodel: "\\ud83d"', r"experiment.yaml:2: a text holds the character U\+D83D"),
        ("name: x\nmodel: \x1b[2J", r"experiment.yaml:2: broken YAML: the character U\+001B"),
        ("#" * (2**20 + 1), r"experiment.yaml: \d+ bytes: a YAML file of at most 1048576 is read"),
    ],
)
def test_what_no_experiment_holds(tmp_path, text, message):
    file = tmp_path / "experiment.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_experiment(file)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("budget.steps", 10**30, "budget.steps: must be at most 100000000"),
        ("budget.batch", 10**30, "budget.batch: must be at most 1000000"),
        ("budget.steps", 60_000_000, "60000000 steps of 2 rows are more than 100,000,000 draws"),
        ("seeds", [2**32], "must be at most 4294967295, got 4294967296"),
    ],
)
def test_numbers_beyond_what_can_be_drawn(experiment, key, value, message):
    small = experiment()
    with pytest.raises(ConfigError, match=message):
        load_experiment(small.file, [f"{key}={value}"])
