"""Experiments as data: what changes a cell's id, and what does not."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.config import strict_yaml
from harness.config.experiment import Experiment, check_experiment, load_experiment
from harness.manager import Plugins
from harness.planning.plan import Settings, make_plan
from tests.conftest import write_experiment

TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=0xFFFD, exclude_categories=["C", "Z"]))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT | st.floats(-1e300, 1e300),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)

BUDGETS = st.fixed_dictionaries(
    {"steps": st.integers(1, 50), "batch": st.sampled_from([1, 2, 4])},
    optional={
        "max_length": st.integers(16, 200),
        "on_oom": st.sampled_from(["checkpoint", "halve", "stop"]),
        "group_by_length": st.booleans(),
    },
)
LORA = st.fixed_dictionaries(
    {"name": st.just("lora"), "r": st.integers(1, 8)},
    optional={"lr": st.floats(1e-5, 1e-2), "alpha": st.integers(1, 64)},
)
EXPERIMENTS = st.fixed_dictionaries(
    {
        "budget": BUDGETS,
        "methods": LORA.map(lambda lora: ["base", lora]),
        "suites": st.permutations(["picks", "answers"]),
    },
    optional={"seeds": st.lists(st.integers(0, 9), min_size=1, max_size=2, unique=True)},
)
CHANGES: dict[str, Any] = {
    "budget.steps": 51,
    "budget.batch": 8,
    "budget.max_length": 201,
    "budget.group_by_length": None,
    "methods.1.r": 9,
    "methods.1.lr": 0.02,
    "methods.1.alpha": 65,
    "methods.1.label": "another",
    "seeds": [10],
    "suites": ["picks"],
    "data.loss": "all",
    "data.validation": 5,
}
"""What another result follows from, and values that no experiment here has."""
NOTHING: dict[str, Any] = {
    "budget.on_oom": "halve",
    "budget.max_minutes": 30,
    "budget.checkpoint_minutes": 10,
    "price_per_hour": 2.5,
    "name": "another-name",
}


FEWER = settings(max_examples=settings.default.max_examples // 3)
"""For plans, which take their milliseconds."""


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Any]:
    """The keys that all experiments here have, beside files in a folder of their own."""
    folder = tmp_path_factory.mktemp("properties")
    small = write_experiment(folder, tiny_model)
    kept = {key: small.content[key] for key in ("name", "model", "data")}
    return {**kept, "file": small.file}


def written(whole: dict[str, Any], content: dict[str, Any]) -> Path:
    """The experiment as a file; JSON is YAML."""
    file: Path = whole["file"]
    own = {key: value for key, value in whole.items() if key != "file"}
    budget = {"precision": "float32", **content["budget"]}
    file.write_text(json.dumps({**own, **content, "budget": budget}, ensure_ascii=False))
    return file


def plain(experiment: Experiment) -> Any:
    """An experiment without the lines of its file."""
    content = experiment.model_dump()
    for entry in (*content["methods"], *content["suites"]):
        entry.pop("line")
    return content


def ids(file: Path, plugins: Plugins) -> list[str]:
    return [cell.id for cell in make_plan(load_experiment(file), plugins, Settings()).cells]


def changed(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The content with another value at a path such as `methods.1.lr`."""
    content = copy.deepcopy(content)
    *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    holder: Any = content
    for part in parts:
        holder = holder[part]
    holder[last] = value
    return content


def shuffled(value: Any, random: Any) -> Any:
    """The same, with keys in another order."""
    if isinstance(value, dict):
        items = list(value.items())
        random.shuffle(items)
        return {key: shuffled(item, random) for key, item in items}
    return [shuffled(item, random) for item in value] if isinstance(value, list) else value


@given(PLAIN)
def test_any_json_is_read_as_what_it_is(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    # YAML merges what stands under `<<`, and PyYAML reads no key of more than 1,024 characters
    assume("<<" not in text and len(text) <= 1024)
    assert strict_yaml.parse(text, "x.yaml").data == value


@given(EXPERIMENTS)
def test_what_is_loaded_can_be_written_and_loaded_again(
    whole: dict[str, Any], content: dict[str, Any]
) -> None:
    file = written(whole, content)
    first = load_experiment(file)
    again = strict_yaml.parse(json.dumps(first.located.data), file)
    assert plain(check_experiment(again)) == plain(first)


@FEWER
@given(EXPERIMENTS, st.randoms(use_true_random=False))
def test_the_order_of_keys_changes_no_id(
    whole: dict[str, Any], plugins: Plugins, content: dict[str, Any], random: Any
) -> None:
    before = ids(written(whole, content), plugins)
    keys = {**{key: value for key, value in whole.items() if key != "file"}, **content}
    assert ids(written({"file": whole["file"]}, shuffled(keys, random)), plugins) == before


@FEWER
@given(EXPERIMENTS, st.sampled_from(sorted(CHANGES)))
def test_a_changed_value_changes_the_trained_cells(
    whole: dict[str, Any], plugins: Plugins, content: dict[str, Any], path: str
) -> None:
    content = {"data": whole["data"], **content}
    value = CHANGES[path]
    if path == "budget.group_by_length":
        value = not content["budget"].get("group_by_length", True)
    before = set(ids(written(whole, content), plugins))
    after = set(ids(written(whole, changed(content, path, value)), plugins))
    assert not {cell for cell in before & after if not cell.startswith("base")}


@FEWER
@given(EXPERIMENTS, st.sampled_from(sorted(NOTHING)))
def test_what_changes_no_result_changes_no_id(
    whole: dict[str, Any], plugins: Plugins, content: dict[str, Any], path: str
) -> None:
    before = ids(written(whole, content), plugins)
    assert ids(written(whole, changed(content, path, NOTHING[path])), plugins) == before


@given(EXPERIMENTS, st.sampled_from(sorted({**CHANGES, **NOTHING})))
def test_set_is_the_edited_file(whole: dict[str, Any], content: dict[str, Any], path: str) -> None:
    value = {**CHANGES, **NOTHING}[path]
    value = False if value is None else value
    content = {"data": whole["data"], **content}
    override = f"{path}={json.dumps(value)}"
    set_so = load_experiment(written(whole, content), [override])
    edited = load_experiment(written(whole, changed(content, path, value)))
    assert plain(set_so) == plain(edited)
