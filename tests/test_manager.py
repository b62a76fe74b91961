"""Plugins: found through entry points; a clash, a misspelling or a lack is one clear line."""

import pytest

from harness.errors import EnvironmentLack, UserError
from harness.manager import BUILT_IN, Plugins, Registry


def test_the_built_in_plugins_register_what_the_experiment_names():
    found = Plugins(discover=False)
    assert set(found.methods.things) == {
        *("base", "full", "lora", "qlora", "dora", "rslora", "pissa", "loftq", "ia3", "peft"),
        *("prompt", "prefix", "external"),
    }
    assert {"perplexity", "similarity", "judge", "forgetting"} <= set(found.suites.things)
    assert {"cosine", "rougeL", "exact_match"} <= set(found.scorers.things)
    assert set(found.executors.things) == {"local", "ray", "submitit"}
    assert set(found.judges.things) == {
        "expected_score",
        "rubric",
        "pairwise",
        "reference_gain",
    }
    assert set(found.datasets.things) == {"support"}
    assert found.methods.origin["lora"] == "harness.plugins.methods.lora"
    assert [name for name, m in found.methods.things.items() if not m.trains] == [
        "base",
        "external",
    ]
    assert found.method_that("untouched") == "base"
    assert found.method_that("opens") == "external"


def test_every_suite_and_data_set_that_is_registered_is_a_file():
    found = Plugins(discover=False)
    for path in [*found.suites.things.values(), *found.datasets.things.values()]:
        assert path.is_file()


def test_an_entry_point_of_the_group_is_loaded(install_by_hand, monkeypatch):
    monkeypatch.syspath_prepend(install_by_hand("trouble"))
    found = Plugins()
    assert found.methods.origin["trouble"] == "trouble"
    assert "how" in found.methods.get("trouble").help()


def test_two_plugins_of_one_name_are_an_error_that_names_both(install_by_hand, monkeypatch):
    monkeypatch.syspath_prepend(install_by_hand("twin"))
    with pytest.raises(UserError) as caught:
        Plugins()
    assert "two plugins register the method 'lora': harness.plugins.methods.lora and twin" in str(
        caught.value
    )


def test_a_misspelt_hook_is_an_error_with_the_nearest_name(install_by_hand, monkeypatch):
    monkeypatch.syspath_prepend(install_by_hand("misspelt"))
    with pytest.raises(
        UserError, match=r"plugin 'misspelt': unknown hook 'register_method': .*'register_methods'"
    ):
        Plugins()


def test_a_plugin_that_cannot_be_imported_is_an_error_that_names_it(install_by_hand, monkeypatch):
    monkeypatch.syspath_prepend(install_by_hand("lacking"))
    with pytest.raises(
        EnvironmentLack,
        match=r"plugin 'lacking' \(lacking\) .*No module named 'a_module_that_is_not_installed'",
    ):
        Plugins()


def test_a_broken_plugin_is_one_line_on_the_command_line(harness, install_by_hand, experiment):
    folder = install_by_hand("twin")
    ran = harness("plan", experiment().file, env={"PYTHONPATH": str(folder)})
    assert ran.code == 2
    assert ran.stdout == ""
    assert ran.error.startswith("Error: two plugins register the method 'lora'")


def test_a_plugin_adds_a_command(harness, install_by_hand):
    ran = harness("shout", env={"PYTHONPATH": str(install_by_hand("trouble"))})
    assert (ran.code, ran.stdout) == (0, "TROUBLE\n")


def test_a_built_in_that_is_named_twice_is_refused():
    with pytest.raises(
        UserError, match=r"two plugins are called 'harness\.plugins\.methods\.base'"
    ):
        Plugins((*BUILT_IN, BUILT_IN[0]), discover=False)


def test_an_unknown_name_gets_the_nearest():
    registry = Registry("method")
    registry.add("lora", object(), "one")
    with pytest.raises(UserError, match=r"unknown method 'lroa': did you mean 'lora'\?"):
        registry.get("lroa")
