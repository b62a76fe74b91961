"""A way of asking of one's own, in one file: installed, checked and run as those of the harness."""

import json

import pytest

from harness.errors import ConfigError, DataError, PluginFault
from harness.evaluation.suite import Where, load_suite
from harness.manager import Plugins
from harness.results import store
from harness.types import ModelRef
from tests.conftest import ROOT
from tests.sample_plugins.prefer import EXAMPLE, Prefer

PLUGIN = ROOT / "tests/sample_plugins/prefer.py"


def with_task(task):
    plugins = Plugins(discover=False)
    plugins.tasks.add(task.name, task, "own")
    return plugins


def written(folder, settings="", rows=None):
    """A suite `likes` in `folder`."""
    example = Prefer().example("likes")
    (folder / "likes.yaml").write_text(f"name: likes\nversion: 1\n{example.settings}{settings}")
    text = example.files["likes.jsonl"]
    (folder / "likes.jsonl").write_text(text if rows is None else rows)
    return folder / "likes.yaml"


def load(file, task=None):
    base = ModelRef("tiny", "tiny", content_hash="0" * 64)
    plugins = with_task(task or Prefer())
    return load_suite(file, {}, plugins=plugins, base_model=base, where=Where())


def test_it_is_short():
    assert len(PLUGIN.read_text().splitlines()) <= 75


def test_it_is_listed_written_checked_and_run(harness, install_by_hand, experiment):
    site = {"PYTHONPATH": str(install_by_hand("prefer"))}
    small = experiment(methods=["base"], suites=["likes"])
    assert ["task", "prefer", "prefer"] in [
        list(row.values()) for row in json.loads(harness("plugins", "--json", env=site).stdout)
    ]
    new = harness("suites", "new", "likes", "--ask", "prefer", "--dir", small.folder, env=site)
    assert new.code == 0, new.stderr
    checked = harness("suites", "check", small.folder / "likes.yaml", "--json", env=site)
    assert checked.code == 0, checked.stderr
    report = json.loads(checked.stdout)
    assert (report["ask"], report["metrics"], report["samples"]) == ("prefer", ["preferred"], 3)
    assert (report["prompt"]["text"], report["prompt"]["scored"]) == (EXAMPLE[0][1], " Leaves.")

    result = harness("run", small.file, "--out", small.out, env=site)

    assert result.code == 0, result.stderr
    (record,) = small.records().values()
    suite = record["evaluation"]["suites"]["likes"]
    rows = store.read_samples(small.out, record, "likes")
    assert [row["id"] for row in rows] == [key for key, *_ in EXAMPLE]
    for row, (_, _, chosen, rejected) in zip(rows, EXAMPLE, strict=True):
        right = row["logprobs"][0] > row["logprobs"][1]
        assert (row["output"], row["scores"]) == (
            chosen if right else rejected,
            {"preferred": float(right)},
        )
    metric = suite["metrics"]["preferred"]
    assert metric["value"] == sum(row["scores"]["preferred"] for row in rows) / 3


def test_its_own_keys_count_and_are_no_others(tmp_path):
    plain = load(written(tmp_path))
    assert load(written(tmp_path, "per_token: false\n")).hash == plain.hash
    assert load(written(tmp_path, "per_token: true\n")).hash != plain.hash
    with pytest.raises(ConfigError, match=r"likes\.yaml:5: per_token: expected true or false"):
        load(written(tmp_path, "per_token: 3\n"))
    with pytest.raises(ConfigError, match=r"likes\.yaml:5: unknown key 'per_tokn'.*'per_token'"):
        load(written(tmp_path, "per_tokn: true\n"))
    with pytest.raises(ConfigError, match=r"likes\.yaml:5: ask: prefer takes no `stride`, which"):
        load(written(tmp_path, "stride: 3\n"))
    file = written(tmp_path, "per_token: true\n")
    file.write_text(file.read_text().replace("ask: prefer", "ask: choice"))
    with pytest.raises(ConfigError, match=r"`per_token`, which is for prefer"):
        load(file)


def test_its_bad_rows_are_refused_with_their_line(tmp_path):
    rows = '{"prompt": "x", "chosen": "a", "rejected": "b"}\n{"prompt": "y", "chosen": "a"}\n'
    with pytest.raises(DataError, match=r"likes\.jsonl:2: a row needs texts"):
        load(written(tmp_path, rows=rows))


def test_what_it_raises_names_it(tmp_path):
    class Broken(Prefer):
        def check(self, settings, located):
            raise ValueError("no luck")

    with pytest.raises(PluginFault, match=r"task 'prefer' raised ValueError: no luck"):
        load(written(tmp_path), Broken())
