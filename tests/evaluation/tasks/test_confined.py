"""What task files of a suite that may run no code can name, stand for and run."""

import os
from dataclasses import replace

import pytest

from harness.errors import UserError
from harness.evaluation.tasks.lm_eval import task_files
from tests.evaluation.tasks.test_lm_eval import (
    PLAIN_TASK,
    checked,
    load_trusted,
    own_tasks,
    planned,
)

OUTSIDE = {
    "data file above": "dataset_kwargs: {data_files: {test: ../choices.jsonl}}",
    "data file anywhere": "dataset_kwargs: {data_files: {test: [/etc/passwd]}}",
    "data file by a URL": "dataset_kwargs: {data_files: 'file:///etc/passwd'}",
    "data file through a link": "dataset_kwargs: {data_files: {test: link.jsonl}}",
    "folder of data": "dataset_kwargs: {data_dir: /etc}",
    "data set in a folder": "dataset_path: ../other",
    "database": "dataset_path: sql",
    "included file": "include: ../more.yaml",
    "file that an included one includes": "include: more.inc",
    "script as a metric": "metric_list: [{metric: acc, hf_evaluate: true}]",
}


@pytest.fixture(autouse=True)
def others_read_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests have lm-eval refuse is another test's to read."""
    from lm_eval.api import task
    from lm_eval.tasks import _factory, _yaml_loader

    for module, name in (
        (task, "get_metric"),
        (_yaml_loader, "_mk_function_ctor"),
        (_factory, "load_yaml"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))


@pytest.mark.parametrize("what", OUTSIDE)
def test_a_task_file_that_is_not_trusted_names_nothing_outside_its_folder(experiment, what):
    small = own_tasks(experiment)
    for name in ("more.yaml", "own/more.inc"):
        (small.folder / name).write_text("include: ../more.yaml\n")
    (small.folder / "own/link.jsonl").symlink_to(small.folder / "choices.jsonl")
    key = OUTSIDE[what].split(":")[0]
    file = small.folder / "own/plain.yaml"
    kept = [line for line in PLAIN_TASK.splitlines() if not line.startswith((key, " "))]
    file.write_text("\n".join([*kept, OUTSIDE[what], ""]))
    suite = planned(small).base.suites[0]
    with pytest.raises(UserError, match=r"own/(plain.yaml|more.inc):\d+: .*trust_task_code: true`"):
        task_files.check(suite)
    task_files.check(replace(suite, trusted=True))


@pytest.mark.parametrize("metric", ["./evil", "evil", "accuracy"])
def test_a_metric_of_another_library_is_no_script_that_runs(
    experiment, tmp_path, monkeypatch, metric
):
    small = own_tasks(experiment, PLAIN_TASK.replace("metric: acc", f"metric: {metric}"))
    mark = tmp_path / "ran"
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/evil.py").write_text(f"import os\n\nos.mkdir({str(mark)!r})\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"the metric '{metric}' is none of lm-eval's"):
        load_trusted(small)
    assert not mark.exists()


def test_code_that_a_model_writes_runs_only_where_the_suite_says_so(experiment, monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    small = own_tasks(experiment, f"{PLAIN_TASK}unsafe_code: true\n")
    with pytest.raises(UserError, match="'plain_choice' runs code that the model writes") as error:
        checked(small)
    assert "`run_unsafe_code: true` in the suite" in str(error.value)
    assert "HF_ALLOW_CODE_EVAL" not in os.environ
    name = {"name": "tasks", "tasks": ["plain_choice"], "include_path": "own"}
    small.write(suites=[{**name, "trust_task_code": False, "run_unsafe_code": True}])
    assert checked(small).UNSAFE_CODE
    assert os.environ["HF_ALLOW_CODE_EVAL"] == "1"


def chain(first, part):
    """Eight anchors, each of nine aliases to the one before it."""
    lines = [f"a: &a {first}"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        aliases = ", ".join([f"*{before}"] * 9)
        lines.append(f"{name}: &{name} {part % aliases}")
    return "\n".join(lines)


BOMBS = {
    "merges": chain("{b: 1}", "{<<: [%s]}"),
    "aliases": chain("[1]", "[%s]"),
    "depth": "a: " + "[" * 3000 + "]" * 3000,
    "size": f"a: {'x' * 2**20}",
    "loop": "a: &a [*a]\n",
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_task_file_that_no_reader_is_done_with_is_refused(experiment, what):
    small = own_tasks(experiment)
    suite = planned(small).base.suites[0]
    (small.folder / "own/bomb.yaml").write_text(BOMBS[what])
    with pytest.raises(UserError, match=r"own/bomb.yaml"):
        task_files.check(suite)
